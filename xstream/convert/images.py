"""Memory images: the bytes of a guest's pages, in order."""
from xstream.guest.memory_view import MemoryView
from xstream.stream.sink import Sink
from xstream.wire.libxc import PAGE_SIZE


def write_pages(sink: Sink, view: MemoryView, first: int, count: int) -> None:
    """Write the contents of neighbouring PFNs; a batch without any becomes a hole where possible. Raises OSError."""
    for pages, pieces in view.buffers(first, count):
        if pieces is None:
            sink.write_zeros(pages * PAGE_SIZE)
        else:
            sink.write(pieces)

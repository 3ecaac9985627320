"""Where bytes go: a descriptor, or an object with write()."""
from typing import Any, Sequence

from xstream.kernels import pages as page_kernel
from xstream.wire.frames import Buffer


class Sink:
    """Takes bytes in order. ``offset`` is how many it has taken."""

    offset = 0

    def write(self, pieces: Sequence[Buffer]) -> None:
        """Send the pieces, in order, all of them. They aren't kept. Raises OSError."""
        raise NotImplementedError

    def take(self, data: Any) -> None:
        """Send PendingPages of another stream, in pieces or without their coming into memory."""
        for piece in data.pieces():
            self.write([piece])

    def write_pages(self, head: Sequence[Buffer], memory: Buffer, pfns: Buffer) -> None:
        """Send ``head``, then the pages of ``pfns`` (uint64) of ``memory`` (bytes, PFN 0 first), uncopied."""
        raise NotImplementedError


class DescriptorSink(Sink):
    """A descriptor: everything goes by writev, partial writes and interruptions are seen to. It stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, pieces: Sequence[Buffer]) -> None:
        self.offset += page_kernel.writev(self._fd, pieces)

    def take(self, data: Any) -> None:
        self.offset += data.move_to(self._fd)

    def write_pages(self, head: Sequence[Buffer], memory: Buffer, pfns: Buffer) -> None:
        self.offset += page_kernel.write_pages(self._fd, b"".join(head), memory, pfns)


class ObjectSink(Sink):
    """An object with ``write(bytes-like)``."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, pieces: Sequence[Buffer]) -> None:
        for piece in pieces:
            view = memoryview(piece).cast("B")
            while len(view):
                # A raw file says how many bytes it took; a buffered one takes all of them.
                taken = self._file.write(view)
                taken = len(view) if taken is None else taken
                self.offset += taken
                view = view[taken:]

    def write_pages(self, head: Sequence[Buffer], memory: Buffer, pfns: Buffer) -> None:
        self.write(head)
        pages = bytearray(len(pfns) * page_kernel.PAGE_SIZE)
        page_kernel.gather(memory, pfns, pages)
        self.write([pages])


def open_sink(sink: Any) -> Sink:
    """The sink for a descriptor (int), a socket, an object with ``write``, or a Sink itself. Paths aren't taken: see
    :func:`xstream.tools.output.replacing`. Raises TypeError."""
    if isinstance(sink, Sink):
        return sink
    if isinstance(sink, int):
        return DescriptorSink(sink)
    if hasattr(sink, "sendmsg") and hasattr(sink, "fileno"):
        return DescriptorSink(sink.fileno())
    if hasattr(sink, "write"):
        return ObjectSink(sink)
    raise TypeError("not a descriptor, socket or object with write(): {!r}".format(type(sink).__name__))

"""The final guest memory as a raw file."""
from typing import Any, Callable, Iterator, NamedTuple, Tuple

from xstream.containers.opening import open_stream
from xstream.guest.load import Loader
from xstream.guest.memory import GuestMemory
from xstream.kernels import pfns as pfn_kernel
from xstream.limits import Limits
from xstream.stream.output import is_stream, output, replacing
from xstream.stream.sink import DescriptorSink
from xstream.wire.libxc import PAGE_SIZE

_ZEROS = memoryview(bytes(1 << 20))
_CHUNK = 1 << 16


class ExtractReport(NamedTuple):
    """What was extracted: the image's size in bytes, and how many of its pages are populated."""

    bytes: int
    populated: int


def runs(memory: GuestMemory) -> Iterator[Tuple[int, int]]:
    """(first PFN, pages) of each run of populated neighbours, ascending; a long run may come in parts."""
    start = 0
    begins, lengths = (memoryview(bytearray(8 * _CHUNK)).cast("Q") for _ in range(2))
    while True:
        pfns = memory.populated_pfns(start, _CHUNK)
        if not len(pfns):
            return
        for i in range(pfn_kernel.runs(pfns, begins, lengths)):
            yield pfns[begins[i]], lengths[i]
        start = pfns[-1] + 1


def image_pieces(memory: GuestMemory) -> Iterator[memoryview]:
    """The memory's bytes from PFN 0 on, in order, holes as zeros; views."""
    buffer = memory.buffer
    done = 0
    for first, count in runs(memory):
        yield from zeros((first - done) * PAGE_SIZE)
        done = first + count
        yield buffer[first * PAGE_SIZE:done * PAGE_SIZE]
    yield from zeros((len(memory) - done) * PAGE_SIZE)


def zeros(size: int) -> Iterator[memoryview]:
    """``size`` zero bytes, in pieces."""
    for start in range(0, size, len(_ZEROS)):
        yield _ZEROS[:size - start]


def extract(source: Any, path: str, *, limits: Limits = Limits(),
            progress: Callable[[int], Any] = lambda offset: None, jobs: int = 1, **options: Any) -> ExtractReport:
    """Write the memory that a stream ends in to the file ``path``, PFN 0 first, holes sparse, mode 0600.

    The file appears when it is complete, not before. Where ``path`` is "-" (stdout), a pipe or a device, the bytes are
    written to it in order, holes as zeros, once all of the stream has been read. ``limits.guest_pfns`` bounds the
    size. ``source`` and ``options`` are those of xstream.open. ``jobs``: threads that copy pages. Raises
    StreamError or a subclass, and OSError.
    """
    with open_stream(source, limits=limits, **options) as reader:
        if is_stream(path):
            memory = GuestMemory(limit=limits.guest_pfns)
            Loader(reader, memory, jobs=jobs).run(progress)
            _write_in_order(memory, path)
        else:
            with replacing(path) as fd:
                memory = GuestMemory(limit=limits.guest_pfns, file=fd)
                Loader(reader, memory, jobs=jobs).run(progress)
        return ExtractReport(len(memory) * PAGE_SIZE, memory.populated_count)


def _write_in_order(memory: GuestMemory, path: str) -> None:
    with output(path) as fd:
        sink = DescriptorSink(fd)
        for piece in image_pieces(memory):
            sink.write([piece])

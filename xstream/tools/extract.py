"""The final guest memory as a raw file."""
import os
from typing import Any, Callable, Iterator, NamedTuple, Optional, Tuple

from xstream.containers.opening import open_stream
from xstream.guest.load import Loader
from xstream.guest.memory import GuestMemory
from xstream.kernels import pfns as pfn_kernel
from xstream.limits import Limits
from xstream.stream.output import replacing, written_in_place
from xstream.stream.sink import SinkLike, check_not_same_file, opened_sink
from xstream.stream.source import SourceLike
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


def extract(source: SourceLike, sink: SinkLike, *, format: Optional[str] = None, limits: Limits = Limits(),
            strict: bool = False, checkpointed: bool = False, width: Optional[int] = None, guest: Optional[str] = None,
            progress: Callable[[int], Any] = lambda offset: None, jobs: int = 1) -> ExtractReport:
    """Write the guest memory that a stream ends with to ``sink``, PFN 0 first.

    ``sink`` is anything that :func:`~xstream.stream.sink.opened_sink` takes. A file at a path has mode 0600 and holes
    where no PFN is populated; it appears when it is complete. To anything else the bytes are written in order, holes as
    zeros, once the whole stream has been read into memory. ``limits.guest_pfns`` bounds the size. ``progress`` is
    called with the offset reached, once per batch; ``jobs`` is the number of threads that copy pages. The other
    arguments are those of :func:`xstream.open`.

    Raises StreamError or a subclass; shutil.SameFileError if source and sink are the same file; other OSErrors.
    """
    check_not_same_file(source, sink)
    with open_stream(source, format=format, limits=limits, strict=strict, checkpointed=checkpointed, width=width,
                     guest=guest) as reader:
        path = os.fspath(sink) if isinstance(sink, (str, os.PathLike)) else None
        if path is not None and not written_in_place(path):
            with replacing(path) as fd:
                memory = GuestMemory(limit=limits.guest_pfns, file=fd)
                Loader(reader, memory, jobs=jobs).run(progress)
        else:
            memory = GuestMemory(limit=limits.guest_pfns)
            Loader(reader, memory, jobs=jobs).run(progress)
            _write_in_order(memory, sink)
        return ExtractReport(len(memory) * PAGE_SIZE, memory.populated_count)


def _write_in_order(memory: GuestMemory, sink: SinkLike) -> None:
    with opened_sink(sink) as opened:
        for piece in image_pieces(memory):
            opened.write([piece])

"""The guest memory that a stream ends with, as a raw image; or what can be saved of it from a damaged stream."""
import os
from typing import Callable, Iterator, List, NamedTuple, Optional, Tuple

from xstream.containers.opening import AnyReader, reading
from xstream.errors import LimitExceeded, StreamError
from xstream.guest.load import Loader, SalvageLoader
from xstream.guest.memory import GuestMemory
from xstream.kernels import pfns as pfn_kernel
from xstream.limits import Limits
from xstream.stream.output import replacing, written_in_place
from xstream.stream.sink import check_not_same_file, opened_sink
from xstream.wire.libxc import PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.stream.types import SinkLike, StreamLike

_ZEROS = memoryview(bytes(1 << 20))
_CHUNK = 1 << 16
#: Ranges of missing PFNs that a report lists.
_MOST_RANGES = 10000
#: From a PFN's state byte to whether a record has mentioned it.
_MENTIONED = bytes([0] + [1] * 255)


class ExtractReport(NamedTuple):
    """What was extracted: the image's size in bytes, and how many of its pages are populated.

    After salvaging a stream that isn't good: the ``error`` that ended the reading, and what is ``missing``: (first PFN,
    pages) of each range that the stream hadn't mentioned until then, ascending. The ranges reach up to the end of the
    guest's memory if the stream says where that is (PV guests, legacy streams), else to the highest PFN seen;
    ``missing_pages`` is their sum, of all of them even if there are more than 10000 and the rest are left out.

    ``unread``: what follows the memory and could not be read, in words, or None.
    """

    bytes: int
    populated: int
    error: Optional[StreamError] = None
    missing: Tuple[Tuple[int, int], ...] = ()
    missing_pages: int = 0
    unread: Optional[str] = None


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


def extract(source: "StreamLike", sink: "SinkLike", *, salvage: bool = False, format: Optional[str] = None,
            limits: Limits = Limits(), strict: bool = False, checkpointed: bool = False, width: Optional[int] = None,
            guest: Optional[str] = None, progress: Callable[[int], object] = lambda offset: None,
            jobs: int = 1, sparse: bool = True) -> ExtractReport:
    """Write the guest memory that a stream ends with to ``sink``, PFN 0 first.

    ``sink`` is anything that :func:`~xstream.stream.sink.opened_sink` takes. A file at a path has mode 0600, and with
    ``sparse`` holes where no PFN is populated and where pages are zeros; it appears when it is complete. To anything
    else the bytes are written in order once the whole stream has been read into memory. ``limits.guest_pfns`` bounds
    the size. ``progress`` is called with the offset reached, once per batch; ``jobs`` is the number of threads that
    decompress and copy pages. The other arguments are those of :func:`xstream.open`.

    With ``salvage``, an error in the stream ends the reading and is in the report: the pages of every record before it
    are written, of a stream with checkpoints those up to its last complete one. If the input ends inside a batch, its
    pages before the end are written too; then its other pages count as not mentioned. Damaged page data of a compressed
    image (:mod:`xstream.stream.zstd`) doesn't end the reading.

    Raises StreamError or a subclass, with ``salvage`` only if there is no page to save or a limit is exceeded;
    shutil.SameFileError if source and sink are the same file; other OSErrors.
    """
    check_not_same_file(source, sink)
    with reading(source, format=format, limits=limits, strict=strict, checkpointed=checkpointed, width=width,
                 guest=guest, jobs=jobs) as reader:
        path = os.fspath(sink) if isinstance(sink, (str, os.PathLike)) else None
        if path is not None and not written_in_place(path):
            with replacing(path) as fd:
                memory = GuestMemory(limit=limits.guest_pfns, file=fd)
                error = _load(reader, memory, salvage, progress, jobs)
                if not sparse and len(memory):
                    os.posix_fallocate(fd, 0, len(memory) * PAGE_SIZE)
        else:
            memory = GuestMemory(limit=limits.guest_pfns)
            error = _load(reader, memory, salvage, progress, jobs)
            _write_in_order(memory, sink, sparse)
        if error is None:
            return ExtractReport(len(memory) * PAGE_SIZE, memory.populated_count, unread=reader.unread)
        missing, pages = _missing(memory, reader.pfn_end if reader.pfn_end < limits.guest_pfns else len(memory))
        return ExtractReport(len(memory) * PAGE_SIZE, memory.populated_count, error, missing, pages)


def _load(reader: AnyReader, memory: GuestMemory, salvage: bool, progress: Callable[[int], object],
          jobs: int) -> Optional[StreamError]:
    """Load the memory; returns an error if it may be incomplete: the one that ended that, or one in page data."""
    if not salvage:
        Loader(reader, memory, jobs=jobs).run(progress)
        return None
    loader = SalvageLoader(reader, memory, jobs=jobs)
    try:
        loader.run(progress)
    except LimitExceeded:
        raise
    except StreamError as error:
        if not memory.populated_count:
            raise
        return loader.damage or error
    return loader.damage


def _missing(memory: GuestMemory, pfn_end: int) -> Tuple[Tuple[Tuple[int, int], ...], int]:
    """The ranges under ``pfn_end`` that no record has mentioned, and how many pages that is in all."""
    found: List[Tuple[int, int]] = []
    pages, begin = 0, None
    state = memory.state
    for first in range(0, len(state), _CHUNK):
        chunk = bytes(state[first:first + _CHUNK]).translate(_MENTIONED)
        at = 0
        while at < len(chunk):
            if begin is None:
                at = chunk.find(0, at)
                if at < 0:
                    break
                begin = first + at
            at = chunk.find(1, at)
            if at < 0:
                break
            _add_range(found, begin, first + at)
            pages += first + at - begin
            begin = None
    begin = len(state) if begin is None else begin
    if begin < pfn_end:
        _add_range(found, begin, pfn_end)
        pages += pfn_end - begin
    return tuple(found), pages


def _add_range(found: List[Tuple[int, int]], begin: int, end: int) -> None:
    if len(found) < _MOST_RANGES:
        found.append((begin, end - begin))


def _write_in_order(memory: GuestMemory, sink: "SinkLike", sparse: bool) -> None:
    with opened_sink(sink, sparse=sparse) as opened:
        for piece in image_pieces(memory):
            opened.write([piece])

"""Checksums of the final guest memory, to compare a source with its destination."""
import hashlib
from functools import partial
from itertools import islice
from typing import Callable, Iterator, List, NamedTuple, Optional, Tuple, TypeVar

from xstream.containers.opening import AnyReader, reading
from xstream.guest.load import Loader
from xstream.guest.memory import GuestMemory
from xstream.kernels import checksum
from xstream.limits import Limits
from xstream.tools.extract import image_pieces, runs
from xstream.wire.libxc import PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.stream.types import StreamLike

T = TypeVar("T")

#: The most bytes of holes that are hashed as zeros for the SHA-256 of the image: without a limit, a hostile PFN could
#: keep us busy for hours.
_MOST_HOLES = 16 << 30
#: Pages in a piece of work for one thread, and the fewest that are worth handing to another thread.
_PIECE, _LEAST = 4096, 64


class DigestReport(NamedTuple):
    """``bytes`` is the image's size, PFN 0 to the highest.

    ``crc32c`` and ``sha256`` are those of the image with holes as zeros, that is of the file that extract writes
    (``sha256`` is None if there are more than 16 GiB of holes); ``pages_crc32c`` and ``pages_sha256`` those of the
    populated pages alone, by ascending PFN. ``unread``: what follows the memory and could not be read, in words, or
    None.
    """

    bytes: int
    populated: int
    crc32c: int
    sha256: Optional[str]
    pages_crc32c: int
    pages_sha256: str
    unread: Optional[str] = None


def digest(source: "StreamLike", *, format: Optional[str] = None, limits: Limits = Limits(), strict: bool = False,
           checkpointed: bool = False, width: Optional[int] = None, guest: Optional[str] = None,
           progress: Callable[[int], object] = lambda offset: None, jobs: int = 1) -> DigestReport:
    """Load a stream's final memory and compute its checksums.

    ``progress`` is called with the offset reached, once per batch; ``jobs`` is the number of threads that decompress
    and copy pages and compute CRCs (each SHA-256 takes one). The other arguments are those of :func:`xstream.open`.
    Raises StreamError or a subclass.
    """
    with reading(source, format=format, limits=limits, strict=strict, checkpointed=checkpointed, width=width,
                 guest=guest, jobs=jobs) as reader:
        memory = _load(reader, limits, progress, jobs)
        unread = reader.unread
    return digest_memory(memory, jobs)._replace(unread=unread)


def page_digests(source: "StreamLike", *, format: Optional[str] = None, limits: Limits = Limits(), strict: bool = False,
                 checkpointed: bool = False, width: Optional[int] = None, guest: Optional[str] = None,
                 progress: Callable[[int], object] = lambda offset: None, jobs: int = 1) -> Iterator[Tuple[int, int]]:
    """(PFN, CRC32C of its page) of each populated PFN, ascending. The arguments are those of :func:`digest`. Raises
    StreamError or a subclass before the first pair."""
    with reading(source, format=format, limits=limits, strict=strict, checkpointed=checkpointed, width=width,
                 guest=guest, jobs=jobs) as reader:
        memory = _load(reader, limits, progress, jobs)
    return (pair for first, sums in run_digests(memory, jobs) for pair in enumerate(sums, first))


def run_digests(memory: GuestMemory, jobs: int = 1) -> Iterator[Tuple[int, memoryview]]:
    """(first PFN, CRC32C of each page, uint32) of runs of populated PFNs, ascending, by ``jobs`` threads."""
    return ((first, sums) for first, _, sums in _each(memory, _page_checksums, jobs))


def digest_memory(memory: GuestMemory, jobs: int = 1) -> DigestReport:
    """The checksums of a guest memory, the CRCs by ``jobs`` threads."""
    image_crc = pages_crc = done = 0
    pages_sha = hashlib.sha256()
    for first, run, run_crc in _each(memory, checksum.crc32c, jobs):
        count = len(run) // PAGE_SIZE
        image_crc = checksum.crc32c_zeros(image_crc, (first - done) * PAGE_SIZE)
        image_crc = checksum.crc32c_combine(image_crc, run_crc, len(run))
        pages_crc = checksum.crc32c_combine(pages_crc, run_crc, len(run))
        pages_sha.update(run)
        done = first + count
    image_crc = checksum.crc32c_zeros(image_crc, (len(memory) - done) * PAGE_SIZE)
    populated = memory.populated_count
    return DigestReport(len(memory) * PAGE_SIZE, populated, image_crc, _image_sha256(memory, populated, pages_sha),
                        pages_crc, pages_sha.hexdigest())


def _image_sha256(memory: GuestMemory, populated: int, pages_sha: "hashlib._Hash") -> Optional[str]:
    if populated == len(memory):
        return str(pages_sha.hexdigest())
    if (len(memory) - populated) * PAGE_SIZE > _MOST_HOLES:
        return None
    image_sha = hashlib.sha256()
    for piece in image_pieces(memory):
        image_sha.update(piece)
    return image_sha.hexdigest()


def _load(reader: AnyReader, limits: Limits, progress: Callable[[int], object], jobs: int) -> GuestMemory:
    memory = GuestMemory(limit=limits.guest_pfns)
    Loader(reader, memory, jobs=jobs).run(progress)
    return memory


def _page_checksums(pages: memoryview) -> memoryview:
    sums = memoryview(bytearray(len(pages) // PAGE_SIZE * 4)).cast("I")
    checksum.crc32c_pages(pages, sums)
    return sums


def _each(memory: GuestMemory, work: Callable[[memoryview], T], jobs: int) -> Iterator[Tuple[int, memoryview, T]]:
    """(first PFN, pages, what ``work`` returned for them) of pieces of populated neighbours, ascending."""
    pieces = _pieces(memory)
    if jobs == 1:
        for first, pages in pieces:
            yield first, pages, work(pages)
        return
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(jobs) as pool:
        while True:
            some = list(islice(pieces, 4 * jobs))
            if not some:
                return
            begun: List[Callable[[], T]] = [pool.submit(work, pages).result if len(pages) >= _LEAST * PAGE_SIZE
                                              else partial(work, pages) for _, pages in some]
            for (first, pages), finish in zip(some, begun):
                yield first, pages, finish()


def _pieces(memory: GuestMemory) -> Iterator[Tuple[int, memoryview]]:
    buffer = memory.buffer
    for begin, count in runs(memory):
        for first in range(begin, begin + count, _PIECE):
            yield first, buffer[first * PAGE_SIZE:min(first + _PIECE, begin + count) * PAGE_SIZE]

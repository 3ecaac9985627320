"""Checksums of the final guest memory, to compare a source with its destination."""
import hashlib
from typing import Any, Callable, Iterator, NamedTuple, Optional, Tuple

from xstream.guest.load import Loader
from xstream.guest.memory import GuestMemory
from xstream.kernels import checksum
from xstream.limits import Limits
from xstream.stream.opening import open_stream
from xstream.tools.extract import image_pieces, runs
from xstream.wire.libxc import PAGE_SIZE

#: Holes hashed as zeros for the SHA-256 of the image: beyond this a hostile PFN would keep us busy for hours.
_MOST_HOLES = 16 << 30


class DigestReport(NamedTuple):
    """``bytes`` is the image's size, PFN 0 to the highest.

    ``crc32c`` and ``sha256`` are of the image with holes as zeros, that is of the file that extract writes
    (``sha256`` is None where the holes are more than 16 GiB); ``pages_crc32c`` and ``pages_sha256`` of the populated
    pages alone, by ascending PFN.
    """

    bytes: int
    populated: int
    crc32c: int
    sha256: Optional[str]
    pages_crc32c: int
    pages_sha256: str


def digest(source: Any, *, limits: Limits = Limits(), progress: Callable[[int], Any] = lambda offset: None,
           **options: Any) -> DigestReport:
    """Load a stream's final memory and checksum it; ``source`` and ``options`` are those of xstream.open.

    Raises StreamError's kin.
    """
    return digest_memory(_load(source, limits, progress, options))


def page_digests(source: Any, *, limits: Limits = Limits(), progress: Callable[[int], Any] = lambda offset: None,
                 **options: Any) -> Iterator[Tuple[int, int]]:
    """(PFN, CRC32C of its page) of each populated PFN, ascending. Raises StreamError's kin, before the first pair."""
    return _page_checksums(_load(source, limits, progress, options))


def digest_memory(memory: GuestMemory) -> DigestReport:
    """The checksums of a guest memory."""
    buffer = memory.buffer
    image_crc = pages_crc = done = 0
    pages_sha = hashlib.sha256()
    for first, count in runs(memory):
        run = buffer[first * PAGE_SIZE:(first + count) * PAGE_SIZE]
        run_crc = checksum.crc32c(run)
        image_crc = checksum.crc32c_zeros(image_crc, (first - done) * PAGE_SIZE)
        image_crc = checksum.crc32c_combine(image_crc, run_crc, len(run))
        pages_crc = checksum.crc32c_combine(pages_crc, run_crc, len(run))
        pages_sha.update(run)
        done = first + count
    image_crc = checksum.crc32c_zeros(image_crc, (len(memory) - done) * PAGE_SIZE)
    populated = memory.populated_count
    return DigestReport(len(memory) * PAGE_SIZE, populated, image_crc, _image_sha256(memory, populated, pages_sha),
                        pages_crc, pages_sha.hexdigest())


def _image_sha256(memory: GuestMemory, populated: int, pages_sha: Any) -> Optional[str]:
    if populated == len(memory):
        return str(pages_sha.hexdigest())
    if (len(memory) - populated) * PAGE_SIZE > _MOST_HOLES:
        return None
    image_sha = hashlib.sha256()
    for piece in image_pieces(memory):
        image_sha.update(piece)
    return image_sha.hexdigest()


def _load(source: Any, limits: Limits, progress: Callable[[int], Any], options: Any) -> GuestMemory:
    memory = GuestMemory(limit=limits.guest_pfns)
    with open_stream(source, limits=limits, **options) as reader:
        Loader(reader, memory).run(progress)
    return memory


def _page_checksums(memory: GuestMemory) -> Iterator[Tuple[int, int]]:
    buffer = memory.buffer
    for first, count in runs(memory):
        sums = memoryview(bytearray(4 * count)).cast("I")
        checksum.crc32c_pages(buffer[first * PAGE_SIZE:(first + count) * PAGE_SIZE], sums)
        yield from enumerate(sums, first)

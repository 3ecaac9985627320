"""Equal pages within and between images: what a store would gain by deduplication.

In bounded memory, by sampling: pages are hashed to 64 bits (XXH64), and only the smallest distinct hashes are kept.
They are those of a random sample of the different pages, and of the same sample in every image. Up to the bounds
nothing is left out and the numbers are exact; beyond, they are estimates.
"""
import math
from typing import Dict, NamedTuple, Set

from xstream.kernels import hashes
from xstream.wire.libxc import PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.wire.frames import Buffer

#: Hashes kept of one image: all of them up to 128 MiB of different pages.
IMAGE_HASHES = 1 << 15
#: Hashes kept of all images: 1 GiB of different pages, in about 30 MB of memory.
ALL_HASHES = 1 << 18
_ALL = 1 << 64  # all hashes are lower


class PageSample(NamedTuple):
    """The page data of one image: the number of ``pages``, and the distinct ``hashes`` lower than ``end`` (uint64)."""

    pages: int
    end: int
    hashes: bytes


class Sampler:
    """Hashes pages, and keeps the smallest distinct hashes."""

    def __init__(self) -> None:
        self._pages = 0
        self._end = _ALL
        self._kept: Set[int] = set()
        self._hashes = memoryview(bytearray(8)).cast("Q")

    def add(self, data: "Buffer") -> None:
        """Add whole pages."""
        count = len(data) // PAGE_SIZE
        if not count:
            return
        if count > len(self._hashes):
            self._hashes = memoryview(bytearray(8 * count)).cast("Q")
        found = self._hashes[:count]
        hashes.xxh64_pages(data, found)
        self._pages += count
        self._kept.update(filter(self._end.__gt__, found))
        if len(self._kept) > 2 * IMAGE_HASHES:
            self._trim()

    def _trim(self) -> None:
        if len(self._kept) > IMAGE_HASHES:
            smallest = sorted(self._kept)[:IMAGE_HASHES + 1]
            self._end = smallest.pop()
            self._kept = set(smallest)

    def sample(self) -> PageSample:
        """What is known of the pages so far."""
        self._trim()
        kept = memoryview(bytearray(8 * len(self._kept))).cast("Q")
        for at, value in enumerate(sorted(self._kept)):
            kept[at] = value
        return PageSample(self._pages, self._end, bytes(kept))


class DuplicatesReport(NamedTuple):
    """The page data of a number of ``images``, in pages.

    - ``pages``: all of them; ``distinct``: different ones, which deduplication would leave;
    - ``within``: duplicates of a page of the same image; ``between``: duplicates of another image's page; together what
      deduplication would save;
    - ``sampled``: the part of all different pages that was compared. If it is 1, all numbers are exact.
    - ``standard_error``: of ``distinct`` if it is an estimate, in pages.
    """

    images: int
    pages: int
    distinct: int
    within: int
    between: int
    sampled: float
    standard_error: int


class Duplicates:
    """Adds up the samples of many images."""

    def __init__(self) -> None:
        self._images = self._pages = 0
        self._end = _ALL
        self._kept: Dict[int, int] = {}  # hash to the number of images that have it

    def add(self, sample: PageSample) -> None:
        """Add an image."""
        self._images += 1
        self._pages += sample.pages
        if sample.end < self._end:
            self._lower(sample.end)
        for value in memoryview(sample.hashes).cast("Q"):
            if value >= self._end:
                break
            self._kept[value] = self._kept.get(value, 0) + 1
        if len(self._kept) > ALL_HASHES:
            self._lower(sorted(self._kept)[ALL_HASHES])

    def _lower(self, end: int) -> None:
        self._end = end
        self._kept = {value: images for value, images in self._kept.items() if value < end}

    def report(self) -> DuplicatesReport:
        """The result so far."""
        sampled = self._end / _ALL
        distinct = round(len(self._kept) / sampled)
        of_images = round(sum(self._kept.values()) / sampled)
        return DuplicatesReport(self._images, self._pages, distinct, self._pages - of_images, of_images - distinct,
                                sampled, round(math.sqrt(len(self._kept) * (1 - sampled)) / sampled))

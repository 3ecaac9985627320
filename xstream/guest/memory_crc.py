"""The CRC32C of a guest's whole memory, read through its hooks: the same at both ends of a good migration."""
import itertools

from xstream.guest.hooks import Hooks
from xstream.kernels import checksum
from xstream.kernels import pages as page_kernel
from xstream.kernels.buffers import uint64_of
from xstream.wire.libxc import BATCH_PFNS, PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

#: Maps a page type to 1 if the page counts: type NOTAB. Page tables hold frame numbers, which differ between hosts.
_COUNTS = bytes(kind == 0 for kind in range(256))


def memory_crc(hooks: Hooks, pfn_end: int, types_of: "Callable[[int, int], bytes]",
               frames_of: "Callable[[memoryview], memoryview]") -> int:
    """The CRC32C of the memory image from PFN 0 up to ``pfn_end``, with zeros where there is no page, or a page table.

    ``types_of`` returns the page types, one byte each, from a PFN up to another; ``frames_of`` the frames of PFNs.
    """
    crc = 0
    for first in range(0, pfn_end, BATCH_PFNS):
        end = min(first + BATCH_PFNS, pfn_end)
        size = (end - first) * PAGE_SIZE
        counting = types_of(first, end).translate(_COUNTS)
        indices = uint64_of(itertools.compress(range(end - first), counting))
        if not len(indices):
            crc = checksum.crc32c_zeros(crc, size)
            continue
        data = hooks.read(frames_of(uint64_of(itertools.compress(range(first, end), counting))))
        if len(data) < size:
            image = bytearray(size)
            page_kernel.scatter(image, indices, data)
            data = image
        crc = checksum.crc32c(data, crc)
    return crc

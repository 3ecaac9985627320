"""Copying page data to its place in memory; out of a mapped file by reading that, where it is faster."""
from xstream.errors import TruncatedStream
from xstream.kernels import mapping as mapping_kernel
from xstream.kernels import pages as page_kernel
from xstream.stream.source import MappedFile
from xstream.wire.libxc import PAGE_SIZE
from xstream.wire.pending import CUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.wire.frames import Buffer

#: Pages in one piece of a file from which on it is faster to read them than to copy them out of the mapping. A read
#: costs as much as the page faults for some tens of pages: Linux maps 16 or more at a fault.
_READ_PAGES = 64


def copy_pages(memory: "Buffer", pfns: memoryview, data: memoryview) -> None:
    """Copy ``data``, bytes, to the places of ``pfns`` (uint64, one for each page) in ``memory`` (bytes, PFN 0 first).
    If a PFN comes twice, its last page stays.

    Raises OSError, and TruncatedStream for a mapped file that has become shorter; ValueError or IndexError for
    arguments that don't fit.
    """
    if _is_read(data, len(pfns), 1):
        _read(memory, pfns, data)
    else:
        page_kernel.scatter(memory, pfns, data)


def copy_extents(memory: "Buffer", pfns: memoryview, data: memoryview, extents: memoryview) -> None:
    """As ``copy_pages``, for the pages of ``extents`` in ``data``: pairs of offset and number of pages, uint64."""
    if not _is_read(data, len(pfns), len(extents) // 2):
        from xstream.kernels import batches as batch_kernel  # not needed where there are no runs
        batch_kernel.scatter(memory, pfns, data, extents)
        return
    first = 0
    for at in range(0, len(extents), 2):
        offset, pages = extents[at], extents[at + 1]
        _read(memory, pfns[first:first + pages], data[offset:offset + pages * PAGE_SIZE])
        first += pages


def _is_read(data: memoryview, pages: int, extents: int) -> bool:
    """Whether to read so many pages in so many pieces: of a mapped file, if the pieces are large."""
    return page_kernel.READS_FILES and isinstance(data.obj, MappedFile) and pages >= _READ_PAGES * extents


def _read(memory: "Buffer", pfns: memoryview, data: memoryview) -> None:
    file = data.obj
    assert isinstance(file, MappedFile)
    if len(data) != len(pfns) * PAGE_SIZE:
        raise ValueError("{} bytes of pages for {} PFNs".format(len(data), len(pfns)))
    offset = mapping_kernel.address(data) - mapping_kernel.address(file)
    missing = len(data) - page_kernel.read_file_pages(file.fd, offset, memory, pfns)
    if missing:
        raise TruncatedStream(CUT.format(missing), missing=missing)

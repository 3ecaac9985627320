"""Pages of guest memory: copy, compare, look for zeros, and move them between memory and descriptors.

``memory`` is a buffer of whole pages, PFN 0 first; ``pfns`` a uint64 buffer; ``pages`` bytes, 4096 for each PFN, in
their order. All must be contiguous. Neighbouring PFNs are taken as one piece. A PFN past the memory is an IndexError,
wrong kinds and sizes, and pages that lie within the memory, are a ValueError, TypeError or BufferError, always with
nothing moved.

Transfers survive partial reads and writes, EINTR (signal handlers run, and may raise), more pieces than IOV_MAX, and
wait where the descriptor doesn't block. They raise OSError.
"""
from typing import Any, Iterable, Tuple

PAGE_SIZE: int

def scatter(memory: Any, pfns: Any, pages: Any) -> None:
    """Copy ``pages`` to their places in ``memory``; a PFN that comes twice gets its last page."""

def gather(memory: Any, pfns: Any, pages: Any) -> None:
    """Copy the pages of ``pfns`` out of ``memory`` into ``pages``."""

def compare(memory: Any, pfns: Any, pages: Any, differing: Any) -> int:
    """Put the PFNs whose page isn't the memory's into ``differing`` (uint64, room for all of them); how many."""

def zero_pages(pages: Any, indices: Any) -> int:
    """Put the indices of pages that are all zero into ``indices`` (uint64, room for all); how many."""

def zero_pfns(memory: Any, pfns: Any, out: Any) -> int:
    """Put those of ``pfns`` whose page is all zero into ``out`` (uint64, room for all); how many."""

def writev(fd: int, buffers: Iterable[Any]) -> int:
    """Write all the buffers, in order; how many bytes."""

def readv(fd: int, buffers: Iterable[Any]) -> int:
    """Fill the buffers, in order; how many bytes: fewer than there is room for only at the end of the input."""

def write_pages(fd: int, head: Any, memory: Any, pfns: Any) -> int:
    """Write ``head``, then the pages of ``pfns`` out of ``memory``, uncopied; how many bytes."""

def read_pages(fd: int, memory: Any, pfns: Any, skip: int = 0) -> int:
    """Read the pages of ``pfns`` into their places, but for the first ``skip`` bytes of them, which are there already;
    how many bytes: fewer only at the end of the input."""

def pwrite_pages(fd: int, pfns: Any, pages: Any) -> None:
    """Write each page to the offset in a file at which a raw image has it: its PFN times 4096. ValueError
    for a PFN of 2^51 and more, with nothing written."""

def pread_pages(fd: int, pfns: Any, pages: Any) -> None:
    """Read each page from the offset in a file at which a raw image has it; zeros past the file's end."""

def implementation() -> str:
    """How zero pages are looked for: "generic" or "avx2". Chosen at import for the CPU."""

def implementations() -> Tuple[str, ...]:
    """Those that this machine can run."""

def use(name: str) -> None:
    """Choose another, for tests and measurements. ValueError for one that isn't at hand."""

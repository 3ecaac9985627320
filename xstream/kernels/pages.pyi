"""Copy and compare pages of guest memory, find zero pages, and move pages between memory and descriptors.

``memory`` is a buffer of whole pages, PFN 0 first; ``pfns`` a uint64 buffer of any alignment; ``pages`` bytes, 4096 for
each PFN, in their order. All must be contiguous. Consecutive PFNs are moved as one piece. A PFN past the memory raises
IndexError; a buffer of the wrong kind or size, and ``pages`` that overlap ``memory``, raise ValueError, TypeError or
BufferError; always with nothing moved. PFNs that change during a call (a mapped file) can't make it reach outside its
buffers; IndexError may then come after some pages have been moved.

Transfers handle partial reads and writes, EINTR (signal handlers run, and may raise) and more pieces than IOV_MAX, and
wait for descriptors in non-blocking mode. They raise OSError. All functions release the GIL while they work.
"""
from typing import Iterable, Optional, Tuple

from xstream.kernels.buffers import BufferLike

PAGE_SIZE: int
#: Whether to write the heads of batches into a pipe in calls of their own, so that guest pages begin where the pipe's
#: own pages do. On AMD EPYC (Zen 4), Linux copies into the pipe take up to half as long again if source and destination
#: are at different places in their pages. On an Intel Xeon with AMX they take a tenth longer if both are at the same
#: place. So this is False on Intel CPUs with FSRM ("fast short REP MOVSB", with which Linux then copies), and True
#: everywhere else.
HEADS_APART: bool
#: Whether to read the pages of a mapped file by ``read_file_pages`` rather than to copy them out of the mapping by
#: ``scatter``: page faults on the mapping and its removal can take longer than the copy. On AMD EPYC (Zen 5), 256 MiB
#: take 0.55 to 0.7 of the time if they are read, in shared memory and in files made by copying; in files that were
#: written directly 1.06 to 1.17 of it, probably because Linux caches those in large folios and maps many pages at a
#: fault. On Intel CPUs with FSRM Linux copies slowly: reading them from a pipe takes 84 ms on a Xeon, mapping and
#: copying them 48. So this is False on those, where it wasn't measured, and True everywhere else.
READS_FILES: bool

def scatter(memory: BufferLike, pfns: BufferLike, pages: BufferLike) -> None:
    """Copy ``pages`` to their places in ``memory``. If a PFN comes twice, its last page stays."""

def gather(memory: BufferLike, pfns: BufferLike, pages: BufferLike) -> None:
    """Copy the pages of ``pfns`` from ``memory`` to ``pages``."""

def compare(memory: BufferLike, pfns: BufferLike, pages: BufferLike, differing: BufferLike) -> int:
    """Write the PFNs whose page differs from the memory's to ``differing`` (uint64, room for all); returns how many."""

def zero_pages(pages: BufferLike, indices: BufferLike) -> int:
    """Write the indices of pages that are all zero to ``indices`` (uint64, room for all); returns how many."""

def zero_pfns(memory: BufferLike, pfns: BufferLike, out: BufferLike) -> int:
    """Write those of ``pfns`` whose page is all zero to ``out`` (uint64, room for all); returns how many."""

def writev(fd: int, buffers: Iterable[BufferLike], sparse: bool = False) -> int:
    """Write all buffers, in order; returns the number of bytes.

    ``sparse``: the descriptor is a regular file's, at its end: seek over zeros within one piece of memory, so that they
    become holes, where these are 32 KiB or more of blocks of 4096 bytes, aligned in the file. The file's size is right
    even if it ends in one.
    """

def readv(fd: int, buffers: Iterable[BufferLike]) -> int:
    """Fill the buffers, in order; returns the number of bytes: fewer than there is room for only at the end of
    input."""

def write_pages(fd: int, head: BufferLike, memory: BufferLike, pfns: BufferLike, apart: bool = False,
                sparse: bool = False) -> int:
    """Write ``head``, then the pages of ``pfns`` straight from ``memory``; returns the number of bytes.

    ``apart``: write the head in a separate call; see ``HEADS_APART``. Only pipes gain anything from it. ``sparse``: as
    in ``writev``.
    """

def write_batches(fd: int, record_type: int, words: BufferLike, ends: BufferLike, memory: BufferLike,
                  apart: bool = False, sparse: bool = False) -> int:
    """Write batches, each as one PAGE_DATA record of type ``record_type``, with pages straight from ``memory``; returns
    the number of bytes.

    ``words``: the PFN words of all batches; ``ends`` (uint64): after how many words each batch ends. ``apart`` and
    ``sparse`` as in ``write_pages``. All batches go into one call, if possible: after a batch has been copied, little
    of this process is left in the CPU's caches, and running Python code then takes five times as long.

    Raises IndexError for a PFN past the memory and for a batch too long for a record, ValueError for ends that aren't
    ascending or don't fit the words, both with nothing written.
    """

def read_pages(fd: int, memory: BufferLike, pfns: BufferLike, skip: int = 0,
               following: Optional[BufferLike] = None, holes: bool = False) -> int:
    """Read the pages of ``pfns`` into their places in ``memory``, without the first ``skip`` bytes of them, which are
    there already.

    Bytes after the pages go to the buffer ``following`` if they come in the same read. Returns the number of bytes
    read, those in ``following`` included: fewer than the pages' only at the end of input.

    ``holes``: ``fd`` is a regular file's; where it has holes, fill the pages with zeros without reading."""

def read_file_pages(fd: int, offset: int, memory: BufferLike, pfns: BufferLike) -> int:
    """Read pages that lie one after the other in a file, from ``offset`` on, into their places in ``memory``. If a PFN
    comes twice, its last page stays. Returns the number of bytes read: fewer than the pages' only where the file
    ends."""

def pwrite_pages(fd: int, pfns: BufferLike, pages: BufferLike, sparse: bool = False) -> None:
    """Write each page to a raw memory image: at offset PFN x 4096. Raises ValueError for a PFN of 2^51 or more.

    ``sparse``: leave out pages of zeros, where the file has holes already."""

def pread_pages(fd: int, pfns: BufferLike, pages: BufferLike) -> None:
    """Read each page from a raw memory image, at offset PFN x 4096; past the end of the file there are zeros."""

def implementation() -> str:
    """What the zero-page scan and ``gather`` use: "generic", "avx2", or "memcpy", which is avx2 with the C library's
    memcpy for ``gather``. Chosen on import by the CPU's features: "memcpy" on Intel CPUs with FSRM."""

def implementations() -> Tuple[str, ...]:
    """The implementations that this CPU can run."""

def use(name: str) -> None:
    """Choose another implementation, for tests and measurements. Raises ValueError for one that this CPU can't run."""

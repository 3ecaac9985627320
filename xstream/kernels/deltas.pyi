"""Page deltas of legacy checkpoints (Remus). The format: Xen's tools/libxc/xg_save_restore.h and xc_compression.c, up
to version 4.5."""
from typing import Optional, Tuple, final

from xstream.kernels.buffers import BufferLike

#: Status of ``decode``: all pages are done.
OK: int
#: The data ends within the form of a page: call again with its rest.
NEED_MORE: int
#: A marker within a page has no words.
ZERO_RUN: int
#: A marker copies or skips past the end of the page.
PAST_END: int
#: The receiver has no earlier copy of this page, and the page isn't sent whole.
NOT_HELD: int

#: Bytes of the longest form that a page can have: what a caller has to keep, at most, to join it to its rest.
LONGEST: int
#: Bytes of the longest form that ``encode`` writes: a marker and the page.
WHOLE: int

def decode(data: BufferLike, memory: BufferLike, pfns: BufferLike,
           held: Optional[BufferLike] = None) -> Tuple[int, int, int, int]:
    """Apply the compressed pages of a legacy checkpoint, in order, to the pages ``pfns`` of the receiver's memory.

    ``data``: bytes-like, begins with the form of a page. ``memory``: writable, whole pages, PFN 0 first. ``pfns``:
    uint64, one for each page; a PFN may come twice. ``held``: uint8, one for each page; where it is 0, the page must be
    sent whole.

    Returns (pages done, bytes of ``data`` that they took, status, offset in ``data`` of the bad marker, or -1). With
    OK, there may be bytes left over. A page is written only after its whole form has been checked: with any other
    status, the pages before it are done and it is unchanged.

    Raises IndexError, with nothing written, if a PFN lies outside the memory; TypeError or ValueError for a buffer of
    the wrong kind.
    """

def bound(pages: int) -> int:
    """Bytes of room that ``encode`` needs for a number of pages: ``WHOLE`` for each. Raises ValueError if negative."""

def encode(held: BufferLike, pages: BufferLike, out: BufferLike) -> int:
    """Write the forms of ``pages``, relative to the copies ``held``, to ``out``; returns the number of bytes.

    ``held``, ``pages``: k x 4096 bytes. ``held`` is what the receiver has; it is updated to what was written. An
    unchanged page takes one byte; a page whose delta would be no shorter than the page is written whole. Raises
    TypeError, or ValueError if ``out`` has fewer than ``bound(k)`` bytes or ``held`` has another length than ``pages``.
    """

@final
class Cache:
    """Copies of the pages sent last, so that pages sent again can be sent as deltas.

    ``pfn_end``: all PFNs are under it; at most 2^32; costs 4 bytes for each PFN. ``slots``: pages kept, 1 to 2^31; the
    default, 8192, is that of Xen's sender. The least recently sent page makes room for a new one. Raises ValueError or
    MemoryError. Not for two threads at a time: a second call raises RuntimeError.
    """

    def __new__(cls, pfn_end: int, slots: int = ...) -> Cache: ...
    def encode(self, pfns: BufferLike, types: BufferLike, pages: BufferLike, out: BufferLike) -> int:
        """Write the forms of ``pages`` (k x 4096 bytes) to ``out``, in order; returns the number of bytes.

        ``pfns``: uint64[k]. ``types``: uint8[k], page types 0 to 15: all but 0 (page tables) are written whole and not
        kept. A page that isn't in the cache is written whole and kept from then on. ``out`` must have ``bound(k)``
        bytes.

        Raises IndexError for a PFN of ``pfn_end`` or more, TypeError or ValueError, always with nothing changed.
        """

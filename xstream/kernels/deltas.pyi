from typing import Any, Tuple, final

#: Status of ``decode``: all pages are done.
OK: int
#: The data ends within the form of a page: call again with its rest.
NEED_MORE: int
#: A marker within a page has no words.
ZERO_RUN: int
#: A marker runs or skips past the end of the page.
PAST_END: int
#: A page that isn't held doesn't come whole.
NOT_HELD: int

#: Bytes of the longest form that a page can have: what a caller has to keep, at most, to join it to its rest.
LONGEST: int
#: Bytes of the longest form that ``encode`` gives a page: a marker and the page.
WHOLE: int

def decode(data: Any, memory: Any, pfns: Any, held: Any = None) -> Tuple[int, int, int, int]:
    """Apply the compressed pages of a legacy checkpoint, in order, to the pages ``pfns`` of the receiver's memory.

    ``data``: bytes-like, begins with the form of a page. ``memory``: writable, whole pages, PFN 0 first. ``pfns``:
    uint64, one a page; a PFN may come again. ``held``: uint8, one a page; where it is 0 the page must come whole.

    Returns (pages done, bytes of ``data`` they took, status, offset in ``data`` of the bad marker, or -1). With OK,
    bytes may be left over. A page is written only once its whole form is known to be good; after any status but OK
    those before it are done and it is as it was.

    Raises IndexError, with nothing written, where a PFN lies outside the memory; TypeError or ValueError for a buffer
    of the wrong kind.

    The format: Xen's tools/libxc/xg_save_restore.h and xc_compression.c, up to 4.5.
    """

def bound(pages: int) -> int:
    """Room in bytes that ``encode`` asks for so many pages: ``WHOLE`` each. Raises ValueError if negative."""

def encode(held: Any, pages: Any, out: Any) -> int:
    """Write the forms of ``pages`` against the copies ``held`` (k x 4096 bytes each) to ``out``, bytes; how many bytes.

    ``held`` is what the receiver has; it is brought up to date with what was written. A page without change takes one
    byte, one whose delta is no shorter than itself comes whole. Raises TypeError, or ValueError if ``out`` has under
    ``bound(k)`` bytes or ``held`` isn't as long as ``pages``.
    """

@final
class Cache:
    """Copies of the pages that a receiver has been sent last, so that what is sent again can be sent as deltas.

    ``pfn_end``: PFNs are under it (at most 2^32), and take 4 bytes each. ``slots``: how many pages are held, 1 to 2^31;
    default 8192, which is what Xen's sender has; the page not sent for the longest time makes room. Raises ValueError
    or MemoryError. One call at a time: RuntimeError where a thread comes into another's.
    """

    def __new__(cls, pfn_end: int, slots: int = ...) -> Cache: ...
    def encode(self, pfns: Any, types: Any, pages: Any, out: Any) -> int:
        """Write the forms of ``pages`` (k x 4096 bytes) to ``out``, in order; how many bytes.

        ``pfns``: uint64[k]. ``types``: uint8[k], page types 0 to 15: all but 0 (page tables) come whole and are not
        held. A page that isn't held comes whole and is held from then on. ``out`` must have ``bound(k)`` bytes.

        Raises IndexError for a PFN past ``pfn_end``, TypeError or ValueError, always with nothing changed.
        """

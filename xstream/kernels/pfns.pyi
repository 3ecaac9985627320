"""PFN words, page types and dirty bitmaps.

A PFN word has 8 bytes, little-endian, at any alignment: the page type in bits 63-60, the PFN in bits 51-0 (Xen's
specification of the libxc stream, "PAGE_DATA"). The state of a PFN is one byte with these bits: MENTIONED, a word has
named it; POPULATED, by a page or an allocate-only type; SENT, a page has been sent; and in bits 3-0 its last type,
inverted, so that a state of 0 is a PFN never mentioned, of type XTAB.

Arguments called words, state and types are buffers of bytes; pfns, starts and lengths are uint64 buffers of any
alignment. All must be contiguous. A buffer of the wrong kind or size raises ValueError, TypeError or BufferError. Words
that change during a call (a mapped file) can't make it reach outside its buffers: each is loaded once, and IndexError
may then come after some words have been entered.
"""
from typing import List, Tuple

from xstream.kernels.buffers import BufferLike

BAD_TYPE: int
BAD_PFN: int
BAD_RESERVED: int
MENTIONED: int
POPULATED: int
SENT: int

def unpack(words: BufferLike, pfns: BufferLike, types: BufferLike) -> None:
    """Split ``words`` into ``pfns`` and ``types`` (uint8), both as long as there are words."""

def pack(pfns: BufferLike, types: BufferLike, words: BufferLike) -> None:
    """Join ``pfns`` and ``types`` into ``words``. Raises ValueError for a PFN over 52 bits or a type over 15."""

def check(words: BufferLike, pfn_end: int, strict: bool) -> Tuple[int, int, int]:
    """Check words. Returns (index of the first bad word, BAD_TYPE, BAD_PFN or BAD_RESERVED, words before it that carry
    data), or index -1 and reason 0 if all are good.

    Types 5 to 8 are bad, and PFNs of ``pfn_end`` or more; with ``strict``, also a word with any of bits 59-52.
    """

def widen(legacy: BufferLike, width: int, pfn_end: int, strict: bool, words: BufferLike) -> Tuple[int, int, int, int]:
    """Convert the PFN words of a legacy stream to ``words``. They have ``width`` bytes each, 4 or 8: the type in bits
    31-28, the PFN in bits 27-0.

    Leaves out words of type 15, which name no PFN; type 8 becomes 0. Returns (index of the first bad word, BAD_TYPE,
    BAD_PFN or BAD_RESERVED, words written, words written that carry data); index -1 and reason 0 if all are good. Types
    5 to 7 are bad, PFNs of ``pfn_end`` or more, and bits over 31; with ``strict``, also a PFN in a word of type 15.
    """

def narrow(words: BufferLike, width: int, legacy: BufferLike) -> int:
    """Convert ``words`` to legacy words of ``width`` bytes each; words of type 15 lose their PFN. Returns -1, or the
    index of the first word whose PFN has more than 28 bits; that word and those after it aren't written."""

def count_data(words: BufferLike) -> int:
    """The number of words whose type carries a page: 0 to 4 and 9 to 12."""

def data_pfns(words: BufferLike, pfns: BufferLike) -> int:
    """Write the PFNs of the words that carry data to ``pfns``, in order; returns how many. Raises ValueError if there
    is no room for all."""

def highest_pfn(words: BufferLike) -> int:
    """The highest PFN of all words, or -1 if there are none."""

def mark(words: BufferLike, state: BufferLike) -> Tuple[int, int, int]:
    """Enter words into the states of their PFNs. Returns how many words carry data, and of these how many are the first
    of their PFN, and how many send a PFN again.

    Raises IndexError for a PFN past the state, with nothing changed.
    """

def select(words: BufferLike, bitmap: BufferLike, wanted: bool, mark: bool, out: BufferLike,
           pages: BufferLike) -> Tuple[int, int]:
    """Copy to ``out`` the words whose PFN's bit in ``bitmap`` equals ``wanted``, in order, and to ``pages`` (uint64)
    the indices of their pages among all that the words carry. Returns the number of words and of pages.

    ``bitmap``: bytes, bit 0 of byte 0 first. With ``mark``, sets the bits of the selected PFNs; words are taken from
    the last to the first, so that with ``wanted`` False only the last word of each PFN is selected.

    Raises IndexError for a PFN past the bitmap, ValueError if there is no room for all.
    """

def populated_of(pfns: BufferLike, state: BufferLike, flags: BufferLike) -> None:
    """Write 1 to ``flags`` (uint8) for each of ``pfns`` that is populated, else 0."""

def forget(pfns: BufferLike, state: BufferLike, sent: BufferLike) -> int:
    """Reset ``pfns`` to never mentioned. Writes those that had been sent a page to ``sent`` (uint64, room for all), and
    returns how many. Ignores PFNs past the state."""

def types_of(state: BufferLike, types: BufferLike) -> None:
    """Write the last type of each PFN to ``types``."""

def populated(state: BufferLike, flags: BufferLike) -> None:
    """Write 1 to ``flags`` for each populated PFN, else 0."""

def count_populated(state: BufferLike) -> int:
    """The number of populated PFNs."""

def populated_pfns(state: BufferLike, start: int, pfns: BufferLike) -> int:
    """Fill ``pfns`` with the populated PFNs from ``start`` on, ascending; returns how many."""

def type_histogram(state: BufferLike) -> List[int]:
    """How many of the PFNs mentioned have each of the 16 types."""

def count_bits(bitmap: BufferLike) -> int:
    """The number of bits set."""

def bitmap_to_pfns(bitmap: BufferLike, first: int, pfns: BufferLike) -> int:
    """Write the set bits of a dirty bitmap to ``pfns``, bit 0 of byte 0 being PFN ``first``; returns how many. Raises
    ValueError if there is no room for all."""

def pfns_to_bitmap(pfns: BufferLike, bitmap: BufferLike) -> None:
    """Set the bits of PFNs. Raises IndexError for a PFN past the bitmap, with nothing set."""

def runs(pfns: BufferLike, starts: BufferLike, lengths: BufferLike) -> int:
    """Find runs of consecutive ascending PFNs: the index in ``pfns`` at which each begins, and its length. Returns how
    many there are."""

def ascending(pfns: BufferLike) -> bool:
    """Whether each PFN is higher than the one before; then none occurs twice."""

def batch_end(pfns: BufferLike, start: int, order: int) -> int:
    """Index after the last of ``pfns`` that belongs to the batch that begins at ``start``.

    If the next ``1 << order`` PFNs ascend, the batch ends before the first that isn't in the same aligned block of
    ``1 << order`` PFNs; otherwise it takes all of them. Raises ValueError for a start past the end.
    """

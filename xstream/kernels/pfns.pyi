"""PFN words, page types and dirty bitmaps.

A PFN word is 8 bytes, little-endian, at any alignment: page type in bits 63-60, PFN in 51-0 (specification of the libxc
stream, "PAGE_DATA"). The state of a PFN is one byte: MENTIONED; POPULATED, by a page or an allocate-only type; SENT, a
page has come; and in the low nibble its last type, inverted, so that all zeros is a PFN never mentioned, of type XTAB.

Arguments called words, state and types are buffers of bytes; pfns, starts and lengths are uint64 buffers. All must be
contiguous. Wrong kinds and sizes are a ValueError, TypeError or BufferError.
"""
from typing import Any, List, Tuple

BAD_TYPE: int
BAD_PFN: int
BAD_RESERVED: int
MENTIONED: int
POPULATED: int
SENT: int

def unpack(words: Any, pfns: Any, types: Any) -> None:
    """Split ``words`` into ``pfns`` and ``types`` (uint8), as long as there are words."""

def pack(pfns: Any, types: Any, words: Any) -> None:
    """Join ``pfns`` and ``types`` into ``words``. Raises ValueError for a PFN over 52 bits or a type over 15."""

def check(words: Any, pfn_end: int, strict: bool) -> Tuple[int, int, int]:
    """(index of the first bad word, BAD_TYPE, BAD_PFN or BAD_RESERVED, words before it that carry data); index -1 and
    reason 0 where all are good. Types 5 to 8 are bad, PFNs of ``pfn_end`` and more, and ``strict`` bits 59-52."""

def widen(legacy: Any, width: int, pfn_end: int, strict: bool, words: Any) -> Tuple[int, int, int, int]:
    """PFN words of a legacy stream, ``width`` bytes each (type in bits 31-28, PFN in 27-0), as ``words``.

    Those of type 15 are left out, as they are of no PFN; type 8 becomes 0. Returns (index of the first bad one,
    BAD_TYPE, BAD_PFN or BAD_RESERVED, words written, words that carry data); index -1 and reason 0 where all are good.
    Bad are types 5 to 7, PFNs of ``pfn_end`` and more, bits over 31, and ``strict`` a type 15 with a PFN.
    """

def narrow(words: Any, width: int, legacy: Any) -> int:
    """Write ``words`` as ``legacy`` ones of ``width`` bytes each; those of type 15 without their PFN. Returns -1, or
    the index of the first whose PFN has over 28 bits, with the words from there on not written."""

def count_data(words: Any) -> int:
    """How many words have a type that carries a page: 0 to 4 and 9 to 12."""

def data_pfns(words: Any, pfns: Any) -> int:
    """Put the PFNs of the words that carry data into ``pfns``, in order; how many. ValueError without room for
    all."""

def highest_pfn(words: Any) -> int:
    """The highest PFN of all words, -1 of none."""

def mark(words: Any, state: Any) -> Tuple[int, int, int]:
    """Enter words into the states of their PFNs; (carrying data, first data of their PFN, data sent again).

    IndexError for a PFN past the states, with nothing changed.
    """

def select(words: Any, bitmap: Any, wanted: bool, mark: bool, out: Any, pages: Any) -> Tuple[int, int]:
    """Copy to ``out`` those words whose PFN's bit in ``bitmap`` (bytes, bit 0 of byte 0 first) is as ``wanted``, in
    order; their pages' indices among all that the words carry to ``pages`` (uint64). Returns how many of both.

    ``mark``: set the bits of those PFNs; the words are then looked at from the last, so that with ``wanted`` False each
    PFN's last is the only one. Raises IndexError for a PFN past the bitmap, ValueError without room for all.
    """

def populated_of(pfns: Any, state: Any, flags: Any) -> None:
    """1 in ``flags`` (uint8) for each of ``pfns`` that is populated, else 0."""

def forget(pfns: Any, state: Any, sent: Any) -> int:
    """Make ``pfns`` as if never mentioned; put those that had been sent a page into ``sent`` (uint64, room for all),
    and return how many. PFNs past the states are passed over."""

def types_of(state: Any, types: Any) -> None:
    """The last type of each PFN."""

def populated(state: Any, flags: Any) -> None:
    """1 for each populated PFN, else 0."""

def count_populated(state: Any) -> int:
    """How many PFNs are populated."""

def populated_pfns(state: Any, start: int, pfns: Any) -> int:
    """Fill ``pfns`` with populated PFNs from ``start`` on, ascending; how many."""

def type_histogram(state: Any) -> List[int]:
    """How many of the PFNs mentioned have each of the 16 types."""

def count_bits(bitmap: Any) -> int:
    """How many bits are set."""

def bitmap_to_pfns(bitmap: Any, first: int, pfns: Any) -> int:
    """The set bits of a dirty bitmap as PFNs, bit 0 of byte 0 being PFN ``first``; how many. ValueError where there is
    no room."""

def pfns_to_bitmap(pfns: Any, bitmap: Any) -> None:
    """Set the bits of PFNs. IndexError for one past the bitmap, with nothing set."""

def runs(pfns: Any, starts: Any, lengths: Any) -> int:
    """Runs of ascending neighbours: index in ``pfns`` of each one's first, and its length; how many."""

def batch_end(pfns: Any, start: int, order: int) -> int:
    """Index after the last of ``pfns`` that belongs into the batch that begins at ``start``.

    If the next ``1 << order`` PFNs ascend, the batch ends before the first that isn't in the same aligned block of
    ``1 << order`` PFNs; otherwise it takes all of them. Raises ValueError for a start past the end.
    """

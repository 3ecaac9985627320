"""Which frame a PFN has: lookups in p2m and m2p arrays, and which PFNs still need a frame.

Arrays are contiguous uint64 buffers, state and types are uint8, as in :mod:`xstream.kernels.pfns`. Wrong kinds and
sizes are a ValueError or TypeError, before anything is written.
"""
from typing import Any

#: No frame.
INVALID: int

def lookup(table: Any, numbers: Any, out: Any) -> None:
    """``out[i] = table[numbers[i]]``, or INVALID for a number past the table. ``out`` may be ``numbers``."""

def types_at(state: Any, numbers: Any, types: Any) -> None:
    """The last type of each of the PFNs ``numbers`` into ``types``; XTAB for one past the state."""

def changed(old: Any, new: Any, bitmap: Any) -> int:
    """Set the bit of each entry in which two arrays of the same length differ; how many do.

    ``bitmap``: writable bytes-like with a bit for each entry, bit 0 of byte 0 first; other bits stay as they are.
    """

def widen(entries: Any, out: Any) -> None:
    """The p2m entries of a 32-bit guest (bytes-like, 4n) as uint64[n]; all ones become INVALID."""

def narrow(table: Any, entries: Any) -> None:
    """The opposite of ``widen``. Raises ValueError, naming the entry, for a frame that takes more than 32 bits."""

def claim(words: Any, state: Any, pfns: Any) -> int:
    """Find the PFNs that a batch's words want populated (types that carry data, and XALLOC) and that aren't; mark them.

    ``words``: bytes-like, PFN words of 8 bytes. ``state``: writable, a byte a PFN. ``pfns``: writable, as long as there
    are words; receives each PFN once, in order. Returns how many.

    Raises IndexError for a PFN past the state, with nothing changed.
    """

def assign(table: Any, numbers: Any, values: Any) -> None:
    """``table[numbers[i]] = values[i]``. Raises IndexError for a number past the table, with nothing changed."""

def populated_only(table: Any, state: Any, out: Any) -> None:
    """Copy a p2m, with INVALID for the PFNs that aren't populated; all three are of one length."""

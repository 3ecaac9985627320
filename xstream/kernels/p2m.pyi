"""Which frame a PFN has: lookups in p2m and m2p arrays, and which PFNs still need a frame.

Arrays are contiguous uint64 buffers of any alignment; state and types are uint8, as in :mod:`xstream.kernels.pfns`. A
buffer of the wrong kind or size raises ValueError or TypeError before anything is written. An array that changes during
a call (a mapped file) can't make a call reach outside its buffers.
"""
from xstream.kernels.buffers import BufferLike

#: No frame.
INVALID: int

def lookup(table: BufferLike, numbers: BufferLike, out: BufferLike) -> None:
    """``out[i] = table[numbers[i]]``, or INVALID for a number past the table. ``out`` may be ``numbers``."""

def types_at(state: BufferLike, numbers: BufferLike, types: BufferLike) -> None:
    """Write the last type of each of the PFNs ``numbers`` to ``types``: XTAB for a PFN past the state."""

def changed(old: BufferLike, new: BufferLike, bitmap: BufferLike) -> int:
    """Set the bit of each entry in which two arrays of the same length differ; returns how many do.

    ``bitmap``: writable bytes-like with a bit for each entry, bit 0 of byte 0 first; other bits are left as they are.
    """

def widen(entries: BufferLike, out: BufferLike) -> None:
    """Convert the p2m entries of a 32-bit guest (bytes-like, 4n bytes) to uint64[n]; all ones become INVALID."""

def narrow(table: BufferLike, entries: BufferLike) -> None:
    """The opposite of ``widen``. Raises ValueError, with nothing written, for a frame that needs more than 32 bits."""

def claim(words: BufferLike, state: BufferLike, pfns: BufferLike) -> int:
    """Find the PFNs of a batch that need a frame and have none yet, and mark them populated; returns how many.

    ``words``: bytes-like, PFN words of 8 bytes; those whose type carries data, and XALLOC, need a frame. ``state``:
    writable, a byte for each PFN. ``pfns``: writable, as many as there are words; receives each PFN once, in order.

    Raises IndexError for a PFN past the state, with nothing changed.
    """

def assign(table: BufferLike, numbers: BufferLike, values: BufferLike) -> None:
    """``table[numbers[i]] = values[i]``. Raises IndexError for a number past the table, with nothing changed."""

def populated_only(table: BufferLike, state: BufferLike, out: BufferLike) -> None:
    """Copy a p2m, with INVALID for each PFN that isn't populated; all three have one length."""

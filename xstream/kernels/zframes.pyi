"""The headers of zstd frames and blocks, which tell where a frame ends. Nothing is decompressed.

Source: doc/zstd_compression_format.md in zstd's repository.
"""
from typing import Optional, Tuple

from xstream.kernels.buffers import BufferLike

#: What was found: a frame; something else; data that ends too early; a block of the reserved type; far more blocks than
#: the contents need, which is where following them stops.
GOOD: int
NO_FRAME: int
CUT: int
RESERVED: int
TOO_MANY: int

def header(data: BufferLike, begin: int) -> Tuple[int, int, Optional[int], bool, bool]:
    """Read the header of the frame that begins at ``begin``: (status, where the header ends, size of the contents or
    None if it doesn't say, whether a checksum ends the frame, whether it needs a dictionary). Raises ValueError for a
    ``begin`` outside the data."""

def follow(data: BufferLike, begin: int) -> Tuple[int, int, Optional[int]]:
    """Follow the frame that begins at ``begin`` through its blocks: (status, where it ends, size of the contents or
    None). If the data is cut, the second is the offset that the data must reach for the frame to be followed further.
    Raises ValueError for a ``begin`` outside the data. Releases the GIL."""

def agreeing(data: BufferLike, table: BufferLike, first: int, begin: int) -> int:
    """Compare frames, of which number ``first`` begins at ``begin``, with a table of their sizes: two uint32 each,
    compressed and contents. Returns the number of the first that doesn't exist or disagrees, or else the number of
    rows. Releases the GIL."""

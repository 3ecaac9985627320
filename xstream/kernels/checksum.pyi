"""CRC32C (Castagnoli) of buffers and of pages: the checksum of RFC 3720 (iSCSI), section B.4.

Values are as in that RFC, inverted at both ends: the CRC of no bytes is 0, and ``crc32c(b, crc32c(a))`` is the CRC of
``a + b``. All functions release the GIL while they compute.
"""
from typing import Tuple

from xstream.kernels.buffers import BufferLike

def crc32c(data: BufferLike, value: int = 0) -> int:
    """The CRC of ``data`` (contiguous bytes), continued from ``value``. Raises TypeError or ValueError for another
    kind of buffer, OverflowError for a ``value`` of more than 32 bits."""

def crc32c_pages(pages: BufferLike, out: BufferLike) -> None:
    """Write the CRC of each page of 4096 bytes to ``out`` (uint32, one element a page).

    ``pages``: contiguous bytes. Raises ValueError unless both have the same number of pages.
    """

def crc32c_combine(a: int, b: int, length_b: int) -> int:
    """The CRC of two pieces one after the other, from the CRC of each and the second's length in bytes. Costs less than
    a microsecond, whatever the length."""

def crc32c_zeros(value: int, length: int) -> int:
    """The CRC ``value`` continued over ``length`` zero bytes. Costs less than a microsecond, whatever the length."""

def implementation() -> str:
    """The implementation in use: "generic" (a table), "sse4.2" (the CRC32 instruction), "pclmul" (that instruction and
    folding by PCLMULQDQ side by side), "vpclmul-avx2" or "vpclmul-avx512" (folding by VPCLMULQDQ in registers of 32 or
    64 bytes). The last of these that the CPU can run is chosen on import."""

def implementations() -> Tuple[str, ...]:
    """The implementations that this CPU can run, slowest first."""

def use(name: str) -> None:
    """Choose another implementation, for tests and measurements. Raises ValueError for one that this CPU can't run."""

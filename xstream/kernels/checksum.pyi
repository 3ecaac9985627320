"""CRC32C (Castagnoli) of buffers and of pages: the checksum of RFC 3720 (iSCSI), B.4.

Values are as that RFC has them, inverted at both ends: the CRC of nothing is 0, and ``crc32c(b, crc32c(a))`` is that of
``a + b``.
"""
from typing import Any, Tuple

def crc32c(data: Any, value: int = 0) -> int:
    """The CRC of ``data`` (contiguous bytes), going on from ``value``."""

def crc32c_pages(pages: Any, out: Any) -> None:
    """The CRC of each page of 4096 bytes into ``out`` (uint32, one a page). ValueError where their numbers differ."""

def crc32c_combine(a: int, b: int, length_b: int) -> int:
    """The CRC of two pieces one after the other, from theirs and the second's length in bytes, at next to no cost."""

def crc32c_zeros(value: int, length: int) -> int:
    """The CRC ``value`` gone on with so many zero bytes, at next to no cost."""

def implementation() -> str:
    """The one in use: "generic" or "sse4.2" (which needs PCLMULQDQ too). Chosen at import for the CPU."""

def implementations() -> Tuple[str, ...]:
    """Those that this machine can run."""

def use(name: str) -> None:
    """Choose another, for tests and measurements. ValueError for one that isn't at hand."""

"""Many small page batches at the cost of one call.

PFN arrays may be misaligned, and may change during a call (a mapped file): then a call raises IndexError or returns
what it had read, and stays within its buffers.
"""
from typing import Tuple

from xstream.kernels.buffers import BufferLike

def scan(data: BufferLike, frame_type: int, length_limit: int, pfn_end: int, strict: bool, words: BufferLike,
         extents: BufferLike) -> Tuple[int, int, int, int]:
    """Pass over the good page batches at the beginning of ``data``, without reading their pages.

    ``data``: bytes-like. A batch is good if its frame has ``frame_type`` and a length of at most ``length_limit`` that
    fits its contents, all of it is in ``data``, its PFNs are under ``pfn_end``, and no page type is 5 to 8; with
    ``strict``, also if its reserved fields and bits are zero.

    ``words``: writable bytes-like, receives the PFN words of all batches; what is copied is what was checked.
    ``extents``: writable uint64, receives the offset in ``data`` and the number of pages of each batch. The scan ends
    at the first batch for which either has no room, and at the first that isn't good.

    Returns (batches, position after the last of them, PFN words, pages).
    """

def scan_sparse(data: BufferLike, holes: BufferLike, frame_type: int, length_limit: int, pfn_end: int, strict: bool,
                words: BufferLike) -> Tuple[int, int, int, int]:
    """As ``scan``, for data of which parts are left out.

    ``holes``: uint64, two for each of these parts, in order: its place in ``data``, as the number of bytes before it
    there, and its size in bytes. The scan also ends at the first batch that is incomplete even with these parts, that
    has PFN words in one of them, or whose pages end within one.

    Returns (batches, their bytes including the parts that are left out, PFN words, pages).
    """

def scatter(memory: BufferLike, pfns: BufferLike, data: BufferLike, extents: BufferLike) -> None:
    """Copy the pages of ``extents`` in ``data`` to the places of ``pfns`` in ``memory``.

    ``memory``: writable bytes, PFN 0 first. ``pfns``: uint64, one for each page, in order. ``extents``: uint64, pairs
    of offset and number of pages, as ``scan`` returns them.

    Raises IndexError, with nothing written, if an extent or a PFN lies outside its buffer.
    """

from typing import Any, Tuple

def scan(data: Any, frame_type: int, length_limit: int, pfn_end: int, strict: bool, words: Any,
         extents: Any) -> Tuple[int, int, int, int]:
    """Pass over the good page batches that stand at the beginning of ``data``, one after the other.

    ``data``: bytes-like. A batch is good if its frame has ``frame_type`` and a length of at most ``length_limit`` that
    fits its contents, it lies wholly in ``data``, its PFNs are under ``pfn_end`` and no page type is 5 to 8;
    ``strict`` wants its reserved fields and bits zero too. Page data isn't touched.

    ``words``: writable bytes-like, receives all PFN words one after the other. ``extents``: writable uint64, receives
    offset in ``data`` and number of pages of each batch's page data. The scan ends where either is full.

    Returns (batches, position behind the last, PFN words, pages).
    """

def scatter(memory: Any, pfns: Any, data: Any, extents: Any) -> None:
    """Copy the pages of ``extents`` in ``data`` to the ``pfns`` (uint64, one a page, in order) of ``memory``.

    Raises IndexError, with nothing written, where an extent or a PFN lies outside its buffer.
    """

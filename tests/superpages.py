"""How many 2 MiB pages a restore rebuilds, by Xen's rule."""
from typing import Any, Iterable, List

import xstream


def superpages(stream: Any, *, one_record: bool = False, **options: Any) -> int:
    """2 MiB pages of an HVM guest that a restore rebuilds.

    ``one_record``: as if all memory came in one record: as many as there can be.
    """
    batches: List[List[int]] = []
    with xstream.open(stream, **options) as reader:
        for record in reader:
            if isinstance(record, xstream.PageData):
                batches.append([pfn for pfn, page_type in zip(record.pfns.tolist(), record.types.tolist())
                                if page_type not in (0xD, 0xF)])
    return rebuilt([sum(batches, [])] if one_record else batches)


def rebuilt(batches: Iterable[Iterable[int]]) -> int:
    """2 MiB pages that Xen 4.21 and later rebuild from these batches of PFNs: populate_pfns() in
    tools/libs/guest/xg_sr_restore.c, which looks at the PFNs of one PAGE_DATA that weren't populated before."""
    found, populated = 0, set()
    for pfns in batches:
        previous = contiguous = 0
        for pfn in pfns:
            if pfn in populated:
                continue
            populated.add(pfn)
            contiguous = contiguous + 1 if pfn == previous + 1 else 1
            previous = pfn
            if contiguous >= 512 and pfn % 512 == 511:
                found += 1
                contiguous = 0
    return found

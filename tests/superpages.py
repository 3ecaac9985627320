"""How many 2 MiB pages a restore rebuilds, by Xen's rule."""
from typing import Any

import xstream


def superpages(stream: Any, *, one_record: bool = False, **options: Any) -> int:
    """2 MiB pages of an HVM guest that Xen 4.21 and later rebuild: populate_pfns() in
    tools/libs/guest/xg_sr_restore.c, which looks at the PFNs of one PAGE_DATA that weren't populated before.

    ``one_record``: as if all memory came in one record: as many as there can be.
    """
    populated = set()
    found = contiguous = previous = 0
    with xstream.open(stream, **options) as reader:
        for record in reader:
            if not isinstance(record, xstream.PageData):
                continue
            if not one_record:
                contiguous = previous = 0
            for pfn, page_type in zip(record.pfns.tolist(), record.types.tolist()):
                if page_type in (0xD, 0xF) or pfn in populated:
                    continue
                populated.add(pfn)
                contiguous = contiguous + 1 if pfn == previous + 1 else 1
                previous = pfn
                if contiguous >= 512 and pfn % 512 == 511:
                    found += 1
                    contiguous = 0
    return found

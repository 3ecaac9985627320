"""same_memory.py IMAGE HASHES: whether each page of an image has the hash that dom0 saw (gfnhash.py, core2hash.py).

Pages that dom0 can see and the image doesn't have, or the other way round, are counted; a PV guest's page tables differ
by their nature (an image has PFNs where the guest has MFNs) and are left out.
"""
import hashlib
import sys

import xstream

PAGE, ZERO = 4096, bytes(4096)
image = {}
with xstream.open(sys.argv[1]) as reader:
    for record in reader:
        if not isinstance(record, xstream.PageData):
            continue
        words = memoryview(bytes(record.words)).cast("Q")
        data = memoryview(bytes(record.data if isinstance(record.data, (bytes, memoryview)) else record.data.read()))
        at = 0
        for word in words:
            pfn, kind = word & (1 << 52) - 1, word >> 60
            if kind < 13:
                page = data[at:at + PAGE]
                at += PAGE
                image[pfn] = (kind, "-" if page == ZERO else hashlib.sha256(page).hexdigest()[:16])
seen = dict(line.split() for line in open(sys.argv[2]) if not line.startswith("#"))
seen = {int(pfn, 16): digest for pfn, digest in seen.items()}
common = [pfn for pfn in image if pfn in seen and image[pfn][0] == 0]
differing = [pfn for pfn in common if image[pfn][1] != seen[pfn]]
missing = [pfn for pfn in image if pfn not in seen]
print("{} pages in the image, {} seen, {} compared: {} differ {}, {} only in the image".format(
    len(image), len(seen), len(common), len(differing), [hex(pfn) for pfn in differing[:8]], len(missing)))
sys.exit(1 if differing or len(common) < 0.9 * len(image) else 0)

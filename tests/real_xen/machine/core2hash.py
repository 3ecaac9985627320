#!/usr/bin/python3
"""Hash the pages of a Xen core dump (xl dump-core; docs/misc/dump-core-format).

Prints '# ...' lines, then one 'PFN HASH' line per page by ascending PFN: PFN in
hex, HASH the first 16 hex digits of the page's SHA-256, '-' for a page of zeros.
PV cores carry (pfn, gmfn) pairs, all others a list of pfns.
"""
import hashlib
import struct
import sys

f = open(sys.argv[1], "rb")
h = f.read(64)
assert h[:4] == b"\x7fELF" and h[4] == 2, "not a 64-bit ELF"
shoff, = struct.unpack_from("<Q", h, 40)
shentsize, shnum, shstrndx = struct.unpack_from("<HHH", h, 58)
f.seek(shoff)
sh = [struct.unpack("<IIQQQQIIQQ", f.read(64)[:64]) for _ in range(shnum)]
f.seek(sh[shstrndx][4])
names = f.read(sh[shstrndx][5])
sec = {names[s[0]:names.index(b"\0", s[0])].decode(): s for s in sh}
print("# sections", " ".join(n for n in sec if n))
pages = sec[".xen_pages"]
page_size = pages[9] or 4096
if ".xen_p2m" in sec:
    s = sec[".xen_p2m"]
    f.seek(s[4])
    pfns = [p for p, g in struct.iter_unpack("<QQ", f.read(s[5]))]
else:
    s = sec[".xen_pfn"]
    f.seek(s[4])
    pfns = [p for p, in struct.iter_unpack("<Q", f.read(s[5]))]
n = pages[5] // page_size
print("# page size {}, {} pages, {} pfns".format(page_size, n, len(pfns)))
order = sorted((p, i) for i, p in enumerate(pfns[:n]) if p != 2 ** 64 - 1)
zero = bytes(page_size)
for p, i in order:
    f.seek(pages[4] + i * page_size)
    d = f.read(page_size)
    print("{:x} {}".format(p, "-" if d == zero else hashlib.sha256(d).hexdigest()[:16]))

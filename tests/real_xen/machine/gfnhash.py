#!/usr/bin/python3
"""Hash the pages of a paused auto-translated (PVH or HVM) guest, seen from dom0.

    gfnhash.py DOMID

Same output as core2hash.py.  xl dump-core would do, but it asks for every gfn up
to 4 GiB with a separate hypercall, which takes minutes under QEMU's TCG; this
maps whole batches with libxenforeignmemory.  Only the low 256 MiB and the top
512 MiB below 4 GiB are looked at.  Don't use it on a populate-on-demand guest:
mapping a page populates it.
"""
import ctypes
import hashlib
import sys

dom = int(sys.argv[1])
L = ctypes.CDLL("libxenforeignmemory.so.1", use_errno=True)
L.xenforeignmemory_open.restype = ctypes.c_void_p
L.xenforeignmemory_open.argtypes = [ctypes.c_void_p, ctypes.c_uint]
L.xenforeignmemory_map.restype = ctypes.c_void_p
L.xenforeignmemory_map.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_size_t,
                                   ctypes.c_void_p, ctypes.c_void_p]
L.xenforeignmemory_unmap.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
h = L.xenforeignmemory_open(None, 0)
assert h, "no foreign memory handle"
PAGE, BATCH = 4096, 1024
zero = bytes(PAGE)
print("# gfns of domain {}".format(dom))
for start, end in ((0, 0x10000), (0xe0000, 0x100000)):
    for base in range(start, end, BATCH):
        arr = (ctypes.c_uint64 * BATCH)(*range(base, base + BATCH))
        err = (ctypes.c_int * BATCH)()
        p = L.xenforeignmemory_map(h, dom, 1, BATCH, arr, err)
        if not p:
            continue
        for i in range(BATCH):
            if err[i] == 0:
                d = ctypes.string_at(p + i * PAGE, PAGE)
                print("{:x} {}".format(base + i, "-" if d == zero else hashlib.sha256(d).hexdigest()[:16]))
        L.xenforeignmemory_unmap(h, p, BATCH)

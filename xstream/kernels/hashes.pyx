# cython: boundscheck=False, wraparound=False, cdivision=True
"""XXH64 of pages."""
from libc.stdint cimport uint8_t, uint64_t

from xstream.kernels.words cimport PAGE, store64

cdef extern from "hashes.h" nogil:
    uint64_t page_hash "xs_page_hash"(const uint8_t *page)


def xxh64_pages(const uint8_t[::1] pages not None, uint64_t[::1] out not None):
    cdef Py_ssize_t i
    if pages.shape[0] != out.shape[0] * PAGE:
        raise ValueError("{} bytes of pages for {} hashes".format(pages.shape[0], out.shape[0]))
    with nogil:
        for i in range(out.shape[0]):
            store64(&out[0], i, page_hash(&pages[i * PAGE]))

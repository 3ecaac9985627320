# cython: boundscheck=False, wraparound=False, cdivision=True
"""XXH64 of pages."""
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint64_t

from xstream.kernels import buffers as _buffers

from xstream.kernels.words cimport PAGE, store64

cdef extern from "hashes.h" nogil:
    uint64_t page_hash "xs_page_hash"(const uint8_t *page)


cdef void hash_pages(const uint8_t *pages, Py_ssize_t count, uint64_t *hashes) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        store64(hashes, i, page_hash(pages + i * PAGE))


def xxh64_pages(pages, out):
    # Without typed memoryviews, which would make this module four times as large.
    cdef Py_buffer data, found
    out = _buffers.array("out", out, "uint64", writable=True)
    PyObject_GetBuffer(_buffers.octets("pages", pages), &data, PyBUF_SIMPLE)
    try:
        if data.len != len(out) * PAGE:
            raise ValueError("{} bytes of pages for {} hashes".format(data.len, len(out)))
        PyObject_GetBuffer(out, &found, PyBUF_WRITABLE)
        with nogil:
            hash_pages(<const uint8_t *>data.buf, data.len // PAGE, <uint64_t *>found.buf)
        PyBuffer_Release(&found)
    finally:
        PyBuffer_Release(&data)

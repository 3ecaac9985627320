# cython: boundscheck=False, wraparound=False, cdivision=True
"""What kind of data is in a page: zeros, text, random bytes or something else."""
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memset

from xstream.kernels import buffers as _buffers

from xstream.kernels.words cimport PAGE, load64

cdef extern from "zero.h" nogil:
    ctypedef int (*zero_function "xs_zero_function")(const uint8_t *page) noexcept
    int is_zero_generic "xs_is_zero_generic"(const uint8_t *page) noexcept
    int is_zero_avx2 "xs_is_zero_avx2"(const uint8_t *page) noexcept

cdef extern from "cpu.h" nogil:
    bint has_avx2 "xs_cpu_has_avx2"()

cdef enum Kind:
    C_OTHER
    C_ZERO
    C_TEXT
    C_RANDOM

OTHER, ZERO, TEXT, RANDOM = C_OTHER, C_ZERO, C_TEXT, C_RANDOM

cdef enum:
    TABLES = 4  # counted in turn: adding to one counter twice in a row has to wait for the first addition
    # The sum of the squares of the counts of uniformly random bytes is near PAGE^2 / 256 + PAGE, that is 69632. Half
    # the alphabet, used evenly, reaches this; base64 gets twice as high, code and data much higher.
    MOST_RANDOM = PAGE * PAGE // 128

cdef zero_function is_zero = is_zero_avx2 if has_avx2() else is_zero_generic


cdef void count_bytes(const uint8_t *page, uint64_t *counts) noexcept nogil:
    """How often each of the 256 bytes occurs. Each byte is loaded once, so that the counts add up to PAGE."""
    cdef uint16_t[TABLES][256] partial
    cdef uint64_t word
    cdef int i, lane
    memset(partial, 0, sizeof(partial))
    for i in range(PAGE // 8):
        word = load64(page, i)
        for lane in range(8):
            partial[lane % TABLES][(word >> 8 * lane) & 0xFF] += 1
    for i in range(256):
        counts[i] = 0
        for lane in range(TABLES):
            counts[i] += partial[lane][i]


cdef Kind kind_of(const uint8_t *page) noexcept nogil:
    cdef uint64_t[256] counts
    cdef uint64_t squares = 0, printable
    cdef int i
    if is_zero(page):
        return C_ZERO
    count_bytes(page, counts)
    for i in range(256):
        squares += counts[i] * counts[i]
    if squares <= MOST_RANDOM:
        return C_RANDOM
    printable = counts[9] + counts[10] + counts[13]
    for i in range(32, 127):
        printable += counts[i]
    # Much of a page of text can be unused; the zeros of UTF-16 don't count either.
    if 8 * printable >= PAGE and 8 * printable >= 7 * (PAGE - counts[0]):
        return C_TEXT
    return C_OTHER


cdef void classify_pages(const uint8_t *pages, Py_ssize_t count, uint8_t *kinds) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        kinds[i] = kind_of(pages + i * PAGE)


def classify(pages, kinds):
    # Without typed memoryviews, which would make this module four times as large.
    cdef Py_buffer data, found
    PyObject_GetBuffer(_buffers.pages("pages", pages), &data, PyBUF_SIMPLE)
    try:
        kinds = _buffers.array("kinds", kinds, "uint8", length=data.len // PAGE, writable=True)
        PyObject_GetBuffer(kinds, &found, PyBUF_WRITABLE)
        with nogil:
            classify_pages(<const uint8_t *>data.buf, data.len // PAGE, <uint8_t *>found.buf)
        PyBuffer_Release(&found)
    finally:
        PyBuffer_Release(&data)

# cython: boundscheck=False, wraparound=False, cdivision=True
"""CRC32C (Castagnoli) of buffers and of pages."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from xstream.kernels.words cimport PAGE, store32

cdef extern from "crc32c.h" nogil:
    ctypedef uint32_t (*crc_function "xs_crc_function")(uint32_t crc, const uint8_t *data, size_t length) noexcept
    uint32_t crc_generic "xs_crc_generic"(uint32_t crc, const uint8_t *data, size_t length) noexcept
    uint32_t crc_sse42 "xs_crc_sse42"(uint32_t crc, const uint8_t *data, size_t length) noexcept
    uint32_t crc_shift "xs_crc_shift"(uint32_t crc, uint64_t length)
    void crc_setup "xs_crc_setup"()

cdef extern from "cpu.h" nogil:
    bint has_sse42 "xs_cpu_has_sse42"()

crc_setup()
cdef crc_function crc_update = crc_sse42 if has_sse42() else crc_generic


def implementations():
    return ("generic", "sse4.2") if has_sse42() else ("generic",)


def implementation():
    return "generic" if crc_update == crc_generic else "sse4.2"


def use(str name not None):
    global crc_update
    if name not in implementations():
        raise ValueError("no implementation {!r} on this machine".format(name))
    crc_update = crc_generic if name == "generic" else crc_sse42


def crc32c(const uint8_t[::1] data not None, uint32_t value=0):
    with nogil:
        value = ~crc_update(~value, &data[0], data.shape[0])
    return value


def crc32c_pages(const uint8_t[::1] pages not None, uint32_t[::1] out not None):
    cdef Py_ssize_t i
    if pages.shape[0] != out.shape[0] * PAGE:
        raise ValueError("{} bytes of pages for {} checksums".format(pages.shape[0], out.shape[0]))
    with nogil:
        for i in range(out.shape[0]):
            store32(&out[0], i, ~crc_update(0xffffffff, &pages[i * PAGE], PAGE))


def crc32c_combine(uint32_t a, uint32_t b, uint64_t length_b):
    return crc_shift(a, length_b) ^ b


def crc32c_zeros(uint32_t value, uint64_t length):
    return <uint32_t>~crc_shift(~value, length)

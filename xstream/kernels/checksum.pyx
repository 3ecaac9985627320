# cython: boundscheck=False, wraparound=False, cdivision=True
"""CRC32C (Castagnoli) of buffers and of pages."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from xstream.kernels.words cimport PAGE, store32

cdef extern from "crc32c.h" nogil:
    ctypedef uint32_t (*crc_function "xs_crc_function")(uint32_t crc, const uint8_t *data, size_t length) noexcept
    uint32_t crc_shift "xs_crc_shift"(uint32_t crc, uint64_t length)
    void crc_setup "xs_crc_setup"()
    int CRC_IMPLEMENTATIONS "XS_CRC_IMPLEMENTATIONS"
    const char **crc_names "xs_crc_names"
    crc_function crc_implementation "xs_crc_implementation"(int index)

cdef crc_function crc_update = NULL
cdef int chosen = 0


cdef bint choose(int index) noexcept:
    """Use an implementation, if this machine has it; whether it does."""
    global crc_update, chosen
    if crc_implementation(index) == NULL:
        return False
    crc_update = crc_implementation(index)
    chosen = index
    return True


cdef name_of(int index):
    return crc_names[index].decode("ascii")


crc_setup()
for _index in range(CRC_IMPLEMENTATIONS):
    choose(_index)


def implementations():
    return tuple([name_of(index) for index in range(CRC_IMPLEMENTATIONS) if crc_implementation(index) != NULL])


def implementation():
    return name_of(chosen)


def use(str name not None):
    for index in range(CRC_IMPLEMENTATIONS):
        if name_of(index) == name and choose(index):
            return
    raise ValueError("no implementation {!r} on this machine".format(name))


def crc32c(const uint8_t[::1] data not None, uint32_t value=0):
    cdef crc_function update = crc_update
    with nogil:
        value = ~update(~value, &data[0], data.shape[0])
    return value


def crc32c_pages(const uint8_t[::1] pages not None, uint32_t[::1] out not None):
    cdef Py_ssize_t i
    cdef crc_function update = crc_update
    if pages.shape[0] != out.shape[0] * PAGE:
        raise ValueError("{} bytes of pages for {} checksums".format(pages.shape[0], out.shape[0]))
    with nogil:
        for i in range(out.shape[0]):
            store32(&out[0], i, ~update(0xffffffff, &pages[i * PAGE], PAGE))


def crc32c_combine(uint32_t a, uint32_t b, uint64_t length_b):
    return crc_shift(a, length_b) ^ b


def crc32c_zeros(uint32_t value, uint64_t length):
    return <uint32_t>~crc_shift(~value, length)

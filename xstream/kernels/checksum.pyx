# cython: boundscheck=False, wraparound=False, cdivision=True
"""CRC32C (Castagnoli)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static uint32_t crc_table[8][256];
    static void crc_init(void) {
        for (int i = 0; i < 256; i++) { uint32_t c = i; for (int k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ 0x82F63B78u : c >> 1; crc_table[0][i] = c; }
        for (int i = 0; i < 256; i++) for (int k = 1; k < 8; k++) crc_table[k][i] = crc_table[k-1][i] >> 8 ^ crc_table[0][crc_table[k-1][i] & 255];
    }
    static uint32_t crc_run(uint32_t crc, const uint8_t *p, size_t n) {
        crc = ~crc;
        while (n >= 8) { uint64_t w; memcpy(&w, p, 8); w ^= crc;
            crc = crc_table[7][w & 255] ^ crc_table[6][w >> 8 & 255] ^ crc_table[5][w >> 16 & 255] ^ crc_table[4][w >> 24 & 255] ^ crc_table[3][w >> 32 & 255] ^ crc_table[2][w >> 40 & 255] ^ crc_table[1][w >> 48 & 255] ^ crc_table[0][w >> 56];
            p += 8; n -= 8; }
        while (n--) crc = crc >> 8 ^ crc_table[0][(crc ^ *p++) & 255];
        return ~crc;
    }
    static uint32_t times(const uint32_t *m, uint32_t v) { uint32_t s = 0; for (; v; v >>= 1, m++) if (v & 1) s ^= *m; return s; }
    static uint32_t crc_shift(uint32_t crc, uint64_t n) {
        uint32_t op[32], sq[32]; op[0] = 0x82F63B78u; for (int i = 1; i < 32; i++) op[i] = 1u << (i - 1);
        for (int k = 0; k < 3; k++) { for (int i = 0; i < 32; i++) sq[i] = times(op, op[i]); memcpy(op, sq, sizeof op); }
        for (; n; n >>= 1) { if (n & 1) crc = times(op, crc); for (int i = 0; i < 32; i++) sq[i] = times(op, op[i]); memcpy(op, sq, sizeof op); }
        return crc;
    }
    """
    void crc_init()
    uint32_t crc_run(uint32_t crc, const uint8_t *p, size_t n) noexcept nogil
    uint32_t crc_shift(uint32_t crc, uint64_t n) noexcept nogil

crc_init()

def crc32c(const uint8_t[::1] data not None, uint32_t value=0):
    with nogil:
        value = crc_run(value, &data[0], data.shape[0])
    return value

def crc32c_pages(const uint8_t[::1] pages not None, uint32_t[::1] out not None):
    cdef Py_ssize_t i
    if pages.shape[0] != out.shape[0] * 4096:
        raise ValueError("size")
    with nogil:
        for i in range(out.shape[0]):
            out[i] = crc_run(0, &pages[4096 * i], 4096)

def crc32c_combine(uint32_t a, uint32_t b, uint64_t length_b):
    return crc_shift(a, length_b) ^ b

def crc32c_zeros(uint32_t value, uint64_t length):
    return <uint32_t>~crc_shift(<uint32_t>~value, length)

/* CRC32C (polynomial 0x1EDC6F41, reflected 0x82F63B78): by table, and by the instructions of SSE 4.2 and PCLMULQDQ. */
#ifndef XSTREAM_CRC32C_H
#define XSTREAM_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define XS_POLYNOMIAL 0x82F63B78u

static uint32_t xs_crc_table[8][256];
/* xs_crc_power[k]: x to the power of 2^k, modulo the polynomial; bit 31 is x^0. Enough for 2^64 bytes. */
static uint32_t xs_crc_power[67];

/* The product of two polynomials modulo the polynomial. */
static uint32_t xs_crc_multiply(uint32_t a, uint32_t b) {
    uint32_t product = 0;
    for (; a; a <<= 1) {
        if (a & 0x80000000u)
            product ^= b;
        b = b & 1 ? b >> 1 ^ XS_POLYNOMIAL : b >> 1;
    }
    return product;
}

/* x to the power of n. */
static uint32_t xs_crc_x_to(uint64_t n) {
    uint32_t result = 0x80000000u;
    int k;
    for (k = 0; n; n >>= 1, k++)
        if (n & 1)
            result = xs_crc_multiply(xs_crc_power[k], result);
    return result;
}

/* What a CRC becomes when `length` zero bytes follow, but for the inversions at both ends. */
static uint32_t xs_crc_shift(uint32_t crc, uint64_t length) {
    int k;
    for (k = 3; length; length >>= 1, k++) /* from x^8, for a byte has eight bits */
        if (length & 1)
            crc = xs_crc_multiply(xs_crc_power[k], crc);
    return crc;
}

static uint32_t xs_crc_generic(uint32_t crc, const uint8_t *data, size_t length) {
    for (; length >= 8; length -= 8, data += 8) {
        uint32_t low = crc ^ (data[0] | data[1] << 8 | data[2] << 16 | (uint32_t)data[3] << 24);
        crc = xs_crc_table[7][low & 255] ^ xs_crc_table[6][low >> 8 & 255] ^ xs_crc_table[5][low >> 16 & 255] ^
              xs_crc_table[4][low >> 24] ^ xs_crc_table[3][data[4]] ^ xs_crc_table[2][data[5]] ^
              xs_crc_table[1][data[6]] ^ xs_crc_table[0][data[7]];
    }
    for (; length; length--, data++)
        crc = crc >> 8 ^ xs_crc_table[0][(crc ^ *data) & 255];
    return crc;
}

#if defined(__x86_64__)
#include <nmmintrin.h>
#include <wmmintrin.h>

#if defined(__clang__)
#define XS_SSE42 __attribute__((target("sse4.2,crc32,pclmul")))
#else
#define XS_SSE42 __attribute__((target("sse4.2,pclmul")))
#endif

/* A block is three parts side by side, for the instruction takes three cycles and one can begin in each: 3 x 170 words
   and two more are a page. */
#define XS_PART 170
#define XS_BLOCK 4096

static uint64_t xs_crc_over_one, xs_crc_over_two;

XS_SSE42 static uint64_t xs_crc_over(uint64_t crc, uint64_t factor) {
    __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)crc), _mm_cvtsi64_si128((long long)factor), 0);
    return _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

static inline uint64_t xs_word(const uint8_t *data) {
    uint64_t word;
    memcpy(&word, data, 8);
    return word;
}

XS_SSE42 static uint32_t xs_crc_sse42(uint32_t crc32, const uint8_t *data, size_t length) {
    uint64_t crc = crc32;
    for (; length >= XS_BLOCK; length -= XS_BLOCK, data += XS_BLOCK) {
        uint64_t second = 0, third = 0;
        const uint8_t *end = data + 8 * XS_PART, *at;
        for (at = data; at < end; at += 16) {
            _mm_prefetch((const char *)at + 4096, _MM_HINT_T0);
            crc = _mm_crc32_u64(crc, xs_word(at));
            second = _mm_crc32_u64(second, xs_word(at + 8 * XS_PART));
            third = _mm_crc32_u64(third, xs_word(at + 16 * XS_PART));
            crc = _mm_crc32_u64(crc, xs_word(at + 8));
            second = _mm_crc32_u64(second, xs_word(at + 8 * XS_PART + 8));
            third = _mm_crc32_u64(third, xs_word(at + 16 * XS_PART + 8));
        }
        crc = xs_crc_over(crc, xs_crc_over_two) ^ xs_crc_over(second, xs_crc_over_one) ^ third;
        crc = _mm_crc32_u64(crc, xs_word(data + 24 * XS_PART));
        crc = _mm_crc32_u64(crc, xs_word(data + 24 * XS_PART + 8));
    }
    for (; length >= 8; length -= 8, data += 8)
        crc = _mm_crc32_u64(crc, xs_word(data));
    for (; length; length--, data++)
        crc = _mm_crc32_u8((uint32_t)crc, *data);
    return (uint32_t)crc;
}
#else
/* Never chosen. */
#define xs_crc_sse42 xs_crc_generic
#endif

typedef uint32_t (*xs_crc_function)(uint32_t, const uint8_t *, size_t);

static void xs_crc_setup(void) {
    int byte, k;
    for (byte = 0; byte < 256; byte++) {
        uint32_t crc = (uint32_t)byte;
        for (k = 0; k < 8; k++)
            crc = crc & 1 ? crc >> 1 ^ XS_POLYNOMIAL : crc >> 1;
        xs_crc_table[0][byte] = crc;
    }
    for (byte = 0; byte < 256; byte++)
        for (k = 1; k < 8; k++)
            xs_crc_table[k][byte] = xs_crc_table[k - 1][byte] >> 8 ^ xs_crc_table[0][xs_crc_table[k - 1][byte] & 255];
    xs_crc_power[0] = 0x40000000u; /* x */
    for (k = 1; k < 67; k++)
        xs_crc_power[k] = xs_crc_multiply(xs_crc_power[k - 1], xs_crc_power[k - 1]);
#if defined(__x86_64__)
    /* The multiplication of reflected words is off by one bit, and the instruction behind it adds 32. */
    xs_crc_over_one = xs_crc_x_to(64 * XS_PART - 33);
    xs_crc_over_two = xs_crc_x_to(2 * 64 * XS_PART - 33);
#endif
}

#endif

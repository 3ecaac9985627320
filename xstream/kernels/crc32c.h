/* CRC32C (polynomial 0x1EDC6F41, reflected 0x82F63B78): by table, by the CRC32 instruction, and by folding with
   carry-less multiplication.

   Folding: 16 bytes are a polynomial of degree under 128, modulo which the CRC is the same if they are multiplied by
   x^n modulo the CRC's polynomial and added to the 16 bytes that follow n bits later. So a message of any length is
   reduced to 16 bytes, register by register, and the CRC instruction takes those. See Gopal et al., "Fast CRC
   Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009. */
#ifndef XSTREAM_CRC32C_H
#define XSTREAM_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "cpu.h"

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

/* The CRC after `length` more zero bytes, without the inversions at both ends. */
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
#include <immintrin.h>

/* gcc up to 11 has the CRC32 instruction in "sse4.2" and knows no "crc32"; clang needs both. */
#if defined(__clang__)
#define XS_CRC_TARGET "sse4.2,crc32"
#else
#define XS_CRC_TARGET "sse4.2"
#endif
#define XS_SSE42 __attribute__((target(XS_CRC_TARGET)))
#define XS_PCLMUL __attribute__((target(XS_CRC_TARGET ",pclmul")))
#define XS_AVX2 __attribute__((target(XS_CRC_TARGET ",pclmul,avx2,vpclmulqdq")))
#define XS_AVX512 __attribute__((target(XS_CRC_TARGET ",pclmul,avx2,avx512f,vpclmulqdq")))

/* VPCLMULQDQ came with gcc 8 and clang 6. */
#if defined(__clang__) || __GNUC__ >= 8
#define XS_HAVE_VPCLMUL 1
#endif

/* How far ahead to fetch: the CPU's own prefetching stops at the end of each 4 KiB page. Prefetching past the end of
   the data is harmless. */
#define XS_AHEAD 4096
#define XS_FETCH(at) _mm_prefetch((const char *)(at) + XS_AHEAD, _MM_HINT_T0)

static inline uint64_t xs_word(const uint8_t *data) {
    uint64_t word;
    memcpy(&word, data, 8);
    return word;
}

/* One word at a time: what is left over after the blocks. */
XS_SSE42 static uint32_t xs_crc_words(uint32_t crc32, const uint8_t *data, size_t length) {
    uint64_t crc = crc32;
    for (; length >= 8; length -= 8, data += 8)
        crc = _mm_crc32_u64(crc, xs_word(data));
    for (; length; length--, data++)
        crc = _mm_crc32_u8((uint32_t)crc, *data);
    return (uint32_t)crc;
}

/* By the CRC32 instruction alone. It has a latency of three cycles and starts once a cycle, so a block of 4096 bytes is
   three parts side by side, 170 words each, and two more words. */
#define XS_BLOCK 4096
#define XS_PART (8 * 170)
#define XS_QUARTER 1024

/* xs_crc_over[n][k][byte]: what byte k of a CRC becomes after n + 1 parts of zeros. */
static uint32_t xs_crc_over[2][4][256];

static inline uint32_t xs_crc_past(int parts, uint32_t crc) {
    const uint32_t(*table)[256] = xs_crc_over[parts - 1];
    return table[0][crc & 255] ^ table[1][crc >> 8 & 255] ^ table[2][crc >> 16 & 255] ^ table[3][crc >> 24];
}

XS_SSE42 static uint32_t xs_crc_sse42(uint32_t crc32, const uint8_t *data, size_t length) {
    uint64_t crc = crc32;
    for (; length >= XS_BLOCK; length -= XS_BLOCK, data += XS_BLOCK) {
        uint64_t second = 0, third = 0;
        const uint8_t *end = data + XS_PART, *at;
        for (at = data; at < end; at += 16) {
            XS_FETCH(at);
            crc = _mm_crc32_u64(crc, xs_word(at));
            second = _mm_crc32_u64(second, xs_word(at + XS_PART));
            third = _mm_crc32_u64(third, xs_word(at + 2 * XS_PART));
            crc = _mm_crc32_u64(crc, xs_word(at + 8));
            second = _mm_crc32_u64(second, xs_word(at + XS_PART + 8));
            third = _mm_crc32_u64(third, xs_word(at + 2 * XS_PART + 8));
        }
        crc = xs_crc_past(2, (uint32_t)crc) ^ xs_crc_past(1, (uint32_t)second) ^ third;
        crc = _mm_crc32_u64(crc, xs_word(data + 3 * XS_PART));
        crc = _mm_crc32_u64(crc, xs_word(data + 3 * XS_PART + 8));
    }
    return xs_crc_words((uint32_t)crc, data, length);
}

/* Constants to fold the two words of 16 bytes over a number of bits: x^(bits + 31) and x^(bits - 33), because the
   product of two reflected words is shifted by one bit, and the constants have 32 bits. */
typedef struct {
    uint64_t low, high;
} xs_fold;

static xs_fold xs_fold_128, xs_fold_256, xs_fold_384, xs_fold_512, xs_fold_quarter;
/* x^(8 n - 33), for the two parts of a mixed block that the CRC instruction has done: see xs_crc_pclmul. */
static uint64_t xs_mixed_over[3];

static xs_fold xs_fold_over(uint64_t bits) {
    xs_fold fold;
    fold.low = xs_crc_x_to(bits + 31);
    fold.high = xs_crc_x_to(bits - 33);
    return fold;
}

XS_PCLMUL static inline __m128i xs_constants(xs_fold fold) {
    return _mm_set_epi64x((long long)fold.high, (long long)fold.low);
}

XS_PCLMUL static inline __m128i xs_folded(__m128i x, __m128i constants, __m128i next) {
    return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x, constants, 0x00),
                                       _mm_clmulepi64_si128(x, constants, 0x11)), next);
}

XS_PCLMUL static inline __m128i xs_16(const uint8_t *data) {
    return _mm_loadu_si128((const __m128i *)(const void *)data);
}

/* The CRC of a message that was folded to 16 bytes. */
XS_PCLMUL static inline uint32_t xs_crc_of_16(__m128i x) {
    uint64_t crc = _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(x));
    return (uint32_t)_mm_crc32_u64(crc, (uint64_t)_mm_extract_epi64(x, 1));
}

/* The same as xs_crc_past, over the length of factor n. */
XS_PCLMUL static inline uint64_t xs_crc_multiplied(uint64_t crc, uint64_t factor) {
    __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)crc), _mm_cvtsi64_si128((long long)factor), 0);
    return _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

/* By both instructions at once, which different units of the CPU execute: of a block of 4096 bytes the first 1920 are
   folded, 64 in each of 30 rounds; the next 2160 are three parts for the CRC32 instruction, 24 of each part in a round;
   it takes the last 16, too. */
#define XS_FOLDED 1920
#define XS_MIXED 720

XS_PCLMUL static uint32_t xs_crc_pclmul(uint32_t crc, const uint8_t *data, size_t length) {
    const __m128i by_512 = xs_constants(xs_fold_512), by_128 = xs_constants(xs_fold_128);
    for (; length >= XS_BLOCK; length -= XS_BLOCK, data += XS_BLOCK) {
        __m128i a = _mm_xor_si128(xs_16(data), _mm_cvtsi32_si128((int)crc)), b = xs_16(data + 16);
        __m128i c = xs_16(data + 32), d = xs_16(data + 48);
        const uint8_t *at = data + 64, *words = data + XS_FOLDED, *end = data + XS_FOLDED;
        uint64_t first = 0, second = 0, third = 0, all;
        int i;
        for (;;) {
            XS_FETCH(at);
            XS_FETCH(words);
            for (i = 0; i < 24; i += 8) {
                first = _mm_crc32_u64(first, xs_word(words + i));
                second = _mm_crc32_u64(second, xs_word(words + XS_MIXED + i));
                third = _mm_crc32_u64(third, xs_word(words + 2 * XS_MIXED + i));
            }
            words += 24;
            if (at == end)
                break;
            a = xs_folded(a, by_512, xs_16(at));
            b = xs_folded(b, by_512, xs_16(at + 16));
            c = xs_folded(c, by_512, xs_16(at + 32));
            d = xs_folded(d, by_512, xs_16(at + 48));
            at += 64;
        }
        b = xs_folded(a, by_128, b);
        c = xs_folded(b, by_128, c);
        d = xs_folded(c, by_128, d);
        all = xs_crc_multiplied(xs_crc_of_16(d), xs_mixed_over[2]) ^ xs_crc_multiplied(first, xs_mixed_over[1]) ^
              xs_crc_multiplied(second, xs_mixed_over[0]) ^ third;
        all = _mm_crc32_u64(all, xs_word(data + 4080));
        crc = (uint32_t)_mm_crc32_u64(all, xs_word(data + 4088));
    }
    return xs_crc_words(crc, data, length);
}

#ifdef XS_HAVE_VPCLMUL
static inline void xs_fetch_quarters(const uint8_t *data) {
    XS_FETCH(data);
    XS_FETCH(data + XS_QUARTER);
    XS_FETCH(data + 2 * XS_QUARTER);
    XS_FETCH(data + 3 * XS_QUARTER);
}

XS_AVX2 static inline __m256i xs_32(const uint8_t *data) {
    return _mm256_loadu_si256((const __m256i *)(const void *)data);
}

XS_AVX2 static inline __m256i xs_folded_32(__m256i x, __m256i constants, __m256i next) {
    return _mm256_xor_si256(_mm256_xor_si256(_mm256_clmulepi64_epi128(x, constants, 0x00),
                                             _mm256_clmulepi64_epi128(x, constants, 0x11)), next);
}

/* Folds the four quarters of a block side by side, and then one into the next: reading from four places at a time keeps
   more of the memory busy than reading front to back. */
XS_AVX2 static uint32_t xs_crc_avx2(uint32_t crc, const uint8_t *data, size_t length) {
    const __m256i by_256 = _mm256_broadcastsi128_si256(xs_constants(xs_fold_256));
    const __m256i by_quarter = _mm256_broadcastsi128_si256(xs_constants(xs_fold_quarter));
    for (; length >= XS_BLOCK; length -= XS_BLOCK) {
        __m256i a = _mm256_xor_si256(xs_32(data), _mm256_set_epi32(0, 0, 0, 0, 0, 0, 0, (int)crc));
        __m256i b = xs_32(data + XS_QUARTER), c = xs_32(data + 2 * XS_QUARTER), d = xs_32(data + 3 * XS_QUARTER);
        const uint8_t *end = data + XS_QUARTER;
        __m128i last;
        for (data += 32; data < end; data += 32) {
            xs_fetch_quarters(data);
            a = xs_folded_32(a, by_256, xs_32(data));
            b = xs_folded_32(b, by_256, xs_32(data + XS_QUARTER));
            c = xs_folded_32(c, by_256, xs_32(data + 2 * XS_QUARTER));
            d = xs_folded_32(d, by_256, xs_32(data + 3 * XS_QUARTER));
        }
        data += 3 * XS_QUARTER;
        b = xs_folded_32(a, by_quarter, b);
        c = xs_folded_32(b, by_quarter, c);
        d = xs_folded_32(c, by_quarter, d);
        last = xs_folded(_mm256_castsi256_si128(d), xs_constants(xs_fold_128), _mm256_extracti128_si256(d, 1));
        crc = xs_crc_of_16(last);
    }
    return xs_crc_words(crc, data, length);
}

XS_AVX512 static inline __m512i xs_64(const uint8_t *data) {
    return _mm512_loadu_si512((const void *)data);
}

/* 0x96: the exclusive or of three operands. */
XS_AVX512 static inline __m512i xs_folded_64(__m512i x, __m512i constants, __m512i next) {
    return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(x, constants, 0x00),
                                     _mm512_clmulepi64_epi128(x, constants, 0x11), next, 0x96);
}

/* As xs_crc_avx2. */
XS_AVX512 static uint32_t xs_crc_avx512(uint32_t crc, const uint8_t *data, size_t length) {
    const __m512i by_512 = _mm512_broadcast_i32x4(xs_constants(xs_fold_512));
    const __m512i by_quarter = _mm512_broadcast_i32x4(xs_constants(xs_fold_quarter));
    for (; length >= XS_BLOCK; length -= XS_BLOCK) {
        const __m512i start = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (int)crc);
        __m512i a = _mm512_xor_si512(xs_64(data), start), b = xs_64(data + XS_QUARTER);
        __m512i c = xs_64(data + 2 * XS_QUARTER), d = xs_64(data + 3 * XS_QUARTER);
        const uint8_t *end = data + XS_QUARTER;
        __m128i last;
        for (data += 64; data < end; data += 64) {
            xs_fetch_quarters(data);
            a = xs_folded_64(a, by_512, xs_64(data));
            b = xs_folded_64(b, by_512, xs_64(data + XS_QUARTER));
            c = xs_folded_64(c, by_512, xs_64(data + 2 * XS_QUARTER));
            d = xs_folded_64(d, by_512, xs_64(data + 3 * XS_QUARTER));
        }
        data += 3 * XS_QUARTER;
        b = xs_folded_64(a, by_quarter, b);
        c = xs_folded_64(b, by_quarter, c);
        d = xs_folded_64(c, by_quarter, d);
        last = _mm512_extracti32x4_epi32(d, 3);
        last = xs_folded(_mm512_castsi512_si128(d), xs_constants(xs_fold_384), last);
        last = xs_folded(_mm512_extracti32x4_epi32(d, 1), xs_constants(xs_fold_256), last);
        last = xs_folded(_mm512_extracti32x4_epi32(d, 2), xs_constants(xs_fold_128), last);
        crc = xs_crc_of_16(last);
    }
    return xs_crc_words(crc, data, length);
}
#endif

static void xs_crc_setup_x86(void) {
    int parts, k, byte;
    for (parts = 1; parts <= 2; parts++) {
        uint32_t over = xs_crc_x_to((uint64_t)parts * 8 * XS_PART);
        for (k = 0; k < 4; k++)
            for (byte = 0; byte < 256; byte++)
                xs_crc_over[parts - 1][k][byte] = xs_crc_multiply((uint32_t)byte << (8 * k), over);
    }
    xs_fold_128 = xs_fold_over(128);
    xs_fold_256 = xs_fold_over(256);
    xs_fold_384 = xs_fold_over(384);
    xs_fold_512 = xs_fold_over(512);
    xs_fold_quarter = xs_fold_over(8 * XS_QUARTER);
    for (k = 0; k < 3; k++)
        xs_mixed_over[k] = xs_crc_x_to((uint64_t)(k + 1) * 8 * XS_MIXED - 33);
}
#else
static void xs_crc_setup_x86(void) {}
#endif

typedef uint32_t (*xs_crc_function)(uint32_t, const uint8_t *, size_t);

/* The implementation at an index, or NULL if this CPU or the compiler lacks it. They are in order of speed, slowest
   first, on every CPU that has them, so the choice needs no measurement. */
#define XS_CRC_IMPLEMENTATIONS 5

static const char *const xs_crc_names[XS_CRC_IMPLEMENTATIONS] = {"generic", "sse4.2", "pclmul", "vpclmul-avx2",
                                                                 "vpclmul-avx512"};

static xs_crc_function xs_crc_implementation(int index) {
    if (index == 0)
        return xs_crc_generic;
#if defined(__x86_64__)
    if (index == 1 && xs_cpu_has_sse42())
        return xs_crc_sse42;
    if (index == 2 && xs_cpu_has_sse42() && xs_cpu_has_pclmul())
        return xs_crc_pclmul;
#ifdef XS_HAVE_VPCLMUL
    if (index == 3 && xs_cpu_has_vpclmul_avx2())
        return xs_crc_avx2;
    if (index == 4 && xs_cpu_has_vpclmul_avx512())
        return xs_crc_avx512;
#endif
#endif
    return NULL;
}

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
    xs_crc_setup_x86();
}

#endif

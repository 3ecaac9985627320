#ifndef XSTREAM_DELTAS_H
#define XSTREAM_DELTAS_H

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

/* Which of 64 words of 4 bytes differ: bit n for word n. SSE2, which every x86-64 CPU has, is as fast as memory. */
static inline uint64_t xstream_changed_words(const unsigned char *a, const unsigned char *b)
{
    uint64_t changed = 0;
    int i;
#if defined(__SSE2__)
    for (i = 0; i < 4; i++) {
        __m128i equal[4];
        int j;
        for (j = 0; j < 4; j++) {
            const size_t at = (size_t)(64 * i + 16 * j);
            equal[j] = _mm_cmpeq_epi32(_mm_loadu_si128((const __m128i *)(const void *)(a + at)),
                                       _mm_loadu_si128((const __m128i *)(const void *)(b + at)));
        }
        equal[0] = _mm_packs_epi16(_mm_packs_epi32(equal[0], equal[1]), _mm_packs_epi32(equal[2], equal[3]));
        changed |= (uint64_t)(uint16_t)~_mm_movemask_epi8(equal[0]) << (16 * i);
    }
#else
    for (i = 0; i < 64; i++) {
        uint32_t left, right;
        memcpy(&left, a + 4 * i, 4);
        memcpy(&right, b + 4 * i, 4);
        changed |= (uint64_t)(left != right) << i;
    }
#endif
    return changed;
}

/* Index of the lowest set bit; the value must not be 0. */
static inline int xstream_lowest_bit(uint64_t value)
{
    return __builtin_ctzll(value);
}

#endif

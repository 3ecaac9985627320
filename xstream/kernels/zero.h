/* Is a page all zero? */
#ifndef XSTREAM_ZERO_H
#define XSTREAM_ZERO_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <emmintrin.h>

static int xs_is_zero(const uint8_t *page) {
    const __m128i zero = _mm_setzero_si128();
    int at, line;
    for (at = 0; at < 4096; at += 256) {
        __m128i any = zero;
        for (line = 0; line < 256; line += 16)
            any = _mm_or_si128(any, _mm_loadu_si128((const __m128i *)(page + at + line)));
        if (_mm_movemask_epi8(_mm_cmpeq_epi8(any, zero)) != 0xffff)
            return 0;
    }
    return 1;
}

#else

static int xs_is_zero(const uint8_t *page) {
    /* A page whose first byte is zero and that is itself shifted by one is zero throughout. */
    return page[0] == 0 && memcmp(page, page + 1, 4095) == 0;
}

#endif

#endif

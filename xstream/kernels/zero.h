/* Is a page all zero? In plain C, which compilers vectorise for the baseline CPU, and with AVX2, which is as fast as
   memory, so that wider vectors gain nothing. Both stop at the first 256 bytes that aren't all zero. */
#ifndef XSTREAM_ZERO_H
#define XSTREAM_ZERO_H

#include <stdint.h>
#include <string.h>

typedef int (*xs_zero_function)(const uint8_t *page);

static int xs_is_zero_generic(const uint8_t *page) {
    uint64_t words[32], any = 0;
    int at, i;
    for (at = 0; at < 4096 && !any; at += 256) {
        memcpy(words, page + at, 256);
        for (i = 0; i < 32; i++)
            any |= words[i];
    }
    return !any;
}

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2"))) static int xs_is_zero_avx2(const uint8_t *page) {
    int at, line;
    for (at = 0; at < 4096; at += 256) {
        __m256i any = _mm256_setzero_si256();
        /* Most often the next page is scanned next, and the CPU's own prefetching stops at the end of each page. It is
           harmless to prefetch past the memory. */
        for (line = 0; line < 256; line += 64)
            _mm_prefetch((const char *)(page + at + 2048 + line), _MM_HINT_T0);
        for (line = 0; line < 256; line += 32)
            any = _mm256_or_si256(any, _mm256_loadu_si256((const __m256i *)(page + at + line)));
        if (!_mm256_testz_si256(any, any))
            return 0;
    }
    return 1;
}
#else
/* Not used: see xs_cpu_has_avx2. */
#define xs_is_zero_avx2 xs_is_zero_generic
#endif

#endif

/* Copying runs of pages into guest memory, which nobody is about to read. */
#ifndef XSTREAM_PAGECOPY_H
#define XSTREAM_PAGECOPY_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define XS_PAGE 4096

#if defined(__x86_64__)
#include <emmintrin.h>

/* Stores past the caches, four pages side by side: that many streams keep the memory's banks busy, and what is copied
   doesn't push out what is needed. As fast as memcpy() is for hundreds of megabytes at once, but for a batch, where
   memcpy() would still go through the caches. */
static void xs_stream_four(uint8_t *to, const uint8_t *from) {
    size_t at, page, line;
    for (at = 0; at < XS_PAGE; at += 256)
        for (page = 0; page < 4; page++)
            for (line = 0; line < 256; line += 64) {
                const uint8_t *s = from + page * XS_PAGE + at + line;
                __m128i *d = (__m128i *)(to + page * XS_PAGE + at + line);
                __m128i a = _mm_loadu_si128((const __m128i *)s), b = _mm_loadu_si128((const __m128i *)(s + 16));
                __m128i c = _mm_loadu_si128((const __m128i *)(s + 32)), e = _mm_loadu_si128((const __m128i *)(s + 48));
                /* Fetching past the end of the source harms nobody. */
                _mm_prefetch((const char *)(s + 512), _MM_HINT_T0);
                _mm_stream_si128(d, a);
                _mm_stream_si128(d + 1, b);
                _mm_stream_si128(d + 2, c);
                _mm_stream_si128(d + 3, e);
            }
}

static void xs_copy_pages(uint8_t *to, const uint8_t *from, size_t pages) {
    /* A line that is stored in two halves would cost more than it saves. */
    if (pages >= 4 && ((uintptr_t)to & 63) == 0) {
        for (; pages >= 4; pages -= 4, to += 4 * XS_PAGE, from += 4 * XS_PAGE)
            xs_stream_four(to, from);
        _mm_sfence();
    }
    memcpy(to, from, pages * XS_PAGE);
}

#else

static void xs_copy_pages(uint8_t *to, const uint8_t *from, size_t pages) { memcpy(to, from, pages * XS_PAGE); }

#endif

#endif

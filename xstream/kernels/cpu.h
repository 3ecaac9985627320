/* What this CPU can do, at run time. Not by __builtin_cpu_supports: under some compilers it is always false. */
#ifndef XSTREAM_CPU_H
#define XSTREAM_CPU_H

#if defined(__x86_64__)
#include <cpuid.h>
#include <stdint.h>

/* Bits of CPUID that older compilers' cpuid.h has no names for: leaf 1 ECX, and leaf 7 EBX, ECX and EDX. */
#define XS_CPUID_OSXSAVE (1u << 27)
#define XS_CPUID_AVX512F (1u << 16)
#define XS_CPUID_VPCLMULQDQ (1u << 10)
#define XS_CPUID_FSRM (1u << 4)
#define XS_CPUID_INTEL 0x756e6547u /* the first four letters of "GenuineIntel" */

/* Parts of the register state that the operating system saves; without them the instructions fault. */
#define XS_STATE_AVX 0x06u
#define XS_STATE_AVX512 0xe6u

/* The features found, asked for once: under a hypervisor each CPUID takes tens of microseconds. */
typedef struct {
    int known, sse42, pclmul, avx2, vpclmul_avx2, vpclmul_avx512, intel_fsrm;
} xs_cpu;

static inline uint32_t xs_cpu_saved_state(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static inline const xs_cpu *xs_cpu_features(void) {
    static xs_cpu cpu;
    unsigned int a, b, c, d, most, intel, state = 0;
    if (cpu.known)
        return &cpu;
    __cpuid(0, most, b, c, d);
    intel = b == XS_CPUID_INTEL;
    __cpuid(1, a, b, c, d);
    cpu.sse42 = (c & bit_SSE4_2) != 0;
    cpu.pclmul = (c & bit_PCLMUL) != 0;
    if (c & XS_CPUID_OSXSAVE)
        state = xs_cpu_saved_state();
    b = c = d = 0;
    if (most >= 7)
        __cpuid_count(7, 0, a, b, c, d);
    cpu.intel_fsrm = intel && (d & XS_CPUID_FSRM);
    if ((state & XS_STATE_AVX) == XS_STATE_AVX) {
        cpu.avx2 = (b & bit_AVX2) != 0;
        cpu.vpclmul_avx2 = cpu.avx2 && (c & XS_CPUID_VPCLMULQDQ);
        cpu.vpclmul_avx512 = cpu.vpclmul_avx2 && (b & XS_CPUID_AVX512F) && (state & XS_STATE_AVX512) == XS_STATE_AVX512;
    }
    cpu.known = 1;
    return &cpu;
}

static inline int xs_cpu_has_sse42(void) { return xs_cpu_features()->sse42; }
static inline int xs_cpu_has_pclmul(void) { return xs_cpu_features()->pclmul; }
static inline int xs_cpu_has_avx2(void) { return xs_cpu_features()->avx2; }
static inline int xs_cpu_has_vpclmul_avx2(void) { return xs_cpu_features()->vpclmul_avx2; }
static inline int xs_cpu_has_vpclmul_avx512(void) { return xs_cpu_features()->vpclmul_avx512; }
/* An Intel CPU with "fast short REP MOVSB", the instruction with which Linux then copies to and from user memory. */
static inline int xs_cpu_has_intel_fsrm(void) { return xs_cpu_features()->intel_fsrm; }

#else

static inline int xs_cpu_has_sse42(void) { return 0; }
static inline int xs_cpu_has_pclmul(void) { return 0; }
static inline int xs_cpu_has_avx2(void) { return 0; }
static inline int xs_cpu_has_vpclmul_avx2(void) { return 0; }
static inline int xs_cpu_has_vpclmul_avx512(void) { return 0; }
static inline int xs_cpu_has_intel_fsrm(void) { return 0; }

#endif

#endif

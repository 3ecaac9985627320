/* Loads and stores of words at any alignment, in memory that something else may be changing.

   A mapped file, and a caller's array, can change between a check and the use of what was checked. Each function here
   loads exactly once: the access is volatile, so the compiler may not load the value again later on. The packed types
   make accesses at any alignment legal. */
#ifndef XSTREAM_WORDS_H
#define XSTREAM_WORDS_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t value;
} __attribute__((packed, may_alias)) xs_unaligned64;

typedef struct {
    uint32_t value;
} __attribute__((packed, may_alias)) xs_unaligned32;

static inline uint8_t xs_load8(const void *items, ptrdiff_t index) {
    return ((const volatile uint8_t *)items)[index];
}

static inline uint32_t xs_load32(const void *items, ptrdiff_t index) {
    return ((const volatile xs_unaligned32 *)items)[index].value;
}

static inline uint64_t xs_load64(const void *items, ptrdiff_t index) {
    return ((const volatile xs_unaligned64 *)items)[index].value;
}

static inline void xs_store32(void *items, ptrdiff_t index, uint32_t value) {
    ((xs_unaligned32 *)items)[index].value = value;
}

static inline void xs_store64(void *items, ptrdiff_t index, uint64_t value) {
    ((xs_unaligned64 *)items)[index].value = value;
}

#endif

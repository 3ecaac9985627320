"""What several kernels share: loads and stores at any alignment, PFN words, the states of PFNs, runs of PFNs.

A PFN word has the page type in bits 63-60 and the PFN in bits 51-0. The state of a PFN is one byte; pfns.pyi describes
its bits.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "words.h" nogil:
    # `index` counts items of the size loaded or stored. Each load happens exactly once: see words.h.
    uint8_t load8 "xs_load8"(const void *items, Py_ssize_t index)
    uint32_t load32 "xs_load32"(const void *items, Py_ssize_t index)
    uint64_t load64 "xs_load64"(const void *items, Py_ssize_t index)
    void store32 "xs_store32"(void *items, Py_ssize_t index, uint32_t value)
    void store64 "xs_store64"(void *items, Py_ssize_t index, uint64_t value)

cdef enum:
    PAGE = 4096

    # Bits of a PFN's state.
    MENTIONED = 0x80
    POPULATED = 0x40
    SENT = 0x20

    # Page types.
    BROKEN = 0xD
    XALLOC = 0xE
    XTAB = 0xF


cdef inline uint64_t pfn_of(uint64_t word) noexcept nogil:
    return (word << 12) >> 12


cdef inline int type_of(uint64_t word) noexcept nogil:
    return <int>(word >> 60)


cdef inline bint is_reserved_type(uint64_t word) noexcept nogil:
    """Whether a word has one of the types 5 to 8, which Xen's specification reserves."""
    return 4 < type_of(word) < 9


cdef inline bint carries_data(uint64_t word) noexcept nogil:
    """Whether a page follows for this word: types 0 to 4 and 9 to 12."""
    return type_of(word) < 5 or 8 < type_of(word) < 13


cdef inline bint populates(uint64_t word) noexcept nogil:
    """Whether a restore needs a frame for this word: types that carry data, and XALLOC."""
    return type_of(word) != BROKEN and type_of(word) != XTAB


cdef inline uint8_t type_in(uint8_t state) noexcept nogil:
    """The page type kept in a PFN's state."""
    return (state & 0xF) ^ XTAB


cdef struct Run:
    # Consecutive PFNs: the first, and how many.
    uint64_t first
    Py_ssize_t length


cdef inline Run run_at(const uint64_t *pfns, Py_ssize_t i, Py_ssize_t count) noexcept nogil:
    """The longest run of consecutive PFNs that begins at index `i`, which must be under `count`."""
    cdef Run run = Run(load64(pfns, i), 1)
    cdef uint64_t next_pfn = run.first + 1
    while next_pfn and i + run.length < count and load64(pfns, i + run.length) == next_pfn:
        run.length += 1
        next_pfn += 1
    return run


cdef inline bint run_fits(Run run, uint64_t end) noexcept nogil:
    """Whether every PFN of a run is under `end`."""
    return run.first < end and <uint64_t>run.length <= end - run.first


cdef inline Py_ssize_t first_outside(const uint64_t *pfns, Py_ssize_t count, uint64_t end) noexcept nogil:
    """Index of the first PFN of `end` or more, or -1.

    The array may change afterwards: check again whatever you load from it later.
    """
    cdef Py_ssize_t i
    for i in range(count):
        if load64(pfns, i) >= end:
            return i
    return -1

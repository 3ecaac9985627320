# cython: boundscheck=False, wraparound=False, cdivision=True
"""Which frame a PFN has: lookups in p2m and m2p arrays, and which PFNs still need a frame."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from xstream.kernels import buffers as _buffers

cdef extern from "pagetables.h" nogil:
    uint64_t NO_FRAME "XSTREAM_NO_FRAME"

cdef enum:
    POPULATED = 0x40
    XTAB = 0xF
    BROKEN = 0xD
    PFN_BITS = 52
    NO_FRAME_32 = 0xFFFFFFFF

INVALID = NO_FRAME


cdef inline uint64_t load(const uint8_t *words, Py_ssize_t index) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, words + 8 * index, 8)
    return word


cdef inline uint64_t pfn_of(uint64_t word) noexcept nogil:
    return word & ((<uint64_t>1 << PFN_BITS) - 1)


cdef inline bint populates(uint64_t word) noexcept nogil:
    cdef int page_type = <int>(word >> 60)
    return page_type != BROKEN and page_type != XTAB


def lookup(table, numbers, out):
    cdef const uint64_t[::1] entries = _buffers.array("table", table, "uint64")
    cdef const uint64_t[::1] wanted = _buffers.array("numbers", numbers, "uint64")
    cdef uint64_t[::1] found = _buffers.array("out", out, "uint64", length=wanted.shape[0], writable=True)
    cdef uint64_t end = entries.shape[0]
    cdef Py_ssize_t i
    with nogil:
        for i in range(wanted.shape[0]):
            found[i] = entries[wanted[i]] if wanted[i] < end else NO_FRAME


def types_at(state, numbers, types):
    cdef const uint8_t[::1] states = _buffers.array("state", state, "uint8")
    cdef const uint64_t[::1] wanted = _buffers.array("numbers", numbers, "uint64")
    cdef uint8_t[::1] found = _buffers.array("types", types, "uint8", length=wanted.shape[0], writable=True)
    cdef uint64_t end = states.shape[0]
    cdef Py_ssize_t i
    with nogil:
        for i in range(wanted.shape[0]):
            found[i] = (states[wanted[i]] & XTAB) ^ XTAB if wanted[i] < end else <uint8_t>XTAB


def changed(old, new, bitmap):
    cdef const uint64_t[::1] before = _buffers.array("old", old, "uint64")
    cdef const uint64_t[::1] after = _buffers.array("new", new, "uint64", length=before.shape[0])
    cdef uint8_t[::1] bits = _buffers.octets("bitmap", bitmap, writable=True)
    cdef Py_ssize_t i, found = 0
    if bits.shape[0] < (before.shape[0] + 7) // 8:
        raise ValueError("bitmap of {} bytes for {} entries".format(bits.shape[0], before.shape[0]))
    with nogil:
        for i in range(before.shape[0]):
            if before[i] != after[i]:
                bits[i >> 3] |= 1 << (i & 7)
                found += 1
    return found


def widen(entries, out):
    cdef uint64_t[::1] frames = _buffers.array("out", out, "uint64", writable=True)
    cdef const uint8_t[::1] narrow_ones = _buffers.octets("entries", entries, size=4 * frames.shape[0])
    cdef uint32_t entry
    cdef Py_ssize_t i
    with nogil:
        for i in range(frames.shape[0]):
            memcpy(&entry, &narrow_ones[4 * i], 4)
            frames[i] = NO_FRAME if entry == <uint32_t>NO_FRAME_32 else entry


cdef inline bint fits_32_bits(uint64_t frame) noexcept nogil:
    return frame < <uint64_t>NO_FRAME_32 or frame == NO_FRAME


cdef Py_ssize_t first_wide(const uint64_t[::1] frames) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(frames.shape[0]):
        if not fits_32_bits(frames[i]):
            return i
    return -1


def narrow(table, entries):
    cdef const uint64_t[::1] frames = _buffers.array("table", table, "uint64")
    cdef uint8_t[::1] narrow_ones = _buffers.octets("entries", entries, size=4 * frames.shape[0], writable=True)
    cdef uint32_t entry
    cdef Py_ssize_t i = first_wide(frames)
    if i >= 0:
        raise ValueError("frame {:#x} (entry {}) takes more than 32 bits".format(frames[i], i))
    with nogil:
        for i in range(frames.shape[0]):
            entry = <uint32_t>frames[i]
            memcpy(&narrow_ones[4 * i], &entry, 4)


cdef Py_ssize_t first_outside(const uint8_t *words, Py_ssize_t count, uint64_t end) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        if pfn_of(load(words, i)) >= end:
            return i
    return -1


cdef Py_ssize_t claim_words(const uint8_t *words, Py_ssize_t count, uint8_t *state, uint64_t[::1] pfns) noexcept nogil:
    cdef Py_ssize_t i, found = 0
    cdef uint64_t word
    for i in range(count):
        word = load(words, i)
        if populates(word) and not state[pfn_of(word)] & POPULATED:
            state[pfn_of(word)] |= POPULATED
            pfns[found] = pfn_of(word)
            found += 1
    return found


def claim(words, state, pfns):
    cdef const uint8_t[::1] batch = _buffers.octets("words", words)
    cdef uint8_t[::1] states = _buffers.array("state", state, "uint8", writable=True)
    cdef Py_ssize_t count = batch.shape[0] // 8, bad, found
    cdef uint64_t[::1] claimed = _buffers.array("pfns", pfns, "uint64", length=count, writable=True)
    if batch.shape[0] % 8:
        raise ValueError("words must hold whole words of 8 bytes, not {} bytes".format(batch.shape[0]))
    if count == 0:
        return 0
    with nogil:
        bad = first_outside(&batch[0], count, states.shape[0])
    if bad >= 0:
        raise IndexError("PFN {:#x} (index {}) past the {} of the state".format(
            pfn_of(load(&batch[0], bad)), bad, states.shape[0]))
    with nogil:
        found = claim_words(&batch[0], count, &states[0], claimed)
    return found


def assign(table, numbers, values):
    cdef uint64_t[::1] entries = _buffers.array("table", table, "uint64", writable=True)
    cdef const uint64_t[::1] wanted = _buffers.array("numbers", numbers, "uint64")
    cdef const uint64_t[::1] new = _buffers.array("values", values, "uint64", length=wanted.shape[0])
    cdef Py_ssize_t i
    for i in range(wanted.shape[0]):
        if wanted[i] >= <uint64_t>entries.shape[0]:
            raise IndexError("number {} (index {}) past the {} of the table".format(wanted[i], i, entries.shape[0]))
    with nogil:
        for i in range(wanted.shape[0]):
            entries[wanted[i]] = new[i]


def populated_only(table, state, out):
    cdef const uint64_t[::1] entries = _buffers.array("table", table, "uint64")
    cdef const uint8_t[::1] states = _buffers.array("state", state, "uint8", length=entries.shape[0])
    cdef uint64_t[::1] copy = _buffers.array("out", out, "uint64", length=entries.shape[0], writable=True)
    cdef Py_ssize_t i
    with nogil:
        for i in range(entries.shape[0]):
            copy[i] = entries[i] if states[i] & POPULATED else NO_FRAME

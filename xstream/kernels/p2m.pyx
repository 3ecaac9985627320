# cython: boundscheck=False, wraparound=False, cdivision=True
"""Which frame a PFN has: lookups in p2m and m2p arrays, and which PFNs still need a frame."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from xstream.kernels cimport words as common
from xstream.kernels.words cimport (XTAB, first_outside, load8, load32, load64, pfn_of, populates, store32, store64,
                                    type_in)

from xstream.kernels import buffers as _buffers

cdef extern from "pagetables.h" nogil:
    uint64_t NO_FRAME "XSTREAM_NO_FRAME"

cdef enum:
    NO_FRAME_32 = 0xFFFFFFFF

INVALID = NO_FRAME


def lookup(table, numbers, out):
    cdef const uint64_t[::1] entries = _buffers.array("table", table, "uint64")
    cdef const uint64_t[::1] wanted = _buffers.array("numbers", numbers, "uint64")
    cdef uint64_t[::1] found = _buffers.array("out", out, "uint64", length=wanted.shape[0], writable=True)
    cdef uint64_t number, end = entries.shape[0]
    cdef Py_ssize_t i
    with nogil:
        for i in range(wanted.shape[0]):
            number = load64(&wanted[0], i)
            store64(&found[0], i, load64(&entries[0], number) if number < end else NO_FRAME)


def types_at(state, numbers, types):
    cdef const uint8_t[::1] states = _buffers.array("state", state, "uint8")
    cdef const uint64_t[::1] wanted = _buffers.array("numbers", numbers, "uint64")
    cdef uint8_t[::1] found = _buffers.array("types", types, "uint8", length=wanted.shape[0], writable=True)
    cdef uint64_t number, end = states.shape[0]
    cdef Py_ssize_t i
    with nogil:
        for i in range(wanted.shape[0]):
            number = load64(&wanted[0], i)
            found[i] = type_in(load8(&states[0], number)) if number < end else <uint8_t>XTAB


def changed(old, new, bitmap):
    cdef const uint64_t[::1] before = _buffers.array("old", old, "uint64")
    cdef const uint64_t[::1] after = _buffers.array("new", new, "uint64", length=before.shape[0])
    cdef uint8_t[::1] bits = _buffers.octets("bitmap", bitmap, writable=True)
    cdef Py_ssize_t i, found = 0
    if bits.shape[0] < (before.shape[0] + 7) // 8:
        raise ValueError("bitmap of {} bytes for {} entries".format(bits.shape[0], before.shape[0]))
    with nogil:
        for i in range(before.shape[0]):
            if load64(&before[0], i) != load64(&after[0], i):
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
            entry = load32(&narrow_ones[0], i)
            store64(&frames[0], i, NO_FRAME if entry == <uint32_t>NO_FRAME_32 else entry)


cdef inline bint fits_32_bits(uint64_t frame) noexcept nogil:
    return frame < <uint64_t>NO_FRAME_32 or frame == NO_FRAME


cdef Py_ssize_t first_wide(const uint64_t[::1] frames) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(frames.shape[0]):
        if not fits_32_bits(load64(&frames[0], i)):
            return i
    return -1


def narrow(table, entries):
    cdef const uint64_t[::1] frames = _buffers.array("table", table, "uint64")
    cdef uint8_t[::1] narrow_ones = _buffers.octets("entries", entries, size=4 * frames.shape[0], writable=True)
    cdef Py_ssize_t i, bad
    with nogil:
        bad = first_wide(frames)
        for i in range(frames.shape[0] if bad < 0 else 0):
            store32(&narrow_ones[0], i, <uint32_t>load64(&frames[0], i))
    if bad >= 0:
        raise ValueError("frame {:#x} (entry {}) takes more than 32 bits".format(load64(&frames[0], bad), bad))


cdef Py_ssize_t first_word_outside(const uint8_t *words, Py_ssize_t count, uint64_t end) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        if pfn_of(load64(words, i)) >= end:
            return i
    return -1


cdef Py_ssize_t claim_words(const uint8_t[::1] words, uint8_t[::1] state, uint64_t[::1] pfns,
                            Py_ssize_t *found) noexcept nogil:
    """Claim; the index of the first word past the state, or -1. The words have been checked, but may have changed."""
    cdef Py_ssize_t i
    cdef uint64_t word, pfn
    for i in range(words.shape[0] // 8):
        word = load64(&words[0], i)
        pfn = pfn_of(word)
        if pfn >= <uint64_t>state.shape[0]:
            return i
        if populates(word) and not load8(&state[0], pfn) & common.POPULATED:
            state[pfn] |= common.POPULATED
            store64(&pfns[0], found[0], pfn)
            found[0] += 1
    return -1


def claim(words, state, pfns):
    cdef const uint8_t[::1] batch = _buffers.octets("words", words)
    cdef uint8_t[::1] states = _buffers.array("state", state, "uint8", writable=True)
    cdef Py_ssize_t count = batch.shape[0] // 8, bad, found = 0
    cdef uint64_t[::1] claimed = _buffers.array("pfns", pfns, "uint64", length=count, writable=True)
    if batch.shape[0] % 8:
        raise ValueError("words must hold whole words of 8 bytes, not {} bytes".format(batch.shape[0]))
    with nogil:
        bad = first_word_outside(&batch[0], count, states.shape[0])
        if bad < 0:
            bad = claim_words(batch, states, claimed, &found)
    if bad >= 0:
        raise IndexError("PFN {:#x} (index {}) past the {} of the state".format(
            pfn_of(load64(&batch[0], bad)), bad, states.shape[0]))
    return found


def assign(table, numbers, values):
    cdef uint64_t[::1] entries = _buffers.array("table", table, "uint64", writable=True)
    cdef const uint64_t[::1] wanted = _buffers.array("numbers", numbers, "uint64")
    cdef const uint64_t[::1] new = _buffers.array("values", values, "uint64", length=wanted.shape[0])
    cdef Py_ssize_t i, bad
    cdef uint64_t number, end = entries.shape[0]
    with nogil:
        bad = first_outside(&wanted[0], wanted.shape[0], end)
        for i in range(wanted.shape[0] if bad < 0 else 0):
            number = load64(&wanted[0], i)
            if number >= end:  # it has changed since it was checked
                bad = i
                break
            store64(&entries[0], number, load64(&new[0], i))
    if bad >= 0:
        raise IndexError("number {} (index {}) past the {} of the table".format(load64(&wanted[0], bad), bad, end))


def populated_only(table, state, out):
    cdef const uint64_t[::1] entries = _buffers.array("table", table, "uint64")
    cdef const uint8_t[::1] states = _buffers.array("state", state, "uint8", length=entries.shape[0])
    cdef uint64_t[::1] copy = _buffers.array("out", out, "uint64", length=entries.shape[0], writable=True)
    cdef Py_ssize_t i
    with nogil:
        for i in range(entries.shape[0]):
            store64(&copy[0], i, load64(&entries[0], i) if states[i] & common.POPULATED else NO_FRAME)

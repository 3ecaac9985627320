# cython: boundscheck=False, wraparound=False, cdivision=True
"""Runs of framed page batches: many small records at the cost of one call.

A batch is a frame (type u32, length u32) whose body is count u32, reserved u32, count PFN words and a page for each
word that carries data. The scan vouches for the good ones it passes and stops in front of anything else; it says
nothing about what is wrong there.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "pagecopy.h" nogil:
    ctypedef struct copies_held "xs_copies":
        int held
    void copy_page "xs_copy_page"(copies_held *copies, unsigned char *to, const unsigned char *source)
    void finish_copies "xs_finish_copies"(copies_held *copies)


cdef inline bint carries_data(uint64_t word) noexcept nogil:
    cdef uint64_t page_type = word >> 60
    return page_type < 5 or 8 < page_type < 13


cdef inline bint word_is_good(uint64_t word, uint64_t pfn_end, bint strict) noexcept nogil:
    cdef uint64_t page_type = word >> 60
    if 4 < page_type < 9 or ((word << 12) >> 12) >= pfn_end:
        return False
    return not (strict and ((word >> 52) & 0xff))


cdef Py_ssize_t scan_batch(const unsigned char *batch, Py_ssize_t available, uint32_t frame_type, uint32_t length_limit,
                           uint64_t pfn_end, bint strict, Py_ssize_t room, uint64_t *pages) noexcept nogil:
    """Words in the batch that stands here, or 0 where none does that is whole and good and has at most `room` words."""
    cdef uint32_t head[4]
    cdef uint64_t word
    cdef Py_ssize_t i
    if available < 16:
        return 0
    memcpy(head, batch, 16)
    if head[0] != frame_type or head[1] > length_limit or head[2] == 0 or (strict and head[3]):
        return 0
    if head[2] > room or <Py_ssize_t>head[1] + 8 > available or 8 + 8 * <uint64_t>head[2] > head[1]:
        return 0
    pages[0] = 0
    for i in range(head[2]):
        memcpy(&word, batch + 16 + 8 * i, 8)
        if not word_is_good(word, pfn_end, strict):
            return 0
        pages[0] += carries_data(word)
    return head[2] if head[1] == 8 + 8 * <uint64_t>head[2] + 4096 * pages[0] else 0


def scan(const unsigned char[::1] data not None, uint32_t frame_type, uint32_t length_limit, uint64_t pfn_end,
         bint strict, unsigned char[::1] words not None, uint64_t[::1] extents not None):
    cdef Py_ssize_t end = data.shape[0], position = 0, used = 0, records = 0, found
    cdef Py_ssize_t room = words.shape[0] // 8, most = extents.shape[0] // 2
    cdef uint64_t pages = 0, total = 0
    with nogil:
        while records < most and position < end:
            found = scan_batch(&data[position], end - position, frame_type, length_limit, pfn_end, strict, room - used,
                               &pages)
            if found == 0:
                break
            memcpy(&words[8 * used], &data[position + 16], 8 * found)
            position += 16 + 8 * found
            extents[2 * records] = position
            extents[2 * records + 1] = pages
            position += 4096 * pages
            used += found
            total += pages
            records += 1
    return records, position, used, total


def scatter(unsigned char[::1] memory not None, const uint64_t[::1] pfns not None,
            const unsigned char[::1] data not None, const uint64_t[::1] extents not None):
    cdef Py_ssize_t bad
    if extents.shape[0] % 2:
        raise ValueError("extents come in pairs of offset and pages")
    with nogil:
        bad = check_extents(extents, data.shape[0], pfns, memory.shape[0] // 4096)
        if bad < 0:
            copy_extents(memory, pfns, data, extents)
    if bad >= 0:
        raise IndexError("extent or PFN {} lies outside its buffer".format(bad))


cdef Py_ssize_t check_extents(const uint64_t[::1] extents, Py_ssize_t size, const uint64_t[::1] pfns,
                              Py_ssize_t guest_pages) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint64_t total = 0, room
    for i in range(extents.shape[0] // 2):
        if extents[2 * i] > <uint64_t>size:
            return i
        room = (<uint64_t>size - extents[2 * i]) // 4096
        if extents[2 * i + 1] > room:
            return i
        total += extents[2 * i + 1]
        if total > <uint64_t>pfns.shape[0]:
            return i
    for i in range(pfns.shape[0]):
        if pfns[i] >= <uint64_t>guest_pages:
            return i
    return -1


cdef void copy_extents(unsigned char[::1] memory, const uint64_t[::1] pfns, const unsigned char[::1] data,
                       const uint64_t[::1] extents) noexcept nogil:
    cdef Py_ssize_t i, at = 0
    cdef uint64_t page
    cdef copies_held copies
    copies.held = 0
    for i in range(extents.shape[0] // 2):
        for page in range(extents[2 * i + 1]):
            copy_page(&copies, &memory[4096 * pfns[at]], &data[extents[2 * i] + 4096 * page])
            at += 1
    finish_copies(&copies)

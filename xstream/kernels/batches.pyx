# cython: boundscheck=False, wraparound=False, cdivision=True
"""Runs of framed page batches: many small records at the cost of one call.

A batch is a frame (type u32, length u32) whose body is count u32, reserved u32, count PFN words and a page for each
word that carries data. The scan passes good batches and stops at anything else; it doesn't say what is wrong there.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from xstream.kernels.words cimport PAGE, carries_data, first_outside, is_reserved_type, load32, load64, pfn_of, store64

cdef extern from "pagecopy.h" nogil:
    ctypedef struct copies_held "xs_copies":
        int held
    void copy_page "xs_copy_page"(copies_held *copies, unsigned char *to, const unsigned char *source)
    void finish_copies "xs_finish_copies"(copies_held *copies)

cdef enum:
    HEAD_BYTES = 16  # of a frame and its body, up to the first word


cdef struct Rules:
    # What makes a batch good: see batches.pyi.
    uint32_t frame_type
    uint32_t length_limit
    uint64_t pfn_end
    bint strict


cdef inline bint word_is_good(uint64_t word, const Rules *rules) noexcept nogil:
    if is_reserved_type(word) or pfn_of(word) >= rules.pfn_end:
        return False
    return not (rules.strict and ((word >> 52) & 0xff))


cdef Py_ssize_t scan_batch(const uint8_t *batch, Py_ssize_t available, uint64_t left, const Rules *rules,
                           uint8_t *words, Py_ssize_t room, uint64_t *pages) noexcept nogil:
    """Copy the words of the batch at `batch`; how many. 0 unless it is whole and good and has at most `room` words.

    `available` bytes can be read there; `left` are left of the stream. Each word is loaded once, and what is copied is
    what was checked.
    """
    cdef uint64_t length, count, word
    cdef Py_ssize_t i
    if available < HEAD_BYTES:
        return 0
    length = load32(batch, 1)
    count = load32(batch, 2)
    if load32(batch, 0) != rules.frame_type or length > rules.length_limit or (rules.strict and load32(batch, 3)):
        return 0
    if count == 0 or count > <uint64_t>room or length + 8 > left or 8 + 8 * count > length:
        return 0
    if HEAD_BYTES + 8 * count > <uint64_t>available:
        return 0
    pages[0] = 0
    for i in range(<Py_ssize_t>count):
        word = load64(batch + HEAD_BYTES, i)
        if not word_is_good(word, rules):
            return 0
        pages[0] += carries_data(word)
        store64(words, i, word)
    return <Py_ssize_t>count if length == 8 + 8 * count + PAGE * pages[0] else 0


def scan(const uint8_t[::1] data not None, uint32_t frame_type, uint32_t length_limit, uint64_t pfn_end, bint strict,
         uint8_t[::1] words not None, uint64_t[::1] extents not None):
    cdef Py_ssize_t end = data.shape[0], position = 0, used = 0, records = 0, found
    cdef Py_ssize_t room = words.shape[0] // 8, most = extents.shape[0] // 2
    cdef uint64_t pages = 0, total = 0
    cdef Rules rules = Rules(frame_type, length_limit, pfn_end, strict)
    with nogil:
        while records < most and position < end:
            found = scan_batch(&data[position], end - position, end - position, &rules, &words[8 * used], room - used,
                               &pages)
            if found == 0:
                break
            position += HEAD_BYTES + 8 * found
            store64(&extents[0], 2 * records, position)
            store64(&extents[0], 2 * records + 1, pages)
            position += PAGE * pages
            used += found
            total += pages
            records += 1
    return records, position, used, total


cdef struct Place:
    # In data with holes.
    uint64_t position
    Py_ssize_t hole  # the next one


cdef inline uint64_t next_hole(const uint64_t[::1] holes, const Place *place, uint64_t end) noexcept nogil:
    """Where the data from a place on ends: at the next hole, or at its end."""
    cdef uint64_t at = load64(&holes[0], 2 * place.hole) if place.hole < holes.shape[0] // 2 else end
    return at if place.position <= at <= end else place.position


cdef bint pass_pages(const uint64_t[::1] holes, uint64_t end, uint64_t size, Place *place) noexcept nogil:
    """Move a place past `size` bytes of data and holes; False if that would be within a hole or after the end."""
    cdef uint64_t step, hole
    while True:
        step = next_hole(holes, place, end) - place.position
        if step >= size:
            place.position += size
            return True
        if place.hole == holes.shape[0] // 2:
            return False
        hole = load64(&holes[0], 2 * place.hole + 1)
        if hole > size - step:
            return False
        place.position += step
        place.hole += 1
        size -= step + hole


def scan_sparse(const uint8_t[::1] data not None, const uint64_t[::1] holes not None, uint32_t frame_type,
                uint32_t length_limit, uint64_t pfn_end, bint strict, uint8_t[::1] words not None):
    cdef uint64_t end = data.shape[0]
    cdef Py_ssize_t room = words.shape[0] // 8, used = 0, records = 0, found
    cdef uint64_t pages = 0, total = 0
    cdef Place place = Place(0, 0), after
    cdef Rules rules = Rules(frame_type, length_limit, pfn_end, strict)
    with nogil:
        while place.position < end:
            found = scan_batch(&data[place.position], next_hole(holes, &place, end) - place.position, <uint64_t>-1,
                               &rules, &words[8 * used], room - used, &pages)
            if found == 0:
                break
            after = place
            after.position += HEAD_BYTES + 8 * found
            if not pass_pages(holes, end, PAGE * pages, &after):
                break
            place = after
            used += found
            total += pages
            records += 1
    return records, 8 * used + HEAD_BYTES * records + PAGE * total, used, total


cdef inline bint extent_fits(uint64_t offset, uint64_t pages, uint64_t size) noexcept nogil:
    return offset <= size and pages <= (size - offset) // PAGE


cdef Py_ssize_t bad_extent(const uint64_t[::1] extents, uint64_t size, uint64_t count) noexcept nogil:
    """Index of the first extent outside the data, or with more pages than there are PFNs left; or -1."""
    cdef Py_ssize_t i
    cdef uint64_t pages
    for i in range(extents.shape[0] // 2):
        pages = load64(&extents[0], 2 * i + 1)
        if pages > count or not extent_fits(load64(&extents[0], 2 * i), pages, size):
            return i
        count -= pages
    return -1


cdef Py_ssize_t copy_extents(uint8_t[::1] memory, const uint64_t[::1] pfns, const uint8_t[::1] data,
                             const uint64_t[::1] extents) noexcept nogil:
    """Copy; the index of the first PFN that lies outside the memory, or -1.

    PFNs and extents have been checked, but they may have changed since.
    """
    cdef Py_ssize_t i, at = 0, outside = -1
    cdef uint64_t offset, pages, page, pfn
    cdef copies_held copies
    copies.held = 0
    for i in range(extents.shape[0] // 2):
        offset = load64(&extents[0], 2 * i)
        pages = load64(&extents[0], 2 * i + 1)
        if pages > <uint64_t>(pfns.shape[0] - at) or not extent_fits(offset, pages, data.shape[0]):
            outside = at
            break
        for page in range(pages):
            pfn = load64(&pfns[0], at)
            if pfn >= <uint64_t>(memory.shape[0] // PAGE):
                outside = at
                break
            copy_page(&copies, &memory[PAGE * pfn], &data[offset + PAGE * page])
            at += 1
        if outside >= 0:
            break
    finish_copies(&copies)
    return outside


def scatter(uint8_t[::1] memory not None, const uint64_t[::1] pfns not None, const uint8_t[::1] data not None,
            const uint64_t[::1] extents not None):
    cdef Py_ssize_t bad
    if extents.shape[0] % 2:
        raise ValueError("extents are pairs of offset and pages, not {} numbers".format(extents.shape[0]))
    with nogil:
        bad = bad_extent(extents, data.shape[0], pfns.shape[0])
    if bad >= 0:
        raise IndexError("extent {} lies outside the data, or has more pages than there are PFNs".format(bad))
    with nogil:
        bad = first_outside(&pfns[0], pfns.shape[0], memory.shape[0] // PAGE)
        if bad < 0:
            bad = copy_extents(memory, pfns, data, extents)
    if bad >= 0:
        raise IndexError("PFN at index {} is past the {} pages of the memory".format(bad, memory.shape[0] // PAGE))

# cython: boundscheck=False, wraparound=False, cdivision=True
"""PFN words, page types and dirty bitmaps."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

cdef extern from * nogil:
    int bits_in "__builtin_popcountll"(unsigned long long word)
    int lowest_bit "__builtin_ctzll"(unsigned long long word)

BAD_TYPE = 1
BAD_PFN = 2
BAD_RESERVED = 3

MENTIONED = 0x80
POPULATED = 0x40
SENT = 0x20

cdef enum:
    _MENTIONED = 0x80
    _POPULATED = 0x40
    _SENT = 0x20


cdef inline uint64_t load(const uint8_t *words, Py_ssize_t i) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, words + 8 * i, 8)
    return word


cdef inline uint64_t pfn_of(uint64_t word) noexcept nogil:
    return (word << 12) >> 12


cdef inline bint carries_data(uint64_t word) noexcept nogil:
    cdef uint64_t page_type = word >> 60
    return page_type < 5 or 8 < page_type < 13


cdef Py_ssize_t word_count(const uint8_t[::1] words) except -1:
    if words.shape[0] % 8:
        raise ValueError("PFN words come in 8 bytes each, not {}".format(words.shape[0]))
    return words.shape[0] // 8


def unpack(const uint8_t[::1] words not None, uint64_t[::1] pfns not None, uint8_t[::1] types not None):
    cdef Py_ssize_t i, count = word_count(words)
    cdef uint64_t word
    if pfns.shape[0] != count or types.shape[0] != count:
        raise ValueError("{} words for {} PFNs and {} types".format(count, pfns.shape[0], types.shape[0]))
    with nogil:
        for i in range(count):
            word = load(&words[0], i)
            pfns[i] = pfn_of(word)
            types[i] = <uint8_t>(word >> 60)


def pack(const uint64_t[::1] pfns not None, const uint8_t[::1] types not None, uint8_t[::1] words not None):
    cdef Py_ssize_t i, bad = -1, count = word_count(words)
    cdef uint64_t word
    if pfns.shape[0] != count or types.shape[0] != count:
        raise ValueError("{} words for {} PFNs and {} types".format(count, pfns.shape[0], types.shape[0]))
    with nogil:
        for i in range(count):
            if pfns[i] >> 52 or types[i] > 15:
                bad = i
                break
            word = pfns[i] | <uint64_t>types[i] << 60
            memcpy(&words[8 * i], &word, 8)
    if bad >= 0:
        raise ValueError("entry {}: PFN {:#x} and type {} don't fit a word".format(bad, pfns[bad], types[bad]))


def check(const uint8_t[::1] words not None, uint64_t pfn_end, bint strict):
    cdef Py_ssize_t i, bad = -1, count = word_count(words), carrying = 0
    cdef uint64_t word, page_type
    cdef int reason = 0
    with nogil:
        for i in range(count):
            word = load(&words[0], i)
            page_type = word >> 60
            if 4 < page_type < 9:
                reason = 1
            elif pfn_of(word) >= pfn_end:
                reason = 2
            elif strict and (word >> 52) & 0xff:
                reason = 3
            else:
                carrying += carries_data(word)
                continue
            bad = i
            break
    return bad, reason, carrying


cdef inline uint64_t load_legacy(const uint8_t *words, Py_ssize_t i, int width) noexcept nogil:
    cdef uint32_t narrow
    if width == 8:
        return load(words, i)
    memcpy(&narrow, words + 4 * i, 4)
    return narrow


cdef Py_ssize_t legacy_count(const uint8_t[::1] words, int width) except -1:
    if width not in (4, 8) or words.shape[0] % width:
        raise ValueError("legacy PFN words come in 4 or 8 bytes each, not {} in {}".format(width, words.shape[0]))
    return words.shape[0] // width


def widen(const uint8_t[::1] legacy not None, int width, uint64_t pfn_end, bint strict, uint8_t[::1] words not None):
    cdef Py_ssize_t i, bad = -1, kept = 0, carrying = 0, count = legacy_count(legacy, width)
    cdef uint64_t word, page_type, pfn
    cdef int reason = 0
    if words.shape[0] < 8 * count:
        raise ValueError("room for {} of {} words".format(words.shape[0] // 8, count))
    with nogil:
        for i in range(count):
            word = load_legacy(&legacy[0], i, width)
            page_type = (word >> 28) & 0xf
            pfn = word & 0x0fffffff
            if word >> 32 or (strict and page_type == 15 and pfn):
                reason = 3
            elif page_type == 15:
                continue
            elif 4 < page_type < 8:
                reason = 1
            elif pfn >= pfn_end:
                reason = 2
            else:
                if page_type == 8:  # a pin on what is no page table
                    page_type = 0
                word = page_type << 60 | pfn
                carrying += carries_data(word)
                memcpy(&words[8 * kept], &word, 8)
                kept += 1
                continue
            bad = i
            break
    return bad, reason, kept, carrying


def narrow(const uint8_t[::1] words not None, int width, uint8_t[::1] legacy not None):
    cdef Py_ssize_t i, bad = -1, count = word_count(words)
    cdef uint64_t word, wide
    cdef uint32_t small
    if legacy_count(legacy, width) != count:
        raise ValueError("{} words, room for {}".format(count, legacy.shape[0] // width))
    with nogil:
        for i in range(count):
            word = load(&words[0], i)
            if pfn_of(word) >> 28:
                bad = i
                break
            wide = (word >> 60) << 28
            if word >> 60 != 15:
                wide |= pfn_of(word)
            if width == 8:
                memcpy(&legacy[8 * i], &wide, 8)
            else:
                small = <uint32_t>wide
                memcpy(&legacy[4 * i], &small, 4)
    return bad


def count_data(const uint8_t[::1] words not None):
    cdef Py_ssize_t i, carrying = 0, count = word_count(words)
    with nogil:
        for i in range(count):
            carrying += carries_data(load(&words[0], i))
    return carrying


def data_pfns(const uint8_t[::1] words not None, uint64_t[::1] pfns not None):
    cdef Py_ssize_t i, found = 0, count = word_count(words), room = pfns.shape[0]
    cdef uint64_t word
    with nogil:
        for i in range(count):
            word = load(&words[0], i)
            if carries_data(word):
                if found < room:
                    pfns[found] = pfn_of(word)
                found += 1
    if found > room:
        raise ValueError("{} PFNs carry data, room for {}".format(found, room))
    return found


def highest_pfn(const uint8_t[::1] words not None):
    cdef Py_ssize_t i, count = word_count(words)
    cdef uint64_t highest = 0, pfn
    with nogil:
        for i in range(count):
            pfn = pfn_of(load(&words[0], i))
            if pfn > highest:
                highest = pfn
    return highest if count else -1


def mark(const uint8_t[::1] words not None, uint8_t[::1] state not None):
    cdef Py_ssize_t i, count = word_count(words), carrying = 0, resent = 0
    cdef uint64_t word, pfn, end = state.shape[0]
    cdef uint8_t kept
    highest = highest_pfn(words)
    if highest >= state.shape[0]:
        raise IndexError("PFN {:#x} past the {} of the state".format(highest, state.shape[0]))
    with nogil:
        for i in range(count):
            word = load(&words[0], i)
            pfn = pfn_of(word)
            if pfn >= end:  # words in a mapped file may have changed since they were checked
                break
            kept = state[pfn] & (_POPULATED | _SENT)
            if carries_data(word):
                carrying += 1
                resent += (kept & _SENT) != 0
                kept = _POPULATED | _SENT
            elif word >> 60 == 14:
                kept |= _POPULATED
            state[pfn] = <uint8_t>(_MENTIONED | kept | ((word >> 60) ^ 15))
    return carrying, carrying - resent, resent


def select(const uint8_t[::1] words not None, uint8_t[::1] bitmap not None, bint wanted, bint mark,
           uint8_t[::1] out not None, uint64_t[::1] pages not None):
    cdef Py_ssize_t i, count = word_count(words), page, kept = 0, carried = 0, carrying = count_data(words)
    cdef uint64_t word, pfn, end = 8 * <uint64_t>bitmap.shape[0]
    cdef bint carries
    if out.shape[0] < words.shape[0] or pages.shape[0] < carrying:
        raise ValueError("{} words with {} pages, room for {} and {}".format(
            count, carrying, out.shape[0] // 8, pages.shape[0]))
    if highest_pfn(words) >= 8 * bitmap.shape[0]:
        raise IndexError("PFN {:#x} past the {} of the bitmap".format(highest_pfn(words), 8 * bitmap.shape[0]))
    page = carrying
    with nogil:
        # Backwards, so that of a PFN that comes twice the last is the one that is met first.
        for i in range(count - 1, -1, -1):
            word = load(&words[0], i)
            pfn = pfn_of(word)
            carries = carries_data(word)
            page -= carries
            if page < 0 or pfn >= end:  # words in a mapped file may have changed since they were checked
                break
            if ((bitmap[pfn >> 3] >> (pfn & 7)) & 1) != wanted:
                continue
            if mark:
                bitmap[pfn >> 3] |= 1 << (pfn & 7)
            kept += 1
            memcpy(&out[8 * (count - kept)], &word, 8)
            if carries:
                carried += 1
                pages[carrying - carried] = page
        if kept < count:
            memmove(&out[0], &out[8 * (count - kept)], 8 * kept)
        if carried < carrying:
            memmove(&pages[0], &pages[carrying - carried], 8 * carried)
    return kept, carried


def populated_of(const uint64_t[::1] pfns not None, const uint8_t[::1] state not None, uint8_t[::1] flags not None):
    cdef Py_ssize_t i
    if flags.shape[0] != pfns.shape[0]:
        raise ValueError("{} PFNs for {} flags".format(pfns.shape[0], flags.shape[0]))
    with nogil:
        for i in range(pfns.shape[0]):
            flags[i] = pfns[i] < <uint64_t>state.shape[0] and (state[pfns[i]] & _POPULATED) != 0


def forget(const uint64_t[::1] pfns not None, uint8_t[::1] state not None, uint64_t[::1] sent not None):
    cdef Py_ssize_t i, found = 0
    if sent.shape[0] < pfns.shape[0]:
        raise ValueError("room for {} of {} PFNs".format(sent.shape[0], pfns.shape[0]))
    with nogil:
        for i in range(pfns.shape[0]):
            if pfns[i] < <uint64_t>state.shape[0]:
                if state[pfns[i]] & _SENT:
                    sent[found] = pfns[i]
                    found += 1
                state[pfns[i]] = 0
    return found


def types_of(const uint8_t[::1] state not None, uint8_t[::1] types not None):
    cdef Py_ssize_t i
    if types.shape[0] != state.shape[0]:
        raise ValueError("{} types for {} PFNs".format(types.shape[0], state.shape[0]))
    with nogil:
        for i in range(state.shape[0]):
            types[i] = (state[i] & 15) ^ 15


def populated(const uint8_t[::1] state not None, uint8_t[::1] flags not None):
    cdef Py_ssize_t i
    if flags.shape[0] != state.shape[0]:
        raise ValueError("{} flags for {} PFNs".format(flags.shape[0], state.shape[0]))
    with nogil:
        for i in range(state.shape[0]):
            flags[i] = (state[i] >> 6) & 1


cdef Py_ssize_t next_mentioned(const uint8_t *state, Py_ssize_t pfn, Py_ssize_t end) noexcept nogil:
    """The first PFN from here on whose state isn't 0, or the end: eight at a time where they lie so."""
    while pfn < end:
        if state[pfn]:
            return pfn
        pfn += 1
        while pfn + 8 <= end and load(state + pfn, 0) == 0:
            pfn += 8
    return end


cdef inline uint64_t eight_at(const uint8_t *data, Py_ssize_t at, Py_ssize_t end) noexcept nogil:
    """Eight bytes as a word, those past the end as zeros."""
    cdef uint64_t word = 0
    if end - at >= 8:
        return load(data + at, 0)
    memcpy(&word, data + at, end - at)
    return word


def count_populated(const uint8_t[::1] state not None):
    cdef Py_ssize_t at, end = state.shape[0], found = 0
    cdef uint64_t eight, a_bit_each = ~<uint64_t>0 // 255 * _POPULATED
    with nogil:
        for at in range(0, end, 8):
            eight = eight_at(&state[0], at, end)
            if eight:
                found += bits_in(eight & a_bit_each)
    return found


def populated_pfns(const uint8_t[::1] state not None, Py_ssize_t start, uint64_t[::1] pfns not None):
    cdef Py_ssize_t pfn = start, end = state.shape[0], found = 0
    if start < 0:
        raise ValueError("start is negative")
    with nogil:
        while pfn < end and found < pfns.shape[0]:
            pfn = next_mentioned(&state[0], pfn, end)
            if pfn == end:
                break
            if state[pfn] & _POPULATED:
                pfns[found] = pfn
                found += 1
            pfn += 1
    return found


def type_histogram(const uint8_t[::1] state not None):
    cdef Py_ssize_t pfn = 0, end = state.shape[0]
    cdef uint64_t[16] counts
    memset(counts, 0, sizeof(counts))
    with nogil:
        while pfn < end:
            pfn = next_mentioned(&state[0], pfn, end)
            if pfn < end:
                counts[(state[pfn] & 15) ^ 15] += state[pfn] >> 7
                pfn += 1
    return [count for count in counts]


def count_bits(const uint8_t[::1] bitmap not None):
    cdef Py_ssize_t at, end = bitmap.shape[0], found = 0
    cdef uint64_t bits
    with nogil:
        for at in range(0, end, 8):
            bits = eight_at(&bitmap[0], at, end)
            if bits:
                found += bits_in(bits)
    return found


def bitmap_to_pfns(const uint8_t[::1] bitmap not None, uint64_t first, uint64_t[::1] pfns not None):
    cdef Py_ssize_t at, end = bitmap.shape[0], found = 0, room = pfns.shape[0]
    cdef uint64_t bits
    needed = count_bits(bitmap)
    if needed > room:
        raise ValueError("{} bits are set, room for {}".format(needed, room))
    with nogil:
        for at in range(0, end, 8):
            bits = eight_at(&bitmap[0], at, end)
            while bits and found < room:  # bits may have been set since they were counted
                pfns[found] = first + 8 * <uint64_t>at + lowest_bit(bits)
                found += 1
                bits &= bits - 1
    return found


def pfns_to_bitmap(const uint64_t[::1] pfns not None, uint8_t[::1] bitmap not None):
    cdef Py_ssize_t i, bad = -1
    with nogil:
        for i in range(pfns.shape[0]):
            if pfns[i] >> 3 >= <uint64_t>bitmap.shape[0]:
                bad = i
                break
        if bad < 0:
            for i in range(pfns.shape[0]):
                bitmap[pfns[i] >> 3] |= <uint8_t>(1 << (pfns[i] & 7))
    if bad >= 0:
        raise IndexError("PFN {:#x} past the bitmap".format(pfns[bad]))


def runs(const uint64_t[::1] pfns not None, uint64_t[::1] starts not None, uint64_t[::1] lengths not None):
    cdef Py_ssize_t i, found = 0, count = pfns.shape[0]
    if starts.shape[0] < count or lengths.shape[0] < count:
        raise ValueError("room for {} and {} runs of {} PFNs".format(starts.shape[0], lengths.shape[0], count))
    with nogil:
        for i in range(count):
            if i and pfns[i] > pfns[i - 1] and pfns[i] - pfns[i - 1] == 1:
                lengths[found - 1] += 1
            else:
                starts[found] = i
                lengths[found] = 1
                found += 1
    return found


def batch_end(const uint64_t[::1] pfns not None, Py_ssize_t start, int order):
    cdef Py_ssize_t i, crossing, end, count = pfns.shape[0]
    if not 0 <= start < count or not 0 <= order < 63:
        raise ValueError("start {} of {} PFNs, order {}".format(start, count, order))
    end = start + min(count - start, <Py_ssize_t>1 << order)
    crossing = end
    with nogil:
        for i in range(start + 1, end):
            if pfns[i] <= pfns[i - 1]:
                crossing = end
                break
            if crossing == end and pfns[i] >> order != pfns[start] >> order:
                crossing = i
    return crossing

# cython: boundscheck=False, wraparound=False, cdivision=True
"""PFN words, page types and dirty bitmaps."""
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from xstream.kernels cimport words as common
from xstream.kernels.words cimport (XALLOC, XTAB, Run, carries_data, first_outside, is_reserved_type, load8, load32,
                                    load64, pfn_of, run_at, store32, store64, type_in, type_of)

cdef extern from * nogil:
    int bits_in "__builtin_popcountll"(unsigned long long word)
    int lowest_bit "__builtin_ctzll"(unsigned long long word)

cdef enum Reason:
    GOOD
    OF_BAD_TYPE
    WITH_BAD_PFN
    WITH_RESERVED_BITS

BAD_TYPE = OF_BAD_TYPE
BAD_PFN = WITH_BAD_PFN
BAD_RESERVED = WITH_RESERVED_BITS

MENTIONED = common.MENTIONED
POPULATED = common.POPULATED
SENT = common.SENT


cdef Py_ssize_t word_count(const uint8_t[::1] words) except -1:
    if words.shape[0] % 8:
        raise ValueError("PFN words take 8 bytes each; {} bytes aren't whole words".format(words.shape[0]))
    return words.shape[0] // 8


def unpack(const uint8_t[::1] words not None, uint64_t[::1] pfns not None, uint8_t[::1] types not None):
    cdef Py_ssize_t i, count = word_count(words)
    cdef uint64_t word
    if pfns.shape[0] != count or types.shape[0] != count:
        raise ValueError("{} words for {} PFNs and {} types".format(count, pfns.shape[0], types.shape[0]))
    with nogil:
        for i in range(count):
            word = load64(&words[0], i)
            store64(&pfns[0], i, pfn_of(word))
            types[i] = type_of(word)


def pack(const uint64_t[::1] pfns not None, const uint8_t[::1] types not None, uint8_t[::1] words not None):
    cdef Py_ssize_t i, bad = -1, count = word_count(words)
    cdef uint64_t pfn = 0
    cdef uint8_t page_type = 0
    if pfns.shape[0] != count or types.shape[0] != count:
        raise ValueError("{} words for {} PFNs and {} types".format(count, pfns.shape[0], types.shape[0]))
    with nogil:
        for i in range(count):
            pfn = load64(&pfns[0], i)
            page_type = load8(&types[0], i)
            if pfn >> 52 or page_type > 15:
                bad = i
                break
            store64(&words[0], i, pfn | <uint64_t>page_type << 60)
    if bad >= 0:
        raise ValueError("entry {}: PFN {:#x} and type {} don't fit a word".format(bad, pfn, page_type))


cdef inline Reason judge(uint64_t word, uint64_t pfn_end, bint strict) noexcept nogil:
    if is_reserved_type(word):
        return OF_BAD_TYPE
    if pfn_of(word) >= pfn_end:
        return WITH_BAD_PFN
    return WITH_RESERVED_BITS if strict and (word >> 52) & 0xff else GOOD


def check(const uint8_t[::1] words not None, uint64_t pfn_end, bint strict):
    cdef Py_ssize_t i, bad = -1, count = word_count(words), carrying = 0
    cdef uint64_t word
    cdef Reason reason = GOOD
    with nogil:
        for i in range(count):
            word = load64(&words[0], i)
            reason = judge(word, pfn_end, strict)
            if reason != GOOD:
                bad = i
                break
            carrying += carries_data(word)
    return bad, <int>reason, carrying


cdef Py_ssize_t legacy_count(const uint8_t[::1] words, int width) except -1:
    if width not in (4, 8) or words.shape[0] % width:
        raise ValueError("legacy PFN words take 4 or 8 bytes each; {} bytes in words of {}".format(
            words.shape[0], width))
    return words.shape[0] // width


cdef inline Reason judge_legacy(uint64_t word, uint64_t pfn_end, bint strict) noexcept nogil:
    cdef uint64_t page_type = (word >> 28) & 0xf, pfn = word & 0x0fffffff
    if word >> 32 or (strict and page_type == XTAB and pfn):
        return WITH_RESERVED_BITS
    if page_type == XTAB:
        return GOOD
    if 4 < page_type < 8:
        return OF_BAD_TYPE
    return WITH_BAD_PFN if pfn >= pfn_end else GOOD


cdef inline uint64_t widened(uint64_t word) noexcept nogil:
    cdef uint64_t page_type = (word >> 28) & 0xf
    if page_type == 8:  # the pin flag, on a page that isn't a page table
        page_type = 0
    return page_type << 60 | (word & 0x0fffffff)


def widen(const uint8_t[::1] legacy not None, int width, uint64_t pfn_end, bint strict, uint8_t[::1] words not None):
    cdef Py_ssize_t i, bad = -1, kept = 0, carrying = 0, count = legacy_count(legacy, width)
    cdef uint64_t word
    cdef Reason reason = GOOD
    if words.shape[0] < 8 * count:
        raise ValueError("room for {} of {} words".format(words.shape[0] // 8, count))
    with nogil:
        for i in range(count):
            word = load64(&legacy[0], i) if width == 8 else load32(&legacy[0], i)
            reason = judge_legacy(word, pfn_end, strict)
            if reason != GOOD:
                bad = i
                break
            word = widened(word)
            if type_of(word) != XTAB:
                carrying += carries_data(word)
                store64(&words[0], kept, word)
                kept += 1
    return bad, <int>reason, kept, carrying


def narrow(const uint8_t[::1] words not None, int width, uint8_t[::1] legacy not None):
    cdef Py_ssize_t i, bad = -1, count = word_count(words)
    cdef uint64_t word, wide
    if legacy_count(legacy, width) != count:
        raise ValueError("{} words, room for {}".format(count, legacy.shape[0] // width))
    with nogil:
        for i in range(count):
            word = load64(&words[0], i)
            if pfn_of(word) >> 28:
                bad = i
                break
            wide = (word >> 60) << 28
            if type_of(word) != XTAB:
                wide |= pfn_of(word)
            if width == 8:
                store64(&legacy[0], i, wide)
            else:
                store32(&legacy[0], i, <unsigned int>wide)
    return bad


def count_data(const uint8_t[::1] words not None):
    cdef Py_ssize_t i, carrying = 0, count = word_count(words)
    with nogil:
        for i in range(count):
            carrying += carries_data(load64(&words[0], i))
    return carrying


def data_pfns(const uint8_t[::1] words not None, uint64_t[::1] pfns not None):
    cdef Py_ssize_t i, found = 0, count = word_count(words), room = pfns.shape[0]
    cdef uint64_t word
    with nogil:
        for i in range(count):
            word = load64(&words[0], i)
            if carries_data(word):
                if found < room:
                    store64(&pfns[0], found, pfn_of(word))
                found += 1
    if found > room:
        raise ValueError("{} PFNs carry data, room for {}".format(found, room))
    return found


cdef uint64_t pfns_end(const uint8_t[::1] words, Py_ssize_t count) noexcept nogil:
    """The highest PFN of the words plus one, or 0."""
    cdef Py_ssize_t i
    cdef uint64_t end = 0, pfn
    for i in range(count):
        pfn = pfn_of(load64(&words[0], i))
        if pfn >= end:
            end = pfn + 1
    return end


def highest_pfn(const uint8_t[::1] words not None):
    cdef uint64_t end
    cdef Py_ssize_t count = word_count(words)
    with nogil:
        end = pfns_end(words, count)
    return <Py_ssize_t>end - 1


def mark(const uint8_t[::1] words not None, uint8_t[::1] state not None):
    cdef Py_ssize_t i, count = word_count(words), carrying = 0, resent = 0
    cdef uint64_t word, pfn, end = state.shape[0], needed
    cdef uint8_t kept
    with nogil:
        needed = pfns_end(words, count)
        for i in range(count if needed <= end else 0):
            word = load64(&words[0], i)
            pfn = pfn_of(word)
            if pfn >= end:  # the word has changed since it was checked
                needed = pfn + 1
                break
            kept = load8(&state[0], pfn) & (common.POPULATED | common.SENT)
            if carries_data(word):
                carrying += 1
                resent += (kept & common.SENT) != 0
                kept = common.POPULATED | common.SENT
            elif type_of(word) == XALLOC:
                kept |= common.POPULATED
            state[pfn] = <uint8_t>(common.MENTIONED | kept | (type_of(word) ^ XTAB))
    if needed > end:
        raise IndexError("PFN {:#x} past the {} of the state".format(needed - 1, end))
    return carrying, carrying - resent, resent


def select(const uint8_t[::1] words not None, uint8_t[::1] bitmap not None, bint wanted, bint mark,
           uint8_t[::1] out not None, uint64_t[::1] pages not None):
    cdef Py_ssize_t i, count = word_count(words), page, kept = 0, carried = 0, carrying = count_data(words)
    cdef uint64_t word, pfn, end = 8 * <uint64_t>bitmap.shape[0], needed = highest_pfn(words) + 1
    cdef uint8_t bits, bit
    if out.shape[0] < words.shape[0] or pages.shape[0] < carrying:
        raise ValueError("{} words with {} pages, room for {} and {}".format(
            count, carrying, out.shape[0] // 8, pages.shape[0]))
    if needed > end:
        raise IndexError("PFN {:#x} past the {} of the bitmap".format(needed - 1, end))
    page = carrying
    with nogil:
        # From the last word to the first, so that the last of several words with one PFN is seen first.
        for i in range(count - 1, -1, -1):
            word = load64(&words[0], i)
            pfn = pfn_of(word)
            page -= carries_data(word)
            if page < 0 or pfn >= end:  # the word has changed since it was checked
                needed = end + 1
                break
            bits = load8(&bitmap[0], pfn >> 3)
            bit = <uint8_t>(1 << (pfn & 7))
            if ((bits & bit) != 0) != wanted:
                continue
            if mark:
                bitmap[pfn >> 3] = bits | bit
            kept += 1
            store64(&out[0], count - kept, word)
            if carries_data(word):
                carried += 1
                store64(&pages[0], carrying - carried, page)
        if kept < count:
            memmove(&out[0], &out[8 * (count - kept)], 8 * kept)
        if carried < carrying:
            memmove(&pages[0], &pages[carrying - carried], 8 * carried)
    if needed > end:
        raise IndexError("the words changed while they were being read")
    return kept, carried


def populated_of(const uint64_t[::1] pfns not None, const uint8_t[::1] state not None, uint8_t[::1] flags not None):
    cdef Py_ssize_t i
    cdef uint64_t pfn
    if flags.shape[0] != pfns.shape[0]:
        raise ValueError("{} PFNs for {} flags".format(pfns.shape[0], flags.shape[0]))
    with nogil:
        for i in range(pfns.shape[0]):
            pfn = load64(&pfns[0], i)
            flags[i] = pfn < <uint64_t>state.shape[0] and (load8(&state[0], pfn) & common.POPULATED) != 0


def forget(const uint64_t[::1] pfns not None, uint8_t[::1] state not None, uint64_t[::1] sent not None):
    cdef Py_ssize_t i, found = 0
    cdef uint64_t pfn
    if sent.shape[0] < pfns.shape[0]:
        raise ValueError("room for {} of {} PFNs".format(sent.shape[0], pfns.shape[0]))
    with nogil:
        for i in range(pfns.shape[0]):
            pfn = load64(&pfns[0], i)
            if pfn < <uint64_t>state.shape[0]:
                if load8(&state[0], pfn) & common.SENT:
                    store64(&sent[0], found, pfn)
                    found += 1
                state[pfn] = 0
    return found


def types_of(const uint8_t[::1] state not None, uint8_t[::1] types not None):
    cdef Py_ssize_t i
    if types.shape[0] != state.shape[0]:
        raise ValueError("{} types for {} PFNs".format(types.shape[0], state.shape[0]))
    with nogil:
        for i in range(state.shape[0]):
            types[i] = type_in(state[i])


def populated(const uint8_t[::1] state not None, uint8_t[::1] flags not None):
    cdef Py_ssize_t i
    if flags.shape[0] != state.shape[0]:
        raise ValueError("{} flags for {} PFNs".format(flags.shape[0], state.shape[0]))
    with nogil:
        for i in range(state.shape[0]):
            flags[i] = (state[i] & common.POPULATED) != 0


cdef Py_ssize_t next_mentioned(const uint8_t *state, Py_ssize_t pfn, Py_ssize_t end) noexcept nogil:
    """The first PFN of `pfn` or more whose state isn't 0, or `end`. Skips eight zeros at a time."""
    while pfn < end:
        if state[pfn]:
            return pfn
        pfn += 1
        while pfn + 8 <= end and load64(state + pfn, 0) == 0:
            pfn += 8
    return end


cdef inline uint64_t eight_at(const uint8_t *data, Py_ssize_t at, Py_ssize_t end) noexcept nogil:
    """Eight bytes as a word; those past the end count as zeros."""
    cdef uint64_t word = 0
    if end - at >= 8:
        return load64(data + at, 0)
    memcpy(&word, data + at, end - at)
    return word


def count_populated(const uint8_t[::1] state not None):
    cdef Py_ssize_t at, end = state.shape[0], found = 0
    cdef uint64_t eight, bit_of_each = ~<uint64_t>0 // 255 * common.POPULATED
    with nogil:
        for at in range(0, end, 8):
            eight = eight_at(&state[0], at, end)
            if eight:
                found += bits_in(eight & bit_of_each)
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
            if load8(&state[0], pfn) & common.POPULATED:
                store64(&pfns[0], found, pfn)
                found += 1
            pfn += 1
    return found


def type_histogram(const uint8_t[::1] state not None):
    cdef Py_ssize_t pfn = 0, end = state.shape[0]
    cdef uint64_t[16] counts
    cdef uint8_t known
    memset(counts, 0, sizeof(counts))
    with nogil:
        while pfn < end:
            pfn = next_mentioned(&state[0], pfn, end)
            if pfn < end:
                known = load8(&state[0], pfn)
                counts[type_in(known)] += (known & common.MENTIONED) != 0
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
                store64(&pfns[0], found, first + 8 * <uint64_t>at + lowest_bit(bits))
                found += 1
                bits &= bits - 1
    return found


def pfns_to_bitmap(const uint64_t[::1] pfns not None, uint8_t[::1] bitmap not None):
    cdef Py_ssize_t i, bad
    cdef uint64_t pfn, end = 8 * <uint64_t>bitmap.shape[0]
    with nogil:
        bad = first_outside(&pfns[0], pfns.shape[0], end)
        for i in range(pfns.shape[0] if bad < 0 else 0):
            pfn = load64(&pfns[0], i)
            if pfn >= end:  # the PFN has changed since it was checked
                bad = i
                break
            bitmap[pfn >> 3] |= <uint8_t>(1 << (pfn & 7))
    if bad >= 0:
        raise IndexError("PFN {:#x} (index {}) past the bitmap's {}".format(load64(&pfns[0], bad), bad, end))


def runs(const uint64_t[::1] pfns not None, uint64_t[::1] starts not None, uint64_t[::1] lengths not None):
    cdef Py_ssize_t i = 0, found = 0, count = pfns.shape[0]
    cdef Run run
    if starts.shape[0] < count or lengths.shape[0] < count:
        raise ValueError("room for {} and {} runs of {} PFNs".format(starts.shape[0], lengths.shape[0], count))
    with nogil:
        while i < count:
            run = run_at(&pfns[0], i, count)
            store64(&starts[0], found, i)
            store64(&lengths[0], found, run.length)
            found += 1
            i += run.length
    return found


def ascending(const uint64_t[::1] pfns not None):
    cdef Py_ssize_t i = 1
    with nogil:
        while i < pfns.shape[0] and load64(&pfns[0], i - 1) < load64(&pfns[0], i):
            i += 1
    return i >= pfns.shape[0]


def batch_end(const uint64_t[::1] pfns not None, Py_ssize_t start, int order):
    cdef Py_ssize_t i, crossing, end, count = pfns.shape[0]
    cdef uint64_t first, previous, pfn
    if not 0 <= start < count or not 0 <= order < 63:
        raise ValueError("start {} of {} PFNs, order {}".format(start, count, order))
    end = start + min(count - start, <Py_ssize_t>1 << order)
    crossing = end
    with nogil:
        first = previous = load64(&pfns[0], start)
        for i in range(start + 1, end):
            pfn = load64(&pfns[0], i)
            if pfn <= previous:
                crossing = end
                break
            if crossing == end and pfn >> order != first >> order:
                crossing = i
            previous = pfn
    return crossing

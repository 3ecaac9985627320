# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Page deltas of legacy checkpoints: the words of a page that changed since it was last sent.

A page has one of three forms: 0x00, unchanged; 0x80 and the whole page; or markers that together cover its 1024 words
of 4 bytes. A marker has a number of words in bits 6-0. If bit 7 is clear, that many words follow and replace those of
the page; if it is set, that many words stay unchanged.
"""
cimport cython
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memmove

from xstream.kernels.words cimport PAGE, first_outside, load8, load64

from xstream.kernels import buffers as _buffers

cdef extern from "deltas.h" nogil:
    uint64_t changed_words "xstream_changed_words" (const unsigned char *a, const unsigned char *b)
    int lowest_bit "xstream_lowest_bit" (uint64_t value)

cdef enum:
    PAGE_WORDS = 1024
    PAGE_GROUPS = 16  # of 64 words
    WHOLE_PAGE = 0x80
    SKIP = 0x80
    MOST_WORDS = 0x7f
    WHOLE_BYTES = 4097

cdef enum Status:
    GOOD
    CUT
    EMPTY_MARKER
    OVERRUN
    UNKNOWN_PAGE
    PFN_OUTSIDE

OK = GOOD
NEED_MORE = CUT
ZERO_RUN = EMPTY_MARKER
PAST_END = OVERRUN
NOT_HELD = UNKNOWN_PAGE
LONGEST = PAGE_WORDS * 5
WHOLE = WHOLE_BYTES


cdef struct Run:
    uint16_t to
    uint16_t size
    uint32_t source


cdef struct Form:
    # The parsed form of one page. Applying it doesn't read the markers again, so it is safe if the data changes.
    int runs
    uint64_t size
    uint64_t bad
    Run run[PAGE_WORDS]


cdef inline void copy_run(unsigned char *to, const unsigned char *source, uint32_t size) noexcept nogil:
    # Most runs have one or two words; copying those inline avoids a call.
    if size == 4:
        memcpy(to, source, 4)
    elif size == 8:
        memcpy(to, source, 8)
    else:
        memmove(to, source, size)


cdef Status parse_deltas(const unsigned char *data, uint64_t available, Form *form) noexcept nogil:
    cdef uint64_t at = 0
    cdef uint32_t word = 0, words
    cdef unsigned char marker
    form.runs = 0
    while word < PAGE_WORDS:
        if at == available:
            return CUT
        marker = load8(data, at)
        words = marker & MOST_WORDS
        form.bad = at
        if words == 0:
            return EMPTY_MARKER
        if word + words > PAGE_WORDS:
            return OVERRUN
        at += 1
        if not marker & SKIP:
            if available - at < 4 * words:
                return CUT
            form.run[form.runs] = Run(4 * word, 4 * words, at)
            form.runs += 1
            at += 4 * words
        word += words
    form.size = at
    return GOOD


cdef Status parse_page(const unsigned char *data, uint64_t available, Form *form) noexcept nogil:
    cdef unsigned char first
    if available == 0:
        return CUT
    first = load8(data, 0)
    if first == 0:
        form.runs = 0
        form.size = 1
        return GOOD
    if first != WHOLE_PAGE:
        # parse_deltas loads this marker again; if it has changed by then, parse_deltas checks what it loads.
        return parse_deltas(data, available, form)
    if available < WHOLE_BYTES:
        return CUT
    form.run[0] = Run(0, PAGE, 1)
    form.runs = 1
    form.size = WHOLE_BYTES
    return GOOD


cdef void apply_page(const unsigned char *data, const Form *form, unsigned char *page) noexcept nogil:
    cdef int i
    for i in range(form.runs):
        copy_run(page + form.run[i].to, data + form.run[i].source, form.run[i].size)


cdef bint covers(const Form *form) noexcept nogil:
    """Whether the form has every word of the page."""
    cdef int i
    cdef uint32_t size = 0
    for i in range(form.runs):
        size += form.run[i].size
    return size == PAGE


cdef Status decode_pages(const unsigned char *data, uint64_t size, unsigned char *memory, uint64_t end,
                         const uint64_t *pfns, const unsigned char *held, Py_ssize_t count, Py_ssize_t *done,
                         uint64_t *taken, uint64_t *bad) noexcept nogil:
    cdef Form form
    cdef Status status = GOOD
    cdef uint64_t at = 0, pfn
    cdef Py_ssize_t i = 0
    while i < count:
        form.bad = 0
        pfn = load64(pfns, i)
        if pfn >= end:  # it has changed since it was checked
            status = PFN_OUTSIDE
            break
        status = parse_page(data + at, size - at, &form)
        if status == GOOD and held != NULL and not load8(held, i) and not covers(&form):
            status, form.bad = UNKNOWN_PAGE, 0
        if status != GOOD:
            break
        apply_page(data + at, &form, memory + PAGE * pfn)
        at += form.size
        i += 1
    done[0] = i
    taken[0] = at
    bad[0] = at + form.bad if status > CUT else 0
    return status


def decode(data, memory, pfns, held=None):
    cdef const unsigned char[::1] octets = _buffers.octets("data", data)
    cdef unsigned char[::1] guest = _buffers.pages("memory", memory, writable=True)
    cdef const uint64_t[::1] numbers = _buffers.array("pfns", pfns, "uint64")
    cdef Py_ssize_t past, done = 0, count = numbers.shape[0]
    cdef const unsigned char[::1] known
    cdef const unsigned char *flags = NULL
    cdef uint64_t taken = 0, bad = 0, end = guest.shape[0] // PAGE
    cdef Status status = GOOD
    if count == 0:
        return 0, 0, OK, -1
    if held is not None:
        known = _buffers.octets("held", held, size=count)
        flags = &known[0]
    with nogil:
        past = first_outside(&numbers[0], count, end)
        if past < 0:
            status = decode_pages(&octets[0], octets.shape[0], &guest[0], end, &numbers[0], flags, count, &done, &taken,
                                  &bad)
    if status == PFN_OUTSIDE:
        past = done
    if past >= 0:
        raise IndexError("pfns[{}] is {}, past the memory's {} pages".format(past, load64(&numbers[0], past), end))
    return done, taken, <int>status, <Py_ssize_t>bad if status > CUT else -1


cdef int end_of_run(const uint64_t *changed, int word) noexcept nogil:
    """Index of the next word whose changed state differs, or PAGE_WORDS."""
    cdef uint64_t flip = 0 - ((changed[word >> 6] >> (word & 63)) & 1), other
    cdef int group = word >> 6
    other = (changed[group] ^ flip) >> (word & 63) << (word & 63)
    while other == 0:
        group += 1
        if group == PAGE_GROUPS:
            return PAGE_WORDS
        other = changed[group] ^ flip
    return 64 * group + lowest_bit(other)


cdef Py_ssize_t encode_whole(unsigned char *held, const unsigned char *page, unsigned char *out) noexcept nogil:
    out[0] = WHOLE_PAGE
    memmove(out + 1, page, PAGE)
    if held != NULL:
        memmove(held, out + 1, PAGE)
    return WHOLE_BYTES


cdef Py_ssize_t encode_page(unsigned char *held, const unsigned char *page, unsigned char *out) noexcept nogil:
    """Write the form of a page, WHOLE_BYTES at most; returns its size.

    `held` is updated from what was written and not from the page, which may change meanwhile.
    """
    cdef uint64_t changed[PAGE_GROUPS]
    cdef uint64_t any_changed = 0
    cdef Py_ssize_t used = 0
    cdef int i, word = 0, end, words
    for i in range(PAGE_GROUPS):
        changed[i] = changed_words(held + 256 * i, page + 256 * i)
        any_changed |= changed[i]
    if any_changed == 0:
        out[0] = 0
        return 1
    while word < PAGE_WORDS:
        end = end_of_run(changed, word)
        i = (changed[word >> 6] >> (word & 63)) & 1
        while word < end:
            words = min(end - word, <int>MOST_WORDS)
            if used + 1 + 4 * words * i >= WHOLE_BYTES:
                return encode_whole(held, page, out)
            if i:
                out[used] = words
                copy_run(out + used + 1, page + 4 * word, 4 * words)
                copy_run(held + 4 * word, out + used + 1, 4 * words)
            else:
                out[used] = SKIP | words
            used += 1 + 4 * words * i
            word += words
    return used


def bound(pages):
    if pages < 0:
        raise ValueError("pages must not be negative")
    return pages * WHOLE


def _room(name, out, Py_ssize_t count):
    view = _buffers.octets(name, out, writable=True)
    if view.nbytes < bound(count):
        raise ValueError("{} must have {} bytes for {} pages, not {}".format(name, bound(count), count, view.nbytes))
    return view


def encode(held, pages, out):
    cdef const unsigned char[::1] fresh = _buffers.pages("pages", pages)
    cdef Py_ssize_t i, used = 0, count = fresh.shape[0] // PAGE
    cdef unsigned char[::1] copies = _buffers.octets("held", held, size=fresh.shape[0], writable=True)
    cdef unsigned char[::1] room = _room("out", out, count)
    with nogil:
        for i in range(count):
            used += encode_page(&copies[PAGE * i], &fresh[PAGE * i], &room[used])
    return used


@cython.final
cdef class Cache:
    # The slots form a ring, most recently sent first. A slot without a page marks where it begins and ends.
    cdef uint64_t pfn_end
    cdef uint32_t slots
    cdef uint32_t *slot_of      # slot of each PFN plus 1, or 0
    cdef uint32_t *older        # the ring, in both directions
    cdef uint32_t *newer
    cdef uint32_t *owner        # PFN of each slot
    cdef unsigned char *copies
    cdef bint busy

    def __cinit__(self, pfn_end, slots=8192):
        if not 0 <= pfn_end <= 1 << 32:
            raise ValueError("pfn_end must be 0 to 2^32, not {}".format(pfn_end))
        if not 1 <= slots <= 1 << 31:
            raise ValueError("slots must be 1 to 2^31, not {}".format(slots))
        self.pfn_end = pfn_end
        self.slots = slots
        self.slot_of = <uint32_t *>calloc(<size_t>self.pfn_end + 1, sizeof(uint32_t))
        self.older = <uint32_t *>malloc((<size_t>self.slots + 1) * sizeof(uint32_t))
        self.newer = <uint32_t *>malloc((<size_t>self.slots + 1) * sizeof(uint32_t))
        self.owner = <uint32_t *>calloc(self.slots, sizeof(uint32_t))
        self.copies = <unsigned char *>malloc(<size_t>self.slots * PAGE)
        if not (self.slot_of and self.older and self.newer and self.owner and self.copies):
            raise MemoryError("no memory for a cache of {} pages".format(slots))
        self._close_ring()

    def __dealloc__(self):
        free(self.slot_of)
        free(self.older)
        free(self.newer)
        free(self.owner)
        free(self.copies)

    cdef void _close_ring(self) noexcept nogil:
        cdef uint32_t slot
        for slot in range(self.slots):
            self.older[slot] = slot + 1
            self.newer[slot + 1] = slot
        self.older[self.slots] = 0
        self.newer[0] = self.slots

    cdef void _move(self, uint32_t slot, uint32_t after) noexcept nogil:
        """Move a slot to just after another slot in the ring, on its older side."""
        self.older[self.newer[slot]] = self.older[slot]
        self.newer[self.older[slot]] = self.newer[slot]
        self.older[slot] = self.older[after]
        self.newer[slot] = after
        self.newer[self.older[slot]] = slot
        self.older[after] = slot

    cdef uint32_t _take(self, uint32_t pfn) noexcept nogil:
        """Give the least recently sent slot to a PFN that has none; returns the slot."""
        cdef uint32_t slot = self.newer[self.slots]
        # If the slot was freed, its former owner has another slot or none.
        if self.slot_of[self.owner[slot]] == slot + 1:
            self.slot_of[self.owner[slot]] = 0
        self.owner[slot] = pfn
        self.slot_of[pfn] = slot + 1
        return slot

    cdef void _drop(self, uint32_t pfn) noexcept nogil:
        """Free the slot of a PFN, if it has one; it is the next to be taken."""
        cdef uint32_t slot
        if self.slot_of[pfn]:
            slot = self.slot_of[pfn] - 1
            self.slot_of[pfn] = 0
            if self.newer[self.slots] != slot:
                self._move(slot, self.newer[self.slots])

    cdef Py_ssize_t _encode_page(self, uint32_t pfn, unsigned char page_type, const unsigned char *page,
                                 unsigned char *out) noexcept nogil:
        cdef bint known = self.slot_of[pfn] != 0
        cdef uint32_t slot
        cdef unsigned char *held
        if page_type:
            self._drop(pfn)
            return encode_whole(NULL, page, out)
        slot = self.slot_of[pfn] - 1 if known else self._take(pfn)
        if self.older[self.slots] != slot:
            self._move(slot, self.slots)
        held = self.copies + <size_t>slot * PAGE
        return encode_page(held, page, out) if known else encode_whole(held, page, out)

    def encode(self, pfns, types, pages, out):
        cdef const unsigned char[::1] fresh = _buffers.pages("pages", pages)
        cdef Py_ssize_t i, past, used = 0, count = fresh.shape[0] // PAGE
        cdef uint64_t pfn
        cdef const uint64_t[::1] numbers = _buffers.array("pfns", pfns, "uint64", length=count)
        cdef const unsigned char[::1] kinds = _buffers.array("types", types, "uint8", length=count)
        cdef unsigned char[::1] room = _room("out", out, count)
        if count == 0:
            return 0
        if self.busy:
            raise RuntimeError("the cache is in use by another thread")
        self.busy = True
        with nogil:
            past = first_outside(&numbers[0], count, self.pfn_end)
            for i in range(count if past < 0 else 0):
                pfn = load64(&numbers[0], i)
                if pfn >= self.pfn_end:  # it has changed since it was checked
                    past = i
                    break
                used += self._encode_page(<uint32_t>pfn, load8(&kinds[0], i), &fresh[PAGE * i], &room[used])
        self.busy = False
        if past >= 0:
            raise IndexError("pfns[{}] is {}, past the cache's {}".format(
                past, load64(&numbers[0], past), self.pfn_end))
        return used

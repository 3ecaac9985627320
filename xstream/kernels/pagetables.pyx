# cython: boundscheck=False, wraparound=False, cdivision=True
"""Convert the page tables of PV guests between MFNs, which the guest uses, and PFNs, which a stream uses.

A table has 512 entries of 8 bytes: bit 0 is the present flag, bits 51-12 are the frame; all other bits are kept.
"""
from libc.stdint cimport uint64_t
from libc.string cimport memmove, memset

from xstream.kernels.words cimport PAGE, POPULATED, load8, load64, store64

from xstream.kernels import buffers as _buffers

cdef extern from "pagetables.h" nogil:
    uint64_t PRESENT "XSTREAM_PRESENT"
    uint64_t PSE "XSTREAM_PSE"
    uint64_t FRAME "XSTREAM_FRAME"
    uint64_t NO_FRAME "XSTREAM_NO_FRAME"
    int XEN_L4_FIRST "XSTREAM_XEN_L4_FIRST"
    int XEN_L4_END "XSTREAM_XEN_L4_END"
    int XEN_PAE_L3_FIRST "XSTREAM_XEN_PAE_L3_FIRST"
    int XEN_PAE_L2_FIRST "XSTREAM_XEN_PAE_L2_FIRST"

cdef enum:
    ENTRIES = 512
    PINNED = 8

cdef enum Reason:
    GOOD
    NOT_IN_P2M
    MAPS_SUPERPAGE
    NO_SUCH_LEVEL
    PFN_PAST_P2M
    PFN_WITHOUT_MFN
    IN_XEN_SLOT

OK = GOOD
STALE = NOT_IN_P2M
SUPERPAGE = MAPS_SUPERPAGE
LEVEL = NO_SUCH_LEVEL
PAST_P2M = PFN_PAST_P2M
UNPOPULATED = PFN_WITHOUT_MFN
XEN_SLOT = IN_XEN_SLOT
INVALID_MFN = NO_FRAME


cdef struct Fault:
    Py_ssize_t index
    int entry
    Reason reason


cdef struct Map:
    # A p2m or an m2p: frames[n] is the frame for number n, for every n under `end`.
    const uint64_t *frames
    uint64_t end


cdef struct Slots:
    # The entries of a table that belong to the hypervisor.
    int first
    int end


cdef inline uint64_t frame_of(uint64_t entry) noexcept nogil:
    return (entry & FRAME) >> 12


cdef inline uint64_t with_frame(uint64_t entry, uint64_t frame) noexcept nogil:
    return (entry & ~FRAME) | (frame << 12)


cdef inline int level_of(unsigned char page_type) noexcept nogil:
    """1 to 4, or 0 for a page that isn't a page table."""
    cdef int level = page_type & ~PINNED
    return level if level <= 4 else 0


cdef Slots xen_slots(const unsigned char *table, int level, int levels, uint64_t compat_m2p_mfn) noexcept nogil:
    if levels == 4:
        return Slots(XEN_L4_FIRST, XEN_L4_END) if level == 4 else Slots(0, 0)
    if level == 3:
        return Slots(XEN_PAE_L3_FIRST, ENTRIES)
    if level == 2 and frame_of(load64(table, XEN_PAE_L2_FIRST)) == compat_m2p_mfn:
        return Slots(XEN_PAE_L2_FIRST, ENTRIES)
    return Slots(0, 0)


cdef inline uint64_t pfn_of(uint64_t mfn, const Map *p2m, const Map *m2p) noexcept nogil:
    """The PFN of an MFN, or p2m.end if the MFN doesn't belong to the guest."""
    cdef uint64_t pfn
    if mfn >= m2p.end:
        return p2m.end
    pfn = load64(m2p.frames, mfn)
    if pfn >= p2m.end or load64(p2m.frames, pfn) != mfn:
        return p2m.end
    return pfn


cdef Reason normalise_table(const unsigned char *table, unsigned char *out, int level, Slots xen, const Map *p2m,
                            const Map *m2p, int *bad) noexcept nogil:
    cdef uint64_t entry, pfn
    cdef int i
    for i in range(ENTRIES):
        # Load each entry once: a running guest may be changing it.
        entry = load64(table, i)
        if xen.first <= i < xen.end:
            entry = 0
        if entry & PRESENT:
            bad[0] = i
            if level > 1 and entry & PSE:
                return MAPS_SUPERPAGE
            pfn = pfn_of(frame_of(entry), p2m, m2p)
            if pfn == p2m.end:
                return NOT_IN_P2M
            entry = with_frame(entry, pfn)
        store64(out, i, entry)
    return GOOD


cdef Fault normalise_pages(const unsigned char *pages, const unsigned char *types, Py_ssize_t count, const Map *p2m,
                           const Map *m2p, int levels, uint64_t compat_m2p_mfn, bint paused, unsigned char *out,
                           unsigned char *torn) noexcept nogil:
    cdef const unsigned char *page
    cdef unsigned char *to
    cdef Py_ssize_t i
    cdef int level, entry = 0
    cdef Reason reason
    for i in range(count):
        page = pages + PAGE * i
        to = out + PAGE * i
        level = level_of(load8(types, i))
        torn[i] = 0
        if level == 0:
            memmove(to, page, PAGE)
            continue
        entry = 0
        reason = NO_SUCH_LEVEL
        if level <= levels:
            reason = normalise_table(page, to, level, xen_slots(page, level, levels, compat_m2p_mfn), p2m, m2p, &entry)
        if reason != GOOD:
            if paused:
                return Fault(i, entry, reason)
            # A running guest may be in the middle of an update, or the page's type may have changed meanwhile.
            memset(to, 0, PAGE)
            torn[i] = 1
    return Fault(-1, -1, GOOD)


cdef Py_ssize_t claim(const unsigned char *table, unsigned char *state, uint64_t end, uint64_t *pfns, Py_ssize_t used,
                      Py_ssize_t room) noexcept nogil:
    """Append the unpopulated PFNs of a table to `pfns`, up to `room` in all; returns how many there are now."""
    cdef uint64_t entry, pfn
    cdef int i
    for i in range(ENTRIES):
        entry = load64(table, i)
        pfn = frame_of(entry)
        if entry & PRESENT and pfn < end and not load8(state, pfn) & POPULATED:
            if used == room:
                break
            state[pfn] |= POPULATED
            store64(pfns, used, pfn)
            used += 1
    return used


cdef inline Reason mfn_of(uint64_t pfn, const Map *p2m, uint64_t *mfn) noexcept nogil:
    if pfn >= p2m.end:
        return PFN_PAST_P2M
    mfn[0] = load64(p2m.frames, pfn)
    return GOOD if mfn[0] <= FRAME >> 12 else PFN_WITHOUT_MFN


cdef Fault find_unmapped(const unsigned char *pages, const unsigned char *types, Py_ssize_t count,
                         const Map *p2m) noexcept nogil:
    cdef uint64_t entry, mfn
    cdef Py_ssize_t i
    cdef Reason reason
    cdef int j
    for i in range(count):
        if level_of(load8(types, i)) == 0:
            continue
        for j in range(ENTRIES):
            entry = load64(pages + PAGE * i, j)
            if entry & PRESENT:
                reason = mfn_of(frame_of(entry), p2m, &mfn)
                if reason != GOOD:
                    return Fault(i, j, reason)
    return Fault(-1, -1, GOOD)


cdef Reason localise_table(const unsigned char *table, unsigned char *out, const Map *p2m, int *bad) noexcept nogil:
    cdef uint64_t entry, mfn
    cdef Reason reason
    for bad[0] in range(ENTRIES):
        entry = load64(table, bad[0])
        if entry & PRESENT:
            reason = mfn_of(frame_of(entry), p2m, &mfn)
            if reason != GOOD:
                return reason
            entry = with_frame(entry, mfn)
        store64(out, bad[0], entry)
    return GOOD


cdef Fault localise_pages(const unsigned char *pages, const unsigned char *types, Py_ssize_t count, const Map *p2m,
                          unsigned char *out) noexcept nogil:
    """Localise. find_unmapped has found nothing wrong, but tables and types may have changed since."""
    cdef Py_ssize_t i
    cdef int entry = 0
    cdef Reason reason
    for i in range(count):
        if level_of(load8(types, i)) == 0:
            memmove(out + PAGE * i, pages + PAGE * i, PAGE)
            continue
        reason = localise_table(pages + PAGE * i, out + PAGE * i, p2m, &entry)
        if reason != GOOD:
            return Fault(i, entry, reason)
    return Fault(-1, -1, GOOD)


cdef inline Reason judge(uint64_t entry, int level, uint64_t pfn_end, bint superpages) noexcept nogil:
    """What is wrong with a present entry of a normalised table, or GOOD."""
    if frame_of(entry) >= pfn_end:
        return PFN_PAST_P2M
    return MAPS_SUPERPAGE if level > 1 and entry & PSE and not superpages else GOOD


cdef Fault find_bad(const unsigned char *pages, const unsigned char *types, Py_ssize_t count, uint64_t pfn_end,
                    int levels, bint strict, bint superpages) noexcept nogil:
    cdef uint64_t entry
    cdef Py_ssize_t i
    cdef Reason reason
    cdef Slots xen
    cdef int j, level
    for i in range(count):
        level = level_of(load8(types, i))
        if level > levels:
            return Fault(i, 0, NO_SUCH_LEVEL)
        if level == 0:
            continue
        # Nothing in a normalised L2 says whether it is the top one, so its Xen slots can't be checked.
        xen = xen_slots(pages + PAGE * i, level, levels, NO_FRAME)
        for j in range(ENTRIES):
            entry = load64(pages + PAGE * i, j)
            reason = judge(entry, level, pfn_end, superpages) if entry & PRESENT else GOOD
            if reason == GOOD and strict and entry and xen.first <= j < xen.end:
                reason = IN_XEN_SLOT
            if reason != GOOD:
                return Fault(i, j, reason)
    return Fault(-1, -1, GOOD)


cdef Map map_of(const uint64_t[::1] frames) noexcept nogil:
    if frames.shape[0] == 0:
        return Map(NULL, 0)
    return Map(&frames[0], frames.shape[0])


cdef tuple as_tuple(Fault fault):
    return fault.index, fault.entry, <int>fault.reason


def _check_levels(levels):
    if levels not in (3, 4):
        raise ValueError("levels must be 3 or 4, not {}".format(levels))


def normalise(pages, types, p2m, m2p, out, torn, *, int levels, bint paused, uint64_t compat_m2p_mfn=INVALID_MFN):
    cdef const unsigned char[::1] tables = _buffers.pages("pages", pages)
    cdef Py_ssize_t count = tables.shape[0] // PAGE
    cdef const unsigned char[::1] kinds = _buffers.array("types", types, "uint8", length=count)
    cdef const uint64_t[::1] mfns = _buffers.array("p2m", p2m, "uint64")
    cdef const uint64_t[::1] pfns = _buffers.array("m2p", m2p, "uint64")
    cdef unsigned char[::1] to = _buffers.octets("out", out, size=tables.shape[0], writable=True)
    cdef unsigned char[::1] flags = _buffers.array("torn", torn, "uint8", length=count, writable=True)
    cdef Map pfn_to_mfn = map_of(mfns), mfn_to_pfn = map_of(pfns)
    cdef Fault fault = Fault(-1, -1, GOOD)
    _check_levels(levels)
    if count:
        with nogil:
            fault = normalise_pages(&tables[0], &kinds[0], count, &pfn_to_mfn, &mfn_to_pfn, levels, compat_m2p_mfn,
                                    paused, &to[0], &flags[0])
    return as_tuple(fault)


def referenced(pages, types, state, pfns):
    cdef const unsigned char[::1] tables = _buffers.pages("pages", pages)
    cdef Py_ssize_t i, used = 0, count = tables.shape[0] // PAGE
    cdef const unsigned char[::1] kinds = _buffers.array("types", types, "uint8", length=count)
    cdef unsigned char[::1] states = _buffers.array("state", state, "uint8", writable=True)
    cdef uint64_t[::1] found = _buffers.array("pfns", pfns, "uint64", writable=True)
    if states.shape[0] == 0 or found.shape[0] == 0:
        return 0
    with nogil:
        for i in range(count):
            if level_of(load8(&kinds[0], i)):
                used = claim(&tables[PAGE * i], &states[0], states.shape[0], &found[0], used, found.shape[0])
    return used


def localise(pages, types, p2m, out):
    cdef const unsigned char[::1] tables = _buffers.pages("pages", pages)
    cdef Py_ssize_t count = tables.shape[0] // PAGE
    cdef const unsigned char[::1] kinds = _buffers.array("types", types, "uint8", length=count)
    cdef const uint64_t[::1] mfns = _buffers.array("p2m", p2m, "uint64")
    cdef unsigned char[::1] to = _buffers.octets("out", out, size=tables.shape[0], writable=True)
    cdef Map pfn_to_mfn = map_of(mfns)
    cdef Fault fault = Fault(-1, -1, GOOD)
    if count:
        with nogil:
            fault = find_unmapped(&tables[0], &kinds[0], count, &pfn_to_mfn)
            if fault.reason == GOOD:
                fault = localise_pages(&tables[0], &kinds[0], count, &pfn_to_mfn, &to[0])
    return as_tuple(fault)


def check(pages, types, uint64_t pfn_end, *, int levels, bint strict, bint superpages=False):
    cdef const unsigned char[::1] tables = _buffers.pages("pages", pages)
    cdef Py_ssize_t count = tables.shape[0] // PAGE
    cdef const unsigned char[::1] kinds = _buffers.array("types", types, "uint8", length=count)
    cdef Fault fault = Fault(-1, -1, GOOD)
    _check_levels(levels)
    if count:
        with nogil:
            fault = find_bad(&tables[0], &kinds[0], count, pfn_end, levels, strict, superpages)
    return as_tuple(fault)

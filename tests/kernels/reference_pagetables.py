"""The kernel ``pagetables`` in plain Python, for buffers of the right kind: slow and easy to read."""
import struct

OK, STALE, SUPERPAGE, LEVEL, PAST_P2M, UNPOPULATED, XEN_SLOT = range(7)
INVALID_MFN = 2 ** 64 - 1

PRESENT = 1
PSE = 0x80
FRAME = 0xffffffffff << 12
GOOD = (-1, -1, OK)
TABLE = struct.Struct("<512Q")


def level_of(page_type):
    return page_type & 7 if page_type in (1, 2, 3, 4, 9, 10, 11, 12) else 0


def frame_of(entry):
    return (entry & FRAME) >> 12


def with_frame(entry, frame):
    return entry & ~FRAME | frame << 12


def tables_of(pages, types):
    """(index, level, entries) of each page that is a table."""
    for index, page_type in enumerate(types):
        if level_of(page_type):
            yield index, level_of(page_type), list(TABLE.unpack_from(pages, 4096 * index))


def xen_slots(entries, level, levels, compat_m2p_mfn):
    if (level, levels) == (4, 4):
        return range(256, 272)
    if (level, levels) == (3, 3):
        return range(4, 512)
    if (level, levels) == (2, 3) and frame_of(entries[428]) == compat_m2p_mfn:
        return range(428, 512)
    return range(0)


def normalise(pages, types, p2m, m2p, out, torn, *, levels, paused, compat_m2p_mfn=INVALID_MFN):
    pages = bytes(pages)
    known = {int(mfn): pfn for pfn, mfn in enumerate(p2m) if mfn < len(m2p) and m2p[mfn] == pfn}
    out[:] = pages
    torn[:] = bytes(len(torn))
    for index, level, entries in tables_of(pages, types):
        bad = None
        for slot in xen_slots(entries, level, levels, compat_m2p_mfn):
            entries[slot] = 0
        for slot in [slot for slot in range(512) if entries[slot] & PRESENT]:
            if level > 1 and entries[slot] & PSE:
                bad = bad or (index, slot, SUPERPAGE)
            elif frame_of(entries[slot]) not in known:
                bad = bad or (index, slot, STALE)
            else:
                entries[slot] = with_frame(entries[slot], known[frame_of(entries[slot])])
        if level > levels:
            bad = index, 0, LEVEL
        if bad and paused:
            return bad
        if bad:
            torn[index] = 1
            entries = [0] * 512
        TABLE.pack_into(out, 4096 * index, *entries)
    return GOOD


def referenced(pages, types, state, pfns):
    used = 0
    for _, _, entries in tables_of(pages, types):
        for entry in entries:
            pfn = frame_of(entry)
            if entry & PRESENT and pfn < len(state) and not state[pfn] & 0x40 and used < len(pfns):
                state[pfn] |= 0x40
                pfns[used] = pfn
                used += 1
    return used


def localise(pages, types, p2m, out):
    local = bytearray(pages)
    for index, _, entries in tables_of(bytes(pages), types):
        for slot, entry in enumerate(entries):
            if entry & PRESENT:
                if frame_of(entry) >= len(p2m):
                    return index, slot, PAST_P2M
                mfn = int(p2m[frame_of(entry)])
                if mfn >= 1 << 40:
                    return index, slot, UNPOPULATED
                entries[slot] = with_frame(entry, mfn)
        TABLE.pack_into(local, 4096 * index, *entries)
    out[:] = local
    return GOOD


def check(pages, types, pfn_end, *, levels, strict, superpages=False):
    for index, level, entries in tables_of(bytes(pages), types):
        if level > levels:
            return index, 0, LEVEL
        own = xen_slots(entries, level, levels, INVALID_MFN)
        for slot, entry in enumerate(entries):
            if entry & PRESENT and frame_of(entry) >= pfn_end:
                return index, slot, PAST_P2M
            if entry & PRESENT and entry & PSE and level > 1 and not superpages:
                return index, slot, SUPERPAGE
            if strict and entry and slot in own:
                return index, slot, XEN_SLOT
    return GOOD

"""Page tables of PV guests: the kernel compared with a plain reference, and on the tables of genuine streams."""
import array
import random
import struct

import pytest
import reference_pagetables
from hypothesis import given
from hypothesis import strategies as st

from xstream.kernels import pagetables

PAGE = 4096
GOOD = (-1, -1, pagetables.OK)
NX = 1 << 63
#: A guest of 8 pages: MFN 17 belongs to another guest; the m2p maps MFN 18 to PFN 3, whose
#: MFN is another one; PFN 5 has no page.
P2M = array.array("Q", [20, 11, 12, 13, 14, pagetables.INVALID_MFN, 16, 10])
M2P = array.array("Q", [99] * 10 + [7, 1, 2, 3, 4, 99, 6, 2 ** 64 - 1, 3, 99, 0])


@pytest.fixture(params=[pagetables, reference_pagetables], ids=["kernel", "reference"])
def kernel(request):
    return request.param


def table(entries=None, fill=0):
    """A table with some slots set."""
    slots = [fill] * 512
    for slot, entry in (entries or {}).items():
        slots[slot] = entry
    return struct.pack("<512Q", *slots)


def entry(frame, flags=0x63):
    return frame << 12 | flags


def entries(page):
    """The non-zero slots of a table."""
    return {slot: value for slot, value in enumerate(struct.unpack("<512Q", page)) if value}


def normalise(kernel, pages, types, levels=4, paused=True, **more):
    """(result, pages, torn)"""
    out, torn = bytearray(b"\xee" * len(pages)), bytearray(b"\xee" * len(types))
    result = kernel.normalise(pages, bytes(types), P2M, M2P, out, torn, levels=levels, paused=paused, **more)
    return result, bytes(out), bytes(torn)


def localise(kernel, pages, types, p2m=P2M):
    """(result, pages)"""
    out = bytearray(b"\xee" * len(pages))
    return kernel.localise(pages, bytes(types), p2m, out), bytes(out)


TYPES = [1, 2, 3, 4, 9, 10, 11, 12]


@pytest.mark.parametrize("page_type", TYPES)
def test_frames_change_and_nothing_else(kernel, page_type):
    there = table({0: entry(20), 1: entry(16, NX | 0x7ff << 52 | 0xf7f), 3: entry(20, 0x62), 511: entry(10)})
    sent = table({0: entry(0), 1: entry(6, NX | 0x7ff << 52 | 0xf7f), 3: entry(20, 0x62), 511: entry(7)})
    assert normalise(kernel, there, [page_type]) == (GOOD, sent, b"\0")
    assert localise(kernel, sent, [page_type]) == (GOOD, there)
    assert kernel.check(sent, bytes([page_type]), 8, levels=4, strict=True) == GOOD


@pytest.mark.parametrize("page_type", [0, 5, 6, 7, 8, 13, 14, 15, 17, 255])
def test_what_is_no_table_is_copied(kernel, page_type):
    page = table(fill=entry(99, 0xff))
    for levels in (3, 4):
        assert normalise(kernel, page, [page_type], levels) == (GOOD, page, b"\0")
        assert kernel.check(page, bytes([page_type]), 8, levels=levels, strict=True) == GOOD
    assert localise(kernel, page, [page_type]) == (GOOD, page)
    assert kernel.referenced(page, bytes([page_type]), bytearray(100), array.array("Q", [0])) == 0


# --- the hypervisor's own slots

@pytest.mark.parametrize("page_type, levels, slots", [
    (4, 4, range(256, 272)), (12, 4, range(256, 272)), (3, 3, range(4, 512)), (11, 3, range(4, 512)),
    (3, 4, []), (2, 4, []), (1, 4, []), (2, 3, []), (1, 3, []),
])
def test_hypervisor_slots_are_zeroed(kernel, page_type, levels, slots):
    """Whatever they contain, including superpages and absent entries."""
    mine = {slot: entry(20) for slot in range(512) if slot not in slots}
    xens = {slot: entry(17, 0xe2 | slot & 1) for slot in slots}
    result, sent, _ = normalise(kernel, table({**mine, **xens}), [page_type], levels)
    assert result == GOOD
    assert entries(sent) == {slot: entry(0) for slot in mine}


def test_top_table_of_a_pae_guest_is_known_by_the_compat_m2p(kernel):
    page = table({0: entry(20), 427: entry(16), 428: entry(17, 0xe3), 429: entry(19, 0xe3), 511: entry(5, 2)})
    expected = table({0: entry(0), 427: entry(6)})
    assert normalise(kernel, page, [2], 3, compat_m2p_mfn=17) == (GOOD, expected, b"\0")
    assert normalise(kernel, page, [10], 3, compat_m2p_mfn=17) == (GOOD, expected, b"\0")
    assert normalise(kernel, page, [2], 3, compat_m2p_mfn=16)[0] == (0, 428, kernel.SUPERPAGE)
    assert normalise(kernel, page, [2], 3)[0] == (0, 428, kernel.SUPERPAGE)
    assert normalise(kernel, page, [2], 4, compat_m2p_mfn=17)[0] == (0, 428, kernel.SUPERPAGE)


def test_a_pae_guest_has_no_fourth_level(kernel):
    assert normalise(kernel, table() * 2, [3, 4], 3)[0] == (1, 0, kernel.LEVEL)
    assert kernel.check(table() * 2, b"\x03\x0c", 8, levels=3, strict=False) == (1, 0, kernel.LEVEL)


# --- what can't be normalised

@pytest.mark.parametrize("mfn", [0, 17, 18, 21, 2 ** 40 - 1])
def test_an_mfn_that_is_not_the_guests(kernel, mfn):
    good, bad = table({5: entry(20)}), table({5: entry(20), 7: entry(mfn), 9: entry(mfn)})
    assert normalise(kernel, good + bad + good, [1, 1, 1])[0] == (1, 7, kernel.STALE)
    sent = table({5: entry(0)})
    assert normalise(kernel, good + bad + good, [1, 1, 1], paused=False) == (GOOD, sent + table() + sent, b"\0\1\0")


def test_a_superpage(kernel):
    for bad, reason in ((table({7: entry(20, 0xe3)}), (0, 7, kernel.SUPERPAGE)),
                        (table({5: entry(17), 7: entry(20, 0xe3)}), (0, 5, kernel.STALE)),
                        (table({5: entry(20, 0xe3), 7: entry(17)}), (0, 5, kernel.SUPERPAGE))):
        assert normalise(kernel, bad, [2])[0] == reason
        assert normalise(kernel, bad, [2], paused=False) == (GOOD, table(), b"\1")
    for paused in (True, False):
        assert normalise(kernel, table({7: entry(20, 0xe2)}), [2], paused=paused)[0] == GOOD
    assert normalise(kernel, table({7: entry(20, 0xe3)}), [1])[0] == GOOD


def test_a_table_of_a_level_that_the_guest_does_not_have(kernel):
    pages = table({3: entry(20)}) + table({3: entry(20)})
    assert normalise(kernel, pages, [1, 4], 3)[0] == (1, 0, kernel.LEVEL)
    assert normalise(kernel, pages, [1, 4], 3, paused=False) == (GOOD, table({3: entry(0)}) + table(), b"\0\1")


def test_tables_may_be_normalised_and_localised_in_place(kernel):
    there = table({0: entry(20)}) + b"\x42" * PAGE + table({1: entry(16), 260: entry(17)}) + table({3: entry(17)})
    sent = table({0: entry(0)}) + b"\x42" * PAGE + table({1: entry(6)}) + table()
    pages = bytearray(there)
    assert kernel.normalise(pages, b"\1\0\4\1", P2M, M2P, pages, bytearray(4), levels=4, paused=False) == GOOD
    assert pages == sent
    assert kernel.localise(pages, b"\1\0\4\1", P2M, pages) == GOOD
    assert pages[:PAGE] == there[:PAGE] and entries(pages[2 * PAGE:3 * PAGE]) == {1: entry(16)}


# --- restoring

@pytest.mark.parametrize("pfn, reason", [(8, "PAST_P2M"), (2 ** 40 - 1, "PAST_P2M"), (5, "UNPOPULATED")])
def test_a_pfn_that_can_not_be_localised(kernel, pfn, reason):
    page = table({0: entry(7), 511: entry(pfn)})
    result, out = localise(kernel, table({0: entry(7)}) + page, [1, 12])
    assert result == (1, 511, getattr(kernel, reason))
    assert out == b"\xee" * PAGE * 2
    assert localise(kernel, table({511: entry(pfn, 0x62)}), [1])[0] == GOOD


def test_an_mfn_that_does_not_fit(kernel):
    page = table({0: entry(0)})
    assert localise(kernel, page, [1], array.array("Q", [2 ** 40 - 1])) == (GOOD, table({0: entry(2 ** 40 - 1)}))
    assert localise(kernel, page, [1], array.array("Q", [2 ** 40]))[0] == (0, 0, kernel.UNPOPULATED)


def test_referenced_pfns_are_named_once_and_marked(kernel):
    pages = table({0: entry(3), 1: entry(4), 2: entry(3), 3: entry(6, 0x62), 4: entry(8)}) + table({0: entry(4)}) \
        + table({0: entry(5)}) + table({0: entry(7), 1: entry(1)})
    state, pfns = bytearray(b"\x8f\xcf\0\0\xaf\0\0\0"), array.array("Q", [99] * 5)
    assert kernel.referenced(pages, b"\1\2\0\x0c", state, pfns) == 3
    assert pfns.tolist() == [3, 4, 7, 99, 99]
    assert state == b"\x8f\xcf\0\x40\xef\0\0\x40"
    assert kernel.referenced(pages, b"\1\2\0\x0c", state, pfns) == 0


def test_referenced_goes_on_where_the_room_ended(kernel):
    pages = table({slot: entry(slot) for slot in range(100)}) * 2
    state, pfns, found = bytearray(100), array.array("Q", [0] * 32), []
    counts = []
    while not counts or counts[-1]:
        counts.append(kernel.referenced(pages, b"\1\1", state, pfns))
        found += pfns[:counts[-1]].tolist()
    assert counts == [32, 32, 32, 4, 0]
    assert found == list(range(100))


# --- checking

@pytest.mark.parametrize("slots, page_type, levels, bad", [
    ({3: entry(8)}, 1, 4, (3, "PAST_P2M")),
    ({3: entry(2 ** 40 - 1)}, 9, 3, (3, "PAST_P2M")),
    ({3: entry(8, 0x62)}, 1, 4, None),
    ({3: entry(7, 0xe3)}, 1, 4, None),
    ({3: entry(7, 0xe3)}, 2, 4, (3, "SUPERPAGE")),
    ({3: entry(7, 0xe3), 2: entry(9)}, 12, 4, (2, "PAST_P2M")),
    ({428: entry(0, 0xe3)}, 2, 3, (428, "SUPERPAGE")),
])
def test_what_check_finds(kernel, slots, page_type, levels, bad):
    pages, types = table({7: entry(7)}) + table(slots), bytes([1, page_type])
    expected = (1, bad[0], getattr(kernel, bad[1])) if bad else GOOD
    for strict in (False, True):
        assert kernel.check(pages, types, 8, levels=levels, strict=strict) == expected
        if bad is None or bad[1] == "SUPERPAGE":
            assert kernel.check(pages, types, 8, levels=levels, strict=strict, superpages=True) == GOOD


@pytest.mark.parametrize("page_type, levels, slot", [(4, 4, 256), (12, 4, 271), (3, 3, 4), (11, 3, 511)])
@pytest.mark.parametrize("value", [entry(1), entry(1, 2), NX])
def test_hypervisor_slots_are_looked_at_when_strict(kernel, page_type, levels, slot, value):
    for here, expected in ((slot, (0, slot, kernel.XEN_SLOT)), (3, GOOD)):
        page = table({here: value})
        assert kernel.check(page, bytes([page_type]), 8, levels=levels, strict=False) == GOOD
        assert kernel.check(page, bytes([page_type]), 8, levels=levels, strict=True) == expected


# --- random tables

ENTRIES = st.builds(entry, st.one_of(st.integers(0, 22), st.integers(0, 2 ** 40 - 1)),
                    st.sampled_from([0, 1, 0x63, 0x63, 0x63, 0x81, 0xe3, NX | 0x63]))
SLOTS = st.one_of(st.sampled_from([0, 3, 4, 255, 256, 271, 272, 427, 428, 511]), st.integers(0, 511))
TABLES = st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 4, 9, 10, 11, 12, 15]),
                            st.dictionaries(SLOTS, ENTRIES, max_size=6)), max_size=5)
LEVELS = st.sampled_from([3, 4])


def built(tables):
    return b"".join(table(slots) for _, slots in tables), [page_type for page_type, _ in tables]


@given(tables=TABLES, levels=LEVELS, paused=st.booleans(), compat=st.integers(0, 22))
def test_any_tables_normalise_alike(tables, levels, paused, compat):
    pages, types = built(tables)
    result, out, torn = normalise(pagetables, pages, types, levels, paused, compat_m2p_mfn=compat)
    expected = normalise(reference_pagetables, pages, types, levels, paused, compat_m2p_mfn=compat)
    assert result == expected[0]
    if result == GOOD:
        assert (out, torn) == expected[1:]
        again = localise(pagetables, out, types)
        assert again == localise(reference_pagetables, out, types)
        # All of a guest's own PFNs have MFNs: what could be normalised can be localised, to what it was.
        assert again[0] == GOOD
        assert normalise(pagetables, again[1], types, levels, paused)[1] == out


@given(tables=TABLES, levels=LEVELS, strict=st.booleans(), superpages=st.booleans(), pfn_end=st.integers(0, 22),
       room=st.integers(0, 9))
def test_any_tables_are_read_alike(tables, levels, strict, superpages, pfn_end, room):
    pages, types = built(tables)
    assert localise(pagetables, pages, types) == localise(reference_pagetables, pages, types)
    how = {"levels": levels, "strict": strict, "superpages": superpages}
    assert pagetables.check(pages, bytes(types), pfn_end, **how) \
        == reference_pagetables.check(pages, bytes(types), pfn_end, **how)
    found = []
    for kernel in (pagetables, reference_pagetables):
        state, pfns = bytearray(b"\0\x40" * 10), array.array("Q", [0] * room)
        found.append((kernel.referenced(pages, bytes(types), state, pfns), state, pfns))
    assert found[0] == found[1]


@given(pages=st.binary(min_size=64, max_size=64).map(lambda some: some * 64), page_type=st.integers(0, 15),
       levels=LEVELS)
def test_any_bytes_are_read_alike(pages, page_type, levels):
    assert normalise(pagetables, pages, [page_type], levels)[0] \
        == normalise(reference_pagetables, pages, [page_type], levels)[0]
    assert localise(pagetables, pages, [page_type]) == localise(reference_pagetables, pages, [page_type])


# --- genuine tables

def page_batches(stream):
    """(types, pages) of each batch with data of a version 3 libxc stream."""
    at = 40
    while at < len(stream):
        kind, length = struct.unpack_from("<II", stream, at)
        if kind == 1:
            count, = struct.unpack_from("<I", stream, at + 8)
            words = struct.unpack_from("<{}Q".format(count), stream, at + 16)
            types = bytes(word >> 60 for word in words if word >> 60 < 13)
            yield types, stream[at + 16 + 8 * count:at + 8 + length]
        at += 8 + (length + 7) // 8 * 8


@pytest.mark.parametrize("name", ["pv64.xs.xz", "pv64-live.xs.xz"])
def test_genuine_tables(kernel, genuine_stream, name):
    """They pass the check, and are the same after being localised to an invented machine and normalised again."""
    stream = genuine_stream("v3", name)
    pfn_end = stream.about["pfns"]
    mfns = random.Random(7).sample(range(4096), pfn_end)
    p2m, m2p = array.array("Q", mfns), array.array("Q", [kernel.INVALID_MFN] * 4096)
    for pfn, mfn in enumerate(mfns):
        m2p[mfn] = pfn
    tables = 0
    for types, pages in page_batches(stream.path.read_bytes()):
        assert kernel.check(pages, types, pfn_end, levels=4, strict=True) == GOOD
        local, again, torn = bytearray(len(pages)), bytearray(len(pages)), bytearray(len(types))
        assert kernel.localise(pages, types, p2m, local) == GOOD
        assert kernel.normalise(local, types, p2m, m2p, again, torn, levels=4, paused=True) == GOOD
        assert again == pages and not any(torn)
        tables += sum(map(bool, types))
        assert local != pages or not any(types)
    assert tables > 3


# --- the interface

@pytest.mark.parametrize("shift", range(1, 9))
def test_any_alignment(shift):
    def moved(buffer):
        return memoryview(bytearray(bytes(shift) + bytes(buffer)))[shift:]

    pages = moved(table({slot: entry(slot % 5) for slot in range(512)}))
    p2m, m2p = moved(P2M.tobytes()).cast("Q"), moved(M2P.tobytes()).cast("Q")
    local, again = moved(bytes(PAGE)), moved(bytes(PAGE))
    assert pagetables.localise(pages, b"\1", p2m, local) == GOOD
    assert pagetables.normalise(local, b"\1", p2m, m2p, again, bytearray(1), levels=4, paused=True) == GOOD
    assert again == pages
    assert pagetables.check(again, b"\1", 5, levels=4, strict=True) == GOOD
    found = moved(bytes(80)).cast("Q")
    assert pagetables.referenced(again, b"\1", bytearray(8), found) == 5
    assert found.tolist() == [0, 1, 2, 3, 4] + [0] * 5


def test_overlapping_buffers_stay_within_them():
    memory = bytearray(table(fill=entry(1)) * 4)
    numbers = memoryview(memory)[:2 * PAGE].cast("Q")
    pagetables.localise(memory, b"\1\1\0\1", numbers, memory)
    shifted = memoryview(memory)
    pagetables.localise(shifted[8:3 * PAGE + 8], b"\1\0\1", P2M, shifted[:3 * PAGE])
    pagetables.normalise(shifted[:3 * PAGE], b"\1\0\1", numbers, numbers, shifted[PAGE - 3:4 * PAGE - 3],
                         shifted[5:8], levels=4, paused=False)
    pagetables.referenced(memory, b"\1\1\1\1", memory, numbers)


def test_nothing_at_all(kernel):
    nothing = array.array("Q")
    assert kernel.normalise(b"", b"", nothing, nothing, bytearray(), bytearray(), levels=4, paused=True) == GOOD
    assert kernel.localise(b"", b"", nothing, bytearray()) == GOOD
    assert kernel.check(b"", b"", 0, levels=3, strict=True) == GOOD
    assert kernel.referenced(b"", b"", bytearray(), nothing) == 0
    page = table({9: entry(0)})
    assert kernel.localise(page, b"\1", nothing, bytearray(PAGE)) == (0, 9, kernel.PAST_P2M)
    assert kernel.normalise(page, b"\1", nothing, nothing, bytearray(PAGE), bytearray(1), levels=4, paused=True) \
        == (0, 9, kernel.STALE)
    assert kernel.referenced(page, b"\1", bytearray(), array.array("Q", [0])) == 0
    assert kernel.referenced(page, b"\1", bytearray(1), nothing) == 0


WRONG = [
    ("pages", 7, TypeError, "pages must be a buffer, not int"),
    ("pages", bytes(100), ValueError, "pages must hold whole pages"),
    ("pages", memoryview(bytes(2 * PAGE))[::2], ValueError, "pages must be contiguous"),
    ("types", b"\1\1", ValueError, "types must have 1 elements, not 2"),
    ("types", array.array("H", [1]), TypeError, "types must be of uint8"),
    ("p2m", array.array("I", [1]), TypeError, "p2m must be of uint64"),
    ("p2m", bytes(8), TypeError, "p2m must be of uint64"),
    ("out", bytes(PAGE), ValueError, "out must be writable"),
    ("out", bytearray(PAGE - 1), ValueError, "out must have 4096 bytes, not 4095"),
]


@pytest.mark.parametrize("name, value, error, message", WRONG + [
    ("m2p", array.array("d", [1]), TypeError, "m2p must be of uint64"),
    ("torn", bytes(1), ValueError, "torn must be writable"),
    ("torn", bytearray(2), ValueError, "torn must have 1 elements"),
    ("levels", 2, ValueError, "levels must be 3 or 4, not 2"),
])
def test_wrong_arguments_of_normalise(name, value, error, message):
    arguments = {"pages": table(), "types": b"\1", "p2m": P2M, "m2p": M2P, "out": bytearray(PAGE),
                 "torn": bytearray(1), "levels": 4, "paused": True}
    arguments[name] = value
    with pytest.raises(error, match=message):
        pagetables.normalise(**arguments)


@pytest.mark.parametrize("name, value, error, message", WRONG)
def test_wrong_arguments_of_localise(name, value, error, message):
    arguments = {"pages": table(), "types": b"\1", "p2m": P2M, "out": bytearray(PAGE)}
    arguments[name] = value
    with pytest.raises(error, match=message):
        pagetables.localise(**arguments)


@pytest.mark.parametrize("arguments, error, message", [
    ((table(), b"\1", bytes(8), array.array("Q", [0])), ValueError, "state must be writable"),
    ((table(), b"\1", bytearray(8), memoryview(bytes(8)).cast("Q")), ValueError, "pfns must be writable"),
    ((table(), b"\1", bytearray(8), bytearray(8)), TypeError, "pfns must be of uint64"),
    ((table(), b"", bytearray(8), array.array("Q", [0])), ValueError, "types must have 1 elements"),
])
def test_wrong_arguments_of_referenced(arguments, error, message):
    with pytest.raises(error, match=message):
        pagetables.referenced(*arguments)


def test_wrong_arguments_of_check():
    with pytest.raises(ValueError, match="levels must be 3 or 4, not 5"):
        pagetables.check(table(), b"\1", 8, levels=5, strict=True)
    with pytest.raises(OverflowError):
        pagetables.check(table(), b"\1", -1, levels=4, strict=True)


def test_arrays_of_numpy_are_buffers():
    numpy = pytest.importorskip("numpy")
    pages = numpy.zeros((2, PAGE), numpy.uint8)
    pages[0, :8] = list(struct.pack("<Q", entry(1)))
    out = numpy.zeros((2, 512), numpy.uint64)
    assert pagetables.localise(pages, numpy.array([1, 0], numpy.uint8), numpy.array(P2M, numpy.uint64), out) == GOOD
    assert out[0, 0] == entry(11)
    nothing = numpy.zeros((0, PAGE), numpy.uint8)
    assert pagetables.localise(nothing, b"", P2M, nothing) == GOOD

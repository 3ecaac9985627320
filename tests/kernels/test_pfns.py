"""The kernel pfns compared with a plain reference."""
import numpy
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from xstream.kernels import pfns as built

BOTH = pytest.mark.parametrize("kernel", [built, reference.pfns], ids=["kernel", "reference"])
WORDS = st.lists(st.builds(lambda kind, reserved, pfn: kind << 60 | reserved << 52 | pfn, st.integers(0, 15),
                           st.sampled_from([0, 0, 0, 1, 255]),
                           st.one_of(st.integers(0, 300), st.integers(0, 2 ** 52 - 1))), max_size=70)
SMALL_WORDS = st.lists(st.builds(lambda kind, pfn: kind << 60 | pfn, st.sampled_from([0, 1, 4, 9, 12, 13, 14, 15]),
                                 st.integers(0, 60)), max_size=100)


def packed(words, shift=0):
    """The words as bytes at any alignment."""
    data = bytes(shift) + b"".join(word.to_bytes(8, "little") for word in words)
    return memoryview(bytearray(data))[shift:]


def both(function, *arguments):
    """The results of the kernel and of its reference for the same arguments, which must agree, outputs included."""
    results = []
    for kernel in (built, reference.pfns):
        copies = [bytearray(argument) if isinstance(argument, bytearray) else
                  argument.copy() if isinstance(argument, numpy.ndarray) else argument for argument in arguments]
        result = getattr(kernel, function)(*copies)
        results.append((result, [bytes(copy) if isinstance(copy, (bytearray, numpy.ndarray)) else None
                                 for copy in copies]))
    assert results[0] == results[1]
    return results[0][0]


def uint64(*values):
    return numpy.array(values, numpy.uint64)


@BOTH
def test_unpack_and_pack(kernel):
    words = packed([0x5, 0xF << 60 | 7, 1 << 60 | 2 ** 52 - 1])
    pfns, types = numpy.zeros(3, numpy.uint64), bytearray(3)
    kernel.unpack(words, pfns, types)
    assert pfns.tolist() == [5, 7, 2 ** 52 - 1] and list(types) == [0, 0xF, 1]
    again = bytearray(24)
    kernel.pack(pfns, types, again)
    assert again == words


@BOTH
@pytest.mark.parametrize("word, strict, reason", [
    (5 << 60, False, 1), (8 << 60, True, 1), (9 << 60, False, 0), (100, False, 2), (99, False, 0), (1 << 52, False, 0),
    (1 << 52, True, 3), (0xF << 60 | 100, False, 2), (2 ** 52 - 1, False, 2), (1 << 59, True, 3),
    (5 << 60 | 100, True, 1),
])
def test_check(kernel, word, strict, reason):
    expected = (2, reason, 1) if reason else (-1, 0, 1 + (word >> 60 != 0xF))
    assert kernel.check(packed([1, 0xD << 60, word]), 100, strict) == expected


def test_reasons_are_named():
    assert (built.BAD_TYPE, built.BAD_PFN, built.BAD_RESERVED) == (1, 2, 3)


@given(words=WORDS, shift=st.integers(0, 8), pfn_end=st.sampled_from([0, 200, 2 ** 52]), strict=st.booleans())
def test_words(words, shift, pfn_end, strict):
    data = packed(words, shift)
    both("check", data, pfn_end, strict)
    both("highest_pfn", data)
    count = both("count_data", data)
    assert both("data_pfns", data, numpy.zeros(count, numpy.uint64)) == count
    both("unpack", data, numpy.zeros(len(words), numpy.uint64), bytearray(len(words)))


@given(first=SMALL_WORDS, second=SMALL_WORDS, start=st.integers(0, 61))
def test_states(first, second, start):
    states = []
    for kernel in (built, reference.pfns):
        state = bytearray(61)
        states.append((kernel.mark(packed(first), state), kernel.mark(packed(second), state), bytes(state)))
    assert states[0] == states[1]
    state = states[0][2]
    for function in ("count_populated", "type_histogram"):
        both(function, state)
    both("types_of", state, bytearray(61))
    both("populated", state, bytearray(61))
    both("populated_pfns", state, start, numpy.zeros(20, numpy.uint64))


@given(state=st.binary(max_size=80).map(bytearray), start=st.integers(0, 90))
def test_states_of_any_bytes(state, start):
    for function in ("count_populated", "type_histogram"):
        both(function, bytes(state))
    both("types_of", bytes(state), bytearray(len(state)))
    both("populated", bytes(state), bytearray(len(state)))
    both("populated_pfns", bytes(state), start, numpy.zeros(20, numpy.uint64))


@BOTH
def test_mark(kernel):
    state = bytearray(8)
    assert kernel.mark(packed([1, 0xE << 60 | 2, 0xF << 60 | 3, 0xD << 60 | 4, 1, 9 << 60 | 5]), state) == (3, 2, 1)
    assert list(state) == [0, 0xEF, 0xC1, 0x80, 0x82, 0xE6, 0, 0]
    assert kernel.mark(packed([0xF << 60 | 1, 2]), state) == (1, 1, 0)
    assert (state[1], state[2]) == (0xE0, 0xEF)


def test_mark_changes_nothing_where_a_pfn_is_outside():
    state = bytearray(8)
    with pytest.raises(IndexError, match="0x8"):
        built.mark(packed([1, 8]), state)
    assert state == bytes(8)


def test_states_that_are_nearly_empty():
    for size in (0, 1, 7, 8, 9, 4096, 100003):
        state = bytearray(size)
        assert built.count_populated(state) == 0 and built.type_histogram(state) == [0] * 16
        for pfn in {size - 1, size // 2} if size else ():
            built.mark(packed([pfn]), state)
        assert built.count_populated(state) == len({size - 1, size // 2}) * bool(size)
        found = numpy.zeros(3, numpy.uint64)
        count = built.populated_pfns(state, 0, found)
        assert found[:count].tolist() == sorted({size - 1, size // 2} if size else ())


@given(bits=st.binary(max_size=40), first=st.sampled_from([0, 64, 2 ** 40]))
def test_bitmaps(bits, first):
    count = both("count_bits", bits)
    assert both("bitmap_to_pfns", bits, first, numpy.zeros(count + 1, numpy.uint64)) == count
    pfns = numpy.zeros(count, numpy.uint64)
    built.bitmap_to_pfns(bits, 0, pfns)
    again = bytearray(len(bits))
    built.pfns_to_bitmap(pfns, again)
    assert again == bits


@given(pfns=st.lists(st.one_of(st.integers(0, 12), st.sampled_from([2 ** 64 - 1, 2 ** 52])), max_size=60))
def test_runs(pfns):
    count = both("runs", uint64(*pfns), numpy.zeros(len(pfns), numpy.uint64), numpy.zeros(len(pfns), numpy.uint64))
    assert count <= len(pfns)


@BOTH
def test_runs_of_neighbours(kernel):
    starts, lengths = numpy.zeros(6, numpy.uint64), numpy.zeros(6, numpy.uint64)
    assert kernel.runs(uint64(5, 6, 7, 9, 8, 9), starts, lengths) == 3
    assert starts[:3].tolist() == [0, 3, 4] and lengths[:3].tolist() == [3, 1, 2]


@pytest.mark.parametrize("pfns, expected", [
    ([], True), ([5], True), ([0, 1, 2 ** 63, 2 ** 64 - 1], True), ([1, 2, 2], False), ([3, 2], False),
    ([*range(100), 99], False),
])
def test_ascending(pfns, expected):
    assert both("ascending", uint64(*pfns)) is expected


@given(pfns=st.lists(st.one_of(st.integers(0, 40), st.sampled_from([2 ** 64 - 1, 2 ** 52])), min_size=1, max_size=60),
       start=st.integers(0, 59), order=st.integers(0, 6), ascending=st.booleans())
def test_batch_end(pfns, start, order, ascending):
    pfns = sorted(set(pfns)) if ascending else pfns
    assert start % len(pfns) < both("batch_end", uint64(*pfns), start % len(pfns), order) <= len(pfns)


@BOTH
def test_batches_end_at_aligned_blocks(kernel):
    assert [kernel.batch_end(uint64(1, 2, 5, 8, 9, 10, 11, 12), start, 2) for start in (0, 2, 3)] == [2, 3, 7]
    assert kernel.batch_end(uint64(1, 9, 5, 7, 12), 0, 2) == 4  # not ascending


@pytest.mark.parametrize("call", [
    lambda: built.batch_end(uint64(1, 2), 2, 0),
    lambda: built.batch_end(uint64(1, 2), -1, 0),
    lambda: built.batch_end(uint64(1, 2), 0, 63),
    lambda: built.batch_end(uint64(), 0, 0),
    lambda: built.unpack(bytes(8), uint64(0, 0), bytearray(1)),
    lambda: built.unpack(bytes(8), uint64(0), bytearray(2)),
    lambda: built.unpack(bytes(7), uint64(), bytearray(0)),
    lambda: built.unpack(bytes(8), numpy.zeros(1, numpy.uint32), bytearray(1)),
    lambda: built.unpack(bytes(8), numpy.zeros(1, numpy.int64), bytearray(1)),
    lambda: built.unpack(bytes(8), uint64(0), bytes(1)),
    lambda: built.unpack(None, uint64(0), bytearray(1)),
    lambda: built.unpack(numpy.zeros((2, 4), numpy.uint8), uint64(0), bytearray(1)),
    lambda: built.unpack(numpy.zeros(16, numpy.uint8)[::2], uint64(0), bytearray(1)),
    lambda: built.pack(uint64(1 << 52), bytearray(1), bytearray(8)),
    lambda: built.pack(uint64(1), bytearray(b"\x10"), bytearray(8)),
    lambda: built.data_pfns(bytes(16), uint64(0)),
    lambda: built.types_of(bytes(3), bytearray(4)),
    lambda: built.populated(bytes(3), bytearray(2)),
    lambda: built.populated_pfns(bytes(3), -1, uint64(0)),
    lambda: built.bitmap_to_pfns(b"\3", 0, uint64(0)),
    lambda: built.runs(uint64(1, 2), uint64(0), uint64(0, 0)),
    lambda: built.runs(uint64(1, 2), uint64(0, 0), uint64(0)),
])
def test_wrong_arguments(call):
    with pytest.raises((ValueError, TypeError, BufferError)):
        call()


def test_pfns_outside_a_bitmap():
    bitmap = bytearray(1)
    with pytest.raises(IndexError):
        built.pfns_to_bitmap(uint64(1, 8), bitmap)
    assert bitmap == b"\0"


def test_nothing_is_fine():
    empty = uint64()
    assert built.check(b"", 0, True) == (-1, 0, 0) and built.highest_pfn(b"") == -1
    assert built.mark(b"", bytearray(0)) == (0, 0, 0) and built.runs(empty, empty, empty) == 0
    assert built.data_pfns(b"", empty) == 0 and built.bitmap_to_pfns(b"", 0, empty) == 0


LEGACY_WORDS = st.lists(st.one_of(
    st.builds(lambda kind, pfn: kind << 28 | pfn, st.sampled_from([0, 0, 1, 8, 9, 13, 14, 15, 15, 5, 7]),
              st.integers(0, 12)), st.integers(0, 2 ** 32 - 1)), max_size=20)


@given(LEGACY_WORDS, st.sampled_from([4, 8]), st.integers(0, 14), st.booleans(), st.integers(0, 7))
def test_widen_is_the_references(words, width, pfn_end, strict, shift):
    data = memoryview(bytes(shift) + b"".join(word.to_bytes(width, "little") for word in words))[shift:]
    result = both("widen", data, width, pfn_end, strict, bytearray(8 * len(words) + 3))
    assert result[2] <= len(words)


@BOTH
def test_widen(kernel):
    words = bytearray(40)
    legacy = b"".join(word.to_bytes(8, "little") for word in (5, 0xF << 28, 8 << 28 | 6, 0x9 << 28 | 7, 0xD << 28 | 8))
    assert kernel.widen(legacy, 8, 9, True, words) == (-1, 0, 4, 3)
    assert words[:32] == packed([5, 6, 0x9 << 60 | 7, 0xD << 60 | 8])
    assert kernel.widen(legacy, 8, 8, True, words) == (4, 2, 3, 3)
    assert kernel.widen((0xF << 28 | 1).to_bytes(4, "little"), 4, 9, False, words)[:2] == (-1, 0)
    assert kernel.widen((0xF << 28 | 1).to_bytes(4, "little"), 4, 9, True, words)[:2] == (0, 3)
    assert kernel.widen((1 << 32).to_bytes(8, "little"), 8, 9, False, words)[:2] == (0, 3)
    assert kernel.widen((6 << 28).to_bytes(4, "little"), 4, 9, False, words)[:2] == (0, 1)


@given(st.lists(st.builds(lambda kind, pfn: kind << 60 | pfn, st.integers(0, 15), st.one_of(
    st.integers(0, 2 ** 28), st.integers(0, 2 ** 52 - 1))), max_size=20), st.sampled_from([4, 8]))
def test_narrow_is_the_references(words, width):
    both("narrow", packed(words), width, bytearray(width * len(words)))


@given(SMALL_WORDS, st.binary(min_size=8, max_size=8), st.booleans(), st.booleans())
def test_select_is_the_references(words, bitmap, wanted, mark):
    found = []
    for kernel in (built, reference.pfns):
        out, pages, bits = bytearray(8 * len(words)), numpy.zeros(len(words), numpy.uint64), bytearray(bitmap)
        kept, carrying = kernel.select(packed(words), bits, wanted, mark, out, pages)
        found.append((kept, carrying, bits, out[:8 * kept], pages[:carrying].tolist()))
    assert found[0] == found[1] and found[0][1] <= found[0][0] <= len(words)


@BOTH
def test_select_each_pfns_last(kernel):
    words = [1, 2, 0xF << 60 | 3, 1, 3]
    out, pages, bitmap = bytearray(40), numpy.zeros(5, numpy.uint64), bytearray(1)
    assert kernel.select(packed(words), bitmap, False, True, out, pages) == (3, 3)
    assert out[:24] == packed([2, 1, 3]) and pages[:3].tolist() == [1, 2, 3] and bitmap == b"\x0e"
    assert kernel.select(packed(words), bitmap, False, True, out, pages) == (0, 0)
    with pytest.raises(IndexError):
        kernel.select(packed([8]), bitmap, False, True, out, pages)


@given(st.lists(st.integers(0, 20), max_size=20), st.binary(max_size=16))
def test_what_becomes_of_states_is_the_references(pfns, state):
    numbers = uint64(*pfns)
    both("populated_of", numbers, state, bytearray(len(pfns)))
    both("forget", numbers, bytearray(state), numpy.zeros(len(pfns), numpy.uint64))


@pytest.mark.parametrize("call", [
    lambda: built.widen(bytes(7), 4, 9, False, bytearray(80)),
    lambda: built.widen(bytes(6), 6, 9, False, bytearray(80)),
    lambda: built.widen(bytes(8), 4, 9, False, bytearray(15)),
    lambda: built.narrow(bytes(8), 4, bytearray(8)),
    lambda: built.narrow(bytes(8), 2, bytearray(2)),
    lambda: built.select(bytes(8), bytearray(1), True, True, bytearray(7), uint64(0)),
    lambda: built.select(bytes(8), bytearray(1), True, True, bytearray(8), uint64()),
    lambda: built.populated_of(uint64(1), b"", bytearray(2)),
    lambda: built.forget(uint64(1), bytearray(2), uint64()),
])
def test_wrong_arguments_for_legacy_words(call):
    with pytest.raises(ValueError):
        call()

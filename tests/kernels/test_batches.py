"""The kernel batches compared with a plain reference."""
import numpy
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from samples import BROKEN, XTAB, batch, end, page, record, word

from xstream.kernels import batches as built

BOTH = pytest.mark.parametrize("kernel", [built, reference.batches], ids=["kernel", "reference"])


def scanned(kernel, data, room=100, most=50, pfn_end=1000, strict=False, limit=1 << 20):
    words, extents = bytearray(8 * room), numpy.zeros(2 * most, numpy.uint64)
    result = kernel.scan(data, 1, limit, pfn_end, strict, words, extents)
    return result, bytes(words[:8 * result[2]]), extents[:2 * result[0]].tolist()


SOME = [batch([word(1), word(2, XTAB)], [page(1)]), batch([word(9, BROKEN)]),
        batch([word(4), word(3)], [page(4), page(3)])]


@BOTH
def test_good_batches_are_passed(kernel):
    data = b"".join(SOME)
    result, words, extents = scanned(kernel, data + end())
    assert result == (3, len(data), 5, 3)
    assert words == SOME[0][16:32] + SOME[1][16:24] + SOME[2][16:32]
    assert extents == [32, 1, len(SOME[0]) + 24, 0, len(SOME[0] + SOME[1]) + 32, 2]


@BOTH
@pytest.mark.parametrize("bad", [
    b"", b"\1", SOME[0][:-1], end(), batch([word(1000, XTAB)]), batch([word(1, 5)]), batch([]), batch([word(1)]),
    batch([word(1, XTAB)], [page(1)]), batch([word(1, XTAB)], count=2), record(1, b""), record(1, bytes(8)),
    batch([word(0, XTAB)], count=0xFFFFFFFF), record(1, bytes(16), length=0xFFFFFFFF),
])
def test_it_stops_in_front_of_anything_else(kernel, bad):
    result, _, _ = scanned(kernel, SOME[0] + bad)
    assert result == (1, len(SOME[0]), 2, 1)


@BOTH
def test_limits(kernel):
    data = b"".join(SOME)
    assert scanned(kernel, data, room=3)[0][:3] == (2, len(SOME[0] + SOME[1]), 3)
    assert scanned(kernel, data, most=1)[0][0] == 1
    assert scanned(kernel, data, limit=4000)[0][0] == 0
    assert scanned(kernel, data, pfn_end=9)[0][0] == 1
    for odd in (batch([word(1, XTAB, 1)]), batch([word(1, XTAB)], reserved=1)):
        assert scanned(kernel, odd)[0][0] == 1
        assert scanned(kernel, odd, strict=True)[0][0] == 0


@given(data=st.data())
def test_damaged_batches(data):
    whole = bytearray(b"".join(SOME) * 2)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.sampled_from([0, 4, 5, 8, 9, 12, 16, 22, 23, 24, 31, 4128, 4132, 4136, 4144, 4152, 4160]))
        whole[at] = data.draw(st.integers(0, 255))
    cut = whole[:data.draw(st.integers(0, len(whole)))]
    shifted = memoryview(b"\0" + bytes(cut))[1:]
    assert scanned(built, shifted) == scanned(reference.batches, cut)


def scanned_without(kernel, data, holes, room=100, strict=False):
    """Scan data of which parts (begin, end) are left out."""
    left, places, last = b"", [], 0
    for begin, after in holes:
        left += data[last:begin]
        places += [len(left), after - begin]
        last = after
    words = bytearray(8 * room)
    result = kernel.scan_sparse(left + data[last:], numpy.array(places, numpy.uint64), 1, 1 << 20, 1000, strict, words)
    return result, bytes(words[:8 * result[2]])


THIRD = len(SOME[0] + SOME[1]) + 32  # where the pages of the third begin


@BOTH
@pytest.mark.parametrize("holes, batches", [
    ([], 3), ([(32, 4128)], 3), ([(32, 4128), (THIRD, THIRD + 8192)], 3), ([(33, 40), (50, 4127)], 3),
    ([(32, 1000), (1000, 4128)], 3), ([(THIRD, THIRD + 4096)], 3), ([(THIRD + 8191, THIRD + 8192)], 3),
    ([(31, 4128)], 0), ([(0, 1)], 0), ([(32, 4129)], 0), ([(4128, 4129)], 1), ([(4127, 4200)], 0),
    ([(THIRD, THIRD + 8193)], 2), ([(THIRD - 8, THIRD)], 2), ([(THIRD, THIRD + 2 ** 63)], 2),
])
def test_pages_that_are_left_out(kernel, holes, batches):
    data = b"".join(SOME)
    if holes and holes[-1][1] > 2 ** 32 and kernel is not built:
        pytest.skip("not applicable: the reference fills holes")
    result, words = scanned_without(kernel, data, holes)
    assert result == (batches, sum(map(len, SOME[:batches])), (0, 2, 3, 5)[batches], (0, 1, 1, 3)[batches])
    assert words == (SOME[0][16:32] + SOME[1][16:24] + SOME[2][16:32])[:8 * result[2]]


@given(data=st.data())
def test_any_parts_are_left_out(data):
    whole = bytearray(b"".join(SOME) * 2)
    edges = [0, 1, 16, 31, 32, 33, 4127, 4128, 4129, 4144, 4152, 4153, THIRD, THIRD + 4096, THIRD + 8192]
    length = THIRD + 8192
    cuts = sorted(data.draw(st.sets(st.sampled_from(edges + [length + edge for edge in edges]), max_size=6)))
    holes = list(zip(cuts[::2], cuts[1::2]))
    for _ in range(data.draw(st.integers(0, 2))):
        whole[data.draw(st.sampled_from([0, 4, 5, 8, 16, 23, 24, 31, 4128, 4132, 4136, 4144]))] ^= 1
    room, strict = data.draw(st.sampled_from([3, 9, 100])), data.draw(st.booleans())
    assert scanned_without(built, bytes(whole), holes, room, strict) == scanned_without(
        reference.batches, bytes(whole), holes, room, strict)


@pytest.mark.parametrize("places", [[50, 9, 40, 9], [2 ** 63, 9], [0, 2 ** 64 - 1], [33], [32, 0, 32, 4096, 9]])
def test_holes_out_of_place(places):
    holes = numpy.array(places, numpy.uint64)
    result = built.scan_sparse(b"".join(SOME), holes, 1, 1 << 20, 1000, False, bytearray(99))
    assert result[0] <= 3 and result[2] <= 12


@BOTH
def test_scatter(kernel):
    data = b"".join(SOME)
    _, _, extents = scanned(kernel, data)
    memory = bytearray(5 * 4096)
    kernel.scatter(memory, numpy.array([1, 4, 3], numpy.uint64), data, numpy.array(extents, numpy.uint64))
    assert memory == bytes(4096) + page(1) + bytes(4096) + page(3) + page(4)


@pytest.mark.parametrize("pfns, extents", [
    ([5], [0, 1]), ([2 ** 64 - 1], [0, 1]), ([0, 1], [0, 3]), ([0], [4097, 1]), ([0], [2 ** 64 - 1, 1]),
    ([0, 1], [4096, 2]), ([0], [0, 2 ** 64 - 1]), ([], [0, 1]),
])
def test_scatter_outside(pfns, extents):
    memory = bytearray(5 * 4096)
    with pytest.raises(IndexError):
        built.scatter(memory, numpy.array(pfns, numpy.uint64), b"x" * 8192, numpy.array(extents, numpy.uint64))
    assert memory == bytes(5 * 4096)


def test_wrong_arguments():
    with pytest.raises(ValueError):
        built.scatter(bytearray(4096), numpy.array([0], numpy.uint64), bytes(4096), numpy.array([0], numpy.uint64))
    with pytest.raises((ValueError, TypeError)):
        scanned(built, None)
    with pytest.raises((OverflowError, TypeError)):
        scanned(built, b"", pfn_end=-1)

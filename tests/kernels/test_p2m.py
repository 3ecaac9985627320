"""Lookups in p2m and m2p arrays: the kernel compared with a plain reference."""
from array import array

import pytest
import reference_p2m
from hypothesis import given
from hypothesis import strategies as st

from xstream.kernels import p2m

INVALID = p2m.INVALID
LARGE = [2 ** 32 - 2, 2 ** 32 - 1, 2 ** 32, 2 ** 63, INVALID]
NUMBERS = st.lists(st.one_of(st.integers(0, 20), st.sampled_from(LARGE)), max_size=40)
STATE = st.binary(max_size=20)


def numbers(*items):
    return array("Q", items)


def both(function, *arguments):
    """The outcome of the kernel and of its reference, and what they wrote to their arguments."""
    outcomes = []
    for module in (p2m, reference_p2m):
        given_ = [type(item)(item) if isinstance(item, bytearray) else array("Q", item) if isinstance(item, array)
                  else item for item in arguments]
        try:
            result = getattr(module, function)(*given_)
        except (IndexError, ValueError) as error:
            result = type(error)
        outcomes.append((result, given_))
    assert outcomes[0] == outcomes[1]
    return outcomes[0]


def test_the_constant():
    assert INVALID == reference_p2m.INVALID == 2 ** 64 - 1


@given(table=NUMBERS, wanted=NUMBERS)
def test_lookup(table, wanted):
    _, (_, _, found) = both("lookup", array("Q", table), array("Q", wanted), array("Q", [7] * len(wanted)))
    in_place = array("Q", wanted)
    p2m.lookup(array("Q", table), in_place, in_place)
    assert in_place == found


@given(state=STATE, wanted=NUMBERS)
def test_types_at(state, wanted):
    both("types_at", state, array("Q", wanted), bytearray(len(wanted)))


@given(old=NUMBERS, data=st.data())
def test_changed(old, data):
    new = [data.draw(st.sampled_from([number, 5])) for number in old]
    before = bytearray(data.draw(st.binary(min_size=len(old) // 8 + 1, max_size=len(old) // 8 + 3)))
    both("changed", array("Q", old), array("Q", new), before)


@given(entries=st.lists(st.sampled_from([0, 1, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF])))
def test_widen_and_narrow(entries):
    data = b"".join(entry.to_bytes(4, "little") for entry in entries)
    _, (_, wide) = both("widen", data, array("Q", [7] * len(entries)))
    _, (_, again) = both("narrow", wide, bytearray(len(data)))
    assert again == data


@given(table=NUMBERS)
def test_narrow_refuses_what_is_too_wide(table):
    both("narrow", array("Q", table), bytearray(4 * len(table)))


@given(words=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 22)), max_size=30), state=STATE)
def test_claim(words, state):
    packed = b"".join((kind << 60 | pfn).to_bytes(8, "little") for kind, pfn in words)
    both("claim", packed, bytearray(state), array("Q", [7] * len(words)))


@given(table=NUMBERS, wanted=NUMBERS)
def test_assign(table, wanted):
    both("assign", array("Q", table), array("Q", wanted), array("Q", range(100, 100 + len(wanted))))


@given(table=NUMBERS, data=st.data())
def test_populated_only(table, data):
    state = data.draw(st.binary(min_size=len(table), max_size=len(table)))
    both("populated_only", array("Q", table), state, array("Q", [7] * len(table)))


@pytest.mark.parametrize("function, arguments", [
    ("lookup", (numbers(1), numbers(0), numbers())), ("types_at", (b"\0", numbers(0), bytearray(2))),
    ("changed", (numbers(1), numbers(), bytearray(1))),
    ("changed", (numbers(*range(9)), numbers(*range(9)), bytearray(1))),
    ("widen", (bytes(7), numbers(1))), ("narrow", (numbers(1), bytearray(5))),
    ("claim", (bytes(9), bytearray(1), numbers(0))), ("claim", (bytes(8), bytearray(1), numbers())),
    ("assign", (numbers(1), numbers(0), numbers())),
    ("populated_only", (numbers(1), b"", numbers(1)))])
def test_sizes_that_do_not_fit(function, arguments):
    with pytest.raises(ValueError):
        getattr(p2m, function)(*arguments)


@pytest.mark.parametrize("function, arguments", [
    ("lookup", (b"", numbers(), numbers())), ("types_at", (numbers(), numbers(), bytearray())),
    ("claim", (b"", numbers(), numbers())), ("assign", (array("I"), numbers(), numbers())),
    ("widen", (b"", bytearray())), ("changed", (numbers(), array("d"), bytearray()))])
def test_buffers_of_the_wrong_kind(function, arguments):
    with pytest.raises(TypeError):
        getattr(p2m, function)(*arguments)


def test_outputs_must_be_writable():
    with pytest.raises(ValueError):
        p2m.types_at(b"\0", numbers(0), b"\0")
    with pytest.raises(ValueError):
        p2m.claim(bytes(8), b"\0", numbers(0))

"""Structures as tables."""
import pytest

from xstream.wire.layouts import Layout, prefixed, repeated


def test_fields_come_in_order_with_their_numbers():
    layout = Layout(("a", "B"), ("", "3x"), ("b", "2H"), ("c", "q"))
    assert layout.size == 16
    data = bytes([1, 9, 9, 9, 2, 0, 3, 0]) + (-4).to_bytes(8, "little", signed=True)
    assert list(layout.decode(data).items()) == [("a", 1), ("b", (2, 3)), ("c", -4)]


def test_wide_numbers_are_little_endian_and_unsigned():
    layout = Layout(("mm", "10s6x"), ("both", "2s2s"))
    assert layout.decode(bytes(range(16)) + b"\xff\xff\x01\x80") == {
        "mm": 0x09080706050403020100, "both": (0xFFFF, 0x8001)}


def test_bit_fields_run_from_bit_0_and_skip_what_has_no_name():
    assert Layout(("low:4 _:2 high:1", "B")).decode(b"\x5a") == {"low": 10, "high": 1}


def test_gaps_have_no_name_but_padding_within_a_field_does():
    layout = Layout(("gap", "6x"), ("a", "Hx"))
    assert layout.decode(b"......\x01\x02\x03") == {"a": 0x201}


def test_short_data_have_the_fields_that_they_hold_whole():
    layout = Layout(("a", "I"), ("b", "2I"), ("c", "I"))
    assert [list(layout.decode(bytes(length))) for length in (3, 4, 11, 12, 15, 16, 20)] == [
        [], ["a"], ["a"], ["a", "b"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c"]]


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(wrap):
    assert Layout(("a", "H")).decode(wrap(b"\x01\x02")) == {"a": 0x201}


def test_structures_within_structures():
    rows = (("a", "B"), ("b", "B"))
    assert Layout(*repeated("s", 2, *rows)).decode(b"\1\2\3\4") == {"s[0].a": 1, "s[0].b": 2, "s[1].a": 3, "s[1].b": 4}
    assert Layout(*prefixed("p", rows)).decode(b"\1\2") == {"p.a": 1, "p.b": 2}

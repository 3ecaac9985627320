"""The sections of QEMU's record."""
import os
import struct

import pytest

from xstream.wire import vmstate
from xstream.wire.vmstate import sections

HEAD = b"QEVM" + struct.pack(">I", 3)


def section(number, name, instance=0, version=1, data=b""):
    return struct.pack(">BIB", 4, number, len(name)) + name + struct.pack(">II", instance, version) + data


def test_sections():
    record = HEAD + section(0, b"timer", 0, 2, bytes(24)) + section(3, b"dma", 1, 1, b"\x04" * 40) \
        + section(9, b"0000:00:02.0/vga", 0, 4, b"\x7e") + b"\0"
    found = sections(record)
    assert [row[:4] for row in found] == [(0, "timer", 0, 2), (3, "dma", 1, 1), (9, "0000:00:02.0/vga", 0, 4)]
    assert sum(row.size for row in found) == len(record) - len(HEAD)
    assert [record[row.offset] for row in found] == [4, 4, 4]


def test_what_only_looks_like_a_section():
    inner = section(1, b"old") + section(500, b"far") + section(4, b"ver", 0, 1000) + section(4, b"with blank\n")
    found = sections(HEAD + section(2, b"cpu", 0, 12, inner) + section(3, b"apic", 0, 3))
    assert [row.name for row in found] == ["cpu", "apic"]


@pytest.mark.parametrize("record", [b"", b"QEVM", b"QEVM" + struct.pack(">I", 2) + section(0, b"timer"), b"other" * 9,
                                    HEAD])
def test_other_records(record):
    assert sections(record) == []


def test_cut_off():
    record = HEAD + section(0, b"timer", 0, 2)
    for size in range(len(record)):
        assert sections(record[:size]) == []


def test_any_bytes():
    for size in (1, 100, 5000):
        sections(HEAD + os.urandom(size))
    sections(HEAD + b"\x04\0\0\0\1\x05aaaaa" * 5000)
    assert vmstate.VERSION == 3


def test_records_without_sections_that_all_have_are_cut():
    whole = HEAD + b"".join(section(number, name) for number, name in enumerate((
        b"timer", b"cpu", b"mc146818rtc", b"pckbd", b"0000:00:02.0/vga"), 1)) + b"\0"
    last = whole.index(b"0000:00")
    for cut in range(len(HEAD) + 30, last, 7):
        assert vmstate.is_whole(whole[:cut] + bytes(len(whole) - cut)) == (cut >= whole.index(b"pckbd") + 5)
    assert vmstate.is_whole(whole) and vmstate.is_whole(memoryview(whole)[:last])


@pytest.mark.parametrize("record", [HEAD + bytes(64), HEAD + section(0, b"ram"), b"another" + bytes(9000)])
def test_records_of_other_kinds_are_not_called_cut(record):
    assert vmstate.is_whole(record)


@pytest.mark.parametrize("record", [b"", bytes(100), HEAD + bytes(100), HEAD[:3] + bytes(100),
                                    HEAD + b"\x04" + bytes(99)])
def test_records_without_contents_are_not_whole(record):
    assert not vmstate.is_whole(record)


def test_zeros_at_the_end():
    """As many as the last device can end with. A PCI device's state begins with its configuration."""
    pci = struct.pack(">I", 2) + bytes(0x2C) + b"\xf4\x1a\x00\x11"
    for name, version, data, most in (
            (b"0000:00:02.0/platform", 4, bytes(0x40) + b"\1", 212), (b"0000:00:03.0/vga", 2, b"\xff", 64),
            (b"0000:00:03.0/rtl8139", 5, pci, 9000), (b"usb-hid", 1, b"", 9000), (b"platform", 5, b"", 9000)):
        record = HEAD + section(7, b"pckbd", 0, 3, b"\x18\1") + section(8, name, 0, version, data)
        assert vmstate.is_whole(record + bytes(most)), name
        assert most == 9000 or not vmstate.is_whole(record + bytes(most + 1))
    assert not vmstate.is_whole(HEAD + section(8, b"0000:00:03.0/rtl8139", 0, 5, pci[:-4]) + bytes(500))
    assert not vmstate.is_whole(HEAD + section(8, b"usb-hid", 0, 0) + bytes(100))
    assert vmstate.is_whole(HEAD + section(8, b"usb-hid", 0, 0) + b"\1" + bytes(100))

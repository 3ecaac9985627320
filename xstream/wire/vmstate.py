"""QEMU's record of a guest's devices: the names and versions of its sections.

The record is what QEMU's ``xen-save-devices-state`` writes: a header, then a section for each device. A section begins
with its number, the device's name, instance and version; its contents have no length of their own, and what is in them
only that version of QEMU knows. Where the next section begins is therefore found by what its beginning looks like: a
higher number, a printable name, a plausible version. A restore fails ("device model spawn failed") where QEMU lacks a
device of the record, or has only an older version of it.

Source: migration/savevm.c and migration/qemu-file-types.h in QEMU: qemu_save_device_state(), save_section_header().
"""
from xstream.tuples import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List, Optional

    from xstream.wire.frames import Buffer

MAGIC = b"QEVM"
VERSION = 3
_HEADER_SIZE = 8
#: Highest version of a section, and step between the numbers of neighbouring sections, that are believed.
_MOST_VERSION, _MOST_STEP = 255, 64
#: QEMU_VM_SECTION_FULL or _START, number, length of the name; the name can't be matched by its length here.
_SECTION = rb"(?s)[\x01\x04](?=\x00\x00(..)([\x01-\xff])([!-~]))"
_PRINTABLE = rb"[!-~]+"
_HEAD_SIZE, _TAIL_SIZE = 6, 8  # before and after the name
#: The section that QEMU's records of PC machines begin with, and two that all of them have, after most of the others,
#: each as length and name (hw/i386/pc.c: pc_basic_device_init()).
_FIRST_SECTION = b"\x05timer"
_NEEDED_SECTIONS = (b"\x0bmc146818rtc", b"\x05pckbd")


class Section(NamedTuple):
    """One device's section: its number, name, instance and version; offset in the record and bytes, headers included.
    """

    number: int
    name: str
    instance: int
    version: int
    offset: int
    size: int


def sections(untrusted: "Buffer") -> "List[Section]":
    """The sections of a record, in order; empty if it isn't one of QEMU's, version 3. Never raises."""
    data = bytes(untrusted)
    if data[:4] != MAGIC or int.from_bytes(data[4:8], "big") != VERSION:
        return []
    found = list(_heads(data))
    ends = [section.offset for section in found[1:]] + [len(data)]
    return [section._replace(size=end - section.offset) for section, end in zip(found, ends)]


def is_whole(untrusted: "Buffer") -> bool:
    """Whether a record has contents, and all the sections that PC machines have: an interrupted save leaves zeros in
    their place. A record that begins in another way, which only another program can read, counts as whole unless it is
    all zeros."""
    data = bytes(untrusted)
    return any(data) and not _is_cut(data)


def _is_cut(data: bytes) -> bool:
    return data.startswith(MAGIC) and data.startswith(_FIRST_SECTION, _HEADER_SIZE + _HEAD_SIZE - 1) and \
        not all(needed in data for needed in _NEEDED_SECTIONS)


def _heads(data: bytes) -> "Iterator[Section]":
    import re  # not needed to read a stream, only to look into its records
    begins = re.compile(_SECTION)
    last, at = -1, _HEADER_SIZE
    while True:
        match = begins.search(data, at)
        if match is None:
            return
        section = _head(data, match.start(), last)
        if section is None:
            at = match.start() + 1
            continue
        yield section
        last, at = section.number, match.start() + _HEAD_SIZE + len(section.name) + _TAIL_SIZE


def _head(data: bytes, at: int, last: int) -> "Optional[Section]":
    """The section that begins here, if one does."""
    import re
    number = int.from_bytes(data[at + 1:at + 5], "big")
    end = at + _HEAD_SIZE + data[at + 5]
    name = data[at + _HEAD_SIZE:end]
    instance, version = (int.from_bytes(data[start:start + 4], "big") for start in (end, end + 4))
    if not last < number <= last + _MOST_STEP or end + _TAIL_SIZE > len(data) or not re.fullmatch(_PRINTABLE, name) or \
            not version <= _MOST_VERSION:
        return None
    return Section(number, name.decode("ascii"), instance, version, at, 0)

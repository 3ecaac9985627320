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
    from typing import Dict, Iterator, List, Optional, Tuple

    from xstream.wire.frames import Buffer

MAGIC = b"QEVM"
VERSION = 3
_BEGIN = MAGIC + bytes((0, 0, 0, VERSION))
#: Highest version of a section, and step between the numbers of neighbouring sections, that are believed.
_MOST_VERSION, _MOST_STEP = 255, 64
#: QEMU_VM_SECTION_FULL or _START, and the high bytes of the number.
_FULL, _START = b"\x04\0\0", b"\x01\0\0"
_HEAD_SIZE, _TAIL_SIZE = 6, 8  # before and after the name
#: The section that QEMU's records of PC machines begin with, and two that all of them have, after most of the others,
#: each as length and name (hw/i386/pc.c: pc_basic_device_init()).
_FIRST_SECTION = b"\x05timer"
_NEEDED_SECTIONS = (b"\x0bmc146818rtc", b"\x05pckbd")
#: By the last section's name, without its PCI address, and version: the most zeros that a record can end with, the EOF
#: mark included. They follow the last byte that is never zero:
#:
#: - platform: the interrupt pin in the PCI configuration (hw/i386/xen/xen_platform.c);
#: - cirrus_vga: cr[0x27], the part's ID, which is read-only (hw/display/cirrus_vga.c);
#: - vga: vbe_bank_mask, the last field (hw/display/vga.c);
#: - piix4_pm: the timer's time, -1 if it is off (hw/acpi/piix4.c); with Xen, the array of PCI hotplug isn't sent;
#: - the others are shorter, or end with the status of a disk or controller.
#:
#: Devices that aren't here may end with any number of zeros: network cards have tables that are mostly empty.
_MOST_ZEROS: "Dict[Tuple[str, int], int]" = {
    ("platform", 4): 212, ("cirrus_vga", 2): 1010, ("vga", 2): 64, ("piix4_pm", 3): 64, ("i2c_bus", 1): 64,
    ("ide", 3): 64, ("port92", 1): 64, ("pckbd", 3): 64,
}
#: A PCI device's state begins with a number and its configuration, in which the subsystem's IDs aren't zero.
_PCI_USED = 4 + 0x30
#: The same for a record without sections, which no QEMU writes.
_MOST_ZEROS_ALONE = 64
#: Longest record whose last section is looked for. QEMU's take from 6 KB to 200 KB.
_MOST_SEARCHED = 1 << 20


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
    if not data.startswith(_BEGIN):
        return []
    found = list(_heads(data))
    ends = [section.offset for section in found[1:]] + [len(data)]
    return [section._replace(size=end - section.offset) for section, end in zip(found, ends)]


def is_whole(untrusted: "Buffer") -> bool:
    """Whether a record has contents, and all the sections that PC machines have, and doesn't end with more zeros than
    its last section can: an interrupted save leaves zeros in place of the rest. A record that begins in another way,
    which only another program can read, counts as whole unless it is all zeros."""
    data = bytes(untrusted)
    used = data.rstrip(b"\0")
    if not _BEGIN.startswith(used[:len(_BEGIN)]):
        return True
    return len(used) > 0 and not _is_cut(data, len(data) - len(used))


def _is_cut(data: bytes, zeros: int) -> bool:
    if data.startswith(_FIRST_SECTION, len(_BEGIN) + _HEAD_SIZE - 1) and \
            not all(needed in data for needed in _NEEDED_SECTIONS):
        return True
    if len(data) > _MOST_SEARCHED or zeros <= _MOST_ZEROS_ALONE:
        return False
    found = list(_heads(data))
    return not found or zeros > _most_zeros(found[-1], len(data))


def _most_zeros(last: Section, end: int) -> int:
    """The most zeros that a record can end with whose last section is this one."""
    body = end - last.offset - _HEAD_SIZE - len(last.name) - _TAIL_SIZE
    address, _, name = last.name.rpartition("/")
    if not last.version:
        return max(body - 1, 0)  # an all-zero version is rather cut off, too
    known = _MOST_ZEROS.get((name, last.version))
    if known is not None:
        return known
    return body - _PCI_USED if address.count("/") == 0 and address.count(":") == 2 else body


def _heads(data: bytes) -> "Iterator[Section]":
    heads = data.replace(_START, _FULL)
    last, at = -1, len(_BEGIN)
    while True:
        at = heads.find(_FULL, at)
        if at < 0:
            return
        section = _head(data, at, last)
        if section is None:
            at += 1
            continue
        yield section
        last, at = section.number, at + _HEAD_SIZE + len(section.name) + _TAIL_SIZE


def _head(data: bytes, at: int, last: int) -> "Optional[Section]":
    """The section that begins here, if one does."""
    length = data[at + 5] if at + _HEAD_SIZE < len(data) else 0
    number = int.from_bytes(data[at + 1:at + 5], "big")
    end = at + _HEAD_SIZE + length
    if not length or not last < number <= last + _MOST_STEP or end + _TAIL_SIZE > len(data):
        return None
    name = data[at + _HEAD_SIZE:end]
    instance, version = (int.from_bytes(data[start:start + 4], "big") for start in (end, end + 4))
    if not all(b"!"[0] <= byte <= b"~"[0] for byte in name) or not version <= _MOST_VERSION:
        return None
    return Section(number, name.decode("ascii"), instance, version, at, 0)

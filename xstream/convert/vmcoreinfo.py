"""VMCOREINFO: the text in which a Linux kernel describes itself to tools that read its memory.

The kernel keeps it in a separate page. Stale copies may exist elsewhere in memory (of a kernel that ran before kexec or
a reboot, or of a core file in the page cache), so that a candidate has to prove itself where there are several.

Source: kernel/crash_core.c and arch/x86/kernel/machine_kexec_64.c in Linux; include/linux/utsname.h for the structures;
Intel SDM volume 3, chapter 4, for page tables.
"""
import struct
from typing import Dict, Iterator, NamedTuple, Optional, Tuple

import numpy

from xstream.guest.memory_view import MemoryView
from xstream.wire.libxc import PAGE_SIZE

_START = b"OSRELEASE="
_NEEDED = b"SYMBOL(swapper_pg_dir)="
#: Pages whose first bytes are looked at in one step.
_AT_ONCE = 1 << 16
#: Where the kernel's text is mapped: __START_KERNEL_map; of 32-bit kernels PAGE_OFFSET in its usual configuration.
_KERNEL_MAP_64, _KERNEL_MAP_32 = 0xFFFFFFFF80000000, 0xC0000000
_PRESENT, _LARGE = 1, 1 << 7
_FRAME = (1 << 52) - PAGE_SIZE
#: struct new_utsname: six strings of 65 bytes; the third is the release.
_RELEASE_AT, _RELEASE_SIZE = 130, 64


class Paging(NamedTuple):
    """A form of page tables: bytes of an entry, and the lowest address bit of each level, the top level first."""

    entry_size: int
    shifts: Tuple[int, ...]


PAGING_4_LEVEL = Paging(8, (39, 30, 21, 12))
PAGING_5_LEVEL = Paging(8, (48, 39, 30, 21, 12))
PAGING_PAE = Paging(8, (30, 21, 12))
PAGING_32 = Paging(4, (22, 12))


def find_vmcoreinfo(view: MemoryView) -> Optional[bytes]:
    """The VMCOREINFO of the Linux kernel in a guest's memory, without the NULs at its end; None if there is none.

    Of several different ones it is that whose ``init_uts_ns``, found through its own page tables, names the same
    release; None if there is no such one.
    """
    found = list(dict.fromkeys(_candidates(view)))
    if len(found) <= 1:
        return found[0] if found else None
    return next((text for text in found if is_running(view, text)), None)


def _candidates(view: MemoryView) -> Iterator[bytes]:
    for pfns in view.populated_pfns():
        for start in range(0, len(pfns), _AT_ONCE):
            some = pfns[start:start + _AT_ONCE]
            some = some[view.starts(some, 1)[:, 0] == _START[0]]
            for pfn in some[(view.starts(some, len(_START)) == numpy.frombuffer(_START, numpy.uint8)).all(axis=1)]:
                text = bytes(view[int(pfn)]).split(b"\0", 1)[0]
                if _NEEDED in text:
                    yield text


def fields(text: bytes) -> Dict[str, str]:
    """The lines of a VMCOREINFO as a dictionary, such as ``SYMBOL(init_uts_ns)`` to ``ffffffff82a14ba0``."""
    lines = text.decode("ascii", "replace").splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def is_running(view: MemoryView, text: bytes) -> bool:
    """Whether the kernel that a VMCOREINFO describes is the one in memory: its ``init_uts_ns``, found through its own
    ``swapper_pg_dir``, names the release of ``OSRELEASE``."""
    said = fields(text)
    try:
        table = int(said["SYMBOL(swapper_pg_dir)"], 16)
        name = int(said["SYMBOL(init_uts_ns)"], 16) + int(said.get("OFFSET(uts_namespace.name)", "0"))
        table, paging = _top_table(said, table)
    except (KeyError, ValueError):
        return False
    address = translate(view, table, name + _RELEASE_AT, paging)
    release = said["OSRELEASE"].encode()[:_RELEASE_SIZE]
    return address is not None and view.read(address, len(release) + 1) == release + b"\0"


def _top_table(said: Dict[str, str], virtual: int) -> Tuple[int, Paging]:
    """The guest-physical address of ``swapper_pg_dir``, and the form of its page tables. Raises ValueError."""
    if virtual >= _KERNEL_MAP_64:
        five = said.get("NUMBER(pgtable_l5_enabled)", "0") != "0"
        physical = virtual - _KERNEL_MAP_64 + int(said.get("NUMBER(phys_base)", "0"))
        return physical, PAGING_5_LEVEL if five else PAGING_4_LEVEL
    pae = said.get("CONFIG_X86_PAE") == "y"
    return virtual - _KERNEL_MAP_32, PAGING_PAE if pae else PAGING_32


def translate(view: MemoryView, table: int, virtual: int, paging: Paging = PAGING_4_LEVEL) -> Optional[int]:
    """The guest-physical address of a virtual one, by the page tables at guest-physical ``table``; None where the
    address isn't mapped, or a table isn't in memory. The tables of a PV guest in a stream hold PFNs, so this is good
    for all guests."""
    bits = {8: 9, 4: 10}[paging.entry_size]
    for shift in paging.shifts:
        index = virtual >> shift & (1 << bits) - 1
        entry = _entry(view, table + index * paging.entry_size, paging.entry_size)
        if not entry & _PRESENT:
            return None
        table = entry & _FRAME
        if shift == 12 or (entry & _LARGE and shift <= 30):
            offset = virtual & (1 << shift) - 1
            return (table & ~((1 << shift) - 1)) + offset
    return None


def _entry(view: MemoryView, address: int, size: int) -> int:
    if not 0 <= address < view.size:
        return 0
    entry: int = struct.unpack("<Q" if size == 8 else "<I", view.read(address, size))[0]
    return entry


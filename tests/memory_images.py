"""Readers of ELF core files, LiME images, raw images and save files, written from the formats' descriptions,
independently of the package."""
import os
import struct
from typing import Dict, Iterator, List, NamedTuple, Tuple

PT_LOAD, PT_NOTE = 1, 4
XL_MAGIC = b"Xen saved domain, xl format\n \0 \r"


class Segment(NamedTuple):
    type: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int


class Core:
    """An ELF64 core file: its header's fields, program headers and notes, and the memory by PFN."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        assert data[:7] == b"\x7fELF\x02\x01\x01"
        self.type, self.machine, version, entry, phoff, shoff, flags, ehsize, phentsize, phnum, shentsize, shnum, _ = \
            struct.unpack_from("<HHIQQQIHHHHHH", data, 16)
        assert (version, phentsize, ehsize) == (1, 56, 64)
        self.extended = phnum == 0xFFFF
        if self.extended:
            assert shnum == 1 and shentsize == 64
            phnum = struct.unpack_from("<I", data, shoff + 44)[0]
        self.segments: List[Segment] = []
        for index in range(phnum):
            kind, _, offset, vaddr, paddr, filesz, memsz, _ = struct.unpack_from("<IIQQQQQQ", data, phoff + 56 * index)
            self.segments.append(Segment(kind, offset, vaddr, paddr, filesz, memsz))

    @property
    def loads(self) -> List[Segment]:
        return [segment for segment in self.segments if segment.type == PT_LOAD]

    @property
    def notes(self) -> List[Tuple[bytes, int, bytes]]:
        """(name, type, contents) of each note."""
        found = []
        for segment in self.segments:
            at, end = segment.offset, segment.offset + segment.filesz
            while segment.type == PT_NOTE and at < end:
                name_size, size, kind = struct.unpack_from("<III", self.data, at)
                name = self.data[at + 12:at + 12 + name_size].rstrip(b"\0")
                at += 12 + -(-name_size // 4) * 4
                found.append((name, kind, self.data[at:at + size]))
                at += -(-size // 4) * 4
        return found

    @property
    def memory(self) -> Dict[int, bytes]:
        return {address // 4096: page for segment in self.loads
                for address, page in _pages(self.data, segment.offset, segment.paddr, segment.filesz)}


def lime_memory(data: bytes) -> Dict[int, bytes]:
    """The memory of a LiME image, by PFN."""
    memory: Dict[int, bytes] = {}
    at = 0
    while at < len(data):
        magic, version, start, last, reserved = struct.unpack_from("<4sIQQQ", data, at)
        assert (magic, version, reserved) == (b"EMiL", 1, 0)
        memory.update((address // 4096, page) for address, page in _pages(data, at + 32, start, last + 1 - start))
        at += 32 + last + 1 - start
    return memory


def _pages(data: bytes, offset: int, address: int, size: int) -> List[Tuple[int, bytes]]:
    assert address % 4096 == 0 and size % 4096 == 0 and offset + size <= len(data)
    return [(address + at, data[offset + at:offset + at + 4096]) for at in range(0, size, 4096)]


def raw_memory(path: str) -> Dict[int, bytes]:
    """The pages of a raw image that aren't all zero, by PFN. Holes aren't read."""
    memory: Dict[int, bytes] = {}
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size
        assert end % 4096 == 0
        pfn = 0
        while pfn < end // 4096:
            try:
                pfn = os.lseek(file.fileno(), pfn * 4096, os.SEEK_DATA) // 4096
            except OSError:
                break  # a hole up to the end
            page = os.pread(file.fileno(), 4096, pfn * 4096)
            if page.strip(b"\0"):
                memory[pfn] = page
            pfn += 1
    return memory


def saved_memory(data: bytes) -> Dict[int, bytes]:
    """The memory that a libxc stream of version 2 or 3 ends in, or one in an xl save file: by PFN, of all that are
    populated. What follows the last checkpoint doesn't count, nor do pages sent for comparison."""
    at = 0
    if data.startswith(XL_MAGIC):
        at = 48 + struct.unpack_from("<I", data, 44)[0]
        assert data[at:at + 8] == b"LibxlFmt"
        at += 16
        while struct.unpack_from("<I", data, at)[0] != 1:  # LIBXC_CONTEXT
            at += 8 + -(-struct.unpack_from("<I", data, at + 4)[0] // 8) * 8
        at += 8
    assert data[at:at + 12] == b"\xff" * 8 + b"XENF"
    memory: Dict[int, bytes] = {}
    coming: Dict[int, bytes] = {}
    for kind, body in _records(data, at + 40):
        if kind == 1:  # PAGE_DATA
            for pfn, page in _batch(body):
                # XALLOC leaves the contents of a page that is there.
                coming[pfn] = page or coming.get(pfn) or memory.get(pfn) or bytes(4096)
        elif kind in (0, 0xD, 0xE):  # END, VERIFY, CHECKPOINT
            memory.update(coming)
            coming = {}
            if kind == 0xD:
                break
    return memory


def _records(data: bytes, at: int) -> Iterator[Tuple[int, memoryview]]:
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        yield kind, memoryview(data)[at + 8:at + 8 + size]
        if kind == 0:
            return
        at += 8 + -(-size // 8) * 8


def _batch(body: memoryview) -> Iterator[Tuple[int, bytes]]:
    """(PFN, page) of a batch's PFNs that are populated; no page for those that have none (XALLOC)."""
    count, = struct.unpack_from("<I", body)
    at = 8 + 8 * count
    for word in struct.unpack_from("<{}Q".format(count), body, 8):
        kind, pfn = word >> 60, word & (1 << 52) - 1
        if kind < 0xD:
            yield pfn, bytes(body[at:at + 4096])
            at += 4096
        elif kind == 0xE:
            yield pfn, b""
    assert at == len(body)

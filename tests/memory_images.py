"""Readers of ELF core files and LiME images, written from the formats' descriptions, independently of the package."""
import struct
from typing import Dict, List, NamedTuple, Tuple

PT_LOAD, PT_NOTE = 1, 4


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

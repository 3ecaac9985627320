"""What a disk image begins with: XenServer and XCP-ng keep a suspend image at the start of a virtual disk.

Source: the Virtual Hard Disk Image Format Specification (Microsoft, 2006); docs/interop/qcow2.rst of QEMU.
"""
import struct

from xstream.stream.source import BufferSource, Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

#: How far into a pipe to look: what is looked at is kept in memory. A file or buffer is free.
_MOST = 4 << 20
#: VHD: of the dynamic header, the magic and the offset of the block table; then the bytes of a block.
_VHD_HEADER = struct.Struct(">8s8xQ8xI")
_VHD_HEADER_AT, _VHD_MAGIC, _SECTOR = 512, b"cxsparse", 512
_NO_BLOCK = 0xFFFFFFFF
#: qcow2, versions 2 and 3: the offset of the first table.
_QCOW2_HEADER = struct.Struct(">40xQ")
_QCOW2_OFFSET, _QCOW2_COMPRESSED = 0x00FFFFFFFFFFFE00, 1 << 62
_U32, _U64 = struct.Struct(">I"), struct.Struct(">Q")


def start_of_disk(source: Source, format: str, size: int) -> "Optional[bytes]":
    """The first ``size`` bytes of the disk in an image of the format "vhd" (dynamic or differencing) or "qcow2".

    None if they aren't stored as they are within reach. Nothing is consumed.
    """
    at = _vhd_start(source) if format == "vhd" else _qcow2_start(source)
    return None if at is None else _peek(source, at, size)


def _vhd_start(source: Source) -> "Optional[int]":
    header = _peek(source, _VHD_HEADER_AT, _VHD_HEADER.size)
    if header is None:
        return None
    magic, table, block_size = _VHD_HEADER.unpack(header)
    entry = _peek(source, table, _U32.size) if magic == _VHD_MAGIC else None
    sector = _NO_BLOCK if entry is None else int(_U32.unpack(entry)[0])
    if sector == _NO_BLOCK:
        return None
    # A block begins with a bitmap of its sectors, in whole sectors.
    bitmap = -(-int(block_size) // _SECTOR // 8)
    return sector * _SECTOR + -(-bitmap // _SECTOR) * _SECTOR


def _qcow2_start(source: Source) -> "Optional[int]":
    header = _peek(source, 0, _QCOW2_HEADER.size)
    at = None if header is None else _QCOW2_HEADER.unpack(header)[0]
    for _ in range(2):  # the entry for the disk's first cluster in the first table, and in the second
        entry = _peek(source, at & _QCOW2_OFFSET, _U64.size) if at else None
        at = None if entry is None else _U64.unpack(entry)[0]
    if not at or at & _QCOW2_COMPRESSED:
        return None
    return int(at) & _QCOW2_OFFSET or None


def _peek(source: Source, at: int, size: int) -> "Optional[bytes]":
    if at + size > _MOST and not isinstance(source, BufferSource):
        return None
    found = bytes(source.peek(at + size)[at:at + size])
    return found if len(found) == size else None

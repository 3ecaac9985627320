"""The bytes by which formats are known: those that are read, and those that are met instead."""
from typing import NamedTuple, Tuple

from xstream.wire import colo, legacy, libvirt, libxc, libxl, xend, xenopsd, xl


class Sign(NamedTuple):
    """A format's name, its magic bytes and where they stand; ``advice``: what to do with what isn't ours, whose name
    has its article."""

    format: str
    magic: bytes
    offset: int = 0
    advice: str = ""


OURS: Tuple[Sign, ...] = (
    Sign(libxc.LAYER, libxc.MARKER),
    Sign(libxl.LAYER, libxl.MAGIC),
    Sign(xl.LAYER, xl.MAGIC),
    Sign(libvirt.LAYER, libvirt.MAGIC),
    Sign(xenopsd.LAYER, xenopsd.SIGNATURE),
    Sign(xenopsd.LAYER, xenopsd.LEGACY_SIGNATURE),
    Sign(xend.LAYER, xend.MAGIC),
    Sign(colo.LAYER, colo.START),
)

#: A legacy stream has no magic bytes: it is what begins with good numbers.
LEGACY = Sign(legacy.LAYER, b"")
#: Bytes of those.
LEGACY_SIZE = 16

#: Decompressed on the way, where Python has the means.
COMPRESSED: Tuple[Sign, ...] = (
    Sign("gzip", b"\x1f\x8b\x08"),
    Sign("xz", b"\xfd7zXZ\0"),
    Sign("bzip2", b"BZh"),
    Sign("zstd", b"\x28\xb5\x2f\xfd"),
)

OTHERS: Tuple[Sign, ...] = (
    Sign("a QEMU migration stream", b"QEVM",
         advice="a device model's own record, or a guest of QEMU's that Xen had no part in"),
    Sign("a save file of libvirt's QEMU driver", b"LibvirtQemudSave", advice="Xen had no part in it"),
    Sign("an ELF file", b"\x7fELF", advice="if xl dump-core wrote it, it is a core, from which nothing is restored"),
    Sign("an XVA (a VM exported by XenServer or XCP-ng)", b"ova.xml\0",
         advice="it is a tar archive of disks; a suspend image may be a disk in it"),
    Sign("a tar archive", b"ustar", 257, advice="take the stream out of it with tar"),
    Sign("an lz4 file", b"\x04\x22\x4d\x18", advice="decompress it: lz4 -dc FILE | xstream ... -"),
    Sign("an lzop file", b"\x89LZO\0\r\n\x1a\n", advice="decompress it: lzop -dc FILE | xstream ... -"),
    Sign("a qcow2 disk image", b"QFI\xfb", advice="a disk, not a stream"),
    Sign("a VHD disk image", b"conectix", advice="a disk, not a stream"),
)

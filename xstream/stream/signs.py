"""The magic bytes of formats: those that xstream reads, and others that are found in their place."""
from xstream.tuples import NamedTuple
from xstream.wire import signatures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Tuple


class Sign(NamedTuple):
    """The magic bytes of a format.

    - ``format``: its name; of a format that xstream doesn't read, with an article;
    - ``magic``, ``offset``: the bytes, and their offset in the file;
    - ``advice``: what to do with a file that xstream doesn't read;
    - ``disk``: of a disk image, the key of its format in RAW; the advice then depends on what is on the disk.
    """

    format: str
    magic: bytes
    offset: int = 0
    advice: str = ""
    disk: str = ""


OURS: "Tuple[Sign, ...]" = (
    Sign(signatures.LIBXC, signatures.LIBXC_MARKER),
    Sign(signatures.LIBXL, signatures.LIBXL_MAGIC),
    Sign(signatures.XL, signatures.XL_MAGIC),
    Sign(signatures.LIBVIRT, signatures.LIBVIRT_MAGIC),
    Sign(signatures.XENOPSD, signatures.XENOPSD_SIGNATURE),
    Sign(signatures.XENOPSD, signatures.XENOPSD_LEGACY_SIGNATURE),
    Sign(signatures.XEND, signatures.XEND_MAGIC),
    Sign(signatures.COLO, signatures.COLO_START),
)

#: A legacy stream has no magic bytes; it is recognised by plausible numbers.
LEGACY = Sign(signatures.LEGACY, b"")
#: The number of bytes that these take.
LEGACY_SIZE = 16

#: Decompressed while they are read, if Python has the decompressor.
COMPRESSED: "Tuple[Sign, ...]" = (
    Sign("gzip", b"\x1f\x8b\x08"),
    Sign("xz", b"\xfd7zXZ\0"),
    Sign("bzip2", b"BZh"),
    Sign("zstd", b"\x28\xb5\x2f\xfd"),
)

#: How to get the disk in an image, by the format that ``disk`` names.
RAW = {"vhd": "qemu-img convert -f vpc -O raw FILE OUT", "qcow2": "qemu-img convert -f qcow2 -O raw FILE OUT"}

OTHERS: "Tuple[Sign, ...]" = (
    Sign("a QEMU migration stream", b"QEVM",
         advice="it is a device model's record, or a guest of QEMU's own, not a Xen guest's memory"),
    Sign("a save file of libvirt's QEMU driver", b"LibvirtQemudSave", advice="the guest in it isn't a Xen guest"),
    Sign("an unfinished save file of libvirt's QEMU driver", b"LibvirtQemudPart",
         advice="the guest in it isn't a Xen guest, and the save was interrupted"),
    Sign("an ELF file", b"\x7fELF", advice="if xl dump-core wrote it, it is a core dump, which can't be restored"),
    Sign("an XVA (a VM exported by XenServer or XCP-ng)", b"ova.xml\0",
         advice="it is a tar archive of disks; one of them may be a suspend image"),
    Sign("a tar archive", b"ustar", 257, advice="extract the stream with tar"),
    Sign("an lz4 file", b"\x04\x22\x4d\x18", advice="decompress it: lz4 -dc FILE | xstream ... -"),
    Sign("an lzop file", b"\x89LZO\0\r\n\x1a\n", advice="decompress it: lzop -dc FILE | xstream ... -"),
    Sign("an .lzma file", b"\x5d\0\0", advice="decompress it: xz --format=lzma -dc FILE | xstream ... -"),
    Sign("a qcow2 disk image", b"QFI\xfb", disk="qcow2"),
    Sign("a VHD disk image", b"conectix", disk="vhd"),
    Sign("a VHDX disk image", b"vhdxfile", advice="if a suspend image is on the disk, make the image raw: "
         "qemu-img convert -f vhdx -O raw FILE OUT"),
    Sign("an ext2, ext3 or ext4 filesystem", b"\x53\xef", 1080,
         advice="XenServer up to 6.2 kept suspend images in one: mount it (mount -o ro,loop FILE DIR) and read the "
         "suspend image in it"),
)

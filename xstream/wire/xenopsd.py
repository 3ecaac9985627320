"""Suspend images of xenopsd (XenServer, XCP-ng): a signature, then typed records around a memory image.

Source: xen-api's ocaml/xenopsd/lib/suspend_image.ml (layouts), ocaml/xenopsd/xc/domain.ml (what is written and
restored), doc/content/xenopsd/design/suspend-image-*.md. Little-endian, except the length of an unstructured image's
QEMU record.

A record's header is two i64, type and length. Memory images follow their header in line; their length is written as 0
and means nothing. An unstructured image has no record headers: it is a legacy memory image, then QEMU's record after
another signature.
"""
import struct

from xstream.errors import CorruptStream, UnsupportedStream
from xstream.tuples import NamedTuple
from xstream.wire import signatures
from xstream.wire.pending import in_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Tuple, Union

    from xstream.wire import sexp
    from xstream.wire.frames import Buffer
    from xstream.wire.pending import Data

LAYER = signatures.XENOPSD
SIGNATURE = signatures.XENOPSD_SIGNATURE
LEGACY_SIGNATURE = signatures.XENOPSD_LEGACY_SIGNATURE
QEMU_SIGNATURE = b"QemuDeviceModelRecord\n"
SIGNATURE_SIZE = len(SIGNATURE)

_HEADER = struct.Struct("<qq")
HEADER_SIZE = _HEADER.size
_QEMU_HEADER = struct.Struct(">22si")
QEMU_HEADER_SIZE = _QEMU_HEADER.size

#: Record types. xenopsd writes and restores the record of any QEMU as QEMU_TRAD, and refuses QEMU_XEN.
XENOPS, LIBXC, LIBXL, LIBXC_LEGACY, QEMU_TRAD, QEMU_XEN = 0x000F, 0x00F0, 0x00F1, 0x00F2, 0x0F00, 0x0F01
DEMU, VARSTORED, SWTPM0, SWTPM, END_OF_IMAGE = 0x0F10, 0x0F11, 0x0F12, 0x0F13, 0xFFFF
#: A made-up type for the QEMU record of an unstructured image, which has none.
QEMU_RECORD = -1

#: Record type to name.
NAMES: "Dict[int, str]" = {
    XENOPS: "Xenops", LIBXC: "Libxc", LIBXL: "Libxl", LIBXC_LEGACY: "Libxc_legacy", QEMU_TRAD: "Qemu_trad",
    QEMU_XEN: "Qemu_xen", DEMU: "Demu", VARSTORED: "Varstored", SWTPM0: "Swtpm0", SWTPM: "Swtpm",
    END_OF_IMAGE: "End_of_image", QEMU_RECORD: "QemuDeviceModelRecord",
}
QEMU_RECORDS = (QEMU_TRAD, QEMU_XEN, QEMU_RECORD)
MEMORY_IMAGES = (LIBXC, LIBXL, LIBXC_LEGACY)


class Header(NamedTuple):
    """The signature: of a structured image, or of an older unstructured one."""

    structured: bool = True


class Xenops(NamedTuple):
    """Xenops: the image's metadata, an S-expression."""

    text: "Buffer"

    @property
    def fields(self) -> "Dict[str, sexp.Sexp]":
        """The fields by name: ``time``, ``word_size`` and, if present, ``vm_str`` and ``xs_subtree`` (pairs of path and
        value). Raises CorruptStream and LimitExceeded."""
        return parse_xenops(self.text)


class MemoryImage(NamedTuple):
    """Libxc, Libxl or Libxc_legacy: a memory image of that kind follows. ``length`` means nothing."""

    type: int = LIBXC
    length: int = 0


class Blob(NamedTuple):
    """Any other record: the data of a device model or another emulator.

    ``data``: a buffer, or from a source that isn't in memory a :class:`~xstream.stream.source.PendingPages`, which is
    valid until the next record is read.
    """

    type: int
    data: "Data"


class Unread(NamedTuple):
    """A record whose end isn't known: a vGPU's. Its data isn't read, nor is anything after it; it can't be written."""

    type: int


class EndOfImage(NamedTuple):
    """End_of_image: the last record."""

    length: int = 0


if TYPE_CHECKING:
    Record = Union[Xenops, MemoryImage, Blob, Unread, EndOfImage]


def type_name(record_type: int) -> str:
    """The name of a record type in xenopsd's source, or its number if it has none."""
    return NAMES.get(record_type) or "{:#x}".format(record_type)


def type_of(record: "Record") -> int:
    """The record's type number; QEMU_RECORD (-1) for an unstructured image's QEMU record."""
    if isinstance(record, Xenops):
        return XENOPS
    return END_OF_IMAGE if isinstance(record, EndOfImage) else record.type


def parse_header(untrusted: "Buffer") -> Header:
    """The kind of image that has this signature. Raises CorruptStream for any other."""
    signature = bytes(untrusted[:SIGNATURE_SIZE])
    if signature not in (SIGNATURE, LEGACY_SIGNATURE):
        raise CorruptStream("not a suspend image of xenopsd", offset=0, field="signature", expected=SIGNATURE,
                            got=signature)
    return Header(signature == SIGNATURE)


def build_header(header: Header) -> bytes:
    """The signature."""
    return SIGNATURE if header.structured else LEGACY_SIGNATURE


def parse_record_header(untrusted: "Buffer") -> "Tuple[int, int]":
    """(type, length) from 16 bytes.

    Raises UnsupportedStream for an unknown type, CorruptStream for a negative length; with offsets relative to the body
    after the header.
    """
    record_type, length = _HEADER.unpack_from(untrusted)
    if record_type not in NAMES or record_type == QEMU_RECORD:
        raise UnsupportedStream("unknown record", offset=-16, field="type", expected="a known type",
                                got=hex(record_type))
    if length < 0:
        raise CorruptStream("negative length", offset=-8, field="length", expected="at least 0", got=length)
    return record_type, length


def parse_qemu_header(untrusted: "Buffer") -> int:
    """The length of an unstructured image's QEMU record, from the 26 bytes before it.

    Raises CorruptStream if the signature is missing or the length negative. Offsets are relative to the record.
    """
    signature, length = _QEMU_HEADER.unpack_from(untrusted)
    if signature != QEMU_SIGNATURE:
        raise CorruptStream("no QEMU record after the memory image", offset=-26, field="signature",
                            expected=QEMU_SIGNATURE, got=signature)
    if length < 0:
        raise CorruptStream("negative length", offset=-4, field="length", expected="at least 0", got=length)
    return int(length)


def parse(record_type: int, body: "Data", length: int = 0) -> "Record":
    """The record of a known type. Memory images and End_of_image have no body but a ``length``.

    Raises CorruptStream and LimitExceeded for a bad Xenops record, with offsets relative to the body.
    """
    if record_type in MEMORY_IMAGES:
        return MemoryImage(record_type, length)
    if record_type == END_OF_IMAGE:
        return EndOfImage(length)
    if record_type != XENOPS:
        return Blob(record_type, body)
    text = in_memory(body)
    parse_xenops(text)
    return Xenops(text)


def parse_xenops(untrusted: "Buffer") -> "Dict[str, sexp.Sexp]":
    """The fields of a Xenops record; see :attr:`Xenops.fields`. Offsets in errors are relative to the body."""
    from xstream.wire import sexp  # not needed for other records
    whole = sexp.parse(untrusted)
    fields: Dict[str, sexp.Sexp] = {}
    for field in whole if isinstance(whole, tuple) else ():
        if not (isinstance(field, tuple) and len(field) == 2 and isinstance(field[0], str)):
            raise CorruptStream("the Xenops record isn't a list of named fields", offset=0, expected="(name value)",
                                got=str(field)[:32])
        fields[field[0]] = field[1]
    missing = [name for name in ("time", "word_size") if name not in fields]
    if missing:
        raise CorruptStream("the Xenops record lacks fields", offset=0, expected=", ".join(missing))
    return fields


def build(record: "Record") -> "List[Data]":
    """The pieces of a record, header included, in order; data is passed through. Raises UnsupportedStream for Unread.
    """
    if isinstance(record, Unread):
        raise UnsupportedStream("the data of this record wasn't read", offset=0, expected="a record of known length")
    if isinstance(record, (MemoryImage, EndOfImage)):
        return [_HEADER.pack(type_of(record), record.length)]
    data = record[-1]
    if type_of(record) == QEMU_RECORD:
        return [_QEMU_HEADER.pack(QEMU_SIGNATURE, len(data)), data]
    return [_HEADER.pack(type_of(record), len(data)), data]


def ignored_content(record: "Record") -> "Optional[Tuple[int, str, object]]":
    """(offset from the body, field, value) of a field that a restore ignores and should be zero, or None."""
    if isinstance(record, EndOfImage) and record.length:
        return -8, "length", record.length
    return None

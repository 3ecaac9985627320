"""libxl migration stream, version 2: header and record bodies.

Source: docs/specs/libxl-migration-stream.pandoc and tools/libs/light/libxl_sr_stream_format.h.

Records are immutable tuples of named fields, as in :mod:`xstream.wire.libxc`; ``padding`` holds the bytes after the
body if they weren't zeros. The libxc stream that follows LIBXC_CONTEXT is no part of that record.
"""
import struct

from xstream.errors import CorruptStream, UnsupportedStream
from xstream.tuples import NamedTuple
from xstream.wire import signatures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Iterable, List, Optional, Tuple, Type, TypeVar, Union

    from xstream.wire.frames import Buffer

LAYER = signatures.LIBXL
MAGIC = signatures.LIBXL_MAGIC
VERSION = 2
#: Bits of ``Header.options``: a big-endian body; made by the converter of legacy streams.
BIG_ENDIAN, FROM_LEGACY = 1, 2

#: The id of a current QEMU as a guest's emulator.
QEMU_UPSTREAM = 2
EMULATORS = {0: "unknown", 1: "qemu-traditional", QEMU_UPSTREAM: "qemu-upstream"}
#: CHECKPOINT_STATE's control ids. The primary sends the first, in the stream; the secondary sends the others back.
CHECKPOINT_NEW, SECONDARY_SUSPENDED, SECONDARY_READY, SECONDARY_RESUMED = range(4)
CHECKPOINT_STATES = {CHECKPOINT_NEW: "new", SECONDARY_SUSPENDED: "secondary suspended",
                     SECONDARY_READY: "secondary ready", SECONDARY_RESUMED: "secondary resumed"}

_HEADER = struct.Struct(">8sII")
HEADER_SIZE = _HEADER.size
_TWO_U32 = struct.Struct("<II")
_KEY_CHARACTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-/_@"
#: The most strings in one EMULATOR_XENSTORE_DATA. libxl sends six for each region of the device model's memory.
MAX_STRINGS = 65536


class Header(NamedTuple):
    """The first 16 bytes; always big-endian."""

    version: int = VERSION
    options: int = 0


class End(NamedTuple):
    """END: the last record."""

    body: "Buffer" = b""
    padding: "Buffer" = b""


class LibxcContext(NamedTuple):
    """LIBXC_CONTEXT: a whole libxc stream follows."""

    body: "Buffer" = b""
    padding: "Buffer" = b""


class EmulatorXenstoreData(NamedTuple):
    """EMULATOR_XENSTORE_DATA: ``data`` holds NUL-terminated strings, alternately key and value."""

    emulator_id: int
    emulator_index: int
    data: "Buffer"
    padding: "Buffer" = b""

    @property
    def pairs(self) -> "List[Tuple[bytes, bytes]]":
        """(key, value) of each pair, in order; keys are relative to the device model's xenstore directory."""
        strings = bytes(self.data).split(b"\0")[:-1]
        return list(zip(strings[::2], strings[1::2]))

    @classmethod
    def of(cls, pairs: "Iterable[Tuple[bytes, bytes]]", emulator_id: int = 2,
           emulator_index: int = 0) -> "EmulatorXenstoreData":
        """The record for pairs of (key, value)."""
        return cls(emulator_id, emulator_index, b"".join(part + b"\0" for pair in pairs for part in pair))


class EmulatorContext(NamedTuple):
    """EMULATOR_CONTEXT: the device model's state, such as QEMU's."""

    emulator_id: int
    emulator_index: int
    blob: "Buffer"
    padding: "Buffer" = b""


class CheckpointEnd(NamedTuple):
    """CHECKPOINT_END: the checkpoint that libxc's CHECKPOINT began is complete; libxc's records go on."""

    body: "Buffer" = b""
    padding: "Buffer" = b""


class CheckpointState(NamedTuple):
    """CHECKPOINT_STATE: how COLO's two sides synchronise."""

    control_id: int
    reserved: int = 0
    padding: "Buffer" = b""


if TYPE_CHECKING:
    Record = Union[End, LibxcContext, EmulatorXenstoreData, EmulatorContext, CheckpointEnd, CheckpointState]

END, LIBXC_CONTEXT, EMULATOR_XENSTORE_DATA, EMULATOR_CONTEXT, CHECKPOINT_END, CHECKPOINT_STATE = range(6)
#: Record type to (name in the specification, class).
RECORDS: "Dict[int, Tuple[str, type]]" = {
    END: ("END", End),
    LIBXC_CONTEXT: ("LIBXC_CONTEXT", LibxcContext),
    EMULATOR_XENSTORE_DATA: ("EMULATOR_XENSTORE_DATA", EmulatorXenstoreData),
    EMULATOR_CONTEXT: ("EMULATOR_CONTEXT", EmulatorContext),
    CHECKPOINT_END: ("CHECKPOINT_END", CheckpointEnd),
    CHECKPOINT_STATE: ("CHECKPOINT_STATE", CheckpointState),
}
_TYPES = {record_class: record_type for record_type, (_, record_class) in RECORDS.items()}


def type_name(record_type: int) -> str:
    """The specification's name of a record type, or its number if it has none."""
    return RECORDS[record_type][0] if record_type in RECORDS else "{:#x}".format(record_type)


def emulator_name(emulator_id: int) -> str:
    """The specification's name of an emulator id, or the number if it has none."""
    return EMULATORS.get(emulator_id) or str(emulator_id)


def type_of(record: "Record") -> int:
    """The record's type number."""
    return _TYPES[type(record)]


def parse_header(untrusted: "Buffer") -> Header:
    """The header, from its 16 bytes.

    Raises CorruptStream for another format's, UnsupportedStream for big-endian streams and versions other than 2.
    Offsets in errors are relative to the first byte.
    """
    magic, version, options = _HEADER.unpack_from(untrusted)
    if magic != MAGIC:
        raise CorruptStream("not a libxl stream", offset=0, field="ident", expected=MAGIC, got=magic)
    if version != VERSION:
        raise UnsupportedStream("unknown version", offset=8, field="version", expected=VERSION, got=version)
    if options & BIG_ENDIAN:
        raise UnsupportedStream("big-endian stream", offset=12, field="options", expected="bit 0 clear",
                                got=hex(options))
    return Header(version, options)


def build_header(header: Header) -> bytes:
    """The header's 16 bytes."""
    return _HEADER.pack(MAGIC, header.version, header.options)


def parse(record_type: int, body: "Buffer", padding: "Buffer" = b"") -> "Record":
    """The record for a body (without padding); its blobs are slices of ``body``.

    Raises CorruptStream with offsets relative to the body's first byte, UnsupportedStream for an unknown type: libxl
    refuses those even if they are marked as optional. What a restore ignores is kept.
    """
    parser = _PARSERS.get(record_type)
    if parser is not None:
        record: Record = parser(body, padding)
        return record
    raise UnsupportedStream("unknown record", offset=-8, field="type", expected="a known type",
                            got=type_name(record_type))


def build(record: "Record") -> "List[Buffer]":
    """The pieces of a record's body, in order, without frame and padding; buffers are passed through uncopied."""
    if isinstance(record, (EmulatorXenstoreData, EmulatorContext)):
        return [_TWO_U32.pack(record.emulator_id, record.emulator_index), record[2]]
    if isinstance(record, CheckpointState):
        return [_TWO_U32.pack(record.control_id, record.reserved)]
    return [record.body]


def ignored_content(record: "Record") -> "Optional[Tuple[int, str, object]]":
    """(offset in the body, field, value) of what a restore ignores and no Xen writes, or None."""
    if isinstance(record, (End, LibxcContext, CheckpointEnd)) and len(record.body):
        return -4, "length", len(record.body)
    if isinstance(record, CheckpointState) and record.reserved:
        return 4, "padding", record.reserved
    if isinstance(record, (EmulatorXenstoreData, EmulatorContext)) and record.emulator_id not in EMULATORS:
        return 0, "emulator_id", record.emulator_id
    return None


if TYPE_CHECKING:
    Emulator = TypeVar("Emulator", EmulatorXenstoreData, EmulatorContext)


def _parse_emulator(record_class: "Type[Emulator]") -> "Callable[[Buffer, Buffer], Emulator]":
    def parse_emulator(body: "Buffer", padding: "Buffer") -> "Emulator":
        if len(body) < 8:
            raise CorruptStream("emulator record too short for its header", offset=-4, field="length",
                                expected="at least 8", got=len(body))
        emulator_id, index = _TWO_U32.unpack_from(body)
        if issubclass(record_class, EmulatorXenstoreData):
            _check_strings(bytes(body[8:]))
        return record_class(emulator_id, index, body[8:], padding)
    return parse_emulator


def _check_strings(untrusted: bytes) -> None:
    """Raise CorruptStream unless these are pairs of a valid key and a value. Offsets are relative to the body."""
    if not untrusted:
        return
    if untrusted[-1]:
        raise CorruptStream("xenstore data doesn't end with a NUL", offset=7 + len(untrusted), field="data",
                            expected=0, got=untrusted[-1])
    count = untrusted.count(b"\0")
    if count > MAX_STRINGS:
        raise CorruptStream("too many strings of xenstore data", offset=8, field="data",
                            expected="at most {}".format(MAX_STRINGS), got=count)
    if count % 2:
        raise CorruptStream("xenstore key without a value", offset=8, field="data",
                            expected="an even number of strings", got=count)
    offset = 8
    strings = untrusted.split(b"\0")
    for key, value in zip(strings[::2], strings[1::2]):
        if not key or key.strip(_KEY_CHARACTERS) or key.startswith(b"/"):
            raise CorruptStream("bad xenstore key", offset=offset, field="key",
                                expected="a relative path of A-Z, a-z, 0-9, -, /, _ and @", got=key)
        offset += len(key) + len(value) + 2


def _parse_checkpoint_state(body: "Buffer", padding: "Buffer") -> CheckpointState:
    if len(body) != 8:
        raise CorruptStream("CHECKPOINT_STATE of a wrong size", offset=-4, field="length", expected=8, got=len(body))
    control_id, reserved = _TWO_U32.unpack(body)
    if control_id not in CHECKPOINT_STATES:
        raise UnsupportedStream("unknown checkpoint state", offset=0, field="control_id", expected="0 to 3",
                                got=control_id)
    return CheckpointState(control_id, reserved, padding)


_PARSERS: "Dict[int, Callable[[Buffer, Buffer], Record]]" = {
    END: End,
    LIBXC_CONTEXT: LibxcContext,
    EMULATOR_XENSTORE_DATA: _parse_emulator(EmulatorXenstoreData),
    EMULATOR_CONTEXT: _parse_emulator(EmulatorContext),
    CHECKPOINT_END: CheckpointEnd,
    CHECKPOINT_STATE: _parse_checkpoint_state,
}

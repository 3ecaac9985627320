"""libxc migration stream, versions 2 and 3: headers and record bodies.

Source: docs/specs/libxc-migration-stream.pandoc and tools/libs/guest/xg_sr_stream_format.h.

Every record is an immutable tuple with named fields. Blobs and arrays are held as the bytes that came (bytes or
memoryview: a view where the source allows it), so that a decoded record encodes to the same bytes; properties return
them as numbers or numpy arrays. ``padding`` holds the bytes after the body if they weren't zeros.
"""
import struct

from xstream.errors import CorruptStream, UnsupportedStream
from xstream.kernels import buffers
from xstream.kernels import pfns as pfn_kernel
from xstream.tuples import NamedTuple
from xstream.wire import signatures
from xstream.wire.frames import OPTIONAL
from xstream.wire.pending import in_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple, Union

    import numpy

    from xstream.kernels.buffers import BufferLike
    from xstream.wire.frames import Buffer
    from xstream.wire.pending import Data

LAYER = signatures.LIBXC
PAGE_SIZE = 4096
MARKER = signatures.LIBXC_MARKER
IDENT = 0x58454E46  # "XENF"
BIG_ENDIAN = 0x0001
VERSIONS = (2, 3)

GUEST_PV, GUEST_HVM = 1, 2
#: PFNs in a batch: as many as Xen sends (MAX_BATCH_SIZE in tools/libs/guest/xg_sr_common.h).
BATCH_PFNS = 1024
GUEST_NAMES = {GUEST_PV: "x86 PV", GUEST_HVM: "x86 HVM"}

PFN_MASK = (1 << 52) - 1
PAGE_TYPES = ("NOTAB", "L1TAB", "L2TAB", "L3TAB", "L4TAB", "5 (invalid)", "6 (invalid)", "7 (invalid)", "8 (invalid)",
              "L1TAB pinned", "L2TAB pinned", "L3TAB pinned", "L4TAB pinned", "BROKEN", "XALLOC", "XTAB")

_IMAGE = struct.Struct(">8sIIHHI")
_DOMAIN = struct.Struct("<IHHII")
HEADERS_SIZE = _IMAGE.size + _DOMAIN.size

_TWO_U32 = struct.Struct("<II")
_PV_INFO = struct.Struct("<BB6s")
_TSC = struct.Struct("<IIQII")
#: One parameter: index, value.
HVM_PARAM = struct.Struct("<QQ")
HVM_PARAM_SIZE = HVM_PARAM.size
#: An entry of an HVM context: typecode, instance, length; typecode 0 ends it. A guest has about ten entries per vcpu.
_CONTEXT_ENTRY = struct.Struct("<HHI")
_CONTEXT_END, _CONTEXT_HEADER = 0, 1
_MOST_CONTEXT_ENTRIES = 65536

#: Sizes of vcpu_guest_context by guest width (xen/include/public/arch-x86/xen.h).
VCPU_BASIC_SIZES = {4: 0xAF0, 8: 0x1430}
#: Guest width by page-table levels.
GUEST_WIDTHS = {3: 4, 4: 8}
VCPU_EXTENDED_MAX = 128
VCPU_XSAVE_MIN = 16
VCPU_MSR_SIZE = 16
CPUID_LEAF_SIZE = 24
MSR_ENTRY_SIZE = 16


class ImageHeader(NamedTuple):
    """The first 24 bytes; big-endian whatever the body is."""

    version: int = 3
    options: int = 0
    reserved1: int = 0
    reserved2: int = 0


class DomainHeader(NamedTuple):
    """The next 16 bytes. ``xen_major`` 0 means made by a converter, of version ``xen_minor``."""

    type: int
    page_shift: int = 12
    reserved: int = 0
    xen_major: int = 4
    xen_minor: int = 17


class End(NamedTuple):
    """END: the last record."""

    body: "Buffer" = b""
    padding: "Buffer" = b""


class PageData(NamedTuple):
    """PAGE_DATA: a batch of PFNs and the pages of those whose type carries data.

    - ``words``: 8 bytes a PFN, as sent (type in bits 63-60, PFN in 51-0);
    - ``data``: the pages' bytes, 4096 for each word that carries data, in order: a buffer, or, from a source that
      can't be looked at twice, a :class:`~xstream.stream.source.PendingPages` that is good until the next record.
    """

    words: "Buffer"
    data: "Data"
    reserved: int = 0
    padding: "Buffer" = b""

    @property
    def pfn_count(self) -> int:
        """Number of PFNs."""
        return len(self.words) // 8

    @property
    def pfns(self) -> "numpy.ndarray":
        """PFNs, ndarray (n,) uint64; a copy."""
        import numpy
        return numpy.frombuffer(self.words, "<u8") & numpy.uint64(PFN_MASK)

    @property
    def types(self) -> "numpy.ndarray":
        """Page types, ndarray (n,) uint8; a copy."""
        import numpy
        return (numpy.frombuffer(self.words, "<u8") >> numpy.uint64(60)).astype(numpy.uint8)

    @property
    def pages(self) -> "numpy.ndarray":
        """The pages, ndarray (n, 4096) uint8: a view of ``data`` if that is a buffer, else read from the source."""
        import numpy
        return numpy.frombuffer(in_memory(self.data), numpy.uint8).reshape(-1, PAGE_SIZE)


def words_of(pfns: "BufferLike", types: "BufferLike") -> memoryview:
    """The PFN words for ``pfns`` (uint64) and page ``types`` (uint8); a copy. Raises ValueError if they don't fit
    together."""
    words = memoryview(bytearray(buffers.array("pfns", pfns, "uint64").nbytes))
    pfn_kernel.pack(pfns, types, words)
    return words


def data_pfns(words: "Buffer") -> memoryview:
    """The PFNs of the words that carry data, in order, uint64; a copy."""
    pfns = buffers.uint64(len(words) // 8)
    return pfns[:pfn_kernel.data_pfns(words, pfns)]


class PVInfo(NamedTuple):
    """X86_PV_INFO: ``guest_width`` in bytes (4 or 8) and page-table levels (3 or 4)."""

    guest_width: int
    pt_levels: int
    reserved: "Buffer" = bytes(6)
    rest: "Buffer" = b""
    padding: "Buffer" = b""


class P2MFrames(NamedTuple):
    """X86_PV_P2M_FRAMES: the frames that hold the guest's p2m for PFNs ``start_pfn`` to ``end_pfn`` inclusive."""

    start_pfn: int
    end_pfn: int
    frames: "Buffer"
    padding: "Buffer" = b""

    @property
    def pfns(self) -> "numpy.ndarray":
        """PFNs of the p2m's frames, ndarray (n,) uint64; a view."""
        import numpy
        return numpy.frombuffer(self.frames, "<u8")


class VcpuBasic(NamedTuple):
    """X86_PV_VCPU_BASIC: struct vcpu_guest_context, with PFNs for MFNs."""

    vcpu_id: int
    blob: "Buffer"
    reserved: int = 0
    padding: "Buffer" = b""


class VcpuExtended(NamedTuple):
    """X86_PV_VCPU_EXTENDED: struct xen_domctl_ext_vcpucontext."""

    vcpu_id: int
    blob: "Buffer"
    reserved: int = 0
    padding: "Buffer" = b""


class VcpuXsave(NamedTuple):
    """X86_PV_VCPU_XSAVE: xcr0, xcr0_accum and the xsave area."""

    vcpu_id: int
    blob: "Buffer"
    reserved: int = 0
    padding: "Buffer" = b""


class VcpuMsrs(NamedTuple):
    """X86_PV_VCPU_MSRS: 16 bytes an MSR (index u32, reserved u32, value u64)."""

    vcpu_id: int
    blob: "Buffer"
    reserved: int = 0
    padding: "Buffer" = b""


class SharedInfo(NamedTuple):
    """SHARED_INFO: the guest's shared info page, 4096 bytes."""

    page: "Buffer"
    padding: "Buffer" = b""


class TscInfo(NamedTuple):
    """X86_TSC_INFO: mode, frequency in kHz, elapsed nanoseconds, incarnation."""

    mode: int
    khz: int
    nsec: int
    incarnation: int
    reserved: int = 0
    padding: "Buffer" = b""


class HvmContext(NamedTuple):
    """HVM_CONTEXT: Xen's own save record; its entries are read by :mod:`xstream.wire.hvm_context`."""

    blob: "Buffer"
    padding: "Buffer" = b""


def hvm_context_begins(untrusted: "Buffer") -> bool:
    """Whether an HVM_CONTEXT blob begins as all that Xen writes: with a HEADER entry."""
    return len(untrusted) >= _CONTEXT_ENTRY.size and _CONTEXT_ENTRY.unpack_from(untrusted)[0] == _CONTEXT_HEADER


def hvm_context_ends(untrusted: "Buffer") -> bool:
    """Whether the entries of an HVM_CONTEXT blob lead to an END entry: without one, Xen refuses the context. Only the
    chain is followed; :mod:`xstream.wire.hvm_context` reads the entries."""
    offset = 0
    for _ in range(_MOST_CONTEXT_ENTRIES):
        if len(untrusted) - offset < _CONTEXT_ENTRY.size:
            return False
        typecode, _instance, length = _CONTEXT_ENTRY.unpack_from(untrusted, offset)
        if typecode == _CONTEXT_END:
            return offset > 0
        offset += _CONTEXT_ENTRY.size + length
    return False


def is_whole_context(untrusted: "Buffer", *, converted: bool) -> bool:
    """Whether an HVM_CONTEXT blob is complete. Of a legacy stream, or one ``converted`` from it, also one that doesn't
    begin as Xen's does, unless it is all zeros: it is passed on as it is."""
    if converted and not hvm_context_begins(untrusted):
        return any(untrusted)
    return hvm_context_ends(untrusted)


class HvmParams(NamedTuple):
    """HVM_PARAMS: 16 bytes a parameter (index u64, value u64)."""

    entries: "Buffer"
    reserved: int = 0
    padding: "Buffer" = b""

    @property
    def params(self) -> "List[Tuple[int, int]]":
        """(index, value) of each parameter, in order."""
        return list(HVM_PARAM.iter_unpack(self.entries))

    @classmethod
    def of(cls, params: "List[Tuple[int, int]]") -> "HvmParams":
        """The record for a list of (index, value)."""
        return cls(b"".join(HVM_PARAM.pack(index, value) for index, value in params))


class Verify(NamedTuple):
    """VERIFY: pages after it are to be compared, not written."""

    body: "Buffer" = b""
    padding: "Buffer" = b""


class Checkpoint(NamedTuple):
    """CHECKPOINT: everything before it is one consistent state of the guest."""

    body: "Buffer" = b""
    padding: "Buffer" = b""


class CheckpointDirtyPfnList(NamedTuple):
    """CHECKPOINT_DIRTY_PFN_LIST: 8 bytes a PFN; on COLO's back channel only."""

    entries: "Buffer"
    padding: "Buffer" = b""

    @property
    def pfns(self) -> "numpy.ndarray":
        """PFNs dirtied by the secondary, ndarray (n,) uint64; a view."""
        import numpy
        return numpy.frombuffer(self.entries, "<u8")


class StaticDataEnd(NamedTuple):
    """STATIC_DATA_END: what can be known of a guest before its memory is complete."""

    body: "Buffer" = b""
    padding: "Buffer" = b""


class CpuidPolicy(NamedTuple):
    """X86_CPUID_POLICY: 24 bytes a leaf; read by :mod:`xstream.wire.policies`."""

    leaves: "Buffer"
    padding: "Buffer" = b""


class MsrPolicy(NamedTuple):
    """X86_MSR_POLICY: 16 bytes an MSR; read by :mod:`xstream.wire.policies`."""

    entries: "Buffer"
    padding: "Buffer" = b""


class Unknown(NamedTuple):
    """An optional record (bit 31 of the type) of an unknown type."""

    type: int
    body: "Buffer"
    padding: "Buffer" = b""


if TYPE_CHECKING:
    Record = Union[End, PageData, PVInfo, P2MFrames, VcpuBasic, VcpuExtended, VcpuXsave, VcpuMsrs, SharedInfo, TscInfo,
                   HvmContext, HvmParams, Verify, Checkpoint, CheckpointDirtyPfnList, StaticDataEnd, CpuidPolicy,
                   MsrPolicy, Unknown]

#: Records of one vcpu, in the order in which Xen sends them.
PER_VCPU = (VcpuBasic, VcpuExtended, VcpuXsave, VcpuMsrs)

PAGE_DATA = 0x01
#: Record type to (name in the specification, class).
RECORDS: "Dict[int, Tuple[str, type]]" = {
    0x00: ("END", End),
    0x01: ("PAGE_DATA", PageData),
    0x02: ("X86_PV_INFO", PVInfo),
    0x03: ("X86_PV_P2M_FRAMES", P2MFrames),
    0x04: ("X86_PV_VCPU_BASIC", VcpuBasic),
    0x05: ("X86_PV_VCPU_EXTENDED", VcpuExtended),
    0x06: ("X86_PV_VCPU_XSAVE", VcpuXsave),
    0x07: ("SHARED_INFO", SharedInfo),
    0x08: ("X86_TSC_INFO", TscInfo),
    0x09: ("HVM_CONTEXT", HvmContext),
    0x0A: ("HVM_PARAMS", HvmParams),
    0x0C: ("X86_PV_VCPU_MSRS", VcpuMsrs),
    0x0D: ("VERIFY", Verify),
    0x0E: ("CHECKPOINT", Checkpoint),
    0x0F: ("CHECKPOINT_DIRTY_PFN_LIST", CheckpointDirtyPfnList),
    0x10: ("STATIC_DATA_END", StaticDataEnd),
    0x11: ("X86_CPUID_POLICY", CpuidPolicy),
    0x12: ("X86_MSR_POLICY", MsrPolicy),
}
_TYPES = {record_class: record_type for record_type, (_, record_class) in RECORDS.items()}
_NAMES = {record_type: name for record_type, (name, _) in RECORDS.items()}
_NAMES[0x0B] = "TOOLSTACK"


def type_name(record_type: int) -> str:
    """The specification's name of a record type, or its number if it has none."""
    return _NAMES.get(record_type) or "{:#x}".format(record_type)


def type_of(record: "Record") -> int:
    """The type number that a record is sent with."""
    return record.type if isinstance(record, Unknown) else _TYPES[type(record)]


def parse_headers(untrusted: "Buffer") -> "Tuple[ImageHeader, DomainHeader]":
    """Both headers, from their 40 bytes.

    Raises CorruptStream for another format's, UnsupportedStream for big-endian streams, versions other
    than 2 and 3, unknown guest types and page sizes. Offsets in the errors are relative to the first byte.
    """
    marker, ident, version, options, reserved1, reserved2 = _IMAGE.unpack_from(untrusted)
    if marker != MARKER:
        raise CorruptStream("not a libxc stream", offset=0, field="marker", expected=MARKER.hex(), got=marker.hex())
    if ident != IDENT:
        raise CorruptStream("not a libxc stream", offset=8, field="id", expected=hex(IDENT), got=hex(ident))
    if version not in VERSIONS:
        raise UnsupportedStream("unknown version", offset=12, field="version", expected="2 or 3", got=version)
    if options & BIG_ENDIAN:
        raise UnsupportedStream("big-endian stream", offset=16, field="options", expected="bit 0 clear",
                                got=hex(options))
    domain = DomainHeader(*_DOMAIN.unpack_from(untrusted, _IMAGE.size))
    if domain.type not in GUEST_NAMES:
        raise UnsupportedStream("unknown guest type", offset=24, field="type", expected="1 (PV) or 2 (HVM)",
                                got=domain.type)
    if domain.page_shift != 12:
        raise UnsupportedStream("page size other than 4096", offset=28, field="page_shift", expected=12,
                                got=domain.page_shift)
    return ImageHeader(version, options, reserved1, reserved2), domain


def build_headers(image: ImageHeader, domain: DomainHeader) -> bytes:
    """The 40 bytes of both headers."""
    return (_IMAGE.pack(MARKER, IDENT, image.version, image.options, image.reserved1, image.reserved2)
            + _DOMAIN.pack(*domain))


def parse_page_data_head(untrusted: "Buffer", length: int) -> "Tuple[int, int]":
    """(count, reserved) of a PAGE_DATA body of ``length`` bytes from its first 8; the count is known to fit."""
    if length < 8:
        raise CorruptStream("PAGE_DATA too short for its header", offset=-4, field="length", expected="at least 8",
                            got=length)
    count, reserved = _TWO_U32.unpack_from(untrusted)
    if count < 1:
        raise CorruptStream("PAGE_DATA without PFNs", offset=0, field="count", expected="at least 1", got=count)
    if 8 + 8 * count > length:
        raise CorruptStream("PAGE_DATA too short for its PFNs", offset=0, field="count",
                            expected="at most {}".format((length - 8) // 8), got=count)
    return count, reserved


def parse(record_type: int, body: "Buffer", padding: "Buffer" = b"") -> "Record":
    """The record for a body (without padding); its blobs are slices of ``body``.

    Raises CorruptStream with offsets relative to the body's first byte, UnsupportedStream for an unknown type
    without the optional bit. What a restore ignores (reserved fields, bodies on END and its like) is kept, not judged.
    """
    parser = _PARSERS.get(record_type)
    if parser is not None:
        record: Record = parser(body, padding)
        return record
    if record_type & OPTIONAL:
        return Unknown(record_type, body, padding)
    raise UnsupportedStream("unknown mandatory record", offset=-8, field="type", expected="a known type",
                            got=type_name(record_type))


def build(record: "Record") -> "List[Buffer]":
    """The pieces of a record's body, in order, without frame and padding; buffers are passed through uncopied."""
    builder = _BUILDERS.get(type(record))
    return builder(record) if builder else [record[0]]  # type: ignore[list-item]  # a class with one blob


def _need(body: "Buffer", size: int, name: str, exact: bool = False) -> None:
    if len(body) < size or (exact and len(body) != size):
        raise CorruptStream("{} of a wrong size".format(name), offset=-4, field="length",
                            expected=size if exact else "at least {}".format(size), got=len(body))


def _parse_page_data(body: "Buffer", padding: "Buffer") -> PageData:
    count, reserved = parse_page_data_head(body, len(body))
    return PageData(body[8:8 + 8 * count], body[8 + 8 * count:], reserved, padding)


def _parse_pv_info(body: "Buffer", padding: "Buffer") -> PVInfo:
    _need(body, 8, "X86_PV_INFO")
    width, levels, reserved = _PV_INFO.unpack_from(body)
    if (width, levels) not in ((4, 3), (8, 4)):
        raise CorruptStream("impossible guest width and page-table levels", offset=0, field="guest_width, pt_levels",
                            expected="4, 3 or 8, 4", got="{}, {}".format(width, levels))
    return PVInfo(width, levels, reserved, body[8:], padding)


def _parse_p2m_frames(body: "Buffer", padding: "Buffer") -> P2MFrames:
    _need(body, 8, "X86_PV_P2M_FRAMES")
    start, end = _TWO_U32.unpack_from(body)
    if start > end:
        raise CorruptStream("X86_PV_P2M_FRAMES runs backwards", offset=0, field="start_pfn",
                            expected="at most end_pfn {}".format(end), got=start)
    return P2MFrames(start, end, body[8:], padding)


def p2m_frame_count(start_pfn: int, end_pfn: int, guest_width: int) -> int:
    """How many p2m frames hold the entries of PFNs ``start_pfn`` to ``end_pfn`` inclusive."""
    entries = PAGE_SIZE // guest_width
    return end_pfn // entries - start_pfn // entries + 1


def check_p2m_frames(record: P2MFrames, guest_width: int) -> None:
    """Raise CorruptStream unless the record has a frame for each part of its range."""
    wanted = 8 * p2m_frame_count(record.start_pfn, record.end_pfn, guest_width)
    if len(record.frames) != wanted:
        raise CorruptStream("X86_PV_P2M_FRAMES doesn't fit its range", offset=-4, field="length", expected=8 + wanted,
                            got=8 + len(record.frames))


def check_vcpu_basic(record: VcpuBasic, guest_width: int) -> None:
    """Raise CorruptStream unless the context has the size of the guest's width, or is empty."""
    size = VCPU_BASIC_SIZES[guest_width]
    if len(record.blob) not in (0, size):
        raise CorruptStream("vcpu context of a wrong size", offset=-4, field="length", expected=8 + size,
                            got=8 + len(record.blob))


def _vcpu_parser(record_class: type, fits: "Callable[[int], bool]", expected: str
                 ) -> "Callable[[Buffer, Buffer], Record]":
    def parse_vcpu(body: "Buffer", padding: "Buffer") -> "Record":
        _need(body, 8, type_name(_TYPES[record_class]))
        vcpu_id, reserved = _TWO_U32.unpack_from(body)
        size = len(body) - 8
        if not fits(size):
            raise CorruptStream("vcpu blob of a wrong size", offset=-4, field="length", expected=expected, got=8 + size)
        record: Record = record_class(vcpu_id, body[8:], reserved, padding)
        return record
    return parse_vcpu


def _parse_tsc_info(body: "Buffer", padding: "Buffer") -> TscInfo:
    _need(body, _TSC.size, "X86_TSC_INFO", exact=True)
    mode, khz, nsec, incarnation, reserved = _TSC.unpack(body)
    return TscInfo(mode, khz, nsec, incarnation, reserved, padding)


def _parse_shared_info(body: "Buffer", padding: "Buffer") -> SharedInfo:
    _need(body, PAGE_SIZE, "SHARED_INFO", exact=True)
    return SharedInfo(body, padding)


def _parse_hvm_params(body: "Buffer", padding: "Buffer") -> HvmParams:
    _need(body, 8, "HVM_PARAMS")
    count, reserved = _TWO_U32.unpack_from(body)
    if 8 + count * HVM_PARAM.size != len(body):
        raise CorruptStream("HVM_PARAMS doesn't fit its count", offset=0, field="count",
                            expected=(len(body) - 8) / HVM_PARAM.size, got=count)
    return HvmParams(body[8:], reserved, padding)


def _array_parser(record_class: type, item: int, least: int) -> "Callable[[Buffer, Buffer], Record]":
    def parse_array(body: "Buffer", padding: "Buffer") -> "Record":
        if len(body) % item or len(body) < least:
            raise CorruptStream("{} of a wrong size".format(type_name(_TYPES[record_class])), offset=-4,
                                field="length", expected="a multiple of {}{}".format(item, ", not 0" if least else ""),
                                got=len(body))
        record: Record = record_class(body, padding)
        return record
    return parse_array


_PARSERS: "Dict[int, Callable[[Buffer, Buffer], Record]]" = {
    0x00: End,
    0x01: _parse_page_data,
    0x02: _parse_pv_info,
    0x03: _parse_p2m_frames,
    # Empty blobs, and empty HVM_PARAMS, were sent by Xen 4.6 to 4.8; the restorer passes over them.
    0x04: _vcpu_parser(VcpuBasic, lambda size: size == 0 or size in VCPU_BASIC_SIZES.values(), "0x1438 or 0xaf8"),
    0x05: _vcpu_parser(VcpuExtended, lambda size: size <= VCPU_EXTENDED_MAX, "at most 136"),
    0x06: _vcpu_parser(VcpuXsave, lambda size: size == 0 or size >= VCPU_XSAVE_MIN, "8 or at least 24"),
    0x0C: _vcpu_parser(VcpuMsrs, lambda size: size % VCPU_MSR_SIZE == 0, "8 and a multiple of 16"),
    0x07: _parse_shared_info,
    0x08: _parse_tsc_info,
    0x09: HvmContext,
    0x0A: _parse_hvm_params,
    0x0D: Verify,
    0x0E: Checkpoint,
    0x0F: _array_parser(CheckpointDirtyPfnList, 8, 0),
    0x10: StaticDataEnd,
    0x11: _array_parser(CpuidPolicy, CPUID_LEAF_SIZE, CPUID_LEAF_SIZE),
    0x12: _array_parser(MsrPolicy, MSR_ENTRY_SIZE, MSR_ENTRY_SIZE),
}


def _build_vcpu(record: "Union[VcpuBasic, VcpuExtended, VcpuXsave, VcpuMsrs]") -> "List[Buffer]":
    return [_TWO_U32.pack(record.vcpu_id, record.reserved), record.blob]


# What each takes is a record of its class.
_BUILDERS: "Dict[type, Callable[[Any], List[Buffer]]]" = {
    PageData: lambda record: [_TWO_U32.pack(record.pfn_count, record.reserved), record.words, record.data],
    PVInfo: lambda record: [_PV_INFO.pack(record.guest_width, record.pt_levels, bytes(record.reserved)), record.rest],
    P2MFrames: lambda record: [_TWO_U32.pack(record.start_pfn, record.end_pfn), record.frames],
    VcpuBasic: _build_vcpu,
    VcpuExtended: _build_vcpu,
    VcpuXsave: _build_vcpu,
    VcpuMsrs: _build_vcpu,
    TscInfo: lambda record: [_TSC.pack(*record[:5])],
    HvmParams: lambda record: [_TWO_U32.pack(len(record.entries) // HVM_PARAM.size, record.reserved), record.entries],
    Unknown: lambda record: [record.body],
}


def ignored_content(record: "Record") -> "Optional[Tuple[int, str, object]]":
    """(offset in the body, field, value) of the first thing in a record that a restore ignores though it should be
    zero or absent; None if there is none. Padding belongs to the frame and isn't checked here."""
    if isinstance(record, (End, Verify, Checkpoint, StaticDataEnd)) and len(record.body):
        return -4, "length", len(record.body)
    if isinstance(record, PVInfo) and (any(record.reserved) or len(record.rest)):
        return 2, "reserved", bytes(record.reserved) + bytes(record.rest)
    if isinstance(record, (PageData, VcpuBasic, VcpuExtended, VcpuXsave, VcpuMsrs, HvmParams)) and record.reserved:
        return 4, "reserved", record.reserved
    if isinstance(record, TscInfo) and record.reserved:
        return 20, "reserved", record.reserved
    return None

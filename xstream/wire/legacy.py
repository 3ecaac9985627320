"""Legacy libxc stream, Xen 4.5 and earlier: header, chunks and tail.

Source: tools/libxc/xg_save_restore.h, xc_domain_save.c, xc_domain_restore.c, xc_tmem.c and xc_compression.c of Xen 4.0
to 4.5; tools/libxl/libxl_dom.c there for the toolstack's chunk; tools/python/xen/migration/legacy.py.

Everything is little-endian and unpadded. ``width`` is the size in bytes of an unsigned long in the toolstack that wrote
the stream: 4 or 8, regardless of the guest's. Records are immutable tuples of named fields, as in
:mod:`xstream.wire.libxc`; a batch of pages is that module's PageData, with 64-bit PFN words.
"""
import struct

from xstream.errors import CorruptStream, LimitExceeded, UnsupportedStream
from xstream.tuples import NamedTuple
from xstream.wire import libxc, signatures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple, Union

    from xstream.wire.frames import Buffer
    from xstream.wire.pending import Data

LAYER = signatures.LEGACY
WIDTHS = (4, 8)
PV, HVM = "pv", "hvm"
#: The most PFNs in a batch (MAX_BATCH_SIZE).
MAX_BATCH = 1024
#: Most PFNs of a guest: a PFN word has 28 bits for them, and the writer refuses to use the last.
MAX_PFNS = (1 << 28) - 1
#: The highest vcpu id (XC_SR_MAX_VCPUS - 1).
MAX_VCPU_ID = 4095
VCPU_EXTENDED_SIZE = 128
SHARED_INFO_SIZE = 4096
SIGNATURE_SIZE = 21
#: Signatures of a device model's record: of libxl, of Remus, and of xend, whose record goes on to the end of the input.
LIBXL_DEVICE_MODEL, REMUS_DEVICE_MODEL, XEND_DEVICE_MODEL = SIGNATURES = (
    b"DeviceModelRecord0002", b"RemusDeviceModelState", b"QemuDeviceModelRecord")
PHYSMAP_VERSION = 1
#: The most physmap entries. libxl writes one for each region of a video card's memory.
_MOST_PHYSMAP = 65536

#: Chunks of one HVM parameter each: chunk id to the parameter's index, in the order in which Xen writes them.
PARAMS: "Dict[int, int]" = {-14: 34, -3: 12, -15: 27, -16: 28, -17: 29, -4: 15, -8: 17, -10: 19, -11: 9, -19: 32,
                            -20: 33, -21: 36}
PARAM_CHUNKS: "Dict[int, int]" = {index: chunk for chunk, index in PARAMS.items()}

VERIFY, VCPU_INFO, TMEM, TMEM_EXTRA, TSC_INFO, LAST_CHECKPOINT = -1, -2, -5, -6, -7, -9
COMPRESSED, ENABLE_COMPRESSION, TOOLSTACK = -12, -13, -18

#: Blocks of the extended info, and the most unknown ones that are kept.
_MOST_OTHER_BLOCKS = 1024
_BLOCKS = (b"vcpu", b"extv", b"xcnt")

CHUNK = struct.Struct("<i")
U32 = struct.Struct("<I")
_ULONG = {4: U32, 8: struct.Struct("<Q")}
_PARAM = struct.Struct("<IQ")
_TSC = struct.Struct("<IQII")
_BLOCK = struct.Struct("<4sI")
_TMEM = struct.Struct("<IIIIIII")
_TMEM_POOL = struct.Struct("<III16s")
_TMEM_PAGE = struct.Struct("<24sI")
_TMEM_INVALID = struct.Struct("<I24sI")
_XSAVE = struct.Struct("<QQ")
_MAGIC_PFNS = struct.Struct("<QQQ")
_PHYSMAP = struct.Struct("<QQQI")
_TWO_U32 = struct.Struct("<II")
ALL_ONES = 0xFFFFFFFF
_ALL_ONES_OID = b"\xff" * 24

TSC_INFO_SIZE, PARAM_SIZE, TMEM_SIZE, TMEM_POOL_SIZE = _TSC.size, _PARAM.size, _TMEM.size, _TMEM_POOL.size
TMEM_OID_SIZE, TMEM_PAGE_HEAD_SIZE, TMEM_INVALID_SIZE = 24, _TMEM_PAGE.size, _TMEM_INVALID.size
XSAVE_HEAD_SIZE, MAGIC_PFNS_SIZE = _XSAVE.size, _MAGIC_PFNS.size
#: Bytes of a Toolstack chunk before its data: an id and a length.
TOOLSTACK_HEAD_SIZE = CHUNK.size + U32.size


class Start(NamedTuple):
    """The first field: ``p2m_size`` is one more than the guest's highest PFN. ``guest`` is "pv" or "hvm"; it and
    ``width`` aren't fields of the stream but deduced from it."""

    p2m_size: int
    width: int
    guest: str


class ExtendedInfo(NamedTuple):
    """PV: the layout of the guest's contexts.

    - ``guest_width``: 4 or 8 bytes, deduced from the size of ``vcpu``;
    - ``vcpu``: a context of vcpu 0 that contains MFNs; not used by a restore;
    - ``extended``: whether each vcpu has an extended context;
    - ``xsave_size``: the size in bytes of vcpu 0's xsave area plus 16; None if vcpus have none;
    - ``others``: blocks of unknown kinds, (id, data), which a restore skips.
    """

    guest_width: int
    vcpu: "Buffer"
    extended: bool = True
    xsave_size: "Optional[int]" = None
    others: "Tuple[Tuple[bytes, Buffer], ...]" = ()

    @property
    def pt_levels(self) -> int:
        """Page-table levels: 3 or 4."""
        return {4: 3, 8: 4}[self.guest_width]


class P2MFrames(NamedTuple):
    """PV: the PFNs of the frames that hold the guest's p2m; ``frames`` is u64 each, whatever the width."""

    frames: "Buffer"


class VerifyMode(NamedTuple):
    """Chunk -1: all pages follow again, for comparison."""


class VcpuInfo(NamedTuple):
    """Chunk -2: ``online`` is a bitmap of vcpus, 8 bytes for each 64 of them."""

    max_vcpu_id: int
    online: "Buffer"

    @property
    def vcpus(self) -> "List[int]":
        """Ids of the vcpus that are online, up to ``max_vcpu_id``: a restore ignores higher bits."""
        bits = int.from_bytes(self.online, "little")
        return [vcpu for vcpu in range(self.max_vcpu_id + 1) if bits >> vcpu & 1]

    @classmethod
    def of(cls, vcpus: "Iterable[int]") -> "VcpuInfo":
        """The chunk for these vcpus."""
        ids = sorted(vcpus)
        highest = ids[-1] if ids else 0
        return cls(highest, sum(1 << vcpu for vcpu in ids).to_bytes(8 * (highest // 64 + 1), "little"))


class HvmParam(NamedTuple):
    """A chunk of PARAMS: one HVM parameter, by its index."""

    param: int
    value: int
    reserved: int = 0


class Tmem(NamedTuple):
    """Chunk -5: transcendent memory; its pools, pages and end follow as separate records."""

    version: int
    max_pools: int
    flags: int
    weight: int
    cap: int


class TmemPool(NamedTuple):
    """A pool of tmem: up to ``pages`` TmemPage records follow."""

    pool_id: int
    flags: int
    pages: int
    uuid: "Buffer"

    @property
    def page_size(self) -> int:
        """Bytes in a page, from the flags: usually 4096."""
        return 4096 << (self.flags >> 4 & 0xF)


class TmemPage(NamedTuple):
    """A page of the pool before it; ``data`` as in PageData."""

    oid: "Buffer"
    page_index: int
    data: "Data"


class TmemPagesEnd(NamedTuple):
    """The end of a pool that has fewer pages than it announced."""


class TmemExtra(NamedTuple):
    """Chunk -6: pages of tmem that have become invalid follow as separate records."""


class TmemInvalid(NamedTuple):
    """A page of tmem that has become invalid."""

    pool_id: int
    oid: "Buffer"
    page_index: int


class TmemEnd(NamedTuple):
    """The end of chunk -5 or -6."""


class TscInfo(NamedTuple):
    """Chunk -7: mode, elapsed nanoseconds, frequency in kHz, incarnation."""

    mode: int
    nsec: int
    khz: int
    incarnation: int


class LastCheckpoint(NamedTuple):
    """Chunk -9: what follows completes the stream. A Remus stream has none."""


class CompressedBatch(NamedTuple):
    """A batch of a compressed checkpoint: ``words`` as in PageData; the pages come in CompressedPages."""

    words: "Buffer"


class CompressedPages(NamedTuple):
    """Chunk -12: pages of a compressed checkpoint in the form that :mod:`xstream.kernels.deltas` decodes. All of a
    checkpoint's, joined, have its pages in the order of its batches. ``data`` as in PageData."""

    data: "Data"


class EnableCompression(NamedTuple):
    """Chunk -13: from the next checkpoint on pages come compressed."""


class Toolstack(NamedTuple):
    """Chunk -18: the toolstack's data. ``parse_physmap`` reads libxl's."""

    blob: "Buffer"


class EndOfBody(NamedTuple):
    """Chunk 0: the tail follows."""


class UnmappedPfns(NamedTuple):
    """PV tail: PFNs (u64 each) that aren't in the guest's map: pages sent for them must be discarded. A long list is
    split into several records; ``left`` is the number of PFNs that follow."""

    pfns: "Buffer"
    left: int = 0


class VcpuContext(NamedTuple):
    """PV tail: one vcpu. ``extended`` is empty, ``mask`` and ``xsave`` are None if ExtendedInfo says so."""

    vcpu_id: int
    basic: "Buffer"
    extended: "Buffer" = b""
    mask: "Optional[int]" = None
    xsave: "Optional[Buffer]" = None


class SharedInfo(NamedTuple):
    """PV tail: the shared info page, 4096 bytes; a PV guest's last record."""

    page: "Buffer"


class HvmTail(NamedTuple):
    """HVM tail: the PFNs of three special pages, and Xen's HVM context."""

    ioreq_pfn: int
    bufioreq_pfn: int
    store_pfn: int
    context: "Buffer"


class DeviceModel(NamedTuple):
    """HVM tail: the device model's record and its signature; an HVM guest's last record."""

    signature: bytes
    blob: "Buffer"


if TYPE_CHECKING:
    Record = Union[Start, ExtendedInfo, P2MFrames, libxc.PageData, VerifyMode, VcpuInfo, HvmParam, Tmem, TmemPool,
                   TmemPage, TmemPagesEnd, TmemExtra, TmemInvalid, TmemEnd, TscInfo, LastCheckpoint, CompressedBatch,
                   CompressedPages, EnableCompression, Toolstack, EndOfBody, UnmappedPfns, VcpuContext, SharedInfo,
                   HvmTail, DeviceModel, libxc.Checkpoint]

#: The names of records in reports. A CHECKPOINT has no bytes: it marks the end of a checkpoint's tail.
NAMES: "Dict[type, str]" = {
    Start: "START", ExtendedInfo: "EXTENDED_INFO", P2MFrames: "P2M_FRAMES", libxc.PageData: "PAGE_DATA",
    VerifyMode: "VERIFY", VcpuInfo: "VCPU_INFO", HvmParam: "HVM_PARAM", Tmem: "TMEM", TmemPool: "TMEM_POOL",
    TmemPage: "TMEM_PAGE", TmemPagesEnd: "TMEM_PAGES_END", TmemExtra: "TMEM_EXTRA", TmemInvalid: "TMEM_INVALID",
    TmemEnd: "TMEM_END", TscInfo: "TSC_INFO", LastCheckpoint: "LAST_CHECKPOINT", CompressedBatch: "COMPRESSED_BATCH",
    CompressedPages: "COMPRESSED_PAGES", EnableCompression: "ENABLE_COMPRESSION", Toolstack: "TOOLSTACK",
    EndOfBody: "END_OF_BODY", UnmappedPfns: "UNMAPPED_PFNS", VcpuContext: "VCPU_CONTEXT", SharedInfo: "SHARED_INFO",
    HvmTail: "HVM_TAIL", DeviceModel: "DEVICE_MODEL", libxc.Checkpoint: "CHECKPOINT",
}

#: Chunks without a body.
MARKS: "Dict[int, Callable[[], Record]]" = {
    0: EndOfBody, VERIFY: VerifyMode, LAST_CHECKPOINT: LastCheckpoint, ENABLE_COMPRESSION: EnableCompression,
    TMEM_EXTRA: TmemExtra,
}
_MARK_IDS = {record_class: chunk for chunk, record_class in MARKS.items()}
#: Every chunk that isn't a batch.
CHUNKS = frozenset(MARKS) | frozenset(PARAMS) | {VCPU_INFO, TMEM, TSC_INFO, COMPRESSED, TOOLSTACK}


def type_name(record: "Record") -> str:
    """The name of a record in reports."""
    return NAMES[type(record)]


def ulong(untrusted: "Buffer", width: int, at: int = 0) -> int:
    """An unsigned long of ``width`` bytes."""
    return int(_ULONG[width].unpack_from(untrusted, at)[0])


def ulongs(untrusted: "Buffer", width: int) -> "Buffer":
    """Unsigned longs of ``width`` bytes each, converted to u64 each; 8-byte ones are returned unchanged."""
    if width == 8:
        return untrusted
    count = len(untrusted) // 4
    return struct.pack("<{}Q".format(count), *struct.unpack("<{}I".format(count), untrusted))


def find_width(untrusted: "Buffer") -> int:
    """The toolstack's width, from the first 8 bytes. The upper half of a 64-bit p2m_size is zero. What follows a 32-bit
    one isn't: a batch's count, a chunk's id, or the all-ones word before a PV guest's extended info."""
    return 4 if any(untrusted[4:8]) else 8


def find_guest(untrusted: "Buffer", width: int) -> str:
    """The kind of guest, from the first 16 bytes: a word of all ones follows the p2m_size of a PV guest."""
    return PV if bytes(untrusted[width:2 * width]) == b"\xff" * width else HVM


def is_start(untrusted: "Buffer") -> bool:
    """Whether this can be a legacy stream: at least 16 bytes that begin with a valid p2m_size and what may follow
    it."""
    if len(untrusted) < 16:
        return False
    width = find_width(untrusted)
    if not 0 < ulong(untrusted, width) <= MAX_PFNS:
        return False
    if find_guest(untrusted, width) == PV:
        return width == 8 or bytes(untrusted[12:16]) in _BLOCKS
    chunk = CHUNK.unpack_from(untrusted, width)[0]
    return 0 < chunk <= MAX_BATCH or (chunk != 0 and chunk in CHUNKS)


def parse_start(untrusted: "Buffer", width: int, guest: str) -> Start:
    """The first field. Raises CorruptStream. Offsets in errors are relative to the first byte of the argument, here and
    in the whole module."""
    p2m_size = ulong(untrusted, width)
    if not 0 < p2m_size <= MAX_PFNS:
        raise CorruptStream("impossible size of the guest", offset=0, field="p2m_size",
                            expected="1 to {:#x}".format(MAX_PFNS), got=hex(p2m_size))
    return Start(p2m_size, width, guest)


def parse_extended_info(untrusted: "Buffer") -> ExtendedInfo:
    """The blocks of the extended info, which follow its total size. Raises CorruptStream, and LimitExceeded for more
    than 1024 unknown blocks."""
    blocks: Dict[bytes, Buffer] = {}
    others: List[Tuple[bytes, Buffer]] = []
    at = 0
    while at < len(untrusted):
        if len(untrusted) - at < _BLOCK.size:
            raise CorruptStream("extended info ends within a block's head", offset=at, field="block",
                                expected="{} bytes".format(_BLOCK.size), got=len(untrusted) - at)
        name, size = _BLOCK.unpack_from(untrusted, at)
        if size > len(untrusted) - at - _BLOCK.size:
            raise CorruptStream("block longer than the extended info", offset=at + 4, field="block size",
                                expected="at most {}".format(len(untrusted) - at - _BLOCK.size), got=size)
        data = untrusted[at + _BLOCK.size:at + _BLOCK.size + size]
        if name in _BLOCKS:
            _check_block(name, size, at)
            blocks[name] = data
        elif len(others) < _MOST_OTHER_BLOCKS:
            others.append((name, data))
        else:
            raise LimitExceeded("too many unknown blocks in the extended info", offset=at, field="block",
                                expected="at most {}".format(_MOST_OTHER_BLOCKS))
        at += _BLOCK.size + size
    if b"vcpu" not in blocks:
        raise CorruptStream("extended info without a vcpu block: the guest's width isn't known", offset=0,
                            field="extended info", expected="a vcpu block", got=", ".join(
                                repr(name)[1:] for name in list(blocks) + [name for name, _ in others]) or "nothing")
    width = next(width for width, size in libxc.VCPU_BASIC_SIZES.items() if size == len(blocks[b"vcpu"]))
    xsave = U32.unpack_from(blocks[b"xcnt"])[0] if b"xcnt" in blocks else 0
    return ExtendedInfo(width, blocks[b"vcpu"], b"extv" in blocks, xsave or None, tuple(others))


def _check_block(name: bytes, size: int, at: int) -> None:
    if name == b"vcpu" and size not in libxc.VCPU_BASIC_SIZES.values():
        raise CorruptStream("context of an impossible size", offset=at + 4, field="vcpu block's size",
                            expected=" or ".join(map(hex, libxc.VCPU_BASIC_SIZES.values())), got=hex(size))
    if name == b"xcnt" and size < 4:
        raise CorruptStream("xcnt block too short", offset=at + 4, field="xcnt block's size", expected="at least 4",
                            got=size)


def p2m_frame_count(p2m_size: int, guest_width: int) -> int:
    """The number of frames of a guest's p2m."""
    return libxc.p2m_frame_count(0, p2m_size - 1, guest_width)


def parse_p2m_frames(untrusted: "Buffer", width: int, p2m_size: int) -> P2MFrames:
    """The list of p2m frames. Raises CorruptStream for a frame past the p2m."""
    frames = memoryview(ulongs(untrusted, width)).cast("B").cast("Q")
    highest = max(frames)
    if highest >= p2m_size:
        at = frames.tolist().index(highest)
        raise CorruptStream("p2m frame past the end of the p2m", offset=at * width,
                            field="p2m_frame_list[{}]".format(at),
                            expected="under {:#x}".format(p2m_size), got=hex(highest))
    return P2MFrames(frames.cast("B"))


def check_chunk(chunk: int, guest: str) -> None:
    """Raise for an id or a count that no chunk has, or not with this kind of guest."""
    if chunk > MAX_BATCH:
        raise CorruptStream("batch too large", offset=0, field="count", expected="at most {}".format(MAX_BATCH),
                            got=chunk)
    if chunk <= 0 and chunk not in CHUNKS:
        raise UnsupportedStream("unknown chunk", offset=0, field="id",
                                expected="{} to {}".format(min(CHUNKS), MAX_BATCH), got=chunk)
    if chunk in PARAMS and guest != HVM:
        raise CorruptStream("HVM parameter in a PV guest's stream", offset=0, field="id", expected="a PV guest's chunk",
                            got=chunk)


def vcpu_info_size(untrusted: "Buffer") -> int:
    """Bytes in the body of a VcpuInfo chunk that begins with these 4. Raises CorruptStream."""
    highest = int(CHUNK.unpack_from(untrusted)[0])
    if not 0 <= highest <= MAX_VCPU_ID:
        raise CorruptStream("impossible vcpu id", offset=0, field="max_vcpu_id",
                            expected="0 to {}".format(MAX_VCPU_ID), got=highest)
    return 4 + 8 * (highest // 64 + 1)


def parse_vcpu_info(untrusted: "Buffer") -> VcpuInfo:
    """The whole body of a VcpuInfo chunk."""
    return VcpuInfo(CHUNK.unpack_from(untrusted)[0], untrusted[4:])


def parse_param(chunk: int, untrusted: "Buffer") -> HvmParam:
    """The body of a chunk of PARAMS."""
    reserved, value = _PARAM.unpack_from(untrusted)
    return HvmParam(PARAMS[chunk], value, reserved)


def parse_tsc_info(untrusted: "Buffer") -> TscInfo:
    """The body of chunk -7."""
    return TscInfo(*_TSC.unpack_from(untrusted))


def parse_tmem(untrusted: "Buffer") -> Tmem:
    """The head of chunk -5. Raises CorruptStream."""
    version, max_pools, ones, flags, weight, cap, more_ones = _TMEM.unpack_from(untrusted)
    for offset, got in ((8, ones), (24, more_ones)):
        if got != ALL_ONES:
            raise CorruptStream("tmem's head is broken", offset=offset, field="marker", expected=hex(ALL_ONES),
                                got=hex(got))
    return Tmem(version, max_pools, flags, weight, cap)


def parse_tmem_pool(untrusted: "Buffer") -> TmemPool:
    """The head of a pool."""
    return TmemPool(*_TMEM_POOL.unpack_from(untrusted))


def is_tmem_pages_end(untrusted: "Buffer") -> bool:
    """Whether an object id, of 24 bytes, is none but ends a pool's pages."""
    return bytes(untrusted[:TMEM_OID_SIZE]) == _ALL_ONES_OID


def parse_tmem_page_head(untrusted: "Buffer") -> TmemPage:
    """A page of a pool, without its data."""
    oid, page_index = _TMEM_PAGE.unpack_from(untrusted)
    return TmemPage(oid, page_index, b"")


def parse_tmem_invalid(untrusted: "Buffer") -> TmemInvalid:
    """An invalid page."""
    return TmemInvalid(*_TMEM_INVALID.unpack_from(untrusted))


def parse_xsave_head(untrusted: "Buffer") -> "Tuple[int, int]":
    """(mask, size of the area that follows). Raises CorruptStream for a size that no area has."""
    mask, size = _XSAVE.unpack_from(untrusted)
    if size and size < libxc.VCPU_XSAVE_MIN:
        raise CorruptStream("xsave area too small", offset=8, field="size",
                            expected="0 or at least {}".format(libxc.VCPU_XSAVE_MIN), got=size)
    return mask, size


def parse_magic_pfns(untrusted: "Buffer") -> "Tuple[int, int, int]":
    """The PFNs of an HVM tail: ioreq, bufioreq, store."""
    ioreq, bufioreq, store = _MAGIC_PFNS.unpack_from(untrusted)
    return ioreq, bufioreq, store


def check_signature(untrusted: "Buffer") -> bytes:
    """A device model's signature. Raises UnsupportedStream."""
    signature = bytes(untrusted)
    if signature not in SIGNATURES:
        raise UnsupportedStream("unknown signature of a device model's record", offset=0, field="signature",
                                expected=", ".join(known.decode() for known in SIGNATURES), got=signature)
    return signature


def build(record: "Record", width: int) -> "List[Buffer]":
    """The pieces of a record's bytes, in order, its chunk's id included; buffers are passed through uncopied.

    The writer builds batches itself. Raises TypeError for a record of another module.
    """
    builder = _BUILDERS.get(type(record))
    if builder is not None:
        return builder(record, width)
    if type(record) in _MARK_IDS:
        return [CHUNK.pack(_MARK_IDS[type(record)])]
    raise TypeError("not a legacy record: {}".format(type(record).__name__))


def build_ulongs(numbers: "Buffer", width: int) -> "Buffer":
    """u64 each as unsigned longs of ``width`` bytes. Raises CorruptStream if one doesn't fit."""
    if width == 8:
        return numbers
    values = struct.unpack("<{}Q".format(len(numbers) // 8), numbers)
    if any(value > ALL_ONES for value in values):
        raise CorruptStream("a number too large for a 32-bit toolstack", expected="under 2^32", got=hex(max(values)))
    return struct.pack("<{}I".format(len(values)), *values)


def _build_extended_info(record: ExtendedInfo, width: int) -> "List[Buffer]":
    blocks = [(b"vcpu", record.vcpu)]
    blocks += [(b"extv", b"")] if record.extended else []
    blocks += [(b"xcnt", U32.pack(record.xsave_size))] if record.xsave_size is not None else []
    blocks += record.others
    body = b"".join(_BLOCK.pack(name, len(data)) + bytes(data) for name, data in blocks)
    return [b"\xff" * width + U32.pack(len(body)), body]


def _build_vcpu(record: VcpuContext, width: int) -> "List[Buffer]":
    pieces = [record.basic, record.extended]
    if record.xsave is not None:
        pieces += [_XSAVE.pack(record.mask or 0, len(record.xsave)), record.xsave]
    return pieces


def _build_device_model(record: DeviceModel, width: int) -> "List[Buffer]":
    length = b"" if record.signature == XEND_DEVICE_MODEL else U32.pack(len(record.blob))
    return [record.signature + length, record.blob]


# What each takes is a record of its class.
_BUILDERS: "Dict[type, Callable[[Any, int], List[Buffer]]]" = {
    Start: lambda record, width: [_ULONG[width].pack(record.p2m_size)],
    ExtendedInfo: _build_extended_info,
    P2MFrames: lambda record, width: [build_ulongs(record.frames, width)],
    VcpuInfo: lambda record, width: [CHUNK.pack(VCPU_INFO) + CHUNK.pack(record.max_vcpu_id), record.online],
    HvmParam: lambda record, width: [
        CHUNK.pack(PARAM_CHUNKS[record.param]) + _PARAM.pack(record.reserved, record.value)],
    Tmem: lambda record, width: [CHUNK.pack(TMEM) + _TMEM.pack(
        record.version, record.max_pools, ALL_ONES, record.flags, record.weight, record.cap, ALL_ONES)],
    TmemPool: lambda record, width: [_TMEM_POOL.pack(*record)],
    TmemPage: lambda record, width: [_TMEM_PAGE.pack(bytes(record.oid), record.page_index), record.data],
    TmemPagesEnd: lambda record, width: [_ALL_ONES_OID],
    TmemInvalid: lambda record, width: [_TMEM_INVALID.pack(*record)],
    TmemEnd: lambda record, width: [U32.pack(ALL_ONES)],
    TscInfo: lambda record, width: [CHUNK.pack(TSC_INFO) + _TSC.pack(*record)],
    CompressedPages: lambda record, width: [CHUNK.pack(COMPRESSED) + _ULONG[width].pack(len(record.data)), record.data],
    Toolstack: lambda record, width: [CHUNK.pack(TOOLSTACK) + U32.pack(len(record.blob)), record.blob],
    VcpuContext: _build_vcpu,
    SharedInfo: lambda record, width: [record.page],
    HvmTail: lambda record, width: [_MAGIC_PFNS.pack(*record[:3]) + U32.pack(len(record.context)), record.context],
    DeviceModel: _build_device_model,
    libxc.Checkpoint: lambda record, width: [],
}


class PhysmapEntry(NamedTuple):
    """What libxl keeps of a piece of guest-physical memory that the device model has mapped. ``name`` may be empty."""

    phys_offset: int
    start_addr: int
    size: int
    name: bytes = b""


def parse_physmap(untrusted: "Buffer", width: int) -> "List[PhysmapEntry]":
    """The entries of libxl's Toolstack chunk. Raises CorruptStream, UnsupportedStream for another version,
    LimitExceeded over 65536 entries."""
    data = bytes(untrusted)
    if len(data) < 8:
        raise CorruptStream("toolstack record too short", offset=0, field="length", expected="at least 8",
                            got=len(data))
    version, count = _TWO_U32.unpack_from(data)
    if version != PHYSMAP_VERSION:
        raise UnsupportedStream("toolstack record of an unknown version", offset=0, field="version",
                                expected=PHYSMAP_VERSION, got=version)
    if count > _MOST_PHYSMAP:
        raise LimitExceeded("too many physmap entries", offset=4, field="count",
                            expected="at most {}".format(_MOST_PHYSMAP), got=count)
    # libxl uses sizeof of the structure: on 64 bits 4 bytes more than its fields take.
    stray = 4 if width == 8 else 0
    entries = []
    at = 8
    for _ in range(count):
        if len(data) - at < _PHYSMAP.size:
            raise CorruptStream("toolstack record ends within an entry", offset=at, field="physmap entry",
                                expected="{} bytes".format(_PHYSMAP.size), got=len(data) - at)
        phys_offset, start_addr, size, length = _PHYSMAP.unpack_from(data, at)
        at += _PHYSMAP.size
        if length + stray > len(data) - at:
            raise CorruptStream("name longer than the toolstack record", offset=at - 4, field="namelen",
                                expected="at most {}".format(max(len(data) - at - stray, 0)), got=length)
        name = data[at:at + length]
        if length and name.find(b"\0") != length - 1:
            raise CorruptStream("name doesn't end with its only NUL", offset=at, field="name",
                                expected="a NUL at its end", got=name)
        entries.append(PhysmapEntry(phys_offset, start_addr, size, name[:-1]))
        at += length + stray
    return entries


def build_physmap(entries: "Iterable[PhysmapEntry]", width: int) -> bytes:
    """The blob of a Toolstack chunk as libxl writes it; the stray bytes of a 64-bit one are zeros."""
    pieces = [b""]
    for entry in entries:
        name = entry.name + b"\0" if entry.name else b""
        pieces.append(_PHYSMAP.pack(*entry[:3], len(name)) + name + bytes(4 if width == 8 else 0))
    return _TWO_U32.pack(PHYSMAP_VERSION, len(pieces) - 1) + b"".join(pieces)

"""Checks of a stream's records against the PFNs that came: what a restore finds out only with all memory in place.

Source: xg_sr_restore_x86_pv.c in tools/libs/guest (process_vcpu_basic(), process_start_info(), update_guest_p2m());
tools/libxc/xc_domain_restore.c of Xen 4.5 for legacy streams.
"""
from array import array

from xstream.containers.opening import AnyReader
from xstream.errors import CorruptStream, LimitExceeded, StreamError
from xstream.kernels import pfns as pfn_kernel
from xstream.kernels.buffers import reserve
from xstream.stream.ordering import P2M_FRAMES, VCPU_BASIC
from xstream.stream.reader import from_legacy
from xstream.tuples import NamedTuple
from xstream.wire import libxc, signatures, vcpu
from xstream.wire.frames import FRAME
from xstream.wire.libxc import PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, Optional, Tuple, Union

    from xstream.guest.deltas import DeltaDecoder
    from xstream.wire.formats import AnyRecord
    from xstream.wire.frames import Buffer

_NOTAB = 0
_NEVER_SENT = 0xF
_PINNED = 8
#: Bad records of registers that are remembered: a stream may number its vcpus as it likes.
_MOST_FAULTS = 1 << 14


class _Shapes:
    """Memory for a DeltaDecoder that only looks at the shape of compressed pages: the receiver's copies are zeros."""

    def __init__(self, state: memoryview) -> None:
        self.state = state

    def grow(self, count: int) -> None:
        """There is a state for every PFN."""

    def read(self, pfns: memoryview) -> bytearray:
        return bytearray(len(pfns) * PAGE_SIZE)


class _Context(NamedTuple):
    """A vcpu's context, and where it came."""

    blob: bytes
    record: int
    offset: int
    name: str


class PfnChecks:
    """Follows one reader, or what a conversion makes of its records: types of PFNs, where a PV guest's p2m is, and its
    vcpus.

    Of a legacy stream, or one converted from it, neither registers whose GDT has more entries than Xen allows nor a p2m
    whose frames are all PFN 0 are reported: they are passed on as they are.

    Memory: a byte for each PFN that came, 8 bytes for each p2m frame, and the last context of each vcpu, bounded by
    ``Limits.body_length``.
    """

    def __init__(self, reader: AnyReader) -> None:
        self._reader = reader
        self._converted = from_legacy(reader)
        limit = reader.limits.guest_pfns
        self._state = memoryview(reserve(limit))[:limit]
        self._leaves = array("Q")
        self._leaves_from = ""  # the name of their record
        self._contexts: Dict[int, _Context] = {}  # by vcpu id
        self._contexts_size = 0
        self._faults: Dict[Tuple[int, type], StreamError] = {}  # of other registers
        self._decoder: Optional[DeltaDecoder] = None
        self._verdict: Optional[StreamError] = None
        self._checkpoints = 0
        self._verifying = False  # VERIFY has come

    def note_batch(self, words: "Buffer") -> None:
        """Take note of the PFN words of a batch. Pages sent for comparison give the guest nothing."""
        if not self._verifying:
            pfn_kernel.mark(words, self._state)

    def note(self, record: "AnyRecord") -> None:
        """Take note of a record other than a batch. Raises CorruptStream, with an offset relative to the record, for
        compressed pages that don't fit; LimitExceeded."""
        if isinstance(record, libxc.P2MFrames):
            self._note_p2m_frames(record.start_pfn, record.frames, libxc.type_name(P2M_FRAMES))
        elif isinstance(record, libxc.VcpuBasic):
            self._note_context(record.vcpu_id, record.blob, libxc.type_name(VCPU_BASIC))
        elif isinstance(record, libxc.Verify):
            self._verifying = True
        elif isinstance(record, (libxc.VcpuExtended, libxc.VcpuXsave, libxc.VcpuMsrs)):
            self._note_registers(record)
        elif isinstance(record, libxc.Checkpoint):
            if self._decoder is not None:
                self._decoder.end()
            self._checkpoints += 1
            self._verdict = self._judge()
        elif self._reader.layer == signatures.LEGACY:
            self._note_legacy(record)

    def finish(self) -> None:
        """The stream has ended. Raises what a restore of it, or of its last checkpoint, would find wrong."""
        verdict = self._verdict if self._checkpoints else self._judge()
        if verdict is not None:
            raise verdict

    @property
    def _width(self) -> int:
        return libxc.GUEST_WIDTHS[self._reader.pt_levels]

    def _note_legacy(self, record: "AnyRecord") -> None:
        from xstream.wire import legacy  # not needed for other formats
        if isinstance(record, legacy.VerifyMode):
            self._verifying = True
        elif isinstance(record, legacy.CompressedBatch):
            self._decode(self._deltas.batch(record.words))
        elif isinstance(record, legacy.CompressedPages):
            self._decode(self._deltas.pages(record.data))
        elif isinstance(record, legacy.P2MFrames):
            self._note_p2m_frames(0, record.frames, legacy.type_name(record))
        elif isinstance(record, legacy.VcpuContext):
            self._note_context(record.vcpu_id, record.basic, legacy.type_name(record))
        elif isinstance(record, legacy.UnmappedPfns):
            pfns = memoryview(record.pfns).cast("B").cast("Q")
            pfn_kernel.forget(pfns, self._state, memoryview(bytearray(len(record.pfns))).cast("Q"))

    @property
    def _deltas(self) -> "DeltaDecoder":
        if self._decoder is None:
            from xstream.guest.deltas import DeltaDecoder
            self._decoder = DeltaDecoder(_Shapes(self._state), self._reader.limits)
        return self._decoder

    def _decode(self, batches: "Iterable[libxc.PageData]") -> None:
        for batch in batches:
            self.note_batch(batch.words)

    def _note_p2m_frames(self, start_pfn: int, untrusted: "Buffer", name: str) -> None:
        first = start_pfn // (PAGE_SIZE // self._width)
        frames = array("Q", bytes(untrusted))
        self._leaves_from = name
        if first > len(self._leaves):
            self._leaves.extend(array("Q", bytes(8 * (first - len(self._leaves)))))
        self._leaves[first:first + len(frames)] = frames

    def _note_context(self, vcpu_id: int, blob: "Buffer", name: str) -> None:
        if not len(blob) or self._converted and not vcpu.has_possible_gdt(blob, self._width):
            return
        if vcpu_id not in self._contexts:
            self._contexts_size += len(blob)
            limit = self._reader.limits.body_length
            if self._contexts_size > limit:
                raise LimitExceeded("contexts of more vcpus than the limit allows", offset=0, field="vcpu_id",
                                    expected="at most {} bytes of contexts".format(limit), got=self._contexts_size)
        self._contexts[vcpu_id] = _Context(bytes(blob), self._reader.index, self._reader.offset, name)

    def _note_registers(self, record: "Union[libxc.VcpuExtended, libxc.VcpuXsave, libxc.VcpuMsrs]") -> None:
        """Take note of registers that Xen refuses. That is known last of all: libxenguest passes them on."""
        key = record.vcpu_id, type(record)
        if not len(record.blob):
            return
        self._faults.pop(key, None)
        try:
            vcpu.check(record, self._converted)
        except StreamError as error:
            if len(self._faults) > _MOST_FAULTS:
                return
            self._faults[key] = error.located(
                layer=self._reader.memory.layer, base=self._reader.offset + FRAME.size, record=self._reader.index,
                record_type=libxc.type_name(libxc.type_of(record)))

    def _judge(self) -> "Optional[StreamError]":
        """What is wrong with the guest as it is now, or None."""
        if not self._reader.pt_levels:
            return None
        for vcpu_id, context in sorted(self._contexts.items()):
            try:
                self._check_context(context.blob, vcpu_id)
            except StreamError as error:
                return error.located(layer=self._reader.memory.layer, base=context.offset, record=context.record,
                                     record_type=context.name)
        for leaf in () if self._converted and not any(self._leaves) else self._leaves:
            try:
                self._check(leaf, "p2m frame", (_NOTAB,))
            except StreamError as error:
                return error.located(layer=self._reader.memory.layer, base=self._reader.offset,
                                     record=self._reader.index, record_type=self._leaves_from)
        return min(self._faults.items(), key=lambda fault: fault[0][0])[1] if self._faults else None

    def _check_context(self, blob: bytes, vcpu_id: int) -> None:
        """The frames in a context: start info of vcpu 0, GDT, top-level page tables."""
        frames = vcpu.frames(blob, self._width, in_stream=True)
        levels = self._reader.pt_levels
        if vcpu_id == 0:
            self._check(frames.start_info, "start info (rdx)", (_NOTAB,))
        for pfn in frames.gdt:
            self._check(pfn, "gdt_frames", (_NOTAB,))
        for top, field in ((frames.cr3, "ctrlreg[3]"), (frames.user, "ctrlreg[1]")):
            if top is not None:
                self._check(top, field, (levels, levels | _PINNED))

    def _check(self, pfn: int, field: str, types: "Tuple[int, ...]") -> None:
        end = min(len(self._state), self._reader.pfn_end)
        if pfn >= end or not self._state[pfn] & pfn_kernel.POPULATED:
            raise CorruptStream("a PFN that the guest doesn't have", field=field,
                                expected="a populated PFN under {:#x}".format(end), got=hex(pfn))
        kind = self._state[pfn] & 0xF ^ _NEVER_SENT
        if kind not in types:
            raise CorruptStream("a PFN of the wrong type", field=field,
                                expected=" or ".join(libxc.PAGE_TYPES[one] for one in types),
                                got="PFN {:#x} of type {}".format(pfn, libxc.PAGE_TYPES[kind]))

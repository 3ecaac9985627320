"""What may come next in a libxc stream: transition tables by version and guest type, used for reading and for writing.

Source: docs/specs/libxc-migration-stream.pandoc, "Layout", and the checks in tools/libs/guest/xg_sr_restore*.c.
"""

from xstream.errors import CorruptStream, LimitExceeded, OrderError, StreamError, StrictViolation, UnsupportedStream
from xstream.kernels import pfns as pfn_kernel
from xstream.limits import Limits
from xstream.wire import libxc
from xstream.wire.frames import OPTIONAL
from xstream.wire.libxc import GUEST_HVM, GUEST_PV

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional, Sequence, Set, Tuple

    from xstream.stream.vcpus import VcpuRecords
    from xstream.wire.frames import Buffer

END, PAGE_DATA, PV_INFO, P2M_FRAMES, VCPU_BASIC, VCPU_EXTENDED, VCPU_XSAVE = range(7)
SHARED_INFO, TSC_INFO, HVM_CONTEXT, HVM_PARAMS, _TOOLSTACK, VCPU_MSRS, VERIFY, CHECKPOINT = range(7, 15)
STATIC_DATA_END, CPUID_POLICY, MSR_POLICY = 0x10, 0x11, 0x12

if TYPE_CHECKING:
    Table = Dict[str, Dict[int, str]]


def _table(**rows: "Tuple[Sequence[int], Dict[int, str]]") -> "Table":
    """Rows of (records that leave the state as it is, records that lead to another)."""
    return {state: {**dict.fromkeys(stay, state), **go} for state, (stay, go) in rows.items()}


_ANY = (TSC_INFO, CPUID_POLICY, MSR_POLICY, VERIFY)
_HVM = _ANY + (HVM_CONTEXT, HVM_PARAMS, CHECKPOINT)
_VCPU = (VCPU_BASIC, VCPU_EXTENDED, VCPU_XSAVE, VCPU_MSRS)
_PV = _ANY + _VCPU + (SHARED_INFO,)
_PV_MEMORY = _PV + (P2M_FRAMES, PAGE_DATA, CHECKPOINT)

#: (version, guest type) -> state -> record type -> next state. A record that isn't in a state's row is not allowed
#: there. In version 2 the end of static data is inferred: before the first P2M_FRAMES (PV) or PAGE_DATA (HVM). An
#: explicit STATIC_DATA_END before that point is accepted, one after it is a second one. VERIFY changes the meaning of
#: PAGE_DATA, not the order. An HVM stream may end without STATIC_DATA_END, because libxenguest accepts that.
TABLES: "Dict[Tuple[int, int], Table]" = {
    (3, GUEST_HVM): _table(
        start=(_HVM, {STATIC_DATA_END: "memory", END: "end"}),
        memory=(_HVM + (PAGE_DATA,), {END: "end"}),
        end=((), {}),
    ),
    (2, GUEST_HVM): _table(
        start=(_HVM, {STATIC_DATA_END: "memory", PAGE_DATA: "memory", END: "end"}),
        memory=(_HVM + (PAGE_DATA,), {END: "end"}),
        end=((), {}),
    ),
    (3, GUEST_PV): _table(
        start=(_ANY + _VCPU, {PV_INFO: "info", STATIC_DATA_END: "static"}),
        static=(_ANY + _VCPU, {PV_INFO: "ready"}),
        info=(_PV, {STATIC_DATA_END: "ready"}),
        ready=(_PV, {P2M_FRAMES: "memory"}),
        memory=(_PV_MEMORY, {END: "end"}),
        end=((), {}),
    ),
    (2, GUEST_PV): _table(
        start=(_ANY + _VCPU, {PV_INFO: "info", STATIC_DATA_END: "static"}),
        static=(_ANY + _VCPU, {PV_INFO: "ready"}),
        info=(_PV, {STATIC_DATA_END: "ready", P2M_FRAMES: "memory"}),
        ready=(_PV, {P2M_FRAMES: "memory"}),
        memory=(_PV_MEMORY, {END: "end"}),
        end=((), {}),
    ),
}

#: Records that a guest can't run without. libxenguest itself requires only VCPU_BASIC of vcpu 0, but every Xen writes
#: the others, and no guest runs without them.
NEEDED: "Dict[int, Tuple[int, ...]]" = {
    GUEST_HVM: (HVM_CONTEXT, HVM_PARAMS),
    GUEST_PV: (VCPU_BASIC, SHARED_INFO),
}

#: HVM_PARAM_IDENT_PT, which Xen writes for every HVM guest, and less than any value of it, which is 0xFEFFE000
#: (tools/libs/guest/xg_dom_x86.c).
_IDENT_PT = 12
_LEAST = {_IDENT_PT: 1 << 24}

#: Other records in every stream that Xen writes. A guest runs without them; a strict check reports their absence.
USUAL: "Dict[Tuple[int, int], Tuple[int, ...]]" = {
    (3, GUEST_HVM): (STATIC_DATA_END, CPUID_POLICY, MSR_POLICY, PAGE_DATA, TSC_INFO),
    (2, GUEST_HVM): (PAGE_DATA, TSC_INFO),
    (3, GUEST_PV): (CPUID_POLICY, MSR_POLICY, PAGE_DATA, TSC_INFO),
    (2, GUEST_PV): (PAGE_DATA, TSC_INFO),
}


class Ordering:
    """The state of one stream in the order tables, and what its earlier records require of later ones.

    One object follows one stream, read or written. ``pfn_end`` is one more than the highest PFN that may come.
    ``converted``: from a legacy stream, which has no policies.
    """

    def __init__(self, version: int, guest_type: int, *, converted: bool = False, checkpointed: bool = False,
                 strict: bool = False, limits: Limits = Limits()) -> None:
        self.state = "start"
        self.guest_width = 0  # bytes; known once X86_PV_INFO has come
        self.pfn_end = limits.guest_pfns
        self.checkpoints = 0
        self._kind = (version, guest_type)
        self._table = TABLES[self._kind]
        self._usual = [usual for usual in USUAL[self._kind] if not converted or usual not in (CPUID_POLICY, MSR_POLICY)]
        self._converted = converted
        self._checkpointed = checkpointed
        self._strict = strict
        self._limits = limits
        self._p2m_end = 0
        self._p2m_leaves = bytearray()  # 1 for each p2m frame that has come
        self._seen: Set[int] = set()
        self._have: Set[int] = set()  # of NEEDED, those that have come with contents
        self._vcpus = _vcpu_records() if guest_type == GUEST_PV else None
        self._missing_at_checkpoint: Tuple[str, ...] = ()
        self._early_basic = self._optional_since_checkpoint = False
        self._in_checkpoint = False  # a record has come since the last CHECKPOINT
        self.verifying = False  # VERIFY has come: pages are to be compared, not written

    @property
    def missing(self) -> "Tuple[str, ...]":
        """Records that a guest can't run without and that are missing so far; in a checkpointed stream, those that were
        missing at the last CHECKPOINT. An END within a checkpoint makes CHECKPOINT missing: no Xen writes that, so
        it is most likely zeros left by an interrupted save."""
        if not self.checkpoints:
            return self._missing_now()
        unfinished = self.ended and self._in_checkpoint
        return self._missing_at_checkpoint + ((libxc.type_name(CHECKPOINT),) if unfinished else ())

    def _missing_now(self) -> "Tuple[str, ...]":
        needed = tuple(libxc.type_name(needed) for needed in NEEDED[self._kind[1]] if needed not in self._have)
        return needed if self._vcpus is None else needed + self._vcpus.missing

    def lost(self, after: "Buffer", end: "Optional[int]") -> "Tuple[str, ...]":
        """Records that the bytes ``after`` END have taken the place of, as after an interrupted save. ``end``: the
        offset of the input's end, or None if there are more bytes than these."""
        if self._vcpus is None or self._converted or self.checkpoints:
            return ()
        return self._vcpus.lost(after, end)

    @property
    def ended(self) -> bool:
        """Whether END has come."""
        return self.state == "end"

    def row(self) -> "Dict[int, str]":
        """What may come next: record type to the state that it leads to."""
        return self._table[self.state]

    def admit(self, record_type: int) -> str:
        """The state that a record of this type leads to; raises OrderError if it isn't allowed here."""
        row = self.row()
        if record_type in row:
            if record_type == CHECKPOINT and not self._checkpointed:
                raise OrderError("checkpoint in a stream that wasn't announced as checkpointed", offset=-8,
                                 field="type", expected="a plain stream's record", got="CHECKPOINT")
            return row[record_type]
        if record_type & OPTIONAL and self.state != "end":
            return self.state
        if record_type not in libxc.RECORDS and not record_type & OPTIONAL:
            raise UnsupportedStream("unknown mandatory record", offset=-8, field="type", expected="a known type",
                                    got=libxc.type_name(record_type))
        raise OrderError(self._reason(record_type), offset=-8, field="type",
                         expected="one of " + ", ".join(libxc.type_name(known) for known in sorted(row)),
                         got=libxc.type_name(record_type))

    def check_count(self, count: int) -> None:
        """Raise LimitExceeded for a batch of more PFNs than the limit."""
        if count > self._limits.batch_pfns:
            raise LimitExceeded("batch larger than the limit", offset=0, field="count",
                                expected="at most {}".format(self._limits.batch_pfns), got=count)

    def check_batch(self, record: libxc.PageData) -> int:
        """Raise for a batch that isn't allowed here, or for the first bad PFN word in it; return the number of words
        that carry data. Pages aren't read, and the state doesn't change."""
        if self._strict and record.pfn_count:
            self.admit(PAGE_DATA)
            self.check_count(record.pfn_count)
            _check_ignored(record)
        return self.check_words(record.words)

    def check_words(self, words: "Buffer") -> int:
        """As ``check_batch``, for a batch of these PFN words."""
        self.admit(PAGE_DATA)
        count = len(words) // 8
        self.check_count(count)
        if count < 1:
            raise CorruptStream("PAGE_DATA without PFNs", offset=0, field="count", expected="at least 1", got=0)
        bad, reason, pages = pfn_kernel.check(words, self.pfn_end, self._strict)
        if bad >= 0:
            raise self._bad_word(bad, reason, int.from_bytes(words[8 * bad:8 * bad + 8], "little"))
        return pages

    def accepts(self, words: "Buffer", batch: int) -> bool:
        """Whether batches of at most ``batch`` PFNs, with these PFN words in all, are allowed here."""
        return (PAGE_DATA in self._table[self.state] and batch <= self._limits.batch_pfns
                and pfn_kernel.check(words, self.pfn_end, self._strict)[0] < 0)

    def _bad_word(self, index: int, reason: int, word: int) -> StreamError:
        offset, field = 8 + 8 * index, "pfn[{}]".format(index)
        if reason == pfn_kernel.BAD_TYPE:
            return CorruptStream("invalid page type", offset=offset, field=field, expected="a type other than 5 to 8",
                                 got=word >> 60)
        if reason == pfn_kernel.BAD_RESERVED:
            return StrictViolation("reserved bits of a PFN word aren't zero", offset=offset, field=field, expected=0,
                                   got=hex(word >> 52 & 0xFF))
        kind = CorruptStream if self.guest_width else LimitExceeded
        return kind("PFN past the end of the p2m" if self.guest_width else "PFN past the limit", offset=offset,
                    field=field, expected="under {:#x}".format(self.pfn_end), got=hex(word & libxc.PFN_MASK))

    def page_data(self) -> None:
        """Follow one or more PAGE_DATA records that ``check_batch`` accepted."""
        self.state = self._table[self.state][PAGE_DATA]
        self._in_checkpoint = True
        self._seen.add(PAGE_DATA)

    def follow(self, record_type: int, record: "libxc.Record") -> None:
        """Check a record against the earlier ones and follow it. Raises OrderError, CorruptStream or LimitExceeded,
        without a change of state."""
        state = self.admit(record_type)
        if self._strict:
            _check_ignored(record)
        check = _CHECKS.get(record_type)
        if check:
            check(self, record)
        self.state = state
        if record_type not in (CHECKPOINT, END):
            self._in_checkpoint = True
        if self._vcpus is not None:
            self._vcpus.note(record_type, record)
        if record_type & OPTIONAL:
            self._optional_since_checkpoint = self.checkpoints > 0
        elif record_type in NEEDED[self._kind[1]]:
            self._note_needed(record_type, record)
        # Only known types are remembered: a stream may have any number of optional ones.
        elif record_type in libxc.RECORDS:
            self._seen.add(record_type)

    def _note_needed(self, record_type: int, record: "libxc.Record") -> None:
        """Record that a record of NEEDED has come. One with bad contents replaces an earlier good one."""
        if isinstance(record, libxc.HvmContext):
            good = libxc.is_whole_context(record.blob, converted=self._converted)
            (self._have.add if good else self._have.discard)(record_type)
        elif isinstance(record, libxc.VcpuBasic):
            if record.vcpu_id == 0 and len(record.blob):
                self._have.add(record_type)
        elif not isinstance(record, libxc.HvmParams):
            self._have.add(record_type)
        elif len(record.entries):
            (self._have.add if self._has_whole_params(record) else self._have.discard)(record_type)

    def _has_whole_params(self, record: libxc.HvmParams) -> bool:
        """Whether no parameter is zeros that an interrupted save left. Xen writes none that is 0; a converted stream
        has those that were sent."""
        params = record.params
        if not all(any(param) for param in params):
            return False
        index, value = params[-1]
        return self._converted or value >= _LEAST.get(index, 1) or all(index != _IDENT_PT for index, _ in params)

    def _reason(self, record_type: int) -> str:
        if record_type in (PAGE_DATA, P2M_FRAMES) and self._kind[0] == 3 and self.state in ("start", "info"):
            return "memory before STATIC_DATA_END"
        if self._kind[1] == GUEST_PV and self.state in ("start", "static") and record_type in _PV_MEMORY:
            return "needs X86_PV_INFO before it"
        if record_type == PAGE_DATA and self._kind[1] == GUEST_PV:
            return "needs X86_PV_P2M_FRAMES before it"
        if record_type in (PV_INFO, STATIC_DATA_END) and record_type in self._table["start"]:
            return "a second one"
        return "must not come here"

    def _check_pv_info(self, record: libxc.PVInfo) -> None:
        if self._early_basic and record.guest_width != 4:
            raise OrderError("X86_PV_VCPU_BASIC of a 32-bit guest's size before it", offset=0, field="guest_width",
                             expected=4, got=record.guest_width)
        self.guest_width = record.guest_width

    def _check_p2m_frames(self, record: libxc.P2MFrames) -> None:
        if record.end_pfn >= self._limits.guest_pfns:
            raise LimitExceeded("guest larger than the limit", offset=4, field="end_pfn",
                                expected="under {}".format(self._limits.guest_pfns), got=record.end_pfn)
        libxc.check_p2m_frames(record, self.guest_width)
        entries = libxc.PAGE_SIZE // self.guest_width
        first, last = record.start_pfn // entries, record.end_pfn // entries
        if last >= len(self._p2m_leaves):
            self._p2m_leaves.extend(bytes(last + 1 - len(self._p2m_leaves)))
        self._p2m_leaves[first:last + 1] = b"\1" * (last + 1 - first)
        self._p2m_end = max(self._p2m_end, record.end_pfn + 1)
        self.pfn_end = self._p2m_end

    def _check_vcpu_basic(self, record: libxc.VcpuBasic) -> None:
        # Before X86_PV_INFO libxenguest expects the size of a 32-bit guest's.
        libxc.check_vcpu_basic(record, self.guest_width or 4)
        self._early_basic = self._early_basic or (not self.guest_width and len(record.blob) > 0)

    def _check_complete(self, record: "libxc.Record") -> None:
        if self._kind[1] == GUEST_PV:
            self._check_pv_complete()
        missing = [libxc.type_name(usual) for usual in self._usual if usual not in self._seen]
        if self._strict and missing:
            raise StrictViolation("records missing", offset=-8, field="type", expected=", ".join(missing),
                                  got="the end")

    def _check_pv_complete(self) -> None:
        if VCPU_BASIC not in self._have:
            raise OrderError("no X86_PV_VCPU_BASIC for vcpu 0", offset=-8, field="type",
                             expected="X86_PV_VCPU_BASIC", got="the end")
        gap = self._p2m_leaves.find(0)
        if gap >= 0:
            pfn = gap * (libxc.PAGE_SIZE // self.guest_width)
            raise OrderError("X86_PV_P2M_FRAMES leave a gap in the p2m", offset=-8, field="start_pfn",
                             expected="the p2m frame of PFN {:#x}".format(pfn), got="the end")

    def _check_checkpoint(self, record: "libxc.Record") -> None:
        self._check_complete(record)
        if self._optional_since_checkpoint:
            # libxenguest buffers what follows a checkpoint, and can't skip a record that it takes from the buffer.
            raise UnsupportedStream("optional record after a checkpoint", offset=-8, field="type",
                                    expected="no optional record since the last CHECKPOINT", got="CHECKPOINT")
        self._missing_at_checkpoint = self._missing_now()
        self._in_checkpoint = False
        self.checkpoints += 1

    def _check_verify(self, record: "libxc.Record") -> None:
        self.verifying = True


def _vcpu_records() -> "VcpuRecords":
    from xstream.stream.vcpus import VcpuRecords  # not needed for other guests
    return VcpuRecords()


def _check_ignored(record: "libxc.Record") -> None:
    """Raise StrictViolation for what a restore ignores."""
    ignored = libxc.ignored_content(record)
    if ignored is not None:
        offset, field, got = ignored
        raise StrictViolation("a restore ignores this, but it should be zero", offset=offset, field=field, expected=0,
                              got=got)
    if len(record.padding):
        length = sum(len(piece) for piece in libxc.build(record))
        raise StrictViolation("padding isn't zero", offset=length, field="padding", expected="zeros",
                              got=bytes(record.padding))


_CHECKS: "Dict[int, Callable[[Ordering, Any], None]]" = {
    PV_INFO: Ordering._check_pv_info,
    P2M_FRAMES: Ordering._check_p2m_frames,
    VCPU_BASIC: Ordering._check_vcpu_basic,
    END: Ordering._check_complete,
    CHECKPOINT: Ordering._check_checkpoint,
    VERIFY: Ordering._check_verify,
}

"""Restoring a guest from a stream, plain or with checkpoints: the engine that reads it.

Source of the order and the rules: tools/libs/guest/xg_sr_restore.c, xg_sr_restore_x86_hvm.c.
"""
import contextlib
from array import array
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from xstream.errors import MemoryMismatch, StreamError, TruncatedStream
from xstream.guest.guest import GUEST_TYPES, Cancelled, Completed, Guest, GuestError, HookError, Hooks
from xstream.guest.load import Spool
from xstream.guest.memory import data_pfns, uint64
from xstream.guest.pv_target import TargetPV
from xstream.guest.target import TargetMemory
from xstream.kernels import pfns as pfn_kernel
from xstream.limits import Limits
from xstream.stream.reader import PageRun, Reader
from xstream.stream.sink import Sink, open_sink
from xstream.stream.source import NeedMoreData
from xstream.wire import hvm_params, libxc
from xstream.wire.frames import FRAME
from xstream.wire.libxc import (
    PAGE_SIZE,
    Checkpoint,
    CheckpointDirtyPfnList,
    CpuidPolicy,
    HvmContext,
    HvmParams,
    MsrPolicy,
    P2MFrames,
    PageData,
    PVInfo,
    Record,
    SharedInfo,
    StaticDataEnd,
    TscInfo,
    VcpuBasic,
    VcpuExtended,
    VcpuMsrs,
    VcpuXsave,
)

#: PFNs that a failed comparison names.
_NAMED_PFNS = 1024
_STATIC = (CpuidPolicy, MsrPolicy)
_STATE = (TscInfo, SharedInfo, HvmContext, HvmParams, VcpuBasic, VcpuExtended, VcpuXsave, VcpuMsrs)
_PER_VCPU = (VcpuBasic, VcpuExtended, VcpuXsave, VcpuMsrs)

_PARAMS = {name: index for index, name in hvm_params.NAMES.items()}
#: Pages that are emptied, for what was in them was for the old host.
_CLEARED_PAGES = [_PARAMS[name] for name in ("STORE_PFN", "IOREQ_PFN", "BUFIOREQ_PFN", "CONSOLE_PFN")]
#: Only ever meant for the toolstack.
_DROPPED_PARAM = _PARAMS["PAE_ENABLED"]


class Restored(NamedTuple):
    """What a restore did.

    - ``pages``: written, those written again included; ``bytes``: of the stream;
    - ``differing``: PFNs, 1024 at most, whose page sent for comparison (VERIFY) isn't what was restored;
    - ``checkpoints``: how many were taken over; ``failover``: where the stream broke off behind one, the error;
    - ``completed``: what the guest was told in the end.
    """

    pages: int
    bytes: int
    differing: Tuple[int, ...]
    checkpoints: int
    failover: Optional[Exception]
    completed: Completed


class _Placed(NamedTuple):
    """A record and where it stands."""

    record: Any
    number: int
    offset: int


class Restorer:
    """One restore into one guest. See :func:`restore` for the arguments.

    ``step()`` takes one record, or a run of batches; a caller who feeds a source calls it until it raises NeedMoreData.
    ``restored`` is there at the end.
    """

    def __init__(self, source: Any, guest: Guest, *, limits: Limits = Limits(), checkpointed: bool = False,
                 strict: bool = False, checkpoint: Callable[[int], bool] = lambda number: True,
                 back_channel: Any = None, progress: Callable[[int], Any] = lambda offset: None,
                 cancelled: Callable[[], bool] = lambda: False) -> None:
        if back_channel is not None and guest.kind != "hvm":
            raise ValueError("a back channel is for HVM guests")
        self.restored: Optional[Restored] = None
        self.reader = source if isinstance(source, Reader) else Reader(
            source, limits=limits, strict=strict, checkpointed=checkpointed or back_channel is not None)
        self._guest = guest
        self._hooks = Hooks(guest)
        self._memory = TargetMemory(self._hooks, guest.kind == "pv", self.reader.limits.guest_pfns)
        self._pv = TargetPV(guest, self._hooks, self._memory, self.reader) if guest.kind == "pv" else None
        self._go_on = checkpoint
        self._back_channel: Optional[Sink] = None if back_channel is None else open_sink(back_channel)
        self._progress = progress
        self._cancelled = cancelled
        self._begun = self._memory_begun = self._static_ended = False
        self._static: Dict[Any, Record] = {}
        self._state: Dict[Any, _Placed] = {}     # what the guest is to have
        self._incoming: Dict[Any, _Placed] = {}  # what it is to have from the next checkpoint on
        self._spool: Optional[Spool] = None      # behind the first checkpoint: batches of the next
        self._held: List[_Placed] = []           # and its other records
        self._checkpoints = self._pages = 0
        self._differing: List[int] = []
        self._p2m_frames: Optional[_Placed] = None
        self._failover: Optional[Exception] = None
        self._completed = Completed()

    def step(self) -> bool:
        """Take what comes next; False once the guest is complete. Where it fails, the guest is abandoned."""
        if self.restored is not None:
            return False
        try:
            return self._step()
        except NeedMoreData:
            raise
        except BaseException:
            self.close()
            with contextlib.suppress(HookError):
                self._hooks.abandon()
            raise

    def close(self) -> None:
        """Let go of what the restore itself opened."""
        self.reader.close()
        if self._spool is not None:
            self._spool.close()

    def _step(self) -> bool:
        if self._cancelled():
            raise Cancelled("cancelled by the caller")
        self._begin()
        run = self._next_run()
        if run is not None:
            self._take_run(run)
        else:
            record = self._next_record()
            if record is None:
                self._end()
                return False
            if not self._take(_Placed(record, self.reader.index, self.reader.offset)):
                self._end()
                return False
        self._progress(self.reader.source.offset)
        return True

    def _begin(self) -> None:
        """Once: is it this kind of guest's stream?"""
        if self._begun:
            return
        if self.reader.domain.type != GUEST_TYPES[self._guest.kind]:
            raise GuestError("the stream of an {} guest can't be restored into one of kind {!r}".format(
                libxc.GUEST_NAMES[self.reader.domain.type], self._guest.kind))
        self._begun = True
        if self._pv is None:
            self._hooks.start_restore(0)

    def _next_run(self) -> Optional[PageRun]:
        if self._pv or self._spool is not None or self.reader.verifying:
            return None
        return self.reader.next_run()

    def _next_record(self) -> Optional[Record]:
        """The next record; None at the end, and where the stream breaks off behind a checkpoint. Behind a checkpoint,
        batches are put aside."""
        try:
            record = self.reader.next_record()
            if self._spool is not None and isinstance(record, PageData):
                self._spool.add(record)
            return record
        except (StreamError, OSError) as error:
            if self._spool is None:
                raise
            self._failover = error
            return None

    def _take(self, placed: _Placed) -> bool:
        """Do what a record asks for; whether there is to be more."""
        record = placed.record
        if isinstance(record, Checkpoint):
            return self._checkpoint()
        if self._spool is None:
            self._apply(placed)
        elif not isinstance(record, PageData):
            self._held.append(placed)
        return True

    def _apply(self, placed: _Placed) -> None:
        record = placed.record
        try:
            if isinstance(record, PageData):
                self._page_data(record)
            elif isinstance(record, PVInfo):
                self._hooks.start_restore(record.guest_width)
            elif isinstance(record, P2MFrames) and self._pv:
                self._before_memory()
                self._pv.add_frames(record)
                self._p2m_frames = placed
            elif isinstance(record, StaticDataEnd):
                self._static_ended = True
            elif isinstance(record, _STATIC) and not self._static_ended:
                self._static[type(record)] = record
            elif isinstance(record, _STATE) and not _is_empty(record):
                self._incoming[type(record), getattr(record, "vcpu_id", 0)] = placed
        except StreamError as error:
            raise self._located(error, placed)

    def _located(self, error: StreamError, placed: _Placed) -> StreamError:
        return error.located(layer=self.reader.layer, record=placed.number,
                             record_type=libxc.type_name(libxc.type_of(placed.record)),
                             base=0 if isinstance(error, TruncatedStream) else placed.offset)

    def _before_memory(self) -> None:
        """Once: all that is static is known."""
        if not self._memory_begun:
            self._memory_begun = self._static_ended = True
            self._hooks.load_static([self._static[kind] for kind in _STATIC if kind in self._static])

    def _take_run(self, run: PageRun) -> None:
        self._before_memory()
        self._memory.enter(run.words)
        self._memory.write_run(run)
        self._pages += run.pages

    def _page_data(self, record: PageData) -> None:
        self._before_memory()
        if self.reader.verifying:
            self._compare(self._pv.localised(record) if self._pv else record)
            return
        self._memory.enter(record.words)
        if self._pv:
            record = self._pv.localised(record)
        pfns = data_pfns(record.words)
        self._memory.write(pfns, record.data)
        self._pages += len(pfns)

    def _compare(self, record: PageData) -> None:
        differing = self._memory.differing(record.words, record.data)
        self._differing += differing[:_NAMED_PFNS - len(self._differing)]
        if differing and self.reader.strict:
            raise MemoryMismatch("{} pages differ from those sent before".format(len(differing)), pfns=differing,
                                 field="page", got="PFNs " + ", ".join(hex(pfn) for pfn in differing[:16]))

    def _checkpoint(self) -> bool:
        """All since the last checkpoint takes effect; whether there is to be more."""
        held, self._held = self._held, []
        for placed in held:
            self._apply(placed)
        if self._spool is None:
            self._spool = Spool()
        else:
            for record in self._spool.drain():
                self._apply(_Placed(record, self.reader.index, self.reader.offset))
        self._state.update(self._incoming)
        self._incoming = {}
        self._checkpoints += 1
        if self._back_channel is None:
            return self._go_on(self._checkpoints)
        return self._run_secondary(self._back_channel)

    def _run_secondary(self, back_channel: Sink) -> bool:
        """COLO: let the guest run until the next checkpoint, and tell the primary what it changed."""
        self._finish()
        self._hooks.track_dirty(True)
        self._hooks.resume()
        if not self._go_on(self._checkpoints):
            self._hooks.track_dirty(False)
            return False
        self._hooks.suspend()
        bitmap = bytearray(-(-self._hooks.pfn_end() // 8))
        self._hooks.read_dirty(bitmap, True)
        self._hooks.track_dirty(False)
        pfns = uint64(pfn_kernel.count_bits(bitmap))
        pfn_kernel.bitmap_to_pfns(bitmap, 0, pfns)
        kind = libxc.type_of(CheckpointDirtyPfnList(b""))
        back_channel.write([FRAME.pack(kind, pfns.nbytes), pfns])
        return True

    def _end(self) -> None:
        """Nothing more comes: the guest becomes what the stream, or its last checkpoint, says."""
        if self._spool is None:
            self._state.update(self._incoming)
        if self._back_channel is None:
            # Under COLO it is complete, and runs.
            self._finish()
        self.restored = Restored(self._pages, self.reader.source.offset, tuple(self._differing), self._checkpoints,
                                 self._failover, self._completed)
        self.close()

    def _finish(self) -> None:
        self._before_memory()
        try:
            self._completed = self._finish_pv(self._pv) if self._pv else self._finish_hvm()
        except ValueError as error:
            # The guest has been given a frame that a 32-bit guest can't name.
            raise GuestError(str(error))
        self._hooks.complete(self._completed)

    def _finish_hvm(self) -> Completed:
        records = self._records(TscInfo)
        params: Dict[int, int] = {}
        for record in self._records(HvmParams):
            params.update(record.params)
            params.pop(_DROPPED_PARAM, None)
            records.append(HvmParams.of(list(params.items())))
        for index in _CLEARED_PAGES:
            if self._memory.is_populated(params.get(index, len(self._memory.state))):
                self._memory.write(memoryview(array("Q", [params[index]])), bytes(PAGE_SIZE))
        self._hooks.load_state(records + self._records(HvmContext))
        return Completed(params.get(_PARAMS["STORE_PFN"]), params.get(_PARAMS["CONSOLE_PFN"]))

    def _finish_pv(self, pv: TargetPV) -> Completed:
        records: List[Any] = self._records(TscInfo)
        records += [pv.restored_info(record) for record in self._records(SharedInfo)]
        vcpus = sorted({vcpu for kind, vcpu in self._state if kind in _PER_VCPU})
        for vcpu in vcpus:
            for kind in _PER_VCPU:
                placed = self._state.get((kind, vcpu))
                if placed is not None:
                    records.append(self._blaming(placed, pv.localised_vcpu, placed.record)
                                   if kind is VcpuBasic else placed.record)
        vcpu0 = self._state[VcpuBasic, 0]
        completed: Completed = self._blaming(vcpu0, pv.write_start_info, vcpu0.record)
        self._hooks.load_state(records)
        assert self._p2m_frames is not None
        self._blaming(self._p2m_frames, pv.finish)
        return completed

    def _blaming(self, placed: _Placed, do: Callable[..., Any], *arguments: Any) -> Any:
        """What ``do`` gives; what it finds wrong is a record's fault."""
        try:
            return do(*arguments)
        except StreamError as error:
            raise self._located(error, placed)

    def _records(self, kind: Any) -> List[Any]:
        """The last record of a kind that comes once."""
        placed = self._state.get((kind, 0))
        return [] if placed is None else [placed.record]


def _is_empty(record: Any) -> bool:
    """Whether a record of state is one without contents, which Xen 4.6 to 4.8 sent: it is passed over."""
    if isinstance(record, HvmParams):
        return not len(record.entries)
    return isinstance(record, (HvmContext, *_PER_VCPU)) and not len(record.blob)


def restore(source: Any, guest: Guest, **options: Any) -> Restored:
    """Restore a libxc stream, version 2 or 3, into a guest of its kind.

    ``source`` is anything that :func:`~xstream.stream.source.open_source` takes, or a Reader. Page data goes straight
    from there to the guest's memory.

    - ``limits``, ``strict``: as the Reader's; with ``strict``, pages that differ behind VERIFY are a MemoryMismatch;
    - ``checkpointed``: the stream has checkpoints (Remus): what comes behind one takes effect with the next. Where it
      ends or breaks off, the guest is completed from the last one;
    - ``checkpoint``: called when a checkpoint has been taken over, with its number, which begins with 1; False ends the
      restore there;
    - ``back_channel``: COLO: where the guest's dirty PFNs are sent, as any sink. The guest is complete and runs while
      ``checkpoint`` is called, and is suspended then;
    - ``progress``: called with the offset reached, once a batch; ``cancelled``: asked once a batch.

    Raises StreamError's kin; HookError and other GuestErrors; OSError from the source; and what the caller's functions
    raise. Then the guest's ``abandon`` has been called, and it must not run.
    """
    restorer = Restorer(source, guest, **options)
    while restorer.step():
        pass
    assert restorer.restored is not None
    return restorer.restored

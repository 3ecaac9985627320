"""Restoring a guest from a stream, plain or with checkpoints, in any container.

Source of the order and the rules: tools/libs/guest/xg_sr_restore.c, xg_sr_restore_x86_hvm.c.
"""
from xstream.containers.opening import AnyReader, open_stream
from xstream.contexts import suppress
from xstream.errors import (
    LimitExceeded,
    MemoryMismatch,
    StreamError,
    TruncatedStream,
    UnsupportedStream,
)
from xstream.guest.guest import GUEST_TYPES, Cancelled, Completed, Guest, GuestError, HookError
from xstream.guest.hooks import Hooks
from xstream.guest.parallel import Workers
from xstream.guest.target import TargetMemory
from xstream.kernels import pfns as pfn_kernel
from xstream.kernels.buffers import uint64, uint64_of
from xstream.limits import Limits
from xstream.stream.reader import PageRun, Reader, from_legacy
from xstream.stream.records import RecordReader, incomplete
from xstream.stream.source import NeedMoreData, PendingPages
from xstream.stream.state import CONFIG_FIELDS, Kept, StateRecords, owned
from xstream.stream.threads import usable_cpus
from xstream.tuples import NamedTuple, kind_of
from xstream.wire import hvm_params, libxc
from xstream.wire.frames import FRAME
from xstream.wire.libxc import (
    CheckpointDirtyPfnList,
    CpuidPolicy,
    HvmContext,
    HvmParams,
    MsrPolicy,
    P2MFrames,
    PageData,
    PVInfo,
    SharedInfo,
    StaticDataEnd,
    TscInfo,
    VcpuBasic,
    data_pfns,
)
from xstream.wire.pending import in_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import ExitStack
    from typing import Callable, Dict, Iterator, List, Optional, Tuple, TypeVar, Union

    from xstream.guest.load import Spool
    from xstream.guest.pv_target import TargetPV
    from xstream.stream.sink import Sink
    from xstream.stream.types import SinkLike, SourceLike, StreamLike
    from xstream.wire import libvirt, libxl, xenopsd, xl
    from xstream.wire.formats import AnyRecord
    from xstream.wire.frames import Buffer
    from xstream.wire.libxc import Record

#: Most PFNs that a failed comparison names.
_NAMED_PFNS = 1024
_STATIC = (CpuidPolicy, MsrPolicy)
#: The guest's state, which goes to ``load_state``; every other record that is kept goes into the report.
_STATE = (P2MFrames, TscInfo, SharedInfo, HvmContext, HvmParams) + libxc.PER_VCPU
#: Records that only mark a place in the stream, by name: a bare stream needs no container's module.
_MARKS = {"libxc.Verify", "libxc.End", "libxc.Checkpoint", "libxl.LibxcContext", "libxl.CheckpointEnd",
          "libxl.CheckpointState", "libxl.End", "xenopsd.MemoryImage", "xenopsd.EndOfImage"}

_BODY = FRAME.size  # offset of a record's body

#: Pages that are cleared: their contents were meant for the old host.
_CLEARED_PAGES = [hvm_params.NUMBERS[name] for name in ("STORE_PFN", "IOREQ_PFN", "BUFIOREQ_PFN", "CONSOLE_PFN")]
_CONSOLE_PFN = hvm_params.NUMBERS["CONSOLE_PFN"]
#: Only ever meant for the toolstack.
_DROPPED_PARAM = hvm_params.NUMBERS["PAE_ENABLED"]

if TYPE_CHECKING:
    #: A record of a layer around the memory stream, or an optional record of the memory stream itself.
    OtherRecord = Union[xl.SaveHeader, libvirt.SaveHeader, xenopsd.Record, libxl.Record, libxc.Unknown]


class LayerRecord(NamedTuple):
    """A record that is neither the guest's memory nor its state, and the name of the layer that it belongs to: "xl",
    "libxl", "libvirt", "xenopsd", "libxc"."""

    layer: str
    record: "OtherRecord"


_Bytes = bytes  # within Restored that name is a field


class Restored(NamedTuple):
    """What a restore did.

    - ``pages``: pages written, repetitions included; ``bytes``: offset of the end of the last complete record;
    - ``differing``: PFNs, 1024 at most, whose page sent for comparison (VERIFY) isn't what was restored;
    - ``checkpoints``: how many took effect; ``failover``: the error that ended a checkpointed stream after one of them,
      or None. Merely ending there is normal and no error;
    - ``completed``: what the guest's ``complete`` was called with;
    - ``records``: what the stream holds beside the guest, for the toolstack: headers with the configuration, the device
      model's records, optional records, and what could not be read (a record of class Unread). In the order of the
      stream, copies; in a checkpointed stream as of the last complete checkpoint;
    - ``memory_crc``: the CRC32C of the guest's memory as it arrived, read back before its state was loaded, if it was
      asked for; None if not. See :func:`xstream.save`.
    """

    pages: int
    bytes: int
    differing: "Tuple[int, ...]"
    checkpoints: int
    failover: "Optional[Exception]"
    completed: Completed
    records: "Tuple[LayerRecord, ...]" = ()
    memory_crc: "Optional[int]" = None

    @property
    def config(self) -> "Optional[_Bytes]":
        """The domain's configuration without trailing NULs: xl's, libvirt's XML, or xenopsd's Xenops record; None if
        the stream has none."""
        for _, record in self.records:
            field = CONFIG_FIELDS.get(kind_of(record))
            if field is not None:
                return bytes(getattr(record, field)).rstrip(b"\0") or None
        return None

    @property
    def device_model(self) -> "Optional[_Bytes]":
        """The device model's (QEMU's) record; None if the stream has none."""
        from xstream.wire import libxl, xenopsd
        for _, record in reversed(self.records):
            if isinstance(record, libxl.EmulatorContext):
                return bytes(record.blob)
            if isinstance(record, xenopsd.Blob) and record.type in xenopsd.QEMU_RECORDS:
                return bytes(in_memory(record.data))
        return None

    @property
    def xenstore_data(self) -> "Tuple[Tuple[_Bytes, _Bytes], ...]":
        """(key, value) of the device model's xenstore entries; keys are relative to the device model's directory."""
        from xstream.wire import libxl
        return tuple(pair for _, record in self.records if isinstance(record, libxl.EmulatorXenstoreData)
                     for pair in record.pairs)


if TYPE_CHECKING:
    T = TypeVar("T")


class _Place(NamedTuple):
    """The position of a record."""

    layer: str
    number: int
    offset: int


class Restorer:
    """One restore into one guest. See :func:`restore` for the arguments.

    ``step()`` handles one record, or a run of batches. With a fed source it raises NeedMoreData until enough has been
    fed; call it again then. ``restored`` is set at the end.
    """

    def __init__(self, source: "StreamLike", guest: Guest, *, format: "Optional[str]" = None,
                 limits: Limits = Limits(), strict: bool = False, checkpointed: bool = False, exact: bool = True,
                 checkpoint: "Callable[[int], bool]" = lambda number: True, back_channel: "Optional[SinkLike]" = None,
                 progress: "Callable[[int], object]" = lambda offset: None,
                 cancelled: "Callable[[], bool]" = lambda: False, jobs: "Optional[int]" = None,
                 memory_crc: bool = False) -> None:
        if back_channel is not None and guest.kind != "hvm":
            raise ValueError("a back channel is for HVM guests")
        self.restored: Optional[Restored] = None
        given: Optional[AnyReader] = source if isinstance(source, RecordReader) else None  # type: ignore[assignment]
        self._given = given
        self._limits: Limits = limits if given is None else given.limits
        self._source: SourceLike = source  # type: ignore[assignment]  # a reader is used as given
        self._format, self._strict, self._exact = format, strict, exact
        self._checkpointed = checkpointed or back_channel is not None
        self._opened: Optional[AnyReader] = None
        self._guest = guest
        self._hooks = Hooks(guest)
        self._workers = Workers(usable_cpus() if jobs is None else jobs)
        self._memory = TargetMemory(self._hooks, guest.kind == "pv", self._limits.guest_pfns, self._workers)
        self._pv: Optional[TargetPV] = self._pv_part() if guest.kind == "pv" else None
        self._go_on = checkpoint
        self._wants_crc = memory_crc
        self._memory_crc: Optional[int] = None
        self._stack: Optional[ExitStack] = None
        self._back_channel: Optional[Sink] = None
        if back_channel is not None:
            import contextlib

            from xstream.stream.sink import opened_sink
            self._stack = contextlib.ExitStack()
            self._back_channel = self._stack.enter_context(opened_sink(back_channel))
        self._progress = progress
        self._cancelled = cancelled
        self._begun = self._memory_begun = self._static_ended = False
        self._static: Dict[type, Record] = {}
        self._state = StateRecords(self._limits)     # of the guest, as of the last checkpoint
        self._incoming = StateRecords(self._limits)  # since then
        self._spool: Optional[Spool] = None          # memory since then; from the first checkpoint on
        self._checkpoints = self._pages = 0
        self._offset = 0  # end of the last complete record
        self._differing: List[int] = []
        self._failover: Optional[Exception] = None
        self._completed = Completed()

    def _pv_part(self) -> "TargetPV":
        from xstream.guest.pv_target import TargetPV  # not needed for other guests
        return TargetPV(self._guest, self._hooks, self._memory)

    @property
    def _reader(self) -> "AnyReader":
        assert self._opened is not None
        return self._opened

    def step(self) -> bool:
        """Handle what comes next; False once the guest is complete. After a failure the guest has been abandoned."""
        if self.restored is not None:
            return False
        try:
            more = self._step_in_order()
        except NeedMoreData:
            raise
        except BaseException:
            self.close()
            with suppress(HookError):
                self._hooks.abandon()
            with suppress(HookError):
                self._hooks.end()
            raise
        if not more:
            self._hooks.end()
        return more

    def _step_in_order(self) -> bool:
        try:
            return self._step()
        except StreamError:
            self._memory.wait()  # what is wrong with pages that came before is the first error
            raise

    def close(self) -> None:
        """Close what the restore itself opened."""
        self._memory.close()
        if self._opened is not None and self._given is None:
            self._opened.close()
        if self._spool is not None:
            self._spool.close()
        self._workers.close()
        if self._stack is not None:
            self._stack.close()

    def _step(self) -> bool:
        if self._cancelled():
            raise Cancelled("cancelled by the caller")
        if not self._begun:
            self._begin()
        run = self._next_run()
        if run is not None:
            self._take_run(run)
        else:
            record = self._next_record()
            more = record is not None and self._take(record)
            if record is not None:
                self._offset = self._reader.source.offset
            if not more:
                self._end()
                return False
        self._offset = self._reader.source.offset
        self._progress(self._offset)
        return True

    def _begin(self) -> None:
        """Once: open the source, and check that it holds this kind of guest."""
        if self._opened is None:
            self._opened = self._given or open_stream(
                self._source, format=self._format, limits=self._limits, strict=self._strict,
                checkpointed=self._checkpointed, exact=self._exact, jobs=self._workers.jobs)
        self._check(self._opened)
        self._begun = True
        if self._pv is None:
            self._hooks.start_restore(0)

    def _check(self, reader: "AnyReader") -> None:
        memory = reader.memory
        if not isinstance(memory, Reader):
            raise UnsupportedStream("a legacy stream (Xen 4.5 or earlier) can't be restored directly: convert it first",
                                    layer=memory.layer, offset=memory.start)
        if self._back_channel is not None and not isinstance(reader, Reader):
            raise UnsupportedStream("COLO within a container isn't supported", layer=reader.layer, offset=0)
        if memory.domain.type != GUEST_TYPES[self._guest.kind]:
            raise GuestError("the stream of an {} guest can't be restored into one of kind {!r}".format(
                libxc.GUEST_NAMES[memory.domain.type], self._guest.kind))

    def _next_run(self) -> "Optional[PageRun]":
        if self._pv or self._spool is not None or self._reader.verifying:
            return None
        return self._reader.next_run()

    def _next_record(self) -> "Optional[AnyRecord]":
        """The next record; None at the end, and where the stream breaks off after a checkpoint. After a checkpoint,
        batches are set aside."""
        try:
            record = self._reader.next_record()
            if self._spool is not None and isinstance(record, PageData):
                self._spool.add(record, self._reader.verifying)
            return record
        except TruncatedStream:
            if self._spool is None:
                raise
        except (StreamError, OSError) as error:
            if self._spool is None or isinstance(error, LimitExceeded):
                raise
            self._failover = error
        return None

    def _take(self, record: "AnyRecord") -> bool:
        """Handle a record; whether the restore goes on after it."""
        reader = self._reader
        place = _Place(reader.layer, reader.index, reader.offset)
        if not isinstance(record, PageData):
            self._memory.wait()
        try:
            if isinstance(record, PageData):
                if self._spool is None:
                    self._page_data(record)
            elif isinstance(record, PVInfo) and self._pv:
                self._pv.begin(record.guest_width)
                self._hooks.start_restore(record.guest_width)
            elif isinstance(record, StaticDataEnd):
                self._static_ended = True
            elif isinstance(record, _STATIC):
                if not self._static_ended:
                    self._static[type(record)] = record
            elif isinstance(record, P2MFrames) and self._spool is None:
                self._add_p2m_frames(record, place)
            elif kind_of(record) not in _MARKS:
                self._incoming.add(self._in_memory(record), place)
        except StreamError as error:
            raise _located(error, record, place)
        if reader.checkpoints > self._checkpoints:
            return self._checkpoint(place)
        return True

    def _in_memory(self, record: "AnyRecord") -> "AnyRecord":
        """A record whose data no longer depends on the source."""
        data = getattr(record, "data", None)  # of a device model in an image of xenopsd
        if isinstance(data, PendingPages):
            if len(data) > self._limits.body_length:
                raise LimitExceeded("device model's record longer than the limit", field="length",
                                    expected="at most {}".format(self._limits.body_length), got=len(data))
            return record._replace(data=data.read())  # type: ignore[call-arg]  # it has the field
        return record

    def _before_memory(self) -> None:
        """Once: all static records have come."""
        if not self._memory_begun:
            self._memory_begun = self._static_ended = True
            self._hooks.load_static([self._static[kind] for kind in _STATIC if kind in self._static])

    def _add_p2m_frames(self, record: P2MFrames, place: object) -> None:
        self._before_memory()
        if self._pv:
            self._pv.add_frames(record)
        self._state.add(record, place)

    def _take_run(self, run: PageRun) -> None:
        self._before_memory()
        self._memory.enter(run.words)
        self._memory.write_run(run)
        self._pages += run.pages

    def _page_data(self, record: PageData) -> None:
        self._before_memory()
        verifying = self._reader.verifying if self._spool is None else self._spool.verifying
        if verifying:
            self._compare(self._pv.localised(self._reader, record) if self._pv else record)
            return
        self._memory.enter(record.words)
        if self._pv:
            record = self._pv.localised(self._reader, record)
        pfns = data_pfns(record.words)
        self._memory.write(pfns, record.data)
        self._pages += len(pfns)

    def _compare(self, record: PageData) -> None:
        differing = self._memory.differing(record.words, record.data)
        self._differing += differing[:_NAMED_PFNS - len(self._differing)]
        if differing and self._reader.strict:
            raise MemoryMismatch("{} pages differ from those sent before".format(len(differing)), pfns=differing,
                                 field="page", got="PFNs " + ", ".join(hex(pfn) for pfn in differing[:16]))

    def _checkpoint(self, place: _Place) -> bool:
        """Everything since the last checkpoint takes effect; whether the restore goes on after it."""
        for kept in self._incoming.items():
            if isinstance(kept.record, P2MFrames):
                self._add_p2m_frames(kept.record, kept.where)
        if self._spool is None:
            from xstream.guest.load import Spool  # only streams with checkpoints need one
            self._spool = Spool()
        else:
            for record in self._spool.drain():
                self._blaming(Kept(record, place), self._page_data, record)
        self._complete_state()
        self._checkpoints += 1
        if self._back_channel is None:
            return self._go_on(self._checkpoints)
        return self._run_secondary(self._back_channel)

    def _complete_state(self) -> None:
        """What has come since the last checkpoint belongs to the guest's state now."""
        for kept in self._incoming.items():
            if not isinstance(kept.record, P2MFrames):
                self._blaming(kept, self._state.add, *kept)
        self._incoming = StateRecords(self._limits)

    def _run_secondary(self, back_channel: "Sink") -> bool:
        """COLO: let the guest run until the next checkpoint, and tell the primary what it changed."""
        self._finish()
        self._hooks.track_dirty(True)
        self._hooks.resume()
        if not self._go_on(self._checkpoints):
            self._hooks.track_dirty(False)
            return False
        self._hooks.suspend()
        bitmap = bytearray(-(-self._hooks.pfn_end() // 8))
        self._hooks.read_dirty(memoryview(bitmap), True, True)
        self._hooks.track_dirty(False)
        pfns = uint64(pfn_kernel.count_bits(bitmap))
        pfn_kernel.bitmap_to_pfns(bitmap, 0, pfns)
        kind = libxc.type_of(CheckpointDirtyPfnList(b""))
        back_channel.write([FRAME.pack(kind, pfns.nbytes), pfns])
        return True

    def _end(self) -> None:
        """The stream is over: the guest becomes what the stream, or its last checkpoint, says."""
        self._memory.wait()
        if self._spool is None:
            self._complete_state()
        if self._back_channel is None:
            # Under COLO it is complete already, and runs.
            self._finish()
        self.restored = Restored(self._pages, self._offset, tuple(self._differing), self._checkpoints,
                                 self._failover, self._completed, tuple(_reported(self._state)), self._memory_crc)
        self.close()

    def _finish(self) -> None:
        self._before_memory()
        if self._wants_crc:
            from xstream.guest.memory_crc import memory_crc  # rarely asked for
            memory = self._memory
            self._memory_crc = memory_crc(self._hooks, memory.pfn_end, memory.types_of, memory.frames_of)
        try:
            self._completed = self._finish_pv(self._pv) if self._pv else self._finish_hvm()
        except ValueError as error:
            # A 32-bit guest can't refer to a frame that the backend has given it.
            raise GuestError(str(error))
        self._hooks.complete(self._completed)

    def _finish_hvm(self) -> Completed:
        from xstream.wire import console  # needed at the end
        records: List[Record] = [*self._state.of(TscInfo)]
        params = self._params()
        if params:
            records.append(HvmParams.of(list(params.items())))
        for index in _CLEARED_PAGES:
            if self._memory.is_populated(params.get(index, len(self._memory.state))):
                page = console.cleared() if index == _CONSOLE_PFN else bytes(libxc.PAGE_SIZE)
                self._memory.write(uint64_of([params[index]]), page)
        self._hooks.load_state([*records, self._hvm_context()])
        return Completed(params.get(hvm_params.NUMBERS["STORE_PFN"]), params.get(_CONSOLE_PFN))

    def _hvm_context(self) -> HvmContext:
        """The context, without which no HVM guest runs: Xen refuses a missing or broken one."""
        for kept in self._state.items():
            if isinstance(kept.record, HvmContext) and len(kept.record.blob):
                self._blaming(kept, _check_hvm_context, kept.record.blob, base=_BODY)
                return kept.record
        raise incomplete(self._reader.memory, ("HVM_CONTEXT",))

    def _params(self) -> "Dict[int, int]":
        """The parameters to set, by index: the stream's, and this host's event channels."""
        params: Dict[int, int] = {}
        for record in self._state.of(HvmParams):
            params.update(record.params)
        params.pop(_DROPPED_PARAM, None)
        for name, port in (("STORE_EVTCHN", self._guest.store_evtchn), ("CONSOLE_EVTCHN", self._guest.console_evtchn)):
            params.pop(hvm_params.NUMBERS[name], None)
            if port:
                params[hvm_params.NUMBERS[name]] = port
        return params

    def _finish_pv(self, pv: "TargetPV") -> Completed:
        from xstream.wire import vcpu  # HVM guests have no such records
        records: List[Record] = [*self._state.of(TscInfo)]
        records += [pv.restored_info(record) for record in self._state.of(SharedInfo)]
        vcpus = [(record.vcpu_id, libxc.PER_VCPU.index(type(record)), kept, record)
                 for kept, record in ((kept, kept.record) for kept in self._state.items())
                 if isinstance(record, libxc.PER_VCPU)]
        vcpus.sort(key=lambda vcpu: vcpu[:2])
        converted = from_legacy(self._reader)
        for _, _, kept, record in vcpus:
            records.append(self._blaming(kept, pv.localised_vcpu, record)
                           if isinstance(record, VcpuBasic) else record)
            self._blaming(kept, vcpu.check, record, converted, base=_BODY)
        _, _, first, record = vcpus[0]
        completed = self._blaming(first, pv.write_start_info, record)
        self._hooks.load_state(records)
        p2m_frames = [kept for kept in self._state.items() if isinstance(kept.record, P2MFrames)]
        self._blaming(p2m_frames[-1], pv.finish)
        return completed

    def _blaming(self, kept: Kept, do: "Callable[..., T]", *arguments: object, base: int = 0) -> "T":
        """The result of ``do``; an error it finds is located at the record, ``base`` bytes after its start."""
        try:
            return do(*arguments)
        except StreamError as error:
            place: _Place = kept.where
            raise _located(error, kept.record, place._replace(offset=place.offset + base))


def _check_hvm_context(untrusted: "Buffer") -> None:
    from xstream.wire import hvm_context  # PV guests have none
    hvm_context.check(untrusted, unknown=True)  # the guest's machine may have entries of its own


def _located(error: StreamError, record: "AnyRecord", place: _Place) -> StreamError:
    """The error with the place of the record that it is about."""
    if error.layer is not None:
        return error
    # Pages of a checkpoint are written when the checkpoint is complete, which may be a record of another layer.
    from xstream.wire.formats import record_name
    layer = libxc.LAYER if isinstance(record, PageData) else place.layer
    return error.located(layer=place.layer, record=place.number, record_type=record_name(layer, record),
                         base=0 if isinstance(error, TruncatedStream) else place.offset)


def _reported(state: StateRecords) -> "Iterator[LayerRecord]":
    """What isn't the guest's state. Views become copies: the source may be closed."""
    for record, place in state.items():
        if not isinstance(record, _STATE):
            yield LayerRecord(place.layer, owned(record))  # type: ignore[arg-type]  # the state is what others are


def restore(source: "StreamLike", guest: Guest, *, format: "Optional[str]" = None,
            limits: Limits = Limits(), strict: bool = False, checkpointed: bool = False, exact: bool = True,
            checkpoint: "Callable[[int], bool]" = lambda number: True, back_channel: "Optional[SinkLike]" = None,
            progress: "Callable[[int], object]" = lambda offset: None,
            cancelled: "Callable[[], bool]" = lambda: False, jobs: "Optional[int]" = None,
            memory_crc: bool = False) -> Restored:
    """Restore a guest from a libxc stream, version 2 or 3, or from a container of one (libxl, xl, libvirt, xenopsd).

    ``source`` is anything that :func:`xstream.open` takes, or a reader. Pages go straight from there to the guest's
    memory. What surrounds the memory stream is in the report, so that a toolstack needs no second pass. A legacy
    stream has to be converted first (:func:`xstream.convert`).

    - ``format``: the format, instead of recognising it;
    - ``limits``, ``strict``: as for a reader; with ``strict``, pages that differ after VERIFY are a MemoryMismatch;
    - ``checkpointed``: the stream has checkpoints (Remus). What follows one takes effect with the next. Where the
      stream ends or breaks off, the guest is completed from the last one;
    - ``exact``: leave a descriptor, socket or file object where the stream ends, or where a checkpoint ends while
      ``checkpoint`` is called, so that a toolstack can read on from there. Without, it may be read ahead;
    - ``checkpoint``: called after each checkpoint with its number, from 1; False ends the restore there;
    - ``back_channel``: COLO: where to send the PFNs that the guest changed, as any sink. The guest is complete and runs
      while ``checkpoint`` is called, and is suspended afterwards;
    - ``progress``: called once per batch with the offset reached; ``cancelled``: called once per batch, True stops;
    - ``jobs``: threads that decompress, and that copy the pages of a batch where they are in memory; default: one for
      each CPU that this process may use. The guest, and every error, are the same with any number.

    The caller keeps what it opened: a descriptor, file object or reader passed in stays open.

    Raises StreamError or a subclass; HookError and other GuestErrors; OSError from the source; and what the caller's
    functions raise. Then the guest's ``abandon`` has been called, and it must not run.
    """
    restorer = Restorer(source, guest, format=format, limits=limits, strict=strict, checkpointed=checkpointed,
                        exact=exact, checkpoint=checkpoint, back_channel=back_channel, progress=progress,
                        cancelled=cancelled, jobs=jobs, memory_crc=memory_crc)
    while restorer.step():
        pass
    assert restorer.restored is not None
    return restorer.restored

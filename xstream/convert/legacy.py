"""Legacy streams (Xen 4.5 and earlier) as the records of a libxc stream of version 3, record by record.

The order of the records is that of Xen's converter, tools/python/scripts/convert-legacy-stream.
"""
from typing import Any, Callable, ContextManager, Dict, Generator, Iterator, List, Optional, Tuple, TypeVar

from xstream.containers.opening import AnyReader
from xstream.convert.memory import LegacyMemory, MemoryCopy, find_unmapped
from xstream.errors import TruncatedStream
from xstream.guest.load import SPOOLED, Spool
from xstream.limits import Limits
from xstream.stream.legacy_reader import LegacyReader
from xstream.stream.state import StateRecords, owned
from xstream.wire import legacy, libxc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.wire.formats import AnyRecord

#: The version that Xen's converter writes to the domain header's xen_minor, with 0 in xen_major. So does this package.
CONVERTER_VERSION = 1
_GUEST_TYPES = {legacy.PV: libxc.GUEST_PV, legacy.HVM: libxc.GUEST_HVM}
#: The HVM parameters of an HVM tail, in order: ioreq, bufioreq and store PFN.
_TAIL_PARAMS = (5, 6, 1)
_ADVICE = (": a compressed Remus stream that can't be read twice, as from a pipe, needs --checkpointed or "
           "--last-checkpoint (checkpointed=True, last_checkpoint=True)")

#: The name of a layer, and a record or PageRun of that layer.
Item = Tuple[str, Any]
Items = Generator[Item, None, None]
#: Opens the input once more from its beginning.
Again = Callable[[], ContextManager[AnyReader]]
T = TypeVar("T")


def domain_header(head: legacy.Start) -> libxc.DomainHeader:
    """The domain header of a converted stream."""
    return libxc.DomainHeader(_GUEST_TYPES[head.guest], 12, 0, 0, CONVERTER_VERSION)


class StateTranslator:
    """Translates the records of a legacy stream that describe the guest beside its memory."""

    def __init__(self, reader: LegacyReader) -> None:
        self._reader = reader
        self._params: List[Tuple[int, int]] = []

    def translate(self, record: "AnyRecord") -> List[Item]:
        """What a legacy record becomes: items of the layer "libxc"; of the layer "legacy" if the record is something
        that only a container has a place for, or nothing has. Blobs are copied, so the items stay valid."""
        if isinstance(record, (legacy.Toolstack, legacy.DeviceModel, legacy.Tmem, legacy.TmemExtra)):
            return [(legacy.LAYER, owned(record))]
        translate = _TRANSLATE.get(type(record))
        return [] if translate is None else [(libxc.LAYER, owned(made)) for made in translate(self, record)]

    def _start(self, record: legacy.Start) -> "List[libxc.Record]":
        return [libxc.StaticDataEnd()] if record.guest == legacy.HVM else []

    def _extended_info(self, record: legacy.ExtendedInfo) -> "List[libxc.Record]":
        return [libxc.PVInfo(record.guest_width, record.pt_levels), libxc.StaticDataEnd()]

    def _p2m_frames(self, record: legacy.P2MFrames) -> "List[libxc.Record]":
        return [libxc.P2MFrames(0, self._reader.head.p2m_size - 1, record.frames)]

    def _tsc_info(self, record: legacy.TscInfo) -> "List[libxc.Record]":
        return [libxc.TscInfo(record.mode, record.khz, record.nsec, record.incarnation)]

    def _param(self, record: legacy.HvmParam) -> "List[libxc.Record]":
        self._params.append((record.param, record.value))
        return []

    def _end_of_body(self, record: legacy.EndOfBody) -> "List[libxc.Record]":
        params, self._params = self._params, []
        return [libxc.HvmParams.of(params)] if params else []

    def _vcpu(self, record: legacy.VcpuContext) -> "List[libxc.Record]":
        made: List[libxc.Record] = [libxc.VcpuBasic(record.vcpu_id, record.basic)]
        if len(record.extended):
            made.append(libxc.VcpuExtended(record.vcpu_id, record.extended))
        if record.xsave is not None:
            made.append(libxc.VcpuXsave(record.vcpu_id, record.xsave))
        return made

    def _shared_info(self, record: legacy.SharedInfo) -> "List[libxc.Record]":
        return [libxc.SharedInfo(record.page)]

    def _hvm_tail(self, record: legacy.HvmTail) -> "List[libxc.Record]":
        return [libxc.HvmParams.of(list(zip(_TAIL_PARAMS, record[:3]))), libxc.HvmContext(record.context)]


# What each takes is a record of its class.
_TRANSLATE: "Dict[type, Callable[[StateTranslator, Any], List[libxc.Record]]]" = {
    legacy.Start: StateTranslator._start,
    legacy.ExtendedInfo: StateTranslator._extended_info,
    legacy.P2MFrames: StateTranslator._p2m_frames,
    legacy.TscInfo: StateTranslator._tsc_info,
    legacy.HvmParam: StateTranslator._param,
    legacy.EndOfBody: StateTranslator._end_of_body,
    legacy.VcpuContext: StateTranslator._vcpu,
    legacy.SharedInfo: StateTranslator._shared_info,
    legacy.HvmTail: StateTranslator._hvm_tail,
}


class _Held:
    """State that is held back until it is known to count: records, and batches of PFNs to take out of the map."""

    def __init__(self, limits: Limits) -> None:
        self.records = StateRecords(limits)
        self.unmap = Spool()

    def close(self) -> None:
        self.unmap.close()

    def items(self) -> Iterator[Item]:
        """What is held, once."""
        for batch in self.unmap.drain():
            yield libxc.LAYER, batch
        for record, layer in self.records.items():
            yield layer, record

    def replace(self, later: "_Held") -> None:
        """Hold the state of a later checkpoint. Which PFNs are not in the map, each checkpoint lists completely."""
        self.records.update(later.records)
        self.unmap, later.unmap = later.unmap, self.unmap


class LegacyConversion:
    """One legacy stream, in whatever container, as it is read and translated.

    - ``again``: opens the input once more, if that is possible: a PV stream's tail and a compressed stream's first
      checkpoint are then looked at in advance;
    - ``last_checkpoint``: make one plain stream of the last complete checkpoint;
    - ``keep``: the stream is known to have checkpoints. If the input can't be read again, a copy of the memory is kept
      from the beginning on, which page deltas need.
    """

    def __init__(self, reader: AnyReader, again: Optional[Again], *, last_checkpoint: bool, keep: bool) -> None:
        self._reader = reader
        self._legacy = legacy_reader(reader)
        self._again = again
        self._plain = last_checkpoint
        self._keep = keep or last_checkpoint
        self._limits = reader.limits
        self._memory = LegacyMemory(self._legacy, self._limits)
        self._translator = StateTranslator(self._legacy)
        self._held = last_checkpoint
        self._ended = False

    def items(self) -> Items:
        """(layer, record) of the converted stream in order, each valid until the next is asked for.

        Records of containers are passed through. Of the layer "legacy" come those for which a libxc stream has no
        place, before the END or CHECKPOINT that they belong to; their blobs are copies.

        Raises StreamError or a subclass for what is wrong with the stream, and OSError.
        """
        self._state = _Held(self._limits)  # of the checkpoints that are complete
        self._next_state = _Held(self._limits)  # of the one that is being read
        try:
            self._prepare()
            while True:
                record = self._next_record()
                if record is None:
                    break
                if self._reader.layer == legacy.LAYER:
                    yield from self._convert(record)
                else:
                    if self._legacy.ended:
                        yield from self._end()
                    yield self._reader.layer, record
            if self._plain or not self._legacy.checkpoints:
                yield from self._end()
        finally:
            for part in (self._memory, self._state, self._next_state):
                part.close()

    def _prepare(self) -> None:
        if self._again is None:
            if self._keep:
                self._memory.copy = MemoryCopy(self._limits)
        elif self._legacy.head.guest == legacy.PV:
            self._memory.unmapped = self._look_ahead(find_unmapped)

    def _next_record(self) -> "Optional[AnyRecord]":
        try:
            return self._reader.next_record()
        except TruncatedStream:
            # Whatever follows the last complete checkpoint is void, truncated pages included.
            if not self._legacy.checkpoints:
                raise
            return None

    def _convert(self, record: "AnyRecord") -> Iterator[Item]:
        if isinstance(record, SPOOLED):
            try:
                for batch in self._memory.take(record):
                    yield libxc.LAYER, batch
            except TruncatedStream:
                if not self._legacy.checkpoints:
                    raise
        elif isinstance(record, legacy.VerifyMode):
            yield libxc.LAYER, libxc.Verify()
        elif isinstance(record, legacy.EnableCompression):
            self._begin_compression()
        elif isinstance(record, libxc.Checkpoint):
            yield from self._end_checkpoint(record)
        elif isinstance(record, legacy.UnmappedPfns):
            for batch in self._memory.unmap(record):
                if self._held:
                    self._next_state.unmap.add(batch)
                else:
                    yield libxc.LAYER, batch
        else:
            yield from self._state_items(self._translator.translate(record))

    def _state_items(self, items: List[Item]) -> Iterator[Item]:
        """Items that describe the guest's state: held back until they can no longer become void."""
        for layer, record in items:
            if self._held and not isinstance(record, _STATIC):
                self._next_state.records.add(record, layer)
            else:
                yield layer, record

    def _begin_compression(self) -> None:
        advice = ""
        if self._memory.copy is None:
            self._memory.copy = MemoryCopy(self._limits)
            if self._again is not None:
                self._look_ahead(self._memory.copy.copy_first_checkpoint)
            else:
                advice = _ADVICE
        self._memory.begin_compression(advice=advice)

    def _end_checkpoint(self, record: libxc.Checkpoint) -> Iterator[Item]:
        for batch in self._memory.end_checkpoint():
            yield libxc.LAYER, batch
        if self._plain:
            self._state.replace(self._next_state)
        else:
            yield from self._next_state.items()
            yield libxc.LAYER, record
        self._next_state.close()
        self._next_state = _Held(self._limits)
        self._held = True

    def _end(self) -> Iterator[Item]:
        """What completes a plain stream, once."""
        if not self._ended:
            self._ended = True
            yield from (self._state if self._legacy.checkpoints else self._next_state).items()
            yield libxc.LAYER, libxc.End()

    def _look_ahead(self, look: Callable[[LegacyReader], T]) -> T:
        """Call ``look`` with a separate reader, positioned at the start of the input."""
        assert self._again is not None
        with self._again() as reader:
            return look(legacy_reader(reader))


def legacy_reader(reader: AnyReader) -> LegacyReader:
    """The reader of the legacy stream in a container, or the reader itself."""
    memory = reader.memory
    assert isinstance(memory, LegacyReader)
    return memory


#: What precedes memory, and doesn't change from checkpoint to checkpoint.
_STATIC = (libxc.PVInfo, libxc.StaticDataEnd, libxc.P2MFrames)

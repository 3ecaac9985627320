"""The final state of a stream as a plain stream: each PFN once, and of the other records those that count."""
from typing import Callable, Iterator, Optional, Tuple

from xstream.containers.opening import AnyReader
from xstream.convert.legacy import Item, StateTranslator, legacy_reader
from xstream.convert.memory import MemoryCopy
from xstream.convert.parts import in_memory
from xstream.guest.load import SPOOLED, Loader
from xstream.stream.state import StateRecords
from xstream.wire import legacy, libxc, libxl, xenopsd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.wire.formats import AnyRecord

#: Records that mark a position in the stream. A plain stream has its own.
_MARKS = (libxc.Verify, libxc.Checkpoint, libxc.End, libxl.CheckpointEnd, libxl.CheckpointState, libxl.End,
          xenopsd.EndOfImage)
#: Records of a libxc stream that must precede memory.
_BEFORE_MEMORY = (libxc.PVInfo, libxc.CpuidPolicy, libxc.MsrPolicy, libxc.StaticDataEnd, libxc.P2MFrames)
#: What ends the part of each layer that follows memory, innermost layer first.
_ENDS = ((libxc.LAYER, libxc.End()), (libxl.LAYER, libxl.End()), (xenopsd.LAYER, xenopsd.EndOfImage()))


class Squash:
    """Reads a stream of any format to its end; ``items`` then returns a plain stream of its final state: of a stream
    with checkpoints that of the last complete one.

    ``close`` deletes the temporary file that holds the memory. The reader stays open.
    """

    def __init__(self, reader: AnyReader) -> None:
        self._reader = reader
        self._legacy = any(layer.format == legacy.LAYER for layer in reader.layers)
        if self._legacy:
            self._translator = StateTranslator(legacy_reader(reader))
        self._memory = MemoryCopy(reader.limits)
        self._before = StateRecords(reader.limits)
        self._after = StateRecords(reader.limits)
        self._next = StateRecords(reader.limits)  # of the checkpoint that is being read
        self._checkpoints = 0

    def close(self) -> None:
        """Delete the temporary file."""
        self._memory.close()

    def load(self, progress: Callable[[int], object], jobs: int = 1) -> None:
        """Read everything, with ``jobs`` threads that copy pages; ``progress`` is called with the absolute offset
        reached. Raises StreamError or a subclass, and OSError."""
        Loader(self._reader, self._memory.memory, on_record=self._note, jobs=jobs).run(progress)
        if not self._checkpoints:
            self._complete()

    def items(self, formats: Tuple[str, ...]) -> Iterator[Item]:
        """(layer, record) in the order of a plain stream with the layers ``formats``."""
        for record, layer in self._before.items():
            yield layer, record
        for batch in self._memory.batches():
            yield libxc.LAYER, batch
        after = list(self._after.items())
        yield from ((layer, record) for record, layer in after if layer == legacy.LAYER)
        for layer, end in _ENDS:
            yield from ((layer, record) for record, of_layer in after if of_layer == layer)
            if layer in formats or layer == libxc.LAYER:
                yield layer, end

    def _note(self, record: "Optional[AnyRecord]") -> None:
        if record is not None and not isinstance(record, _MARKS + SPOOLED):
            if self._legacy and self._reader.layer == legacy.LAYER:
                for layer, translated in self._translator.translate(record):
                    self._add(layer, translated)
            else:
                self._add(self._reader.layer, record)
        if self._reader.checkpoints > self._checkpoints:
            self._checkpoints = self._reader.checkpoints
            self._complete()

    def _add(self, layer: str, record: "AnyRecord") -> None:
        if isinstance(record, xenopsd.Blob):
            record = record._replace(data=in_memory(record.data, self._reader))
        begun = self._reader.memory.index >= 0
        (self._next if begun else self._before).add(record, layer)

    def _complete(self) -> None:
        """What has been noted counts now."""
        for record, layer in self._next.items():
            (self._before if isinstance(record, _BEFORE_MEMORY) else self._after).add(record, layer)
        self._next = StateRecords(self._reader.limits)

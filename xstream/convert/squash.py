"""A stream's final state: each page once, with its last contents, and of the other records those that count."""
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

from xstream.convert.converted_memory import KeptMemory
from xstream.convert.parts import in_memory
from xstream.errors import LimitExceeded
from xstream.guest.load import Loader
from xstream.stream.writer import Writer
from xstream.wire import libxc, libxl, xenopsd

#: Records that stand for where the stream is; others take their places.
_MARKS = (libxc.Verify, libxc.Checkpoint, libxc.End, libxl.CheckpointEnd, libxl.CheckpointState, libxl.End,
          xenopsd.EndOfImage)
#: What tells records of one type apart of which there are several.
_KEYS = ("type", "vcpu_id", "start_pfn", "emulator_id", "emulator_index")
#: What ends each layer, innermost first.
_ENDS = ((libxc.LAYER, libxc.End()), (libxl.LAYER, libxl.End()), (xenopsd.LAYER, xenopsd.EndOfImage()))

#: Records kept at once; a guest has a few per vcpu.
_MOST_RECORDS = 65536

_Noted = Dict[Any, Tuple[str, Any]]


class SquashedReader:
    """A reader, of whatever format, that is read to its end once; then ``records()`` gives those of a plain stream.

    Of a stream with checkpoints it is the last complete one. Everything else is the reader's own. ``close()`` frees
    the temporary file that holds the memory, and leaves the reader open.
    """

    checkpointed = False

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._kept = KeptMemory(reader.limits)
        self._before: _Noted = {}  # the first memory
        self._behind: _Noted = {}  # memory, of the checkpoint that isn't complete yet
        self._complete: Optional[_Noted] = None
        self._checkpoints = 0
        self._in_memory = False
        self._bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def close(self) -> None:
        self._kept.close()

    def load(self, progress: Callable[[int], Any]) -> None:
        """Read everything. Raises StreamError's kin and OSError."""
        Loader(self, self._kept.memory).run(progress)  # type: ignore[arg-type]
        if self._complete is None:
            self._take_over()

    def records(self, formats: Tuple[str, ...]) -> Iterator[Tuple[str, Any]]:
        """(layer, record) in the order of a plain stream of these formats."""
        assert self._complete is not None
        yield from self._before.values()
        for batch in self._kept.batches():
            yield libxc.LAYER, batch
        for layer, end in _ENDS:
            yield from (noted for noted in self._complete.values() if noted[0] == layer)
            if layer in formats:
                yield layer, end

    def next_run(self) -> Any:
        """The reader's, for the Loader."""
        run = self._reader.next_run()
        self._in_memory = self._in_memory or run is not None
        return run

    def next_record(self) -> Any:
        """The reader's, for the Loader."""
        record = self._reader.next_record()
        if isinstance(record, libxc.PageData):
            self._in_memory = True
        elif record is not None and not isinstance(record, _MARKS):
            self._note(record)
        if self._reader.checkpoints > self._checkpoints:
            self._checkpoints = self._reader.checkpoints
            self._take_over()
        return record

    def _note(self, record: Any) -> None:
        if isinstance(record, xenopsd.Blob):
            record = record._replace(data=in_memory(record.data, self._reader.limits.body_length))
        key = (type(record),) + tuple(getattr(record, name, None) for name in _KEYS)
        noted = self._behind if self._in_memory else self._before
        if key in noted:
            self._bytes -= _size(noted[key][1])
        noted[key] = self._reader.layer, record
        self._bytes += _size(record)
        if len(noted) > _MOST_RECORDS or self._bytes > self._reader.limits.record_length:
            raise LimitExceeded("records beside memory larger than the limit", layer=self._reader.layer,
                                offset=self._reader.offset, record=self._reader.index,
                                expected="at most {} bytes".format(self._reader.limits.record_length))

    def _take_over(self) -> None:
        """What stands behind memory counts now. A p2m that has grown is wanted before memory."""
        frames = {key: noted for key, noted in self._behind.items() if isinstance(noted[1], libxc.P2MFrames)}
        self._before.update(frames)
        self._bytes -= sum(_size(noted[1]) for noted in (self._complete or {}).values())
        self._complete = {key: noted for key, noted in self._behind.items() if key not in frames}
        self._behind = {}


def _size(record: Any) -> int:
    """Bytes of a record's blobs."""
    return sum(len(value) for value in record if isinstance(value, (bytes, bytearray, memoryview)))


def write_squashed(reader: SquashedReader, target: Any, formats: Tuple[str, ...]) -> None:
    """Give a target of rewrapping what it wants, in order."""
    memory: Optional[Writer] = None
    for layer, record in reader.records(formats):
        if layer != libxc.LAYER:
            target.take(layer, record)
            continue
        if memory is None:
            memory = target.begin_memory()
        target.write_memory(memory, record)

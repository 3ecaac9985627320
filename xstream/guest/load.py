"""A stream's final guest memory: every batch applied in order, up to the end or the last complete checkpoint."""
import struct
import tempfile
from typing import IO, Any, Callable, Iterator, NamedTuple, Optional, Tuple

from xstream.errors import MemoryMismatch, StreamError, TruncatedStream
from xstream.guest.memory import Applied, GuestMemory
from xstream.guest.tables import checked_tables
from xstream.limits import Limits
from xstream.stream.reader import Reader
from xstream.stream.source import ObjectSource, pieces
from xstream.wire.libxc import PAGE_SIZE, Checkpoint, PageData

#: Pages of an unfinished checkpoint kept in memory; beyond it they go to an unnamed temporary file.
_SPOOL_MEMORY = 16 << 20
_SIZES = struct.Struct("<QQ")  # of a spooled batch: PFN words, pages
#: PFNs that a failed comparison names.
_NAMED_PFNS = 16


class Loaded(NamedTuple):
    """What loading a stream did, in pages: written, written over an earlier copy, compared (after VERIFY); some of the
    PFNs that differed then; checkpoints taken over."""

    data: int = 0
    resent: int = 0
    compared: int = 0
    differing: Tuple[int, ...] = ()
    checkpoints: int = 0


class Spool:
    """Batches of a checkpoint that isn't complete yet, in bounded memory however many there are."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_SPOOL_MEMORY)

    def close(self) -> None:
        self._file.close()

    def add(self, record: PageData) -> None:
        self._file.write(_SIZES.pack(len(record.words), len(record.data)))
        self._file.write(record.words)
        for piece in pieces(record.data):
            self._file.write(piece)

    def drain(self) -> Iterator[PageData]:
        """The batches in order, each good until the next; then the spool is empty."""
        self._file.seek(0)
        source = ObjectSource(self._file)
        while not source.at_end():
            words_size, data_size = _SIZES.unpack(source.need(_SIZES.size))
            source.advance(_SIZES.size)
            words = bytes(source.need(words_size))
            yield PageData(words, source.page_data(words_size, data_size))
        self._file.seek(0)
        self._file.truncate()


class Loader:
    """Applies a Reader's stream to a GuestMemory.

    Behind VERIFY, pages are compared and not written; with ``strict`` reading a difference is a MemoryMismatch, else
    the first are named in ``Loaded.differing`` (Xen's restorer logs and goes on). In a checkpointed stream what stands
    behind a CHECKPOINT takes effect with the next one.
    """

    def __init__(self, reader: Reader, memory: GuestMemory) -> None:
        self.reader = reader
        self.memory = memory
        self.loaded = Loaded()
        self._spool: Optional[Spool] = None

    def run(self, progress: Callable[[int], Any] = lambda offset: None) -> Loaded:
        """Load everything; ``progress`` is told the absolute offset reached, once a batch. Raises StreamError's kin."""
        try:
            while self._step():
                progress(self.reader.source.offset)
        except TruncatedStream:
            # Pages cut off behind a complete checkpoint are void, like all that stands there.
            if not self.reader.checkpoints:
                raise
        finally:
            if self._spool is not None:
                self._spool.close()
        return self.loaded

    def _step(self) -> bool:
        reader = self.reader
        if self._spool is None and not reader.verifying and not reader.pt_levels:
            run = reader.next_run()
            if run is not None:
                self._count(self.memory.apply_run(run))
                return True
        record = reader.next_record()
        if isinstance(record, PageData):
            if self._spool is not None:
                self._spool.add(record)
            else:
                self._page_data(record)
        elif isinstance(record, Checkpoint):
            self._checkpoint()
        return record is not None

    def _page_data(self, record: PageData) -> None:
        try:
            record = checked_tables(self.reader, record)
            if self.reader.verifying:
                self._compare(record)
            else:
                self._count(self.memory.apply(record))
        except StreamError as error:
            raise error.located(layer=self.reader.layer, record=self.reader.index, record_type="PAGE_DATA",
                                base=0 if isinstance(error, TruncatedStream) else self.reader.offset)

    def _count(self, applied: Applied) -> None:
        self.loaded = self.loaded._replace(data=self.loaded.data + applied.data,
                                           resent=self.loaded.resent + applied.resent)

    def _compare(self, record: PageData) -> None:
        pages = len(record.data) // PAGE_SIZE
        differing = self.memory.compare(record)
        self.loaded = self.loaded._replace(compared=self.loaded.compared + pages)
        if len(self.loaded.differing) < _NAMED_PFNS:
            self.loaded = self.loaded._replace(differing=self.loaded.differing + tuple(differing[:_NAMED_PFNS]))
        if len(differing) and self.reader.strict:
            raise MemoryMismatch("{} of {} pages differ from those sent before".format(len(differing), pages),
                                 pfns=list(differing[:_NAMED_PFNS]), field="page",
                                 got="PFNs " + ", ".join(hex(pfn) for pfn in differing[:_NAMED_PFNS]))

    def _checkpoint(self) -> None:
        if self._spool is not None:
            for record in self._spool.drain():
                self._page_data(record)
        else:
            self._spool = Spool()
        self.loaded = self.loaded._replace(checkpoints=self.loaded.checkpoints + 1)


def load(source: Any, memory: GuestMemory, **options: Any) -> Loaded:
    """Load a stream's final memory into ``memory``. ``source`` and ``options`` are Reader's."""
    options.setdefault("limits", Limits(guest_pfns=memory.limit))
    with Reader(source, **options) as reader:
        return Loader(reader, memory).run()

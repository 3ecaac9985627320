"""A stream's final guest memory: every batch applied in order, up to the end or the last complete checkpoint."""
import struct

from xstream.containers.opening import AnyReader, reading
from xstream.containers.reader import NestedReader
from xstream.errors import MemoryMismatch, StreamError, TruncatedStream
from xstream.guest.deltas import DeltaDecoder
from xstream.guest.memory import GuestMemory
from xstream.guest.parallel import Applied, Workers
from xstream.guest.tables import checked_tables
from xstream.kernels import pfns as pfn_kernel
from xstream.kernels.buffers import uint64
from xstream.limits import Limits
from xstream.stream.framed import FramedSource, name_pages
from xstream.stream.reader import from_legacy
from xstream.stream.source import ObjectSource, PendingPages, pieces
from xstream.stream.threads import usable_cpus
from xstream.tuples import NamedTuple
from xstream.wire.legacy import CompressedBatch, CompressedPages, UnmappedPfns
from xstream.wire.libxc import PAGE_SIZE, PageData, data_pfns
from xstream.wire.pending import in_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Callable, Iterator, Optional, Tuple, Union

    from xstream.stream.types import StreamLike
    from xstream.wire.formats import AnyRecord
    from xstream.wire.frames import Buffer

#: Pages of an unfinished checkpoint kept in memory; beyond it they go to an unnamed temporary file.
_SPOOL_MEMORY = 16 << 20
#: Of a spooled record: which of SPOOLED, whether it came after VERIFY, bytes of PFN words and of pages.
_HEAD = struct.Struct("<B?QQ")
#: PFNs that a failed comparison names.
_NAMED_PFNS = 16


class Loaded(NamedTuple):
    """What loading a stream did, in pages: written, written over an earlier copy, compared (after VERIFY); some of the
    PFNs that differed then; checkpoints taken over."""

    data: int = 0
    resent: int = 0
    compared: int = 0
    differing: "Tuple[int, ...]" = ()
    checkpoints: int = 0


#: The classes of records that carry memory, which a Spool holds until their checkpoint is complete.
SPOOLED = (PageData, CompressedBatch, CompressedPages)


def _temporary_file() -> "IO[bytes]":
    """An anonymous file, in memory while it is small."""
    import tempfile  # few streams need one
    return tempfile.SpooledTemporaryFile(max_size=_SPOOL_MEMORY)


class Spool:
    """Records of a checkpoint that isn't complete yet, in bounded memory however many there are.

    ``verifying``: whether VERIFY had come before the record that ``drain`` yielded last.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = _temporary_file()
        self.verifying = False

    def close(self) -> None:
        self._file.close()

    def add(self, record: "AnyRecord", verifying: bool = False) -> None:
        """Store a record of a class in SPOOLED; reads its data. ``verifying``: VERIFY has come before it."""
        words, data = getattr(record, "words", b""), getattr(record, "data", b"")
        self._file.write(_HEAD.pack(SPOOLED.index(type(record)), verifying, len(words), len(data)))
        self._file.write(words)
        for piece in pieces(data):
            self._file.write(piece)

    def drain(self) -> "Iterator[Union[PageData, CompressedBatch, CompressedPages]]":
        """Yield the records in order, each valid until the next; then the spool is empty."""
        self._file.seek(0)
        source = ObjectSource(self._file)
        while not source.at_end():
            kind, self.verifying, words_size, data_size = _HEAD.unpack(source.need(_HEAD.size))
            source.advance(_HEAD.size)
            words = bytes(source.need(words_size))
            data = source.page_data(words_size, data_size)
            yield (PageData(words, data), CompressedBatch(words), CompressedPages(data))[kind]
        self._file.seek(0)
        self._file.truncate()


class _Unmapped:
    """The PFNs that the tails of a legacy PV stream list as unmapped. The last complete list takes effect."""

    def __init__(self) -> None:
        self._complete: Optional[IO[bytes]] = None
        self._coming: Optional[IO[bytes]] = None

    def add(self, record: UnmappedPfns) -> None:
        if self._coming is None:
            self._coming = _temporary_file()
        self._coming.write(record.pfns)

    def complete(self) -> None:
        """The tail is complete."""
        if self._complete is not None:
            self._complete.close()
        self._complete, self._coming = self._coming, None

    def apply(self, memory: GuestMemory) -> None:
        """Remove these PFNs from the memory."""
        if self._complete is not None:
            self._complete.seek(0)
            while True:
                pfns = self._complete.read(1 << 18)
                if not pfns:
                    return
                memory.forget(pfns)

    def close(self) -> None:
        for file in (self._complete, self._coming):
            if file is not None:
                file.close()


class Loader:
    """Applies a reader's stream to a GuestMemory.

    After VERIFY, pages are compared, not written. If the reader is strict a difference raises MemoryMismatch; otherwise
    ``Loaded.differing`` lists the first ones (Xen's restorer logs them and continues). In a checkpointed stream, what
    follows a complete checkpoint takes effect with the next one. ``jobs``: threads that decompress pages, and copy
    those of a batch where they are in memory; what is loaded, and every error, is the same with any number. After an
    error, batches that follow the faulty one may have been applied.
    """

    def __init__(self, reader: "AnyReader", memory: GuestMemory, *,
                 on_record: "Callable[[Optional[AnyRecord]], object]" = lambda record: None, jobs: int = 1) -> None:
        self.reader = reader
        self.memory = memory
        self.loaded = Loaded()
        self._pages = self._resent = 0
        self._on_record = on_record
        self._workers = Workers(jobs)
        self._spool: Optional[Spool] = None
        self._deltas = DeltaDecoder(memory, reader.limits)
        self._unmapped = _Unmapped()

    def run(self, progress: "Callable[[int], object]" = lambda offset: None) -> Loaded:
        """Load everything. ``progress`` is called with the absolute offset reached after each batch or run. Raises
        StreamError or a subclass."""
        try:
            with self._workers:
                try:
                    self._load(progress)
                except StreamError:
                    self._workers.wait()  # what is wrong with pages that came before is the first error
                    raise
            self._unmapped.apply(self.memory)
        finally:
            self._unmapped.close()
            if self._spool is not None:
                self._spool.close()
        self.loaded = self.loaded._replace(data=self._pages, resent=self._resent)
        return self.loaded

    def _load(self, progress: "Callable[[int], object]") -> None:
        try:
            while self._step():
                progress(self.reader.source.offset)
        except TruncatedStream:
            # Pages that are cut off after a complete checkpoint are void, like everything else there.
            if not self.reader.checkpoints:
                raise
        if not self.reader.checkpoints:
            self._unmapped.complete()
        self._workers.wait()
        if isinstance(self.reader, NestedReader):
            self.reader.look_ahead()  # raises where there was no memory
        self.reader.check_whole()

    def _step(self) -> bool:
        reader = self.reader
        if self._spool is None and not reader.verifying and not reader.pt_levels:
            run = reader.next_run()
            if run is not None:
                self._count(self.memory.apply_run(run, self._workers))
                return True
        record = reader.next_record()
        if isinstance(record, SPOOLED):
            if self._spool is not None:
                self._spool.add(record, reader.verifying)
            else:
                self._apply(record)
        elif isinstance(record, UnmappedPfns):
            self._unmapped.add(record)
        elif reader.checkpoints > self.loaded.checkpoints:
            self._checkpoint()
        self._on_record(record)
        return record is not None

    def _apply(self, record: "Union[PageData, CompressedBatch, CompressedPages]") -> None:
        if isinstance(record, PageData):
            self._page_data(record)
            return
        self._workers.wait()
        try:
            for batch in (self._deltas.pages(record.data) if isinstance(record, CompressedPages)
                          else self._deltas.batch(record.words)):
                self._page_data(batch)
        except StreamError as error:
            self._locate(error)
            raise

    def _page_data(self, record: PageData) -> None:
        gone = taken_back(self.reader, record)
        if gone is not None:
            self._workers.wait()
            self.memory.forget(gone)
            return
        try:
            record = checked_tables(self.reader, record)
            if self._verifying:
                self._compare(record)
            else:
                self._count(self.memory.apply(record, self._workers))
        except StreamError as error:
            self._locate(error)
            raise name_pages(error, data_pfns(record.words))

    @property
    def _verifying(self) -> bool:
        """Whether the pages that are being applied are for comparison."""
        return self.reader.verifying if self._spool is None else self._spool.verifying

    def _locate(self, error: StreamError) -> None:
        if error.layer is None:
            error.located(layer=self.reader.layer, record=self.reader.index, record_type="PAGE_DATA",
                          base=0 if isinstance(error, TruncatedStream) else self.reader.offset)

    def _count(self, applied: Applied) -> None:
        # Plain counters rather than _replace(): this runs once for each batch.
        self._pages += applied.data
        self._resent += applied.resent

    def _compare(self, record: PageData) -> None:
        self._workers.wait()
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
                self._apply(record)
            try:
                self._deltas.end()
            except StreamError as error:
                self._locate(error)
                raise
        else:
            self._spool = Spool()
        self._unmapped.complete()
        self.loaded = self.loaded._replace(checkpoints=self.loaded.checkpoints + 1)


class SalvageLoader(Loader):
    """A Loader that takes what is whole. A batch is applied once all of its pages have been read; of one that the
    input's end cuts off, the pages before the end are applied, and TruncatedStream is raised, whatever the source. Of a
    compressed image with damaged page data the other batches are applied; ``damage`` is the first such error then."""

    def __init__(self, reader: "AnyReader", memory: GuestMemory, *, jobs: int = 1) -> None:
        super().__init__(reader, memory, jobs=jobs)
        self._image = reader.source if isinstance(reader.source, FramedSource) else None
        if self._image is not None:
            self._image.forgiving = True

    @property
    def damage(self) -> "Optional[StreamError]":
        """The first error in page data that did not end the reading, or None."""
        return None if self._image is None else self._image.damage

    def _load(self, progress: "Callable[[int], object]") -> None:
        try:
            super()._load(progress)
        except TruncatedStream:
            if self.reader.cut is not None:
                self._cut(self.reader.cut)
            raise

    def _page_data(self, record: PageData) -> None:
        if not isinstance(record.data, PendingPages):
            super()._page_data(record)
            return
        damaged = 0 if self._image is None else self._image.damaged
        try:
            data, end = record.data.available()
        except StreamError as error:
            self._locate(error)
            raise
        record = PageData(record.words, data)
        if self._image is not None and self._image.damaged > damaged and self._image.damage is not None:
            name_pages(self._image.damage, data_pfns(record.words))
        elif end is None:
            super()._page_data(record)
        else:
            self._cut(record)
        if end is not None:
            self._locate(end)
            raise end

    def _cut(self, record: PageData) -> None:
        """Apply what is whole of a batch whose data is cut off: its words except those of the pages that are lost."""
        if self._spool is not None or self.reader.verifying:
            return  # in an unfinished checkpoint, or sent for comparison only
        data = memoryview(in_memory(record.data))
        pages = len(data) // PAGE_SIZE
        self._count(self.memory.apply(PageData(_first_words(record.words, pages), data[:pages * PAGE_SIZE])))


def _first_words(words: "Buffer", pages: int) -> bytes:
    """PFN words without those that carry data beyond the first ``pages`` ones."""
    kept = bytearray()
    for at in range(0, len(words), 8):
        word = words[at:at + 8]
        carries = pfn_kernel.count_data(word)
        if pages or not carries:
            kept += word
        pages -= carries if pages else 0
    return bytes(kept)


def taken_back(reader: "AnyReader", record: PageData) -> "Optional[memoryview]":
    """The PFNs (uint64) that a batch removes from the guest's memory, or None.

    Converted streams have batches of XTAB entries alone for the PFNs that a legacy stream's tail lists as unmapped. In
    Xen's own streams XTAB removes nothing."""
    if len(record.data) or not from_legacy(reader):
        return None
    pfns, types = uint64(record.pfn_count), bytearray(record.pfn_count)
    pfn_kernel.unpack(record.words, pfns, types)
    return pfns if types.count(0xF) == len(types) else None


def load(source: "StreamLike", memory: GuestMemory, *, format: "Optional[str]" = None,
         limits: "Optional[Limits]" = None, strict: bool = False, checkpointed: bool = False,
         width: "Optional[int]" = None, guest: "Optional[str]" = None, jobs: "Optional[int]" = None) -> Loaded:
    """Load a stream's final memory into ``memory``.

    ``source`` and the arguments that aren't described here are those of :func:`xstream.open`; a reader is read to its
    end and stays open.

    - ``limits``: default: the usual ones, with as many PFNs as ``memory`` may have;
    - ``jobs``: threads that decompress and copy pages; default: one for each CPU that this process may use. The result
      and every error are the same with any number.

    Raises StreamError or a subclass, IncompleteStream for a stream without the records that a guest needs to run, and
    OSError for failures of the source.
    """
    with reading(source, format=format, limits=limits or Limits(guest_pfns=memory.limit), strict=strict,
                 checkpointed=checkpointed, width=width, guest=guest, jobs=jobs) as reader:
        return Loader(reader, memory, jobs=usable_cpus() if jobs is None else jobs).run()

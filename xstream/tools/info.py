"""What is this stream? Headers, records, pages by type."""
import contextlib
import struct
import tempfile
from typing import IO, Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from xstream.containers.opening import AnyReader, open_stream
from xstream.errors import TruncatedStream
from xstream.guest.load import taken_back
from xstream.guest.memory import GuestMemory
from xstream.guest.tables import from_legacy
from xstream.kernels import pages as page_kernel
from xstream.kernels import pfns as pfn_kernel
from xstream.limits import Limits
from xstream.stream.reader import Layer, PageRun
from xstream.stream.source import PendingPages, pieces
from xstream.wire.formats import record_name
from xstream.wire.legacy import CompressedBatch, UnmappedPfns
from xstream.wire.libxc import PAGE_SIZE, PAGE_TYPES, PageData

#: Rows of the record list; a stream that alternates its records without end must not fill memory.
_MOST_ROWS = 10000
#: PFNs of an unfinished checkpoint kept in memory, in bytes; beyond it they go to an unnamed temporary file.
_HELD_MEMORY = 1 << 20
_HEAD = struct.Struct("<BQ")  # of PFNs that are held: what becomes of them, their bytes
_SENT, _COMPARED, _TAKEN_BACK = range(3)


class RecordRow(NamedTuple):
    """Neighbouring records of one layer and type: index in the layer and offset of the ``first``, how many, their bytes
    with frames."""

    layer: str
    first: int
    offset: int
    type: str
    records: int
    bytes: int
    pfns: int
    pages: int


class InfoReport(NamedTuple):
    """What a stream holds. Pages: ``sent`` in all, ``zero`` among those; by the end, which is that of the last complete
    checkpoint where there are any, ``populated``, ``highest_pfn``, ``resent`` over an earlier copy and ``types``:
    mentioned PFNs by their last type. ``sizes``: bytes by layer and kind of record. ``more_rows``: rows left out of
    ``records``. ``layers``: what lies in what, outermost first; ``format`` is the outermost's, ``version``, ``guest``
    and ``made_by`` are the memory stream's."""

    format: str
    version: int
    guest: str
    made_by: str
    bytes: int
    highest_pfn: int
    populated: int
    sent: int
    resent: int
    zero: int
    verified: int
    checkpoints: int
    types: Dict[str, int]
    sizes: Dict[str, Dict[str, int]]
    records: List[RecordRow]
    more_rows: int
    layers: Tuple[Layer, ...]


class _Pfns:
    """What has become of each PFN by the end, or by the last complete checkpoint."""

    def __init__(self, limits: Limits) -> None:
        self.memory = GuestMemory(limit=limits.guest_pfns)
        self.resent = 0
        self._held: Optional[IO[bytes]] = None
        self._checkpoints = 0

    def close(self) -> None:
        if self._held is not None:
            self._held.close()

    def take(self, kind: int, pfns: Any) -> None:
        """Words of PFNs that were sent or compared, or PFNs that are taken back."""
        if self._held is None:
            self._apply(kind, pfns)
        else:
            self._held.write(_HEAD.pack(kind, len(pfns)))
            self._held.write(pfns)

    def follow(self, checkpoints: int) -> None:
        """So many checkpoints are complete: what came before is valid, what comes is not yet."""
        if checkpoints == self._checkpoints:
            return
        self._checkpoints = checkpoints
        if self._held is None:
            self._held = tempfile.SpooledTemporaryFile(max_size=_HELD_MEMORY)
        self._held.seek(0)
        while True:
            head = self._held.read(_HEAD.size)
            if not head:
                break
            kind, size = _HEAD.unpack(head)
            self._apply(kind, self._held.read(size))
        self._held.seek(0)
        self._held.truncate()

    def _apply(self, kind: int, pfns: Any) -> None:
        if kind == _TAKEN_BACK:
            self.memory.forget(pfns)
            return
        applied = self.memory.mark(pfns)
        if kind == _SENT:
            self.resent += applied.resent


class _Survey:
    """Gathers the figures record by record."""

    def __init__(self, limits: Limits) -> None:
        self.pfns = _Pfns(limits)
        self.sent = self.zero = self.verified = self.more_rows = 0
        self.rows: List[RecordRow] = []
        self.sizes: Dict[str, Dict[str, int]] = {}
        self._zero_indexes = memoryview(bytearray(8)).cast("Q")

    def run(self, reader: AnyReader, run: PageRun) -> None:
        for at in range(0, len(run.extents), 2):
            offset = run.extents[at]
            self._scan(run.data[offset:offset + run.extents[at + 1] * PAGE_SIZE])
        self._words(reader, run.words)
        self._row(RecordRow(reader.layer, reader.index - run.records + 1, reader.offset, "PAGE_DATA", run.records,
                            len(run.data), len(run.words) // 8, run.pages))

    def record(self, reader: AnyReader, record: Any) -> None:
        name = record_name(reader.layer, record)
        data = getattr(record, "data", None)
        size = reader.source.offset - reader.offset + (len(data) if isinstance(data, PendingPages) else 0)
        pfns = pages = 0
        if isinstance(record, PageData):
            pfns, pages = record.pfn_count, len(record.data) // PAGE_SIZE
            for piece in pieces(record.data):
                self._scan(piece)
            gone = taken_back(reader, record)
            if gone is not None:
                self.pfns.take(_TAKEN_BACK, gone)
            else:
                self._words(reader, record.words)
        elif isinstance(record, CompressedBatch):
            pfns, pages = len(record.words) // 8, pfn_kernel.count_data(record.words)
            self._words(reader, record.words)
        elif isinstance(record, UnmappedPfns):
            pfns = len(record.pfns) // 8
            self.pfns.take(_TAKEN_BACK, record.pfns)
        self.pfns.follow(reader.checkpoints)
        self._row(RecordRow(reader.layer, reader.index, reader.offset, name, 1, size, pfns, pages))

    def _words(self, reader: AnyReader, words: Any) -> None:
        pages = pfn_kernel.count_data(words)
        if reader.verifying:
            self.verified += pages
        else:
            self.sent += pages
        self.pfns.take(_COMPARED if reader.verifying else _SENT, words)

    def _scan(self, data: Any) -> None:
        if len(data) // PAGE_SIZE > len(self._zero_indexes):
            self._zero_indexes = memoryview(bytearray(len(data) // PAGE_SIZE * 8)).cast("Q")
        self.zero += page_kernel.zero_pages(data, self._zero_indexes)

    def _row(self, row: RecordRow) -> None:
        sizes = self.sizes.setdefault(row.layer, {})
        sizes[row.type] = sizes.get(row.type, 0) + row.bytes
        last = self.rows[-1] if self.rows else None
        if last is not None and (last.layer, last.type, last.first + last.records) == (row.layer, row.type, row.first):
            self.rows[-1] = last._replace(records=last.records + row.records, bytes=last.bytes + row.bytes,
                                          pfns=last.pfns + row.pfns, pages=last.pages + row.pages)
        elif len(self.rows) < _MOST_ROWS:
            self.rows.append(row)
        else:
            self.more_rows += 1


def info(source: Any, *, limits: Limits = Limits(), progress: Callable[[int], Any] = lambda offset: None,
         **options: Any) -> InfoReport:
    """Survey a whole stream; ``source`` and ``options`` are those of xstream.open, but checkpoints need not be
    announced.

    Page data is read once, to find zero pages. Raises StreamError's kin.
    """
    options.setdefault("checkpointed", True)
    survey = _Survey(limits)
    with open_stream(source, limits=limits, **options) as reader, contextlib.closing(survey.pfns):
        while True:
            # Small batches at once, but for those that may take PFNs back.
            run = None if reader.pt_levels and from_legacy(reader) else reader.next_run()
            if run is not None:
                survey.run(reader, run)
            else:
                record = reader.next_record()
                if record is None:
                    break
                try:
                    survey.record(reader, record)
                except TruncatedStream:
                    # Pages cut off behind a complete checkpoint are void, like all that stands there.
                    if not reader.checkpoints:
                        raise
                    break
            progress(reader.source.offset)
        return _report(reader, survey)


def _report(reader: AnyReader, survey: _Survey) -> InfoReport:
    memory = survey.pfns.memory
    histogram = pfn_kernel.type_histogram(memory.state)
    return InfoReport(
        *reader.identity, bytes=reader.source.offset, highest_pfn=len(memory) - 1, populated=memory.populated_count,
        sent=survey.sent, resent=survey.pfns.resent, zero=survey.zero, verified=survey.verified,
        checkpoints=reader.checkpoints,
        types={PAGE_TYPES[code]: count for code, count in enumerate(histogram) if count}, sizes=survey.sizes,
        records=survey.rows, more_rows=survey.more_rows, layers=reader.layers)

"""What is this stream? Headers, records, pages by type."""
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

from xstream.errors import TruncatedStream
from xstream.guest.memory import Applied, GuestMemory
from xstream.kernels import pages as page_kernel
from xstream.kernels import pfns as pfn_kernel
from xstream.limits import Limits
from xstream.stream.opening import AnyReader, open_stream
from xstream.stream.reader import Layer, PageRun
from xstream.stream.source import PendingPages, pieces
from xstream.wire.formats import record_name
from xstream.wire.legacy import CompressedBatch, UnmappedPfns
from xstream.wire.libxc import PAGE_SIZE, PAGE_TYPES, PageData

#: Rows of the record list; a stream that alternates its records without end must not fill memory.
_MOST_ROWS = 10000


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
    """What a stream holds. Pages: ``populated`` by the end, ``sent`` in all, ``resent`` over an earlier copy,
    ``zero`` among those sent. ``types``: mentioned PFNs by their last type. ``sizes``: bytes by layer and kind of
    record. ``more_rows``: rows left out of ``records``. ``layers``: what lies in what, outermost first; ``format`` is
    the outermost's, ``version``, ``guest`` and ``made_by`` are the memory stream's."""

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


class _Survey:
    """Gathers the figures record by record."""

    def __init__(self, limits: Limits) -> None:
        self.memory = GuestMemory(limit=limits.guest_pfns)
        self.sent = self.resent = self.zero = self.verified = self.more_rows = 0
        self.rows: List[RecordRow] = []
        self.sizes: Dict[str, Dict[str, int]] = {}
        self._zero_indexes = memoryview(bytearray(8)).cast("Q")

    def run(self, reader: AnyReader, run: PageRun) -> None:
        for at in range(0, len(run.extents), 2):
            offset = run.extents[at]
            self._scan(run.data[offset:offset + run.extents[at + 1] * PAGE_SIZE])
        self._pages(reader, self.memory.mark(run.words))
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
            self._pages(reader, self.memory.mark(record.words))
        elif isinstance(record, CompressedBatch):
            applied = self.memory.mark(record.words)
            pfns, pages = len(record.words) // 8, applied.data
            self._pages(reader, applied)
        elif isinstance(record, UnmappedPfns):
            pfns = len(record.pfns) // 8
            self.memory.forget(record.pfns)
        self._row(RecordRow(reader.layer, reader.index, reader.offset, name, 1, size, pfns, pages))

    def _pages(self, reader: AnyReader, applied: Applied) -> None:
        if reader.verifying:
            self.verified += applied.data
        else:
            self.sent += applied.data
            self.resent += applied.resent

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
    with open_stream(source, limits=limits, **options) as reader:
        survey = _Survey(limits)
        while True:
            run = reader.next_run()
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
    memory = survey.memory
    histogram = pfn_kernel.type_histogram(memory.state)
    return InfoReport(
        *reader.identity, bytes=reader.source.offset, highest_pfn=len(memory) - 1, populated=memory.populated_count,
        sent=survey.sent,
        resent=survey.resent, zero=survey.zero, verified=survey.verified, checkpoints=reader.checkpoints,
        types={PAGE_TYPES[code]: count for code, count in enumerate(histogram) if count}, sizes=survey.sizes,
        records=survey.rows, more_rows=survey.more_rows, layers=reader.layers)

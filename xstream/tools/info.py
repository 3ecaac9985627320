"""What a stream is and what it holds: headers, records, pages by type."""
import contextlib
import struct
import tempfile

from xstream.containers.opening import AnyReader, reading
from xstream.errors import StreamError, TruncatedStream
from xstream.guest.load import taken_back
from xstream.guest.memory import GuestMemory
from xstream.kernels import pages as page_kernel
from xstream.kernels import pfns as pfn_kernel
from xstream.limits import Limits
from xstream.stream.reader import Layer, PageRun, from_legacy, without_cut_record
from xstream.stream.seekable import SeekableSource
from xstream.stream.source import pieces
from xstream.tuples import NamedTuple
from xstream.wire.formats import record_name
from xstream.wire.legacy import CompressedBatch, UnmappedPfns
from xstream.wire.libxc import PAGE_SIZE, PAGE_TYPES, PageData

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Callable, Dict, List, Optional, Tuple

    from xstream.stream.types import StreamLike
    from xstream.wire.formats import AnyRecord
    from xstream.wire.frames import Buffer

#: Rows of the record list, and record types that are counted one by one: a hostile stream has any number of either.
_MOST_ROWS = 10000
_MOST_TYPES = 1000
_OTHER_TYPES = "other types"
#: Bytes of an unfinished checkpoint's PFNs that are kept in memory; more go to an unnamed temporary file.
_HELD_MEMORY = 1 << 20
_HEAD = struct.Struct("<BQ")  # of PFNs kept for later: _SENT, _COMPARED or _TAKEN_BACK, and their size in bytes
_SENT, _COMPARED, _TAKEN_BACK = range(3)


class RecordRow(NamedTuple):
    """Consecutive records of one layer and type: the index in the layer of the ``first`` and its absolute offset, their
    number, and their size in bytes including frames."""

    layer: str
    first: int
    offset: int
    type: str
    records: int
    bytes: int
    pfns: int
    pages: int


class InfoReport(NamedTuple):
    """What a stream holds.

    - ``format``: the outermost layer's; ``version``, ``guest``, ``made_by``: the memory stream's;
    - ``sent``: pages in the stream; ``zero``: those that are all zeros, None if pages weren't read; ``verified``: those
      sent only for comparison;
    - as of the end, or of the last complete checkpoint: ``populated`` PFNs, the ``highest_pfn``, pages ``resent`` over
      an earlier copy, and ``types``: the number of mentioned PFNs by their last page type;
    - ``sizes``: bytes by layer and record type; ``records``: the first 10000 rows; ``more_rows``: the number of others;
    - ``layers``: outermost first;
    - ``missing``: records that a guest can't run without and that haven't come;
    - ``unread``: what follows that can't be read, in words, or None;
    - ``error``: what ended the reading before the end of the stream, or None; the rest of the report describes the
      stream up to there.
    """

    format: str
    version: int
    guest: str
    made_by: str
    bytes: int
    highest_pfn: int
    populated: int
    sent: int
    resent: int
    zero: "Optional[int]"
    verified: int
    checkpoints: int
    types: "Dict[str, int]"
    sizes: "Dict[str, Dict[str, int]]"
    records: "List[RecordRow]"
    more_rows: int
    layers: "Tuple[Layer, ...]"
    missing: "Tuple[str, ...]"
    unread: "Optional[str]"
    error: "Optional[StreamError]"


class _Pfns:
    """The state of each PFN as of the end, or of the last complete checkpoint."""

    def __init__(self, limits: Limits) -> None:
        self.memory = GuestMemory(limit=limits.guest_pfns)
        self.resent = 0
        self._held: Optional[IO[bytes]] = None
        self._checkpoints = 0

    def close(self) -> None:
        if self._held is not None:
            self._held.close()

    def take(self, kind: int, pfns: "Buffer") -> None:
        """Apply PFN words that were sent or compared, or PFNs that are taken back; once there are checkpoints, at the
        next one."""
        if self._held is None:
            self._apply(kind, pfns)
        else:
            self._held.write(_HEAD.pack(kind, len(pfns)))
            self._held.write(pfns)

    def follow(self, checkpoints: int) -> None:
        """Apply what was kept if another checkpoint has become complete."""
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

    def _apply(self, kind: int, pfns: "Buffer") -> None:
        if kind == _TAKEN_BACK:
            self.memory.forget(pfns)
            return
        applied = self.memory.mark(pfns)
        if kind == _SENT:
            self.resent += applied.resent


class Survey:
    """Collects the figures record by record."""

    #: Whether page data is read, to find zero pages.
    reads_pages = True

    def __init__(self, limits: Limits) -> None:
        self.pfns = _Pfns(limits)
        self.sent = self.zero = self.verified = self.more_rows = 0
        self.cut = False  # whether the last record's data is cut off
        self.end = 0  # offset of the end of the last complete record
        self.rows: List[RecordRow] = []
        self.sizes: Dict[str, Dict[str, int]] = {}
        self._zero_indexes = memoryview(bytearray(8)).cast("Q")

    def run(self, reader: AnyReader, run: PageRun) -> None:
        for at in range(0, len(run.extents) if self.reads_pages else 0, 2):
            offset = run.extents[at]
            self.scan(run.data[offset:offset + run.extents[at + 1] * PAGE_SIZE])
        self._words(reader, run.words)
        self._row(RecordRow(reader.layer, reader.index - run.records + 1, reader.offset, "PAGE_DATA", run.records,
                            run.size, len(run.words) // 8, run.pages))

    def record(self, reader: AnyReader, record: "AnyRecord") -> None:
        name = record_name(reader.layer, record)
        size = reader.source.offset - reader.offset
        pfns = pages = 0
        if isinstance(record, PageData):
            pfns, pages = record.pfn_count, len(record.data) // PAGE_SIZE
            for piece in pieces(record.data) if self.reads_pages else ():
                self.scan(piece)
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

    def _words(self, reader: AnyReader, words: "Buffer") -> None:
        pages = pfn_kernel.count_data(words)
        if reader.verifying:
            self.verified += pages
        else:
            self.sent += pages
        self.pfns.take(_COMPARED if reader.verifying else _SENT, words)

    def scan(self, data: "Buffer") -> None:
        """Read whole pages."""
        if len(data) // PAGE_SIZE > len(self._zero_indexes):
            self._zero_indexes = memoryview(bytearray(len(data) // PAGE_SIZE * 8)).cast("Q")
        self.zero += page_kernel.zero_pages(data, self._zero_indexes)

    def _row(self, row: RecordRow) -> None:
        sizes = self.sizes.setdefault(row.layer, {})
        kind = row.type if row.type in sizes or len(sizes) < _MOST_TYPES else _OTHER_TYPES
        sizes[kind] = sizes.get(kind, 0) + row.bytes
        last = self.rows[-1] if self.rows else None
        if last is not None and (last.layer, last.type, last.first + last.records) == (row.layer, row.type, row.first):
            self.rows[-1] = last._replace(records=last.records + row.records, bytes=last.bytes + row.bytes,
                                          pfns=last.pfns + row.pfns, pages=last.pages + row.pages)
        elif len(self.rows) < _MOST_ROWS:
            self.rows.append(row)
        else:
            self.more_rows += 1


def info(source: "StreamLike", *, format: "Optional[str]" = None, limits: Limits = Limits(), strict: bool = False,
         checkpointed: bool = True, width: "Optional[int]" = None, guest: "Optional[str]" = None,
         progress: "Callable[[int], object]" = lambda offset: None) -> InfoReport:
    """Survey a whole stream. The parameters are those of xstream.open; ``progress`` is called with the offset reached.

    Page data is read once, to find zero pages, but not that of a compressed image with a table. A stream that is cut or
    damaged is described up to the fault, which is the report's ``error``. Raises StreamError or a subclass if not even
    the headers can be read, and OSError.
    """
    survey = Survey(limits)
    with reading(source, format=format, limits=limits, strict=strict, checkpointed=checkpointed, width=width,
                 guest=guest) as reader, contextlib.closing(survey.pfns):
        reader.identity  # noqa: B018 - reads the headers: without them there is nothing to report
        survey.end = reader.source.offset
        survey.reads_pages = not isinstance(reader.source, SeekableSource)
        try:
            _run(reader, survey, progress)
        except StreamError as error:
            return _report(reader, survey, error)
        return _report(reader, survey, None)


def _run(reader: AnyReader, survey: Survey, progress: "Callable[[int], object]") -> None:
    while True:
        run = next_run(reader, survey)
        if run is not None:
            survey.run(reader, run)
        else:
            record = reader.next_record()
            if record is None:
                return
            try:
                survey.record(reader, record)
            except TruncatedStream:
                # Pages cut off after a complete checkpoint are void, like everything else there.
                survey.cut = True
                if not reader.checkpoints:
                    raise
                return
        survey.end = reader.source.offset
        progress(survey.end)


def next_run(reader: AnyReader, survey: Survey) -> "Optional[PageRun]":
    """Several batches at once for a Survey, or None: then a record is next. None also where batches may be a legacy
    stream's that take PFNs back, which a Survey has to see one by one."""
    return None if reader.pt_levels and from_legacy(reader) else reader.next_run(pages=survey.reads_pages)


def _report(reader: AnyReader, survey: Survey, error: "Optional[StreamError]") -> InfoReport:
    memory = survey.pfns.memory
    histogram = pfn_kernel.type_histogram(memory.state)
    return InfoReport(
        *reader.identity, bytes=survey.end, highest_pfn=len(memory) - 1, populated=memory.populated_count,
        sent=survey.sent, resent=survey.pfns.resent, zero=survey.zero if survey.reads_pages else None,
        verified=survey.verified,
        checkpoints=reader.checkpoints,
        types={PAGE_TYPES[code]: count for code, count in enumerate(histogram) if count}, sizes=survey.sizes,
        records=survey.rows, more_rows=survey.more_rows,
        layers=without_cut_record(reader) if survey.cut else reader.layers,
        missing=() if error is not None else reader.missing,
        unread=reader.unread, error=error)

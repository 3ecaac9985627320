"""Whether a stream is good: its structure, order, PFN words and record bodies; page data isn't read."""
from xstream.containers.opening import AnyReader, reading
from xstream.errors import CorruptStream, StreamError, TruncatedStream
from xstream.limits import Limits
from xstream.stream.reader import Layer, PageRun, without_cut_record
from xstream.stream.source import PendingPages
from xstream.tools.record_checks import RecordChecks
from xstream.tuples import NamedTuple
from xstream.wire.libxc import PAGE_SIZE, PageData, data_pfns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional, Tuple, Union

    from xstream.stream.types import StreamLike
    from xstream.wire.formats import AnyRecord
    from xstream.wire.frames import Buffer


class VerifyReport(NamedTuple):
    """A good stream's summary. ``records`` counts those of all ``layers``, outermost first; ``format`` is the
    outermost's, ``version``, ``guest`` and ``made_by`` are the memory stream's. ``unread``: what follows the memory
    and could not be read, in words, or None; with ``strict`` that is an error."""

    format: str
    version: int
    guest: str
    made_by: str
    records: int
    batches: int
    pfns: int
    pages: int
    checkpoints: int
    bytes: int
    layers: "Tuple[Layer, ...]"
    unread: "Optional[str]" = None


class Verifier:
    """One pass over a reader's records. ``observe`` is called with each record, or PageRun, before it is checked;
    ``next_run`` replaces the reader's, for an observer that must see some batches one by one."""

    def __init__(self, reader: AnyReader,
                 observe: "Callable[[Union[AnyRecord, PageRun]], object]" = lambda item: None,
                 next_run: "Optional[Callable[[], Optional[PageRun]]]" = None) -> None:
        self._reader = reader
        self._observe = observe
        self._next_run = next_run or (lambda: reader.next_run(pages=False))
        self._checks = RecordChecks(reader)
        self.batches = self.pfns = self.pages = 0
        self.end = reader.source.offset  # of the last complete record
        self._cut = False

    def step(self) -> bool:
        """Check the next record, or run of batches; False at the end."""
        run = self._next_run()
        if run is not None:
            self._observe(run)
            self._batches(run.records, run.words, run.pages)
            self.end = self._reader.source.offset
            return True
        record = self._reader.next_record()
        if record is None:
            return False
        try:
            self._observe(record)
            self._record(record)
        except TruncatedStream:
            # Data that is cut off after a complete checkpoint is void, like everything else there.
            if not self._reader.checkpoints:
                raise
            self._cut = True
            return False
        self.end = self._reader.source.offset
        return True

    @property
    def layers(self) -> "Tuple[Layer, ...]":
        """The reader's layers, with the numbers of complete records."""
        return without_cut_record(self._reader) if self._cut else self._reader.layers

    def _record(self, record: "AnyRecord") -> None:
        if isinstance(record, PageData):
            if isinstance(record.data, PendingPages):
                self._skip(record.data, record.words)
            self._batches(1, record.words, len(record.data) // PAGE_SIZE)
        else:
            self._check(record)

    @staticmethod
    def _skip(data: PendingPages, words: "Buffer") -> None:
        try:
            data.skip()
        except CorruptStream as error:  # of compressed data
            from xstream.stream.framed import name_pages
            raise name_pages(error, data_pfns(words))

    def finish(self) -> None:
        """Check what only the end can tell. Raises IncompleteStream, CorruptStream."""
        self._reader.check_whole()
        self._checks.finish()

    def _batches(self, batches: int, words: "Buffer", pages: int) -> None:
        self.batches += batches
        self.pfns += len(words) // 8
        self.pages += pages
        self._checks.batches(words)

    def _check(self, record: "AnyRecord") -> None:
        try:
            self._checks.record(record)
        except StreamError as error:
            raise self._checks.located(error, record)


def verify(source: "StreamLike", *, format: "Optional[str]" = None, limits: Limits = Limits(), strict: bool = False,
           checkpointed: bool = False, width: "Optional[int]" = None, guest: "Optional[str]" = None,
           progress: "Callable[[int], object]" = lambda offset: None) -> VerifyReport:
    """Check a whole stream: structure, order, PFN words, record bodies, and that it has all a guest needs to run.

    Page data isn't read, so page tables and the start info page are not checked: a restore may still refuse a page
    table entry, or the frames that the start info page names. Of a legacy stream, and of one converted from it, nothing
    is said of an HVM context that doesn't begin as Xen's do, of registers whose GDT has more entries than Xen allows,
    and of a p2m that lies in PFN 0 alone. Zeros that an interrupted save left only within the last state without a
    structure can't be recognised either: QEMU's last device, the last vcpu's XSAVE area or last MSR. Of a PV guest's
    stream, up to 256 KiB after its end are read, if it doesn't come from a socket: they show whether it is a cut one.

    ``source`` and the other arguments are those of :func:`xstream.open`. ``progress`` is called with the offset reached
    after each record or run of batches.

    Raises the first fault: StreamError or a subclass. IncompleteStream means that the stream ends without what a guest
    can't run without, as after an interrupted save.
    """
    with reading(source, format=format, limits=limits, strict=strict, checkpointed=checkpointed, width=width,
                 guest=guest) as reader:
        verifier = Verifier(reader)
        while verifier.step():
            progress(verifier.end)
        verifier.finish()
        layers = verifier.layers
        return VerifyReport(*reader.identity, records=sum(layer.records for layer in layers),
                            batches=verifier.batches, pfns=verifier.pfns, pages=verifier.pages,
                            checkpoints=reader.checkpoints, bytes=verifier.end, layers=layers,
                            unread=reader.unread)

"""The reader of libxc streams."""
from xstream.errors import CorruptStream, LimitExceeded, StreamError, StrictViolation, TruncatedStream
from xstream.limits import Limits
from xstream.stream.ordering import CHECKPOINT, END, Ordering
from xstream.stream.records import RecordReader, after_end
from xstream.stream.source import PendingPages, Source, open_source
from xstream.tuples import NamedTuple
from xstream.wire import libxc
from xstream.wire.frames import FRAME, padded
from xstream.wire.libxc import DomainHeader, ImageHeader, PageData

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterator, Optional, Protocol, Tuple, TypeVar, Union

    from xstream.stream.legacy_reader import LegacyReader
    from xstream.stream.types import SourceLike
    from xstream.wire.formats import AnyRecord
    from xstream.wire.libxc import Record
else:
    Protocol = object  # Python 3.6 and 3.7 have none, and nothing but type checkers needs it

if TYPE_CHECKING:
    _AnyReader = TypeVar("_AnyReader", bound="AnyReader")

#: Most PFN words and records in one PageRun: 64 full batches of Xen's, or thousands of tiny ones.
_RUN_WORDS = 1 << 16
_RUN_BATCHES = 1 << 13

#: Most bytes of small PAGE_DATA records that are read from an exact source in one run: what its buffer holds.
_EXACT_RUN = 64 << 10
#: After these the bytes may be another reader's: in libxl's streams its own records follow.
_LAST = (END, CHECKPOINT)


def _known_size(record_type: int, length: int) -> int:
    """The bytes that a stream has from the beginning of a record: the record, and the next header if one must come."""
    return 8 + padded(length) + (0 if record_type in _LAST else 8)


class PageRun(NamedTuple):
    """Consecutive PAGE_DATA records, read in one step.

    - ``words``: the PFN words of all of them, 8 bytes each;
    - ``data``, ``extents``: the bytes that contain the pages, and for each record two uint64: the offset in ``data``
      and the number of its pages; both may be empty if the run was asked for without pages;
    - ``records``, ``pages``: the numbers of records and pages;
    - ``size``: the bytes of the records.

    The views are valid until the next record is read.
    """

    words: memoryview
    data: memoryview
    extents: memoryview
    records: int
    pages: int
    size: int


class Identity(NamedTuple):
    """A stream's format, version, guest type, and what wrote it."""

    format: str
    version: int
    guest: str
    made_by: str


class Layer(NamedTuple):
    """One layer of a stream: its format, the number of layers around it, its absolute offset, the number of its records
    that have been read, and the fields of its headers by name."""

    format: str
    depth: int
    offset: int
    records: int
    about: "Dict[str, object]"


class AnyReader(Protocol):
    """What every reader of records has: Reader, LegacyReader and NestedReader.

    After a record or a run, ``layer``, ``index`` and ``offset`` say which layer it belongs to, its number there
    from 0, and its absolute offset.
    """

    @property
    def source(self) -> Source: ...

    @property
    def limits(self) -> Limits: ...

    @property
    def strict(self) -> bool: ...

    @property
    def checkpointed(self) -> bool: ...

    @property
    def layer(self) -> str: ...

    @property
    def index(self) -> int: ...

    @property
    def offset(self) -> int: ...

    @property
    def identity(self) -> Identity:
        """The stream's format, version, guest type and origin; reads the headers."""

    @property
    def layers(self) -> "Tuple[Layer, ...]":
        """The layers met so far, outermost first."""

    @property
    def ended(self) -> bool:
        """Whether the stream's last record has been read."""

    @property
    def last_checkpoint(self) -> "Optional[Tuple[str, int, int]]":
        """The record that completed the last checkpoint: its layer, number and offset; None before the first."""

    @property
    def memory(self) -> "Union[Reader, LegacyReader]":
        """The reader of the memory stream: a Reader or LegacyReader; raises OrderError if there is none."""

    @property
    def verifying(self) -> bool:
        """Whether pages are to be compared, not written: VERIFY has come."""

    @property
    def checkpoints(self) -> int:
        """How many checkpoints are complete."""

    @property
    def pt_levels(self) -> int:
        """Page-table levels of a PV guest, 3 or 4; 0 for an HVM guest, or if not known yet."""

    @property
    def pfn_end(self) -> int:
        """One more than the highest PFN that may come."""

    @property
    def missing(self) -> "Tuple[str, ...]":
        """The records that a guest can't run without and that haven't come."""

    @property
    def unread(self) -> "Optional[str]":
        """What a container holds after the memory and couldn't be read, in words; or None."""

    @property
    def cut(self) -> "Optional[PageData]":
        """After a TruncatedStream: the batch that the input's end cuts off, with as much of its data as there is, if
        the source knew that before the batch was returned. None otherwise."""

    def check_whole(self) -> None:
        """Raise IncompleteStream if the stream, read to its end, has ``missing`` records."""

    def next_record(self) -> "Optional[AnyRecord]":
        """The next record, or None after the last one. Raises StreamError or a subclass, OSError, NeedMoreData."""

    def next_run(self, *, pages: bool = True) -> "Optional[PageRun]":
        """PAGE_DATA records that are in memory, in one step; None if ``next_record`` has to be called. Without
        ``pages``, of a compressed image also those whose pages haven't been decompressed."""

    def __iter__(self) -> "Iterator[AnyRecord]": ...

    def close(self) -> None:
        """Close what the reader opened: a path's file, not a caller's descriptor."""

    def __enter__(self: "_AnyReader") -> "_AnyReader": ...

    def __exit__(self, *exc: object) -> None: ...


def check_end(source: Source, layer: str, strict: bool, last: str = "the end") -> None:
    """After the ``last`` record of the outermost layer: check what only the input's end can tell and, with ``strict``,
    that nothing follows."""
    source.check_end()
    if strict and not source.at_end():
        raise StrictViolation("bytes after " + last, layer=layer, offset=source.offset, field="trailing bytes",
                              expected="the end of the input", got="more")


def without_cut_record(reader: AnyReader) -> "Tuple[Layer, ...]":
    """The reader's layers, if the data of the last record turned out to be cut off: that record doesn't count."""
    return tuple(layer._replace(records=layer.records - 1) if layer.format == reader.layer else layer
                 for layer in reader.layers)


def from_legacy(reader: AnyReader) -> bool:
    """Whether this is a legacy stream or was converted from one. In those, some page-table entries and XTAB words have
    another meaning, and state that isn't in Xen's form is passed on as it is."""
    domain = getattr(reader.memory, "domain", None)
    return domain is None or not domain.xen_major


def only_layer(reader: "Union[Reader, LegacyReader]") -> "Tuple[Layer, ...]":
    """The layers of a bare memory stream: itself."""
    return (Layer(reader.layer, 0, reader.start, reader.index + 1, reader.describe()),)


class Reader(RecordReader):
    """Records of a libxc stream, version 2 or 3, in order.

    ``source`` is anything that :func:`~xstream.stream.source.open_source` takes. Iteration, or ``next_record()``,
    returns records of the classes in :mod:`xstream.wire.libxc`; ``index`` and ``offset`` are the last one's number,
    from 0, and absolute offset. Pages are lazy: ``PageData.data`` is a view if the source has them in memory (mapped
    file, buffer, fed bytes), otherwise a PendingPages, to be read before the next record is asked for.

    - ``strict``: raise StrictViolation for what a restore ignores: reserved fields and padding that aren't zero, bodies
      of empty records, trailing bytes, usual records missing;
    - ``checkpointed``: CHECKPOINT records may come, and the input may end anywhere after the first of them; without it,
      CHECKPOINT is an error;
    - ``exact``: don't read past END or CHECKPOINT (see :func:`~xstream.stream.source.open_source`); then ``strict``
      doesn't look for trailing bytes;
    - ``contained``: records of an enclosing layer follow END.

    A reader is for one thread at a time. Raises StreamError or a subclass for faults of the stream, and OSError for
    failures of the source.
    Source of the rules: docs/specs/libxc-migration-stream.pandoc; tools/libs/guest/xg_sr_restore.c.
    """

    layer = libxc.LAYER

    def __init__(self, source: "SourceLike", *, limits: Limits = Limits(), strict: bool = False,
                 checkpointed: bool = False, exact: bool = False, contained: bool = False) -> None:
        self.source: Source = open_source(source, exact=exact)
        self.limits = limits
        self.strict = strict
        self.checkpointed = checkpointed
        self.index = -1
        self.offset = self.start = self.source.offset
        self._contained = contained
        self._headers: Optional[Tuple[ImageHeader, DomainHeader]] = None
        self._ordering: Optional[Ordering] = None
        self._finished = self._reading = False
        self._run_words = self._run_extents = memoryview(b"")

    @property
    def image(self) -> ImageHeader:
        """The image header; read on first use."""
        return self._need_headers()[0]

    @property
    def domain(self) -> DomainHeader:
        """The domain header; read on first use."""
        return self._need_headers()[1]

    @property
    def identity(self) -> Identity:
        """Format, version, guest type and origin, from the headers."""
        image, domain = self._need_headers()
        made_by = "Xen {}.{}".format(domain.xen_major, domain.xen_minor) if domain.xen_major else \
            "conversion from a legacy stream, converter version {}".format(domain.xen_minor)
        return Identity(self.layer, image.version, libxc.GUEST_NAMES[domain.type], made_by)

    @property
    def layers(self) -> "Tuple[Layer, ...]":
        """The stream as its only layer; see :class:`~xstream.containers.reader.NestedReader`."""
        return only_layer(self)

    @property
    def memory(self) -> "Reader":
        """The reader of the memory stream: itself."""
        return self

    def describe(self) -> "Dict[str, object]":
        """The fields of the headers by name; empty until they have been read."""
        if self._headers is None:
            return {}
        identity = self.identity
        return {"version": identity.version, "guest": identity.guest, "made_by": identity.made_by}

    @property
    def ended(self) -> bool:  # type: ignore[override]
        """Whether END has come."""
        return self._ordering is not None and self._ordering.ended

    @property
    def missing(self) -> "Tuple[str, ...]":
        """Records that a guest can't run without and that haven't come (in a checkpointed stream: by the last
        CHECKPOINT): of an HVM guest HVM_CONTEXT with its own END entry and HVM_PARAMS, of a PV guest SHARED_INFO."""
        return self._order.missing

    def lost(self) -> "Tuple[str, ...]":
        """Records that what follows the end of the outermost layer has taken the place of, once that has been read."""
        return self._order.lost(*after_end(self.source)) if self.ended and self.pt_levels else ()

    def _lost(self) -> "Tuple[str, ...]":
        return () if self._contained else self.lost()

    @property
    def verifying(self) -> bool:
        """Whether pages are to be compared and not written: VERIFY has come."""
        return self._order.verifying

    @property
    def checkpoints(self) -> int:
        """The number of CHECKPOINT records that have come."""
        return self._order.checkpoints

    @property
    def pt_levels(self) -> int:
        """Page-table levels of a PV guest, 3 or 4; 0 for an HVM guest, or before a PV guest's is known."""
        return {4: 3, 8: 4}.get(self._order.guest_width, 0)

    @property
    def pfn_end(self) -> int:
        """One more than the highest PFN that may come: the end of a PV guest's p2m, or the limit."""
        return self._order.pfn_end

    @property
    def _order(self) -> Ordering:
        """The state of the stream in the order tables."""
        if self._ordering is None:
            self._need_headers()
        assert self._ordering is not None
        return self._ordering

    if TYPE_CHECKING:
        def __iter__(self) -> Iterator[Record]: ...

    def next_record(self) -> "Optional[Record]":
        """The next record, or None after END (checkpointed: also if the input ends after a CHECKPOINT).

        Raises NeedMoreData, with nothing consumed, if a fed source has too little.
        """
        ordering = self._order
        if self._finished or ordering.ended:
            self._finish()
            return None
        if self._reading:
            raise RuntimeError("two threads read from this reader at once")
        self._reading = True
        try:
            return self._read_record(ordering)
        except TruncatedStream:
            if not ordering.checkpoints:
                raise
            self._finished = True
            return None
        finally:
            self._reading = False

    def next_run(self, *, pages: bool = True) -> "Optional[PageRun]":
        """As many PAGE_DATA records as are complete in the source's memory, in one step; ``index`` and ``offset`` are
        then the last one's. None if the next record isn't such a record: call ``next_record``. Without ``pages``, the
        pages of a compressed image needn't be in memory; the run then has none."""
        ordering = self._order
        if libxc.PAGE_DATA not in ordering.row():
            return None
        if not len(self._run_words):
            self._run_words = memoryview(bytearray(8 * _RUN_WORDS))
            self._run_extents = memoryview(bytearray(16 * _RUN_BATCHES)).cast("Q")
        data = self._buffered(ordering)
        run = self._scan(ordering, data) if len(data) >= 16 and data[0] == libxc.PAGE_DATA else None
        if run is None and not pages and (not len(data) or data[0] == libxc.PAGE_DATA):
            run = self._scan_sparse(ordering)
        if run is None:
            return None
        ordering.page_data()
        self.index += run.records
        self.offset = self.source.offset
        self.source.advance(run.size)
        return run

    def _scan(self, ordering: Ordering, data: memoryview) -> "Optional[PageRun]":
        from xstream.kernels import batches as batch_kernel  # not needed where no run is asked for
        records, size, words, pages = batch_kernel.scan(
            data, libxc.PAGE_DATA, self.limits.record_length, ordering.pfn_end, self.strict, self._run_words,
            self._run_extents)
        return PageRun(self._run_words[:8 * words], data[:size], self._run_extents[:2 * records], records, pages,
                       size) if records else None

    def _scan_sparse(self, ordering: Ordering) -> "Optional[PageRun]":
        sparse = self.source.sparse()
        if sparse is None:
            return None
        from xstream.kernels import batches as batch_kernel
        records, size, words, pages = batch_kernel.scan_sparse(
            *sparse, libxc.PAGE_DATA, self.limits.record_length, ordering.pfn_end, self.strict, self._run_words)
        return PageRun(self._run_words[:8 * words], memoryview(b""), self._run_extents[:0], records, pages,
                       size) if records else None

    def _buffered(self, ordering: Ordering) -> memoryview:
        """What the source has in memory. Pages that weren't read are skipped first, and may turn out to be cut off."""
        try:
            return self._read_batches() if self.source.exact else self.source.buffered()
        except TruncatedStream:
            if not ordering.checkpoints:
                raise
            self._finished = True
            return memoryview(b"")

    def _read_batches(self) -> memoryview:
        """For an exact source: what it holds, after reading whole small PAGE_DATA records as long as they fit."""
        at = 0
        data = self.source.peek(8)
        while len(data) >= at + 8:
            record_type, length = FRAME.unpack_from(data, at)
            size = at + _known_size(record_type, length)
            if record_type != libxc.PAGE_DATA or size > _EXACT_RUN:
                break
            self.source.expect(size)
            self.source.peek(at + 8 + length)
            data = self.source.buffered()
            at += 8 + length
        return data

    def _need_headers(self) -> "Tuple[ImageHeader, DomainHeader]":
        if self._headers is None:
            base = self.source.offset
            try:
                image, domain = libxc.parse_headers(self._peek_headers())
                self._check_headers(image, domain)
            except StreamError as error:
                raise error.located(layer=self.layer, base=0 if isinstance(error, TruncatedStream) else base)
            self.source.advance(libxc.HEADERS_SIZE)
            self._headers = image, domain
            self._ordering = Ordering(image.version, domain.type, converted=domain.xen_major == 0,
                                      checkpointed=self.checkpointed, strict=self.strict, limits=self.limits)
        return self._headers

    def _peek_headers(self) -> memoryview:
        """The bytes of the headers. A wrong marker is reported as such even if the input is shorter."""
        untrusted = self.source.peek(libxc.HEADERS_SIZE)
        start = bytes(untrusted[:8])
        if start != libxc.MARKER[:len(start)] or not (start or self._contained):
            raise CorruptStream("not a libxc stream", offset=0, field="marker", expected=libxc.MARKER.hex(),
                                got=start.hex() or "an empty input")
        return self.source.need(libxc.HEADERS_SIZE)

    def _check_headers(self, image: ImageHeader, domain: DomainHeader) -> None:
        if not self.strict:
            return
        for offset, field, value in ((16, "options", image.options), (18, "reserved", image.reserved1),
                                     (20, "reserved", image.reserved2), (30, "reserved", domain.reserved)):
            if value:
                raise StrictViolation("not zero in a header", offset=offset, field=field, expected=0, got=value)

    def _read_record(self, ordering: Ordering) -> "Record":
        source = self.source
        start = source.offset
        index = self.index + 1
        record_type = None
        try:
            record_type, length = FRAME.unpack_from(source.need(8))
            self._check_length(length)
            source.await_record(8 + padded(length))
            source.expect(_known_size(record_type, length))
            record: Record
            if record_type == libxc.PAGE_DATA:
                record = self._read_page_data(ordering, length)
            else:
                record = self._read_body(ordering, record_type, length)
        except StreamError as error:
            base = 0 if isinstance(error, TruncatedStream) else start + 8
            raise error.located(layer=self.layer, base=base, record=index,
                                record_type=None if record_type is None else libxc.type_name(record_type))
        self.index, self.offset = index, start
        if record_type == CHECKPOINT:
            self.last_checkpoint = self.layer, index, start
        return record

    def _check_length(self, length: int) -> None:
        if length > self.limits.record_length:
            raise LimitExceeded("record longer than the limit", offset=-4, field="length",
                                expected="at most {}".format(self.limits.record_length), got=length)

    def _read_body(self, ordering: Ordering, record_type: int, length: int) -> "Record":
        ordering.admit(record_type)
        if length > self.limits.body_length:
            raise LimitExceeded("record body longer than the limit", offset=-4, field="length",
                                expected="at most {}".format(self.limits.body_length), got=length)
        whole = self.source.keep(self.source.need(8 + padded(length)))
        padding = whole[8 + length:]
        record = libxc.parse(record_type, whole[8:8 + length], bytes(padding) if any(padding) else b"")
        ordering.follow(record_type, record)
        self.source.advance(8 + padded(length))
        return record

    def _read_page_data(self, ordering: Ordering, length: int) -> PageData:
        count, reserved = libxc.parse_page_data_head(self.source.need(8 + min(length, 8))[8:], length)
        ordering.check_count(count)
        words = self.source.keep(self.source.need(16 + 8 * count)[16:])
        pages = ordering.check_batch(PageData(words, b"", reserved))
        if length != 8 + 8 * count + libxc.PAGE_SIZE * pages:
            raise CorruptStream("PAGE_DATA of a wrong size for its page types", offset=-4, field="length",
                                expected=8 + 8 * count + libxc.PAGE_SIZE * pages, got=length)
        data = self._batch_data(words, 16 + 8 * count, libxc.PAGE_SIZE * pages)
        if isinstance(data, PendingPages):
            data.where = self.layer, self.index + 1, "PAGE_DATA"
        ordering.page_data()
        return PageData(words, data, reserved)

    def _finish(self) -> None:
        """Once, after END: check that nothing follows that shouldn't."""
        if self._finished:
            return
        if not self._contained and not self.source.exact:
            check_end(self.source, self.layer, self.strict, "END")
        self._finished = True

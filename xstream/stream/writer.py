"""libxc streams: records into a sink."""
from typing import Any

from xstream.errors import CorruptStream, LimitExceeded, StreamError
from xstream.kernels import batches as batch_kernel
from xstream.kernels import pfns as pfn_kernel
from xstream.limits import Limits
from xstream.stream.ordering import Ordering
from xstream.stream.reader import PageRun
from xstream.stream.sink import Sink, open_sink
from xstream.stream.source import PendingPages
from xstream.wire import libxc
from xstream.wire.frames import FRAME, Buffer, padded
from xstream.wire.libxc import PAGE_SIZE, DomainHeader, ImageHeader, PageData, Record

#: PFNs in a batch, as Xen has it (MAX_BATCH_SIZE in tools/libs/guest/xg_sr_common.h).
BATCH_PFNS = 1024


class Writer:
    """Writes a libxc stream, version 2 or 3, record by record.

    ``sink`` is anything that :func:`~xstream.stream.sink.open_sink` takes: a descriptor is written by writev, page data
    uncopied. The headers go out with construction. Raises what a Reader would raise for the same stream (OrderError,
    CorruptStream, LimitExceeded, UnsupportedStream), before a byte of the record has gone; and OSError from the sink.

    ``around``: the writer of the layer around, which is asked before each record whether it is this one's turn.
    """

    layer = libxc.LAYER

    def __init__(self, sink: Any, domain: DomainHeader, image: ImageHeader = ImageHeader(), *,
                 checkpointed: bool = False, limits: Limits = Limits(), around: Any = None) -> None:
        self.sink: Sink = open_sink(sink)
        self.index = -1
        self.limits = limits
        self._around = around
        headers = libxc.build_headers(image, domain)
        try:
            libxc.parse_headers(headers)
        except StreamError as error:
            raise error.located(layer=self.layer, base=self.sink.offset)
        self.ordering = Ordering(image.version, domain.type, checkpointed=checkpointed, limits=limits)
        self.sink.write([headers])

    @property
    def ended(self) -> bool:
        """Whether END has been written."""
        return self.ordering.ended

    def write(self, record: Record) -> None:
        """Write one record. PageData goes out as it is, however many PFNs it has; its data may be any buffer of whole
        pages, or another reader's PendingPages, which is passed on piece by piece."""
        self._check_turn()
        record_type = libxc.type_of(record)
        try:
            if isinstance(record, PageData):
                self._write_page_data(record)
            else:
                self._write_body(record_type, record)
        except StreamError as error:
            if error.layer is not None:
                raise  # the source of the pages has said where
            raise error.located(layer=self.layer, base=self.sink.offset + 8, record=self.index + 1,
                                record_type=libxc.type_name(record_type))
        self.index += 1

    def write_pages(self, pfns: Any, types: Any, pages: Any) -> None:
        """Write PFNs in batches of at most 1024.

        - ``pfns``: uint64 (n,); ``types``: uint8 (n,), page types as in ``PageData.types``;
        - ``pages``: the pages of those whose type carries data, in order, as any buffer of that many pages; or a
          GuestMemory, out of which they are sent by PFN.

        Nothing is copied on the way to a descriptor. Raises ValueError for arrays that don't fit together.
        """
        words = memoryview(bytearray(8 * len(pfns)))
        pfn_kernel.pack(pfns, types, words)
        memory = pages.buffer if hasattr(pages, "buffer") else None
        data = memoryview(b"") if memory is not None else memoryview(pages).cast("B")
        carrying = pfn_kernel.count_data(words)
        if memory is None and len(data) != carrying * PAGE_SIZE:
            raise ValueError("{} pages for {} PFNs that carry data".format(len(data) / PAGE_SIZE, carrying))
        for start in range(0, len(words), 8 * BATCH_PFNS):
            batch = words[start:start + 8 * BATCH_PFNS]
            if memory is not None:
                at = memoryview(bytearray(8 * pfn_kernel.count_data(batch))).cast("Q")
                pfn_kernel.data_pfns(batch, at)
                self.write_batch(batch, memory, at)
            else:
                size = pfn_kernel.count_data(batch) * PAGE_SIZE
                self.write(PageData(batch, data[:size]))
                data = data[size:]

    def write_run(self, run: PageRun) -> None:
        """Write the records of another reader's PageRun as they stand. Raises CorruptStream where they wouldn't be
        good ones here."""
        self._check_turn()
        words = memoryview(bytearray(len(run.words)))
        extents = memoryview(bytearray(16 * run.records)).cast("Q")
        records = 0
        if libxc.PAGE_DATA in self.ordering.row():
            records = batch_kernel.scan(run.data, libxc.PAGE_DATA, self.limits.record_length, self.ordering.pfn_end,
                                        False, words, extents)[0]
        if records != run.records:
            raise CorruptStream("batch that can't stand here", layer=self.layer, offset=self.sink.offset,
                                record=self.index + 1 + records, record_type="PAGE_DATA")
        self.sink.write([run.data])
        self.ordering.page_data()
        self.index += records

    def _check_turn(self) -> None:
        if self._around is not None:
            self._around.check_turn()

    def write_batch(self, words: Buffer, memory: Buffer, at: Any) -> None:
        """Write one batch, uncopied where the sink can.

        - ``words``: the PFN words, 8 bytes each;
        - ``memory``, ``at``: the pages of those that carry data, in order: numbers ``at`` (uint64) of whole pages.

        Raises ValueError where ``at`` is of another length, IndexError for a number past the memory, both before a byte
        has gone.
        """
        self._check_turn()
        batch = PageData(words, b"")
        try:
            pages = self.ordering.check_batch(batch)
        except StreamError as error:
            raise error.located(layer=self.layer, base=self.sink.offset + 8, record=self.index + 1,
                                record_type="PAGE_DATA")
        if len(at) != pages:
            raise ValueError("{} pages for {} PFNs that carry data".format(len(at), pages))
        head = [FRAME.pack(libxc.PAGE_DATA, _length(batch, pages))] + libxc.build(batch)
        self.sink.write_pages(head, memory, at)
        self.ordering.page_data()
        self.index += 1

    def _write_body(self, record_type: int, record: Record) -> None:
        self.ordering.admit(record_type)
        body = libxc.build(record)
        whole = b"".join(bytes(piece) for piece in body)
        if len(whole) > self.limits.body_length:
            raise LimitExceeded("record body longer than the limit", offset=-4, field="length",
                                expected="at most {}".format(self.limits.body_length), got=len(whole))
        self.ordering.follow(record_type, libxc.parse(record_type, whole))
        self.sink.write([FRAME.pack(record_type, len(whole)), whole, padding_of(record, len(whole))])

    def _write_page_data(self, record: PageData) -> None:
        pages = self.ordering.check_batch(record)
        size = len(record.data) if isinstance(record.data, PendingPages) else memoryview(record.data).nbytes
        if size != pages * PAGE_SIZE:
            raise CorruptStream("PAGE_DATA of a wrong size for its page types", offset=-4, field="length",
                                expected=_length(record, pages), got=_length(record, 0) + size)
        frame = FRAME.pack(libxc.PAGE_DATA, _length(record, pages))
        head, words, data = libxc.build(record)
        if isinstance(data, PendingPages):
            self.sink.write([frame, head, words])
            self.sink.pass_on(data)
        else:
            self.sink.write([frame, head, words, data])
        self.ordering.page_data()


def _length(record: PageData, pages: int) -> int:
    return 8 + len(record.words) + pages * PAGE_SIZE


def padding_of(record: Any, length: int) -> Buffer:
    """What stands behind a body: what was read there, or zeros."""
    if len(record.padding) in (0, padded(length) - length):
        return record.padding or bytes(padded(length) - length)
    raise CorruptStream("padding that doesn't fit its record", offset=length, field="padding",
                        expected="{} bytes".format(padded(length) - length), got=bytes(record.padding))

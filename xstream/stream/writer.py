"""Writes libxc streams, record by record."""
import struct

from xstream.errors import CorruptStream, LimitExceeded, StreamError
from xstream.kernels import buffers
from xstream.kernels import pfns as pfn_kernel
from xstream.limits import Limits
from xstream.stream.ordering import Ordering
from xstream.stream.sink import Sink, open_sink
from xstream.wire import libxc
from xstream.wire.frames import FRAME, padded
from xstream.wire.libxc import BATCH_PFNS, PAGE_SIZE, DomainHeader, ImageHeader, PageData, words_of
from xstream.wire.pending import PendingPages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List, Optional, Protocol, Tuple, Union

    from xstream.kernels.buffers import BufferLike, Numbers
    from xstream.stream.reader import PageRun
    from xstream.stream.types import OpenSinkLike
    from xstream.wire.frames import Buffer
    from xstream.wire.libxc import Record

    class MemoryLike(Protocol):
        """The memory of a guest, PFN 0 first: a :class:`~xstream.guest.memory.GuestMemory`."""

        @property
        def buffer(self) -> memoryview: ...

        def read(self, pfns: BufferLike) -> bytearray: ...

    class Padded(Protocol):
        """A record that remembers its padding."""

        @property
        def padding(self) -> Buffer: ...

_BATCH_ORDER = 10  # log2 of BATCH_PFNS
#: Batches written by one call where possible.
_GROUP = 16
_BATCH_HEAD = struct.Struct("<IIII")  # the frame of a PAGE_DATA record, its count and a reserved field


class Around:
    """What the writer of a memory stream needs of the writer of the container around it."""

    def check_turn(self) -> None:
        """Raise OrderError if the memory stream must not be written now."""
        raise NotImplementedError


class Writer:
    """Writes a libxc stream, version 2 or 3, record by record.

    - ``sink``: anything that :func:`~xstream.stream.sink.open_sink` takes. To a descriptor, page data goes by writev
      without being copied;
    - ``domain``, ``image``: the headers, written at once;
    - ``checkpointed``: whether the stream may have checkpoints;
    - ``around``: the writer of the container, which is asked before each record whether the memory stream may be
      written now.

    Every method raises what a Reader would raise for the resulting stream (OrderError, CorruptStream, LimitExceeded,
    UnsupportedStream) before it writes any byte of the record; and OSError from the sink.
    """

    layer = libxc.LAYER

    def __init__(self, sink: "OpenSinkLike", domain: DomainHeader, image: ImageHeader = ImageHeader(), *,
                 checkpointed: bool = False, limits: Limits = Limits(), around: "Optional[Around]" = None) -> None:
        self.sink: Sink = open_sink(sink)
        self.index = -1
        self.limits = limits
        self._around = around
        headers = libxc.build_headers(image, domain)
        try:
            libxc.parse_headers(headers)
        except StreamError as error:
            raise error.located(layer=self.layer, base=self.sink.offset)
        self._ordering = Ordering(image.version, domain.type, checkpointed=checkpointed, limits=limits)
        self.sink.write([headers])

    @property
    def ended(self) -> bool:
        """Whether END has been written."""
        return self._ordering.ended

    @property
    def checkpoints(self) -> int:
        """The number of CHECKPOINT records that have been written."""
        return self._ordering.checkpoints

    def write(self, record: "Record") -> None:
        """Write one record. A PageData is written as one record, however many PFNs it has. Its data is any buffer of
        whole pages, or another reader's PendingPages, which move to the sink piece by piece."""
        self._check_turn()
        record_type = libxc.type_of(record)
        try:
            if isinstance(record, PageData):
                self._write_page_data(record)
            else:
                self._write_body(record_type, record)
        except StreamError as error:
            if error.layer is not None:
                raise  # raised by the source of the pages, with its own position
            raise error.located(layer=self.layer, base=self.sink.offset + 8, record=self.index + 1,
                                record_type=libxc.type_name(record_type))
        self.index += 1

    def write_pages(self, pfns: "BufferLike", types: "BufferLike", pages: "Union[BufferLike, MemoryLike]") -> None:
        """Write PFNs in batches of at most 1024, in the order given.

        While PFNs ascend, a batch ends where they cross a multiple of 1024: from Xen 4.21 on, a restore rebuilds a
        2 MiB page only from 512 PFNs that come in one PAGE_DATA record (populate_pfns() in
        tools/libs/guest/xg_sr_restore.c).

        - ``pfns``: uint64 (n,); ``types``: uint8 (n,), page types as in ``PageData.types``;
        - ``pages``: the pages of those PFNs whose type carries data, in order, as one buffer; or a GuestMemory, from
          which they are taken by PFN.

        Pages are not copied on their way to a descriptor. Raises ValueError for arrays that don't fit together.
        """
        words = words_of(pfns, types)
        memory, data = memory_or_pages(pages)
        if memory is not None:
            self._write_from_memory(words, [end for _, end in batch_bounds(pfns)], memory.buffer)
            return
        carrying = pfn_kernel.count_data(words)
        if len(data) != carrying * PAGE_SIZE:
            raise ValueError("{} pages for {} PFNs that carry data".format(len(data) / PAGE_SIZE, carrying))
        for start, end in batch_bounds(pfns):
            batch = words[8 * start:8 * end]
            size = pfn_kernel.count_data(batch) * PAGE_SIZE
            self.write(PageData(batch, data[:size]))
            data = data[size:]

    def _write_from_memory(self, words: memoryview, ends: "List[int]", memory: memoryview) -> None:
        """Write the batches that end after these numbers of words; many at once if all is well."""
        start = 0
        for first in range(0, len(ends), _GROUP):
            some = ends[first:first + _GROUP]
            group = words[8 * start:8 * some[-1]]
            self._check_turn()
            if self.sink.takes_batches and self._ordering.accepts(group, BATCH_PFNS):
                self.sink.write_batches(libxc.PAGE_DATA, group, buffers.uint64_of(end - start for end in some), memory)
                self._ordering.page_data()
                self.index += len(some)
            else:
                for begin, end in zip([start, *some], some):
                    batch = words[8 * begin:8 * end]
                    self.write_batch(batch, memory, libxc.data_pfns(batch))
            start = some[-1]

    def write_run(self, run: "PageRun") -> None:
        """Write the records of another reader's PageRun unchanged. Raises CorruptStream if they aren't valid in this
        stream."""
        from xstream.kernels import batches as batch_kernel  # not needed to save guests
        self._check_turn()
        words = memoryview(bytearray(len(run.words)))
        extents = memoryview(bytearray(16 * run.records)).cast("Q")
        records = 0
        if libxc.PAGE_DATA in self._ordering.row():
            records = batch_kernel.scan(run.data, libxc.PAGE_DATA, self.limits.record_length, self._ordering.pfn_end,
                                        False, words, extents)[0]
        if records != run.records:
            raise CorruptStream("batch that isn't valid here", layer=self.layer, offset=self.sink.offset,
                                record=self.index + 1 + records, record_type="PAGE_DATA")
        self.sink.write([run.data])
        self._ordering.page_data()
        self.index += records

    def _check_turn(self) -> None:
        if self._around is not None:
            self._around.check_turn()

    def write_batch(self, words: "Buffer", memory: "Buffer", at: "Numbers") -> None:
        """Write one batch, uncopied where the sink can.

        - ``words``: the PFN words, 8 bytes each;
        - ``memory``, ``at``: the pages of those that carry data, in order: numbers ``at`` (uint64) of whole pages.

        Raises ValueError where ``at`` is of another length, IndexError for a number past the memory, both before a byte
        has gone.
        """
        self._check_turn()
        try:
            pages = self._ordering.check_words(words)
        except StreamError as error:
            raise error.located(layer=self.layer, base=self.sink.offset + 8, record=self.index + 1,
                                record_type="PAGE_DATA")
        if len(at) != pages:
            raise ValueError("{} pages for {} PFNs that carry data".format(len(at), pages))
        head = _BATCH_HEAD.pack(libxc.PAGE_DATA, _length(words, pages), len(words) // 8, 0)
        self.sink.write_pages([head, words], memory, buffers.array("at", at, "uint64"))
        self._ordering.page_data()
        self.index += 1

    def _write_body(self, record_type: int, record: "Record") -> None:
        self._ordering.admit(record_type)
        body = libxc.build(record)
        whole = b"".join(bytes(piece) for piece in body)
        if len(whole) > self.limits.body_length:
            raise LimitExceeded("record body longer than the limit", offset=-4, field="length",
                                expected="at most {}".format(self.limits.body_length), got=len(whole))
        self._ordering.follow(record_type, libxc.parse(record_type, whole))
        self.sink.write([FRAME.pack(record_type, len(whole)), whole, padding_of(record, len(whole))])

    def _write_page_data(self, record: PageData) -> None:
        pages = self._ordering.check_batch(record)
        size = len(record.data) if isinstance(record.data, PendingPages) else memoryview(record.data).nbytes
        if size != pages * PAGE_SIZE:
            raise CorruptStream("PAGE_DATA of a wrong size for its page types", offset=-4, field="length",
                                expected=_length(record.words, pages), got=_length(record.words, 0) + size)
        frame = FRAME.pack(libxc.PAGE_DATA, _length(record.words, pages))
        head, words, data = libxc.build(record)
        if isinstance(data, PendingPages):
            self.sink.write([frame, head, words])
            self.sink.pass_on(data)
        else:
            self.sink.write_data([frame, head, words], data)
        self._ordering.page_data()


def memory_or_pages(pages: "Union[BufferLike, MemoryLike]") -> "Tuple[Optional[MemoryLike], memoryview]":
    """The memory to take pages from by PFN, or None and the pages themselves."""
    memory: Optional[MemoryLike] = pages if hasattr(pages, "buffer") else None  # type: ignore[assignment]
    return memory, memoryview(b"") if memory is not None else buffers.octets("pages", pages)  # type: ignore[arg-type]


def batch_bounds(pfns: "BufferLike") -> "Iterator[Tuple[int, int]]":
    """(start, end) of the batches in which ``pfns`` (uint64) are written, as ``write_pages`` describes."""
    start, count = 0, buffers.array("pfns", pfns, "uint64").nbytes // 8
    while start < count:
        end = pfn_kernel.batch_end(pfns, start, _BATCH_ORDER)
        yield start, end
        start = end


def _length(words: "Buffer", pages: int) -> int:
    return 8 + len(words) + pages * PAGE_SIZE


def padding_of(record: "Padded", length: int) -> "Buffer":
    """The padding to write after a body of ``length`` bytes: what was read there, or zeros. Raises CorruptStream."""
    if len(record.padding) in (0, padded(length) - length):
        return record.padding or bytes(padded(length) - length)
    raise CorruptStream("padding that doesn't fit its record", offset=length, field="padding",
                        expected="{} bytes".format(padded(length) - length), got=bytes(record.padding))

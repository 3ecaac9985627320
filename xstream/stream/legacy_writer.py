"""Writes legacy libxc streams (Xen 4.5 and earlier), record by record."""

from xstream.errors import CorruptStream, OrderError, StreamError
from xstream.kernels import deltas
from xstream.kernels import pfns as pfn_kernel
from xstream.stream.sink import Sink, open_sink
from xstream.stream.source import PendingPages
from xstream.stream.writer import memory_or_pages
from xstream.wire import legacy, libxc
from xstream.wire.libxc import PAGE_SIZE, PageData, words_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Sequence, Tuple, Union

    from xstream.kernels.buffers import BufferLike
    from xstream.stream.types import OpenSinkLike
    from xstream.stream.writer import MemoryLike
    from xstream.wire.frames import Buffer

_CHUNKS: "Tuple[type, ...]" = (
    PageData, legacy.VcpuInfo, legacy.TscInfo, legacy.Toolstack, legacy.VerifyMode, legacy.LastCheckpoint,
    legacy.EnableCompression, legacy.CompressedBatch, legacy.CompressedPages)
_TAILS: "Dict[str, Dict[str, Dict[type, str]]]" = {
    legacy.PV: {
        "start": {legacy.Start: "extended info"},
        "extended info": {legacy.ExtendedInfo: "p2m frames"},
        "p2m frames": {legacy.P2MFrames: "body"},
        "tail": {legacy.UnmappedPfns: "unmapped"},
        "unmapped": {legacy.UnmappedPfns: "unmapped"},
        "vcpus": {legacy.VcpuContext: "vcpus", legacy.SharedInfo: "end"},
    },
    legacy.HVM: {
        "start": {legacy.Start: "body"},
        "body": {legacy.HvmParam: "body"},
        "tail": {legacy.HvmTail: "device model"},
        "device model": {legacy.DeviceModel: "end"},
    },
}
_BODY: "Dict[type, str]" = {
    **dict.fromkeys(_CHUNKS, "body"), legacy.Tmem: "tmem", legacy.TmemExtra: "tmem extra", legacy.EndOfBody: "tail"}
#: For both kinds of guest: by state, the records that may come and the states that they lead to.
_COMMON: "Dict[str, Dict[type, str]]" = {
    "body": _BODY,
    "tmem": {legacy.TmemPool: "tmem", legacy.TmemPage: "tmem", legacy.TmemPagesEnd: "tmem", legacy.TmemEnd: "body"},
    "tmem extra": {legacy.TmemInvalid: "tmem extra", legacy.TmemEnd: "body"},
    "end": {libxc.Checkpoint: "body"},
}
#: By the highest byte of a PFN word, whose upper half is the page type, how the old code wrote the entry: "p" joins a
#: run of pages, " t " is a page table, written alone, " " has no page and ends a run.
_KINDS = [{0x0: "p", 0x8: "p", 0xD: " ", 0xE: " ", 0xF: " "}.get(byte >> 4, " t ") for byte in range(256)]


class LegacyWriter:
    """Writes a legacy stream, as the toolstacks of Xen up to 4.5 did, record by record.

    - ``sink``: anything that :func:`~xstream.stream.sink.open_sink` takes;
    - ``p2m_size``: the guest's highest PFN plus one. It is the stream's first field and is written at once;
    - ``width``: bytes of the toolstack's unsigned long, 4 or 8; ``guest``: "pv" or "hvm";
    - ``gathered``: write each chunk by one writev. Otherwise use as many writes as the old code did: one for the count,
      one for the PFN words, one for each run of pages that are not page tables, and one for each page table.

    The caller writes the rest in order: records of :mod:`xstream.wire.legacy`, and PageData. After the checkpoint that
    follows an EnableCompression, PageData is written compressed.

    Raises OrderError for a record that must not come now, and CorruptStream for one that doesn't fit the stream, before
    it writes any byte of the record; TypeError for a record of another format; and OSError from the sink.
    """

    layer = legacy.LAYER

    def __init__(self, sink: "OpenSinkLike", p2m_size: int, *, width: int = 8, guest: str = legacy.HVM,
                 gathered: bool = True) -> None:
        if width not in legacy.WIDTHS or guest not in _TAILS:
            raise ValueError("no legacy stream of width {!r} and guest {!r}".format(width, guest))
        self.sink: Sink = open_sink(sink)
        self.index = -1
        self._p2m_size = p2m_size
        self._width = width
        self._guest = guest
        self._gathered = gathered
        self._state = "start"
        self._info: Optional[legacy.ExtendedInfo] = None
        self._unmapped_left: Optional[int] = None
        self._compress_next = self._last = False
        self._cache: Optional[deltas.Cache] = None
        start = legacy.Start(p2m_size, width, guest)
        legacy.parse_start(legacy.build(start, width)[0], width, guest)
        self.write(start)

    def write(self, record: "legacy.Record") -> None:
        """Write one record. The data of a PageData is any buffer of whole pages, or another reader's PendingPages."""
        try:
            state = self._follow(record)
            if isinstance(record, PageData):
                self._write_batch(record)
            elif isinstance(record, legacy.CompressedBatch):
                self._send(list(self._head(record.words)))
            elif isinstance(record, legacy.UnmappedPfns):
                self._write_unmapped(record)
            else:
                self._send(legacy.build(record, self._width))
        except StreamError as error:
            if error.layer is not None:
                raise  # raised by the source of the pages, with its own position
            raise error.located(layer=self.layer, base=self.sink.offset, record=self.index + 1,
                                record_type=legacy.NAMES.get(type(record)))
        self._state = state
        self.index += 1
        self._remember(record)

    def _remember(self, record: "legacy.Record") -> None:
        """Note what a record says about later ones."""
        if isinstance(record, legacy.ExtendedInfo):
            self._info = record
        elif isinstance(record, legacy.LastCheckpoint):
            self._last = True
        elif isinstance(record, legacy.EnableCompression):
            self._compress_next = True
        elif isinstance(record, libxc.Checkpoint) and self._compress_next and self._cache is None:
            self._cache = deltas.Cache(self._p2m_size)

    def write_pages(self, pfns: "BufferLike", types: "BufferLike", pages: "Union[BufferLike, MemoryLike]") -> None:
        """Write PFNs in batches of 1024. The arguments are those of ``Writer.write_pages``."""
        words = words_of(pfns, types)
        memory, data = memory_or_pages(pages)
        if memory is None and len(data) != pfn_kernel.count_data(words) * PAGE_SIZE:
            raise ValueError("{} pages for {} PFNs that carry data".format(
                len(data) / PAGE_SIZE, pfn_kernel.count_data(words)))
        for start in range(0, len(words), 8 * legacy.MAX_BATCH):
            batch = words[start:start + 8 * legacy.MAX_BATCH]
            size = pfn_kernel.count_data(batch) * PAGE_SIZE
            if memory is None:
                self.write(PageData(batch, data[:size]))
                data = data[size:]
            elif self._gathered and self._cache is None:
                self._write_from_memory(batch, memory.buffer)
            else:
                self.write(PageData(batch, memory.read(libxc.data_pfns(batch))))

    def _follow(self, record: "legacy.Record") -> str:
        """The state that a record leads to. Raises OrderError if it must not come now."""
        row = {**_COMMON.get(self._state, {}), **_TAILS[self._guest].get(self._state, {})}
        if type(record) not in legacy.NAMES:
            raise TypeError("not a record of a legacy stream: {}".format(type(record).__name__))
        if type(record) not in row or (self._last and isinstance(record, libxc.Checkpoint)):
            raise OrderError("must not come here", expected="one of " + ", ".join(legacy.NAMES[kind] for kind in row),
                             got=legacy.NAMES[type(record)])
        self._check(record)
        if isinstance(record, legacy.UnmappedPfns) and not record.left:
            return "vcpus"
        return row[type(record)]

    def _check(self, record: "legacy.Record") -> None:
        """Raise CorruptStream for a part whose size isn't the one that earlier records imply."""
        expected: Optional[int] = None
        if isinstance(record, legacy.P2MFrames):
            assert self._info is not None
            part: Buffer = record.frames
            expected = 8 * legacy.p2m_frame_count(self._p2m_size, self._info.guest_width)
        elif isinstance(record, legacy.VcpuContext):
            assert self._info is not None
            part = b"".join((record.basic, record.extended))
            expected = libxc.VCPU_BASIC_SIZES[self._info.guest_width] + 128 * self._info.extended
            if (record.xsave is None) != (self._info.xsave_size is None):
                raise CorruptStream("vcpu whose xsave area, or lack of one, contradicts the extended info",
                                    field="xsave")
        elif isinstance(record, legacy.SharedInfo):
            part, expected = record.page, legacy.SHARED_INFO_SIZE
        if expected is not None and len(part) != expected:
            raise CorruptStream("part of a wrong size", field=legacy.NAMES[type(record)], expected=expected,
                                got=len(part))

    def _head(self, words: "Buffer") -> "Tuple[bytes, bytearray]":
        """A batch's count and its PFN words in this toolstack's width. Raises CorruptStream."""
        count = len(words) // 8
        if not 0 < count <= legacy.MAX_BATCH:
            raise CorruptStream("batch of a wrong size", field="count",
                                expected="1 to {}".format(legacy.MAX_BATCH), got=count)
        bad, reason, _ = pfn_kernel.check(words, self._p2m_size, False)
        if bad >= 0:
            raise CorruptStream("bad PFN word", field="pfn[{}]".format(bad),
                                expected="a page type other than 5 to 8, and a PFN under {:#x}".format(self._p2m_size),
                                got=bytes(words[8 * bad:8 * bad + 8]).hex())
        narrow = bytearray(count * self._width)
        pfn_kernel.narrow(words, self._width, narrow)
        return legacy.CHUNK.pack(count), narrow

    def _write_batch(self, record: PageData) -> None:
        head = self._head(record.words)
        size = pfn_kernel.count_data(record.words) * PAGE_SIZE
        if len(record.data) != size:
            raise CorruptStream("batch of a wrong size for its page types", field="pages", expected=size,
                                got=len(record.data))
        if self._cache is not None:
            self._write_compressed(head, record)
        elif isinstance(record.data, PendingPages):
            self._send(list(head))
            self.sink.pass_on(record.data)
        else:
            data = memoryview(record.data).cast("B")
            self._send([*head, *([data] if self._gathered else _old_runs(record.words, data))])

    def _write_compressed(self, head: "Tuple[bytes, bytearray]", record: PageData) -> None:
        assert self._cache is not None
        pfns = libxc.data_pfns(record.words)
        # The type is in the highest nibble of the highest byte of each word.
        types = bytes(byte >> 4 for byte in bytes(record.words[7::8]) if byte >> 4 not in (0xD, 0xE, 0xF))
        pages = record.data.read() if isinstance(record.data, PendingPages) else record.data
        out = memoryview(bytearray(deltas.bound(len(pfns))))
        used = self._cache.encode(pfns, types, pages, out)
        self._send(list(head))
        if used:
            self._send(legacy.build(legacy.CompressedPages(out[:used]), self._width))

    def _write_from_memory(self, words: memoryview, memory: memoryview) -> None:
        self._follow(PageData(words, b""))
        self.sink.write_pages(self._head(words), memory, libxc.data_pfns(words))
        self.index += 1

    def _write_unmapped(self, record: legacy.UnmappedPfns) -> None:
        count = len(record.pfns) // 8
        if self._unmapped_left not in (None, count + record.left):
            raise CorruptStream("part of the unmapped PFNs that doesn't continue the last one", field="left",
                                expected="{} PFNs, counting those still to come".format(self._unmapped_left),
                                got=count + record.left)
        pieces = [legacy.build_ulongs(record.pfns, self._width)]
        if self._unmapped_left is None:
            pieces.insert(0, legacy.U32.pack(count + record.left))
        self._send(pieces)
        self._unmapped_left = record.left or None

    def _send(self, pieces: "Sequence[Buffer]") -> None:
        if self._gathered:
            self.sink.write(pieces)
        else:
            for piece in pieces:
                self.sink.write([piece])


def _old_runs(words: "Buffer", data: memoryview) -> "List[memoryview]":
    """A batch's pages in the pieces that the old code wrote one by one."""
    pieces, at = [], 0
    for run in "".join(map(_KINDS.__getitem__, bytes(words[7::8]))).split():
        pieces.append(data[at * PAGE_SIZE:(at + len(run)) * PAGE_SIZE])
        at += len(run)
    return pieces

"""The reader of legacy streams."""

from xstream.errors import CorruptStream, LimitExceeded, OrderError, StreamError, StrictViolation, TruncatedStream
from xstream.kernels import pfns as pfn_kernel
from xstream.limits import Limits
from xstream.stream.reader import Identity, Layer, PageRun, check_end, only_layer
from xstream.stream.records import RecordReader, after_end
from xstream.stream.source import PendingPages, Source, open_source
from xstream.wire import legacy, libxc, shared_info, vcpu, vmstate
from xstream.wire.legacy import CHUNK, U32
from xstream.wire.libxc import PAGE_SIZE, PageData

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Iterator, List, Optional, Tuple, Type, TypeVar

    from xstream.stream.types import SourceLike
    from xstream.wire.frames import Buffer
    from xstream.wire.legacy import Record

_GUESTS = {legacy.PV: libxc.GUEST_NAMES[libxc.GUEST_PV], legacy.HVM: libxc.GUEST_NAMES[libxc.GUEST_HVM]}
#: Most bytes of a guest's extended info. Xen's take under 6 KiB; the rest is for unknown blocks.
_EXTENDED_INFO_LIMIT = 1 << 20
#: Bytes read at once of a record that ends with the input.
_REST_AT_ONCE = 64 << 10
#: Most unmapped PFNs in one record.
_UNMAPPED_AT_ONCE = 1 << 15
#: What is missing until a tail is complete.
_NO_TAIL = "tail"


if TYPE_CHECKING:
    T = TypeVar("T")


class LegacyReader(RecordReader):
    """Records of a legacy stream, in order; the interface is Reader's.

    ``source`` is anything that :func:`~xstream.stream.source.open_source` takes. Records are those of
    :mod:`xstream.wire.legacy`, batches libxc's PageData with lazy pages.

    - ``width`` (4 or 8 bytes, the toolstack's) and ``guest`` ("pv" or "hvm") are detected if they aren't given;
    - ``strict``: raise StrictViolation for what a restore ignores;
    - ``checkpointed``: has no effect: a legacy stream has LAST_CHECKPOINT if it has no checkpoints. Without
      LAST_CHECKPOINT, the input may end after a complete tail, or anywhere after the first one;
    - ``exact``: don't read past the end (see :func:`~xstream.stream.source.open_source`);
    - ``contained``: records of an enclosing layer follow;
    - ``device_model``: whether an HVM guest's tail includes the device model's record. If not, the container has it.

    A stream without LAST_CHECKPOINT that ends after its first tail is read as a single checkpoint. After the tail of a
    checkpoint a libxc Checkpoint is returned, which takes no bytes in the stream.

    Raises StreamError or a subclass for faults of the stream, and OSError for failures of the source.
    Source of the rules: tools/libxc/xc_domain_restore.c of Xen 4.5.
    """

    layer = legacy.LAYER

    def __init__(self, source: "SourceLike", *, width: "Optional[int]" = None, guest: "Optional[str]" = None,
                 limits: Limits = Limits(), strict: bool = False, checkpointed: bool = False,
                 contained: bool = False, device_model: bool = True, exact: bool = False) -> None:
        if width not in (None,) + legacy.WIDTHS:
            raise ValueError("width is 4 or 8 bytes, not {!r}".format(width))
        if guest not in (None, legacy.PV, legacy.HVM):
            raise ValueError("guest is {!r} or {!r}, not {!r}".format(legacy.PV, legacy.HVM, guest))
        self.source: Source = open_source(source, exact=exact)
        self.limits = limits
        self.strict = strict
        self.checkpointed = checkpointed
        self.index = -1
        self.offset = self.start = self.source.offset
        self.verifying = False
        self.checkpoints = 0
        self.ended = False
        self._contained = contained
        self._device_model = device_model
        self._given = width, guest
        self._start: Optional[legacy.Start] = None
        self._info: Optional[legacy.ExtendedInfo] = None
        self._vcpus = [0]
        self._missing: Tuple[str, ...] = (_NO_TAIL,)
        self._empty_device_model = False
        self._compressing = self._compress_next = self._last = self._finished = False
        # No bound methods: a cycle would keep a file mapped until the collector comes.
        self._step: Callable[[LegacyReader], Optional[Record]] = LegacyReader._read_start
        self._where = "START"
        self._left = 0  # of what the step counts: pages of a pool, unmapped PFNs, vcpus
        self._pool: Optional[legacy.TmemPool] = None
        self._rest: List[bytes] = []
        self._began: Optional[int] = None  # where the step under way began

    @property
    def head(self) -> legacy.Start:
        """The first field, with the toolstack's width and the guest type; peeked at if it hasn't been read."""
        return self._need_head()

    @property
    def identity(self) -> Identity:
        """Format, version, guest type and origin; the legacy format counts as version 1."""
        head = self.head
        return Identity(self.layer, 1, _GUESTS[head.guest],
                        "Xen 4.5 or earlier, {}-bit toolstack".format(8 * head.width))

    @property
    def pt_levels(self) -> int:
        """Page-table levels of a PV guest, 3 or 4; 0 for an HVM guest, or before a PV guest's is known."""
        return self._info.pt_levels if self._info is not None else 0

    @property
    def pfn_end(self) -> int:
        """One more than the highest PFN that may come: the guest's p2m_size, or the limit."""
        return min(self.head.p2m_size, self.limits.guest_pfns)

    def describe(self) -> "Dict[str, object]":
        """The fields of the header by name; empty until it has been read."""
        head = self._start
        return {} if head is None else {
            "guest": _GUESTS[head.guest], "toolstack_bits": 8 * head.width, "p2m_size": head.p2m_size}

    @property
    def missing(self) -> "Tuple[str, ...]":
        """What a guest can't run without and that hasn't come, or was empty in the last complete tail."""
        return self._missing

    def lost(self) -> "Tuple[str, ...]":
        """Records that what follows the end of the outermost layer has taken the place of, once that has been read: of
        the device model's record only an empty one is left."""
        empty = self.ended and self._empty_device_model
        return ("DEVICE_MODEL",) if empty and len(after_end(self.source, 1)[0]) else ()

    def _lost(self) -> "Tuple[str, ...]":
        return () if self._contained else self.lost()

    @property
    def layers(self) -> "Tuple[Layer, ...]":
        """The stream as its only layer."""
        return only_layer(self)

    @property
    def memory(self) -> "LegacyReader":
        """The reader of the memory stream: itself."""
        return self

    def next_run(self, *, pages: bool = True) -> "Optional[PageRun]":
        """Always None: ``next_record`` returns batches."""
        return None

    if TYPE_CHECKING:
        def __iter__(self) -> Iterator[Record]: ...

    def next_record(self) -> "Optional[Record]":
        """The next record, or None at the end of the stream, or of an input that ends after a checkpoint.

        Raises NeedMoreData, with nothing consumed, if a fed source has too little.
        """
        self._need_head()
        while not self.ended:
            try:
                record = self._take_step()
            except TruncatedStream:
                if not self.checkpoints:
                    raise
                return None
            if record is not None:
                return record
        self._finish()
        return None

    def _take_step(self) -> "Optional[Record]":
        if self._began is None:
            self._began = self.source.offset
        start = self._began
        if self._step == LegacyReader._read_chunk and self.checkpoints and self.source.at_end():
            raise TruncatedStream("the input ends after a checkpoint", missing=4, offset=start)
        self._where = ""
        try:
            record = self._step(self)
        except StreamError as error:
            raise error.located(layer=self.layer, base=0 if isinstance(error, TruncatedStream) else start,
                                record=self.index + 1, record_type=self._where or None)
        self._began = None
        if record is not None:
            self.index, self.offset = self.index + 1, start
            data = getattr(record, "data", None)
            if isinstance(data, PendingPages):
                data.where = self.layer, self.index, legacy.type_name(record)
            elif isinstance(record, libxc.Checkpoint):
                self.last_checkpoint = self.layer, self.index, start
        return record

    # The header

    def _need_head(self) -> legacy.Start:
        if self._start is None:
            try:
                self._start = self._find_out()
            except StreamError as error:
                raise error.located(layer=self.layer, record=0, record_type="START",
                                    base=0 if isinstance(error, TruncatedStream) else self.start)
        return self._start

    def _find_out(self) -> legacy.Start:
        width, guest = self._given
        untrusted = self.source.need(8 if width is None else width)
        width = width or legacy.find_width(untrusted)
        guest = guest or legacy.find_guest(self.source.need(2 * width), width)
        return legacy.parse_start(untrusted, width, guest)

    def _read_start(self) -> "Record":
        head = self.head
        if head.p2m_size > self.limits.guest_pfns and head.guest == legacy.PV:
            raise LimitExceeded("guest larger than the limit", offset=0, field="p2m_size",
                                expected="at most {}".format(self.limits.guest_pfns), got=head.p2m_size)
        self.source.advance(head.width)
        self._step = LegacyReader._read_extended_info if head.guest == legacy.PV else LegacyReader._read_chunk
        return head

    def _read_extended_info(self) -> "Record":
        self._where = "EXTENDED_INFO"
        width = self.head.width
        untrusted = self.source.need(width + 4)
        if bytes(untrusted[:width]) != b"\xff" * width:
            raise CorruptStream("no extended info in a PV guest's stream", offset=0, field="marker",
                                expected="all ones", got=bytes(untrusted[:width]))
        size, = U32.unpack_from(untrusted, width)
        self._check_size(size, _EXTENDED_INFO_LIMIT, width, "size of the extended info")
        body = self.source.keep(self.source.need(width + 4 + size)[width + 4:])
        info: legacy.ExtendedInfo = self._parsed(width + 4, legacy.parse_extended_info, body)
        if self.strict and info.others:
            raise StrictViolation("unknown block in the extended info", offset=width, field="block",
                                  expected="vcpu, extv or xcnt", got=info.others[0][0])
        self._info = info
        self.source.advance(width + 4 + size)
        self._step = LegacyReader._read_p2m_frames
        return info

    def _read_p2m_frames(self) -> "Record":
        self._where = "P2M_FRAMES"
        assert self._info is not None
        head = self.head
        size = head.width * legacy.p2m_frame_count(head.p2m_size, self._info.guest_width)
        frames = self.source.keep(self.source.need(size))
        record: Record = legacy.parse_p2m_frames(frames, head.width, head.p2m_size)
        self.source.advance(size)
        self._step = LegacyReader._read_chunk
        return record

    # The body

    def _read_chunk(self) -> "Optional[Record]":
        chunk, = CHUNK.unpack_from(self.source.need(4))
        legacy.check_chunk(chunk, self.head.guest)
        if chunk > 0:
            return self._read_batch(chunk)
        if chunk in legacy.PARAMS:
            return self._read_param(chunk)
        if chunk in legacy.MARKS:
            return self._read_mark(chunk)
        return _CHUNKS[chunk](self)

    def _read_batch(self, count: int) -> "Optional[Record]":
        self._where = "COMPRESSED_BATCH" if self._compressing else "PAGE_DATA"
        size = count * self.head.width
        words = memoryview(bytearray(8 * count))
        bad, reason, kept, pages = pfn_kernel.widen(self.source.need(4 + size)[4:], self.head.width, self.pfn_end,
                                                    self.strict, words)
        if bad >= 0:
            raise self._bad_word(bad, reason)
        words = words[:8 * kept]
        if self._compressing:
            self.source.advance(4 + size)
            return legacy.CompressedBatch(words) if kept else None
        self.source.await_record(4 + size + PAGE_SIZE * pages)
        data = self._batch_data(words, 4 + size, PAGE_SIZE * pages)
        return PageData(words, data) if kept else None

    def _bad_word(self, index: int, reason: int) -> StreamError:
        width = self.head.width
        word = legacy.ulong(self.source.need(4 + width * (index + 1)), width, 4 + width * index)
        kind: Type[StreamError]
        if reason == pfn_kernel.BAD_TYPE:
            kind, message, expected = CorruptStream, "invalid page type", "a type other than 5 to 7"
        elif reason == pfn_kernel.BAD_RESERVED:
            kind = StrictViolation if word >> 32 == 0 else CorruptStream
            message, expected = "impossible PFN word", "a type of 4 bits and a PFN of 28, none with type 15"
        else:
            past_limit = self.pfn_end < self.head.p2m_size
            kind = LimitExceeded if past_limit else CorruptStream
            message = "PFN past the limit" if past_limit else "PFN past the end of the p2m"
            expected = "under {:#x}".format(self.pfn_end)
        return kind(message, offset=4 + width * index, field="pfn[{}]".format(index), expected=expected, got=hex(word))

    def _read_param(self, chunk: int) -> "Record":
        self._where = "HVM_PARAM"
        param = legacy.parse_param(chunk, self.source.need(4 + legacy.PARAM_SIZE)[4:])
        if self.strict and param.reserved:
            raise StrictViolation("a restore ignores this, but it should be zero", offset=4, field="padding",
                                  expected=0, got=param.reserved)
        self.source.advance(4 + legacy.PARAM_SIZE)
        return param

    def _read_mark(self, chunk: int) -> "Record":
        record: Record = legacy.MARKS[chunk]()
        self._where = legacy.type_name(record)
        if chunk == legacy.ENABLE_COMPRESSION and self._last:
            raise OrderError("compression of checkpoints after LAST_CHECKPOINT", offset=0, field="id",
                             expected="no LAST_CHECKPOINT before", got="ENABLE_COMPRESSION")
        self.source.advance(4)
        if chunk == legacy.VERIFY:
            self.verifying = True
        elif chunk == legacy.LAST_CHECKPOINT:
            self._last = True
        elif chunk == legacy.ENABLE_COMPRESSION:
            self._compress_next = True
        elif chunk == legacy.TMEM_EXTRA:
            self._step = LegacyReader._read_tmem_invalid
        else:
            self._step = LegacyReader._read_hvm_tail if self.head.guest == legacy.HVM else LegacyReader._read_unmapped
            self._left = -1
        return record

    def _read_vcpu_info(self) -> "Record":
        self._where = "VCPU_INFO"
        size = self._parsed(4, legacy.vcpu_info_size, self.source.need(8)[4:])
        info = legacy.parse_vcpu_info(self.source.keep(self.source.need(4 + size)[4:]))
        if self.strict and int.from_bytes(info.online, "little") >> info.max_vcpu_id + 1:
            raise StrictViolation("vcpus online beyond the highest id", offset=8, field="online",
                                  expected="ids up to {}".format(info.max_vcpu_id), got=bytes(info.online))
        self.source.advance(4 + size)
        self._vcpus = info.vcpus
        return info

    def _read_tsc_info(self) -> "Record":
        self._where = "TSC_INFO"
        record = legacy.parse_tsc_info(self.source.need(4 + legacy.TSC_INFO_SIZE)[4:])
        self.source.advance(4 + legacy.TSC_INFO_SIZE)
        return record

    def _read_toolstack(self) -> "Record":
        self._where = "TOOLSTACK"
        return legacy.Toolstack(self._read_blob(4, "length"))

    def _read_compressed(self) -> "Record":
        self._where = "COMPRESSED_PAGES"
        if not self._compressing:
            raise OrderError("compressed pages in a checkpoint that isn't compressed", offset=0, field="id",
                             expected="ENABLE_COMPRESSION in a checkpoint before", got="COMPRESSED_PAGES")
        width = self.head.width
        size = legacy.ulong(self.source.need(4 + width), width, 4)
        self._check_size(size, self.limits.record_length, 4, "length")
        self.source.await_record(4 + width + size)
        return legacy.CompressedPages(self.source.page_data(4 + width, size))

    def _read_tmem(self) -> "Record":
        self._where = "TMEM"
        record: legacy.Tmem = self._parsed(4, legacy.parse_tmem, self.source.need(4 + legacy.TMEM_SIZE)[4:])
        self.source.advance(4 + legacy.TMEM_SIZE)
        self._step = LegacyReader._read_tmem_pool
        return record

    def _read_tmem_pool(self) -> "Record":
        self._where = "TMEM_POOL"
        if self._ends_tmem():
            return legacy.TmemEnd()
        pool = legacy.parse_tmem_pool(self.source.need(legacy.TMEM_POOL_SIZE))
        self.source.advance(legacy.TMEM_POOL_SIZE)
        if pool.pages:
            self._pool, self._left = pool, pool.pages
            self._step = LegacyReader._read_tmem_page
        return pool

    def _read_tmem_page(self) -> "Record":
        self._where = "TMEM_PAGE"
        assert self._pool is not None
        if legacy.is_tmem_pages_end(self.source.need(legacy.TMEM_OID_SIZE)):
            self.source.advance(legacy.TMEM_OID_SIZE)
            self._step = LegacyReader._read_tmem_pool
            return legacy.TmemPagesEnd()
        page = legacy.parse_tmem_page_head(self.source.need(legacy.TMEM_PAGE_HEAD_SIZE))
        self.source.await_record(legacy.TMEM_PAGE_HEAD_SIZE + self._pool.page_size)
        page = page._replace(data=self.source.page_data(legacy.TMEM_PAGE_HEAD_SIZE, self._pool.page_size))
        self._left -= 1
        if not self._left:
            self._step = LegacyReader._read_tmem_pool
        return page

    def _read_tmem_invalid(self) -> "Record":
        self._where = "TMEM_INVALID"
        if self._ends_tmem():
            return legacy.TmemEnd()
        record = legacy.parse_tmem_invalid(self.source.need(legacy.TMEM_INVALID_SIZE))
        self.source.advance(legacy.TMEM_INVALID_SIZE)
        return record

    def _ends_tmem(self) -> bool:
        if U32.unpack_from(self.source.need(4))[0] != legacy.ALL_ONES:
            return False
        self.source.advance(4)
        self._step = LegacyReader._read_chunk
        return True

    # The tail

    def _read_unmapped(self) -> "Optional[Record]":
        self._where = "UNMAPPED_PFNS"
        width = self.head.width
        head = 4 if self._left < 0 else 0
        left = U32.unpack_from(self.source.need(4))[0] if head else self._left
        if left > self.head.p2m_size:
            raise CorruptStream("more unmapped PFNs than the guest has", offset=0, field="count",
                                expected="at most {}".format(self.head.p2m_size), got=left)
        size = width * min(left, _UNMAPPED_AT_ONCE)
        numbers = self.source.keep(self.source.need(head + size)[head:])
        pfns = memoryview(legacy.ulongs(numbers, width)).cast("B").cast("Q")
        if len(pfns) and max(pfns) >= self.head.p2m_size:
            at = pfns.tolist().index(max(pfns))
            raise CorruptStream("unmapped PFN past the end of the p2m", offset=head + at * width, field="pfn",
                                expected="under {:#x}".format(self.head.p2m_size), got=hex(pfns[at]))
        self.source.advance(head + size)
        self._left = left - len(pfns)
        if not self._left:
            self._step = LegacyReader._read_vcpu
        return legacy.UnmappedPfns(pfns.cast("B"), self._left)

    def _read_vcpu(self) -> "Optional[Record]":
        """The next online vcpu; ``_left`` counts those that have come."""
        self._where = "VCPU_CONTEXT"
        if self._left == len(self._vcpus):
            self._step = LegacyReader._read_shared_info
            return None
        assert self._info is not None
        basic = libxc.VCPU_BASIC_SIZES[self._info.guest_width]
        size = basic + (legacy.VCPU_EXTENDED_SIZE if self._info.extended else 0)
        mask: Optional[int] = None
        area = 0
        if self._info.xsave_size is not None:
            size += legacy.XSAVE_HEAD_SIZE
            at = size - legacy.XSAVE_HEAD_SIZE
            mask, area = self._parsed(at, legacy.parse_xsave_head, self.source.need(size)[at:])
            self._check_size(area, self.limits.body_length, at + 8, "size of the xsave area")
        whole = self.source.keep(self.source.need(size + area))
        if not vcpu.top_table(whole[:basic], self._info.guest_width):
            # The zeros of an interrupted save would go on as checkpoints; the old restore says "PT base is bad".
            raise CorruptStream("vcpu context without page tables", offset=0, field="ctrlreg[3]",
                                expected="the PFN of a top-level page table", got=0)
        extended = whole[basic:basic + legacy.VCPU_EXTENDED_SIZE] if self._info.extended else b""
        self.source.advance(size + area)
        self._left += 1
        return legacy.VcpuContext(self._vcpus[self._left - 1], whole[:basic], extended, mask,
                                  None if mask is None else whole[size:])

    def _read_shared_info(self) -> "Record":
        self._where = "SHARED_INFO"
        page = self.source.keep(self.source.need(legacy.SHARED_INFO_SIZE))
        self.source.advance(legacy.SHARED_INFO_SIZE)
        assert self._info is not None
        whole = shared_info.is_whole(page, self._info.guest_width, self.head.p2m_size)
        self._missing = () if whole else ("SHARED_INFO",)
        if 0 not in self._vcpus:
            self._missing += ("VCPU_CONTEXT of vcpu 0",)
        self._end_tail()
        return legacy.SharedInfo(page)

    def _read_hvm_tail(self) -> "Record":
        self._where = "HVM_TAIL"
        pfns = legacy.parse_magic_pfns(self.source.need(legacy.MAGIC_PFNS_SIZE))
        context = self._read_blob(legacy.MAGIC_PFNS_SIZE, "length of the HVM context")
        self._missing = () if libxc.is_whole_context(context, converted=True) else ("HVM_CONTEXT",)
        if self._device_model:
            self._step = LegacyReader._read_device_model
        else:
            self._end_tail()
        return legacy.HvmTail(*pfns, context=context)

    def _read_device_model(self) -> "Record":
        self._where = "DEVICE_MODEL"
        signature = legacy.check_signature(self.source.need(legacy.SIGNATURE_SIZE))
        if signature == legacy.XEND_DEVICE_MODEL:
            self.source.advance(legacy.SIGNATURE_SIZE)
            self._left, self._step = 0, LegacyReader._read_xend_device_model
            return self._read_xend_device_model()
        record = legacy.DeviceModel(signature, self._read_blob(legacy.SIGNATURE_SIZE, "length"))
        self._note_device_model(record.blob)
        self._end_tail()
        return record

    def _read_xend_device_model(self) -> "Record":
        """The rest of xend's record, which ends with the input."""
        self._where = "DEVICE_MODEL"
        rest = self._read_rest()
        self._note_device_model(rest)
        self._last = True
        self._end_tail()
        return legacy.DeviceModel(legacy.XEND_DEVICE_MODEL, rest)

    def _note_device_model(self, blob: "Buffer") -> None:
        # An empty one is as it was sent, unless bytes follow: see lost(). A container that needs one misses it, see
        # check_device_model().
        self._empty_device_model = not len(blob)
        if len(blob) and not vmstate.is_whole(blob):
            self._missing += ("DEVICE_MODEL",)

    def _end_tail(self) -> None:
        self.ended = self._last
        self._step = LegacyReader._read_checkpoint

    def _read_checkpoint(self) -> "Record":
        """After a tail without LAST_CHECKPOINT before it: a checkpoint is complete."""
        self.checkpoints += 1
        self._compressing = self._compressing or self._compress_next
        self._step = LegacyReader._read_chunk
        return libxc.Checkpoint()

    # Pieces

    def _read_blob(self, at: int, field: str) -> memoryview:
        """A blob that follows its length, a u32 that is ``at`` bytes from here; consumes both."""
        size, = U32.unpack_from(self.source.need(at + 4), at)
        self._check_size(size, self.limits.body_length, at, field)
        blob = self.source.keep(self.source.need(at + 4 + size)[at + 4:])
        self.source.advance(at + 4 + size)
        return blob

    def _read_rest(self) -> bytes:
        """Everything up to the end of the input. Consumes it piece by piece; NeedMoreData may interrupt it."""
        while True:
            piece = self.source.peek(_REST_AT_ONCE)
            if not len(piece):
                rest, self._rest = b"".join(self._rest), []
                return rest
            self._left += len(piece)
            self._check_size(self._left, self.limits.body_length, legacy.SIGNATURE_SIZE,
                             "length of the rest of the input")
            self._rest.append(bytes(piece))
            self.source.advance(len(piece))

    def _check_size(self, size: int, most: int, offset: int, field: str) -> None:
        if size > most:
            raise LimitExceeded("longer than the limit", offset=offset, field=field, expected="at most {}".format(most),
                                got=size)

    def _parsed(self, at: int, parse: "Callable[[memoryview], T]", untrusted: memoryview) -> "T":
        """The result of ``parse`` for bytes that begin ``at`` bytes from here. Offsets of its errors are relative to
        them."""
        try:
            return parse(untrusted)
        except StreamError as error:
            error.offset = at + (error.offset or 0)
            raise

    def _finish(self) -> None:
        """Once, after the end: check that nothing follows that shouldn't."""
        if self._finished:
            return
        if not self._contained and not self.source.exact:
            check_end(self.source, self.layer, self.strict)
        self._finished = True


_CHUNKS: "Dict[int, Callable[[LegacyReader], Record]]" = {
    legacy.VCPU_INFO: LegacyReader._read_vcpu_info,
    legacy.TSC_INFO: LegacyReader._read_tsc_info,
    legacy.TMEM: LegacyReader._read_tmem,
    legacy.COMPRESSED: LegacyReader._read_compressed,
    legacy.TOOLSTACK: LegacyReader._read_toolstack,
}

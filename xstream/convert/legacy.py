"""Legacy streams into version 3, while they flow."""
import contextlib
import os
import stat
from typing import Any, Callable, ContextManager, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple, Type

from xstream.containers.opening import AnyReader, open_stream, recognise
from xstream.convert.converted_forms import FORMS, Extras, Form
from xstream.convert.converted_memory import KeptMemory, MemoryRoad, find_freed
from xstream.errors import LimitExceeded, StreamError, TruncatedStream, UnsupportedStream
from xstream.guest.load import SPOOLED
from xstream.kernels import pfns as pfn_kernel
from xstream.kernels import transfer
from xstream.limits import Limits
from xstream.stream.compressed import DecompressedSource
from xstream.stream.legacy_reader import LegacyReader
from xstream.stream.output import is_stream, output
from xstream.stream.signs import COMPRESSED
from xstream.stream.sink import Sink, SyncedSink, open_sink
from xstream.stream.source import BufferSource, DescriptorSource, Source, open_source
from xstream.stream.writer import Writer
from xstream.wire import legacy, libvirt, libxc, libxl, xend, xl
from xstream.wire.libxc import PAGE_SIZE, PageData

#: The version that Xen's converter puts into the domain header's xen_minor, with xen_major 0; so do we.
CONVERTER_VERSION = 1
_GUEST_TYPES = {legacy.PV: libxc.GUEST_PV, legacy.HVM: libxc.GUEST_HVM}
#: The HVM parameters that a tail has: ioreq, bufioreq and store PFN.
_TAIL_PARAMS = (5, 6, 1)
#: Where a toolstack chunk's blob begins in it.
_TOOLSTACK_HEAD = 8


class ConvertReport(NamedTuple):
    """What was converted. ``width``: bytes of the toolstack's unsigned long. ``pages``: guest pages written, those for
    comparison included. ``dropped``: names of what the new format has no place for."""

    guest: str
    width: int
    pages: int
    checkpoints: int
    bytes_read: int
    bytes_written: int
    dropped: Tuple[str, ...]


class Conversion(NamedTuple):
    """How to convert; the fields are ``convert``'s arguments."""

    to: str = libxc.LAYER
    width: Optional[int] = None
    guest: Optional[str] = None
    format: Optional[str] = None
    checkpointed: bool = False
    last_checkpoint: bool = False
    squash: bool = False
    limits: Limits = Limits()
    strict: bool = False


def convert(source: Any, sink: Any, *, progress: Callable[[int], Any] = lambda offset: None,
            **options: Any) -> ConvertReport:
    """Convert a legacy stream to a libxc stream of version 3, or with ``to="libxl"`` to a libxl stream around one.

    ``source``: anything that :func:`~xstream.stream.source.open_source` takes; ``sink``: a path (the file appears when
    it is complete, mode 0600; "-" is stdout), or anything that :func:`~xstream.stream.sink.open_sink` takes. Page data
    goes from descriptor to descriptor without passing through this process. A header of xl's or libvirt's in front is
    kept, and for libxl says that such a stream follows; one of xend's is left out.

    - ``width`` (4 or 8), ``guest`` ("pv" or "hvm"): as LegacyReader has them; ``format`` as xstream.open has it;
    - ``checkpointed``: the input is a Remus stream. It is recognised as one without being told, but only at the end of
      its first checkpoint: of what a pipe has brought until then nothing is kept, and page deltas against it would be
      an error (Xen's sender makes none; files and buffers are read again). Told before, a copy of the guest's memory is
      kept in a temporary file;
    - ``last_checkpoint``: make of a Remus stream a plain one, of its last complete state;
    - ``squash``: write each PFN once, its last contents, out of a temporary file; nothing is left for comparison, and
      a Remus stream becomes a plain one;
    - ``limits``, ``strict``: as LegacyReader has them.

    Raises StreamError's kin for what is wrong with the stream (UnsupportedStream for one that isn't a legacy stream),
    then no END has been written; OSError; ValueError for an unknown ``to``.

    The records' order is that of Xen's converter: tools/python/scripts/convert-legacy-stream.
    """
    how = Conversion(**options)
    if how.to not in FORMS:
        raise ValueError("to is one of {}, not {!r}".format(", ".join(FORMS), how.to))
    with _opened(source) as start, _sink(sink) as out:
        return _Converter(start, out, how).run(progress)


def find_legacy(source: Any, format: Optional[str] = None) -> Tuple[Any, Optional[str]]:
    """What to read a source from, and if it has a legacy stream in it, the outermost format: a file is read as it was
    given, anything else from the source that has been looked at. Nothing is consumed. ``format`` is what it is known
    to be, if it is."""
    if isinstance(source, int):
        transfer.widen_pipe(source)
    opened = plain = open_source(source)
    sign = recognise(opened)
    if sign in COMPRESSED:
        assert sign is not None
        opened = DecompressedSource(opened, sign.format)
        sign = recognise(opened)
    name = format or (sign.format if sign is not None else "")
    looks = _LEGACY_WITHIN.get(name)
    found = name if looks is not None and looks(opened) else None
    if isinstance(plain, BufferSource):  # a file's bytes stay where they are
        plain.close()
        return source, found
    return opened, found


def _in_xl(source: Source) -> bool:
    start = source.peek(xl.HEADER_SIZE)
    return len(start) == xl.HEADER_SIZE and not xl.parse_head(start)[0].mandatory_flags & xl.LIBXL_STREAM


def _in_libvirt(source: Source) -> bool:
    start = source.peek(libvirt.HEADER_SIZE)
    return len(start) == libvirt.HEADER_SIZE and libvirt.parse_head(start)[0].version == libvirt.LEGACY_STREAM


#: Formats that can hold a legacy stream, and how to see whether one does.
_LEGACY_WITHIN: Dict[str, Callable[[Source], bool]] = {
    legacy.LAYER: lambda source: True, xend.LAYER: lambda source: True, xl.LAYER: _in_xl, libvirt.LAYER: _in_libvirt,
}


class _Start(NamedTuple):
    """The input; ``again``, where one can go back to its beginning, gives it from there once more."""

    source: Source
    again: Optional[Callable[[], ContextManager[Source]]] = None


@contextlib.contextmanager
def _opened(source: Any) -> Iterator[_Start]:
    """The input: a regular file by its descriptor and not by a mapping, whose pages would count as our memory."""
    if isinstance(source, (str, os.PathLike)):
        fd = os.open(os.fspath(source), os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield _start(fd)
        finally:
            os.close(fd)
    elif isinstance(source, int):
        yield _start(source)
    else:
        opened = open_source(source)
        rereadable = isinstance(opened, BufferSource) and opened is not source
        yield _Start(opened, (lambda: BufferSource(source)) if rereadable else None)


def _start(fd: int) -> _Start:
    transfer.widen_pipe(fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return _Start(DescriptorSource(fd))
    begin = os.lseek(fd, 0, os.SEEK_CUR)
    return _Start(DescriptorSource(fd), lambda: _from(fd, begin))


@contextlib.contextmanager
def _from(fd: int, position: int) -> Iterator[Source]:
    """A file from another position on; in the end it stands again where it stood."""
    here = os.lseek(fd, 0, os.SEEK_CUR)
    os.lseek(fd, position, os.SEEK_SET)
    try:
        yield DescriptorSource(fd)
    finally:
        os.lseek(fd, here, os.SEEK_SET)


@contextlib.contextmanager
def _sink(sink: Any) -> Iterator[Sink]:
    if not isinstance(sink, (str, os.PathLike)):
        yield _widened(sink)
        return
    with output(os.fspath(sink)) as fd:
        yield _widened(fd) if is_stream(os.fspath(sink)) else SyncedSink(fd)


def _widened(sink: Any) -> Sink:
    if isinstance(sink, int):
        transfer.widen_pipe(sink)
    return open_sink(sink)


class _State:
    """What follows a checkpoint's memory: libxc's records, where they can't be written at once, and others' parts."""

    def __init__(self) -> None:
        self.records: List[libxc.Record] = []
        self.extras = Extras()
        self._size = 0

    def add(self, record: libxc.Record, limits: Limits) -> None:
        """Hold a record. Raises LimitExceeded for more than a body may have."""
        self._size += sum(len(piece) for piece in libxc.build(record))
        if self._size > limits.body_length:
            raise LimitExceeded("state of a checkpoint larger than the limit", field="length",
                                expected="at most {}".format(limits.body_length), got=self._size)
        self.records.append(record)


class _Converter:
    """One conversion: takes the records by turns, each kind by its method, and writes what they become."""

    def __init__(self, start: _Start, sink: Sink, how: Conversion) -> None:
        self._start = start
        self._sink = sink
        self._how = how
        self._form: Form = FORMS[how.to]()
        self._reader = self._open(start.source)
        self._legacy = _legacy(self._reader)
        self._road = MemoryRoad(self._legacy, self._write_pages, how.limits)
        self._params: List[Tuple[int, int]] = []
        self._state = _State()
        self._holds = how.last_checkpoint or how.squash
        self._plain = self._holds
        self._pages = 0
        self._dropped: Set[str] = set()

    def run(self, progress: Callable[[int], Any]) -> ConvertReport:
        try:
            self._prepare()
            while self._step():
                progress(self._reader.source.offset)
            if self._plain or not self._legacy.checkpoints:
                self._end()
        finally:
            self._road.close()
        head = self._legacy.head
        return ConvertReport(head.guest, head.width, self._pages, self._legacy.checkpoints, self._reader.source.offset,
                             self._sink.offset, tuple(sorted(self._dropped)))

    def _prepare(self) -> None:
        seekable = self._start.again is not None
        if self._how.squash or (self._how.checkpointed and not seekable):
            self._road.kept = KeptMemory(self._how.limits)
        elif self._legacy.head.guest == legacy.PV and seekable:
            self._road.freed = self._look_again(find_freed)

    def _step(self) -> bool:
        try:
            record = self._reader.next_record()
            if record is not None:
                self._take(record)
            return record is not None
        except TruncatedStream:
            # Pages cut off behind a complete checkpoint are void, like all that stands there.
            if not self._legacy.checkpoints:
                raise
            return False

    def _take(self, record: Any) -> None:
        take = _TAKE.get(type(record))
        if take is None:
            raise UnsupportedStream("legacy stream in a container that isn't converted", layer=self._reader.layer,
                                    offset=self._reader.offset, record=self._reader.index)
        try:
            take(self, record)
        except StreamError as error:
            if error.layer is None:
                error.located(layer=self._reader.layer, record=self._reader.index, base=self._reader.offset)
            raise

    # Headers

    def _take_xl(self, record: xl.SaveHeader) -> None:
        if self._how.to == libxl.LAYER:
            record = record._replace(mandatory_flags=record.mandatory_flags | xl.LIBXL_STREAM)
        self._sink.write(xl.build(record))

    def _take_libvirt(self, record: libvirt.SaveHeader) -> None:
        if self._how.to == libxl.LAYER:
            record = record._replace(version=libvirt.LIBXL_STREAM)
        self._sink.write(libvirt.build(record))

    def _take_start(self, record: legacy.Start) -> None:
        self._form.begin(self._sink)
        domain = libxc.DomainHeader(_GUEST_TYPES[record.guest], 12, 0, 0, CONVERTER_VERSION)
        self._writer = Writer(self._sink, domain, checkpointed=not self._plain, limits=self._how.limits)
        if record.guest == legacy.HVM:
            self._writer.write(libxc.StaticDataEnd())

    def _take_extended_info(self, record: legacy.ExtendedInfo) -> None:
        self._writer.write(libxc.PVInfo(record.guest_width, record.pt_levels))
        self._writer.write(libxc.StaticDataEnd())

    def _take_p2m_frames(self, record: legacy.P2MFrames) -> None:
        self._writer.write(libxc.P2MFrames(0, self._legacy.head.p2m_size - 1, record.frames))

    # Body

    def _take_memory(self, record: Any) -> None:
        self._road.take(record)

    def _take_verify(self, record: legacy.VerifyMode) -> None:
        if not self._how.squash:
            self._writer.write(libxc.Verify())

    def _take_tsc_info(self, record: legacy.TscInfo) -> None:
        self._writer.write(libxc.TscInfo(record.mode, record.khz, record.nsec, record.incarnation))

    def _take_param(self, record: legacy.HvmParam) -> None:
        self._params.append((record.param, record.value))

    def _take_toolstack(self, record: legacy.Toolstack) -> None:
        # What isn't libxl's own is nobody's here: Xen's converter looks at it for libxl alone, too.
        if not len(record.blob):
            return
        if self._how.to == libxl.LAYER and self._legacy.head.guest == legacy.HVM:
            try:
                physmap = legacy.parse_physmap(record.blob, self._legacy.head.width)
            except StreamError as error:
                error.offset = _TOOLSTACK_HEAD + (error.offset or 0)
                raise
            self._state.extras = self._state.extras._replace(physmap=tuple(physmap))
        elif len(record.blob) > _TOOLSTACK_HEAD:
            self._dropped.add("TOOLSTACK")

    def _take_enable_compression(self, record: legacy.EnableCompression) -> None:
        if self._road.kept is None:
            self._road.kept = KeptMemory(self._how.limits)
            if self._start.again is not None:
                self._look_again(self._road.kept.copy_first_checkpoint)
        self._road.begin_compression()

    def _take_end_of_body(self, record: legacy.EndOfBody) -> None:
        if self._params:
            self._write_state(libxc.HvmParams.of(self._params))
            self._params = []

    # Tail

    def _take_unmapped(self, record: legacy.UnmappedPfns) -> None:
        for batch in self._road.taken_back(record):
            self._write_state(batch)

    def _take_vcpu(self, record: legacy.VcpuContext) -> None:
        self._write_state(libxc.VcpuBasic(record.vcpu_id, record.basic))
        if len(record.extended):
            self._write_state(libxc.VcpuExtended(record.vcpu_id, record.extended))
        if record.xsave is not None:
            self._write_state(libxc.VcpuXsave(record.vcpu_id, record.xsave))

    def _take_shared_info(self, record: legacy.SharedInfo) -> None:
        self._write_state(libxc.SharedInfo(record.page))

    def _take_hvm_tail(self, record: legacy.HvmTail) -> None:
        self._write_state(libxc.HvmParams.of(list(zip(_TAIL_PARAMS, record[:3]))))
        self._write_state(libxc.HvmContext(record.context))

    def _take_device_model(self, record: legacy.DeviceModel) -> None:
        self._state.extras = self._state.extras._replace(device_model=record)

    def _take_checkpoint(self, record: libxc.Checkpoint) -> None:
        self._road.end_checkpoint()
        self._last, self._state = self._state, _State()
        self._holds = True
        if not self._plain:
            for held in self._last.records:
                self._writer.write(held)
            self._writer.write(record)
            self._dropped.update(self._form.end_checkpoint(self._sink, self._last.extras))

    def _end(self) -> None:
        """Write what ends a plain stream."""
        state = self._last if self._legacy.checkpoints else self._state
        if self._how.squash:
            self._write_squashed(state)
        for record in state.records:
            self._writer.write(record)
        self._writer.write(libxc.End())
        self._dropped.update(self._form.end(self._sink, state.extras, self._legacy.head.width))

    # Others

    def _pass_over(self, record: Any) -> None:
        """What says nothing of the guest."""

    def _drop(self, record: Any) -> None:
        self._dropped.add(_DROPPED[type(record)])

    def _write_pages(self, record: PageData) -> None:
        if not self._how.squash:
            self._pages += len(record.data) // PAGE_SIZE
            self._writer.write(record)

    def _write_state(self, record: libxc.Record) -> None:
        if self._holds:
            self._state.add(_owned(record), self._how.limits)
        else:
            self._writer.write(record)

    def _write_squashed(self, state: _State) -> None:
        kept = self._road.kept
        assert kept is not None
        for batch in [record for record in state.records if isinstance(record, PageData)]:
            pfns, types = memoryview(bytearray(len(batch.words))).cast("Q"), bytearray(batch.pfn_count)
            pfn_kernel.unpack(batch.words, pfns, types)
            kept.memory.forget(pfns)
            state.records.remove(batch)
        for batch in kept.batches():
            self._pages += len(batch.data) // PAGE_SIZE
            self._writer.write(batch)

    def _open(self, source: Source) -> AnyReader:
        how = self._how
        return open_stream(source, format=how.format, limits=how.limits, strict=how.strict, checkpointed=True,
                           width=how.width, guest=how.guest)

    def _look_again(self, look: Callable[[LegacyReader], Any]) -> Any:
        """Have a look at the input from its beginning, which doesn't disturb where it is read."""
        assert self._start.again is not None
        with self._start.again() as source:
            return look(_legacy(self._open(source)))


def _legacy(reader: AnyReader) -> LegacyReader:
    memory = reader.memory
    if not isinstance(memory, LegacyReader):
        raise UnsupportedStream("not a legacy stream", layer=reader.layer, offset=memory.start, field="format",
                                expected=legacy.LAYER, got=memory.layer)
    return memory


def _owned(record: Any) -> Any:
    """A record whose blobs don't depend on the source."""
    return record._replace(**{name: bytes(value) for name, value in record._asdict().items()
                              if isinstance(value, memoryview)})


_DROPPED = {legacy.Tmem: "TMEM", legacy.TmemExtra: "TMEM_EXTRA", xend.SaveHeader: "xend's header"}
_TAKE: Dict[Type[Any], Callable[[_Converter, Any], None]] = {
    xl.SaveHeader: _Converter._take_xl,
    libvirt.SaveHeader: _Converter._take_libvirt,
    legacy.Start: _Converter._take_start,
    legacy.ExtendedInfo: _Converter._take_extended_info,
    legacy.P2MFrames: _Converter._take_p2m_frames,
    legacy.VerifyMode: _Converter._take_verify,
    legacy.TscInfo: _Converter._take_tsc_info,
    legacy.HvmParam: _Converter._take_param,
    legacy.Toolstack: _Converter._take_toolstack,
    legacy.EnableCompression: _Converter._take_enable_compression,
    legacy.EndOfBody: _Converter._take_end_of_body,
    legacy.UnmappedPfns: _Converter._take_unmapped,
    legacy.VcpuContext: _Converter._take_vcpu,
    legacy.SharedInfo: _Converter._take_shared_info,
    legacy.HvmTail: _Converter._take_hvm_tail,
    legacy.DeviceModel: _Converter._take_device_model,
    libxc.Checkpoint: _Converter._take_checkpoint,
}
_TAKE.update(dict.fromkeys(SPOOLED, _Converter._take_memory))
_TAKE.update(dict.fromkeys(_DROPPED, _Converter._drop))
_TAKE.update(dict.fromkeys((legacy.VcpuInfo, legacy.LastCheckpoint, legacy.TmemPool, legacy.TmemPage,
                            legacy.TmemPagesEnd, legacy.TmemInvalid, legacy.TmemEnd), _Converter._pass_over))

"""The same guest in another container: wrap, unwrap, or from one into another. Memory passes through as it is."""
import contextlib
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from xstream.containers.layers import LibxlReader
from xstream.containers.opening import open_stream
from xstream.containers.reader import NestedReader
from xstream.containers.writers import LibvirtWriter, LibxlWriter, XenopsdWriter, XlWriter
from xstream.convert.parts import in_memory
from xstream.convert.squash import SquashedReader, write_squashed
from xstream.errors import MissingPart, UnsupportedStream
from xstream.stream.sink import Sink, open_sink
from xstream.stream.writer import Writer
from xstream.wire import legacy, libvirt, libxc, libxl, xenopsd, xl
from xstream.wire.formats import record_name

#: The types of QEMU's record in xenopsd's image, and the emulator that libxl knows each by.
_EMULATORS = {xenopsd.QEMU_TRAD: 0, xenopsd.QEMU_XEN: 2}
_QEMU_UPSTREAM = 2


class Parts(NamedTuple):
    """What a container may want that its source hasn't got; where it has, what is given takes its place.

    - ``config``: for xl the domain's configuration, JSON or the text of a config file; for libvirt its XML; for
      xenopsd the Xenops record;
    - ``device_model``: QEMU's record; with ``no_device_model`` an HVM guest goes without, as a PVH guest does.
    """

    config: Optional[bytes] = None
    device_model: Optional[bytes] = None
    no_device_model: bool = False


class RewrapReport(NamedTuple):
    """``source``: the formats read, outermost first; ``target``: the one written, of ``bytes`` bytes; ``dropped``: the
    records for which it has no place, by layer and name."""

    source: Tuple[str, ...]
    target: str
    bytes: int
    dropped: Tuple[str, ...]


def rewrap(source: Any, sink: Any, to: str, parts: Parts = Parts(), *, squash: bool = False,
           progress: Callable[[int], Any] = lambda offset: None, **options: Any) -> RewrapReport:
    """Write what ``source`` holds to ``sink`` as the format ``to``: "libxc", "libxl", "xl", "libvirt" or "xenopsd".

    To the format that it has already it is copied record by record, to the same bytes. With ``squash`` each page is
    written once, with its last contents, as a plain stream, out of a temporary file: of a stream with checkpoints the
    last complete one. ``source`` and ``options`` are those of xstream.open, ``sink`` is anything that
    :func:`~xstream.stream.sink.open_sink` takes. Memory use is bounded.

    Raises MissingPart, naming it, for what the source hasn't got and ``parts`` don't give; UnsupportedStream for legacy
    memory, which is converted first, and for checkpoints where they can't be carried over; StreamError's kin and
    OSError.
    """
    if to not in _TARGETS:
        raise ValueError("can't write {!r}; known are {}".format(to, ", ".join(_TARGETS)))
    if squash:
        options.setdefault("checkpointed", True)
    with open_stream(source, **options) as reader:
        if isinstance(reader, NestedReader):
            reader.look_ahead()
        formats = tuple(layer.format for layer in reader.layers)
        if legacy.LAYER in formats:
            raise UnsupportedStream("legacy memory is converted first", layer=legacy.LAYER, offset=reader.offset)
        if squash:
            with contextlib.closing(SquashedReader(reader)) as squashed:
                squashed.load(progress)
                target = _TARGETS[to](open_sink(sink), parts, squashed, formats)
                write_squashed(squashed, target, formats)
        else:
            target = _TARGETS[to](open_sink(sink), parts, reader, formats)
            _pass_on(reader, target, progress)
        target.finish()
        return RewrapReport(formats, to, target.sink.offset, tuple(target.dropped))


def _pass_on(reader: Any, target: "_Target", progress: Callable[[int], Any]) -> None:
    memory: Optional[Writer] = None
    while True:
        run = reader.next_run()
        record: Any = None if run is not None else reader.next_record()
        if run is None and record is None:
            return
        if reader.layer != libxc.LAYER:
            target.take(reader.layer, record)
        else:
            if memory is None:
                memory = target.begin_memory()
            if run is not None:
                memory.write_run(run)
            else:
                target.check_checkpoint(record)
                target.write_memory(memory, record)
        progress(reader.source.offset)


class _Target:
    """What the records of all layers are given to, in order, and what writes those that have a place in it."""

    #: Whether it can have checkpoints, from a source without libxl's records or with them.
    checkpoints_without_libxl = checkpoints_with_libxl = False

    def __init__(self, sink: Sink, parts: Parts, reader: Any, formats: Tuple[str, ...]) -> None:
        self.sink = sink
        self.parts = parts
        self.reader = reader
        self.formats = formats
        self.dropped: Dict[str, None] = {}
        self.options = {"checkpointed": reader.checkpointed, "limits": reader.limits}

    def take(self, layer: str, record: Any) -> None:
        """Take a record of any layer but the memory's."""
        self.drop(layer, record)

    def begin_memory(self) -> Writer:
        """Write what stands before the memory, and give the writer of that."""
        raise NotImplementedError

    def write_memory(self, memory: Writer, record: Any) -> None:
        """Write one of the memory stream's records."""
        memory.write(record)

    def finish(self) -> None:
        """Write what stands behind everything else."""

    def drop(self, layer: str, record: Any) -> None:
        """Have no place for a record; that of a mark which only held its container together isn't told."""
        if not isinstance(record, (libxl.LibxcContext, libxl.End, libxl.CheckpointEnd, xenopsd.MemoryImage,
                                   xenopsd.EndOfImage)):
            self.dropped["{} {}".format(layer, record_name(layer, record))] = None

    def check_checkpoint(self, record: Any) -> None:
        """Raise UnsupportedStream for a CHECKPOINT that can't be carried over."""
        can = self.checkpoints_with_libxl if libxl.LAYER in self.formats else self.checkpoints_without_libxl
        if isinstance(record, libxc.Checkpoint) and not can:
            raise UnsupportedStream("checkpoints can't be carried over into this format", layer=libxc.LAYER,
                                    offset=self.reader.offset, record=self.reader.index, record_type="CHECKPOINT")

    def check_device_model(self, found: bool) -> None:
        """Raise MissingPart for an HVM guest without QEMU's record, if it should have one."""
        hvm = self.reader.domain.type == libxc.GUEST_HVM
        if hvm and not found and not self.parts.no_device_model:
            raise MissingPart("an HVM guest's device model record is missing in the source: give QEMU's by "
                              "--device-model, or say by --no-device-model that the guest has none (PVH); in Python as "
                              "Parts")

    def need_config(self, what: str) -> bytes:
        """The config that was given. Raises MissingPart."""
        if self.parts.config is None:
            raise MissingPart("{} is missing in the source: give it by --config, in Python by Parts.config".format(
                what))
        return self.parts.config


class _Libxc(_Target):
    """The memory stream alone. Out of a libxl stream, a CHECKPOINT goes when CHECKPOINT_END says that it counts."""

    checkpoints_without_libxl = checkpoints_with_libxl = True

    def __init__(self, sink: Sink, parts: Parts, reader: Any, formats: Tuple[str, ...]) -> None:
        super().__init__(sink, parts, reader, formats)
        self._memory: Optional[Writer] = None
        self._held: Optional[libxc.Checkpoint] = None

    def begin_memory(self) -> Writer:
        self._memory = Writer(self.sink, self.reader.domain, self.reader.image, **self.options)
        return self._memory

    def write_memory(self, memory: Writer, record: Any) -> None:
        if isinstance(record, libxc.Checkpoint) and libxl.LAYER in self.formats:
            self._held = record
        else:
            memory.write(record)

    def take(self, layer: str, record: Any) -> None:
        if isinstance(record, libxl.CheckpointEnd) and self._memory is not None and self._held is not None:
            self._memory.write(self._held)
            self._held = None
        super().take(layer, record)


class _Libxl(_Target):
    """A libxl stream. Records of a source's own libxl layer are written as they are."""

    checkpoints_with_libxl = True

    def __init__(self, sink: Sink, parts: Parts, reader: Any, formats: Tuple[str, ...]) -> None:
        super().__init__(sink, parts, reader, formats)
        self._writer: Optional[LibxlWriter] = None
        self._device_model: Optional[libxl.EmulatorContext] = None
        if parts.device_model is not None:
            self._device_model = libxl.EmulatorContext(_QEMU_UPSTREAM, 0, parts.device_model)
        if formats[0] in (libxc.LAYER,):
            self.check_device_model(self._device_model is not None)

    def take(self, layer: str, record: Any) -> None:
        if layer == libxl.LAYER:
            self._take_libxl(record)
        elif isinstance(record, xenopsd.Blob) and record.type in _EMULATORS and libxl.LAYER not in self.formats:
            if self.parts.device_model is None:
                blob = in_memory(record.data, self.reader.limits.body_length)
                self._device_model = libxl.EmulatorContext(_EMULATORS[record.type], 0, blob)
        else:
            self.drop(layer, record)

    def begin_memory(self) -> Writer:
        if libxl.LAYER not in self.formats:
            self._write(libxl.LibxcContext())
        assert self._writer is not None
        return self._writer.libxc(self.reader.domain, self.reader.image)

    def finish(self) -> None:
        if libxl.LAYER not in self.formats:
            self.check_device_model(self._device_model is not None)
            self._write_device_model()
            self._write(libxl.End())

    def open_writer(self, header: libxl.Header) -> LibxlWriter:
        """The writer of the stream, what stands before it written."""
        return LibxlWriter(self.sink, header, **self.options)

    def _take_libxl(self, record: libxl.Record) -> None:
        if isinstance(record, libxl.EmulatorContext) and self.parts.device_model is not None:
            record = record._replace(blob=self.parts.device_model, padding=b"")
            self._device_model = None
        elif isinstance(record, libxl.End):
            self._write_device_model()
        self._write(record)

    def _write_device_model(self) -> None:
        if self._device_model is not None:
            self._write(self._device_model)
            self._device_model = None

    def _write(self, record: libxl.Record) -> None:
        if self._writer is None:
            self._writer = self.open_writer(_libxl_header(self.reader))
        self._writer.write(record)


class _Xl(_Libxl):
    """A libxl stream in an xl save file."""

    def __init__(self, sink: Sink, parts: Parts, reader: Any, formats: Tuple[str, ...]) -> None:
        super().__init__(sink, parts, reader, formats)
        self._header = xl.SaveHeader(xl.LIBXL_STREAM)
        if xl.LAYER not in formats:
            self._header = self._with_config(self.need_config("the domain's configuration, as xl has it,"))

    def take(self, layer: str, record: Any) -> None:
        if layer == xl.LAYER:
            self._header = record if self.parts.config is None else self._with_config(self.parts.config)
        else:
            super().take(layer, record)

    def open_writer(self, header: libxl.Header) -> LibxlWriter:
        return XlWriter(self.sink, self._header, limits=self.reader.limits).libxl(
            header, checkpointed=self.reader.checkpointed)

    def _with_config(self, config: bytes) -> xl.SaveHeader:
        if not config.lstrip().startswith(b"{"):
            return xl.SaveHeader(xl.LIBXL_STREAM, config)
        return xl.SaveHeader(xl.LIBXL_STREAM | xl.JSON_CONFIG, config.rstrip(b"\0") + b"\0")


class _Libvirt(_Libxl):
    """A libxl stream in a save file of libvirt's."""

    def __init__(self, sink: Sink, parts: Parts, reader: Any, formats: Tuple[str, ...]) -> None:
        super().__init__(sink, parts, reader, formats)
        self._header = libvirt.SaveHeader(b"")
        if libvirt.LAYER not in formats:
            self._header = self._with_xml(self.need_config("the domain's XML, as libvirt has it,"))

    def take(self, layer: str, record: Any) -> None:
        if layer == libvirt.LAYER:
            self._header = record if self.parts.config is None else self._with_xml(self.parts.config)
        else:
            super().take(layer, record)

    def open_writer(self, header: libxl.Header) -> LibxlWriter:
        return LibvirtWriter(self.sink, self._header, limits=self.reader.limits).libxl(
            header, checkpointed=self.reader.checkpointed)

    def _with_xml(self, xml: bytes) -> libvirt.SaveHeader:
        return libvirt.SaveHeader(xml.rstrip(b"\0") + b"\0")


class _Xenopsd(_Target):
    """A suspend image: a source's own as it is, with another's memory a new one around the libxc stream."""

    def __init__(self, sink: Sink, parts: Parts, reader: Any, formats: Tuple[str, ...]) -> None:
        super().__init__(sink, parts, reader, formats)
        self._same = formats[0] == xenopsd.LAYER
        self._libxl: Optional[LibxlWriter] = None
        self._blobs: List[xenopsd.Blob] = []
        if not self._same:
            text = self.need_config("the Xenops record")
            if formats[0] == libxc.LAYER:
                self.check_device_model(parts.device_model is not None)
        self._writer = XenopsdWriter(sink, limits=reader.limits)
        if not self._same:
            self._writer.write(xenopsd.Xenops(text))

    def take(self, layer: str, record: Any) -> None:
        if self._same:
            self._take_own(layer, record)
        elif isinstance(record, libxl.EmulatorContext):
            # xenopsd takes every QEMU's record under this type, and refuses the other.
            self._blobs = [xenopsd.Blob(xenopsd.QEMU_TRAD, record.blob)]
        else:
            self.drop(layer, record)

    def begin_memory(self) -> Writer:
        if self._libxl is not None:
            return self._libxl.libxc(self.reader.domain, self.reader.image)
        if not self._same:
            self._writer.write(xenopsd.MemoryImage(xenopsd.LIBXC))
        return self._writer.libxc(self.reader.domain, self.reader.image)

    def finish(self) -> None:
        if self._same:
            return
        if self.parts.device_model is not None:
            self._blobs = [xenopsd.Blob(xenopsd.QEMU_TRAD, self.parts.device_model)]
        self.check_device_model(bool(self._blobs))
        for blob in self._blobs:
            self._writer.write(blob)
        self._writer.write(xenopsd.EndOfImage())

    def _take_own(self, layer: str, record: Any) -> None:
        if layer == libxl.LAYER:
            if self._libxl is None:
                self._libxl = self._writer.libxl(_libxl_header(self.reader))
            self._libxl.write(record)
            return
        if isinstance(record, xenopsd.Xenops) and self.parts.config is not None:
            record = xenopsd.Xenops(self.parts.config)
        elif isinstance(record, xenopsd.Blob) and record.type in _EMULATORS and self.parts.device_model is not None:
            record = record._replace(data=self.parts.device_model)
        self._writer.write(record)


def _libxl_header(reader: Any) -> libxl.Header:
    """The header of the source's own libxl layer, or a new one."""
    headers = [layer.header for layer in getattr(reader, "readers", ()) if isinstance(layer, LibxlReader)]
    return headers[0] if headers and headers[0] is not None else libxl.Header()


_TARGETS: Dict[str, Any] = {libxc.LAYER: _Libxc, libxl.LAYER: _Libxl, xl.LAYER: _Xl, libvirt.LAYER: _Libvirt,
                            xenopsd.LAYER: _Xenopsd}

"""What a conversion writes to: a target for each container takes the records of all layers and writes those it has a
place for."""
from typing import Dict, List, NamedTuple, Optional, Tuple, Type

from xstream.containers.opening import AnyReader
from xstream.containers.reader import NestedReader
from xstream.containers.writers import LibvirtWriter, LibxlWriter, XenopsdWriter, XlWriter
from xstream.convert.legacy import legacy_reader
from xstream.convert.parts import device_model_of, in_memory, not_read
from xstream.errors import MissingPart, StreamError, UnsupportedStream
from xstream.stream.reader import PageRun
from xstream.stream.sink import Sink
from xstream.stream.writer import Writer
from xstream.wire import legacy, libvirt, libxc, libxl, xenopsd, xl
from xstream.wire.formats import record_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.wire.formats import AnyRecord
    from xstream.wire.frames import Buffer

#: xenopsd's types of QEMU's record, and libxl's emulator id for each. All but the second can be of any QEMU.
_EMULATORS = {xenopsd.QEMU_TRAD: 0, xenopsd.QEMU_XEN: libxl.QEMU_UPSTREAM, xenopsd.QEMU_RECORD: 0}
#: libxl's physmap data of a legacy stream without any entry: a version and a count.
_EMPTY_PHYSMAP = legacy.PHYSMAP_VERSION.to_bytes(4, "little") + bytes(4)
#: Records that only mark a position in their own container.
_MARKS = (libxl.LibxcContext, libxl.End, libxl.CheckpointEnd, xenopsd.MemoryImage, xenopsd.EndOfImage)


class Parts(NamedTuple):
    """What the caller supplies for the container; it replaces what the source contains.

    - ``config``: the domain's configuration: xl's (JSON or text), libvirt's XML, or xenopsd's Xenops record;
    - ``device_model``: QEMU's record;
    - ``no_device_model``: an HVM guest may lack one, because it is PVH.
    """

    config: Optional[bytes] = None
    device_model: Optional[bytes] = None
    no_device_model: bool = False


class Origin(NamedTuple):
    """The stream that a target is given, and where it comes from.

    - ``reader``: the source's reader, for limits and positions in errors;
    - ``formats``: the source's layers, outermost first;
    - ``domain``, ``image``: the headers of the libxc stream to write;
    - ``checkpointed``: whether that stream may have checkpoints.
    """

    reader: AnyReader
    formats: Tuple[str, ...]
    domain: libxc.DomainHeader
    image: libxc.ImageHeader
    checkpointed: bool

    @property
    def from_legacy(self) -> bool:
        """Whether the source holds a legacy stream."""
        return legacy.LAYER in self.formats


class Target:
    """Takes the records of a stream, of all its layers and in order, and writes those that its container can hold."""

    #: Whether the container can hold checkpoints, from a source without libxl records and from one with them.
    checkpoints_without_libxl = checkpoints_with_libxl = False

    def __init__(self, sink: Sink, parts: Parts, origin: Origin) -> None:
        self.sink = sink
        self.parts = parts
        self.origin = origin
        self.limits = origin.reader.limits
        self.pages = 0
        self.dropped: Dict[str, None] = {}
        self._memory: Optional[Writer] = None

    def take(self, layer: str, record: "AnyRecord") -> None:
        """Take one record, or a PageRun."""
        if layer != libxc.LAYER:
            self.take_outer(layer, record)
            return
        if self._memory is None:
            self._memory = self.begin_memory()
        if isinstance(record, PageRun):
            self.pages += record.pages
            self._memory.write_run(record)
            return
        if isinstance(record, libxc.PageData):
            self.pages += len(record.data) // libxc.PAGE_SIZE
        elif isinstance(record, libxc.Checkpoint):
            self._check_checkpoint()
        self.write_memory(self._memory, record)  # type: ignore[arg-type]  # as the layer says

    def take_outer(self, layer: str, record: "AnyRecord") -> None:
        """Take a record of any layer but libxc's."""
        self.drop(layer, record)

    def begin_memory(self) -> Writer:
        """Write what precedes memory; returns the writer of the libxc stream."""
        raise NotImplementedError

    def write_memory(self, memory: Writer, record: "libxc.Record") -> None:
        """Write a record of the libxc stream."""
        memory.write(record)

    def finish(self) -> None:
        """Write what follows everything else."""

    def drop(self, layer: str, record: "AnyRecord") -> None:
        """Report a record as dropped."""
        if isinstance(record, _MARKS) or isinstance(record, legacy.Toolstack) and _is_empty(record):
            return
        self.dropped["{} {}".format(layer, record_name(layer, record))] = None

    def check_device_model(self, found: bool) -> None:
        """Raise MissingPart if an HVM guest lacks QEMU's record but should have one."""
        if self.origin.domain.type == libxc.GUEST_HVM and not found and not self.parts.no_device_model:
            unread = self.origin.reader.unread
            raise MissingPart("the source has no device model record for this HVM guest{}: supply QEMU's "
                              "(--device-model), or state that the guest has none because it is PVH "
                              "(--no-device-model)".format(not_read(unread)))

    def need_config(self, what: str) -> bytes:
        """The config that the caller has supplied. Raises MissingPart."""
        if self.parts.config is None:
            raise MissingPart("the source has no {}: supply it (--config)".format(what))
        return self.parts.config

    def _check_checkpoint(self) -> None:
        with_libxl = libxl.LAYER in self.origin.formats or self.origin.from_legacy
        if not (self.checkpoints_with_libxl if with_libxl else self.checkpoints_without_libxl):
            reader = self.origin.reader
            raise UnsupportedStream("this format can't hold checkpoints: convert the last one (--last-checkpoint)",
                                    layer=libxc.LAYER, offset=reader.offset, record=reader.index,
                                    record_type="CHECKPOINT")


class LibxcTarget(Target):
    """The memory stream alone.

    Of a libxl stream, a CHECKPOINT is written once CHECKPOINT_END says that the checkpoint is complete. Of a legacy
    stream, the device model's record follows END as it was, as in the output of Xen's converter.
    """

    checkpoints_without_libxl = checkpoints_with_libxl = True

    def __init__(self, sink: Sink, parts: Parts, origin: Origin) -> None:
        super().__init__(sink, parts, origin)
        self._checkpoint: Optional[libxc.Checkpoint] = None
        self._device_model: Optional[legacy.DeviceModel] = None

    def begin_memory(self) -> Writer:
        return Writer(self.sink, self.origin.domain, self.origin.image, checkpointed=self.origin.checkpointed,
                      limits=self.limits)

    def write_memory(self, memory: Writer, record: "libxc.Record") -> None:
        if not isinstance(record, libxc.Checkpoint):
            memory.write(record)
            return
        if libxl.LAYER in self.origin.formats:
            self._checkpoint = record
        else:
            memory.write(record)
        if self._device_model is not None:
            self.drop(legacy.LAYER, self._device_model)
            self._device_model = None

    def take_outer(self, layer: str, record: "AnyRecord") -> None:
        if isinstance(record, legacy.DeviceModel):
            self._device_model = record
            return
        if isinstance(record, libxl.CheckpointEnd) and self._memory is not None and self._checkpoint is not None:
            self._memory.write(self._checkpoint)
            self._checkpoint = None
        self.drop(layer, record)

    def finish(self) -> None:
        if self._device_model is not None:
            self.sink.write(legacy.build(self._device_model, 8))


class LibxlTarget(Target):
    """A libxl stream. The source's own libxl records are written as they are; otherwise they are made of what a
    suspend image or a legacy stream contains."""

    checkpoints_with_libxl = True

    def __init__(self, sink: Sink, parts: Parts, origin: Origin) -> None:
        super().__init__(sink, parts, origin)
        self._writer: Optional[LibxlWriter] = None
        self._device_model: Optional[libxl.EmulatorContext] = None
        self._has_device_model = self._leaves_out_device_model = False
        self._physmap: Optional[libxl.EmulatorXenstoreData] = None
        if parts.device_model is not None:
            self._device_model = libxl.EmulatorContext(libxl.QEMU_UPSTREAM, 0, parts.device_model)
        if origin.formats[0] == libxc.LAYER:
            self.check_device_model(self._device_model is not None)

    def take_outer(self, layer: str, record: "AnyRecord") -> None:
        blob = device_model_of(record)
        if layer == libxl.LAYER:
            self._take_libxl(record)  # type: ignore[arg-type]  # as the layer says
        elif isinstance(record, legacy.Toolstack) and self.origin.domain.type == libxc.GUEST_HVM:
            self._physmap = _physmap(record, self.origin)
        elif libxl.LAYER not in self.origin.formats and blob is not None:
            if self.parts.device_model is None:
                blob = in_memory(blob, self.origin.reader)
                self._device_model = libxl.EmulatorContext(_emulator_id(record), 0, blob) if len(blob) else None
        else:
            self._leaves_out_device_model = self._leaves_out_device_model or blob is not None
            self.drop(layer, record)

    def begin_memory(self) -> Writer:
        if libxl.LAYER not in self.origin.formats:
            self._write(libxl.LibxcContext())
        assert self._writer is not None
        return self._writer.libxc(self.origin.domain, self.origin.image)

    def write_memory(self, memory: Writer, record: "libxc.Record") -> None:
        memory.write(record)
        if isinstance(record, libxc.Checkpoint) and self.origin.from_legacy:
            self._write_emulator()
            self._write(libxl.CheckpointEnd())

    def finish(self) -> None:
        ended = self._memory is not None and self._memory.ended
        if libxl.LAYER not in self.origin.formats and (ended or not self.origin.checkpointed):
            self.check_device_model(self._device_model is not None)
            self._write_emulator()
            self._write(libxl.End())
        elif self._leaves_out_device_model and not self._has_device_model:
            # xenopsd's record of QEMU comes behind the libxl stream, where it is too late.
            self.check_device_model(False)

    def open_writer(self, header: libxl.Header) -> LibxlWriter:
        """The writer of the stream, after what precedes it has been written."""
        return LibxlWriter(self.sink, header, checkpointed=self.origin.checkpointed, limits=self.limits)

    def _take_libxl(self, record: "libxl.Record") -> None:
        if isinstance(record, libxl.EmulatorContext) and self.parts.device_model is not None:
            record = record._replace(blob=self.parts.device_model, padding=b"")
            self._device_model = None
        elif isinstance(record, libxl.End):
            self._write_emulator()
        self._write(record)

    def _write_emulator(self) -> None:
        """Write the records of the device model that the source's libxl layer doesn't have."""
        for record in (self._physmap, self._device_model):
            if record is not None:
                self._write(record)
        self._physmap = self._device_model = None

    def _write(self, record: "libxl.Record") -> None:
        if self._writer is None:
            self._writer = self.open_writer(_libxl_header(self.origin))
        self._has_device_model = self._has_device_model or isinstance(record, libxl.EmulatorContext)
        self._writer.write(record)


class XlTarget(LibxlTarget):
    """A libxl stream in an xl save file."""

    def __init__(self, sink: Sink, parts: Parts, origin: Origin) -> None:
        super().__init__(sink, parts, origin)
        self._header = xl.SaveHeader(xl.LIBXL_STREAM)
        if xl.LAYER not in origin.formats:
            self._header = xl.SaveHeader.of(self.need_config("domain configuration for xl"))

    def take_outer(self, layer: str, record: "AnyRecord") -> None:
        if isinstance(record, xl.SaveHeader):
            self._header = record._replace(mandatory_flags=record.mandatory_flags | xl.LIBXL_STREAM)
            if self.parts.config is not None:
                self._header = xl.SaveHeader.of(self.parts.config)
        else:
            super().take_outer(layer, record)

    def open_writer(self, header: libxl.Header) -> LibxlWriter:
        return XlWriter(self.sink, self._header, limits=self.limits).libxl(
            header, checkpointed=self.origin.checkpointed)


class LibvirtTarget(LibxlTarget):
    """A libxl stream in a save file of libvirt's libxl driver."""

    def __init__(self, sink: Sink, parts: Parts, origin: Origin) -> None:
        super().__init__(sink, parts, origin)
        self._header = libvirt.SaveHeader(b"")
        if libvirt.LAYER not in origin.formats:
            self._header = libvirt.SaveHeader.of(self.need_config("domain XML for libvirt"))

    def take_outer(self, layer: str, record: "AnyRecord") -> None:
        if isinstance(record, libvirt.SaveHeader):
            self._header = record._replace(version=libvirt.LIBXL_STREAM)
            if self.parts.config is not None:
                self._header = libvirt.SaveHeader.of(self.parts.config)
        else:
            super().take_outer(layer, record)

    def open_writer(self, header: libxl.Header) -> LibxlWriter:
        return LibvirtWriter(self.sink, self._header, limits=self.limits).libxl(
            header, checkpointed=self.origin.checkpointed)


class XenopsdTarget(Target):
    """A suspend image. The source's own is written as it is, with a libxc stream in place of a legacy one; the memory
    of any other source is written as a libxc stream in a new image."""

    def __init__(self, sink: Sink, parts: Parts, origin: Origin) -> None:
        super().__init__(sink, parts, origin)
        self._own = origin.formats[0] == xenopsd.LAYER
        self._libxl: Optional[LibxlWriter] = None
        self._announced = False
        self._device_model: Optional[Buffer] = parts.device_model
        config = parts.config if self._own else self.need_config("Xenops record")
        if origin.formats[0] == libxc.LAYER:
            self.check_device_model(parts.device_model is not None)
        self._writer = XenopsdWriter(sink, limits=self.limits)
        if config is not None:
            self._writer.write(xenopsd.Xenops(config))

    def take_outer(self, layer: str, record: "AnyRecord") -> None:
        blob = device_model_of(record)
        if layer == libxl.LAYER and self._own:
            self._take_own_libxl(record)  # type: ignore[arg-type]  # as the layer says
        elif layer == xenopsd.LAYER and self._own:
            self._take_own(record)  # type: ignore[arg-type]  # as the layer says
        elif blob is not None:
            if self.parts.device_model is None:
                self._device_model = in_memory(blob, self.origin.reader)
        else:
            self.drop(layer, record)

    def begin_memory(self) -> Writer:
        if self._libxl is not None:
            return self._libxl.libxc(self.origin.domain, self.origin.image)
        if not self._announced:
            self._writer.write(xenopsd.MemoryImage(xenopsd.LIBXC))
        return self._writer.libxc(self.origin.domain, self.origin.image)

    def finish(self) -> None:
        if not self._own:
            self.check_device_model(self._device_model is not None)
        self._write_device_model()
        if not self._writer.ended:
            self._writer.write(xenopsd.EndOfImage())

    def _take_own(self, record: "xenopsd.Record") -> None:
        if isinstance(record, xenopsd.Xenops) and self.parts.config is not None:
            return  # the one supplied has been written
        if isinstance(record, xenopsd.Unread):
            raise UnsupportedStream("a record whose length isn't known can't be copied; \"libxc\" writes the memory "
                                    "alone (--to libxc)", record_type=xenopsd.type_name(record.type))
        if isinstance(record, xenopsd.MemoryImage):
            self._announced = True
            # What follows may be converted, and a header may have been wrong about it.
            record = record._replace(type=xenopsd.LIBXL if libxl.LAYER in self.origin.formats else xenopsd.LIBXC)
        elif isinstance(record, xenopsd.Blob) and record.type in _EMULATORS:
            if record.type == xenopsd.QEMU_RECORD:
                record = record._replace(type=xenopsd.QEMU_TRAD)
            if self.parts.device_model is not None:
                record = record._replace(data=self.parts.device_model)
            self._device_model = None
        elif isinstance(record, xenopsd.EndOfImage):
            self._write_device_model()
        self._writer.write(record)

    def _take_own_libxl(self, record: "libxl.Record") -> None:
        if self._libxl is None:
            self._libxl = self._writer.libxl(_libxl_header(self.origin))
        self._libxl.write(record)

    def _write_device_model(self) -> None:
        if self._device_model is not None:
            # xenopsd keeps the record of any QEMU under this type, and can't restore the other.
            self._writer.write(xenopsd.Blob(xenopsd.QEMU_TRAD, self._device_model))
            self._device_model = None


TARGETS: Dict[str, Type[Target]] = {libxc.LAYER: LibxcTarget, libxl.LAYER: LibxlTarget, xl.LAYER: XlTarget,
                                    libvirt.LAYER: LibvirtTarget, xenopsd.LAYER: XenopsdTarget}


def _libxl_header(origin: Origin) -> libxl.Header:
    """The header of the source's own libxl layer, or a new one."""
    if isinstance(origin.reader, NestedReader) and origin.reader.libxl_header is not None:
        return origin.reader.libxl_header
    return libxl.Header(libxl.VERSION, libxl.FROM_LEGACY) if origin.from_legacy else libxl.Header()


def _emulator_id(record: "AnyRecord") -> int:
    """libxl's id of the device model. A legacy stream doesn't say which it is."""
    return _EMULATORS[record.type] if isinstance(record, xenopsd.Blob) else 0


def _is_empty(record: legacy.Toolstack) -> bool:
    """Whether a TOOLSTACK holds nothing, or a physmap without entries."""
    return bytes(record.blob) in (b"", _EMPTY_PHYSMAP)


def _physmap(record: legacy.Toolstack, origin: Origin) -> Optional[libxl.EmulatorXenstoreData]:
    """The physmap entries that a legacy libxl keeps for QEMU, as the xenstore keys that libxl keeps them in now,
    relative to the device model's directory. Raises CorruptStream and UnsupportedStream."""
    if not len(record.blob):
        return None
    try:
        entries = legacy.parse_physmap(record.blob, legacy_reader(origin.reader).head.width)
    except StreamError as error:
        error.located(base=legacy.TOOLSTACK_HEAD_SIZE)
        raise
    pairs: List[Tuple[bytes, bytes]] = []
    for entry in entries:
        folder = "physmap/{:x}/".format(entry.phys_offset).encode()
        pairs.append((folder + b"start_addr", "{:x}".format(entry.start_addr).encode()))
        pairs.append((folder + b"size", "{:x}".format(entry.size).encode()))
        if entry.name:
            pairs.append((folder + b"name", entry.name))
    return libxl.EmulatorXenstoreData.of(pairs, 0, 0) if pairs else None

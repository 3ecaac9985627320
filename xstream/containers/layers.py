"""Readers of the layers that enclose a memory stream in a dom0's files: each reads the records of one layer.

:class:`xstream.containers.reader.NestedReader` combines them. The memory stream inside is read by Reader or
LegacyReader from the same source.
"""

from xstream.containers.nesting import (
    INNER_END,
    check_back_channel,
    check_libxl_record,
    colo_nesting,
    ignored,
    libxl_nesting,
    xenopsd_nesting,
)
from xstream.errors import LimitExceeded, StreamError, StrictViolation, TruncatedStream, UnsupportedStream
from xstream.limits import Limits
from xstream.stream.reader import Identity, Reader
from xstream.stream.signs import LEGACY_SIZE
from xstream.stream.source import PendingPages, Source
from xstream.tuples import NamedTuple
from xstream.wire import colo, libvirt, libxc, libxl, signatures, xend, xenopsd, xl
from xstream.wire.frames import FRAME, padded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Callable, Dict, Optional, Tuple, TypeVar, Union

    from xstream.stream.legacy_reader import LegacyReader
    from xstream.wire.formats import AnyRecord

    #: The reader of a memory stream; that of any layer.
    MemoryReader = Union[Reader, LegacyReader]

    AnyLayer = Union["LayerReader", MemoryReader]

    #: The header of a save file.
    SaveHeader = Union[xl.SaveHeader, libvirt.SaveHeader, xend.SaveHeader]

    T = TypeVar("T")


class Settings(NamedTuple):
    """The arguments that the readers of all layers share; as :func:`~xstream.containers.opening.open_stream` has them.
    """

    limits: Limits = Limits()
    strict: bool = False
    checkpointed: bool = False
    width: "Optional[int]" = None
    guest: "Optional[str]" = None


def memory_reader(format: str, source: Source, settings: Settings, *, contained: bool = False,
                  device_model: bool = True) -> "MemoryReader":
    """A reader for a memory stream of the format "libxc" or "legacy".

    - ``contained``: the records of an enclosing layer follow;
    - ``device_model``: for a legacy stream, whether its tail includes the device model's record.
    """
    limits, strict, checkpointed, width, guest = settings
    if format == signatures.LEGACY:
        from xstream.stream.legacy_reader import LegacyReader  # not needed for other formats
        return LegacyReader(source, limits=limits, strict=strict, checkpointed=checkpointed, width=width, guest=guest,
                            contained=contained, device_model=device_model)
    return Reader(source, limits=limits, strict=strict, checkpointed=checkpointed, contained=contained)


def actual_format(source: Source, announced: str) -> str:
    """The format of the stream that begins here, by its first bytes; ``announced`` if those match no format.

    The header before it can be wrong: libvirt before 1.3.5 with Xen 4.6 wrote its version 1 before libxl streams.
    """
    start = bytes(source.peek(LEGACY_SIZE)[:LEGACY_SIZE])
    if start.startswith(libxl.MAGIC):
        return libxl.LAYER
    if start.startswith(libxc.MARKER):
        return libxc.LAYER
    from xstream.wire import legacy  # not needed for other formats
    return legacy.LAYER if legacy.is_start(start) else announced


class LayerReader:
    """Reads one layer's own records, in order.

    - ``layer``, ``index``, ``offset``: as Reader has them; ``start``: the offset at which the layer begins;
    - ``ended``: whether the layer's last record has been read;
    - ``unread``: what follows that can't be read, in words, or None;
    - ``device_model``: whether the guest has a device model, as far as this layer says; None if it doesn't.
    """

    layer = ""
    #: The layer's wire module.
    wire: "ModuleType"
    #: The identity of a format that never holds a memory stream, which otherwise supplies it.
    identity: "Optional[Identity]" = None
    unread: "Optional[str]" = None
    device_model: "Optional[bool]" = None

    def __init__(self, source: Source, settings: Settings) -> None:
        self.source = source
        self.settings = settings
        self.start = self.offset = source.offset
        self.index = -1
        self.ended = False
        self._note: Optional[str] = None

    def begin(self) -> None:
        """Read the layer's own header if it has one; once. Raises what ``next_record`` raises."""

    def next_record(self) -> "Optional[AnyRecord]":
        """The layer's next record, or None after the last. Raises StreamError or a subclass, and NeedMoreData."""
        if self.ended:
            return None
        self._base = self.source.offset
        self._name: Optional[str] = None
        try:
            self.source.buffered()  # skips data of the last record that wasn't read; then the offset is this record's
            start = self._base = self.source.offset
            record = self._read()
        except StreamError as error:
            base = 0 if isinstance(error, TruncatedStream) else self._base
            raise error.located(layer=self.layer, base=base, record=self.index + 1, record_type=self._name)
        if record is not None:
            self.index += 1
            self.offset = start
        return record

    def take_inner(self) -> "Optional[AnyLayer]":
        """The reader of an enclosed stream if its records come next, else None."""
        return None

    def follow_inner(self, event: str) -> None:
        """Note that the enclosed stream has reached INNER_END or INNER_CHECKPOINT."""

    @property
    def checkpoints(self) -> int:
        """The number of checkpoints that this layer's records have completed."""
        return 0

    def describe(self) -> "Dict[str, object]":
        """What the layer's headers say, by name; ``note`` says what is wrong with them."""
        about = self._about()
        return about if self._note is None else dict(about, note=self._note)

    def _about(self) -> "Dict[str, object]":
        return {}

    def _read(self) -> "Optional[AnyRecord]":
        """Read the next record. Sets ``_base``, which offsets in errors are relative to, and ``_name``, the record's
        name for errors."""
        raise NotImplementedError

    def _read_header(self, size: int, parse: "Callable[[memoryview], T]") -> "T":
        """Read the layer's own header of ``size`` bytes."""
        start = self.source.offset
        try:
            header = parse(self.source.need(size))
        except StreamError as error:
            raise error.located(layer=self.layer, base=0 if isinstance(error, TruncatedStream) else start)
        self.source.advance(size)
        return header

    def _need(self, size: int) -> memoryview:
        """The next ``size`` bytes, of a record whose size is known. A fed source is asked only once it has them."""
        self.source.await_record(size)
        return self.source.need(size)

    def _check_length(self, length: int, offset: int, field: str) -> None:
        most = self.settings.limits.body_length
        if length > most:
            raise LimitExceeded("longer than the limit", offset=offset, field=field,
                                expected="at most {}".format(most), got=length)

    def _check_ignored(self, record: "AnyRecord", padding_at: int = 0) -> None:
        found = ignored(self.wire, record, padding_at) if self.settings.strict else None
        if found is not None:
            raise StrictViolation("a restore ignores this, but no Xen writes it", offset=found[0], field=found[1],
                                  got=found[2])

    def _check_announced(self, announced: str, actual: str, offset: int, field: str) -> None:
        """Note that a header announces another format than the one that follows; in a strict reading raise
        StrictViolation. ``offset`` is the field's, absolute."""
        if actual == announced:
            return
        self._note = "the header announces a {} stream, but a {} stream follows".format(announced, actual)
        if self.settings.strict:
            raise StrictViolation("the header announces another stream than the one that follows", layer=self.layer,
                                  offset=offset, field=field, expected=actual, got=announced)


class _SaveFileReader(LayerReader):
    """A header before one stream: xl, libvirt, xend."""

    header: "Optional[SaveHeader]" = None
    #: Offset in the header of the field that announces the stream's format, and its name.
    _announced_at = (0, "")

    def __init__(self, source: Source, settings: Settings) -> None:
        super().__init__(source, settings)
        self._taken = False

    def take_inner(self) -> "Optional[AnyLayer]":
        if self.header is None or self._taken:
            return None
        announced = self._announced_format()
        format = actual_format(self.source, announced)
        self._check_announced(announced, format, self.start + self._announced_at[0], self._announced_at[1])
        self._taken = True
        if format == libxl.LAYER:
            return LibxlReader(self.source, self.settings, device_model=self.device_model)
        return memory_reader(format, self.source, self.settings, contained=True)

    def follow_inner(self, event: str) -> None:
        self.ended = event == INNER_END

    def _read(self) -> "SaveHeader":
        self.header = self._read_save_header()
        return self.header

    def _read_save_header(self) -> "SaveHeader":
        raise NotImplementedError

    def _announced_format(self) -> str:
        raise NotImplementedError

    def _found_guest_type(self, guest_type: "Optional[str]") -> None:
        """Note the guest's type from the configuration: only "hvm" has a device model."""
        self.device_model = None if guest_type is None else guest_type == "hvm"


class XlReader(_SaveFileReader):
    """The header of an xl save file."""

    layer = xl.LAYER
    wire = xl
    header: "Optional[xl.SaveHeader]" = None
    _announced_at = (36, "mandatory_flags")

    def _about(self) -> "Dict[str, object]":
        if self.header is None:
            return {}
        kind = "JSON" if self.header.mandatory_flags & xl.JSON_CONFIG else "text"
        return {"mandatory_flags": self.header.mandatory_flags, "optional_flags": self.header.optional_flags,
                "config": "{}, {} bytes".format(kind, len(self.header.config)) if self.header.has_config else "none"}

    def _read_save_header(self) -> xl.SaveHeader:
        head, length = xl.parse_head(self.source.need(xl.HEADER_SIZE))
        self._check_length(length, 44, "optional_data_len")
        optional = self.source.keep(self._need(xl.HEADER_SIZE + length)[xl.HEADER_SIZE:])
        header = xl.parse_optional_data(head, optional)
        self._check_ignored(header)
        self.source.advance(xl.HEADER_SIZE + length)
        self._found_guest_type(header.guest_type)
        return header

    def _announced_format(self) -> str:
        assert self.header is not None
        return libxl.LAYER if self.header.mandatory_flags & xl.LIBXL_STREAM else signatures.LEGACY


class LibvirtReader(_SaveFileReader):
    """The header of a save file of libvirt's libxl driver."""

    layer = libvirt.LAYER
    wire = libvirt
    header: "Optional[libvirt.SaveHeader]" = None
    _announced_at = (16, "version")

    def _about(self) -> "Dict[str, object]":
        if self.header is None:
            return {}
        return {"version": self.header.version, "xml": "{} bytes".format(len(self.header.xml))}

    def _read_save_header(self) -> libvirt.SaveHeader:
        head, length = libvirt.parse_head(self.source.need(libvirt.HEADER_SIZE))
        self._check_length(length, 20, "xmlLen")
        self._check_ignored(head)
        xml = self.source.keep(self._need(libvirt.HEADER_SIZE + length)[libvirt.HEADER_SIZE:])
        self.source.advance(libvirt.HEADER_SIZE + length)
        header = head._replace(xml=xml)
        self._found_guest_type(header.guest_type)
        return header

    def _announced_format(self) -> str:
        assert self.header is not None
        return libxl.LAYER if self.header.version == libvirt.LIBXL_STREAM else signatures.LEGACY


class XendReader(_SaveFileReader):
    """The header of a save file of xend."""

    layer = xend.LAYER
    wire = xend
    header: "Optional[xend.SaveHeader]" = None
    _announced_at = (0, "magic")

    def _about(self) -> "Dict[str, object]":
        return {} if self.header is None else {"config": "{} bytes".format(len(self.header.config))}

    def _read_save_header(self) -> xend.SaveHeader:
        length = xend.parse_head(self.source.need(xend.HEADER_SIZE))
        self._check_length(length, 16, "config length")
        config = self.source.keep(self._need(xend.HEADER_SIZE + length)[xend.HEADER_SIZE:])
        self.source.advance(xend.HEADER_SIZE + length)
        return xend.SaveHeader(config)

    def _announced_format(self) -> str:
        return signatures.LEGACY


class LibxlReader(LayerReader):
    """The records of a libxl stream.

    ``device_model``: whether the guest has one according to its configuration; None if that isn't known. libxl goes by
    the configuration, and refuses a device model's records for a guest that has none.
    """

    layer = libxl.LAYER
    wire = libxl

    def __init__(self, source: Source, settings: Settings, *, device_model: "Optional[bool]" = None) -> None:
        super().__init__(source, settings)
        self.device_model = device_model
        self.header: Optional[libxl.Header] = None
        self._nesting = libxl_nesting()
        self._domain: Optional[Reader] = None
        self._checkpoints = 0
        #: As RecordReader's.
        self.last_checkpoint: Optional[Tuple[str, int, int]] = None

    @property
    def checkpoints(self) -> int:
        return self._checkpoints

    def next_record(self) -> "Optional[AnyRecord]":
        try:
            record = super().next_record()
        except TruncatedStream:
            # After a complete checkpoint the input may end anywhere: what follows it is void.
            if not self._checkpoints:
                raise
            return None
        if isinstance(record, libxl.CheckpointEnd):
            self.last_checkpoint = self.layer, self.index, self.offset
        return record

    def take_inner(self) -> "Optional[AnyLayer]":
        if self._nesting.state == "libxc":
            if self._domain is None:
                limits, strict, checkpointed, _, _ = self.settings
                self._domain = Reader(self.source, limits=limits, strict=strict, checkpointed=checkpointed,
                                      contained=True)
            return self._domain
        if self._nesting.state == "resumed" and not self._state_follows():
            return self._domain
        return None

    def follow_inner(self, event: str) -> None:
        self._nesting.follow_inner(event)

    def _about(self) -> "Dict[str, object]":
        if self.header is None:
            return {}
        about: Dict[str, object] = {"version": self.header.version}
        if self.header.options & libxl.FROM_LEGACY:
            about["made_by"] = "conversion from a legacy stream"
        return about

    def _state_follows(self) -> bool:
        """Whether COLO's record comes next. libxc has no record of that type and length at this place."""
        head = self.source.peek(FRAME.size)
        return len(head) == FRAME.size and FRAME.unpack_from(head) == (libxl.CHECKPOINT_STATE, 8)

    def _has_device_model(self) -> "Optional[bool]":
        if self._domain is not None and self._domain.domain.type == libxc.GUEST_PV:
            return False
        return self.device_model

    def begin(self) -> None:
        if self.header is None:
            self.header = self._read_header(libxl.HEADER_SIZE, self._parse_header)

    def _parse_header(self, untrusted: memoryview) -> libxl.Header:
        header = libxl.parse_header(untrusted)
        unknown = header.options & ~libxl.FROM_LEGACY
        if self.settings.strict and unknown:
            raise StrictViolation("reserved bits of the header aren't zero", offset=12, field="options", expected=0,
                                  got=hex(unknown))
        return header

    def _read(self) -> "libxl.Record":
        self._base = self.source.offset + FRAME.size
        record_type, length = FRAME.unpack_from(self.source.need(FRAME.size))
        self._name = libxl.type_name(record_type)
        self._nesting.admit(record_type)
        self._check_length(length, -4, "length")
        whole = self.source.keep(self._need(FRAME.size + padded(length)))
        padding = whole[FRAME.size + length:]
        record = libxl.parse(record_type, whole[FRAME.size:FRAME.size + length],
                             bytes(padding) if any(padding) else b"")
        check_libxl_record(record, self._has_device_model(), self.settings.strict)
        self._check_ignored(record, length)
        self._nesting.follow(record_type)
        self.source.advance(len(whole))
        self._checkpoints += record_type == libxl.CHECKPOINT_END
        self.ended = self._nesting.ended
        return record


class BackChannelReader(LayerReader):
    """COLO's back channel, which holds no memory. It may end after any record."""

    layer = colo.LAYER
    wire = colo
    identity = Identity(colo.LAYER, 0, "none", "COLO's secondary")

    def __init__(self, source: Source, settings: Settings) -> None:
        super().__init__(source, settings)
        self._nesting = colo_nesting()

    def _read(self) -> "Optional[colo.Record]":
        if self.source.at_end():
            return None
        self._base = self.source.offset + FRAME.size
        record_type, length = FRAME.unpack_from(self.source.need(FRAME.size))
        self._name = colo.type_name(record_type)
        self._check_length(length, -4, "length")
        whole = self.source.keep(self._need(FRAME.size + padded(length)))
        padding = whole[FRAME.size + length:]
        record = colo.parse(record_type, whole[FRAME.size:FRAME.size + length],
                            bytes(padding) if any(padding) else b"")
        check_back_channel(record, self.settings.limits)
        self._check_ignored(record, length)
        self._nesting.follow(colo.turn_of(record))
        self.source.advance(len(whole))
        return record


class XenopsdReader(LayerReader):
    """The records of xenopsd's suspend image."""

    layer = xenopsd.LAYER
    wire = xenopsd

    def __init__(self, source: Source, settings: Settings) -> None:
        super().__init__(source, settings)
        self.header: Optional[xenopsd.Header] = None
        self._nesting = xenopsd_nesting(True)
        self._image: Optional[int] = None
        self._inner: Union[None, LibxlReader, MemoryReader] = None

    def begin(self) -> None:
        if self.header is None:
            self.header = self._read_header(xenopsd.SIGNATURE_SIZE, xenopsd.parse_header)
            self._nesting = xenopsd_nesting(self.header.structured)
            self._image = None if self.header.structured else xenopsd.LIBXC_LEGACY

    def take_inner(self) -> "Optional[AnyLayer]":
        if self._image is None:
            return None
        announced = _IMAGE_FORMATS[self._image]
        format = actual_format(self.source, announced)
        if self._structured:
            self._check_announced(announced, format, self.offset, "type")
        # In an unstructured image QEMU's record is xenopsd's own, not part of the legacy stream.
        self._inner = LibxlReader(self.source, self.settings) if format == libxl.LAYER else \
            memory_reader(format, self.source, self.settings, contained=True, device_model=self._structured)
        self._image = None
        return self._inner

    def follow_inner(self, event: str) -> None:
        self._nesting.follow_inner(event)
        # An unstructured image of a PV guest ends with its memory; so does one that holds a libxl stream.
        assert self._inner is not None
        self.ended = not self._structured and (
            isinstance(self._inner, LibxlReader)
            or self._inner.identity.guest == libxc.GUEST_NAMES[libxc.GUEST_PV])

    def _about(self) -> "Dict[str, object]":
        return {"structured": self._structured}

    @property
    def _structured(self) -> bool:
        return self.header is None or self.header.structured

    def _read(self) -> "xenopsd.Record":
        source = self.source
        if self._structured:
            size = xenopsd.HEADER_SIZE
            self._base = source.offset + size
            record_type, length = xenopsd.parse_record_header(source.need(size))
        else:
            size = xenopsd.QEMU_HEADER_SIZE
            self._base = source.offset + size
            record_type, length = xenopsd.QEMU_RECORD, xenopsd.parse_qemu_header(source.need(size))
        self._name = xenopsd.type_name(record_type)
        self._nesting.admit(record_type)
        record = self._read_body(size, record_type, length)
        self._nesting.follow(record_type)
        self._image = record_type if record_type in xenopsd.MEMORY_IMAGES else None
        self.ended = self._nesting.ended or self.unread is not None
        return record

    def _read_body(self, size: int, record_type: int, length: int) -> "xenopsd.Record":
        source = self.source
        if record_type in xenopsd.MEMORY_IMAGES or record_type == xenopsd.END_OF_IMAGE:
            record = xenopsd.parse(record_type, b"", length)
            self._check_ignored(record)
            if self.settings.strict and record_type == xenopsd.END_OF_IMAGE:
                self._nesting.check_usual()
            source.advance(size)
        elif record_type == xenopsd.XENOPS:
            self._check_length(length, -8, "length")
            record = xenopsd.parse(record_type, self.source.keep(self._need(size + length)[size:]))
            source.advance(size + length)
        elif record_type == xenopsd.DEMU and not length and not self._record_follows(size):
            self._leave_unread()
            source.advance(size)
            record = xenopsd.Unread(record_type)
        else:
            source.await_record(size + length)
            data = source.page_data(size, length)
            if isinstance(data, PendingPages):
                data.where = self.layer, self.index + 1, self._name
            record = xenopsd.parse(record_type, data)
        return record

    def _record_follows(self, size: int) -> bool:
        """Whether another record follows this record's header of ``size`` bytes, or the input ends."""
        following = self.source.peek(size + xenopsd.HEADER_SIZE)[size:]
        if len(following) < xenopsd.HEADER_SIZE:
            return not len(following)
        try:
            xenopsd.parse_record_header(following)
        except StreamError:
            return False
        return True

    def _leave_unread(self) -> None:
        """End the reading at a vGPU's record. Its emulator writes it with length 0 and alone knows where it ends."""
        if not self._nesting.inner_ended or self.settings.strict:
            raise UnsupportedStream(
                "a vGPU's own stream, whose length only the vGPU's emulator knows; suspend the guest without its vGPU",
                offset=-8, field="length", expected="the record's length", got=0)
        self.unread = ("from offset {} on: a vGPU's own stream, whose length only the vGPU's emulator knows, and what "
                       "follows it".format(self._base))


#: Formats that the records of xenopsd's memory images announce.
_IMAGE_FORMATS = {xenopsd.LIBXC: libxc.LAYER, xenopsd.LIBXL: libxl.LAYER, xenopsd.LIBXC_LEGACY: signatures.LEGACY}


#: The reader of each container format's outermost layer.
LAYERS: "Dict[str, Callable[[Source, Settings], LayerReader]]" = {
    reader.layer: reader
    for reader in (XlReader, LibvirtReader, XendReader, LibxlReader, XenopsdReader, BackChannelReader)
}

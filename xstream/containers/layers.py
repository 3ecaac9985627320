"""The layers of what stands around a memory stream on a dom0's disk: a reader of each one's own records.

:mod:`xstream.containers.reader` puts them together. The memory stream within is read by an ordinary reader over the
same source.
"""
from typing import Any, Callable, Dict, NamedTuple, Optional

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
from xstream.stream.legacy_reader import LegacyReader
from xstream.stream.reader import Identity, Reader
from xstream.stream.source import PendingPages, Source
from xstream.wire import colo, legacy, libvirt, libxc, libxl, xend, xenopsd, xl
from xstream.wire.frames import FRAME, padded


class Settings(NamedTuple):
    """What the readers of all layers are told alike; the names are Reader's."""

    limits: Limits = Limits()
    strict: bool = False
    checkpointed: bool = False
    width: Optional[int] = None
    guest: Optional[str] = None


def memory_reader(format: str, source: Source, settings: Settings, **place: bool) -> Any:
    """The reader of a memory stream, of format "libxc" or "legacy". ``place`` is what the reader is told of it:
    ``contained``, and of a legacy one ``device_model``."""
    limits, strict, checkpointed, width, guest = settings
    # A converted stream may stand where a header still says that it is a legacy one.
    if format == legacy.LAYER and source.peek(len(libxc.MARKER)) != libxc.MARKER:
        return LegacyReader(source, limits=limits, strict=strict, checkpointed=checkpointed, width=width, guest=guest,
                            **place)
    place.pop("device_model", None)
    return Reader(source, limits=limits, strict=strict, checkpointed=checkpointed, **place)


class LayerReader:
    """One layer's own records, in order.

    ``layer``, ``index`` and ``offset`` are as Reader has them; ``start`` is where the layer begins; ``ended`` says
    that its last record has come.
    """

    layer = ""
    #: The layer's wire module.
    wire: Any = None
    #: What it is where no memory stream, which would say so, can be within.
    identity: Optional[Identity] = None

    def __init__(self, source: Source, settings: Settings) -> None:
        self.source = source
        self.settings = settings
        self.start = self.offset = source.offset
        self.index = -1
        self.ended = False

    def begin(self) -> None:
        """Read the layer's own header, once; what has none does nothing. Raises as ``next_record`` does."""

    def next_record(self) -> Optional[Any]:
        """The layer's next record, or None behind its last. Raises StreamError's kin and NeedMoreData."""
        if self.ended:
            return None
        start = self._base = self.source.offset
        self._name: Optional[str] = None
        try:
            record = self._read()
        except StreamError as error:
            base = 0 if isinstance(error, TruncatedStream) else self._base
            raise error.located(layer=self.layer, base=base, record=self.index + 1, record_type=self._name)
        if record is not None:
            self.index += 1
            self.offset = start
        return record

    def take_inner(self) -> Optional[Any]:
        """The reader whose records come next, where it isn't this layer's turn."""
        return None

    def follow_inner(self, event: str) -> None:
        """Hear what the stream within does: INNER_END, INNER_CHECKPOINT."""

    @property
    def checkpoints(self) -> int:
        """Checkpoints that this layer has found complete."""
        return 0

    def describe(self) -> Dict[str, Any]:
        """What the layer's headers say."""
        return {}

    def _read(self) -> Optional[Any]:
        """The next record. ``_base`` is what the offsets in errors count from, ``_name`` the record's name."""
        raise NotImplementedError

    def _read_header(self, size: int, parse: Callable[[memoryview], Any]) -> Any:
        """The layer's own header, parsed from its ``size`` bytes."""
        start = self.source.offset
        try:
            header = parse(self.source.need(size))
        except StreamError as error:
            raise error.located(layer=self.layer, base=0 if isinstance(error, TruncatedStream) else start)
        self.source.advance(size)
        return header

    def _keep(self, view: memoryview) -> memoryview:
        return view if self.source.stable else memoryview(bytes(view))

    def _check_length(self, length: int, offset: int, field: str) -> None:
        most = self.settings.limits.body_length
        if length > most:
            raise LimitExceeded("longer than the limit", offset=offset, field=field,
                                expected="at most {}".format(most), got=length)

    def _check_ignored(self, record: Any, padding_at: int = 0) -> None:
        found = ignored(self.wire, record, padding_at) if self.settings.strict else None
        if found is not None:
            raise StrictViolation("a restore ignores this, but no Xen writes it", offset=found[0], field=found[1],
                                  got=found[2])


class _SaveFileReader(LayerReader):
    """A header in front of one stream: xl, libvirt, xend."""

    def __init__(self, source: Source, settings: Settings) -> None:
        super().__init__(source, settings)
        self.header: Any = None
        self._taken = False

    def take_inner(self) -> Optional[Any]:
        if self.header is None or self._taken:
            return None
        format = self._inner_format()
        inner = LibxlReader(self.source, self.settings) if format == libxl.LAYER else \
            memory_reader(format, self.source, self.settings, contained=True)
        self._taken = True
        return inner

    def follow_inner(self, event: str) -> None:
        self.ended = event == INNER_END

    def _read(self) -> Any:
        self.header = self._read_save_header()
        return self.header

    def _read_save_header(self) -> Any:
        raise NotImplementedError

    def _inner_format(self) -> str:
        raise NotImplementedError


class XlReader(_SaveFileReader):
    """An xl save file's own layer."""

    layer = xl.LAYER
    wire = xl

    def describe(self) -> Dict[str, Any]:
        if self.header is None:
            return {}
        kind = "JSON" if self.header.mandatory_flags & xl.JSON_CONFIG else "text"
        return {"mandatory_flags": self.header.mandatory_flags, "optional_flags": self.header.optional_flags,
                "config": "{}, {} bytes".format(kind, len(self.header.config)) if self.header.has_config else "none"}

    def _read_save_header(self) -> xl.SaveHeader:
        head, length = xl.parse_head(self.source.need(xl.HEADER_SIZE))
        self._check_length(length, 44, "optional_data_len")
        optional = self._keep(self.source.need(xl.HEADER_SIZE + length)[xl.HEADER_SIZE:])
        header = xl.parse_optional_data(head, optional)
        self._check_ignored(header)
        self.source.advance(xl.HEADER_SIZE + length)
        return header

    def _inner_format(self) -> str:
        return "libxl" if self.header.mandatory_flags & xl.LIBXL_STREAM else "legacy"


class LibvirtReader(_SaveFileReader):
    """The layer of libvirt's own in a save file of its libxl driver."""

    layer = libvirt.LAYER
    wire = libvirt

    def describe(self) -> Dict[str, Any]:
        if self.header is None:
            return {}
        return {"version": self.header.version, "xml": "{} bytes".format(len(self.header.xml))}

    def _read_save_header(self) -> libvirt.SaveHeader:
        head, length = libvirt.parse_head(self.source.need(libvirt.HEADER_SIZE))
        self._check_length(length, 20, "xmlLen")
        self._check_ignored(head)
        xml = self._keep(self.source.need(libvirt.HEADER_SIZE + length)[libvirt.HEADER_SIZE:])
        self.source.advance(libvirt.HEADER_SIZE + length)
        return head._replace(xml=xml)

    def _inner_format(self) -> str:
        return "libxl" if self.header.version == libvirt.LIBXL_STREAM else "legacy"


class XendReader(_SaveFileReader):
    """xend's own layer in its save file."""

    layer = xend.LAYER
    wire = xend

    def describe(self) -> Dict[str, Any]:
        return {} if self.header is None else {"config": "{} bytes".format(len(self.header.config))}

    def _read_save_header(self) -> xend.SaveHeader:
        length = xend.parse_head(self.source.need(xend.HEADER_SIZE))
        self._check_length(length, 16, "config length")
        config = self._keep(self.source.need(xend.HEADER_SIZE + length)[xend.HEADER_SIZE:])
        self.source.advance(xend.HEADER_SIZE + length)
        return xend.SaveHeader(config)

    def _inner_format(self) -> str:
        return "legacy"


class LibxlReader(LayerReader):
    """A libxl stream's own records."""

    layer = libxl.LAYER
    wire = libxl

    def __init__(self, source: Source, settings: Settings) -> None:
        super().__init__(source, settings)
        self.header: Optional[libxl.Header] = None
        self._nesting = libxl_nesting()
        self._domain: Optional[Any] = None
        self._checkpoints = 0

    @property
    def checkpoints(self) -> int:
        return self._checkpoints

    def next_record(self) -> Optional[Any]:
        try:
            return super().next_record()
        except TruncatedStream:
            # Behind a complete checkpoint the input may end anywhere: what stands there is void.
            if not self._checkpoints:
                raise
            return None

    def take_inner(self) -> Optional[Any]:
        if self._nesting.state == "libxc":
            if self._domain is None:
                self._domain = memory_reader(libxc.LAYER, self.source, self.settings, contained=True)
            return self._domain
        if self._nesting.state == "resumed" and not self._state_follows():
            return self._domain
        return None

    def follow_inner(self, event: str) -> None:
        self._nesting.follow_inner(event)

    def describe(self) -> Dict[str, Any]:
        if self.header is None:
            return {}
        about: Dict[str, Any] = {"version": self.header.version}
        if self.header.options & libxl.FROM_LEGACY:
            about["made_by"] = "conversion from a legacy stream"
        return about

    def _state_follows(self) -> bool:
        """Whether the next record is COLO's and not libxc's, which has no record of that type and length there."""
        head = self.source.peek(FRAME.size)
        return len(head) == FRAME.size and FRAME.unpack_from(head) == (libxl.CHECKPOINT_STATE, 8)

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

    def _read(self) -> libxl.Record:
        self._base = self.source.offset + FRAME.size
        record_type, length = FRAME.unpack_from(self.source.need(FRAME.size))
        self._name = libxl.type_name(record_type)
        self._nesting.admit(record_type)
        self._check_length(length, -4, "length")
        whole = self._keep(self.source.need(FRAME.size + padded(length)))
        padding = whole[FRAME.size + length:]
        record = libxl.parse(record_type, whole[FRAME.size:FRAME.size + length],
                             bytes(padding) if any(padding) else b"")
        check_libxl_record(record, None if self._domain is None else self._domain.domain.type, self.settings.strict)
        self._check_ignored(record, length)
        self._nesting.follow(record_type)
        self.source.advance(len(whole))
        self._checkpoints += record_type == libxl.CHECKPOINT_END
        self.ended = self._nesting.ended
        return record


class BackChannelReader(LayerReader):
    """COLO's back channel, which has no memory in it. The secondary's end cuts it off behind any record."""

    layer = colo.LAYER
    wire = colo
    identity = Identity(colo.LAYER, 0, "none", "COLO's secondary")

    def __init__(self, source: Source, settings: Settings) -> None:
        super().__init__(source, settings)
        self._nesting = colo_nesting()

    def _read(self) -> Optional[colo.Record]:
        if self.source.at_end():
            return None
        self._base = self.source.offset + FRAME.size
        record_type, length = FRAME.unpack_from(self.source.need(FRAME.size))
        self._name = colo.type_name(record_type)
        self._check_length(length, -4, "length")
        whole = self._keep(self.source.need(FRAME.size + padded(length)))
        padding = whole[FRAME.size + length:]
        record = colo.parse(record_type, whole[FRAME.size:FRAME.size + length],
                            bytes(padding) if any(padding) else b"")
        check_back_channel(record, self.settings.limits)
        self._check_ignored(record, length)
        self._nesting.follow(colo.turn_of(record))
        self.source.advance(len(whole))
        return record


class XenopsdReader(LayerReader):
    """The records of xenopsd's own in a suspend image."""

    layer = xenopsd.LAYER
    wire = xenopsd

    def __init__(self, source: Source, settings: Settings) -> None:
        super().__init__(source, settings)
        self.header: Optional[xenopsd.Header] = None
        self._nesting = xenopsd_nesting(True)
        self._image: Optional[int] = None
        self._inner: Any = None

    def begin(self) -> None:
        if self.header is None:
            self.header = self._read_header(xenopsd.SIGNATURE_SIZE, xenopsd.parse_header)
            self._nesting = xenopsd_nesting(self.header.structured)
            self._image = None if self.header.structured else xenopsd.LIBXC_LEGACY

    def take_inner(self) -> Optional[Any]:
        if self._image is None:
            return None
        if self._image == xenopsd.LIBXL:
            self._inner = LibxlReader(self.source, self.settings)
        else:
            self._inner = self._memory_reader()
        self._image = None
        return self._inner

    def _memory_reader(self) -> Any:
        if self._image == xenopsd.LIBXC or self.source.peek(len(libxc.MARKER)) == libxc.MARKER:
            return memory_reader(libxc.LAYER, self.source, self.settings, contained=True)
        # In an unstructured image QEMU's record is xenopsd's own, not libxc's.
        return memory_reader(legacy.LAYER, self.source, self.settings, contained=True, device_model=self._structured)

    def follow_inner(self, event: str) -> None:
        self._nesting.follow_inner(event)
        # An unstructured image of a PV guest ends with its memory.
        self.ended = not self._structured and self._inner.identity.guest == libxc.GUEST_NAMES[libxc.GUEST_PV]

    def describe(self) -> Dict[str, Any]:
        return {"structured": self._structured}

    @property
    def _structured(self) -> bool:
        return self.header is None or self.header.structured

    def _read(self) -> xenopsd.Record:
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
        self.ended = self._nesting.ended
        return record

    def _read_body(self, size: int, record_type: int, length: int) -> xenopsd.Record:
        source = self.source
        if record_type in xenopsd.MEMORY_IMAGES or record_type == xenopsd.END_OF_IMAGE:
            record = xenopsd.parse(record_type, b"", length)
            self._check_ignored(record)
            if self.settings.strict and record_type == xenopsd.END_OF_IMAGE:
                self._nesting.check_usual()
            source.advance(size)
        elif record_type == xenopsd.XENOPS:
            self._check_length(length, -8, "length")
            record = xenopsd.parse(record_type, self._keep(source.need(size + length)[size:]))
            source.advance(size + length)
        else:
            if record_type == xenopsd.DEMU and not length:
                self._check_demu(size)
            data = source.page_data(size, length)
            if isinstance(data, PendingPages):
                data.where = {"layer": self.layer, "record": self.index + 1, "record_type": self._name}
            record = xenopsd.parse(record_type, data)
        return record

    def _check_demu(self, size: int) -> None:
        """A vGPU's record is written with length 0 by the emulator that alone knows its end; where it isn't really
        empty, nobody else can tell what follows."""
        behind = self.source.need(size + xenopsd.HEADER_SIZE)[size:]
        try:
            xenopsd.parse_record_header(behind)
        except StreamError:
            raise UnsupportedStream("vGPU's record, whose length isn't said", offset=-8, field="length",
                                    expected="its length", got=0)


#: Formats that are a container's, by name.
LAYERS: Dict[str, Callable[[Source, Settings], LayerReader]] = {
    reader.layer: reader
    for reader in (XlReader, LibvirtReader, XendReader, LibxlReader, XenopsdReader, BackChannelReader)
}

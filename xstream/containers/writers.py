"""Writers of containers. The enclosed stream has its own writer, which writes to the same sink."""

from xstream.containers.nesting import (
    INNER_CHECKPOINT,
    INNER_END,
    Nesting,
    check_back_channel,
    check_libxl_record,
    colo_nesting,
    libxl_nesting,
    xenopsd_nesting,
)
from xstream.errors import LimitExceeded, OrderError, StreamError
from xstream.limits import Limits
from xstream.stream.sink import Sink, open_sink
from xstream.stream.source import PendingPages
from xstream.stream.writer import Around, Writer, padding_of
from xstream.wire import colo, libvirt, libxl, xenopsd, xl
from xstream.wire.frames import FRAME
from xstream.wire.libxc import GUEST_PV, DomainHeader, ImageHeader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence, Tuple, Union

    from xstream.stream.types import OpenSinkLike
    from xstream.wire.frames import Buffer


class _ContainerWriter(Around):
    """Base of the container writers.

    ``sink`` is anything that :func:`~xstream.stream.sink.open_sink` takes. Before a record is written, raises what a
    reader would raise for it; and OSError from the sink.
    """

    layer = ""
    #: States in which the enclosed stream's records come.
    inner_states: "Tuple[str, ...]" = ()

    def __init__(self, sink: "OpenSinkLike", nesting: Nesting, limits: Limits) -> None:
        self.sink: Sink = open_sink(sink)
        self.limits = limits
        self.index = -1
        self._nesting = nesting
        self._inner: Union[None, Writer, _ContainerWriter] = None

    @property
    def ended(self) -> bool:
        """Whether the last record has been written."""
        return self._nesting.ended

    def check_turn(self) -> None:
        """Raise OrderError if the enclosed stream's records must not come now."""
        self._follow_inner()
        if self._nesting.state not in self.inner_states:
            raise OrderError("the enclosed stream must not be written now", layer=self.layer, offset=self.sink.offset,
                             expected="a record of {}".format(self.layer))

    def _follow_inner(self) -> None:
        """Follow the records that the enclosed stream's writer has written since the last call."""
        if self._inner is not None and self._inner.ended:
            self._nesting.follow_inner(INNER_END)
            self._inner = None

    def _located(self, error: StreamError, head: int, name: str) -> StreamError:
        return error.located(layer=self.layer, base=self.sink.offset + head, record=self.index + 1, record_type=name)

    def _check_length(self, length: int) -> None:
        if length > self.limits.body_length:
            raise LimitExceeded("record body longer than the limit", offset=-4, field="length",
                                expected="at most {}".format(self.limits.body_length), got=length)


class LibxlWriter(_ContainerWriter):
    """Writes a libxl stream, version 2, record by record. The constructor writes the header.

    After a LibxcContext, ``libxc()`` returns the writer of the libxc stream. Use this writer again after that stream's
    END, and in a checkpointed stream after each CHECKPOINT up to CHECKPOINT_END.
    """

    layer = libxl.LAYER
    inner_states = ("libxc", "resumed")

    def __init__(self, sink: "OpenSinkLike", header: libxl.Header = libxl.Header(), *, checkpointed: bool = False,
                 limits: Limits = Limits()) -> None:
        super().__init__(sink, libxl_nesting(), limits)
        self._checkpointed = checkpointed
        self._guest_type: Optional[int] = None
        self._checkpoints = 0
        built = libxl.build_header(header)
        libxl.parse_header(built)
        self.sink.write([built])

    def libxc(self, domain: DomainHeader, image: ImageHeader = ImageHeader()) -> Writer:
        """The writer of the libxc stream that LIBXC_CONTEXT announces; writes its headers. Call it once."""
        if self._nesting.state != "libxc" or self._inner is not None:
            raise OrderError("no libxc stream begins here", layer=self.layer, offset=self.sink.offset,
                             expected="a LIBXC_CONTEXT before")
        self._inner = Writer(self.sink, domain, image, checkpointed=self._checkpointed, limits=self.limits,
                             around=self)
        self._guest_type = domain.type
        return self._inner

    def write(self, record: "libxl.Record") -> None:
        """Write one record."""
        record_type = libxl.type_of(record)
        try:
            self._follow_inner()
            self._nesting.admit(record_type)
            body = b"".join(bytes(piece) for piece in libxl.build(record))
            self._check_length(len(body))
            check_libxl_record(libxl.parse(record_type, body), False if self._guest_type == GUEST_PV else None)
            pieces = [FRAME.pack(record_type, len(body)), body, padding_of(record, len(body))]
        except StreamError as error:
            raise self._located(error, FRAME.size, libxl.type_name(record_type))
        self._nesting.follow(record_type)
        self.sink.write(pieces)
        self.index += 1

    def _follow_inner(self) -> None:
        if isinstance(self._inner, Writer) and self._inner.checkpoints > self._checkpoints:
            self._checkpoints += 1
            self._nesting.follow_inner(INNER_CHECKPOINT)
        super()._follow_inner()


class BackChannelWriter(_ContainerWriter):
    """Writes the records that COLO's secondary sends to its primary: CheckpointState and CheckpointDirtyPfnList."""

    layer = colo.LAYER

    def __init__(self, sink: "OpenSinkLike", *, limits: Limits = Limits()) -> None:
        super().__init__(sink, colo_nesting(), limits)

    def write(self, record: "colo.Record") -> None:
        """Write one record."""
        record_type = colo.type_of(record)
        try:
            body = b"".join(bytes(piece) for piece in colo.build(record))
            self._check_length(len(body))
            check_back_channel(colo.parse(record_type, body), self.limits)
            pieces = [FRAME.pack(record_type, len(body)), body, padding_of(record, len(body))]
            self._nesting.follow(colo.turn_of(record))
        except StreamError as error:
            raise self._located(error, FRAME.size, colo.type_name(record_type))
        self.sink.write(pieces)
        self.index += 1


class XenopsdWriter(_ContainerWriter):
    """Writes a suspend image of xenopsd, structured or unstructured, record by record. The constructor writes the
    signature.

    After a MemoryImage, ``libxc()`` or ``libxl()`` returns the writer of the memory stream. In an unstructured image,
    and after a MemoryImage of a legacy stream, write the legacy stream to ``sink`` and call ``memory_written()``.
    """

    layer = xenopsd.LAYER

    def __init__(self, sink: "OpenSinkLike", header: xenopsd.Header = xenopsd.Header(), *,
                 limits: Limits = Limits()) -> None:
        super().__init__(sink, xenopsd_nesting(header.structured), limits)
        self.inner_states = ("memory",) if header.structured else ("start",)
        self._image: Optional[int] = None if header.structured else xenopsd.LIBXC_LEGACY
        self.sink.write([xenopsd.build_header(header)])

    def libxc(self, domain: DomainHeader, image: ImageHeader = ImageHeader(), *, checkpointed: bool = False) -> Writer:
        """The writer of the libxc stream that has been announced; writes its headers."""
        self._take_image((xenopsd.LIBXC, xenopsd.LIBXC_LEGACY))
        self._inner = Writer(self.sink, domain, image, checkpointed=checkpointed, limits=self.limits, around=self)
        return self._inner

    def libxl(self, header: libxl.Header = libxl.Header(), *, checkpointed: bool = False) -> LibxlWriter:
        """The writer of the libxl stream that has been announced; writes its header."""
        self._take_image((xenopsd.LIBXL,))
        self._inner = LibxlWriter(self.sink, header, checkpointed=checkpointed, limits=self.limits)
        return self._inner

    def memory_written(self) -> None:
        """Note that a legacy memory stream has been written to ``sink``."""
        self._take_image((xenopsd.LIBXC_LEGACY,))
        self._nesting.follow_inner(INNER_END)

    def write(self, record: "xenopsd.Record") -> None:
        """Write one record. A blob's data may be a reader's PendingPages, which are copied piece by piece."""
        record_type = xenopsd.type_of(record)
        pieces = xenopsd.build(record)
        try:
            self._follow_inner()
            self._nesting.admit(record_type)
            if isinstance(record, xenopsd.Xenops):
                self._check_length(len(record.text))
                xenopsd.parse_xenops(record.text)
        except StreamError as error:
            raise self._located(error, len(pieces[0]), xenopsd.type_name(record_type))
        self._nesting.follow(record_type)
        self._image = record_type if record_type in xenopsd.MEMORY_IMAGES else None
        for piece in pieces:
            if isinstance(piece, PendingPages):
                self.sink.pass_on(piece)
            else:
                self.sink.write([piece])
        self.index += 1

    def _take_image(self, kinds: "Sequence[int]") -> None:
        if self._image not in kinds:
            raise OrderError("no such memory image begins here", layer=self.layer, offset=self.sink.offset,
                             expected="a record that announces it")
        self._image = None


class _SaveFileWriter:
    """A header before one stream. The constructor writes the header; a legacy stream is then written to ``sink``."""

    def __init__(self, sink: "OpenSinkLike", pieces: "Sequence[Buffer]", limits: Limits) -> None:
        self.sink: Sink = open_sink(sink)
        self.limits = limits
        self.sink.write(pieces)

    def libxl(self, header: libxl.Header = libxl.Header(), *, checkpointed: bool = False) -> LibxlWriter:
        """The writer of the libxl stream that follows; writes its header."""
        return LibxlWriter(self.sink, header, checkpointed=checkpointed, limits=self.limits)


class XlWriter(_SaveFileWriter):
    """Writes an xl save file. Raises UnsupportedStream for flags that xl refuses, LimitExceeded for a config beyond the
    limit."""

    layer = xl.LAYER

    def __init__(self, sink: "OpenSinkLike", header: xl.SaveHeader, *, limits: Limits = Limits()) -> None:
        pieces = xl.build(header)
        xl.parse_head(pieces[0])
        if len(header.config) > limits.body_length:
            raise LimitExceeded("config longer than the limit", layer=self.layer, field="config length",
                                expected="at most {}".format(limits.body_length), got=len(header.config))
        super().__init__(sink, pieces, limits)


class LibvirtWriter(_SaveFileWriter):
    """Writes a save file of libvirt's libxl driver. Raises CorruptStream if there is no XML, UnsupportedStream for a
    version other than 1 and 2."""

    layer = libvirt.LAYER

    def __init__(self, sink: "OpenSinkLike", header: libvirt.SaveHeader, *, limits: Limits = Limits()) -> None:
        pieces = libvirt.build(header)
        libvirt.parse_head(pieces[0])
        if len(header.xml) > limits.body_length:
            raise LimitExceeded("XML longer than the limit", layer=self.layer, field="xmlLen",
                                expected="at most {}".format(limits.body_length), got=len(header.xml))
        super().__init__(sink, pieces, limits)

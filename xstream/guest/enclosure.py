"""What a save writes around the memory stream: nothing, or the layers of a container."""

from xstream.errors import MissingPart
from xstream.limits import Limits
from xstream.stream.sink import Sink
from xstream.stream.writer import Writer
from xstream.wire.libxc import Checkpoint, DomainHeader, End

# Containers are loaded where one is written: a bare stream, which libxl's helper writes, starts faster without them.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional, Sequence, Tuple, Union

    from xstream.containers.writers import LibxlWriter, XenopsdWriter

#: Containers that a save can write.
CONTAINERS = ("libxl", "xl", "libvirt", "xenopsd")

if TYPE_CHECKING:
    Pairs = Sequence[Tuple[bytes, bytes]]

    #: The device model's record and xenstore entries: as they are, or a function that returns them. It is called with
    #: the guest suspended, after the guest's own state has been written, at each checkpoint again.
    DeviceModel = Union[bytes, Callable[[], bytes]]

    XenstoreData = Union[Pairs, Callable[[], Pairs]]


class Enclosure:
    """Writes a memory stream into a container. ``container`` None is a bare stream. The other arguments are those of
    :func:`xstream.guest.save.save`.

    Raises MissingPart where the container needs a configuration, ValueError for what it has no place for.
    """

    def __init__(self, container: "Optional[str]", *, config: "Optional[bytes]", device_model: "Optional[DeviceModel]",
                 xenstore_data: "Optional[XenstoreData]", checkpointed: bool, limits: Limits) -> None:
        if container is not None and container not in CONTAINERS:
            raise ValueError("unknown container {!r}; known are {}".format(container, ", ".join(CONTAINERS)))
        self._container = container
        self._config = config
        self._device_model = device_model
        self._xenstore_data = xenstore_data
        self._checkpointed = checkpointed
        self._limits = limits
        self._libxl: Optional[LibxlWriter] = None
        self._xenopsd: Optional[XenopsdWriter] = None
        self._check_parts()

    def _check_parts(self) -> None:
        container = self._container
        if container in ("xl", "libvirt", "xenopsd") and self._config is None:
            raise MissingPart("a container of {} needs the domain's configuration".format(container))
        unused = [name for name, value, places in (
            ("config", self._config, ("xl", "libvirt", "xenopsd")),
            ("device_model", self._device_model, CONTAINERS),
            ("xenstore_data", self._xenstore_data, ("libxl", "xl", "libvirt")),
        ) if value is not None and container not in places]
        if unused:
            raise ValueError("a stream of {} has no place for {}".format(container or "libxc", ", ".join(unused)))
        if container == "xenopsd" and self._checkpointed:
            raise ValueError("a suspend image of xenopsd has no place for checkpoints")

    def begin(self, sink: Sink, domain: DomainHeader) -> Writer:
        """Write what precedes the memory stream, and its headers; returns its writer."""
        if self._container is None:
            return Writer(sink, domain, checkpointed=self._checkpointed, limits=self._limits)
        from xstream.containers.writers import LibvirtWriter, LibxlWriter, XenopsdWriter, XlWriter
        from xstream.wire import libvirt, libxl, xenopsd, xl
        config = self._config or b""
        if self._container == "xenopsd":
            self._xenopsd = XenopsdWriter(sink, limits=self._limits)
            self._xenopsd.write(xenopsd.Xenops(config))
            self._xenopsd.write(xenopsd.MemoryImage(xenopsd.LIBXC))
            return self._xenopsd.libxc(domain)
        if self._container == "xl":
            XlWriter(sink, xl.SaveHeader.of(config), limits=self._limits)
        elif self._container == "libvirt":
            LibvirtWriter(sink, libvirt.SaveHeader.of(config), limits=self._limits)
        self._libxl = LibxlWriter(sink, checkpointed=self._checkpointed, limits=self._limits)
        self._libxl.write(libxl.LibxcContext())
        return self._libxl.libxc(domain)

    def checkpoint(self, writer: Writer) -> None:
        """Close a checkpoint, with the guest suspended."""
        writer.write(Checkpoint())
        if self._libxl is not None:
            from xstream.wire import libxl
            self._write_device_model(self._libxl)
            self._libxl.write(libxl.CheckpointEnd())

    def finish(self, writer: Writer) -> None:
        """Close the stream, with the guest suspended."""
        writer.write(End())
        if self._libxl is not None:
            from xstream.wire import libxl
            self._write_device_model(self._libxl)
            self._libxl.write(libxl.End())
        if self._xenopsd is not None:
            from xstream.wire import xenopsd
            if self._device_model is not None:
                self._xenopsd.write(xenopsd.Blob(xenopsd.QEMU_TRAD, _value(self._device_model)))
            self._xenopsd.write(xenopsd.EndOfImage())

    def _write_device_model(self, writer: "LibxlWriter") -> None:
        """The device model's records, in libxl's order."""
        from xstream.wire import libxl
        if self._xenstore_data is not None:
            pairs = self._xenstore_data() if callable(self._xenstore_data) else self._xenstore_data
            writer.write(libxl.EmulatorXenstoreData.of(pairs, emulator_id=libxl.QEMU_UPSTREAM))
        if self._device_model is not None:
            writer.write(libxl.EmulatorContext(libxl.QEMU_UPSTREAM, 0, _value(self._device_model)))


def _value(device_model: "DeviceModel") -> bytes:
    return device_model() if callable(device_model) else device_model

"""What a container says of its domain, and its device model's record, each as a file of its own."""
from typing import Any, Callable, Dict, Optional

from xstream.containers.opening import open_stream
from xstream.errors import LimitExceeded, MissingPart
from xstream.stream.sink import open_sink
from xstream.stream.source import PendingPages
from xstream.wire import legacy, libvirt, libxl, xend, xenopsd, xl

CONFIG, DEVICE_MODEL = "config", "device-model"
#: The types of QEMU's record in a suspend image of xenopsd.
QEMU_TYPES = (xenopsd.QEMU_TRAD, xenopsd.QEMU_XEN, xenopsd.QEMU_RECORD)
_CONFIGS: Dict[Any, str] = {xl.SaveHeader: "config", libvirt.SaveHeader: "xml", xend.SaveHeader: "config",
                            xenopsd.Xenops: "text"}
_ABSENT = {CONFIG: "a domain's configuration", DEVICE_MODEL: "a device model's record"}


def unwrap(source: Any, sink: Any, what: str, *, progress: Callable[[int], Any] = lambda offset: None,
           **options: Any) -> int:
    """Write one part of a container to ``sink``, as ``rewrap`` takes it in Parts; its bytes are returned.

    - ``"config"``: xl's or xend's configuration, libvirt's XML, the Xenops record; without the NUL behind it;
    - ``"device-model"``: QEMU's record; of a stream with checkpoints that of the last complete one.

    ``source`` and ``options`` are those of xstream.open, but checkpoints need not be announced; ``sink`` is anything
    that :func:`~xstream.stream.sink.open_sink` takes. Raises MissingPart where there is none, StreamError's kin and
    OSError.
    """
    if what not in _ABSENT:
        raise ValueError("no such part: {!r}; known are {}".format(what, ", ".join(_ABSENT)))
    options.setdefault("checkpointed", True)
    with open_stream(source, **options) as reader:
        part = (_config if what == CONFIG else _device_model)(reader, progress)
        if part is None:
            raise MissingPart("there isn't {} in the source".format(_ABSENT[what]))
        open_sink(sink).write([part])
        return len(part)


def _config(reader: Any, progress: Callable[[int], Any]) -> Optional[bytes]:
    """The config, which stands before the memory."""
    for record in reader:
        progress(reader.source.offset)
        field = _CONFIGS.get(type(record))
        if field is not None:
            return bytes(getattr(record, field)).rstrip(b"\0") or None
        if reader.layer not in (xl.LAYER, libvirt.LAYER, xend.LAYER, xenopsd.LAYER):
            return None
    return None


def _device_model(reader: Any, progress: Callable[[int], Any]) -> Optional[bytes]:
    found: Optional[bytes] = None
    complete: Optional[bytes] = None
    checkpoints = 0
    while True:
        if reader.next_run() is not None:
            continue
        record = reader.next_record()
        if record is None:
            return complete if checkpoints else found
        progress(reader.source.offset)
        blob = _blob(record)
        if blob is not None:
            found = in_memory(blob, reader.limits.body_length)
        if reader.checkpoints > checkpoints:
            checkpoints, complete = reader.checkpoints, found


def _blob(record: Any) -> Optional[Any]:
    if isinstance(record, (libxl.EmulatorContext, legacy.DeviceModel)):
        return record.blob
    return record.data if isinstance(record, xenopsd.Blob) and record.type in QEMU_TYPES else None


def in_memory(data: Any, most: int) -> bytes:
    """A device model's record of xenopsd's, read if it still is in the source. Raises LimitExceeded beyond ``most``."""
    if len(data) > most:
        raise LimitExceeded("device model's record longer than the limit", layer=xenopsd.LAYER, field="length",
                            expected="at most {}".format(most), got=len(data))
    return data.read() if isinstance(data, PendingPages) else bytes(data)

"""Parts of a container, written as separate files: the domain's configuration, the device model's record."""
from typing import Callable, Optional, Union

from xstream.containers.opening import AnyReader
from xstream.errors import LimitExceeded, MissingPart
from xstream.stream.source import PendingPages
from xstream.stream.state import CONFIG_FIELDS
from xstream.tuples import kind_of
from xstream.wire import legacy, libvirt, libxl, xend, xenopsd, xl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.wire.formats import AnyRecord
    from xstream.wire.frames import Buffer
    from xstream.wire.pending import Data

CONFIG, DEVICE_MODEL = "config", "device-model"


def find_config(reader: AnyReader, progress: Callable[[int], object]) -> bytes:
    """The domain's configuration without its trailing NUL: of xl or xend the config, of libvirt the XML, of xenopsd the
    Xenops record. Reads no further than that. Raises MissingPart if there is none, StreamError or a subclass, OSError.
    """
    for record in reader:
        progress(reader.source.offset)
        field = CONFIG_FIELDS.get(kind_of(record))
        if field is not None and len(getattr(record, field)):
            return bytes(getattr(record, field)).rstrip(b"\0")
        if reader.layer not in (xl.LAYER, libvirt.LAYER, xend.LAYER, xenopsd.LAYER):
            break
    raise MissingPart("the source contains no domain configuration")


def find_device_model(reader: AnyReader, progress: Callable[[int], object]) -> bytes:
    """QEMU's record: of a stream with checkpoints that of the last complete one. Reads the whole stream. Raises
    MissingPart if there is none, StreamError or a subclass, OSError."""
    found: Optional[bytes] = None
    complete: Optional[bytes] = None
    checkpoints = 0
    while True:
        if reader.next_run(pages=False) is not None:
            continue
        record = reader.next_record()
        if record is None:
            break
        progress(reader.source.offset)
        blob = device_model_of(record)
        if blob is not None:
            found = in_memory(blob, reader)
        if reader.checkpoints > checkpoints:
            checkpoints, complete = reader.checkpoints, found
    found = complete if checkpoints else found
    if found is None:
        raise MissingPart("the source contains no device model record" + not_read(reader.unread))
    return found


def not_read(unread: Optional[str]) -> str:
    """What an error about a missing part says of what a reader's ``unread`` describes."""
    return "" if unread is None else " (not read: {})".format(unread)


def device_model_of(record: "AnyRecord") -> "Optional[Data]":
    """QEMU's record in a record of any layer but libxc's; None if there is none."""
    if isinstance(record, (libxl.EmulatorContext, legacy.DeviceModel)):
        return record.blob
    return record.data if isinstance(record, xenopsd.Blob) and record.type in xenopsd.QEMU_RECORDS else None


def in_memory(data: "Union[Buffer, PendingPages]", reader: AnyReader) -> bytes:
    """A blob of a reader's last record as bytes, read if it is still in the source. Raises LimitExceeded."""
    most = reader.limits.body_length
    if len(data) > most:
        raise LimitExceeded("record longer than the limit", layer=reader.layer, record=reader.index,
                            offset=reader.offset, field="length", expected="at most {}".format(most), got=len(data))
    return data.read() if isinstance(data, PendingPages) else bytes(data)

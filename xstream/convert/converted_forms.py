"""What a converted stream looks like beyond the libxc records: alone, or within a libxl stream."""
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple, Type

from xstream.stream.sink import Sink
from xstream.wire import legacy, libxc, libxl
from xstream.wire.frames import FRAME, Buffer, padded


class Extras(NamedTuple):
    """What a legacy stream's tail holds for others than libxc: ``physmap`` for libxl, and the device model's record."""

    physmap: Tuple[legacy.PhysmapEntry, ...] = ()
    device_model: Optional[legacy.DeviceModel] = None


class Form:
    """How what isn't libxc's own stands around its records."""

    def begin(self, sink: Sink) -> None:
        """Write what stands before the libxc stream."""

    def end(self, sink: Sink, extras: Extras, width: int) -> Tuple[str, ...]:
        """Write what follows END; gives the names of what has no place there."""
        raise NotImplementedError

    def end_checkpoint(self, sink: Sink, extras: Extras) -> Tuple[str, ...]:
        """Write what follows CHECKPOINT; gives the names of what has no place there."""
        raise NotImplementedError


class LibxcForm(Form):
    """A libxc stream alone, as Xen's converter has it: the device model's record follows END as it came."""

    def end(self, sink: Sink, extras: Extras, width: int) -> Tuple[str, ...]:
        if extras.device_model is not None:
            sink.write(legacy.build(extras.device_model, width))
        return ()

    def end_checkpoint(self, sink: Sink, extras: Extras) -> Tuple[str, ...]:
        # libxc's records go on at once.
        return () if extras.device_model is None else ("DEVICE_MODEL",)


class LibxlForm(Form):
    """A libxl stream, whose header says that it was converted."""

    def begin(self, sink: Sink) -> None:
        sink.write([libxl.build_header(libxl.Header(libxl.VERSION, libxl.FROM_LEGACY))])
        _write(sink, libxl.LibxcContext())

    def end(self, sink: Sink, extras: Extras, width: int) -> Tuple[str, ...]:
        self._write_extras(sink, extras)
        _write(sink, libxl.End())
        return ()

    def end_checkpoint(self, sink: Sink, extras: Extras) -> Tuple[str, ...]:
        self._write_extras(sink, extras)
        _write(sink, libxl.CheckpointEnd())
        return ()

    def _write_extras(self, sink: Sink, extras: Extras) -> None:
        # Of which device model these are, a legacy stream doesn't say. A PV guest has none; libxl would refuse it.
        if extras.physmap:
            _write(sink, libxl.EmulatorXenstoreData.of(_physmap_pairs(extras.physmap), 0, 0))
        if extras.device_model is not None:
            _write(sink, libxl.EmulatorContext(0, 0, extras.device_model.blob))


FORMS: Dict[str, Type[Form]] = {libxc.LAYER: LibxcForm, libxl.LAYER: LibxlForm}


def _physmap_pairs(entries: Iterable[legacy.PhysmapEntry]) -> List[Tuple[bytes, bytes]]:
    """The keys and values that libxl keeps of physmap entries, relative to the device model's folder."""
    pairs = []
    for entry in entries:
        folder = "physmap/{:x}/".format(entry.phys_offset).encode()
        pairs.append((folder + b"start_addr", "{:x}".format(entry.start_addr).encode()))
        pairs.append((folder + b"size", "{:x}".format(entry.size).encode()))
        if entry.name:
            pairs.append((folder + b"name", entry.name))
    return pairs


def _write(sink: Sink, record: Any) -> None:
    body: List[Buffer] = libxl.build(record)
    length = sum(len(piece) for piece in body)
    sink.write([FRAME.pack(libxl.type_of(record), length)] + body + [bytes(padded(length) - length)])

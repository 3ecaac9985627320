"""Transition tables: what may come next in libxl streams, on COLO's back channel and in xenopsd's images. Reading and
writing follow the same tables.

Source: what tools/libs/light/libxl_stream_read.c, libxl_colo_save.c and xen-api's ocaml/xenopsd/xc/domain.ml require,
and the order in which their counterparts write. The enclosed libxc stream has its own tables:
:mod:`xstream.stream.ordering`.
"""

from xstream.errors import LimitExceeded, OrderError, StrictViolation, UnsupportedStream
from xstream.limits import Limits
from xstream.wire import colo, libxl, xenopsd
from xstream.wire.frames import FRAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Callable, Dict, Optional, Sequence, Set, Tuple, Union

    from xstream.wire.formats import AnyRecord

#: Events in the enclosed stream: its last record has come, or a CHECKPOINT, after which this layer's records follow.
INNER_END, INNER_CHECKPOINT = "the inner END", "the inner CHECKPOINT"

if TYPE_CHECKING:
    #: A record type, or one of the two events, to the state that it leads to.
    Row = Dict[Union[int, str], str]

_EMULATOR = (libxl.EMULATOR_XENSTORE_DATA, libxl.EMULATOR_CONTEXT)

#: State to what may come in it. In "libxc" and "resumed" the enclosed stream's records come.
LIBXL: "Dict[str, Row]" = {
    "start": {**dict.fromkeys(_EMULATOR, "start"), libxl.LIBXC_CONTEXT: "libxc"},
    "libxc": {INNER_END: "domain", INNER_CHECKPOINT: "checkpoint"},
    "checkpoint": {**dict.fromkeys(_EMULATOR, "checkpoint"), libxl.CHECKPOINT_END: "resumed"},
    "resumed": {libxl.CHECKPOINT_STATE: "resumed", INNER_END: "domain", INNER_CHECKPOINT: "checkpoint"},
    "domain": {**dict.fromkeys(_EMULATOR, "domain"), libxl.END: "end"},
    "end": {},
}

#: What the secondary sends for each checkpoint, by the values of colo.turn_of(). It ends when the secondary does.
COLO: "Dict[str, Row]" = {
    "start": {libxl.SECONDARY_READY: "ready"},
    "ready": {libxl.SECONDARY_RESUMED: "running"},
    "running": {libxl.SECONDARY_SUSPENDED: "suspended"},
    "suspended": {colo.DIRTY_PFN_LIST: "start"},
}

_XENOPSD_BLOBS = (xenopsd.QEMU_TRAD, xenopsd.QEMU_XEN, xenopsd.DEMU, xenopsd.VARSTORED, xenopsd.SWTPM0, xenopsd.SWTPM)
_XENOPSD_ANY = (xenopsd.XENOPS,) + _XENOPSD_BLOBS

XENOPSD: "Dict[str, Row]" = {
    "start": {**dict.fromkeys(_XENOPSD_ANY, "start"), **dict.fromkeys(xenopsd.MEMORY_IMAGES, "memory")},
    "memory": {INNER_END: "tail"},
    "tail": {**dict.fromkeys(_XENOPSD_ANY, "tail"), xenopsd.END_OF_IMAGE: "end"},
    "end": {},
}

#: The older, unstructured image: a PV guest's has no QEMU record.
XENOPSD_LEGACY: "Dict[str, Row]" = {
    "start": {INNER_END: "tail"},
    "tail": {xenopsd.QEMU_RECORD: "end"},
    "end": {},
}


class Nesting:
    """The state of one container's own layer, read or written.

    ``table`` has its transitions, ``name`` returns the name of a record type. ``head`` is the size in bytes of a
    record's header: offsets in errors count from the body. ``usual`` are record types that every such stream has.
    """

    def __init__(self, table: "Dict[str, Row]", name: "Callable[[int], str]", *, head: int, usual: "Sequence[int]" = ()
                 ) -> None:
        self.state = "start"
        self._table = table
        self._name = name
        self._head = head
        self._usual = usual
        self._seen: Set[int] = set()

    @property
    def ended(self) -> bool:
        """Whether the last record has come."""
        return self.state == "end"

    @property
    def inner_ended(self) -> bool:
        """Whether the enclosed stream has come to its end."""
        return self.state in ("domain", "tail", "end")

    def admit(self, record_type: int) -> str:
        """The state that a record of this type leads to. Raises OrderError if it must not come now, UnsupportedStream
        for an unknown type; libxl refuses those even if they are marked as optional."""
        row = self._table[self.state]
        if record_type in row:
            return row[record_type]
        if not any(record_type in other for other in self._table.values()):
            raise UnsupportedStream("unknown record", offset=-self._head, field="type", expected="a known type",
                                    got=self._name(record_type))
        expected = [known if isinstance(known, str) else self._name(known) for known in row]
        raise OrderError("must not come here", offset=-self._head, field="type",
                         expected="one of " + ", ".join(expected) if expected else "the end",
                         got=self._name(record_type))

    def follow(self, record_type: int) -> None:
        """Follow a record of this type. Raises what ``admit`` raises."""
        self.state = self.admit(record_type)
        self._seen.add(record_type)

    def follow_inner(self, event: str) -> None:
        """Follow an event in the enclosed stream. Raises OrderError if it must not come now."""
        row = self._table[self.state]
        if event not in row:
            raise OrderError("the enclosed stream is at the wrong place", got=event)
        self.state = row[event]

    def check_usual(self) -> None:
        """Raise StrictViolation if a record that every such stream has is missing."""
        missing = [self._name(usual) for usual in self._usual if usual not in self._seen]
        if missing:
            raise StrictViolation("records missing", offset=-self._head, field="type", expected=", ".join(missing),
                                  got="the end")


def libxl_nesting() -> Nesting:
    """The rules of a libxl stream."""
    return Nesting(LIBXL, libxl.type_name, head=FRAME.size)


def colo_nesting() -> Nesting:
    """The rules of COLO's back channel."""
    return Nesting(COLO, colo.turn_name, head=FRAME.size)


def xenopsd_nesting(structured: bool) -> Nesting:
    """The rules of a suspend image."""
    if not structured:
        return Nesting(XENOPSD_LEGACY, xenopsd.type_name, head=xenopsd.QEMU_HEADER_SIZE)
    return Nesting(XENOPSD, xenopsd.type_name, head=xenopsd.HEADER_SIZE, usual=(xenopsd.XENOPS,))


def check_libxl_record(record: "libxl.Record", device_model: "Optional[bool]", strict: bool = False) -> None:
    """Raise OrderError for a device model's record of a guest that has none, which libxl refuses wherever it comes.

    ``device_model``: whether the guest has one (only HVM guests do, PV and PVH guests don't); None if it isn't known.
    With ``strict`` also raise StrictViolation for a checkpoint state that only COLO's secondary sends, on the back
    channel; a capture of both directions contains them.
    """
    if isinstance(record, (libxl.EmulatorXenstoreData, libxl.EmulatorContext)) and device_model is False:
        raise OrderError("a device model's record for a guest that isn't HVM", offset=-8, field="type",
                         expected="no emulator record", got=libxl.type_name(libxl.type_of(record)))
    if strict and isinstance(record, libxl.CheckpointState) and record.control_id != libxl.CHECKPOINT_NEW:
        raise StrictViolation("checkpoint state of the back channel", offset=0, field="control_id",
                              expected=libxl.CHECKPOINT_NEW, got=record.control_id)


def check_back_channel(record: "colo.Record", limits: Limits) -> None:
    """Raise OrderError for the one state that goes from primary to secondary, LimitExceeded for a PFN over the limit.
    """
    if isinstance(record, libxl.CheckpointState):
        if record.control_id == libxl.CHECKPOINT_NEW:
            raise OrderError("the primary's checkpoint state on the back channel", offset=0, field="control_id",
                             expected="1 to 3", got=record.control_id)
        return
    highest = max(memoryview(record.entries).cast("B").cast("Q"), default=0)
    if highest >= limits.guest_pfns:
        raise LimitExceeded("PFN over the limit on the guest's size", field="pfn",
                            expected="under {:#x}".format(limits.guest_pfns), got=hex(highest))


def ignored(module: "ModuleType", record: "AnyRecord", padding_at: int = 0) -> "Optional[Tuple[int, str, object]]":
    """(offset, field, value) of the first field of a record that a restore ignores and no Xen writes, nonzero padding
    included; None if there is none. ``padding_at`` is the body's length."""
    found: Optional[Tuple[int, str, object]] = module.ignored_content(record)
    padding = getattr(record, "padding", b"")
    if found is None and len(padding):
        return padding_at, "padding", bytes(padding)
    return found

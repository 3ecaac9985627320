"""The records that describe a guest's state beside its memory: which of them replace earlier ones, which accumulate.

A stream may send the same kind of record several times: a converted legacy stream has two HVM_PARAMS records, and every
checkpoint sends the whole state again. What a restored guest ends up with depends on the kind of record. Every part of
the package that keeps state asks :class:`StateRecords`, so that the rule is written down once:

- CPU policies, TSC, shared info, HVM context and vcpu records: the last record replaces the earlier ones;
- records of one vcpu, or of one device model: the last of the same vcpu or device model replaces the earlier ones;
- HVM_PARAMS: parameters are set one by one as each record arrives, so a later record changes only those it contains;
- EMULATOR_XENSTORE_DATA: keys are written one by one, so a later record changes only the keys it contains;
- X86_PV_P2M_FRAMES: each covers a range of PFNs; a record that covers everything so far replaces all earlier ones;
- everything else, optional and unknown records included: all are kept, in order.

Xen 4.6 to 4.8 sent empty HVM_PARAMS and vcpu records; a restore skips them, so they replace nothing.

Source: handle_hvm_params(), handle_hvm_context() and x86_pv's handle_x86_pv_vcpu_blob(), handle_x86_pv_p2m_frames() in
tools/libs/guest/xg_sr_restore_x86_{hvm,pv}.c; libxl__restore_emulator_xenstore_data() in tools/libs/light/libxl_dom.c.
"""
from xstream.errors import LimitExceeded
from xstream.limits import Limits
from xstream.tuples import NamedTuple, kind_of
from xstream.wire import libxc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, Iterator, List, Tuple, Type, TypeVar, Union

    from xstream.wire import libxl
    from xstream.wire.formats import AnyRecord

#: Charged against the limit for each record, parameter or key, beside its bytes: about what Python needs to hold it.
OVERHEAD = 1024

#: Records of which the last one counts, by their class and its module (so that the modules of all formats needn't be
#: loaded), and the fields that tell several of the same class apart.
REPLACES: "Dict[str, Tuple[str, ...]]" = {
    "libxc.PVInfo": (), "libxc.StaticDataEnd": (), "libxc.CpuidPolicy": (), "libxc.MsrPolicy": (), "libxc.TscInfo": (),
    "libxc.SharedInfo": (), "libxc.HvmContext": (),
    "libxc.VcpuBasic": ("vcpu_id",), "libxc.VcpuExtended": ("vcpu_id",), "libxc.VcpuXsave": ("vcpu_id",),
    "libxc.VcpuMsrs": ("vcpu_id",),
    "libxl.LibxcContext": (), "libxl.EmulatorContext": ("emulator_id", "emulator_index"),
    "legacy.Toolstack": (), "legacy.DeviceModel": (), "legacy.Tmem": (), "legacy.TmemExtra": (),
    "xl.SaveHeader": (), "libvirt.SaveHeader": (), "xend.SaveHeader": (), "xenopsd.Xenops": (),
    "xenopsd.MemoryImage": (),
}
#: Records that are merged entry by entry into one, and the fields that tell several of the same class apart.
MERGES: "Dict[str, Tuple[str, ...]]" = {
    "libxc.HvmParams": (), "libxl.EmulatorXenstoreData": ("emulator_id", "emulator_index"),
}


if TYPE_CHECKING:
    #: A record's class, and the values that tell several of the same class apart.
    Key = Tuple[object, ...]

    R = TypeVar("R", bound="NamedTuple")

    #: A record that is merged entry by entry.
    Merged = Union[libxc.HvmParams, libxl.EmulatorXenstoreData]


class Kept(NamedTuple):
    """A record, and whatever the caller passed to ``add`` with it. Of a merged record, that of the last one added."""

    record: "AnyRecord"
    where: "Any"


class StateRecords:
    """Records beside memory, with repetitions resolved as a restore does.

    Memory is bounded: LimitExceeded is raised once what is kept exceeds ``limits.state_length`` bytes, counting each
    record's bytes and an overhead per record. Records that hold views keep the viewed buffer alive.
    """

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limit = limits.state_length
        self._kept: Dict[Key, Kept] = {}
        self._merged: Dict[Key, Dict[Any, Any]] = {}
        self._sizes: Dict[Key, int] = {}
        self._size = 0
        self._added = 0
        self._p2m_end = 0

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, record: "AnyRecord", where: "Any" = None) -> None:
        """Add the next record of the stream. ``where`` is returned with it by ``items``.

        Raises LimitExceeded, which names no layer or offset.
        """
        kind = kind_of(record)
        if _is_empty(record):
            return
        if isinstance(record, libxc.P2MFrames):
            self._replace_p2m_frames(record)
        if kind in MERGES:
            self._merge(_key(record, MERGES[kind]), record, where)  # type: ignore[arg-type]  # as its name says
        elif kind in REPLACES:
            self._store(_key(record, REPLACES[kind]), record, where)
        else:
            self._added += 1
            self._store((type(record), self._added), record, where)

    def update(self, other: "StateRecords") -> None:
        """Add all records of ``other``, as when a checkpoint completes. Raises LimitExceeded."""
        for record, where in other.items():
            self.add(record, where)

    def items(self) -> "Iterator[Kept]":
        """The records and their ``where``, in the order in which the first of each was added."""
        for key, kept in self._kept.items():
            entries = self._merged.get(key)
            yield kept if entries is None else kept._replace(record=_merged(kept.record, entries))

    def records(self) -> "List[AnyRecord]":
        """The records alone, in the same order."""
        return [kept.record for kept in self.items()]

    def of(self, *kinds: "Type[R]") -> "List[R]":
        """The records of these classes, in order."""
        return [kept.record for kept in self.items() if isinstance(kept.record, kinds)]

    def _store(self, key: "Key", record: "AnyRecord", where: "Any") -> None:
        self._charge(key, _size(record))
        self._kept[key] = Kept(record, where)

    def _merge(self, key: "Key", record: "Merged", where: "Any") -> None:
        entries = self._merged.setdefault(key, {})
        for name, value in _entries(record):
            self._grow(_entry_size(name, value) - (_entry_size(name, entries[name]) if name in entries else 0))
            entries[name] = value
        self._kept[key] = Kept(_without_entries(record), where)

    def _replace_p2m_frames(self, record: libxc.P2MFrames) -> None:
        if record.start_pfn == 0 and record.end_pfn >= self._p2m_end:
            for key in [key for key in self._kept if key[0] is libxc.P2MFrames]:
                del self._kept[key]
                self._size -= self._sizes.pop(key)
        self._p2m_end = max(self._p2m_end, record.end_pfn)

    def _charge(self, key: "Key", size: int) -> None:
        self._grow(size - self._sizes.get(key, 0))
        self._sizes[key] = size

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._limit:
            raise LimitExceeded("records beside memory take more than the limit", field="length",
                                expected="at most {} bytes".format(self._limit), got=self._size)


#: The field of a save file's header, or of a record, that holds the domain's configuration.
CONFIG_FIELDS = {"xl.SaveHeader": "config", "libvirt.SaveHeader": "xml", "xend.SaveHeader": "config",
                 "xenopsd.Xenops": "text"}


def owned(record: "R") -> "R":
    """The record with copies of what it only has views of."""
    return record._replace(**{name: bytes(value) for name, value in record._asdict().items()
                              if isinstance(value, memoryview)})


def _key(record: "AnyRecord", fields: "Iterable[str]") -> "Key":
    return (type(record),) + tuple(getattr(record, field) for field in fields)


def _without_entries(record: "Merged") -> "Merged":
    return record._replace(entries=b"") if isinstance(record, libxc.HvmParams) else record._replace(data=b"")


def _entries(record: "Merged") -> "Iterable[Tuple[object, object]]":
    if isinstance(record, libxc.HvmParams):
        return libxc.HVM_PARAM.iter_unpack(record.entries)
    return record.pairs


def _merged(record: "AnyRecord", entries: "Dict[Any, Any]") -> "AnyRecord":
    """The record with the merged entries. What surrounds them, reserved fields included, is the last record's."""
    if isinstance(record, libxc.HvmParams):
        return record._replace(entries=libxc.HvmParams.of(list(entries.items())).entries)
    from xstream.wire import libxl  # loaded already
    assert isinstance(record, libxl.EmulatorXenstoreData)
    return record._replace(data=libxl.EmulatorXenstoreData.of(entries.items()).data)


def _is_empty(record: "AnyRecord") -> bool:
    """Whether this is a record without contents that a restore skips."""
    if isinstance(record, libxc.HvmParams):
        return not len(record.entries)
    return isinstance(record, (libxc.VcpuBasic, libxc.VcpuExtended, libxc.VcpuXsave, libxc.VcpuMsrs)) and \
        not len(record.blob)


def _entry_size(name: object, value: object) -> int:
    return OVERHEAD + (len(name) + len(value) if isinstance(name, bytes) and isinstance(value, bytes) else 0)


def _size(record: "AnyRecord") -> int:
    """What a record is charged with."""
    return OVERHEAD + sum(
        len(value) for value in record._asdict().values() if not isinstance(value, (int, tuple, type(None))))

"""The contents of single records as plain values: numbers, text, lists and dicts, down to Xen's opaque blobs.

What is shown of one record is bounded, whatever the record holds: text by _MOST_TEXT characters, lists by _MOST_ITEMS
items, blobs of unknown layout by their first _SHOWN bytes. Each says how much was left out.
"""
from itertools import islice

from xstream.containers.opening import reading
from xstream.contexts import suppress
from xstream.errors import StreamError
from xstream.limits import Limits
from xstream.stream.source import PendingPages
from xstream.tuples import NamedTuple
from xstream.wire import (
    features,
    hvm_context,
    hvm_params,
    legacy,
    libvirt,
    libxc,
    libxl,
    msrs,
    policies,
    shared_info,
    vcpu,
    vmstate,
    xend,
    xenopsd,
    xl,
    xsave,
)
from xstream.wire.formats import record_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple, Union

    from xstream.errors import JsonValue
    from xstream.stream.reader import AnyReader
    from xstream.stream.types import StreamLike
    from xstream.wire.formats import AnyRecord
    from xstream.wire.frames import Buffer
    from xstream.wire.layouts import Fields
    from xstream.wire.pending import Data

#: Bytes shown of a blob whose layout isn't known.
_SHOWN = 64
#: Characters of a text, and items of a list, that are shown.
_MOST_TEXT, _MOST_ITEMS = 1 << 16, 1 << 16
#: Numbers of a list in brief.
_MOST_NUMBERS = 32
_BYTES = (bytes, bytearray, memoryview)


if TYPE_CHECKING:
    #: Values by name, as reports and JSON have them.
    Contents = Dict[str, JsonValue]


class RecordContents(NamedTuple):
    """One record.

    - ``layer``, ``record``, ``offset``: the layer, the record's index in it, and its absolute offset in bytes;
    - ``type``: the name of the record's type;
    - ``contents``: the record's fields by name, in order. A body that can't be parsed is shown as its plain fields,
      with the message as the field ``error``; so is an entry of an HVM context;
    - ``fault``: the class name of the first such error, or None. "LimitExceeded" isn't a fault of the stream. None
      for records of a legacy stream, whose bodies aren't judged.
    """

    layer: str
    record: int
    offset: int
    type: str
    contents: "Contents"
    fault: "Optional[str]" = None


class Wanted(NamedTuple):
    """One record: its layer (None: the memory stream's) and its index there."""

    layer: "Optional[str]"
    record: int


def contents(source: "StreamLike", wanted: "Optional[Wanted]" = None, *, format: "Optional[str]" = None,
             limits: Limits = Limits(), strict: bool = False, checkpointed: bool = True, width: "Optional[int]" = None,
             guest: "Optional[str]" = None,
             progress: "Callable[[int], object]" = lambda offset: None) -> "Iterator[RecordContents]":
    """Yield the contents of all records but page data, in order, or of the one ``wanted``, which may be page data.

    The parameters are those of xstream.open; ``progress`` is called with the offset reached after each record. A body
    that can't be parsed doesn't end the iteration: see :class:`RecordContents`. Raises StreamError or a subclass for
    what can't be read past, and OSError.
    """
    with reading(source, format=format, limits=limits, strict=strict, checkpointed=checkpointed, width=width,
                 guest=guest) as reader:
        while True:
            if wanted is None and reader.next_run(pages=False) is not None:
                continue
            record = reader.next_record()
            if record is None:
                return
            progress(reader.source.offset)
            if _is_wanted(reader, record, wanted):
                shown, error = _read(record, libxc.GUEST_WIDTHS.get(reader.pt_levels, 8))
                # Legacy bodies aren't judged, as in verify: Xen's own converter passes them on unread.
                fault = None if error is None or reader.layer == legacy.LAYER else type(error).__name__
                yield RecordContents(reader.layer, reader.index, reader.offset, record_name(reader.layer, record),
                                     shown, fault)
                if wanted is not None:
                    return


def contents_of(record: "AnyRecord", guest_width: int = 8) -> "Contents":
    """The contents of one record. ``guest_width`` is the size in bytes of a PV guest's words."""
    return _read(record, guest_width)[0]


def _read(record: "AnyRecord", guest_width: int) -> "Tuple[Contents, Optional[StreamError]]":
    """The contents of a record, and the first error in them."""
    if isinstance(record, libxc.HvmContext):
        return _entries(record.blob)
    if isinstance(record, legacy.HvmTail):
        entries, error = _entries(record.context)
        return {"ioreq_pfn": record.ioreq_pfn, "bufioreq_pfn": record.bufioreq_pfn, "store_pfn": record.store_pfn,
                **entries}, error
    try:
        if isinstance(record, (libxc.SharedInfo, legacy.SharedInfo)):
            return _shared_info(record, guest_width), None
        read = _READERS.get(type(record))
        return _plain_fields(record) if read is None else read(record), None
    except StreamError as error:
        return dict(_plain_fields(record), error=str(error)), error


def brief(contents: "Contents") -> "Contents":
    """A copy of ``contents`` without what fills pages: FPU registers, virtual IDTs, CPUID leaves, lists of PFNs, and
    the fields of all HVM context entries but CPU. Only the first numbers of other lists are kept."""
    return {name: _brief(value) for name, value in contents.items()
            if not (name.startswith("fpu.") or name in ("trap_ctxt", "leaves", "pfns")
                    or (name == "fields" and contents.get("name") != "CPU"))}


def _brief(value: "JsonValue") -> "JsonValue":
    if isinstance(value, list):
        if len(value) > _MOST_NUMBERS and isinstance(value[0], int):
            return [*value[:_MOST_NUMBERS], "... {} in all".format(len(value))]
        return [_brief(item) for item in value]
    return brief(value) if isinstance(value, dict) else value


def _is_wanted(reader: "AnyReader", record: "AnyRecord", wanted: "Optional[Wanted]") -> bool:
    if wanted is None:
        return not isinstance(record, libxc.PageData)
    layers = (wanted.layer,) if wanted.layer else (libxc.LAYER, legacy.LAYER)
    return reader.layer in layers and reader.index == wanted.record


def _plain_fields(record: "AnyRecord") -> "Contents":
    """A record's fields as they are, without empty blobs and zero reserved fields."""
    shown: Contents = {}
    for name, value in record._asdict().items():
        ignored = name in ("reserved", "padding")
        if isinstance(value, PendingPages) or (isinstance(value, _BYTES) and len(value)
                                               and (not ignored or any(value))):
            shown[name] = _blob(value)
        elif not isinstance(value, _BYTES) and (value or not ignored):
            shown[name] = _plain(value)
    return shown


def _blob(data: "Data") -> "Contents":
    if isinstance(data, PendingPages):
        return {"bytes": len(data)}
    return {"bytes": len(data), "start": bytes(data[:_SHOWN]).hex()}


def _listed(name: str, items: "Iterable[object]", count: int) -> "Contents":
    """A field that lists the first of ``count`` items, and a second field if that leaves some out."""
    shown: Contents = {name: list(islice(items, _MOST_ITEMS))}  # type: ignore[arg-type]  # plain values
    if count > _MOST_ITEMS:
        shown[name + "_left_out"] = count - _MOST_ITEMS
    return shown


def _page_data(record: libxc.PageData) -> "Contents":
    words = memoryview(bytes(record.words[:8 * _MOST_ITEMS])).cast("Q")
    pfns = ({"pfn": word & libxc.PFN_MASK, "type": libxc.PAGE_TYPES[word >> 60]} for word in words)
    return {**_listed("pfns", pfns, record.pfn_count), "data": {"bytes": len(record.data)}}


def _entries(untrusted: "Buffer") -> "Tuple[Contents, Optional[StreamError]]":
    """The entries of an HVM context, and the first error in them.

    Once _MOST_ITEMS values have been decoded, further entries are only named.
    """
    try:
        parsed = hvm_context.parse(untrusted)
    except StreamError as error:
        return {"context": _blob(untrusted), "error": str(error)}, error
    entries: List[Contents] = []
    first: Optional[StreamError] = None
    values = 0
    for entry in parsed:
        entries.append({"name": entry.name, "typecode": entry.typecode, "instance": entry.instance,
                        "offset": entry.offset, "bytes": len(entry.data)})
        try:
            fields = hvm_context.decode(entry)
            if values < _MOST_ITEMS:
                entries[-1].update(_entry_fields(entry.typecode, fields))
            values += sum(len(value) if isinstance(value, tuple) else 1 for value in fields.values())
        except StreamError as error:
            entries[-1]["error"] = str(error)
            first = first or error
    return {"entries": entries}, first


def _entry_fields(typecode: int, decoded: "Fields") -> "Contents":
    fields = {name: _plain(value) for name, value in decoded.items()}
    if typecode != hvm_context.CPU_XSAVE:
        return {"fields": fields}
    return {"fields": fields, "features": list(xsave.component_names(decoded.get("xfeature_mask", 0))),
            "components": list(xsave.component_names(decoded.get("xstate_bv", 0)))}


def _plain(value: object) -> "JsonValue":
    """A value as plain ones: tuples as lists, named tuples as dicts, bytes as blobs, long text cut."""
    if isinstance(value, tuple):
        fields = getattr(value, "_asdict", None)
        if fields is not None:
            return {name: _plain(item) for name, item in fields().items()}
        return [_plain(item) for item in value[:_MOST_ITEMS]]
    if isinstance(value, _BYTES + (PendingPages,)):
        return _blob(value)
    return _cut(value) if isinstance(value, str) else value  # type: ignore[return-value]  # a number or None


def _cut(text: str) -> str:
    if len(text) <= _MOST_TEXT:
        return text
    return "{}... {} characters in all".format(text[:_MOST_TEXT], len(text))


def _text(untrusted: "Buffer") -> str:
    """Bytes as text, up to a NUL; bytes that aren't valid UTF-8 are replaced."""
    text = bytes(untrusted[:_MOST_TEXT]).split(b"\0", 1)[0].decode("utf-8", "replace")
    if len(untrusted) <= _MOST_TEXT or len(text) < _MOST_TEXT // 4:
        return text
    return "{}... {} bytes in all".format(text, len(untrusted))


def _hvm_params(record: libxc.HvmParams) -> "Contents":
    first = record._replace(entries=record.entries[:libxc.HVM_PARAM_SIZE * _MOST_ITEMS])
    params = ({"index": index, "name": hvm_params.name(index), "value": value} for index, value in first.params)
    return _listed("params", params, len(record.entries) // libxc.HVM_PARAM_SIZE)


def _vcpu_basic(record: libxc.VcpuBasic) -> "Contents":
    return {"vcpu_id": record.vcpu_id, **_registers(record.blob)}


def _registers(untrusted: "Buffer") -> "Contents":
    if not len(untrusted):
        return {}
    fields = vcpu.basic(untrusted)
    return {**{name: _plain(value) for name, value in fields.items()},
            "flag_names": list(vcpu.flag_names(fields["flags"])),
            "vm_assist_names": list(vcpu.vm_assist_names(fields["vm_assist"]))}


def _vcpu_extended(record: libxc.VcpuExtended) -> "Contents":
    return {"vcpu_id": record.vcpu_id, **vcpu.extended(record.blob)}


def _vcpu_xsave(record: libxc.VcpuXsave) -> "Contents":
    return {"vcpu_id": record.vcpu_id, **_xsave(vcpu.xsave_state(record.blob))}


def _xsave(fields: "Mapping[str, int]") -> "Contents":
    return {**fields, "xcr0_names": list(xsave.component_names(fields.get("xcr0", 0))),
            "components": list(xsave.component_names(fields.get("xstate_bv", 0)))}


def _vcpu_msrs(record: libxc.VcpuMsrs) -> "Contents":
    return {"vcpu_id": record.vcpu_id, "msrs": msrs_contents(msrs.parse(record.blob))}


def _msr_policy(record: libxc.MsrPolicy) -> "Contents":
    return {"msrs": msrs_contents(msrs.parse(record.entries))}


def msrs_contents(registers: "Iterable[msrs.Msr]") -> "List[Contents]":
    """MSRs as plain values."""
    return [{"index": msr.number, "name": msr.name, "flags": msr.flags, "value": msr.value} for msr in registers]


def _cpuid_policy(record: libxc.CpuidPolicy) -> "Contents":
    return cpuid_contents(policies.parse(record.leaves))


def cpuid_contents(leaves: "Tuple[policies.Leaf, ...]") -> "Contents":
    """A CPUID policy as plain values: what it says of the CPU, its features by name, and the leaves."""
    family, model, stepping = policies.signature(leaves)
    return {
        "vendor": policies.vendor(leaves), "family": family, "model": model, "stepping": stepping,
        "brand": policies.brand(leaves), "features": list(policies.feature_names(leaves)),
        "leaves": [_leaf(leaf) for leaf in leaves],
    }


def _leaf(leaf: policies.Leaf) -> "Contents":
    return dict(leaf._asdict(), features=leaf_features(leaf))


def leaf_features(leaf: policies.Leaf) -> "List[str]":
    """The names of the features that a leaf has."""
    return [name for register in "abcd" for name in
            features.cpuid_names(leaf.leaf, leaf.subleaf, register, getattr(leaf, register))]


def _shared_info(record: "Union[libxc.SharedInfo, legacy.SharedInfo]", guest_width: int) -> "Contents":
    page = shared_info.parse(record.page, guest_width)
    used = [dict(info, vcpu=number) for number, info in enumerate(page.vcpu_info) if any(info.values())]
    return {"wallclock": page.wallclock, **page.fields, "pending_ports": list(page.pending_ports),
            "due_ports": list(page.due_ports), "vcpu_info": used}


def _dirty_pfns(record: libxc.CheckpointDirtyPfnList) -> "Contents":
    pfns = memoryview(bytes(record.entries)).cast("Q")
    return {"count": len(pfns), **_listed("pfns", pfns, len(pfns))}


def _emulator_xenstore_data(record: libxl.EmulatorXenstoreData) -> "Contents":
    return {**_emulator(record), "pairs": [{"key": _text(key), "value": _text(value)} for key, value in record.pairs]}


def _emulator_context(record: libxl.EmulatorContext) -> "Contents":
    return {**_emulator(record), **_device_model(record.blob)}


def _emulator(record: "Union[libxl.EmulatorContext, libxl.EmulatorXenstoreData]") -> "Contents":
    return {"emulator": libxl.emulator_name(record.emulator_id), "emulator_id": record.emulator_id,
            "index": record.emulator_index}


def _checkpoint_state(record: libxl.CheckpointState) -> "Contents":
    return {"control_id": record.control_id, "state": libxl.CHECKPOINT_STATES[record.control_id]}


def _xl_header(record: xl.SaveHeader) -> "Contents":
    shown: Contents = {
        "mandatory_flags": record.mandatory_flags, "optional_flags": record.optional_flags,
        "flags": [name for bit, name in xl.FLAGS.items() if record.mandatory_flags & bit],
    }
    if record.has_config:
        shown["config"] = record.config_object if record.mandatory_flags & xl.JSON_CONFIG else _text(record.config)
    return shown


def _libvirt_header(record: libvirt.SaveHeader) -> "Contents":
    return {"version": record.version, "xml": _text(record.xml)}


def _xend_header(record: xend.SaveHeader) -> "Contents":
    return {"config": _text(record.config)}


def _xenops(record: xenopsd.Xenops) -> "Contents":
    return {name: _plain(value) for name, value in record.fields.items()}


def _xenopsd_blob(record: xenopsd.Blob) -> "Contents":
    return _blob(record.data)


def _legacy_param(record: legacy.HvmParam) -> "Contents":
    return {"index": record.param, "name": hvm_params.name(record.param), "value": record.value}


def _legacy_vcpu(record: legacy.VcpuContext) -> "Contents":
    """The parts, which are three records in a libxc stream."""
    shown: Contents = {"vcpu_id": record.vcpu_id, "basic": _registers(record.basic)}
    if len(record.extended):
        shown["extended"] = vcpu.extended(record.extended)
    if record.xsave is not None:
        shown["xsave"] = _xsave(vcpu.xsave_state(record.xsave))
    return shown


def _legacy_toolstack(record: legacy.Toolstack) -> "Contents":
    """libxl's entries, if they are libxl's. A blob written by 32-bit libxl is too short to parse as a 64-bit one."""
    for width in (8, 4):
        with suppress(StreamError):
            entries = legacy.parse_physmap(record.blob, width)
            return _listed("physmap", (dict(entry._asdict(), name=_text(entry.name)) for entry in entries),
                           len(entries))
    return _plain_fields(record)


def _legacy_extended_info(record: legacy.ExtendedInfo) -> "Contents":
    others: List[JsonValue] = [{"id": _text(name), "data": _blob(data)} for name, data in record.others]
    return dict(_plain_fields(record._replace(others=())), others=others)


def _legacy_device_model(record: legacy.DeviceModel) -> "Contents":
    return {"signature": _text(record.signature), **_device_model(record.blob)}


def _device_model(untrusted: "Buffer") -> "Contents":
    """QEMU's record: its sections by name and version, if it has any that are recognised."""
    found = vmstate.sections(untrusted)
    shown: Contents = {"blob": _blob(untrusted)}
    if found:
        shown["sections"] = [section._asdict() for section in found]
    return shown


# What each takes is a record of its class.
_READERS: "Dict[type, Callable[[Any], Contents]]" = {
    libxc.PageData: _page_data,
    libxc.HvmParams: _hvm_params,
    libxc.VcpuBasic: _vcpu_basic,
    libxc.VcpuExtended: _vcpu_extended,
    libxc.VcpuXsave: _vcpu_xsave,
    libxc.VcpuMsrs: _vcpu_msrs,
    libxc.MsrPolicy: _msr_policy,
    libxc.CpuidPolicy: _cpuid_policy,
    libxc.CheckpointDirtyPfnList: _dirty_pfns,
    libxl.EmulatorXenstoreData: _emulator_xenstore_data,
    libxl.EmulatorContext: _emulator_context,
    libxl.CheckpointState: _checkpoint_state,
    xl.SaveHeader: _xl_header,
    libvirt.SaveHeader: _libvirt_header,
    xend.SaveHeader: _xend_header,
    legacy.DeviceModel: _legacy_device_model,
    legacy.ExtendedInfo: _legacy_extended_info,
    legacy.HvmParam: _legacy_param,
    legacy.Toolstack: _legacy_toolstack,
    legacy.VcpuContext: _legacy_vcpu,
    xenopsd.Xenops: _xenops,
    xenopsd.Blob: _xenopsd_blob,
}


def parse_wanted(text: str) -> Wanted:
    """The record that ``[LAYER:]N``, as on the command line, names. Raises ValueError."""
    layer, _, number = text.rpartition(":")
    return Wanted(layer or None, int(number))

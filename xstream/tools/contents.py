"""What is in a record: everything that is known of it, as plain values, down to what Xen's opaque blobs hold."""
import contextlib
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from xstream.containers.opening import open_stream
from xstream.errors import StreamError
from xstream.stream.source import PendingPages
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
    xend,
    xenopsd,
    xl,
    xsave,
)
from xstream.wire.formats import record_name

#: Bytes shown of a blob that nothing is known of.
_SHOWN = 64
#: Numbers of a list in brief.
_MOST_NUMBERS = 32
_GUEST_WIDTH = {3: 4, 4: 8}


class RecordContents(NamedTuple):
    """A record's layer, its index there and its offset; its type; and ``contents``: its fields by name, in order, as
    numbers, text, lists and dicts of such.

    A blob that can't be read as what it should be is shown as one that nothing is known of, with the field ``error``.
    """

    layer: str
    record: int
    offset: int
    type: str
    contents: Dict[str, Any]


class Wanted(NamedTuple):
    """One record: its layer (None: that of the memory stream) and its index there."""

    layer: Optional[str]
    record: int


def contents(source: Any, wanted: Optional[Wanted] = None, *, progress: Callable[[int], Any] = lambda offset: None,
             **options: Any) -> Iterator[RecordContents]:
    """The contents of all records but page data, in order, or of the one ``wanted``, which may be page data.

    ``source`` and ``options`` are those of xstream.open, but checkpoints need not be announced. Raises StreamError's
    kin.
    """
    options.setdefault("checkpointed", True)
    with open_stream(source, **options) as reader:
        while True:
            if wanted is None and reader.next_run() is not None:
                continue
            record = reader.next_record()
            if record is None:
                return
            progress(reader.source.offset)
            if _is_wanted(reader, record, wanted):
                yield RecordContents(reader.layer, reader.index, reader.offset, record_name(reader.layer, record),
                                     contents_of(record, _GUEST_WIDTH.get(reader.pt_levels, 8)))
                if wanted is not None:
                    return


def contents_of(record: Any, guest_width: int = 8) -> Dict[str, Any]:
    """The contents of one record. ``guest_width`` is a PV guest's, in bytes, for what is laid out by it."""
    try:
        if isinstance(record, (libxc.SharedInfo, legacy.SharedInfo)):
            return _shared_info(record, guest_width)
        reader = _READERS.get(type(record))
        return reader(record) if reader is not None else _plain_fields(record)
    except StreamError as error:
        return dict(_plain_fields(record), error=str(error))


def brief(contents: Any) -> Any:
    """Contents without what fills pages: the FPU's registers, virtual IDTs, CPUID leaves, lists of PFNs, and of an HVM
    context the fields of all entries but CPU; of other lists of numbers the first few."""
    if isinstance(contents, list):
        if len(contents) > _MOST_NUMBERS and isinstance(contents[0], int):
            return contents[:_MOST_NUMBERS] + ["... {} in all".format(len(contents))]
        return [brief(item) for item in contents]
    if not isinstance(contents, dict):
        return contents
    return {name: brief(value) for name, value in contents.items()
            if not (name.startswith("fpu.") or name in ("trap_ctxt", "leaves", "pfns")
                    or (name == "fields" and contents.get("name") != "CPU"))}


def _is_wanted(reader: Any, record: Any, wanted: Optional[Wanted]) -> bool:
    if wanted is None:
        return not isinstance(record, libxc.PageData)
    layers = (wanted.layer,) if wanted.layer else (libxc.LAYER, legacy.LAYER)
    return reader.layer in layers and reader.index == wanted.record


def _plain_fields(record: Any) -> Dict[str, Any]:
    """A record's fields as they are, without those that hold nothing."""
    shown: Dict[str, Any] = {}
    for name, value in record._asdict().items():
        if isinstance(value, (bytes, bytearray, memoryview)):
            if len(value) and (name not in ("reserved", "padding") or any(value)):
                shown[name] = _blob(value)
        elif value or name not in ("reserved", "padding"):
            shown[name] = value
    return shown


def _blob(data: Any) -> Dict[str, Any]:
    if isinstance(data, PendingPages):
        return {"bytes": len(data)}
    return {"bytes": len(data), "start": bytes(data[:_SHOWN]).hex()}


def _page_data(record: libxc.PageData) -> Dict[str, Any]:
    words = memoryview(bytes(record.words)).cast("Q")
    return {"pfns": [{"pfn": word & libxc.PFN_MASK, "type": libxc.PAGE_TYPES[word >> 60]} for word in words],
            "data": {"bytes": len(record.data)}}


def _hvm_context(record: libxc.HvmContext) -> Dict[str, Any]:
    return {"entries": _entries(record.blob)}


def _entries(untrusted: Any) -> List[Dict[str, Any]]:
    entries: List[Dict[str, Any]] = []
    for entry in hvm_context.parse(untrusted):
        shown: Dict[str, Any] = {"name": entry.name, "typecode": entry.typecode, "instance": entry.instance,
                                 "offset": entry.offset, "bytes": len(entry.data)}
        try:
            shown["fields"] = {name: _plain(value) for name, value in hvm_context.decode(entry).items()}
            if entry.typecode == hvm_context.CPU_XSAVE:
                shown["features"] = list(xsave.component_names(shown["fields"].get("xfeature_mask", 0)))
                shown["components"] = list(xsave.component_names(shown["fields"].get("xstate_bv", 0)))
        except StreamError as error:
            shown["error"] = str(error)
        entries.append(shown)
    return entries


def _plain(value: Any) -> Any:
    """A decoded value with its tuples, named ones among them, as lists and dicts."""
    if isinstance(value, tuple):
        fields = getattr(value, "_asdict", None)
        if fields is not None:
            return {name: _plain(item) for name, item in fields().items()}
        return [_plain(item) for item in value]
    return value


def _hvm_params(record: libxc.HvmParams) -> Dict[str, Any]:
    return {"params": [{"index": index, "name": hvm_params.name(index), "value": value}
                       for index, value in record.params]}


def _vcpu_basic(record: libxc.VcpuBasic) -> Dict[str, Any]:
    return {"vcpu_id": record.vcpu_id, **_registers(record.blob)}


def _registers(untrusted: Any) -> Dict[str, Any]:
    if not len(untrusted):
        return {}
    fields = vcpu.basic(untrusted)
    return {**{name: _plain(value) for name, value in fields.items()},
            "flag_names": list(vcpu.flag_names(fields["flags"])),
            "vm_assist_names": list(vcpu.vm_assist_names(fields["vm_assist"]))}


def _vcpu_extended(record: libxc.VcpuExtended) -> Dict[str, Any]:
    return {"vcpu_id": record.vcpu_id, **vcpu.extended(record.blob)}


def _vcpu_xsave(record: libxc.VcpuXsave) -> Dict[str, Any]:
    return {"vcpu_id": record.vcpu_id, **_xsave(vcpu.xsave_state(record.blob))}


def _xsave(fields: Dict[str, Any]) -> Dict[str, Any]:
    return {**fields, "xcr0_names": list(xsave.component_names(fields.get("xcr0", 0))),
            "components": list(xsave.component_names(fields.get("xstate_bv", 0)))}


def _vcpu_msrs(record: libxc.VcpuMsrs) -> Dict[str, Any]:
    return {"vcpu_id": record.vcpu_id, "msrs": msrs_contents(msrs.parse(record.blob))}


def _msr_policy(record: libxc.MsrPolicy) -> Dict[str, Any]:
    return {"msrs": msrs_contents(msrs.parse(record.entries))}


def msrs_contents(registers: Iterable[msrs.Msr]) -> List[Dict[str, Any]]:
    """MSRs as plain values."""
    return [{"index": msr.number, "name": msr.name, "flags": msr.flags, "value": msr.value} for msr in registers]


def _cpuid_policy(record: libxc.CpuidPolicy) -> Dict[str, Any]:
    return cpuid_contents(policies.parse(record.leaves))


def cpuid_contents(leaves: Tuple[policies.Leaf, ...]) -> Dict[str, Any]:
    """A CPUID policy as plain values: what it says of the CPU, its features by name, and the leaves."""
    family, model, stepping = policies.signature(leaves)
    return {
        "vendor": policies.vendor(leaves), "family": family, "model": model, "stepping": stepping,
        "brand": policies.brand(leaves), "features": list(policies.feature_names(leaves)),
        "leaves": [_leaf(leaf) for leaf in leaves],
    }


def _leaf(leaf: policies.Leaf) -> Dict[str, Any]:
    names = [name for register in "abcd" for name in
             features.cpuid_names(leaf.leaf, leaf.subleaf, register, getattr(leaf, register))]
    return dict(leaf._asdict(), features=names)


def _shared_info(record: Any, guest_width: int) -> Dict[str, Any]:
    page = shared_info.parse(record.page, guest_width)
    used = [dict(info, vcpu=number) for number, info in enumerate(page.vcpu_info) if any(info.values())]
    return {"wallclock": page.wallclock, **page.fields, "pending_ports": list(page.pending_ports),
            "due_ports": list(page.due_ports), "vcpu_info": used}


def _dirty_pfns(record: libxc.CheckpointDirtyPfnList) -> Dict[str, Any]:
    pfns = memoryview(bytes(record.entries)).cast("Q")
    return {"count": len(pfns), "pfns": list(pfns)}


def _emulator_xenstore_data(record: libxl.EmulatorXenstoreData) -> Dict[str, Any]:
    return {**_emulator(record), "pairs": [{"key": _text(key), "value": _text(value)} for key, value in record.pairs]}


def _emulator_context(record: libxl.EmulatorContext) -> Dict[str, Any]:
    return {**_emulator(record), "blob": _blob(record.blob)}


def _emulator(record: Any) -> Dict[str, Any]:
    return {"emulator": libxl.EMULATORS[record.emulator_id], "emulator_id": record.emulator_id,
            "index": record.emulator_index}


def _text(untrusted: bytes) -> str:
    return untrusted.decode("utf-8", "replace")


def _checkpoint_state(record: libxl.CheckpointState) -> Dict[str, Any]:
    return {"control_id": record.control_id, "state": libxl.CHECKPOINT_STATES[record.control_id]}


def _xl_header(record: xl.SaveHeader) -> Dict[str, Any]:
    shown: Dict[str, Any] = {
        "mandatory_flags": record.mandatory_flags, "optional_flags": record.optional_flags,
        "flags": [name for bit, name in xl.FLAGS.items() if record.mandatory_flags & bit],
    }
    if record.has_config:
        try:
            shown["config"] = record.config_object if record.mandatory_flags & xl.JSON_CONFIG else record.config_text
        except StreamError as error:
            shown.update(config=record.config_text, error=str(error))
    return shown


def _libvirt_header(record: libvirt.SaveHeader) -> Dict[str, Any]:
    return {"version": record.version, "xml": record.xml_text}


def _xend_header(record: xend.SaveHeader) -> Dict[str, Any]:
    return {"config": record.config_text}


def _xenops(record: xenopsd.Xenops) -> Dict[str, Any]:
    return {name: _plain(value) for name, value in record.fields.items()}


def _xenopsd_blob(record: xenopsd.Blob) -> Dict[str, Any]:
    return _blob(record.data)


def _legacy_param(record: legacy.HvmParam) -> Dict[str, Any]:
    return {"index": record.param, "name": hvm_params.name(record.param), "value": record.value}


def _legacy_hvm_tail(record: legacy.HvmTail) -> Dict[str, Any]:
    return {"ioreq_pfn": record.ioreq_pfn, "bufioreq_pfn": record.bufioreq_pfn, "store_pfn": record.store_pfn,
            "entries": _entries(record.context)}


def _legacy_vcpu(record: legacy.VcpuContext) -> Dict[str, Any]:
    """The parts of what are three records in a libxc stream."""
    shown: Dict[str, Any] = {"vcpu_id": record.vcpu_id, "basic": _registers(record.basic)}
    if len(record.extended):
        shown["extended"] = vcpu.extended(record.extended)
    if record.xsave is not None:
        shown["xsave"] = _xsave(vcpu.xsave_state(record.xsave))
    return shown


def _legacy_toolstack(record: legacy.Toolstack) -> Dict[str, Any]:
    """libxl's, if it is: a blob from 32 bits is too short for one from 64."""
    for width in (8, 4):
        with contextlib.suppress(StreamError):
            return {"physmap": [dict(entry._asdict(), name=_text(entry.name))
                                for entry in legacy.parse_physmap(record.blob, width)]}
    return _plain_fields(record)


_READERS: Dict[Any, Callable[[Any], Dict[str, Any]]] = {
    libxc.PageData: _page_data,
    libxc.HvmContext: _hvm_context,
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
    legacy.HvmParam: _legacy_param,
    legacy.HvmTail: _legacy_hvm_tail,
    legacy.Toolstack: _legacy_toolstack,
    legacy.VcpuContext: _legacy_vcpu,
    xenopsd.Xenops: _xenops,
    xenopsd.Blob: _xenopsd_blob,
}


def parse_wanted(text: str) -> Wanted:
    """``[LAYER:]N`` as the command line has it. Raises ValueError."""
    layer, _, number = text.rpartition(":")
    return Wanted(layer or None, int(number))

"""A domain's state other than memory, read from Xen as records and loaded from records into Xen.

Source: tools/libs/guest/xg_sr_{save,restore,common}_x86*.c for which calls, in which order, and what may be absent.
"""
import struct

from xstream.wire import hvm_params
from xstream.wire.libxc import (
    CPUID_LEAF_SIZE,
    MSR_ENTRY_SIZE,
    VCPU_BASIC_SIZES,
    VCPU_MSR_SIZE,
    CpuidPolicy,
    HvmContext,
    HvmParams,
    MsrPolicy,
    SharedInfo,
    TscInfo,
    VcpuBasic,
    VcpuExtended,
    VcpuMsrs,
    VcpuXsave,
)
from xstream.xen import interface
from xstream.xen.privcmd import HypercallBuffer, Privcmd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List

    from xstream.wire.frames import Buffer
    from xstream.wire.libxc import Record

_SAVED_PARAMS = [hvm_params.NUMBERS[name] for name in interface.SAVED_PARAMS]
CALLBACK_IRQ = hvm_params.NUMBERS["CALLBACK_IRQ"]
_EXTENDED_HEAD = struct.Struct("<2I")  # vcpu, size: the start of VCPU_EXTENDED's body
_ALL_ONES = 2 ** 32 - 1


def _filled(xen: Privcmd, data: "Buffer") -> HypercallBuffer:
    """A hypercall buffer of the size of ``data``, with a copy of it."""
    buffer = xen.buffer(len(data))
    buffer.view[:len(data)] = data
    return buffer


def read_policies(xen: Privcmd, domid: int) -> "List[Record]":
    """The CPU policy records, in the order of a stream; one that would be empty is left out."""
    leaf_count, msr_count = xen.domctl(interface.GET_CPU_POLICY, domid)[:2]
    leaves, msrs = xen.buffer(CPUID_LEAF_SIZE * leaf_count), xen.buffer(MSR_ENTRY_SIZE * msr_count)
    leaf_count, msr_count = xen.domctl(interface.GET_CPU_POLICY, domid, leaf_count, msr_count, leaves.address,
                                       msrs.address)[:2]
    records: List[Record] = []
    if leaf_count:
        records.append(CpuidPolicy(bytes(leaves.view[:CPUID_LEAF_SIZE * leaf_count])))
    if msr_count:
        records.append(MsrPolicy(bytes(msrs.view[:MSR_ENTRY_SIZE * msr_count])))
    return records


def load_policies(xen: Privcmd, domid: int, leaves: bytes, msrs: bytes) -> None:
    """Set the CPU policy; either part may be empty."""
    leaf_buffer, msr_buffer = _filled(xen, leaves), _filled(xen, msrs)
    xen.domctl(interface.SET_CPU_POLICY, domid, len(leaves) // CPUID_LEAF_SIZE, len(msrs) // MSR_ENTRY_SIZE,
               leaf_buffer.address, msr_buffer.address, _ALL_ONES, _ALL_ONES, _ALL_ONES)


def read_tsc_info(xen: Privcmd, domid: int) -> TscInfo:
    """TSC_INFO."""
    mode, khz, incarnation, _, nsec = xen.domctl(interface.GET_TSC_INFO, domid)
    return TscInfo(mode, khz, nsec, incarnation)


def read_hvm_state(xen: Privcmd, domid: int) -> "List[Record]":
    """TSC_INFO, HVM_CONTEXT and HVM_PARAMS of a suspended HVM guest; HVM_PARAMS is left out if all are 0."""
    size = xen.domctl(interface.GET_HVM_CONTEXT, domid)[0]
    context = xen.buffer(size)
    size = xen.domctl(interface.GET_HVM_CONTEXT, domid, size, context.address)[0]
    params = [(index, xen.hvm_param(domid, index)) for index in _SAVED_PARAMS]
    records: List[Record] = [read_tsc_info(xen, domid), HvmContext(bytes(context.view[:size]))]
    if any(value for _, value in params):
        records.append(HvmParams.of([(index, value) for index, value in params if value]))
    return records


def read_pv_state(xen: Privcmd, domid: int, width: int, shared_info: bytes) -> "List[Record]":
    """TSC_INFO, SHARED_INFO and the vcpu records of a suspended PV guest, with MFNs in VCPU_BASIC."""
    records: List[Record] = [read_tsc_info(xen, domid), SharedInfo(shared_info)]
    for vcpu in range(xen.domain_info(domid).max_vcpu_id + 1):
        if xen.domctl(interface.GET_VCPU_INFO, domid, vcpu)[1]:
            records += _read_vcpu(xen, domid, vcpu, width)
    return records


def _read_vcpu(xen: Privcmd, domid: int, vcpu: int, width: int) -> "List[Record]":
    """The records of one online vcpu; those that would be empty are left out."""
    records: List[Record] = [VcpuBasic(vcpu, read_vcpu_context(xen, domid, vcpu)[:VCPU_BASIC_SIZES[width]])]
    extended = xen.domctl(interface.GET_EXT_VCPU_CONTEXT, domid, struct.pack("<I", vcpu))[0]
    size = _EXTENDED_HEAD.unpack_from(extended)[1]
    if size:
        records.append(VcpuExtended(vcpu, extended[:size]))
    mask, size = xen.domctl(interface.GET_VCPU_XSAVE, domid, vcpu)[1:3]
    if mask:
        area = xen.buffer(size)
        size = xen.domctl(interface.GET_VCPU_XSAVE, domid, vcpu, mask, size, area.address)[2]
        if size:
            records.append(VcpuXsave(vcpu, bytes(area.view[:size])))
    count = xen.domctl(interface.GET_VCPU_MSRS, domid, vcpu)[1]
    if count:
        msrs = xen.buffer(VCPU_MSR_SIZE * count)
        count = xen.domctl(interface.GET_VCPU_MSRS, domid, vcpu, count, msrs.address)[1]
        if count:
            records.append(VcpuMsrs(vcpu, bytes(msrs.view[:VCPU_MSR_SIZE * count])))
    return records


def read_vcpu_context(xen: Privcmd, domid: int, vcpu: int) -> bytes:
    """struct vcpu_guest_context of the guest's own width, at the start of bytes of the larger width's size."""
    context = xen.buffer(VCPU_BASIC_SIZES[8])
    xen.domctl(interface.GET_VCPU_CONTEXT, domid, vcpu, context.address)
    return bytes(context.view[:VCPU_BASIC_SIZES[8]])


def load(xen: Privcmd, domid: int, record: "Record") -> None:
    """Load one record of a restored domain's state. SHARED_INFO isn't among them: it is a page to be written."""
    _LOADERS[type(record)](xen, domid, record)


def write_vcpu_context(xen: Privcmd, domid: int, vcpu: int, context: bytes) -> None:
    """Set a vcpu's registers."""
    buffer = xen.buffer(VCPU_BASIC_SIZES[8])
    buffer.view[:len(context)] = context
    xen.domctl(interface.SET_VCPU_CONTEXT, domid, vcpu, buffer.address)


def _load_tsc_info(xen: Privcmd, domid: int, record: TscInfo) -> None:
    xen.domctl(interface.SET_TSC_INFO, domid, record.mode, record.khz, record.incarnation, 0, record.nsec)


def _load_hvm_params(xen: Privcmd, domid: int, record: HvmParams) -> None:
    for index, value in record.params:
        xen.set_hvm_param(domid, index, value)


def _load_hvm_context(xen: Privcmd, domid: int, record: HvmContext) -> None:
    buffer = _filled(xen, record.blob)
    xen.domctl(interface.SET_HVM_CONTEXT, domid, len(record.blob), buffer.address)


def _load_vcpu_basic(xen: Privcmd, domid: int, record: VcpuBasic) -> None:
    write_vcpu_context(xen, domid, record.vcpu_id, bytes(record.blob))


def _load_vcpu_extended(xen: Privcmd, domid: int, record: VcpuExtended) -> None:
    xen.domctl(interface.SET_EXT_VCPU_CONTEXT, domid, bytes(record.blob))


def _load_vcpu_xsave(xen: Privcmd, domid: int, record: VcpuXsave) -> None:
    buffer = _filled(xen, record.blob)
    xen.domctl(interface.SET_VCPU_XSAVE, domid, record.vcpu_id, 0, len(record.blob), buffer.address)


def _load_vcpu_msrs(xen: Privcmd, domid: int, record: VcpuMsrs) -> None:
    buffer = _filled(xen, record.blob)
    xen.domctl(interface.SET_VCPU_MSRS, domid, record.vcpu_id, len(record.blob) // VCPU_MSR_SIZE, buffer.address)


if TYPE_CHECKING:
    _Loader = Callable[[Privcmd, int, Any], None]
_LOADERS: "Dict[type, _Loader]" = {
    TscInfo: _load_tsc_info, HvmParams: _load_hvm_params, HvmContext: _load_hvm_context, VcpuBasic: _load_vcpu_basic,
    VcpuExtended: _load_vcpu_extended, VcpuXsave: _load_vcpu_xsave, VcpuMsrs: _load_vcpu_msrs,
}

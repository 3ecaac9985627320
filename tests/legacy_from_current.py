"""A guest's current stream as a legacy stream of a 64-bit toolstack: what Xen 4.5 would have written for it."""
import io
from typing import Any, Dict, List, Tuple

import numpy

import xstream
from xstream.wire import legacy, libxc, libxl

_VM86_TSS, _VM86_TSS_SIZED = 15, 37
_IN_TAIL = (5, 6, 1)


def params_of(stream: Any) -> Dict[int, int]:
    """The HVM parameters that a restore of a current stream sets."""
    with xstream.open(stream, checkpointed=True) as reader:
        return dict(pair for record in reader if isinstance(record, xstream.HvmParams) for pair in record.params)


def legacy_params(params: Dict[int, int]) -> Dict[int, int]:
    """What a legacy stream can carry of them. It has the older parameter for the VM86 TSS, without a size."""
    params = dict(params)
    if _VM86_TSS_SIZED in params:
        params[_VM86_TSS] = params.pop(_VM86_TSS_SIZED) & 0xFFFFFFFF
    return {index: value for index, value in params.items() if index in _IN_TAIL or index in legacy.PARAMS.values()}


def legacy_from_current(stream: Any) -> bytes:
    """The stream, without the container around it."""
    batches: List[xstream.PageData] = []
    records: List[Any] = []
    with xstream.open(stream) as reader:
        hvm = reader.domain.type == libxc.GUEST_HVM  # type: ignore[union-attr]
        for record in reader:
            (batches if isinstance(record, xstream.PageData) else records).append(record)

    def of(kind: Any) -> List[Any]:
        return [record for record in records if isinstance(record, kind)]

    highest = max(int(batch.pfns.max()) for batch in batches)
    p2m_size = highest + 1 if hvm else of(libxc.P2MFrames)[-1].end_pfn + 1
    out = io.BytesIO()
    writer = xstream.LegacyWriter(out, p2m_size, guest="hvm" if hvm else "pv")
    if not hvm:
        _write_pv_head(writer, of)
    tsc, = of(xstream.TscInfo)
    writer.write(legacy.TscInfo(tsc.mode, tsc.nsec, tsc.khz, tsc.incarnation))
    for batch in batches:
        writer.write_pages(batch.pfns, batch.types, batch.data)
    writer.write(legacy.VcpuInfo.of([record.vcpu_id for record in of(xstream.VcpuBasic)] or [0]))
    if hvm:
        _write_hvm_tail(writer, of, params_of(stream))
    else:
        _write_pv_tail(writer, of, p2m_size, batches)
    return out.getvalue()


def _write_hvm_tail(writer: Any, of: Any, params: Dict[int, int]) -> None:
    carried = legacy_params(params)
    for index, value in carried.items():
        if index not in _IN_TAIL:
            writer.write(legacy.HvmParam(index, value))
    writer.write(legacy.LastCheckpoint())
    writer.write(legacy.EndOfBody())
    ioreq, bufioreq, store = (carried.get(index, 0) for index in _IN_TAIL)
    writer.write(legacy.HvmTail(ioreq, bufioreq, store, of(xstream.HvmContext)[-1].blob))
    emulator = of(libxl.EmulatorContext)
    writer.write(legacy.DeviceModel(legacy.SIGNATURES[0], emulator[0].blob if emulator else b"QEVM"))


def _vcpus(of: Any) -> List[Tuple[Any, Any, Any]]:
    by_id = [{record.vcpu_id: record for record in of(kind)}
             for kind in (xstream.VcpuBasic, xstream.VcpuExtended, xstream.VcpuXsave)]
    return [(by_id[0][number], by_id[1].get(number), by_id[2].get(number)) for number in sorted(by_id[0])]


def _write_pv_head(writer: Any, of: Any) -> None:
    frames, = of(xstream.P2MFrames)
    basic, extended, xsave = _vcpus(of)[0]
    writer.write(legacy.ExtendedInfo(of(xstream.PVInfo)[0].guest_width, basic.blob, extended is not None,
                                     None if xsave is None else len(xsave.blob) + 16))
    writer.write(legacy.P2MFrames(frames.pfns.tobytes()))


def _write_pv_tail(writer: Any, of: Any, p2m_size: int, batches: List[xstream.PageData]) -> None:
    writer.write(legacy.LastCheckpoint())
    writer.write(legacy.EndOfBody())
    sent = {pfn for batch in batches for pfn, kind in zip(batch.pfns.tolist(), batch.types.tolist()) if kind != 0xF}
    unmapped = numpy.array([pfn for pfn in range(p2m_size) if pfn not in sent], "<u8")
    writer.write(legacy.UnmappedPfns(unmapped.tobytes()))
    for basic, extended, xsave in _vcpus(of):
        writer.write(legacy.VcpuContext(
            basic.vcpu_id, basic.blob, b"" if extended is None else bytes(extended.blob).ljust(128, b"\0"),
            None if xsave is None else 7, None if xsave is None else xsave.blob))
    writer.write(legacy.SharedInfo(of(xstream.SharedInfo)[-1].page))

"""A guest's current stream as a legacy one: what a 32-bit or 64-bit toolstack of Xen 4.5 would have written for it.

    legacy_from_current.py IMAGE OUT 32|64 [--remus]    from an xl file to a legacy xl file

Needs nothing but xstream, so that it also runs in a dom0.
"""
import io
import sys
from array import array
from typing import Any, Dict, List, Tuple

import xstream
from xstream.wire import legacy, libxc, libxl, xl

_VM86_TSS, _VM86_TSS_SIZED = 15, 37
_IN_TAIL = (5, 6, 1)
_XTAB = 15
_PFN = (1 << 52) - 1
#: How many batches the second checkpoint of a Remus stream sends again.
_RESENT = 4


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


def legacy_from_current(stream: Any, *, width: int = 8, remus: bool = False) -> bytes:
    """The stream, without the container around it. ``remus``: with two checkpoints, the second of which has compressed
    pages."""
    guest = _Guest(stream)
    out = io.BytesIO()
    writer = xstream.LegacyWriter(out, guest.p2m_size, width=width, guest="hvm" if guest.hvm else "pv")
    if not guest.hvm:
        guest.write_pv_head(writer)
    if remus:
        guest.write_body(writer, guest.batches, [legacy.EnableCompression()])
        writer.write(xstream.Checkpoint())
        guest.write_body(writer, guest.batches[:_RESENT], [])
        writer.write(xstream.Checkpoint())
    else:
        guest.write_body(writer, guest.batches, [legacy.LastCheckpoint()])
    return out.getvalue()


class _Guest:
    """The records of a current stream."""

    def __init__(self, stream: Any) -> None:
        self.batches: List[xstream.PageData] = []
        self._records: List[Any] = []
        with xstream.open(stream) as reader:
            self.hvm = reader.domain.type == libxc.GUEST_HVM  # type: ignore[union-attr]
            for record in reader:
                if isinstance(record, xstream.PageData):
                    self._add_batch(record)
                else:
                    self._records.append(record)
        if self.hvm:
            self.p2m_size = 1 + max(word & _PFN for batch in self.batches for word in _words(batch))
        else:
            self.p2m_size = self.of(libxc.P2MFrames)[-1].end_pfn + 1

    def of(self, kind: Any) -> List[Any]:
        return [record for record in self._records if isinstance(record, kind)]

    def _add_batch(self, record: xstream.PageData) -> None:
        """Keep a copy of a batch, without the PFNs that it says aren't there."""
        words = array("Q", [word for word in _words(record) if word >> 60 != _XTAB])
        if words:
            data = record.data.read() if isinstance(record.data, xstream.PendingPages) else record.data
            self.batches.append(xstream.PageData(words.tobytes(), bytes(data)))

    def write_body(self, writer: Any, batches: List[xstream.PageData], marks: List[Any]) -> None:
        """Memory, state, and what a body ends with."""
        tsc = self.of(xstream.TscInfo)[-1]
        writer.write(legacy.TscInfo(tsc.mode, tsc.nsec, tsc.khz, tsc.incarnation))
        for batch in batches:
            writer.write(batch)
        writer.write(legacy.VcpuInfo.of([record.vcpu_id for record in self.of(xstream.VcpuBasic)] or [0]))
        params = legacy_params(dict(pair for record in self.of(xstream.HvmParams) for pair in record.params))
        for index, value in params.items():
            if index not in _IN_TAIL:
                writer.write(legacy.HvmParam(index, value))
        for mark in marks:
            writer.write(mark)
        writer.write(legacy.EndOfBody())
        if self.hvm:
            self._write_hvm_tail(writer, params)
        else:
            self._write_pv_tail(writer)

    def _write_hvm_tail(self, writer: Any, params: Dict[int, int]) -> None:
        ioreq, bufioreq, store = (params.get(index, 0) for index in _IN_TAIL)
        writer.write(legacy.HvmTail(ioreq, bufioreq, store, bytes(self.of(xstream.HvmContext)[-1].blob)))
        emulator = self.of(libxl.EmulatorContext)
        writer.write(legacy.DeviceModel(legacy.SIGNATURES[0], bytes(emulator[0].blob) if emulator else b"QEVM"))

    def _vcpus(self) -> List[Tuple[Any, Any, Any]]:
        by_id = [{record.vcpu_id: record for record in self.of(kind)}
                 for kind in (xstream.VcpuBasic, xstream.VcpuExtended, xstream.VcpuXsave)]
        return [(by_id[0][number], by_id[1].get(number), by_id[2].get(number)) for number in sorted(by_id[0])]

    def write_pv_head(self, writer: Any) -> None:
        basic, extended, xsave = self._vcpus()[0]
        writer.write(legacy.ExtendedInfo(self.of(xstream.PVInfo)[0].guest_width, bytes(basic.blob),
                                         extended is not None, None if xsave is None else len(xsave.blob) + 16))
        writer.write(legacy.P2MFrames(b"".join(bytes(record.frames) for record in self.of(libxc.P2MFrames))))

    def _write_pv_tail(self, writer: Any) -> None:
        sent = {word & _PFN for batch in self.batches for word in _words(batch)}
        unmapped = array("Q", [pfn for pfn in range(self.p2m_size) if pfn not in sent])
        writer.write(legacy.UnmappedPfns(unmapped.tobytes()))
        for basic, extended, xsave in self._vcpus():
            writer.write(legacy.VcpuContext(
                basic.vcpu_id, bytes(basic.blob),
                b"" if extended is None else bytes(extended.blob)[:128].ljust(128, b"\0"),
                None if xsave is None else 7, None if xsave is None else bytes(xsave.blob)))
        writer.write(legacy.SharedInfo(bytes(self.of(xstream.SharedInfo)[-1].page)))


def _words(batch: xstream.PageData) -> memoryview:
    return memoryview(bytes(batch.words)).cast("Q")


def main(image: str, out: str, bits: str, *options: str) -> None:
    with xstream.open(image) as reader:
        header = next(record for record in reader if isinstance(record, xl.SaveHeader))
    with open(out, "wb") as file:
        for piece in xl.build(header._replace(mandatory_flags=header.mandatory_flags & ~xl.LIBXL_STREAM)):
            file.write(piece)
        file.write(legacy_from_current(image, width=int(bits) // 8, remus="--remus" in options))


if __name__ == "__main__":
    main(*sys.argv[1:])

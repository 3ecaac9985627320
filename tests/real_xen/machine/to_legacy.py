"""to_legacy.py IMAGE OUT 32|64 [--remus]: write the guest of an xl file as xl of Xen 4.5 would have.

--remus: as a stream of two checkpoints, the second with compressed pages.
"""
import sys
from array import array

import xstream
from xstream.wire import legacy, libxl, xl
from xstream.wire.hvm_params import NUMBERS

XTAB = 15


def pages_of(record):
    data = record.data if isinstance(record.data, (bytes, memoryview)) else record.data.read()
    return bytes(data)


def batches(records):
    """The batches of an image, without the PFNs that it says aren't there."""
    for record in records:
        words = [word for word in memoryview(bytes(record.words)).cast("Q") if word >> 60 != XTAB]
        if words:
            yield xstream.PageData(array("Q", words).tobytes(), pages_of(record))


def main():
    image, out, bits = sys.argv[1:4]
    with xstream.open(image) as reader:
        records = [record if not isinstance(record, xstream.PageData) else
                   record._replace(words=bytes(record.words), data=pages_of(record)) for record in reader]
    of = {}
    for record in records:
        of.setdefault(type(record), []).append(record)
    memory = of[xstream.PageData]
    highest = max(max(memoryview(record.words).cast("Q")[index] & (1 << 52) - 1
                      for index in range(len(record.words) // 8)) for record in batches(memory))
    kind = "pv" if xstream.PVInfo in of else "hvm"
    size = of[xstream.P2MFrames][-1].end_pfn + 1 if kind == "pv" else highest + 1
    header = of[xl.SaveHeader][0]
    with open(out, "wb") as file:
        for piece in xl.build(header._replace(mandatory_flags=header.mandatory_flags & ~xl.LIBXL_STREAM)):
            file.write(piece)
        writer = xstream.LegacyWriter(file, size, width=int(bits) // 8, guest=kind)
        if kind == "pv":
            start_pv(writer, of)
        remus = "--remus" in sys.argv
        if remus:
            send(writer, of, kind, memory, [legacy.EnableCompression()])
            writer.write(xstream.Checkpoint())
            # Only some pages are sent again, as deltas against what the receiver has.
            send(writer, of, kind, memory[:4], [])
            writer.write(xstream.Checkpoint())
        else:
            send(writer, of, kind, memory, [legacy.LastCheckpoint()])


def start_pv(writer, of):
    basic = of[xstream.VcpuBasic][0]
    xsave = of.get(xstream.VcpuXsave)
    writer.write(legacy.ExtendedInfo(of[xstream.PVInfo][0].guest_width, bytes(basic.blob),
                                     xstream.VcpuExtended in of, len(xsave[0].blob) + 16 if xsave else None))
    writer.write(legacy.P2MFrames(b"".join(bytes(record.frames) for record in of[xstream.P2MFrames])))


def send(writer, of, kind, memory, marks):
    """One body and tail."""
    tsc = of[xstream.TscInfo][-1]
    writer.write(legacy.TscInfo(tsc.mode, tsc.nsec, tsc.khz, tsc.incarnation))
    for batch in batches(memory):
        writer.write(batch)
    vcpus = sorted(record.vcpu_id for record in of.get(xstream.VcpuBasic, ())) or [0]
    writer.write(legacy.VcpuInfo.of(vcpus))
    params = dict(of[xstream.HvmParams][-1].params) if kind == "hvm" else {}
    for number in legacy.PARAMS.values():
        if params.get(number):
            writer.write(legacy.HvmParam(number, params[number]))
    for mark in marks:
        writer.write(mark)
    writer.write(legacy.EndOfBody())
    if kind == "hvm":
        writer.write(legacy.HvmTail(*(params[NUMBERS[name]] for name in ("IOREQ_PFN", "BUFIOREQ_PFN", "STORE_PFN")),
                                    bytes(of[xstream.HvmContext][-1].blob)))
        writer.write(legacy.DeviceModel(b"DeviceModelRecord0002", bytes(of[libxl.EmulatorContext][-1].blob)))
        return
    writer.write(legacy.UnmappedPfns(b""))
    by_vcpu = {kind: {record.vcpu_id: record for record in of.get(kind, ())}
               for kind in (xstream.VcpuBasic, xstream.VcpuExtended, xstream.VcpuXsave)}
    for vcpu in vcpus:
        extended = by_vcpu[xstream.VcpuExtended].get(vcpu)
        xsave = by_vcpu[xstream.VcpuXsave].get(vcpu)
        area = bytes(xsave.blob) if xsave else None
        writer.write(legacy.VcpuContext(vcpu, bytes(by_vcpu[xstream.VcpuBasic][vcpu].blob),
                                        bytes(extended.blob)[:128].ljust(128, b"\0") if extended else b"",
                                        7 if area else None, area))
    writer.write(legacy.SharedInfo(bytes(of[xstream.SharedInfo][-1].page)))


main()

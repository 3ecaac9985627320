"""State that libxenguest passes on and Xen refuses: verify, load and restore say so beforehand."""
import struct

import legacy_samples
import pytest
import samples
from ways import WAYS

import xstream
from xstream.wire import libxc, vcpu

HEADER = samples.hvm_context()[8:-8]
END = bytes(8)


def entry(kind, data=b"", instance=0):
    return struct.pack("<HHI", kind, instance, len(data)) + data


def with_context(*entries):
    body = HEADER + b"".join(entries) + END
    return samples.hvm(tail=samples.tsc_info() + samples.record(0x09, body) + samples.hvm_params() + samples.end())


def xsave(accum, area, tail=b""):
    return struct.pack("<QQQ", accum, accum, accum) + bytes(area) + tail


def msrs(*flags):
    return struct.pack("<II", len(flags), 0) + b"".join(struct.pack("<IIQ", 0x48, flag, 1) for flag in flags)


#: Entries of an HVM context that the newest Xen takes, and those that none does.
TAKEN = [
    entry(2, bytes(1032)), entry(2, bytes(1024)), entry(2, bytes(1016)), entry(2, bytes(1032)) * 2,
    entry(3, bytes(8), 1), entry(5, bytes(32)), entry(5, bytes(16)),
    entry(11, bytes(16)), entry(12, bytes(1048)), entry(15, bytes(24)),
    entry(17, bytes(8)), entry(18, bytes(8)), entry(16, xsave(3, 576)), entry(16, xsave(7, 832)),
    entry(16, xsave(7, 832, bytes(100))), entry(16, xsave(0xE7, 2440)), entry(16, xsave(0, 576)), entry(20, msrs(0, 0)),
]
REFUSED = {
    "typecode": [entry(21, bytes(8)), entry(0x8000, bytes(8)), entry(99), entry(1, bytes(24))],
    "length": [
        entry(2, bytes(1040)), entry(3, bytes(7)), entry(4, bytes(408)), entry(6, bytes(1016)), entry(12, bytes(432)),
        entry(5, bytes(40)), entry(11, bytes(32)), entry(19), entry(16, bytes(599)), entry(16, xsave(7, 576)),
        entry(16, xsave(3, 576, b"\0\1")), entry(20, bytes(8)), entry(20, msrs(0)[:-8]),
        entry(20, msrs(0) + bytes(16))],
    "instance": [entry(3, bytes(8), 2)],
    r"msrs\[1\]": [entry(20, msrs(0, 1))],
}


@pytest.mark.parametrize("taken", TAKEN)
def test_entries_of_an_hvm_context_that_xen_takes(taken):
    assert xstream.verify(with_context(taken)).pages
    xstream.restore(with_context(taken), xstream.SimulatedGuest.empty())


@pytest.mark.parametrize("field, refused", [(field, refused) for field in REFUSED for refused in REFUSED[field]])
def test_entries_of_an_hvm_context_that_xen_refuses(field, refused):
    for way in ("buffer", "pipe"):
        with WAYS[way](with_context(refused)) as source, \
                pytest.raises(xstream.StreamError, match="HVM_CONTEXT, field " + field) as caught:
            xstream.verify(source)
    if field == "typecode" and refused[:2] != b"\1\0":
        # The guest's machine may not be Xen's, and have entries of its own.
        assert xstream.restore(with_context(refused), xstream.SimulatedGuest.empty()).pages
        return
    with pytest.raises(xstream.StreamError) as again:
        xstream.restore(with_context(refused), xstream.SimulatedGuest.empty())
    assert (again.value.offset, again.value.field) == (caught.value.offset, caught.value.field)


def test_a_legacy_streams_context():
    """It is checked where it begins as Xen's do."""
    def stream(context):
        return legacy_samples.hvm(tail=legacy_samples.hvm_tail(context=context))

    assert xstream.verify(stream(HEADER + TAKEN[1] + END)).pages
    with pytest.raises(xstream.StreamError, match="typecode"):
        xstream.verify(stream(HEADER + entry(99) + END))
    assert xstream.verify(stream(b"another program's")).pages


# A PV guest's vcpus

def pv(kind, blob):
    return samples.pv(tail=samples.tsc_info() + samples.shared_info() + samples.vcpu_basic()
                      + samples.vcpu(0x05, 0, samples.extended()) + samples.vcpu(kind, 0, blob) + samples.end())


def state(xcr0, accum, area):
    return struct.pack("<QQ", xcr0, accum) + bytes(area)


@pytest.mark.parametrize("kind, blob", [
    (0x06, state(0, 0, 0)), (0x06, state(7, 7, 0)), (0x06, state(3, 3, 576)), (0x06, state(1, 1, 576)),
    (0x06, state(3, 7, 832)), (0x06, state(0, 0, 576)), (0x06, state(7, 0xE7, 2440)), (0x06, b""),
    (0x0C, msrs(0)[8:]), (0x0C, msrs(0, 0)[8:]), (0x0C, bytes(16)), (0x0C, b""),
    (0x05, b""), (0x05, bytes(8)), (0x05, struct.pack("<II", 0, 32)), (0x05, struct.pack("<II", 0, 999) + bytes(120))])
def test_registers_that_xen_takes(kind, blob):
    assert xstream.verify(pv(kind, blob)).pages


@pytest.mark.parametrize("kind, field, blob", [
    (0x06, "length", state(7, 7, 1)), (0x06, "length", state(0, 0, 575)), (0x06, "length", state(3, 3, 832)),
    (0x06, "length", state(7, 7, 576)), (0x06, "length", state(7, 7, 840)), (0x06, "xcr0_accum", state(7, 0, 832)),
    (0x0C, r"msrs\[1\]", msrs(0, 1)[8:]), (0x05, "size", struct.pack("<II", 0, 31) + bytes(64)),
    (0x05, "size", bytes(7))])
def test_registers_that_xen_refuses(kind, field, blob):
    name = libxc.type_name(kind)
    with pytest.raises(xstream.CorruptStream, match="{}, field {}".format(name, field)) as caught:
        xstream.verify(pv(kind, blob))
    assert caught.value.offset is not None and caught.value.record is not None
    with pytest.raises(xstream.CorruptStream):
        vcpu.check(libxc.parse(kind, bytes(8) + blob))


@pytest.mark.parametrize("number", [1, 8192, 0xFFFFFFFF])
def test_the_vcpus_number_makes_no_difference(number):
    """Not even one that no guest can have."""
    stream = pv(0x06, state(7, 7, 832))
    assert stream.endswith(samples.end())
    stream = stream[:-len(samples.end())]
    assert xstream.verify(stream + samples.vcpu(0x06, number, state(7, 7, 832)) + samples.end()).pages
    with pytest.raises(xstream.CorruptStream, match="field length"):
        xstream.verify(stream + samples.vcpu(0x06, number, state(7, 7, 1)) + samples.end())


def test_the_last_of_a_vcpus_records_counts():
    """And converted streams have what the legacy stream had."""
    bad, good = samples.vcpu(0x06, 0, state(7, 7, 1)), samples.vcpu(0x06, 0, state(7, 7, 832))
    stream = pv(0x06, state(7, 7, 1))
    at = stream.rindex(bad)
    assert xstream.verify(stream[:at] + bad + good + samples.end()).pages
    with pytest.raises(xstream.CorruptStream):
        xstream.verify(stream[:at] + good + bad + samples.end())
    assert xstream.verify(samples.headers(samples.PV, xen=(0, 1)) + stream[40:]).pages


@pytest.mark.parametrize("kind, place, bad, field", [
    (libxc.VcpuXsave, 8, bytes(8), "xcr0_accum"), (libxc.VcpuExtended, 4, b"\x10", "size")])
def test_restoring_registers_that_xen_refuses(genuine_stream, kind, place, bad, field):
    data = bytearray(genuine_stream("v3", "pv64.xs.xz").path.read_bytes())
    with xstream.open(bytes(data)) as reader:
        at = next(reader.offset for record in reader if isinstance(record, kind)) + 16 + place
    data[at:at + len(bad)] = bad
    for judge in (xstream.verify, lambda stream: xstream.restore(stream, xstream.SimulatedGuest.empty("pv"))):
        with pytest.raises(xstream.CorruptStream) as caught:
            judge(bytes(data))
        assert (caught.value.offset, caught.value.field) == (at, field)

"""Saves that were interrupted: the file keeps its length, and zeros stand for what wasn't written."""
import os
import socket
import struct
import threading

import genuine_streams
import pytest
import samples
from ways import WAYS

import xstream
from xstream.cli import main
from xstream.stream.ordering import VCPU_EXTENDED, VCPU_XSAVE
from xstream.wire import libxc, vmstate
from xstream.wire.libxl import EmulatorContext

#: The state beside memory of every genuine stream lies in these last bytes.
STATE = 16384
#: Distances from the end within which a cut can't be told from a good stream: docs/howto/check.md has them.
UNSEEN = {
    "pv64-few.xl.xz": range(17, 873),  # the XSAVE area of the only vcpu
    "pv64.xs.xz": range(8, 17), "pv64-live.xs.xz": range(8, 17),  # the value of the last MSR
    "hvm-vga.xl.xz": range(8, 1018),  # the palette of the graphics card
    # A legacy stream's record of a device model that isn't QEMU's; noise in the unused part of SHARED_INFO.
    "hvm32-legacy.xz": range(64), "hvm32-xl44.xz": range(64), "hvm64-legacy.xz": range(64),
    "hvm64-live-debug.xz": range(64), "hvm64-remus-comp.xz": range(64),
    "pv32-guest32.xz": range(1780), "pv64-guest64.xz": range(1008), "pv64-live-debug.xz": range(1008),
}
#: Cuts of each stream that are tried; a run over all of them takes minutes.
TRIED = 120


def streams():
    return [(group, name) for group in ("v3", "xl", "few", "legacy") for name in sorted(
        set(genuine_streams.images(group)) | set(genuine_streams.names(group))) if not name.startswith("mem-")]


def options(name):
    return {"checkpointed": "remus" in name}


@pytest.fixture
def stream(genuine_stream):
    """The bytes of a genuine stream."""
    return lambda group, name: genuine_stream(group, name).path.read_bytes()


def cut(data, distance):
    return data[:len(data) - distance] + bytes(distance)


def incomplete(source, *missing, **given):
    with pytest.raises(xstream.IncompleteStream) as caught:
        xstream.verify(source, **given)
    assert caught.value.missing == missing


@pytest.mark.parametrize("group, name", streams())
def test_a_stream_whose_state_is_cut_is_never_good(group, name, stream):
    whole = stream(group, name)
    data = bytearray(whole)
    distances = [distance for distance in range(1, STATE) if whole[-distance]]
    for distance in distances[::len(distances) // TRIED + 1]:
        data[-distance:] = bytes(distance)
        if distance not in UNSEEN.get(name, ()):
            with pytest.raises(xstream.StreamError):
                pytest.fail("{}: {}".format(distance, xstream.verify(data, **options(name))))


@pytest.mark.parametrize("group, name", [(group, name) for group, name in streams() if "remus" not in name])
def test_a_whole_stream_is_good_whatever_zeros_follow(group, name, stream):
    """As on a block device, or in a preallocated file. Those with checkpoints have no end."""
    whole = stream(group, name)
    for multiple in (512, 4096, 1 << 20):
        assert xstream.verify(whole + bytes(-len(whole) % multiple)).bytes == len(whole)
    for size in (1, 8, 100, 512, 4096, 5000, 1 << 16, 1 << 20):
        assert xstream.verify(whole + bytes(size)).bytes == len(whole)


# PV guests

FURTHER = "records of further vcpus"


@pytest.mark.parametrize("way", ["mapped", "pipe", "object"])
@pytest.mark.parametrize("group, name, distance, missing", [
    ("few", "pv64-few.xl.xz", 1000, ("X86_PV_VCPU_EXTENDED of vcpu 0", "X86_PV_VCPU_XSAVE of vcpu 0")),
    ("few", "pv64-few.xl.xz", 930, ("X86_PV_VCPU_XSAVE of vcpu 0",)),
    ("v3", "pv64.xs.xz", 500, (FURTHER,)),  # the last vcpu's MSRs
    ("v3", "pv64.xs.xz", 6168, (FURTHER,)), ("v3", "pv64.xs.xz", 6500, (FURTHER,))])
def test_records_of_vcpus_that_are_cut_off_are_missed(group, name, distance, missing, way, stream):
    with WAYS[way](cut(stream(group, name), distance)) as source:
        incomplete(source, *missing)


@pytest.fixture
def pieces(stream):
    """A PV stream of two vcpus: what precedes them, the records of each, by type."""
    data = stream("v3", "pv64.xs.xz")
    with xstream.open(data) as reader:
        found = [(reader.offset, record) for record in reader]
    ends = [offset for offset, _ in found[1:]] + [len(data)]
    of_vcpus = [(record.vcpu_id, data[offset:end]) for (offset, record), end in zip(found, ends)
                if isinstance(record, libxc.PER_VCPU)]
    first = next(offset for offset, record in found if isinstance(record, libxc.PER_VCPU))
    return (data[:first], *([piece for vcpu, piece in of_vcpus if vcpu == number] for number in range(2)))


def test_a_vcpu_that_is_offline_has_no_records(pieces):
    """Zeros follow that aren't as many as its records take, or on a block device any number."""
    start, first, second = pieces
    whole = start + b"".join(first) + samples.end()
    lost = sum(len(piece) for piece in second)
    for zeros in (0, 16, lost - 600, lost + 300, -len(whole) % 512, -len(whole) % 512 + 12 * 512):
        assert xstream.verify(whole + bytes(zeros)).pages
    for zeros in (lost, lost + 16, 2 * lost):
        assert (len(whole) + zeros) % 512
        incomplete(whole + bytes(zeros), FURTHER)
    assert xstream.verify(whole + bytes(lost - 1) + b"\1").pages


@pytest.mark.parametrize("after", [bytes(8), bytes(4096), b"what was on the device before"])
def test_what_every_xen_writes_for_a_vcpu_is_missed_if_bytes_follow(after, pieces):
    """libxenguest asks for none of it."""
    start, (basic, extended, xsave, msrs), _ = pieces
    for kind, records in ((VCPU_EXTENDED, (basic, xsave, msrs)), (VCPU_XSAVE, (basic, extended, msrs))):
        data = start + b"".join(records) + samples.end()
        assert xstream.verify(data).pages
        incomplete(data + after, "{} of vcpu 0".format(libxc.type_name(kind)))
    assert xstream.verify(start + basic + extended + xsave + samples.end() + after).pages


def test_a_guest_whose_policy_has_no_xsave_needs_none():
    """The guest of samples has no leaf with features."""
    tail = samples.tsc_info() + samples.shared_info() + samples.vcpu_basic() + samples.vcpu(0x05, 0, samples.extended())
    assert xstream.verify(samples.pv(tail=tail + samples.end()) + bytes(100)).guest == "x86 PV"


def test_a_converted_stream_has_what_its_legacy_stream_had():
    """Xen 3 had no extended contexts."""
    tail = samples.tsc_info() + samples.shared_info() + samples.vcpu_basic() + samples.end()
    incomplete(samples.pv(2, tail=tail) + bytes(100), "X86_PV_VCPU_EXTENDED of vcpu 0")
    made = samples.headers(samples.PV, 2, xen=(0, 1)) + samples.pv(2, tail=tail)[40:]
    assert xstream.verify(made + bytes(100)).made_by.startswith("conversion")


def test_no_verb_takes_a_stream_without_its_last_vcpus(stream, tmp_path):
    data = cut(stream("few", "pv64-few.xl.xz"), 1000)
    path, out = tmp_path / "guest.xl", str(tmp_path / "out")
    path.write_bytes(data)
    for command in (["verify"], ["extract", out], ["digest"], ["convert", out], ["convert", "--to", "libxc", out]):
        assert main([command[0], str(path)] + command[1:]) == 1
        assert not os.path.exists(out)
    # libxenguest restores it.
    assert xstream.restore(data, xstream.SimulatedGuest.empty("pv")).failover is None


def test_a_peer_that_waits_is_not_waited_for(stream):
    """A stream that came through a socket is judged as soon as it has ended."""
    data = stream("v3", "pv64.xs.xz")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=theirs.sendall, args=(data,))
        sender.start()
        assert xstream.verify(ours).bytes == len(data)
        sender.join()


def test_an_exact_reader_looks_at_nothing_that_follows(stream):
    data = cut(stream("v3", "pv64.xs.xz"), 6168)
    with WAYS["pipe"](data) as source, xstream.open(source, exact=True) as reader:
        for _ in reader:
            pass
        reader.check_whole()


# HVM guests

def test_parameters_that_are_cut_off(stream):
    """Xen writes none that is 0. The last one of a PVH guest is the address of its identity page tables."""
    for last, good in ((0xFEFFE000, True), (0xFFE000, False), (0xE000, False), (0, False)):
        body = struct.pack("<II4Q", 2, 0, 1, 0xFEFFC, 12, last)
        data = samples.hvm(tail=samples.tsc_info() + samples.hvm_context() + samples.record(0x0A, body) + samples.end())
        if good:
            assert xstream.verify(data).pages
        else:
            incomplete(data, "HVM_PARAMS")


@pytest.mark.parametrize("group, name", [("xl", name) for name in genuine_streams.names("xl")])
def test_qemus_record(group, name, stream):
    """Cut anywhere, it isn't whole, but for the palette that ends the record of a guest with a graphics card."""
    with xstream.open(stream(group, name)) as reader:
        record = next(bytes(record.blob) for record in reader if isinstance(record, EmulatorContext))
    assert vmstate.is_whole(record)
    last = vmstate.sections(record)[-1]
    assert last.name.rpartition("/")[2] in ("platform", "cirrus_vga")
    # Another QEMU's record, which has another version or device at its end, isn't called cut.
    end = last.offset + 6 + len(last.name)
    assert vmstate.is_whole(record[:end + 7] + b"\x63" + record[end + 8:end + 100] + bytes(5000))
    for place in range(len(record) - 1, 0, -1):
        if record[place] and not (last.name.endswith("vga") and place > len(record) - 1010):
            assert not vmstate.is_whole(record[:place] + bytes(len(record) - place)), place


def test_a_legacy_stream_without_a_device_models_record(stream):
    """Cut within the record's length, its contents are zeros after the end."""
    data = stream("legacy", "hvm64-legacy.xz")
    at = data.rindex(b"DeviceModelRecord0002") + 21
    for way in ("mapped", "pipe"):
        with WAYS[way](cut(data, len(data) - at)) as source:
            incomplete(source, "DEVICE_MODEL")
    assert xstream.verify(data[:at] + bytes(4)).pages


def test_a_legacy_stream_whose_p2m_size_is_cut_off(stream):
    data = stream("legacy", "pv64-guest64.xz")
    page = len(data) - 4096
    assert data[page + 3088:page + 3090] == b"\xcd\x10"
    incomplete(cut(data, len(data) - page - 3089), "SHARED_INFO")

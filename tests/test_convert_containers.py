"""From one container to another and back to the same bytes; missing parts are asked for."""
import io
import struct

import containers
import pytest
import samples
from containers import record
from test_opening import read
from ways import WAYS

import xstream
from xstream import MissingPart, OrderError, StreamError, UnsupportedStream
from xstream.convert.containers import Parts
from xstream.wire import libvirt, libxc, libxl, xenopsd, xl

#: The config that each container needs.
CONFIGS = {"libxc": None, "libxl": None, "xl": containers.JSON_CONFIG, "libvirt": b"<domain/>",
           "xenopsd": containers.XENOPS}
ODD = [
    containers.libxl(tail=record(3, struct.pack("<II", 9, 7) + b"odd", padding=9) + containers.xenstore()),
    containers.libxl_header(options=0xF6) + record(1, b"body") + samples.hvm(
        tail=record(0x80000001, b"x", padding=3) + samples.tsc_info() + samples.hvm_context() + samples.hvm_params()
        + record(0, b"12345", padding=1)) + containers.emulator() + record(0, b"end"),
    containers.libxl_header() + containers.emulator() + containers.context() + samples.hvm(2) + containers.end(),
    containers.xl(rest=b"more optional data", optional=0xFFFF),
    containers.libvirt(unused=bytes(range(40))),
    containers.xenopsd(length=77),
    containers.libxl_pv(),
    samples.pv(2, width=4),
]
NOTHING = Parts(no_device_model=True)


def convert(stream, out, to, parts=NOTHING, **options):
    return xstream.convert(stream, out, to=to, config=parts.config, device_model=parts.device_model,
                           no_device_model=parts.no_device_model, **options)


def wrap(stream, to, parts=NOTHING, **options):
    out = io.BytesIO()
    report = convert(stream, out, to, parts, **options)
    assert report.bytes_written == len(out.getvalue()) and report.target == to
    return out.getvalue()


def outer(stream):
    with xstream.open(stream) as reader:
        return reader.layers[0].format


@pytest.mark.parametrize("name", containers.WRITTEN)
def test_a_round_trip_is_byte_identical(name):
    stream = containers.STREAMS[name]
    assert wrap(stream, outer(stream)) == stream


@pytest.mark.parametrize("number", range(len(ODD)))
def test_a_round_trip_of_odd_streams_is_byte_identical(number):
    assert wrap(ODD[number], outer(ODD[number])) == ODD[number]


@pytest.mark.parametrize("colo", [False, True])
@pytest.mark.parametrize("around", [None, containers.xl, containers.libvirt])
def test_a_round_trip_of_checkpoints(around, colo):
    stream = containers.libxl_checkpointed(3, colo)
    stream = around(stream) if around else stream
    assert wrap(stream, outer(stream), checkpointed=True) == stream
    memory = xstream.GuestMemory()
    xstream.load(wrap(stream, "libxc", checkpointed=True), memory, checkpointed=True)
    assert memory.pages[0].tobytes() == samples.page(12)
    with pytest.raises(OrderError):
        wrap(stream, "libxc")
    with pytest.raises(UnsupportedStream, match="checkpoints"):
        wrap(stream, "xenopsd", Parts(containers.XENOPS, b"q"), checkpointed=True)
    with pytest.raises(UnsupportedStream, match="checkpoints"):
        wrap(samples.checkpointed(), "libxl", checkpointed=True)


@pytest.mark.parametrize("way", ["mapped", "pipe", "trickle", "fed"])
@pytest.mark.parametrize("name", containers.WRITTEN)
def test_a_round_trip_from_every_source(name, way):
    stream = containers.STREAMS[name]
    with WAYS[way](stream) as source:
        assert wrap(source, outer(stream)) == stream


@pytest.mark.parametrize("to", CONFIGS)
@pytest.mark.parametrize("name", containers.WRITTEN)
def test_every_pair_of_containers_keeps_the_memory_stream(name, to):
    stream = containers.STREAMS[name]
    # A bare libxc stream has no device model's record, so its configuration must not say HVM.
    config = b'{"c_info": {"type": "pvh"}}' if (name, to) == ("libxc", "xl") else CONFIGS[to]
    wrapped = wrap(stream, to, Parts(config, None, True))
    assert outer(wrapped) == to
    assert wrap(wrapped, "libxc") == wrap(stream, "libxc")
    xstream.verify(wrapped, strict=True)


def own(stream, layer):
    return [kept for of, _, _, kept in read(stream)[0] if of == layer]


def test_out_of_a_container_and_back():
    stream = containers.xl()
    memory = wrap(stream, "libxc")
    assert memory == samples.hvm()
    assert wrap(memory, "xl", Parts(containers.JSON_CONFIG, containers.QEMU)) == containers.xl(
        containers.libxl(tail=containers.emulator()))
    assert wrap(memory, "libxl", Parts(device_model=b"record")) == containers.libxl(tail=containers.emulator(b"record"))


def test_json_and_text_configs():
    memory = samples.hvm()
    for config, flags, kept in ((b"{}", 3, b"{}\0"), (b" {}\0", 3, b" {}\0"), (b"name='x'", 2, b"name='x'")):
        header = own(wrap(memory, "xl", Parts(config, None, True)), "xl")[0]
        assert (header.mandatory_flags, bytes(header.config)) == (flags, kept)
    header = own(wrap(memory, "libvirt", Parts(b"<domain/>", None, True)), "libvirt")[0]
    assert header == libvirt.SaveHeader(b"<domain/>\0")
    assert own(wrap(containers.xl(), "xl", Parts(b"{}")), "xl")[0].config_text == "{}"


def test_the_device_model_is_kept():
    image = wrap(containers.xl(), "xenopsd", Parts(containers.XENOPS))
    assert own(image, "xenopsd")[1:] == [
        xenopsd.MemoryImage(xenopsd.LIBXC), xenopsd.Blob(xenopsd.QEMU_TRAD, containers.QEMU), xenopsd.EndOfImage()]
    back = own(wrap(image, "libxl", Parts()), "libxl")
    assert back == [libxl.LibxcContext(), libxl.EmulatorContext(0, 0, containers.QEMU), libxl.End()]
    from_xen = own(wrap(containers.xenopsd(after=containers.xenopsd_record(0xF01, b"q")), "libxl", Parts()), "libxl")
    assert from_xen[1] == libxl.EmulatorContext(2, 0, b"q")
    replaced = own(wrap(containers.xl(), "xl", Parts(device_model=b"other")), "libxl")
    assert replaced[2] == libxl.EmulatorContext(2, 0, b"other") and len(replaced) == 4


def test_a_device_model_behind_a_libxl_stream():
    """xenopsd's record of QEMU, where libxl's stream has none: the image is whole, libxl's stream alone isn't."""
    image = containers.xenopsd_libxl().replace(containers.emulator(), b"")
    assert wrap(image, "xenopsd", Parts()) == image
    for squash in (False, True):
        with pytest.raises(MissingPart, match="device model"):
            wrap(image, "libxl", Parts(), squash=squash)
        made = wrap(image, "libxl", Parts(device_model=containers.QEMU), squash=squash)
        assert libxl.EmulatorContext(2, 0, containers.QEMU) in own(made, "libxl")


@pytest.mark.parametrize("to, parts, named", [
    ("xl", Parts(None, b"q"), "domain configuration"), ("libvirt", Parts(None, b"q"), "XML"),
    ("xenopsd", Parts(None, b"q"), "Xenops"), ("libxl", Parts(), "device model"),
    ("xl", Parts(b"{}"), "device model"), ("xenopsd", Parts(containers.XENOPS), "device model"),
])
def test_missing_parts_are_named(to, parts, named):
    out = io.BytesIO()
    with pytest.raises(MissingPart, match=named):
        convert(samples.hvm(), out, to, parts)
    assert out.getvalue() == b""


def test_a_pv_guest_needs_no_device_model():
    assert own(wrap(samples.pv(), "libxl", Parts()), "libxl") == [libxl.LibxcContext(), libxl.End()]


def test_dropped_records_are_named():
    out = io.BytesIO()
    assert convert(containers.xl(), out, "libxc").dropped == (
        "xl SAVE_HEADER", "libxl EMULATOR_XENSTORE_DATA", "libxl EMULATOR_CONTEXT")
    assert convert(containers.xenopsd_libxl(), out, "libxl").dropped == (
        "xenopsd Xenops", "xenopsd Varstored", "xenopsd Swtpm0", "xenopsd Swtpm", "xenopsd Qemu_xen")
    assert convert(containers.xl(), out, "xl").dropped == ()


def test_usage_errors():
    with pytest.raises(ValueError, match="unknown target"):
        convert(samples.hvm(), io.BytesIO(), "legacy")
    with pytest.raises(StreamError):
        wrap(samples.hvm(), "xenopsd", Parts(b"((nothing))", b"q"))


# The writers


def libxl_writer():
    writer = xstream.LibxlWriter(io.BytesIO())
    writer.write(libxl.LibxcContext())
    return writer


def test_a_libxl_writer_refuses_what_a_reader_would_refuse():
    writer = xstream.LibxlWriter(io.BytesIO())
    with pytest.raises(OrderError):
        writer.write(libxl.End())
    with pytest.raises(OrderError):
        writer.libxc(libxc.DomainHeader(libxc.GUEST_HVM))
    writer = libxl_writer()
    with pytest.raises(OrderError):
        writer.write(libxl.EmulatorContext(2, 0, b""))
    inner = writer.libxc(libxc.DomainHeader(libxc.GUEST_PV), libxc.ImageHeader(2))
    with pytest.raises(OrderError):
        writer.libxc(libxc.DomainHeader(libxc.GUEST_HVM))
    with pytest.raises(OrderError):
        writer.write(libxl.End())
    assert inner.index == -1


def test_the_inner_writer_writes_only_in_its_turn():
    writer = xstream.LibxlWriter(io.BytesIO(), checkpointed=True)
    writer.write(libxl.LibxcContext())
    inner = writer.libxc(libxc.DomainHeader(libxc.GUEST_HVM))
    inner.write(libxc.StaticDataEnd())
    with pytest.raises(OrderError, match="must not come"):
        writer.write(libxl.CheckpointEnd())
    inner.write(libxc.Checkpoint())
    with pytest.raises(OrderError, match="must not be written now"):
        inner.write(libxc.TscInfo(0, 0, 0, 0))
    with pytest.raises(StreamError):
        writer.write(libxl.EmulatorXenstoreData(2, 0, b"key\0"))
    writer.write(libxl.CheckpointEnd())
    writer.write(libxl.CheckpointState(0))
    inner.write(libxc.End())
    with pytest.raises(OrderError, match="must not be written now"):
        inner.write(libxc.TscInfo(0, 0, 0, 0))
    writer.write(libxl.End())
    assert writer.ended and writer.index == 3
    with pytest.raises(xstream.IncompleteStream, match="HVM_CONTEXT, HVM_PARAMS"):
        xstream.verify(writer.sink._file.getvalue(), checkpointed=True)


def test_a_device_models_record_that_the_source_lacks_can_be_supplied():
    source = containers.xl(containers.libxl(tail=containers.xenstore(b"a", b"b")))
    with pytest.raises(xstream.IncompleteStream):
        xstream.convert(source, io.BytesIO(), to="libxl")
    out = io.BytesIO()
    xstream.convert(source, out, to="libxl", device_model=b"QEVM")
    assert xstream.info(out.getvalue()).missing == ()


def test_a_device_models_record_of_a_pv_guest_is_not_written():
    out = io.BytesIO()
    with pytest.raises(OrderError, match="isn't HVM"):
        convert(samples.pv(), out, "libxl", Parts(device_model=b"q"))


def test_xenopsd_writer_with_legacy_memory():
    out = io.BytesIO()
    writer = xstream.XenopsdWriter(out, xenopsd.Header(structured=False))
    with pytest.raises(OrderError):
        writer.write(xenopsd.Blob(xenopsd.QEMU_RECORD, containers.QEMU))
    writer.sink.write([containers.legacy_hvm(b"")])
    writer.memory_written()
    writer.write(xenopsd.Blob(xenopsd.QEMU_RECORD, containers.QEMU))
    assert out.getvalue() == containers.xenopsd_unstructured() and writer.ended


def test_save_files_with_legacy_memory():
    out = io.BytesIO()
    xstream.XlWriter(out, xl.SaveHeader(0, b"name = 'x'\n")).sink.write([containers.legacy_hvm()])
    assert out.getvalue() == containers.STREAMS["xl-text"]
    with pytest.raises(UnsupportedStream):
        xstream.XlWriter(io.BytesIO(), xl.SaveHeader(8))
    with pytest.raises(StreamError):
        xstream.LibvirtWriter(io.BytesIO(), libvirt.SaveHeader(b""))


def test_a_suspend_image_announces_the_stream_that_it_has():
    assert wrap(containers.xenopsd(samples.hvm(), 0xF2), "xenopsd") == containers.xenopsd(samples.hvm(), 0xF0)


@pytest.mark.parametrize("way", ["mapped", "pipe"])
@pytest.mark.parametrize("qemu_first", [False, True])
def test_a_vgpus_record_after_the_memory(way, qemu_first):
    """Only the vGPU's emulator knows where it ends. What precedes it converts; what would need the rest doesn't."""
    qemu = containers.xenopsd_record(0xF00, containers.QEMU)
    vgpu = containers.xenopsd_record(0xF10) + b"a vGPU's own stream, of any length" * 100
    image = containers.xenopsd(after=(qemu if qemu_first else b"") + vgpu + (b"" if qemu_first else qemu))

    def converted(to, **options):
        out = io.BytesIO()
        with WAYS[way](image) as source:
            report = xstream.convert(source, out, to=to, **options)
        assert report.unread is None if to == "config" else "vGPU" in report.unread
        return out.getvalue()

    for options in ({}, {"squash": True}):
        memory = converted("libxc", **options)
        assert xstream.digest(memory).pages_sha256 == xstream.digest(samples.hvm()).pages_sha256
        xstream.verify(memory)
        for to in (None, "xenopsd"):
            with pytest.raises(UnsupportedStream):
                converted(to, **options)
    assert converted("libxl", device_model=b"q") == wrap(samples.hvm(), "libxl", Parts(device_model=b"q"))
    assert converted("config") == containers.XENOPS
    if qemu_first:
        assert converted("device-model") == containers.QEMU
        assert own(converted("libxl"), "libxl")[1] == libxl.EmulatorContext(0, 0, containers.QEMU)
    else:
        for to in ("device-model", "libxl"):
            with pytest.raises(MissingPart, match="not read: .*vGPU"):
                converted(to)


@pytest.mark.parametrize("stream, to", [
    (containers.xl(mandatory=1), "xl"), (containers.libvirt(version=1), "libvirt"),
    (containers.xl(containers.legacy_hvm(), mandatory=3), "xl"),
    (containers.libvirt(containers.legacy_hvm(), version=2), "libvirt")])
def test_a_header_that_announces_another_stream_is_corrected(stream, to):
    """The stream itself decides."""
    out = io.BytesIO()
    assert xstream.convert(stream, out).target == to
    made = out.getvalue()
    assert [layer.format for layer in xstream.verify(made).layers] == [to, "libxl", "libxc"]
    header = own(made, to)[0]
    assert header.mandatory_flags == 3 if to == "xl" else header.version == 2
    assert xstream.digest(made).pages_sha256 == xstream.digest(stream).pages_sha256

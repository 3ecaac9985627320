"""Conversion of legacy streams: the same bytes as Xen's converter where that is right, correct ones where it isn't."""
import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time

import containers
import legacy_samples as samples
import pytest
import samples as modern
from legacy_samples import batch, chunk, page, word
from samples import hvm_context, memory_of
from ways import WAYS

import xstream
from xstream import GuestMemory, TruncatedStream
from xstream.wire import legacy, libvirt, libxc, libxl, xl


def loaded(source, **options):
    memory = GuestMemory()
    return memory, xstream.load(source, memory, **options)


def converted(stream, way="buffer", **options):
    out = io.BytesIO()
    with WAYS[way](stream) as source:
        xstream.convert(source, out, **options)
    return out.getvalue()


@contextlib.contextmanager
def drained(reading, writing):
    """The descriptor of the writing end, and a list that receives what is read from the other end."""
    got = []

    def read():
        with os.fdopen(reading, "rb") as file:
            got.append(file.read())

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield writing, got
    finally:
        os.close(writing)
        thread.join()


def through(stream, way, sink, **options):
    """Converted from one kind of descriptor to another."""
    ends = os.pipe() if sink == "pipe" else [end.detach() for end in socket.socketpair()]
    with WAYS[way](stream) as source, drained(*ends) as (fd, got):
        xstream.convert(source, fd, **options)
    return got[0]


def records(stream, layer="libxc", **options):
    with xstream.open(stream, checkpointed=True, **options) as reader:
        return [record for record in reader if reader.layer == layer]


def without_verify(data):
    with xstream.open(data) as reader:
        at = next(reader.offset for record in reader if isinstance(record, libxc.Verify))
    return data[:at] + data[at + 8:]


def is_live_pv(stream):
    return stream.about["guest"] == "pv" and stream.about["checkpoints"][0]["tail"]["freed_pfns"] > 0


@pytest.mark.parametrize("to", ["libxc", "libxl"])
def test_as_xens_converter(legacy_stream, to, tmp_path):
    """The same bytes as Xen's converter where its result is good; only we write VERIFY for a debug stream. The xl
    header stays, as "xl" does here."""
    peer = legacy_stream.about["peers"]["py2.7 " + to]
    out = tmp_path / "out"
    if "xl_header" in legacy_stream.about:
        if to == "libxc":
            pytest.skip("not applicable: a libxc stream has no xl header")
        to = None
    report = xstream.convert(str(legacy_stream.path), str(out), to=to)
    data = out.read_bytes()
    assert report.bytes_written == len(data) and out.stat().st_mode & 0o777 == 0o600
    if peer["convert"] == "ok" and not is_live_pv(legacy_stream):
        if "debug" in legacy_stream.about["file"]:
            data = without_verify(data)
        assert hashlib.sha256(data).hexdigest() == peer["output_sha256"]


def test_as_xens_converter_here(legacy_stream, xen_tools):
    """The same, compared with the output of the installed tool instead of the manifest's digests."""
    about = legacy_stream.about
    theirs, _ = xen_tools.convert_legacy_stream(legacy_stream.path, about["guest"], about["toolstack_width"], "libxc")
    if theirs is not None and not is_live_pv(legacy_stream) and "debug" not in about["file"]:
        assert converted(legacy_stream.path.read_bytes()) == theirs


@pytest.mark.parametrize("options", [{}, {"to": "libxl"}, {"last_checkpoint": True}, {"squash": True},
                                     {"checkpointed": True}], ids=str)
@pytest.mark.parametrize("way, sink", [("mapped", "pipe"), ("pipe", "pipe"), ("socket", "socket"), ("pipe", "socket"),
                                       ("mapped", "socket"), ("object", "pipe")])
def test_memory_stays_the_same(legacy_stream, way, sink, options):
    result = through(legacy_stream.path.read_bytes(), way, sink, **options)
    memory, report = loaded(result, checkpointed=True)
    final = legacy_stream.about["memory"]
    populated = memory.populated
    assert hashlib.sha256(memory.pages[populated].tobytes()).hexdigest() == final["pages_sha256"]
    assert int(populated.sum()) == final["populated_pages"]
    assert {str(pfn): kind for pfn, kind in enumerate(memory.types.tolist())
            if populated[pfn] and kind} == final["page_types"]
    assert not len(report.differing)
    if options.get("squash"):
        assert report.resent == report.compared == 0
    elif "debug" in legacy_stream.about["file"]:
        assert report.compared == len(memory.pages[populated])


def test_xens_verifier_accepts_it(legacy_stream, xen_tools):
    """A stream with checkpoints lacks END, and nothing else."""
    result = converted(legacy_stream.path.read_bytes(), to="libxc")
    accepted, said = xen_tools.verify_stream_v2(result)
    if "remus" in legacy_stream.about["file"]:
        assert not accepted and said.rstrip().endswith("Stream truncated"), said
        accepted, said = xen_tools.verify_stream_v2(converted(legacy_stream.path.read_bytes(), last_checkpoint=True))
    assert accepted, said


@pytest.mark.parametrize("flags, config", [(0, b"name = 'guest'"), (xl.JSON_CONFIG, b"{}\0")])
def test_an_xl_file_becomes_what_xl_restores(flags, config):
    """xl > libxl > libxc with the same config, physmap kept; "libxc" is the memory stream alone."""
    blob = samples.physmap(8, [(1, 2, 3, b"vga\0")])
    stream = samples.hvm(chunks=samples.toolstack(blob))
    header = b"".join(xl.build(xl.SaveHeader(flags, config)))
    for to in (None, "xl"):
        result = converted(header + stream, to=to)
        head, _ = xl.parse_head(result[:48])
        assert head.mandatory_flags == flags | xl.LIBXL_STREAM and result[48:len(header)] == header[48:]
        assert result[len(header):] == converted(stream, to="libxl")
        assert xstream.verify(result).pages == 2
        assert [type(record).__name__ for record in records(result, "libxl")] == [
            "LibxcContext", "EmulatorXenstoreData", "EmulatorContext", "End"]
    for to in ("libxc", "libxl"):
        assert converted(header + stream, to=to) == converted(stream, to=to)
    out = io.BytesIO()
    assert xstream.convert(header + stream, out, to="libxc").dropped == ("xl SAVE_HEADER", "legacy TOOLSTACK")


def test_any_header_in_front_of_a_legacy_stream():
    """The container that it has, in its current form; any other in one step."""
    stream = samples.hvm()
    saved = b"".join(libvirt.build(libvirt.SaveHeader(b"<domain/>\0", libvirt.LEGACY_STREAM)))
    result = converted(saved + stream)
    with xstream.open(result) as reader:
        assert next(iter(reader)) == libvirt.SaveHeader(b"<domain/>\0", libvirt.LIBXL_STREAM)
    assert result[len(saved):] == converted(stream, to="libxl")
    xend = struct.pack(">16si", b"LinuxGuestRecord", 8) + b"(domain)"
    assert converted(xend + stream) == converted(stream) == converted(stream, to="libxc")
    for legacy_form in (stream, saved + stream, xend + stream):
        result = converted(legacy_form, to="xl", config=b"{}")
        assert [layer.format for layer in xstream.verify(result).layers] == ["xl", "libxl", "libxc"]


def in_suspend_image(kind, stream, qemu=b"QEMU's"):
    """A legacy stream in a suspend image, of the unstructured or the structured kind."""
    if kind == "structured":
        return (b"XenSavedDomv2-\n" + containers.xenopsd_record(0x0F, containers.XENOPS) + struct.pack("<qq", 0xF2, 0)
                + stream + containers.xenopsd_record(0xFFFF))
    cut = stream[:-31] if qemu else stream
    after = b"QemuDeviceModelRecord\n" + struct.pack(">i", len(qemu)) + qemu if qemu else b""
    return b"XenSavedDomain\n" + cut + after


@pytest.mark.parametrize("way", ["mapped", "pipe", "buffer"])
@pytest.mark.parametrize("kind", ["unstructured", "structured"])
@pytest.mark.parametrize("guest", ["pv", "hvm"])
def test_legacy_suspend_images(guest, kind, way):
    """XenServer's convert to all that a legacy stream converts to, with QEMU's record in its place."""
    hvm = guest == "hvm"
    stream = samples.hvm() if hvm else samples.pv()
    image = in_suspend_image(kind, stream, b"QEMU's" if hvm else b"")
    plain = converted(stream, to="libxl")
    xstream.verify(image)
    for to, layers in ((None, ["xenopsd", "libxc"]), ("xenopsd", ["xenopsd", "libxc"]), ("libxc", ["libxc"]),
                       ("libxl", ["libxl", "libxc"]), ("xl", ["xl", "libxl", "libxc"]),
                       ("libvirt", ["libvirt", "libxl", "libxc"])):
        config = {"xl": b"{}", "libvirt": b"<domain/>"}.get(to)
        result = converted(image, way, to=to, config=config)
        assert [layer.format for layer in xstream.verify(result).layers] == layers
        assert xstream.digest(result).pages_sha256 == xstream.digest(stream).pages_sha256
        if to == "libxl" and way != "pipe":
            assert result == plain
        if hvm and to != "libxc":
            out = io.BytesIO()
            xstream.convert(result, out, to="device-model")
            assert out.getvalue() == b"QEMU's"
    for options in ({"squash": True}, {"last_checkpoint": True}):
        result = converted(image, way, **options)
        assert [layer.format for layer in xstream.verify(result).layers] == ["xenopsd", "libxc"]


def test_records_of_a_pv_guest():
    result = records(converted(samples.pv(), "descriptor"))
    assert [type(record).__name__ for record in result] == [
        "PVInfo", "StaticDataEnd", "P2MFrames", "PageData", "TscInfo", "VcpuBasic", "VcpuExtended", "VcpuXsave",
        "VcpuBasic", "VcpuExtended", "VcpuXsave", "SharedInfo", "End"]
    assert (result[2].start_pfn, result[2].end_pfn, result[2].pfns.tolist()) == (0, 15, [4])
    assert [record.vcpu_id for record in result[5:11]] == [0, 0, 0, 2, 2, 2]
    assert [len(record.blob) for record in (result[7], result[10])] == [848, 700]
    assert result[4][:4] == (1, 2400000, 123456789, 3)


@pytest.mark.parametrize("way", ["descriptor", "pipe"])
def test_pfns_that_the_tail_unmaps(way):
    """From a file their pages are left out; from a pipe a batch of XTAB follows."""
    result = converted(samples.pv(), way)
    batches = [record for record in records(result) if isinstance(record, libxc.PageData)]
    if way == "pipe":
        assert batches[1].pfns.tolist() == [5] and batches[1].types.tolist() == [15]
    else:
        assert len(batches) == 1 and batches[0].pfns.tolist() == [3, 4]
    memory, _ = loaded(result)
    assert memory.populated[3:5].all() and int(memory.populated.sum()) == 2 and not memory.pages[5:].any()


@pytest.mark.parametrize("way", ["mapped", "descriptor", "buffer", "mapping", "misaligned"])
def test_whatever_can_be_read_twice_gives_the_same(way):
    """Compressed or not."""
    for stream in (samples.pv(), gzip.compress(samples.pv())):
        assert converted(stream, way) == converted(samples.pv(), "buffer")


def test_records_of_an_hvm_guest():
    result = records(converted(samples.hvm(4)))
    assert [type(record).__name__ for record in result] == [
        "StaticDataEnd", "TscInfo", "PageData", "HvmParams", "HvmParams", "HvmContext", "End"]
    assert result[3].params == [(legacy.PARAMS[number], value) for number, value in samples.PARAMS]
    assert result[4].params == [(5, 0xFEFFC), (6, 0xFEFFD), (1, 0xFEFFE)]
    assert bytes(result[5].blob) == hvm_context()[8:]


@pytest.mark.parametrize("width", [4, 8])
def test_physmap_in_libxl(width):
    """Entries without a name, and the stray bytes that a 64-bit libxl writes."""
    blob = samples.physmap(width, [(0x1100000, 0xF0000000, 0x800000, b"vga.vram\0"), (0x2000, 0xA0000, 0x1000, b"")])
    result = converted(samples.hvm(width, chunks=samples.toolstack(blob)), to="libxl")
    own = records(result, "libxl")
    assert [type(record).__name__ for record in own] == [
        "LibxcContext", "EmulatorXenstoreData", "EmulatorContext", "End"]
    assert (own[1].emulator_id, own[1].emulator_index) == (0, 0)
    assert own[1].pairs == [
        (b"physmap/1100000/start_addr", b"f0000000"), (b"physmap/1100000/size", b"800000"),
        (b"physmap/1100000/name", b"vga.vram"), (b"physmap/2000/start_addr", b"a0000"), (b"physmap/2000/size", b"1000")]
    assert bytes(own[2].blob) == b"QEMU's"
    assert struct.unpack(">8sII", result[:16]) == (libxl.MAGIC, 2, 2)


@pytest.mark.parametrize("signature", legacy.SIGNATURES)
def test_device_models(signature):
    stream = samples.hvm(tail=samples.hvm_tail(signature=signature, blob=b"QEVM record"))
    tail = converted(stream)[-40:]
    assert tail.endswith(stream[-len(b"QEVM record") - (4 if signature != legacy.XEND_DEVICE_MODEL else 0) - 21:])
    assert bytes(records(converted(stream, to="libxl"), "libxl")[1].blob) == b"QEVM record"


@pytest.mark.parametrize("to", ["libxc", "libxl"])
@pytest.mark.parametrize("way", ["descriptor", "pipe"])
def test_remus(way, to):
    bodies = [batch(8, [word(0)], [page(20)]), batch(8, [word(0), word(3)], [page(30), page(33)])]
    stream = samples.remus(8, bodies)
    result = converted(stream, way, to=to)
    kinds = [type(record).__name__ for record in records(result)]
    assert kinds.count("Checkpoint") == 3 and kinds[-1] == "Checkpoint" and kinds.count("StaticDataEnd") == 1
    if to == "libxl":
        own = records(result, "libxl")
        assert [bytes(record.blob) for record in own if isinstance(record, libxl.EmulatorContext)] == [b"0", b"1", b"2"]
        assert isinstance(own[-1], libxl.CheckpointEnd)
    memory, report = loaded(result, checkpointed=True)
    assert report.checkpoints == 3 and memory.pages[0].tobytes() == page(30)
    # Of an incomplete checkpoint nothing is written.
    cut = converted(stream[:-1], way, to=to)
    assert result.startswith(cut) and len(cut) < len(result) and loaded(cut, checkpointed=True)[1].checkpoints == 2
    last = converted(stream[:-1], way, to=to, last_checkpoint=True)
    memory, report = loaded(last)
    assert report.checkpoints == 0 and memory.pages[0].tobytes() == page(20) and len(memory) == 2
    assert sum(isinstance(record, libxc.HvmContext) for record in records(last)) == 1
    assert isinstance(records(last)[-1], libxc.End) and b"DeviceModelRecord0002" in last or to == "libxl"


def test_deltas_against_the_first_checkpoint():
    """A file is read again. A pipe can't be: an option must say that the stream has checkpoints."""
    form = b"\x01CHNG" + b"\xff" * 8 + b"\x87"
    stream = samples.remus(8, [batch(8, [word(0)]) + samples.compressed(8, form)], compress=True)
    for way, options in (("descriptor", {}), ("pipe", {"checkpointed": True}), ("descriptor", {"squash": True}),
                         ("pipe", {"squash": True}), ("pipe", {"last_checkpoint": True}),
                         ("descriptor", {"last_checkpoint": True})):
        memory, _ = loaded(converted(stream, way, **options), checkpointed=True)
        assert memory.pages.tobytes() == memory_of({0: b"CHNG" + page(10)[4:], 1: page(11)}, 2)
    with pytest.raises(xstream.CorruptStream, match="hasn't been sent.*--checkpointed"):
        converted(stream, "pipe")
    status, _, said = run("convert", "-", "-", stdin=stream)
    assert status == 1 and "--checkpointed" in said
    status, out, _ = run("convert", "-", "-", "--last-checkpoint", stdin=stream)
    assert status == 0 and xstream.verify(out).checkpoints == 0


def test_remus_pv_unmaps_at_each_checkpoint():
    head = samples.pv_head(8, 8)
    first = batch(8, [word(3, samples.L4TAB), word(4), word(5), word(7)], [bytes(4096), page(4), page(5), page(7)]) + \
        samples.vcpu_info(0) + chunk(0) + samples.pv_tail(8, 8, [5])
    second = batch(8, [word(5), word(6)], [page(55), page(6)]) + chunk(0) + samples.pv_tail(8, 8, [7])
    for way in ("descriptor", "pipe"):
        for options in ({}, {"last_checkpoint": True}, {"squash": True}):
            memory, _ = loaded(converted(head + first + second, way, **options), checkpointed=True)
            assert [pfn for pfn in range(len(memory)) if memory.populated[pfn]] == [3, 4, 5, 6]
            assert memory.pages.tobytes() == memory_of({4: page(4), 5: page(55), 6: page(6)}, len(memory))


def test_squash():
    body = batch(8, [word(0), word(1), word(2, 0xE), word(3, 0xD)], [page(1), page(2)]) + \
        batch(8, [word(1)], [page(3)]) + chunk(-1) + batch(8, [word(0), word(1)], [page(1), page(3)])
    result = [record for record in records(converted(samples.hvm(memory=body), squash=True))
              if isinstance(record, (libxc.PageData, libxc.Verify))]
    assert [(record.pfns.tolist(), record.types.tolist()) for record in result] == [
        ([0, 1, 2], [0, 0, 0xE]), ([3], [0xD])]
    assert result[0].pages.tobytes() == page(1) + page(3)


def test_squash_keeps_what_is_only_allocated():
    stream = modern.hvm(memory=modern.batch([modern.word(pfn, 0xE) for pfn in range(3)])
                        + modern.batch([modern.word(0, 0xF), modern.word(1, 0xD)]))
    before, after = (loaded(data)[0] for data in (stream, converted(stream, squash=True)))
    assert before.populated.tolist() == after.populated.tolist() == [True] * 3


def test_what_is_dropped():
    blob = samples.physmap(8, [(1, 2, 3, b"x\0")])
    stream = samples.hvm(chunks=samples.tmem() + samples.tmem_extra() + samples.toolstack(blob))
    assert xstream.convert(stream, io.BytesIO()).dropped == ("legacy TMEM", "legacy TMEM_EXTRA", "legacy TOOLSTACK")
    assert xstream.convert(stream, io.BytesIO(), to="libxl").dropped == ("legacy TMEM", "legacy TMEM_EXTRA")
    for blob, dropped in ((bytes([1]) + bytes(7), ()), (bytes([2]) + bytes(7), ("legacy TOOLSTACK",))):
        stream = samples.hvm(chunks=samples.toolstack(blob))  # no entries; of a known version and another
        assert xstream.convert(stream, io.BytesIO()).dropped == dropped
    xend = struct.pack(">16si", b"LinuxGuestRecord", 8) + b"(domain)"
    out = io.BytesIO()
    assert xstream.convert(xend + samples.hvm(), out).dropped == ("xend SAVE_HEADER",)
    assert out.getvalue() == converted(samples.hvm())


def test_a_current_stream_is_copied():
    for to in ("libxc", "libxl"):
        stream = converted(samples.hvm(), to=to)
        expected = stream if to == "libxl" else stream.partition(b"DeviceModelRecord")[0]
        assert converted(stream + b"trailing") == expected
        assert to == "libxc" or converted(stream) == stream
    with pytest.raises(xstream.MissingPart, match="--config"):
        converted(samples.hvm(), to="xl")


def test_a_failure_leaves_nothing(tmp_path):
    stream = samples.hvm()
    for cut in (3, 40, 5000, len(stream) - 1):
        (tmp_path / "in").write_bytes(stream[:cut])
        with pytest.raises(xstream.StreamError):
            xstream.convert(str(tmp_path / "in"), str(tmp_path / "out"))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
        out = io.BytesIO()
        with pytest.raises(xstream.StreamError):
            xstream.convert(str(tmp_path / "in"), out)
        assert cut > 5000 or not out.getvalue().endswith(struct.pack("<II", 0, 0))


def test_a_truncated_page_says_where():
    with WAYS["pipe"](samples.hvm()[:6000]) as source, pytest.raises(TruncatedStream) as caught:
        xstream.convert(source, io.BytesIO())
    assert (caught.value.offset, caught.value.record_type) == (6000, "PAGE_DATA") and caught.value.missing == 8192 - (
        6000 - (8 + 24 + 4 + 40))


def run(*arguments, stdin=b""):
    process = subprocess.Popen([sys.executable, "-m", "xstream"] + list(arguments), stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, said = process.communicate(stdin)
    return process.returncode, out, said.decode()


def test_command(tmp_path):
    source = tmp_path / "legacy"
    source.write_bytes(samples.hvm())
    status, out, said = run("convert", str(source), "-")
    assert (status, said) == (0, "") and out == converted(samples.hvm())
    status, out, _ = run("convert", "-", "-", "--to", "libxl", stdin=samples.hvm())
    assert status == 0 and out == converted(samples.hvm(), to="libxl")
    status, out, _ = run("convert", str(source), str(tmp_path / "out"), "--json", "--width", "64", "--guest", "hvm")
    assert status == 0 and json.loads(out)["pages"] == 2 and (tmp_path / "out").read_bytes() == converted(samples.hvm())
    stream = samples.remus(8, [batch(8, [word(0)], [page(20)])])
    assert run("convert", "-", "-", "--last-checkpoint", stdin=stream)[1] == converted(stream, last_checkpoint=True)
    assert run("convert", "-", "-", "--squash", "--checkpointed", stdin=stream)[1] == converted(stream, squash=True)
    status, _, said = run("convert", "-", str(tmp_path / "new"), stdin=samples.hvm()[:5000])
    assert status == 1 and "legacy, offset 5000" in said and not (tmp_path / "new").exists()
    assert run("convert", str(source), str(tmp_path / "new"), "--to", "xl")[0] == 2
    saved = b"".join(xl.build(xl.SaveHeader(0, b"name = 'guest'"))) + samples.hvm()
    assert run("convert", "-", "-", stdin=saved) == (0, converted(saved, to="xl"), "")
    saved = b"".join(libvirt.build(libvirt.SaveHeader(b"<domain/>\0", libvirt.LEGACY_STREAM))) + samples.hvm()
    assert run("convert", "-", "-", stdin=saved) == (0, converted(saved, to="libvirt"), "")
    assert run("convert", "-", "-", "--to", "xl", stdin=saved)[0] == 2


@pytest.mark.parametrize("to", ["libxc", "libxl"])
def test_a_failure_in_a_pipe_ends_without_end(to):
    """The good part has been written; the reader at the other end finds the stream truncated."""
    bad = samples.hvm(tail=samples.hvm_tail(signature=b"SomethingElseEntirely"))
    for stream in (samples.hvm()[:-1], samples.pv()[:-1], bad):
        status, out, said = run("convert", "-", "-", "--to", to, stdin=stream)
        assert status == 1 and said.startswith("xstream: stdin: legacy, offset ")
        with pytest.raises(TruncatedStream):
            xstream.verify(out)
        assert loaded_pages(out) == 2 + (stream[8:16] == b"\xff" * 8)


def loaded_pages(stream):
    """The number of pages in a truncated stream."""
    with xstream.open(stream) as reader, contextlib.suppress(TruncatedStream):
        pages = 0
        for record in reader:
            pages += len(record.data) // 4096 if isinstance(record, libxc.PageData) else 0
    return pages


def open_files(pid):
    """The names of the files that a process has open; some may be closed meanwhile."""
    folder = "/proc/{}/fd".format(pid)
    for fd in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(os.path.join(folder, fd))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_terminated_process_leaves_nothing(number, tmp_path):
    reading, writing = os.pipe()
    process = subprocess.Popen([sys.executable, "-m", "xstream", "convert", "-", str(tmp_path / "out")],
                               stdin=reading, stderr=subprocess.DEVNULL,
                               preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))  # nohup ignores SIGHUP
    os.close(reading)
    os.write(writing, samples.hvm()[:6000])
    while not any(str(tmp_path) in name for name in open_files(process.pid)):
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait() == -number and not list(tmp_path.iterdir())
    os.close(writing)


@pytest.mark.parametrize("way", ["pipe", "file"])
def test_memory_is_bounded(way, tmp_path):
    """Under 64 MiB for a guest of 256 MiB."""
    script = textwrap.dedent("""
        import os, struct, sys, threading
        import xstream
        def write(fd):
            with os.fdopen(fd, "wb") as out:
                out.write(struct.pack("<Q", 65536))
                for start in range(0, 65536, 1024):
                    out.write(struct.pack("<i1024Q", 1024, *range(start, start + 1024)) + bytes(4 << 20))
                out.write(struct.pack("<iiQQQI", -9, 0, 1, 2, 3, 7) + b"context" + b"DeviceModelRecord0002" + bytes(4))
        out = os.open(os.devnull, os.O_WRONLY)
        if sys.argv[1] == "pipe":
            reading, writing = os.pipe()
            thread = threading.Thread(target=write, args=(writing,))
            thread.start()
            assert xstream.convert(reading, out).pages == 65536
            thread.join()
        else:
            write(os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT))
            assert xstream.convert(sys.argv[2], out).pages == 65536
        with open("/proc/self/status") as file:
            peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
        assert peak < 64 << 10, peak
        """)
    subprocess.check_call([sys.executable, "-c", script, way, str(tmp_path / "big")])


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("way", ["pipe", "file"])
def test_memory_is_bounded_for_a_guest_of_many_pfns(way, squash, tmp_path):
    """A PV guest with the highest possible number of PFNs, and pages at both ends."""
    p2m_size = (1 << 28) - 1
    words = [word(3, samples.L4TAB), word(4), word(p2m_size - 1), word(9)]
    body = batch(8, words, [bytes(4096), page(4), page(5), page(9)]) + chunk(-9) + chunk(0)
    frames = samples.ulongs(8, 4) * -(-p2m_size // 512)
    stream = samples.ulongs(8, p2m_size) + samples.extended_info(8, 8) + frames + body \
        + samples.pv_tail(8, 8, [9])
    (tmp_path / "in").write_bytes(stream)
    script = textwrap.dedent("""
        import os, sys
        import xstream
        source = sys.stdin.fileno() if sys.argv[1] == "pipe" else sys.argv[2]
        xstream.convert(source, sys.argv[3], squash={!r})
        with open("/proc/self/status") as file:
            peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
        assert peak < 64 << 10, peak
        """).format(squash)
    process = subprocess.Popen([sys.executable, "-c", script, way, str(tmp_path / "in"), str(tmp_path / "out")],
                               stdin=subprocess.PIPE)
    process.communicate(stream if way == "pipe" else b"")
    assert process.returncode == 0
    memory, _ = loaded(str(tmp_path / "out"))
    assert memory.populated_count == 3 and memory.read(memory.populated_pfns(0, 9)) == bytes(4096) + page(4) + page(5)


@pytest.mark.parametrize("form", ["path", "other path", "symlink", "hard link", "descriptors", "descriptor in",
                                  "descriptor out", "file objects"])
def test_source_and_output_must_not_be_the_same_file(form, tmp_path):
    whole = converted(samples.hvm(), to="libxl")
    path, link = tmp_path / "guest.xl", tmp_path / "link"
    path.write_bytes(whole)
    source, sink = str(path), str(path)
    with contextlib.ExitStack() as stack:
        if form == "other path":
            source = os.path.join(str(tmp_path), "..", tmp_path.name, "guest.xl")
        elif form == "symlink":
            link.symlink_to(path)
            sink = str(link)
        elif form == "hard link":
            os.link(source, str(link))
            sink = str(link)
        elif form.startswith("descriptor"):
            source = stack.enter_context(open(source, "rb")).fileno() if form != "descriptor out" else source
            sink = stack.enter_context(open(sink, "r+b")).fileno() if form != "descriptor in" else sink
        elif form == "file objects":
            source, sink = (stack.enter_context(open(source, mode)) for mode in ("rb", "r+b"))
        for to in (None, "libxc", "device-model"):
            with pytest.raises(shutil.SameFileError):
                xstream.convert(source, sink, to=to)
    assert path.read_bytes() == whole


def test_the_same_device_may_be_source_and_output():
    with pytest.raises(xstream.CorruptStream, match="empty input"):
        xstream.convert(os.devnull, os.devnull)


def test_the_command_refuses_to_overwrite_its_input(tmp_path):
    path = tmp_path / "guest.xl"
    path.write_bytes(converted(samples.hvm(), to="libxl"))
    status, _, said = run("convert", str(path), str(path))
    assert status == 2 and "same file" in said and path.read_bytes() == converted(samples.hvm(), to="libxl")
    with open(str(path), "rb") as stdin:
        status = subprocess.call([sys.executable, "-m", "xstream", "convert", "-", str(path)], stdin=stdin,
                                 stderr=subprocess.DEVNULL)
    assert status == 2 and path.read_bytes() == converted(samples.hvm(), to="libxl")


@pytest.mark.parametrize("way", ["mapped", "pipe"])
@pytest.mark.parametrize("stream", [
    modern.hvm(tail=modern.tsc_info() + modern.hvm_params() + modern.end()),
    containers.xl(containers.libxl(modern.hvm(tail=modern.end()))),
    containers.xenopsd(modern.hvm(tail=modern.tsc_info() + modern.end())),
    modern.pv(tail=modern.tsc_info() + modern.vcpu_basic() + modern.end()),
    samples.hvm(tail=samples.hvm_tail(context=b"")),
    in_suspend_image("structured", samples.hvm(tail=samples.hvm_tail(context=b""))),
], ids=["libxc", "xl", "xenopsd", "pv", "legacy", "legacy xenopsd"])
def test_an_incomplete_stream_is_an_error_and_gets_no_end(stream, way, tmp_path):
    """Without its HVM context or its vcpus no guest runs: an interrupted save, whose zeros read as END."""
    out = io.BytesIO()
    for options in ({}, {"squash": True}, {"to": "libxc"}):
        with WAYS[way](stream) as source, pytest.raises(xstream.IncompleteStream):
            xstream.convert(source, str(tmp_path / "out"), **options)
        assert not list(tmp_path.iterdir())
    with WAYS[way](stream) as source, pytest.raises(xstream.IncompleteStream):
        xstream.convert(source, out)
    with pytest.raises(TruncatedStream):
        xstream.verify(out.getvalue())
    (tmp_path / "in").write_bytes(stream)
    assert run("convert", str(tmp_path / "in"), str(tmp_path / "out"))[0] == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", [None, "libxl"])
def test_zeros_in_place_of_the_rest_are_an_error(to):
    for stream in (modern.hvm(), containers.xl(), samples.hvm(), samples.pv(), containers.legacy_hvm()):
        for cut in (200, 4400, len(stream) - 4200):
            with pytest.raises(xstream.StreamError):
                converted(stream[:cut] + bytes(len(stream) - cut), to=to, no_device_model=True)

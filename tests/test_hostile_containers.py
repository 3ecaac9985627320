"""Hostile bytes in containers: a result or one of our errors, in bounded memory, from every kind of source."""
import json
import struct

import containers
import pytest
import samples
from containers import record, xenopsd_record
from test_cli import run
from test_hostile import piped, run_in_small_memory, source_of
from test_opening import read
from ways import WAYS

import xstream
from xstream import LimitExceeded, StreamError, TruncatedStream

#: The smallest stream of each container.
SMALL_LIBXC = (samples.headers() + samples.policies() + samples.static_data_end()
               + samples.batch([samples.word(1, samples.XTAB)]) + samples.hvm_context() + samples.hvm_params()
               + samples.end())
SMALL_LIBXL = containers.libxl(SMALL_LIBXC, containers.xenstore(b"a/b", b"c") + containers.emulator(b"QEVM"))
SMALL_LEGACY = (struct.pack("<QiQ", 16, 1, 0xF << 28) + struct.pack("<ii", -9, 0)
                + struct.pack("<QQQI", 5, 6, 7, 0))
DEVICE_MODEL = b"DeviceModelRecord0002" + struct.pack("<I", 1) + b"Q"
SMALL = {
    "libxl": SMALL_LIBXL,
    "xl": containers.xl(SMALL_LIBXL, config=b'{"a": 1}\0', rest=b"x"),
    "xl-legacy": containers.xl(SMALL_LEGACY + DEVICE_MODEL, config=b"a=1", mandatory=0),
    "libvirt": containers.libvirt(SMALL_LIBXL),
    "xenopsd": containers.xenopsd(SMALL_LIBXC),
    "xenopsd-libxl": containers.xenopsd(SMALL_LIBXL, 0xF1, after=xenopsd_record(0xF11, b"v")),
    "xenopsd-unstructured": (b"XenSavedDomain\n" + SMALL_LEGACY + b"QemuDeviceModelRecord\n" + struct.pack(">i", 4)
                             + b"QEVM"),
    "xend": b"LinuxGuestRecord" + struct.pack(">i", 3) + b"(a)" + SMALL_LEGACY + DEVICE_MODEL,
}


def survive(stream, way="buffer", **options):
    """The result of reading: the records, or the error, which must be a StreamError."""
    with WAYS[way](stream) as source:
        try:
            return read(source, **options)
        except StreamError as error:
            assert error.offset is not None and 0 <= error.offset <= len(stream), error
            assert str(error)
            return type(error).__name__, error.layer, error.offset, error.field


@pytest.mark.parametrize("name", SMALL)
def test_they_are_good(name):
    assert isinstance(survive(SMALL[name]), tuple) and read(SMALL[name])[0]


@pytest.mark.parametrize("way", ["buffer", "object", "fed", "pipe"])
@pytest.mark.parametrize("name", SMALL)
def test_every_byte_changed(name, way):
    stream = SMALL[name]
    values = (0, 1, 0x7F, 0x80, 0xFF) if way == "buffer" else (0xFF,)
    for at in range(len(stream)):
        for value in {*values, stream[at] ^ 0x10} - {stream[at]}:
            changed = stream[:at] + bytes([value]) + stream[at + 1:]
            result = survive(changed, way)
            survive(changed, way, strict=True, checkpointed=True)
            if way != "buffer":
                assert result == survive(changed), at


@pytest.mark.parametrize("way", ["buffer", "object", "fed", "pipe"])
@pytest.mark.parametrize("name", SMALL)
def test_every_truncation(name, way):
    stream = SMALL[name]
    for length in range(33, len(stream)):
        result = survive(stream[:length], way)
        assert result[0] in ("TruncatedStream",) and result[2] == length, (length, result)


@pytest.mark.parametrize("name", SMALL)
def test_every_tool(name):
    stream = SMALL[name]
    for at in range(0, len(stream), 5):
        changed = stream[:at] + bytes([stream[at] ^ 0xFF]) + stream[at + 1:]
        for work in (lambda source: xstream.load(source, xstream.GuestMemory(limit=1 << 20)), xstream.info,
                     xstream.verify, lambda source: list(xstream.contents(source)), xstream.policy):
            try:
                work(changed)
            except StreamError as error:
                assert error.offset is not None


@pytest.mark.parametrize("verb", ["verify(0)", "info(0)", "load(0, GuestMemory())", "for _ in contents(0): pass"])
def test_endless_xenstore_data(verb):
    piece = containers.xenstore(*[b"key", b"value"] * 1000)
    writer = piped(source_of(containers.libxl_header() + containers.context() + SMALL_LIBXC)
                   + "\nfor _ in range(4000): out.write({!r})\n".format(piece)
                   + source_of(containers.emulator() + containers.end()))
    run_in_small_memory(verb, writer.stdout, 64)
    writer.stdout.close()
    assert writer.wait() == 0


def test_endless_blobs_of_xenopsd():
    writer = piped(source_of(b"XenSavedDomv2-\n" + struct.pack("<qq", 0xF0, 0) + SMALL_LIBXC
                             + struct.pack("<qq", 0xF00, 200 << 20))
                   + "\nfor _ in range(200): out.write(bytes(1 << 20))\n" + source_of(xenopsd_record(0xFFFF)))
    run_in_small_memory("print(verify(0))", writer.stdout, 64)
    writer.stdout.close()
    assert writer.wait() == 0


@pytest.mark.parametrize("stream", [
    containers.xl_header(length=0xFFFFFFF0), containers.xl_header(length=16 << 20, config_length=0xFFFFFFFF),
    containers.libvirt_header()[:20] + b"\xf0\xff\xff\xff" + bytes(40),
    containers.libxl_header() + record(2, b"", length=0xFFFFFFF0),
    containers.libxl_header() + record(3, b"", length=15 << 20),
    b"XenSavedDomv2-\n" + struct.pack("<qq", 0xF, 2 ** 63 - 1), b"XenSavedDomv2-\n" + struct.pack("<qq", 0xF, 15 << 20),
    b"XenSavedDomv2-\n" + struct.pack("<qq", 0xF00, 2 ** 63 - 1),
    b"LinuxGuestRecord" + struct.pack(">i", 2 ** 31 - 1), b"LinuxGuestRecord" + struct.pack(">i", -1),
])
def test_claims_allocate_nothing(stream):
    for way in ("buffer", "pipe", "fed"):
        assert survive(stream + b"x" * 100, way)[0] in ("LimitExceeded", "TruncatedStream", "CorruptStream")
    writer = piped(source_of(stream + b"x" * 100))
    run_in_small_memory("try: verify(0)\nexcept StreamError: pass", writer.stdout, 32)
    writer.stdout.close()
    writer.wait()


def test_containers_within_themselves():
    for wrap in (containers.xl, containers.libvirt, containers.libxl, containers.xenopsd,
                 lambda inner: containers.xenopsd(inner, 0xF1)):
        stream = samples.hvm()
        for _ in range(100):
            stream = wrap(stream)
            assert len(stream) < 1 << 20
        assert survive(stream)[0] == "CorruptStream"


def test_a_truncated_device_model_record_of_a_pipe_is_told():
    stream = containers.xenopsd(SMALL_LIBXC)
    for way in ("pipe", "object", "buffer"):
        with WAYS[way](stream[:-40]) as source, pytest.raises(TruncatedStream) as caught:
            xstream.verify(source)
        assert caught.value.layer == "xenopsd" and caught.value.record == 2


@pytest.mark.parametrize("config", [
    b'{"a":' * 101 + b"1" + b"}" * 101, b"[" * 500 + b"]" * 500, b"[" * 300000, b'{"a":' * 300000,
    b'{"a": ' + b"9" * 200 + b"}", b'{"a": 1e999}', b'{"a": NaN}', b'{"a": -Infinity}',
    b'{"a": "' + b"x" * (1 << 20) + b'"}',
], ids=lambda config: repr(config[:6]))
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_a_config_that_is_too_much_to_parse_is_shown_as_text(tmp_path, config, options):
    path = tmp_path / "xl"
    path.write_bytes(containers.xl(config=config + b"\0"))
    with xstream.open(str(path)) as reader, pytest.raises(StreamError) as caught:
        next(iter(reader)).config_object  # noqa: B018
    assert caught.value.layer == "xl" and caught.value.offset == 52
    status, out, err = run("info", "--records", str(path), *options)
    assert status == (4 if isinstance(caught.value, LimitExceeded) else 1) and b"JSON" in out and "parsed" in err
    if options:
        assert json.loads(out.decode(), parse_constant=pytest.fail)


def test_a_config_of_some_depth_is_shown(tmp_path):
    path = tmp_path / "xl"
    path.write_bytes(containers.xl(config=b'{"a":' * 99 + b"1" + b"}" * 99 + b"\0"))
    assert run("info", "--records", str(path))[0] == 0
    assert run("info", "--records", "--json", str(path))[0] == 0


@pytest.mark.parametrize("way", ["buffer", "mapped", "pipe", "object"])
def test_a_last_record_that_is_cut_off_is_an_error_though_nobody_reads_it(way):
    """QEMU's record is the last of an unstructured image; from a pipe, asking for the next record skips it."""
    with WAYS[way](containers.xenopsd_unstructured()[:-3]) as source, pytest.raises(TruncatedStream) as caught:
        xstream.verify(source)
    assert caught.value.missing == 3

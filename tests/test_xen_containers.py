"""Genuine xl files, and Xen's own verifier on what the package writes."""
import hashlib
import io

import containers
import pytest
import samples
from containers import JSON_CONFIG, XENOPS

import xstream


def converted(stream, to, config=None, device_model=None, no_device_model=False):
    out = io.BytesIO()
    xstream.convert(stream, out, to=to, config=config, device_model=device_model, no_device_model=no_device_model)
    return out.getvalue()


def test_genuine_files_verify_strictly(xl_stream):
    report = xstream.verify(str(xl_stream.path), strict=True)
    assert [layer.format for layer in report.layers] == ["xl", "libxl", "libxc"]
    assert report.layers[2].offset == xl_stream.about["libxc_stream"]["start"]
    assert report.bytes == xl_stream.about["bytes"]


def test_genuine_files_hold_the_memory_that_the_manifest_says(xl_stream):
    for path in (str(xl_stream.path),):
        digest = xstream.digest(path)
        assert digest.pages_sha256 == xl_stream.about["pages_sha256"]
        assert digest.populated == xl_stream.about["populated_pages"]
        assert digest.bytes == (xl_stream.about["highest_pfn"] + 1) * 4096


def test_genuine_files_survive_every_container(xl_stream):
    stream = xl_stream.path.read_bytes()
    place = xl_stream.about["libxc_stream"]
    memory = converted(stream, "libxc")
    assert memory == stream[place["start"]:place["end"]]
    assert converted(stream, "xl") == stream
    config = xstream.open(stream).next_record().config
    for to, other in (("libxl", None), ("libvirt", b"<domain/>"), ("xenopsd", XENOPS)):
        wrapped = converted(stream, to, other)
        assert converted(wrapped, "libxc") == memory
        again = converted(wrapped, "xl", bytes(config))
        if to != "xenopsd":
            assert again == stream
        else:
            # xenopsd doesn't say which QEMU's record it is.
            at = place["end"] + 8
            assert again == stream[:at] + bytes(4) + stream[at + 4:]
    assert hashlib.sha256(stream).hexdigest() == xl_stream.about["sha256"]


def test_genuine_files_have_few_rows(xl_stream):
    report = xstream.info(str(xl_stream.path))
    assert len(report.records) < 20
    assert [row.records for row in report.records if row.type == "PAGE_DATA"] == [1020]


def test_genuine_contents(xl_stream):
    rows = {row.type: row.contents for row in xstream.contents(str(xl_stream.path))}
    assert rows["SAVE_HEADER"]["config"]["c_info"]["type"] == "hvm"
    assert rows["EMULATOR_CONTEXT"]["emulator"] == "qemu-upstream"
    names = [entry["name"] for entry in rows["HVM_CONTEXT"]["entries"]]
    assert names[:2] == ["HEADER", "CPU"] and names[-1] == "END"
    assert not [entry for entry in rows["HVM_CONTEXT"]["entries"] if "error" in entry]
    assert rows["X86_CPUID_POLICY"]["vendor"] == "AuthenticAMD"


def test_genuine_files_are_accepted_as_they_are_and_rewrapped(xen_tools, xl_stream):
    stream = xl_stream.path.read_bytes()
    assert xen_tools.verify_stream_v2(converted(stream, "xl"), "xl")[0]
    assert xen_tools.verify_stream_v2(converted(stream, "libxl"), "libxl")[0]
    wrapped = converted(converted(stream, "libxc"), "xl", JSON_CONFIG, None, True)
    accepted, said = xen_tools.verify_stream_v2(wrapped, "xl")
    assert accepted, said


WRITTEN = {
    "hvm": (converted(samples.hvm(), "libxl", None, containers.QEMU), True),
    "hvm without a device model": (converted(samples.hvm(), "libxl", None, None, True), True),
    "pv": (converted(samples.pv(), "libxl"), True),
    "version 2": (converted(samples.hvm(2), "libxl", None, containers.QEMU), True),
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("format", ["libxl", "xl"])
def test_xens_verifier_accepts_what_is_written(xen_tools, name, format):
    stream, _ = WRITTEN[name]
    if format == "xl":
        stream = converted(stream, "xl", JSON_CONFIG)
    accepted, said = xen_tools.verify_stream_v2(stream, format)
    assert accepted, said


@pytest.mark.parametrize("stream, reason", [
    # Python 3: an element of bytes is never '\x00'.
    (containers.libxl(), "Data not NUL terminated"),
    # It doesn't return to libxl's records after a CHECKPOINT.
    (containers.libxl_checkpointed(2), None),
])
def test_faults_of_xens_verifier(xen_tools, stream, reason):
    xstream.verify(stream, strict=True, checkpointed=True)
    accepted, said = xen_tools.verify_stream_v2(stream, "libxl")
    assert not accepted and (reason is None or reason in said), said


def test_xens_verifier_refuses_what_is_refused_here(xen_tools):
    for stream in (containers.libxl()[:-3], containers.libxl(tail=containers.record(0x80000005, b"later")),
                   containers.libxl(tail=containers.record(3)), b"LibxlFmu" + containers.libxl()[8:],
                   containers.libxl(tail=containers.record(6))):
        assert not xen_tools.verify_stream_v2(stream, "libxl")[0]
        with pytest.raises(xstream.StreamError):
            xstream.verify(stream)

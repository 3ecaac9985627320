"""Xen's tools and the genuine streams are as the other tests assume."""
import hashlib

import genuine_streams
import pytest

# How Xen 4.17's verifier judges Xen's own streams: one that Remus captured ends after a CHECKPOINT, without END.
REJECTED = {"hvm-remus.xs": "Stream truncated"}


def test_verifies_libxc_streams(xen_tools, v3_stream):
    accepted, said = xen_tools.verify_stream_v2(v3_stream.path)
    reason = REJECTED.get(v3_stream.path.name)
    assert accepted == (reason is None), said
    assert (reason or "Libxc Record: End") in said


def test_verifies_bytes_and_refuses_a_changed_one(xen_tools, genuine_stream):
    good = genuine_stream("v3", "hvm.xs.xz").path.read_bytes()
    assert xen_tools.verify_stream_v2(good)[0]
    accepted, said = xen_tools.verify_stream_v2(good[:8] + b"?" + good[9:])
    assert not accepted
    assert "StreamError" in said


def test_verifies_xl_save_files(xen_tools, xl_stream):
    accepted, said = xen_tools.verify_stream_v2(xl_stream.path, format="xl")
    # It has no answer to emulator records that aren't empty (and real ones aren't).
    assert accepted or "EMULATOR" in said.upper(), said


def test_converts_a_legacy_stream(xen_tools, genuine_stream):
    legacy = genuine_stream("legacy", "hvm64-legacy.xz")
    converted, said = xen_tools.convert_legacy_stream(legacy.path, "hvm", 64, format="libxl")
    assert converted is not None, said
    assert converted.startswith(b"LibxlFmt")
    assert xen_tools.convert_legacy_stream(legacy.path, "pv", 64)[0] is None


@pytest.mark.parametrize("group, size, digest", [("v3", "bytes", "sha256"), ("xl", "bytes", "sha256"),
                                                 ("legacy", "stream_bytes", "stream_sha256")])
def test_streams_are_what_their_manifests_say(genuine_stream, group, size, digest):
    assert genuine_streams.names(group)
    for name in genuine_streams.names(group):
        path, about, _ = genuine_stream(group, name)
        stream = path.read_bytes()
        assert (len(stream), hashlib.sha256(stream).hexdigest()) == (about[size], about[digest])

"""Legacy streams that Xen 4.4 and 4.5 wrote: loaded, and converted as Xen's own converter does where it is right."""
import hashlib
import io

import pytest
from ways import WAYS

import xstream


def is_remus(stream):
    return "remus" in stream.path.name


@pytest.mark.parametrize("way", ["mapped", "pipe"])
def test_memory_is_the_manifests(legacy_stream, way):
    with WAYS[way](legacy_stream.path.read_bytes()) as source:
        report = xstream.digest(source, checkpointed=is_remus(legacy_stream))
    memory = legacy_stream.about["memory"]
    assert (report.pages_sha256, report.sha256) == (memory["pages_sha256"], memory["flat_sha256"])
    assert report.populated == memory["populated_pages"]
    assert report.bytes == 4096 * legacy_stream.about["p2m_size"]


@pytest.mark.parametrize("way", ["mapped", "pipe"])
def test_converted(legacy_stream, way, xen_tools):
    out = io.BytesIO()
    with WAYS[way](legacy_stream.path.read_bytes()) as source:
        xstream.convert(source, out)
    report = xstream.digest(out.getvalue(), checkpointed=is_remus(legacy_stream))
    assert report.pages_sha256 == legacy_stream.about["memory"]["pages_sha256"]
    peer = legacy_stream.about["peers"]["py3.11 libxc"]
    if peer["convert"] == "ok" and peer["memory"] == "same" and "debug" not in legacy_stream.path.name:
        assert hashlib.sha256(out.getvalue()).hexdigest() == peer["output_sha256"]
    if not is_remus(legacy_stream) and "xl_header" not in legacy_stream.about:
        accepted, said = xen_tools.verify_stream_v2(out.getvalue())
        assert accepted, said

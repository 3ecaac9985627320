"""Streams that Xen wrote: read, checked, loaded, written back, and what we write taken by Xen's own verifier."""
import hashlib
import io
import json

import numpy
import pytest
from ways import WAYS

import xstream
from xstream import (
    CpuidPolicy,
    DomainHeader,
    GuestMemory,
    ImageHeader,
    MsrPolicy,
    PageData,
    Reader,
    StaticDataEnd,
    Writer,
)


def is_checkpointed(stream):
    return "remus" in stream.path.name


def rewrite(source, version=None, **options):
    """The stream decoded and encoded again, by record objects."""
    out = io.BytesIO()
    with Reader(source, **options) as reader:
        image = reader.image if version is None else reader.image._replace(version=version)
        writer = Writer(out, reader.domain, image, **options)
        for record in reader:
            if image.version == 3 or not isinstance(record, (StaticDataEnd, CpuidPolicy, MsrPolicy)):
                writer.write(record)
    return out.getvalue()


def test_verify_agrees(v3_stream):
    report = xstream.verify(str(v3_stream.path), checkpointed=is_checkpointed(v3_stream))
    assert report.records == len(v3_stream.about["records"])
    assert report.bytes == v3_stream.about["bytes"]
    xstream.verify(str(v3_stream.path), checkpointed=is_checkpointed(v3_stream), strict=True)


def test_records_are_the_manifests(v3_stream):
    rows = xstream.info(str(v3_stream.path)).records
    folded = []
    for kind, size in v3_stream.about["records"]:
        name = xstream.wire.libxc.type_name(kind)
        if folded and folded[-1][0] == name:
            folded[-1][1] += size + 8 + -size % 8
        else:
            folded.append([name, size + 8 + -size % 8])
    assert [[row.type, row.bytes] for row in rows] == folded


@pytest.mark.parametrize("way", ["mapped", "pipe", "object"])
def test_memory_is_the_manifests(v3_stream, way):
    memory = GuestMemory()
    with WAYS[way](v3_stream.path.read_bytes()) as source:
        xstream.load(source, memory, checkpointed=is_checkpointed(v3_stream))
    about = v3_stream.about
    assert len(memory) == about["pfns"]
    assert hashlib.sha256(memory.pages).hexdigest() == about["final_memory_sha256"]
    assert memory.types.tolist() == list(bytes.fromhex(about["final_types"]))


def test_extract_and_digest(v3_stream, tmp_path):
    out = tmp_path / "image"
    checkpointed = is_checkpointed(v3_stream)
    xstream.extract(str(v3_stream.path), str(out), checkpointed=checkpointed)
    assert hashlib.sha256(out.read_bytes()).hexdigest() == v3_stream.about["final_memory_sha256"]
    report = xstream.digest(str(v3_stream.path), checkpointed=checkpointed)
    assert report.sha256 == v3_stream.about["final_memory_sha256"]
    memory = GuestMemory()
    xstream.load(str(v3_stream.path), memory, checkpointed=checkpointed)
    pages = memory.pages[memory.populated]
    assert report.pages_sha256 == hashlib.sha256(pages.tobytes()).hexdigest()
    assert report.populated == len(pages)
    pairs = list(xstream.page_digests(str(v3_stream.path), checkpointed=checkpointed))
    assert [pfn for pfn, _ in pairs] == numpy.flatnonzero(memory.populated).tolist()


@pytest.mark.parametrize("way", ["mapped", "pipe"])
def test_decoded_and_encoded_it_is_the_same_bytes(v3_stream, way):
    data = v3_stream.path.read_bytes()
    with WAYS[way](data) as source:
        assert rewrite(source, checkpointed=is_checkpointed(v3_stream)) == data


@pytest.mark.parametrize("version", [2, 3])
def test_xen_accepts_what_the_writer_writes(v3_stream, version, xen_tools):
    if is_checkpointed(v3_stream):
        # A checkpointed stream has no END, and it misses nothing else.
        written = rewrite(str(v3_stream.path), version=version, checkpointed=True)
        accepted, said = xen_tools.verify_stream_v2(written)
        assert not accepted and said.rstrip().endswith("Stream truncated"), said
        return
    written = rewrite(str(v3_stream.path), version=version)
    accepted, said = xen_tools.verify_stream_v2(written)
    assert accepted, said
    memory = GuestMemory()
    xstream.load(written, memory)
    assert hashlib.sha256(memory.pages).hexdigest() == v3_stream.about["final_memory_sha256"]


@pytest.mark.parametrize("version", [2, 3])
def test_xen_accepts_what_is_written_from_arrays(v3_stream, version, xen_tools):
    """The final state alone, out of a guest memory, in batches formed by the writer."""
    checkpointed = is_checkpointed(v3_stream)
    memory = GuestMemory()
    out = io.BytesIO()
    with Reader(str(v3_stream.path), checkpointed=checkpointed) as reader:
        records = list(reader)
        xstream.load(str(v3_stream.path), memory, checkpointed=checkpointed)
        last = {type(record): at for at, record in enumerate(records)}
        last_page = last.pop(PageData)
        writer = Writer(out, reader.domain, ImageHeader(version))
        sent = False
        for at, record in enumerate(records):
            if at > last_page and not sent:
                sent = True
                writer.write_pages(numpy.arange(len(memory), dtype=numpy.uint64), memory.types, memory)
            if isinstance(record, (PageData, xstream.Checkpoint, xstream.Verify)) or (
                    version == 2 and isinstance(record, (StaticDataEnd, CpuidPolicy, MsrPolicy))):
                continue
            if not checkpointed or last[type(record)] == at:
                if checkpointed and not sent and isinstance(record, (xstream.TscInfo, xstream.HvmContext)):
                    sent = True
                    writer.write_pages(numpy.arange(len(memory), dtype=numpy.uint64), memory.types, memory)
                writer.write(record)
        if checkpointed:
            writer.write(xstream.End())
    accepted, said = xen_tools.verify_stream_v2(out.getvalue())
    assert accepted, said
    again = GuestMemory()
    xstream.load(out.getvalue(), again)
    assert again.pages.tobytes() == memory.pages.tobytes() and again.types.tolist() == memory.types.tolist()


def test_streams_inside_xl_files(xl_stream):
    """The libxc stream begins at an offset that is no multiple of 8."""
    about = xl_stream.about
    inner = memoryview(xl_stream.path.read_bytes())[about["libxc_stream"]["start"]:about["libxc_stream"]["end"]]
    report = xstream.digest(inner)
    assert (report.populated, report.pages_sha256) == (about["populated_pages"], about["pages_sha256"])
    assert report.bytes == 4096 * (about["highest_pfn"] + 1)
    surveyed = xstream.info(inner)
    assert surveyed.guest == "x86 HVM" and len(surveyed.records) < 20
    json.dumps(surveyed)


def test_types_named_in_headers(v3_stream):
    with Reader(str(v3_stream.path)) as reader:
        assert isinstance(reader.domain, DomainHeader) and reader.identity.guest in ("x86 PV", "x86 HVM")
        assert reader.identity.made_by == "Xen 4.17"

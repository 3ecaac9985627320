"""Writing libxc streams."""
import io
import os
import socket
import threading

import numpy
import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st
from superpages import superpages
from ways import records_of

import xstream
from xstream import DomainHeader, GuestMemory, ImageHeader, PageData, Reader, Writer

HVM = DomainHeader(type=2)


def writer(out=None, **options):
    made = Writer(out if out is not None else io.BytesIO(), HVM, **options)
    made.write(xstream.StaticDataEnd())
    return made


def rewrite(stream, **options):
    out = io.BytesIO()
    with Reader(stream, **options) as reader:
        made = Writer(out, reader.domain, reader.image, **options)
        for record in reader:
            made.write(record)
    return out.getvalue()


@pytest.mark.parametrize("stream", [stream for _, stream in samples.SMALL] + [
    samples.hvm().replace(samples.headers(), samples.headers(reserved=(7, 8, 9), options=0xFFFE)),
    samples.hvm(memory=samples.batch([samples.word(1, 0, 0xAB)], [samples.page(1)], reserved=77)),
    samples.hvm(memory=samples.record(0x80001234, b"unknown", padding=0x5A)),
    samples.hvm(tail=samples.record(0x0D, b"12345", padding=1) + samples.record(0x00, b"6")),
    samples.hvm(tail=samples.tsc_info()[:-4] + b"abcd" + samples.end()),
    samples.pv().replace(samples.pv_info(), samples.record(2, b"\x08\x04123456rest", padding=9)),
    samples.pv(tail=samples.vcpu(5, 0xFFFFFFFF, b"") + samples.pv_tail()),
], ids=lambda stream: "")
def test_decode_then_encode_is_the_same_bytes(stream):
    assert rewrite(stream) == stream


@given(kind=st.integers(0x80000000, 0xFFFFFFFF), body=st.binary(max_size=40), padding=st.integers(0, 255))
def test_any_optional_record_survives(kind, body, padding):
    stream = samples.hvm(memory=samples.record(kind, body, padding=padding))
    assert rewrite(stream) == stream


@pytest.mark.parametrize("record", [
    xstream.PageData(b"", b""), PageData(bytes(8), b""), PageData(bytes(8), bytes(4095)),
    PageData(samples.word(1, 5).to_bytes(8, "little"), b""),
    PageData(samples.word(2 ** 40).to_bytes(8, "little"), bytes(4096)),
    xstream.StaticDataEnd(), xstream.PVInfo(8, 4), xstream.SharedInfo(bytes(4096)), xstream.Checkpoint(),
    xstream.CheckpointDirtyPfnList(bytes(8)), xstream.CpuidPolicy(bytes(23)), xstream.TscInfo(1, 2, 3, 4, padding=b"1"),
    xstream.Unknown(0x42, b""), xstream.HvmContext(bytes((16 << 20) + 1)),
])
def test_what_a_reader_would_refuse_isnt_written(record):
    out = io.BytesIO()
    made = writer(out)
    size = len(out.getvalue())
    with pytest.raises(xstream.StreamError) as caught:
        made.write(record)
    assert caught.value.layer == "libxc" and caught.value.record == 1 and caught.value.offset >= size
    assert len(out.getvalue()) == size
    # The stream isn't spoilt by it.
    made.write(xstream.End())
    records_of(out.getvalue())


def test_headers_that_a_reader_would_refuse_arent_written():
    for domain, image in ((DomainHeader(3), ImageHeader()), (HVM, ImageHeader(1)), (HVM, ImageHeader(3, options=1))):
        with pytest.raises(xstream.UnsupportedStream):
            Writer(io.BytesIO(), domain, image)


def test_nothing_behind_end():
    made = writer()
    made.write(xstream.End())
    with pytest.raises(xstream.OrderError):
        made.write(xstream.Unknown(0x80000000, b""))


def arrays(count, seed=1):
    rng = numpy.random.RandomState(seed)
    pfns = rng.permutation(count * 2)[:count].astype(numpy.uint64)
    types = rng.choice(numpy.array([0, 0, 0, 1, 0xA, 0xD, 0xE, 0xF], numpy.uint8), count)
    carrying = (types < 5) | ((types > 8) & (types < 0xD))
    return pfns, types, carrying, rng.randint(0, 256, (int(carrying.sum()), 4096)).astype(numpy.uint8)


@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 3000])
def test_batches_from_arrays(count):
    pfns, types, carrying, pages = arrays(count)
    out = io.BytesIO()
    writer(out).write_pages(pfns, types, pages)
    batches = [record for record in Reader(out.getvalue() + samples.end()) if isinstance(record, PageData)]
    assert [batch.pfn_count for batch in batches] == [1024] * (count // 1024) + [count % 1024] * (count % 1024 > 0)
    assert numpy.concatenate([batch.pfns for batch in batches]).tolist() == pfns.tolist()
    assert numpy.concatenate([batch.types for batch in batches]).tolist() == types.tolist()
    assert numpy.concatenate([batch.pages for batch in batches]).tobytes() == pages.tobytes()


def test_batches_of_ascending_pfns_keep_2_mib_pages_whole():
    pfns = [*range(5, 1001), *range(1536, 2048), *range(2050, 4200), 9000, 9001, *range(20480, 20992)]
    out = io.BytesIO()
    writer(out).write_pages(numpy.array(pfns, numpy.uint64), bytes(len(pfns)), bytes(4096 * len(pfns)))
    out.write(samples.end())
    batches = [record.pfns.tolist() for record in Reader(out.getvalue()) if isinstance(record, PageData)]
    assert sum(batches, []) == pfns
    assert all(len({pfn // 1024 for pfn in batch}) == 1 for batch in batches)
    assert superpages(out.getvalue()) == superpages(out.getvalue(), one_record=True) == 5


def through(kind):
    """A descriptor to write to, and a function that returns what was written."""
    if kind == "file":
        fd = os.memfd_create("out") if hasattr(os, "memfd_create") else os.open("/tmp", os.O_TMPFILE | os.O_RDWR)

        def content():
            os.lseek(fd, 0, os.SEEK_SET)
            with os.fdopen(fd, "rb") as file:
                return file.read()
        return fd, content
    reading, writing = os.pipe() if kind == "pipe" else (end.detach() for end in socket.socketpair())
    if kind == "non-blocking socket":
        os.set_blocking(writing, False)
    got = []

    def read():
        with os.fdopen(reading, "rb") as file:
            got.append(file.read())
    thread = threading.Thread(target=read)
    thread.start()

    def drain():
        os.close(writing)
        thread.join()
        return got[0]
    return writing, drain


@pytest.mark.parametrize("kind", ["file", "pipe", "socket", "non-blocking socket"])
def test_descriptors_get_what_objects_get(kind):
    pfns, types, carrying, pages = arrays(2500)
    memory = GuestMemory(5000)
    memory.pages[pfns[carrying].astype(int)] = pages
    expected = io.BytesIO()
    fd, content = through(kind)
    for sink, given_pages in ((expected, pages), (fd, memory)):
        made = writer(sink)
        made.write_pages(pfns, types, given_pages)
        made.write(xstream.End())
    assert content() == expected.getvalue()


@pytest.mark.parametrize("options", [{}, {"limits": xstream.Limits(batch_pfns=1000)}])
@pytest.mark.parametrize("bad", [3, 20 * 1024 + 7])
def test_a_bad_word_among_many_batches_is_found_before_its_batch_is_written(options, bad):
    """However many batches go into one call."""
    memory = GuestMemory(24 * 1024)
    pfns = numpy.arange(len(memory), dtype=numpy.uint64)
    types = numpy.full(len(memory), 15, numpy.uint8)  # no pages
    types[bad] = 5
    fd, content = through("file")
    made = writer(fd, **options)
    begin = made.sink.offset
    with pytest.raises(xstream.StreamError) as caught:
        made.write_pages(pfns, types, memory)
    whole = 0 if options else bad // 1024
    assert len(content()) == made.sink.offset == begin + whole * (16 + 8 * 1024) and caught.value.record == 1 + whole
    assert caught.value.field == ("count" if options else "pfn[{}]".format(bad % 1024))


def test_memory_through_an_object():
    pfns, types, carrying, pages = arrays(1500)
    memory = GuestMemory(3000)
    memory.pages[pfns[carrying].astype(int)] = pages
    outs = io.BytesIO(), io.BytesIO()
    for out, given_pages in zip(outs, (pages, memory)):
        writer(out).write_pages(pfns, types, given_pages)
    assert outs[0].getvalue() == outs[1].getvalue()


def test_arrays_that_dont_fit_together():
    one = numpy.zeros(1, numpy.uint64)
    kind = numpy.zeros(1, numpy.uint8)
    for pages in (bytes(4095), bytes(8192), b""):
        with pytest.raises(ValueError):
            writer().write_pages(one, kind, pages)
    with pytest.raises(ValueError):
        writer().write_pages(one, numpy.zeros(2, numpy.uint8), bytes(4096))


def test_a_full_disk_is_the_environments_fault():
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError):
        Writer(full.fileno(), HVM)


def test_an_object_that_takes_little_at_a_time():
    class Slow(io.BytesIO):
        def write(self, data):
            return super().write(bytes(data[:100]))
    slow, quick = Slow(), io.BytesIO()
    for out in (slow, quick):
        pfns, types, _, pages = arrays(10)
        writer(out).write_pages(pfns, types, pages)
    assert slow.getvalue() == quick.getvalue()

"""Hostile legacy bytes: a result or one of our errors, in bounded memory, through every kind of source."""
import io
import os
import struct
import subprocess
import sys
import textwrap

import legacy_samples as samples
import pytest
from legacy_samples import ALL_ONES, XTAB, batch, chunk, page, ulongs, word
from ways import WAYS, whole

import xstream
from xstream import CorruptStream, LegacyReader, LimitExceeded, OrderError, StreamError, UnsupportedStream
from xstream.wire import legacy

STREAMS = {
    "hvm": samples.hvm(4, memory=batch(4, [word(1), word(0, XTAB)], [page(1)]),
                       chunks=samples.tmem([(0, 1, samples.tmem_page(1))]) + samples.tmem_extra()
                       + samples.toolstack(samples.physmap(4, [(1, 2, 3, b"n\0")]))),
    "pv": samples.pv(8, 4),
    "remus": samples.remus(4, [batch(4, [word(0)]) + samples.compressed(4, b"\x01CHNG" + b"\xff" * 8 + b"\x87")],
                           compress=True),
}
FAST_WAYS = ("buffer", "object", "fed", "pipe")


def survive(stream, way="buffer"):
    with WAYS[way](stream) as source:
        try:
            with LegacyReader(source) as reader:
                return [(reader.index, reader.offset, whole(record)) for record in reader]
        except StreamError as error:
            assert error.layer == "legacy" and error.offset is not None and 0 <= error.offset <= len(stream), error
            assert str(error) and error.as_dict()
            return error


def outcome(result):
    return (type(result).__name__, result.offset, result.field) if isinstance(result, StreamError) else result


def boring(stream, at):
    """Within the bytes of a page or a blob, which all mean the same: nothing."""
    around = stream[max(at - 16, 0):at + 16]
    return at % 97 and (around == around[:8] * 4 or len(set(around)) == 1)


@pytest.mark.parametrize("way", FAST_WAYS)
@pytest.mark.parametrize("name", STREAMS)
def test_every_byte_changed(name, way):
    stream = STREAMS[name]
    for at in range(len(stream)):
        if boring(stream, at):
            continue
        for value in {0, 1, 0x80, 0xFF, stream[at] ^ 0x10} - {stream[at]}:
            changed = stream[:at] + bytes([value]) + stream[at + 1:]
            result = survive(changed, way)
            if way != "buffer" and at % 16 == 0:
                assert outcome(result) == outcome(survive(changed))


@pytest.mark.parametrize("name", STREAMS)
def test_every_byte_changed_for_the_tools(name):
    stream = STREAMS[name]
    for at in range(len(stream)):
        if boring(stream, at):
            continue
        for value in (0, 0xFF, stream[at] ^ 1):
            changed = stream[:at] + bytes([value]) + stream[at + 1:]
            for work in (lambda data: xstream.load(data, xstream.GuestMemory(limit=64), format="legacy"),
                         lambda data: xstream.convert(data, io.BytesIO(), format="legacy", to="libxl"),
                         lambda data: xstream.info(data, format="legacy")):
                try:
                    work(changed)
                except xstream.MissingPart:  # the device model's record has become empty
                    pass
                except StreamError as error:
                    assert error.layer in ("legacy", "libxc") and error.offset is not None


@pytest.mark.parametrize("way", FAST_WAYS)
@pytest.mark.parametrize("name", STREAMS)
def test_every_truncation(name, way):
    stream = STREAMS[name]
    full = survive(stream)
    for length in range(len(stream)):
        if boring(stream, length):
            continue
        result = survive(stream[:length], way)
        if isinstance(result, StreamError):
            assert isinstance(result, xstream.TruncatedStream) and result.offset == length and result.missing > 0
        else:
            assert name == "remus" and result == full[:len(result)]


def error_of(stream, **options):
    with pytest.raises(StreamError) as caught, LegacyReader(stream, **options) as reader:
        for record in reader:
            whole(record)
    return caught.value


def hvm_with(chunks):
    return ulongs(8, 16) + samples.tsc_info() + chunks


@pytest.mark.parametrize("chunks, kind, field", [
    (chunk(1025), CorruptStream, "count"),
    (chunk(2 ** 31 - 1), CorruptStream, "count"),
    (chunk(-22), UnsupportedStream, "id"),
    (chunk(-2 ** 31), UnsupportedStream, "id"),
    (chunk(-2, struct.pack("<iQ", -1, 1)), CorruptStream, "max_vcpu_id"),
    (chunk(-2, struct.pack("<iQ", 4096, 1)), CorruptStream, "max_vcpu_id"),
    (chunk(-2, struct.pack("<iQ", -2 ** 31, 1)), CorruptStream, "max_vcpu_id"),
    (samples.compressed(8, b""), OrderError, "id"),
    (chunk(-9) + chunk(-13), OrderError, "id"),
    (chunk(-18, struct.pack("<I", ALL_ONES)), LimitExceeded, "length"),
    (samples.tmem(head=struct.pack("<7I", 1, 16, 0, 2, 3, 4, ALL_ONES)), CorruptStream, "marker"),
    (samples.tmem(head=struct.pack("<7I", 1, 16, ALL_ONES, 2, 3, 4, 0)), CorruptStream, "marker"),
    (batch(8, [word(16)], [page(1)]), CorruptStream, "pfn[0]"),
    (batch(8, [word(1), word(1, 5)], [page(1)]), CorruptStream, "pfn[1]"),
    (batch(8, [word(1, 7)]), CorruptStream, "pfn[0]"),
    (batch(8, [1 << 32]), CorruptStream, "pfn[0]"),
    (chunk(0) + bytes(24) + struct.pack("<I", ALL_ONES), LimitExceeded, "length of the HVM context"),
    (chunk(0) + samples.hvm_tail(signature=b"SomethingElseEntirely"), UnsupportedStream, "signature"),
    (chunk(0) + samples.hvm_tail(length=ALL_ONES), LimitExceeded, "length"),
])
def test_bad_chunks(chunks, kind, field):
    error = error_of(hvm_with(chunks))
    assert isinstance(error, kind) and error.field == field


def test_claims_of_compressed_checkpoints():
    for width, length in ((8, 2 ** 64 - 1), (8, 2 ** 63), (4, ALL_ONES)):
        body = batch(width, [word(0)]) + chunk(-12, ulongs(width, length))
        error = error_of(samples.remus(width, [body], compress=True))
        assert isinstance(error, LimitExceeded) and error.record_type == "COMPRESSED_PAGES"


@pytest.mark.parametrize("form", [
    b"\x01NEW!\x00", b"\xff" * 9 + b"\x7f" + bytes(508), b"\xff" * 9, b"\x05abc", b"\0\0", b"\x80" + bytes(4000), b"",
    b"\0" * 6000,
])
def test_bad_deltas(form):
    """Runs of nothing or past the page, too few pages and too many."""
    stream = samples.remus(8, [batch(8, [word(0)]) + samples.compressed(8, form)], compress=True)
    for way in ("buffer", "pipe"):
        for work in (lambda source: xstream.load(source, xstream.GuestMemory()),
                     lambda source: xstream.convert(source, io.BytesIO(), checkpointed=True)):
            with WAYS[way](stream) as source, pytest.raises(CorruptStream) as caught:
                work(source)
            assert caught.value.layer == "legacy" and caught.value.field == "compressed pages"


def test_pv_heads():
    for size in (0, 1 << 28, 2 ** 32, 2 ** 64 - 1):
        assert isinstance(error_of(ulongs(8, size) + b"\xff" * 8, width=8), CorruptStream)
    head = ulongs(8, 16) + b"\xff" * 8
    assert isinstance(error_of(head + struct.pack("<I", ALL_ONES)), LimitExceeded)
    for blocks in (b"", b"extv" + bytes(4), b"vcpu" + struct.pack("<I", 100) + bytes(100),
                   b"vcpu" + struct.pack("<I", 9), b"vcpu", b"xcnt" + struct.pack("<IH", 2, 1)):
        error = error_of(head + struct.pack("<I", len(blocks)) + blocks)
        assert isinstance(error, CorruptStream) and error.record_type == "EXTENDED_INFO"
    frames = ulongs(8, 16) + samples.extended_info(8, 8) + ulongs(8, 16)
    assert error_of(frames).field == "p2m_frame_list[0]"
    unknown = samples.pv_head(8, 8, others=b"what" + struct.pack("<I", 3) + b"new")
    stream = samples.pv().replace(samples.pv_head(8, 8), unknown)
    assert len(survive(stream)) == len(survive(samples.pv()))
    assert isinstance(error_of(stream, strict=True), xstream.StrictViolation)


def test_pv_tails():
    body = samples.pv_head(8, 8) + chunk(-9) + chunk(0)
    assert error_of(body + struct.pack("<I", 17)).field == "count"
    assert error_of(body + struct.pack("<I", ALL_ONES)).field == "count"
    assert error_of(body + struct.pack("<IQ", 1, 16)).field == "pfn"
    for size in (1, 15, 2 ** 63, 2 ** 64 - 1):
        tail = struct.pack("<I", 0) + bytes(0x1430 + 128) + struct.pack("<QQ", 1, size)
        assert isinstance(error_of(body + tail), (CorruptStream, LimitExceeded))
    # Version 3 needs vcpu 0, and the old restore takes the start info from its registers.
    stream = samples.pv().replace(samples.vcpu_info(0, 2), samples.vcpu_info(1, 2))
    for work in (xstream.verify, lambda source: xstream.convert(source, io.BytesIO())):
        with pytest.raises(xstream.IncompleteStream, match="vcpu 0"):
            work(stream)
    assert isinstance(error_of(samples.pv_head(8, 8) + samples.param(-3, 1)), CorruptStream)


@pytest.mark.parametrize("blob", [
    b"\1\0\0\0", struct.pack("<II", 2, 0), struct.pack("<II", 1, ALL_ONES), samples.physmap(8, [], count=1),
    samples.physmap(8, [(1, 2, 3, b"name")]), samples.physmap(8, [(1, 2, 3, b"a\0b\0")]),
    samples.physmap(8, [(1, 2, 3, b"n\0")])[:-1], struct.pack("<IIQQQI", 1, 1, 1, 2, 3, ALL_ONES),
])
def test_bad_physmaps(blob):
    stream = samples.hvm(8, chunks=samples.toolstack(blob))
    with pytest.raises(StreamError) as caught:
        xstream.convert(stream, io.BytesIO(), to="libxl")
    at = stream.index(samples.toolstack(blob))
    assert caught.value.layer == "legacy" and at <= caught.value.offset <= at + 8 + max(len(blob), 4) + 28
    xstream.convert(stream, io.BytesIO())  # which has no place for it


def test_limits():
    limits = xstream.Limits(guest_pfns=8)
    assert isinstance(error_of(samples.pv(), limits=limits), LimitExceeded)
    assert not isinstance(survive(samples.hvm()), StreamError)
    high = samples.hvm(memory=batch(8, [word(9)], [page(1)]))
    assert isinstance(error_of(high, limits=limits), LimitExceeded)
    waiting = b"".join(batch(8, list(range(16))) for _ in range(10))
    with pytest.raises(LimitExceeded):
        xstream.load(samples.remus(8, [waiting], compress=True), xstream.GuestMemory(),
                     limits=xstream.Limits(batch_pfns=100))
    rest = samples.hvm(tail=samples.hvm_tail(signature=legacy.XEND_DEVICE_MODEL, blob=bytes(100)))
    assert isinstance(error_of(rest, limits=xstream.Limits(body_length=99)), LimitExceeded)
    assert survive(rest)[-1][2].blob == bytes(100)


def test_strict():
    for stream in (samples.hvm(memory=batch(8, [word(7, XTAB)])), hvm_with(samples.param(-3, 1, padding=5)),
                   hvm_with(chunk(-2, struct.pack("<iQ", 0, 3)))):
        assert isinstance(error_of(stream, strict=True), xstream.StrictViolation)
    assert not isinstance(survive(samples.hvm(memory=batch(8, [word(7, XTAB)]))), StreamError)


@pytest.mark.parametrize("what", ["batches", "checkpoints", "compressed", "tmem", "rest"])
def test_endless_streams_in_bounded_memory(what):
    """What comes for ever: read, loaded and converted with little memory until it stops coming."""
    bodies = {
        "batches": (samples.remus(8)[:-len(samples.hvm_tail(blob=b"0")) - 4], batch(8, [word(0, 0xE)] * 1000), 3000),
        "checkpoints": (samples.remus(8), batch(8, [word(0)], [page(1)]) + chunk(0) + samples.hvm_tail(), 3000),
        "compressed": (samples.remus(8, compress=True), batch(8, [word(0)]) + samples.compressed(8, b"\0"), 30000),
        "tmem": (samples.hvm()[:8] + samples.tmem()[:-4] + struct.pack("<III16s", 1, 0, ALL_ONES, b""),
                 samples.tmem_page(1), 20000),
        "rest": (samples.hvm(tail=samples.hvm_tail(signature=legacy.XEND_DEVICE_MODEL)), bytes(4096), 20000),
    }
    start, body, times = bodies[what]
    script = textwrap.dedent("""
        import io, os, sys, threading
        import xstream
        start, body, times = {!r}, {!r}, {!r}
        def write(fd):
            try:
                with os.fdopen(fd, "wb") as out:
                    out.write(start)
                    for _ in range(times):
                        out.write(body)
            except BrokenPipeError:
                pass
        for work in (xstream.verify, lambda source: xstream.load(source, xstream.GuestMemory()),
                     lambda source: xstream.convert(source, os.open(os.devnull, os.O_WRONLY))):
            reading, writing = os.pipe()
            thread = threading.Thread(target=write, args=(writing,))
            thread.start()
            try:
                work(reading)
            except xstream.StreamError:
                pass
            os.close(reading)
            thread.join()
        with open("/proc/self/status") as file:
            peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
        assert peak < 96 << 10, peak
        """).format(start, body, times)
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    assert subprocess.call([sys.executable, "-c", script], env=environment) == 0

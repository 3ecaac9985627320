"""Hostile bytes: a result or one of our errors, in bounded memory, through every kind of source."""
import os
import struct
import subprocess
import sys
import textwrap

import pytest
import samples
from samples import HVM, XTAB, batch, headers, page, record, static_data_end, word
from ways import WAYS, records_of

import xstream
from xstream import LimitExceeded, StreamError, TruncatedStream

# One for each guest type, as small as they come.
STREAMS = {
    "hvm": headers(HVM) + samples.policies() + static_data_end()
           + batch([word(1), word(2, XTAB)], [page(1)]) + samples.tsc_info() + samples.hvm_context()
           + samples.hvm_params() + record(0x80000001, b"odd") + samples.end(),
    "pv": samples.pv(width=4),
}
FAST_WAYS = ("buffer", "object", "fed", "pipe")

#: What follows the memory of an HVM guest.
HVM_END = samples.tsc_info() + samples.hvm_context() + samples.hvm_params() + samples.end()


def survive(stream, way="buffer", **options):
    """The result of reading: the records, or the error, which must be a StreamError."""
    with WAYS[way](stream) as source:
        try:
            return records_of(source, **options)
        except StreamError as error:
            assert error.layer == "libxc" and error.offset is not None and 0 <= error.offset <= len(stream)
            assert str(error)
            return error


def outcome(result):
    return (type(result).__name__, result.offset, result.field) if isinstance(result, StreamError) else result


@pytest.mark.parametrize("way", FAST_WAYS)
@pytest.mark.parametrize("name", STREAMS)
def test_every_byte_changed(name, way):
    stream = STREAMS[name]
    for at in range(len(stream)):
        # Nothing interprets the bytes within a page or a blob: a few of them are enough.
        if at % 5 and stream[at - 64:at + 64] in (bytes(128), page(1)[:128]):
            continue
        for value in {0, 1, 0x80, 0xFF, stream[at] ^ 0x10} - {stream[at]}:
            changed = stream[:at] + bytes([value]) + stream[at + 1:]
            result = survive(changed, way)
            if way != "buffer" and at % 16 == 0:
                assert outcome(result) == outcome(survive(changed))


@pytest.mark.parametrize("way", FAST_WAYS)
@pytest.mark.parametrize("name", STREAMS)
def test_every_truncation(name, way):
    stream = STREAMS[name]
    for length in range(len(stream)):
        result = survive(stream[:length], way)
        assert isinstance(result, StreamError), length
        if length >= 8:
            assert isinstance(result, TruncatedStream), (length, result)
            assert result.offset == length and 0 < result.missing <= len(stream) - length


@pytest.mark.parametrize("name", STREAMS)
def test_every_byte_changed_and_loaded(name, tmp_path):
    stream = STREAMS[name]
    for at in range(0, len(stream), 3):
        for value in {0, 0xFF} - {stream[at]}:
            changed = stream[:at] + bytes([value]) + stream[at + 1:]
            for work in (lambda source: xstream.load(source, xstream.GuestMemory(limit=1 << 20)), xstream.info,
                         xstream.verify):
                try:
                    work(changed)
                except StreamError as error:
                    # With another marker it is no longer recognised as a libxc stream.
                    layers = ("libxc",) if at >= 8 else (None, "legacy")
                    assert error.layer in layers and error.offset is not None


CLAIMS = {
    "a record of 4 GiB": (record(0x09, b"", length=0xFFFFFFFF), LimitExceeded),
    "a body of 100 MiB": (record(0x09, b"", length=100 << 20), LimitExceeded),
    "a batch of 128 MiB": (struct.pack("<II", 1, 128 << 20), TruncatedStream),
    "a count of 2**32-1": (record(1, struct.pack("<II", 0xFFFFFFFF, 0) + bytes(64)), xstream.CorruptStream),
    "a million words that aren't there": (struct.pack("<IIII", 1, 16 << 20, 1 << 20, 0), TruncatedStream),
    "more words than the limit": (struct.pack("<IIII", 1, 16 << 20, (1 << 20) + 1, 0), LimitExceeded),
    "PFNs of 52 bits": (batch([word(2 ** 52 - 1)], [page(0)]), LimitExceeded),
    "params of 4 GiB": (record(0x0A, struct.pack("<II", 0x0FFFFFFF, 0)), xstream.CorruptStream),
}


@pytest.mark.parametrize("way", ("buffer", "object", "fed", "pipe", "socket"))
@pytest.mark.parametrize("name", CLAIMS)
def test_claims(name, way):
    claim, kind = CLAIMS[name]
    error = survive(headers(HVM) + static_data_end() + claim, way)
    assert type(error) is kind
    assert error.record == 1


def run_in_small_memory(code, stdin, megabytes):
    """Run code in a Python that may use ``megabytes`` more address space than after importing the package."""
    script = textwrap.dedent("""
        import resource, sys
        import numpy, xstream
        from xstream import *
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        before = peak()
        """) + textwrap.dedent(code) + textwrap.dedent("""
        print("grew", peak() - before)
        """)
    done = subprocess.run([sys.executable, "-c", script], stdin=stdin, stdout=subprocess.PIPE, timeout=300, check=True)
    grew = int(done.stdout.decode().split("grew ")[1])
    assert grew < megabytes * 1024, "{} KiB".format(grew)
    return done.stdout.decode()


def piped(write):
    """A pipe into which a child process writes what ``write`` (source text) writes to ``out``."""
    code = "import os, struct, sys\nout = os.fdopen(1, 'wb', 65536)\n" + textwrap.dedent(write) + "\nout.flush()\n"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)


def source_of(*parts):
    return "\n".join("out.write({!r})".format(part) for part in parts)


@pytest.mark.parametrize("verb", ["verify(0)", "info(0)", "load(0, GuestMemory())"])
def test_a_million_empty_records(verb):
    writer = piped(source_of(headers(HVM) + static_data_end())
                   + "\nfor _ in range(1000): out.write({!r} * 1000)\n".format(record(0x80000001))
                   + source_of(HVM_END))
    run_in_small_memory(verb, writer.stdout, 64)
    writer.stdout.close()
    assert writer.wait() == 0


@pytest.mark.parametrize("verb", ["verify(0)", "info(0)", "load(0, GuestMemory())"])
def test_records_of_all_kinds_without_end(verb):
    pair = record(0x80000001, b"x") + batch([word(5, XTAB)])
    writer = piped(source_of(headers(HVM) + static_data_end())
                   + "\nfor _ in range(100): out.write({!r} * 1000)\n".format(pair) + source_of(HVM_END))
    run_in_small_memory(verb, writer.stdout, 64)
    writer.stdout.close()
    assert writer.wait() == 0


@pytest.mark.parametrize("verb", ["verify(0)", "info(0)"])
def test_memory_is_bounded_whatever_the_size(verb):
    writer = piped(source_of(headers(HVM) + static_data_end()) + """
        pages = bytes(1024 * 4096)
        for batch in range(128):
            words = struct.pack("<1024Q", *range(1024 * batch, 1024 * batch + 1024))
            out.write(struct.pack("<IIII", 1, 8 + 8192 + len(pages), 1024, 0) + words + pages)
        """.replace("\n        ", "\n") + source_of(HVM_END))
    run_in_small_memory(verb, writer.stdout, 64)
    writer.stdout.close()
    assert writer.wait() == 0


def test_extract_of_a_large_stream_from_a_pipe_in_bounded_memory(tmp_path):
    writer = piped(source_of(headers(HVM) + static_data_end()) + """
        pages = b"x" * (1024 * 4096)
        for batch in range(64):
            words = struct.pack("<1024Q", *range(1024 * batch, 1024 * batch + 1024))
            out.write(struct.pack("<IIII", 1, 8 + 8192 + len(pages), 1024, 0) + words + pages)
        """.replace("\n        ", "\n") + source_of(HVM_END))
    out = tmp_path / "image"
    run_in_small_memory("extract(0, {!r})".format(str(out)), writer.stdout, 64)
    writer.stdout.close()
    assert writer.wait() == 0
    assert out.stat().st_size == 256 << 20


def test_an_endless_checkpoint_in_bounded_memory():
    state = samples.tsc_info() + samples.hvm_context() + samples.hvm_params()
    writer = piped(source_of(headers(HVM) + static_data_end() + state + record(0x0E))
                   + "\nfor _ in range(100): out.write({!r} * 1000)\n".format(batch([word(5, XTAB)]))
                   + "\nfor _ in range(25000): out.write({!r})\n".format(batch([word(5)], [page(1)])))
    run_in_small_memory("load(0, GuestMemory(), checkpointed=True)", writer.stdout, 64)
    writer.stdout.close()
    assert writer.wait() == 0


def test_one_page_far_away_takes_no_memory_and_no_disk(tmp_path):
    stream = tmp_path / "stream"
    far = 2 ** 28 - 1
    stream.write_bytes(samples.hvm(memory=batch([word(far)], [page(1)])))
    out = tmp_path / "image"
    with stream.open("rb") as stdin:
        run_in_small_memory("extract(0, {!r})".format(str(out)), stdin, 64)
    status = out.stat()
    assert status.st_size == 2 ** 40 and status.st_blocks * 512 < 1 << 20
    assert status.st_mode & 0o777 == 0o600
    for work in ("digest(0)", "info(0)", "list(page_digests(0))"):
        with stream.open("rb") as stdin:
            run_in_small_memory(work, stdin, 64)


def test_one_page_beyond_all_limits_leaves_no_file(tmp_path):
    stream = samples.hvm(memory=batch([word(2 ** 51)], [page(1)]))
    with pytest.raises(LimitExceeded):
        xstream.extract(stream, str(tmp_path / "image"))
    assert os.listdir(str(tmp_path)) == []


def test_limits_can_be_chosen(tmp_path):
    stream = samples.hvm(memory=batch([word(100)], [page(1)]))
    with pytest.raises(LimitExceeded, match="0x64"):
        xstream.extract(stream, str(tmp_path / "image"), limits=xstream.Limits(guest_pfns=100))
    xstream.extract(stream, str(tmp_path / "image"), limits=xstream.Limits(guest_pfns=101))
    with pytest.raises(LimitExceeded):
        records_of(stream, limits=xstream.Limits(record_length=100))
    with pytest.raises(LimitExceeded):
        records_of(stream, limits=xstream.Limits(batch_pfns=0))

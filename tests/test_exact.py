"""Exact reading: nothing is taken from a descriptor past END or CHECKPOINT, and batches are still read whole."""
import io
import os
import socket
from typing import Any, Callable, List, Tuple

import containers as c
import legacy_samples as legacy
import pytest
import samples as s
from ways import descriptor, pipe, rest_of

import xstream
from xstream import Checkpoint, GuestMemory, LegacyReader, PageData, Reader, TruncatedStream
from xstream.kernels import pages as page_kernel
from xstream.stream import source as sources
from xstream.stream.source import BufferSource, DescriptorSource, PendingPages, open_source

AFTER = b"QEMU's record"
PAGES = 600


def large_hvm() -> bytes:
    """Two large batches, many small ones, and large ones again."""
    large = s.batch([s.word(pfn) for pfn in range(PAGES)], [s.page(pfn) for pfn in range(PAGES)])
    small = b"".join(s.batch([s.word(PAGES + pfn)], [s.page(pfn)]) for pfn in range(40))
    return s.hvm(memory=large + large + small + large)


STREAMS = {
    "hvm": s.hvm(memory=s.batch([s.word(1), s.word(2)], [s.page(1), s.page(2)])),
    "large hvm": large_hvm(),
    "pv": s.pv(),
    "libxl": c.libxl(),
    "xl": c.xl(),
    "libvirt": c.libvirt(),
    "xenopsd": c.xenopsd(),
}


def ignored(record: Any) -> None:
    """Use a record without reading its pages."""


def piecewise(record: Any) -> None:
    if isinstance(record, PageData) and isinstance(record.data, PendingPages):
        for _ in record.data.pieces():
            pass


@pytest.mark.parametrize("use", [ignored, piecewise])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", STREAMS)
def test_records_then_the_rest_of_the_descriptor(name: str, strict: bool, use: Callable[[Any], None]) -> None:
    with xstream.open(STREAMS[name]) as reader:
        expected = [(reader.layer, reader.index, reader.offset, type(record)) for record in reader]
    for opened in (pipe(STREAMS[name] + AFTER), descriptor(STREAMS[name] + AFTER)):
        with opened as fd, xstream.open(fd, exact=True, strict=strict) as reader:
            found: List[Tuple[Any, ...]] = []
            for record in reader:
                found.append((reader.layer, reader.index, reader.offset, type(record)))
                use(record)
            assert found == expected
            assert rest_of(fd) == AFTER


@pytest.mark.parametrize("name", STREAMS)
def test_loading_then_the_rest_of_the_descriptor(name: str) -> None:
    expected = GuestMemory()
    xstream.load(STREAMS[name], expected)
    for opened in (pipe(STREAMS[name] + AFTER), descriptor(STREAMS[name] + AFTER)):
        memory = GuestMemory()
        with opened as fd:
            xstream.load(xstream.open(fd, exact=True), memory)
            assert rest_of(fd) == AFTER
        assert bytes(memory.buffer) == bytes(expected.buffer)


def test_objects_and_sockets() -> None:
    file = io.BytesIO(STREAMS["libxl"] + AFTER)
    assert list(xstream.open(file, exact=True))
    assert file.read() == AFTER
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(STREAMS["hvm"] + AFTER)
        assert list(xstream.open(ours, exact=True))
        assert ours.recv(100) == AFTER


def test_the_descriptor_stands_after_each_checkpoint() -> None:
    batch = s.batch([s.word(1)], [s.page(1)])
    parts = [s.headers() + s.static_data_end() + batch + s.tsc_info() + s.hvm_context() + s.hvm_params()
             + s.record(0xe), batch + s.hvm_context() + s.record(0xe), batch + s.end()]
    others = [b"first", b"second!", b"last"]
    with pipe(b"".join(part + other for part, other in zip(parts, others))) as fd:
        reader = Reader(fd, checkpointed=True, exact=True)
        for other in others[:2]:
            while not isinstance(reader.next_record(), Checkpoint):
                pass
            assert os.read(fd, len(other)) == other
        while reader.next_record() is not None:
            pass
        assert rest_of(fd) == others[2]


def test_small_records_come_in_runs() -> None:
    batches = b"".join(s.batch([s.word(pfn)], [s.page(pfn)]) for pfn in range(100))
    with descriptor(s.hvm(memory=batches) + AFTER) as fd:
        reader = Reader(fd, exact=True)
        runs = []
        while True:
            run = reader.next_run()
            if run is not None:
                runs.append(run.records)
            elif reader.next_record() is None:
                break
        assert sum(runs) == 100 and max(runs) > 10
        assert rest_of(fd) == AFTER


def test_two_reads_for_a_large_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: List[str] = []

    def counted(name: str, function: Callable[..., int]) -> Callable[..., int]:
        def call(*args: Any) -> int:
            calls.append(name)
            return function(*args)
        return call

    batch = s.batch([s.word(pfn) for pfn in range(1024)], [s.page(pfn) for pfn in range(1024)])
    with descriptor(s.hvm(memory=16 * batch)) as fd:
        reader = Reader(fd, exact=True)
        record = next(record for record in reader if isinstance(record, PageData))
        memory = bytearray(1024 * 4096)
        monkeypatch.setattr(sources.os, "readv", counted("head", os.readv))
        monkeypatch.setattr(page_kernel, "read_pages", counted("pages", page_kernel.read_pages))
        for _ in range(15):
            assert isinstance(record, PageData) and isinstance(record.data, PendingPages)
            record.data.read_into(memory, _pfns(1024))
            following = reader.next_record()
            assert isinstance(following, PageData)
            record = following
    assert len(calls) <= 2 * 15


def _pfns(count: int) -> memoryview:
    numbers = memoryview(bytearray(8 * count)).cast("Q")
    for pfn in range(count):
        numbers[pfn] = pfn
    return numbers


def test_a_cut_is_reported_as_without_exact() -> None:
    data = large_hvm()
    for cut in range(60, len(data), 400009):
        with pytest.raises(TruncatedStream) as usual:
            for _ in Reader(io.BytesIO(data[:cut])):
                pass
        for opened in (pipe(data[:cut]), descriptor(data[:cut])):
            with opened as fd, pytest.raises(TruncatedStream) as exact:
                for _ in Reader(fd, exact=True):
                    pass
            assert str(exact.value) == str(usual.value)


def test_legacy_streams_are_read_exactly() -> None:
    data = legacy.hvm()
    with pipe(data + AFTER) as fd:
        assert list(LegacyReader(fd, exact=True))
        assert rest_of(fd) == AFTER


def test_no_sender_is_kept_waiting_for_what_comes_next() -> None:
    """A batch can be used before the next record's header has been sent."""
    reading, writing = os.pipe()
    head = s.headers() + s.static_data_end() + s.batch([s.word(1)], [s.page(1)])
    try:
        os.write(writing, head)
        reader = Reader(reading, exact=True)
        reader.next_record()
        run = reader.next_run()
        assert run is not None and run.pages == 1
    finally:
        os.close(reading)
        os.close(writing)


def test_sources() -> None:
    assert isinstance(open_source(b"", exact=True), BufferSource)
    exact = DescriptorSource(0, exact=True)
    assert open_source(exact, exact=True) is exact

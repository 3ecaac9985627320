"""Random access to a saved guest's memory returns the same as loading the stream."""
import gc
import io
import lzma
import struct

import containers
import legacy_samples
import numpy
import pytest
import samples
from samples import XALLOC, XTAB, batch, page, word
from ways import loaded, pipe

import xstream
from xstream import LimitExceeded, Limits, MemoryView, StreamError, TruncatedStream

PAGE_SIZE = 4096


def assert_same(view, memory):
    assert len(view) == len(memory)
    assert (view.types == memory.types).all()
    assert (view.populated == memory.populated).all()
    assert view.populated_count == memory.populated_count
    for start in range(0, len(view), 4096):
        assert (view[start:start + 4096] == memory.pages[start:start + 4096]).all()
    runs = view.runs()
    assert runs[:, 1].sum() == memory.populated_count
    for first, count in runs.tolist():
        assert memory.populated[first:first + count].all()
        assert not memory.populated[max(first - 1, 0):first].any() and not memory.populated[first + count:][:1].any()
        found = b"".join(bytes(piece) for pages, pieces in view.buffers(first, count)
                         for piece in (pieces if pieces is not None else [bytes(pages * PAGE_SIZE)]))
        assert found == bytes(memory.buffer[first * PAGE_SIZE:(first + count) * PAGE_SIZE])


def check_genuine(stream):
    with MemoryView(str(stream.path)) as view:
        assert_same(view, loaded(str(stream.path)))


def test_v3(v3_stream):
    check_genuine(v3_stream)


def test_xl(xl_stream):
    check_genuine(xl_stream)


def test_legacy(legacy_stream):
    check_genuine(legacy_stream)


def test_mapped_files_are_not_copied(v3_stream):
    with MemoryView(str(v3_stream.path)) as view:
        assert view.mapped == ("remus" not in v3_stream.path.name)


STREAMS = {
    "hvm": samples.hvm(), "pv": samples.pv(), "pv32": samples.pv(width=4), "version 2": samples.hvm(2),
    "libxl": containers.libxl(), "checkpoints": samples.checkpointed(3),
    "sent again": samples.hvm(memory=batch([word(7), word(7), word(3)], [page(1), page(2), page(3)])
                              + batch([word(7), word(3, XTAB)], [page(4)])),
    "backwards": samples.hvm(memory=batch([word(pfn) for pfn in reversed(range(300))], [page(n) for n in range(300)])),
    "allocated only": samples.hvm(memory=batch([word(pfn, XALLOC) for pfn in range(3000)])),
    "data, then allocated": samples.hvm(memory=batch([word(1)], [page(5)]) + batch([word(1, XALLOC)])),
    "verify": samples.hvm(memory=batch([word(1)], [page(5)]) + samples.record(0x0D) + batch([word(1)], [page(6)])),
    "verify past the end": samples.hvm(memory=batch([word(1)], [page(5)]) + samples.record(0x0D)
                                       + batch([word(1), word(900)], [page(5), page(6)])),
    "far apart": samples.hvm(memory=batch([word(0), word(5000), word(5001), word(1 << 20)],
                                          [page(n) for n in range(4)])),
}


@pytest.mark.parametrize("name", sorted(STREAMS))
def test_samples(name):
    assert_same(MemoryView(STREAMS[name]), loaded(STREAMS[name]))


@pytest.mark.parametrize("kind", ["path", "descriptor", "pipe", "object", "xz"])
def test_sources(kind, tmp_path):
    data = STREAMS["sent again"]
    path = tmp_path / "stream"
    path.write_bytes(lzma.compress(data) if kind == "xz" else data)
    if kind == "descriptor":
        with path.open("rb") as file:
            view = MemoryView(file.fileno())
    elif kind == "pipe":
        with pipe(data) as fd:
            view = MemoryView(fd)
    elif kind == "object":
        view = MemoryView(io.BytesIO(data))
    else:
        view = MemoryView(str(path))
    with view:
        assert_same(view, loaded(data))
        assert view.copies[7] == 3 and view.copies[3] == 1


def test_legacy_sample():
    data = legacy_samples.hvm()
    assert_same(MemoryView(data), loaded(data))


def test_reading_by_address():
    view = MemoryView(samples.hvm(memory=batch([word(1), word(2), word(4)], [page(1), page(2), page(4)])))
    image = samples.memory_of({1: page(1), 2: page(2), 4: page(4)}, 5)
    assert view.size == len(image)
    for address, size in ((0, 0), (0, 5 * PAGE_SIZE), (4095, 2), (4096, 8), (8190, 4), (9000, 9000), (16384, 4096),
                          (20000, 1000), (1 << 40, 3), (5, 1 << 16)):
        assert view.read(address, size) == (image[address:address + size] + bytes(size))[:size], (address, size)
    for address, size in ((-1, 4), (0, -1), (1 << 64, 1)):
        with pytest.raises(ValueError):
            view.read(address, size)


def test_what_is_populated():
    view = MemoryView(samples.hvm(memory=batch([word(1), word(2), word(4, XALLOC)], [page(1), page(2)])))
    assert view.is_populated(4096, 8192) and view.is_populated(5000) and view.is_populated(4 * PAGE_SIZE, PAGE_SIZE)
    for address, size in ((0, 1), (4095, 2), (4096, 8193), (5 * PAGE_SIZE, 1), (4 * PAGE_SIZE, 4097), (1 << 50, 1)):
        assert not view.is_populated(address, size), (address, size)


def test_arrays():
    view = MemoryView(samples.hvm(memory=batch([word(1), word(2), word(4)], [page(1), page(2), page(4)])))
    assert bytes(view[1]) == page(1) == bytes(view[-4])
    assert view[1:3].shape == (2, PAGE_SIZE) and view[1:1].shape == (0, PAGE_SIZE) and view[3:1].shape == (0, PAGE_SIZE)
    assert not view[1:3].flags.writeable and not view[0:5].flags.writeable
    assert view[1:3].base is not None  # a view of the buffer
    assert bytes(view.pages([4, 0, 1])) == page(4) + bytes(PAGE_SIZE) + page(1)
    with pytest.raises(IndexError):
        view[5]
    with pytest.raises(IndexError):
        view.pages([5])
    with pytest.raises(ValueError):
        view[0:5:2]


def test_arrays_outlive_the_view(tmp_path):
    path = tmp_path / "stream"
    path.write_bytes(STREAMS["hvm"])
    with MemoryView(str(path)) as view:
        some = view[0]
    del view
    gc.collect()
    assert bytes(some) == page(1)


def test_runs_meet_across_scans(monkeypatch):
    from xstream.guest import memory_view
    monkeypatch.setattr(memory_view, "_SCANNED", 4)
    populated = [0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 15, 16, 24]
    view = MemoryView(samples.hvm(memory=batch([word(pfn, XALLOC) for pfn in populated])))
    assert view.runs().tolist() == [[0, 9], [11, 2], [15, 2], [24, 1]]
    assert view.runs(2, 16).tolist() == [[2, 7], [11, 2], [15, 1]]
    assert view.runs(9, 11).tolist() == []


def test_pieces_are_few(monkeypatch):
    """Pages in file order are passed on as views; scattered ones are copied together."""
    ordered = MemoryView(samples.hvm(memory=batch([word(n) for n in range(200)], [page(n) for n in range(200)])))
    assert [(pages, len(pieces)) for pages, pieces in ordered.buffers(0, 200)] == [(200, 1)]
    scattered = MemoryView(STREAMS["backwards"])
    assert [(pages, len(pieces)) for pages, pieces in scattered.buffers(0, 300)] == [(300, 1)]


def test_state_is_that_of_the_last_complete_checkpoint():
    late = batch([word(0)], [page(77)]) + samples.record(0x0A, struct.pack("<IIQQ", 1, 0, 5, 9))
    view = MemoryView(samples.checkpointed(1) + late)
    params, = (record for record in view.records.records() if isinstance(record, xstream.HvmParams))
    assert dict(params.params)[5] == 0xFEFFD
    assert bytes(view[0]) == page(10)


def test_errors_are_those_of_reading():
    with pytest.raises(TruncatedStream):
        MemoryView(samples.hvm()[:-20])
    with pytest.raises(LimitExceeded):
        MemoryView(samples.hvm(), limits=Limits(guest_pfns=3))
    with pytest.raises(StreamError):
        MemoryView(b"\x7fELF" + bytes(100))


def test_index_is_small():
    """An index of 64 GiB must stay under 2 % of that: 81 bytes for each page."""
    view = MemoryView(samples.hvm(memory=batch([word(n) for n in range(200)], [page(n) for n in range(200)])))
    assert view.index_bytes <= 0.02 * view.size


def test_starts():
    view = MemoryView(samples.hvm(memory=batch([word(1), word(2), word(4, XALLOC)], [page(1), page(2)])))
    assert bytes(view.starts(numpy.array([2, 4, 0, 1]), 8)) == page(2)[:8] + bytes(16) + page(1)[:8]


def test_no_memory_at_all():
    data = samples.hvm(memory=samples.tsc_info(), tail=samples.hvm_context() + samples.hvm_params() + samples.end())
    for source in (data, io.BytesIO(data), io.BytesIO(lzma.compress(data))):
        with MemoryView(source) as view:
            assert len(view) == view.populated_count == 0 and view.read(0, 2) == b"\0\0" and len(view.runs()) == 0

"""GuestMemory: over anonymous memory, files and arrays."""
import os
import tempfile
from array import array

import numpy
import pytest
import samples
from samples import BROKEN, NOTAB, XALLOC, XTAB, page, word

from xstream import GuestMemory, LimitExceeded, PageData, Reader


def batch(words, pages):
    return PageData(b"".join(value.to_bytes(8, "little") for value in words), b"".join(pages))


@pytest.fixture(params=["anonymous", "file", "array"])
def memory(request):
    if request.param == "anonymous":
        yield GuestMemory(limit=4096)
    elif request.param == "array":
        yield GuestMemory(array=bytearray(64 * 4096))
    else:
        with tempfile.TemporaryFile() as file:
            yield GuestMemory(file=file.fileno(), limit=4096)


def test_batches_are_applied(memory):
    applied = memory.apply(batch([word(3), word(9, XTAB), word(1), word(2, XALLOC)], [page(3), page(1)]))
    assert applied == (2, 2, 0)
    assert memory.apply(batch([word(3, 2), word(5)], [page(30), page(5)])) == (2, 1, 1)
    assert len(memory) in (10, 64)
    assert memory.pages.shape == (len(memory), 4096)
    assert memory.pages[:6].tobytes() == samples.memory_of({1: page(1), 3: page(30), 5: page(5)}, 6)
    assert numpy.flatnonzero(memory.populated).tolist() == [1, 2, 3, 5] and memory.populated_count == 4
    assert memory.types[:10].tolist() == [XTAB, NOTAB, XALLOC, 2, XTAB, NOTAB, XTAB, XTAB, XTAB, XTAB]


def test_views_stay_good_when_the_memory_grows(memory):
    memory.apply(batch([word(0)], [page(1)]))
    view = memory.pages
    memory.apply(batch([word(0), word(40)], [page(2), page(4)]))
    assert view[0].tobytes() == page(2) and memory.pages[40].tobytes() == page(4)


def test_comparing(memory):
    memory.apply(batch([word(1), word(2)], [page(1), page(2)]))
    assert list(memory.compare(batch([word(2), word(1), word(3)], [page(2), page(7), bytes(4096)]))) == [1]
    assert memory.pages[1].tobytes() == page(1)


def test_a_run_is_applied_like_its_records(memory):
    stream = samples.hvm(memory=b"".join(
        samples.batch([word(pfn), word(63 - pfn, BROKEN)], [page(pfn)]) for pfn in (3, 4, 5, 3, 9)))
    reader = Reader(stream)
    while reader.next_run() is None:
        reader.next_record()
    reader = Reader(stream)
    run = None
    while run is None:
        run = reader.next_run()
        if run is None:
            reader.next_record()
    assert memory.apply_run(run) == (5, 4, 1)
    assert memory.pages[:10].tobytes() == samples.memory_of({pfn: page(pfn) for pfn in (3, 4, 5, 9)}, 10)


def test_limits():
    memory = GuestMemory(limit=10)
    memory.grow(10)
    with pytest.raises(LimitExceeded):
        memory.grow(11)
    with pytest.raises(LimitExceeded):
        memory.apply(batch([word(10, XTAB)], []))
    with pytest.raises(LimitExceeded):
        GuestMemory(array=bytearray(4096)).grow(2)


def test_arrays_must_fit():
    with pytest.raises(ValueError):
        GuestMemory(array=bytearray(4097))
    with pytest.raises(ValueError):
        GuestMemory(array=bytes(4096))
    array = numpy.zeros((4, 4096), numpy.uint8)
    memory = GuestMemory(array=array)
    memory.apply(batch([word(2)], [page(2)]))
    assert array[2].tobytes() == page(2)


def test_pages_must_be_as_many_as_the_words_say():
    with pytest.raises(ValueError):
        GuestMemory().apply(batch([word(1), word(2)], [page(1)]))


def test_absent_memory_takes_none():
    memory = GuestMemory(1 << 28)
    assert len(memory) == 1 << 28 and memory.populated_count == 0
    memory.apply(batch([word((1 << 28) - 1)], [page(1)]))
    assert list(memory.populated_pfns(0, 10)) == [(1 << 28) - 1]
    assert memory.read(numpy.array([5, (1 << 28) - 1], numpy.uint64)) == bytes(4096) + page(1)


def test_files_have_holes(tmp_path):
    with (tmp_path / "image").open("w+b") as file:
        memory = GuestMemory(file=file.fileno())
        memory.apply(batch([word(1000)], [page(1)]))
        assert os.fstat(file.fileno()).st_size == 1001 * 4096
        assert os.fstat(file.fileno()).st_blocks * 512 < 100 * 4096


def test_memory_past_the_first_reservation_is_moved():
    memory = GuestMemory()
    memory.apply(batch([3, 70], [page(3), page(70)]))
    memory.grow((1 << 28) + 5)
    memory.apply(batch([(1 << 28) + 4], [page(5)]))
    assert len(memory) == (1 << 28) + 5 and memory.populated_count == 3
    assert [bytes(memory.read(memoryview(array("Q", [pfn])))) for pfn in (3, 70, (1 << 28) + 4)] == [
        page(3), page(70), page(5)]


def test_many_memories_at_once():
    assert all(memory.limit == 1 << 32 for memory in [GuestMemory() for _ in range(30)])

"""Work shared by several threads: the same results and the same errors as with one."""
import gc
import os
import tempfile
from array import array
from pathlib import Path

import numpy
import pytest
import samples
from samples import NOTAB, XTAB, page, word

from xstream import GuestMemory, Limits, StreamError, TruncatedStream, convert, load, restore, save
from xstream.guest.copying import copy_pages
from xstream.guest.parallel import TASK_PAGES, Workers
from xstream.guest.simulated import SimulatedGuest
from xstream.kernels import pages as page_kernel
from xstream.stream.source import open_source
from xstream.stream.threads import usable_cpus
from xstream.tools.digest import digest
from xstream.tools.extract import extract

JOBS = (1, 2, 5)


def full_batch(first, count=1024, step=1, kind=NOTAB):
    pfns = range(first, first + count * step, step)
    return samples.batch([word(pfn, kind) for pfn in pfns], [page(pfn % 250 + 1) for pfn in pfns])


#: Batches of every size and order, small ones between large ones.
MEMORY = {
    "large batches": b"".join(full_batch(first) for first in range(0, 4096, 1024)),
    "small batches": b"".join(full_batch(first, 8) for first in range(0, 4096, 8)),
    "batches of every size": full_batch(0, 700) + full_batch(1000, 3) + samples.batch([word(2000, XTAB)])
    + full_batch(1024, 256) + full_batch(4000, 600, -1),
    "pages sent again": full_batch(0) + full_batch(512) + full_batch(5, 300) + full_batch(0, 1024, 1),
    "a PFN twice in a batch": samples.batch([word(n % 300) for n in range(600)], [page(n % 251) for n in range(600)]),
}


def with_a_page_sent_again(data):
    """The same batches and another page of PFN 4."""
    return data + samples.batch([word(4)], [page(77)])


def stream_of(name, kind):
    memory = with_a_page_sent_again(MEMORY[name])
    if kind == "pv":  # PFN 3 is the top page table
        memory += samples.batch([word(3, samples.TOP_TABLE[8])], [bytes(4096)])
    return samples.pv(memory=samples.p2m_frames(0, 8191) + memory) if kind == "pv" else samples.hvm(memory=memory)


@pytest.mark.parametrize("kind", ["hvm", "pv"])
@pytest.mark.parametrize("name", sorted(MEMORY))
def test_loading(name, kind):
    stream = stream_of(name, kind)
    results = []
    for jobs in JOBS:
        memory = GuestMemory(limit=8192)
        loaded = load(stream, memory, jobs=jobs)
        results.append((loaded, memory.pages.tobytes(), bytes(memory.state)))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("name", sorted(MEMORY))
def test_loading_and_restoring_a_mapped_file(name, reads, tmp_path, monkeypatch):
    monkeypatch.setattr(page_kernel, "READS_FILES", reads)
    stream, path = stream_of(name, "hvm"), tmp_path / "stream"
    path.write_bytes(stream)
    expected, guest = GuestMemory(limit=8192), SimulatedGuest.empty("hvm")
    load(stream, expected)
    restore(stream, guest)
    for jobs in JOBS:
        memory, restored = GuestMemory(limit=8192), SimulatedGuest.empty("hvm")
        load(path, memory, jobs=jobs)
        restore(path, restored, jobs=jobs)
        assert memory.pages.tobytes() == expected.pages.tobytes() and memory.state == expected.state
        assert restored.memory.pages.tobytes() == guest.memory.pages.tobytes()


def test_a_mapped_file_is_closed(tmp_path):
    path = tmp_path / "stream"
    path.write_bytes(stream_of("large batches", "hvm"))
    for _ in range(3):
        load(path, GuestMemory(limit=8192))
        gc.collect()
        assert str(path) not in {os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()}


def test_a_mapped_file_that_has_become_shorter(tmp_path, monkeypatch):
    monkeypatch.setattr(page_kernel, "READS_FILES", True)
    path = tmp_path / "pages"
    path.write_bytes(b"head" + bytes(300 * 4096))
    with open_source(path) as source:
        data = source.buffered()[4:]
        os.truncate(path, 200 * 4096)
        with pytest.raises(TruncatedStream) as caught:
            copy_pages(bytearray(300 * 4096), memoryview(array("Q", range(300))), data)
    assert caught.value.missing == 100 * 4096 + 4


@pytest.mark.parametrize("name", sorted(MEMORY) + ["pv"])
def test_restoring(name, tmp_path):
    kind = "pv" if name == "pv" else "hvm"
    if kind == "pv":
        save(SimulatedGuest(kind, 3000), tmp_path / "stream")
    stream = (tmp_path / "stream").read_bytes() if kind == "pv" else stream_of(name, kind)
    results = []
    for jobs in JOBS:
        guest = SimulatedGuest.empty(kind)
        restored = restore(stream, guest, jobs=jobs)
        results.append((restored, guest.memory.pages.tobytes(), bytes(guest.memory.state)))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("name", sorted(MEMORY))
def test_extract_and_digest(name, tmp_path):
    stream = stream_of(name, "hvm")
    images, digests = set(), set()
    for jobs in JOBS:
        extract(stream, str(tmp_path / "image"), jobs=jobs)
        images.add((tmp_path / "image").read_bytes())
        (tmp_path / "image").unlink()
        digests.add(digest(stream, jobs=jobs))
    assert len(images) == len(digests) == 1


@pytest.mark.parametrize("kind", ["hvm", "pv"])
@pytest.mark.parametrize("name", sorted(MEMORY))
def test_squash(name, kind, tmp_path):
    stream = stream_of(name, kind)
    outputs = set()
    for jobs in JOBS:
        convert(stream, str(tmp_path / "out"), squash=True, jobs=jobs)
        outputs.add((tmp_path / "out").read_bytes())
    assert len(outputs) == 1


@pytest.mark.parametrize("damage", [
    lambda stream: stream[:-5000], lambda stream: stream[:len(stream) // 2],
    lambda stream: stream[:40000] + b"\xff" * 64 + stream[40064:]], ids=["cut", "cut in the middle", "damaged"])
@pytest.mark.parametrize("name", sorted(MEMORY))
def test_errors(name, damage):
    stream = damage(stream_of(name, "hvm"))
    errors = []
    for jobs in JOBS:
        try:
            load(stream, GuestMemory(limit=8192), jobs=jobs)
        except StreamError as error:
            errors.append((type(error), str(error), error.offset, error.record))
    assert len(set(errors)) <= 1 and len(errors) in (0, len(JOBS))


def test_a_limit_and_a_pipe():
    stream = stream_of("large batches", "hvm")
    for jobs in JOBS:
        with pytest.raises(StreamError, match="PFN|limit"):
            load(stream, GuestMemory(limit=2000), jobs=jobs, limits=Limits(guest_pfns=2000))
    reading, writing = os.pipe()
    os.write(writing, stream[:50000])
    os.close(writing)
    with pytest.raises(TruncatedStream):
        load(reading, GuestMemory(limit=8192), jobs=3)
    os.close(reading)


def test_an_error_of_a_thread_is_raised():
    with tempfile.TemporaryFile() as file, pytest.raises(OSError):
        fd = os.open("/proc/self/fd/{}".format(file.fileno()), os.O_RDONLY)
        try:
            memory = GuestMemory(file=file.fileno(), limit=8192)
            memory._fd = fd
            memory.grow = lambda pages: setattr(memory, "_length", max(memory._length, pages))
            load(stream_of("large batches", "hvm"), memory, jobs=2)
        finally:
            os.close(fd)


def test_workers():
    done = []

    def fail(error):
        raise error
    for jobs in JOBS:
        with Workers(jobs) as workers:
            workers.run([])
            workers.run([lambda number=number: done.append(number) for number in range(20)])
            with pytest.raises(KeyError):
                workers.run([lambda: None, lambda: fail(KeyError()), lambda: fail(IndexError())])
            workers.run([lambda: done.append(99)])
    assert sorted(done) == sorted((list(range(20)) + [99]) * len(JOBS))
    with pytest.raises(ValueError):
        Workers(0)
    assert usable_cpus() >= 1 and TASK_PAGES > 1


@pytest.mark.parametrize("step, huge", [(1, True), (2, False)])
def test_huge_pages_where_memory_is_filled_densely(step, huge):
    """And nowhere else: a page here and there must not take 2 MiB."""
    memory = GuestMemory(limit=1 << 16)
    memory.apply(samples_batch(1024, step))
    address = numpy.frombuffer(memory.buffer, numpy.uint8).ctypes.data
    flags = flags_at(address)
    if huge and (flags is None or not os.path.exists("/sys/kernel/mm/transparent_hugepage")
                 or not hasattr(memory._mapping, "madvise")):
        pytest.skip("not applicable: no huge pages on this host")
    assert ("hg" in (flags or ())) == huge


def samples_batch(count, step):
    from xstream import PageData
    words = b"".join(word(pfn * step).to_bytes(8, "little") for pfn in range(count))
    return PageData(words, bytes(count * 4096))


def flags_at(address):
    """The flags that Linux reports for the mapping at an address, or None."""
    inside = False
    with open("/proc/self/smaps") as file:
        for line in file:
            head = line.split(" ", 1)[0]
            if "-" in head and ":" not in head:
                start, end = (int(number, 16) for number in head.split("-"))
                inside = start <= address < end
            elif inside and line.startswith("VmFlags:"):
                return line.split()[1:]
    return None

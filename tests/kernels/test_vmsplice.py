"""Send pages into a pipe by reference."""
import fcntl
import mmap
import os
import threading
from array import array

import pytest

from xstream.kernels import vmsplice

PAGE = 4096


def through_a_pipe(memory, pfns, nonblocking=False):
    reading, writing = os.pipe()
    got = []

    def read():
        with os.fdopen(reading, "rb") as file:
            got.append(file.read())

    if nonblocking:
        fcntl.fcntl(writing, fcntl.F_SETFL, fcntl.fcntl(writing, fcntl.F_GETFL) | os.O_NONBLOCK)
    thread = threading.Thread(target=read)
    thread.start()
    try:
        sent = vmsplice.splice_pages(writing, memory, pfns)
    finally:
        os.close(writing)
        thread.join()
    assert sent == len(got[0])
    return got[0]


@pytest.fixture
def memory():
    pages = mmap.mmap(-1, 100 * PAGE)
    pages[:] = os.urandom(len(pages))
    return pages


@pytest.mark.parametrize("nonblocking", [False, True])
@pytest.mark.parametrize("pfns", [
    [], [3], list(range(100)), list(range(99, -1, -1)), [5, 6, 7, 1, 2, 7, 7, 50] * 40])
def test_the_pages_come_out(memory, pfns, nonblocking):
    assert through_a_pipe(memory, array("Q", pfns), nonblocking) == b"".join(
        memory[pfn * PAGE:(pfn + 1) * PAGE] for pfn in pfns)


def test_memory_of_any_alignment():
    memory = memoryview(bytearray(os.urandom(3 * PAGE + 5)))[5:]
    assert through_a_pipe(memory, array("Q", [2, 0])) == bytes(memory[2 * PAGE:]) + bytes(memory[:PAGE])


def test_by_reference(memory):
    """The reader sees what is written to a page before it reads."""
    reading, writing = os.pipe()
    try:
        vmsplice.splice_pages(writing, memory, array("Q", [1]))
        memory[PAGE:PAGE + 5] = b"later"
        assert os.read(reading, 5) == b"later"
    finally:
        os.close(reading)
        os.close(writing)


def test_a_pfn_past_the_memory(memory):
    reading, writing = os.pipe()
    try:
        for pfn in (100, 2 ** 64 - 1):
            with pytest.raises(IndexError):
                vmsplice.splice_pages(writing, memory, array("Q", [1, pfn]))
        with pytest.raises(IndexError):
            vmsplice.splice_pages(writing, b"", array("Q", [0]))
        os.set_blocking(reading, False)
        with pytest.raises(BlockingIOError):
            os.read(reading, 1)
    finally:
        os.close(reading)
        os.close(writing)


def test_what_is_no_pipe(memory, tmp_path):
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError):
        vmsplice.splice_pages(file.fileno(), memory, array("Q", [1]))


def test_a_pipe_without_a_reader(memory):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with pytest.raises(BrokenPipeError):
            vmsplice.splice_pages(writing, memory, array("Q", [1]))
    finally:
        os.close(writing)


def test_arguments_of_the_wrong_kind(memory):
    with pytest.raises(TypeError):
        vmsplice.splice_pages(1, memory, b"\0" * 8)
    with pytest.raises(TypeError):
        vmsplice.splice_pages(1, None, array("Q"))

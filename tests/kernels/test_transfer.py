"""The kernel transfer: the same bytes arrive for every pair of descriptors."""
import contextlib
import fcntl
import os
import select
import signal
import socket
import tempfile
import threading
import time

import pytest

from xstream.kernels import transfer

DATA = os.urandom(3 << 20)


@contextlib.contextmanager
def fed(fd, data=DATA):
    def write():
        with contextlib.suppress(BrokenPipeError, ConnectionResetError), os.fdopen(fd, "wb") as file:
            file.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    yield
    thread.join()


@contextlib.contextmanager
def source_of(kind, data=DATA):
    if kind == "file":
        with tempfile.TemporaryFile() as file:
            file.write(b"before" + data)
            file.flush()
            os.lseek(file.fileno(), 6, os.SEEK_SET)
            yield file.fileno()
        return
    ours, theirs = os.pipe() if kind == "pipe" else [end.detach() for end in socket.socketpair()]
    with fed(theirs, data):
        try:
            yield ours
        finally:
            os.close(ours)


@contextlib.contextmanager
def sink_of(kind, got, flags=0):
    if kind == "file":
        with tempfile.NamedTemporaryFile() as file:
            fd = os.open(file.name, os.O_WRONLY | flags)
            yield fd
            os.close(fd)
            got.append(file.read())
        return
    ours, theirs = os.pipe() if kind == "pipe" else [end.detach() for end in socket.socketpair()]
    reading, writing = (ours, theirs)

    def read():
        with os.fdopen(reading, "rb") as file:
            got.append(file.read())

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield writing
    finally:
        os.close(writing)
        thread.join()


@pytest.mark.parametrize("sink", ["file", "pipe", "socket"])
@pytest.mark.parametrize("source", ["file", "pipe", "socket"])
@pytest.mark.parametrize("blocking", [True, False])
def test_between(source, sink, blocking):
    got = []
    with source_of(source) as reading, sink_of(sink, got) as writing:
        for fd in (reading, writing):
            os.set_blocking(fd, blocking)
        assert transfer.transfer(reading, writing, 1000) == 1000
        assert transfer.transfer(reading, writing, 0) == 0
        assert transfer.transfer(reading, writing, len(DATA) - 1000) == len(DATA) - 1000
        os.set_blocking(reading, True)
        assert transfer.transfer(reading, writing, 1) == 0
    assert got[0] == DATA


@pytest.mark.parametrize("sink", ["pipe", "socket"])
@pytest.mark.parametrize("source", ["file", "pipe", "socket"])
def test_a_reader_that_is_late(source, sink):
    """It begins to read only when the sink is full, so that a non-blocking sink must be waited for."""
    got = []
    reading, writing = os.pipe() if sink == "pipe" else [end.detach() for end in socket.socketpair()]

    def read():
        full = select.poll()
        full.register(writing, select.POLLOUT)
        while full.poll(0):
            time.sleep(0.001)
        while sum(map(len, got)) < len(DATA):
            got.append(os.read(reading, 1 << 16))

    os.set_blocking(writing, False)
    thread = threading.Thread(target=read)
    with source_of(source) as ours:
        os.set_blocking(ours, False)
        thread.start()
        assert transfer.transfer(ours, writing, len(DATA)) == len(DATA)
        thread.join()
    for fd in (reading, writing):
        os.close(fd)
    assert b"".join(got) == DATA


@pytest.mark.parametrize("source", ["file", "pipe", "socket"])
def test_what_the_kernel_refuses_is_copied(source):
    """A file opened with O_APPEND supports neither splice nor copy_file_range."""
    got = []
    with source_of(source) as reading, sink_of("file", got, os.O_APPEND) as writing:
        assert transfer.transfer(reading, writing, len(DATA) + 1) == len(DATA)
    assert got[0] == DATA


def test_errors():
    with pytest.raises(ValueError):
        transfer.transfer(0, 1, -1)
    with pytest.raises(OSError), tempfile.TemporaryFile() as file:
        transfer.transfer(-1, file.fileno(), 10)
    reading, writing = os.pipe()
    os.close(reading)
    with source_of("pipe", b"x" * 100) as source, pytest.raises(BrokenPipeError):
        transfer.transfer(source, writing, 100)
    os.close(writing)


def test_a_signal_ends_it():
    """A handler that raises ends a transfer that waits."""
    reading, writing = os.pipe()

    def handler(*_):
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt), tempfile.TemporaryFile() as file:
            transfer.transfer(reading, file.fileno(), 10)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        os.close(reading)
        os.close(writing)


def test_widen_pipe():
    reading, writing = os.pipe()
    size = transfer.widen_pipe(reading)
    assert size == transfer.widen_pipe(writing) == fcntl.fcntl(reading, 1032) >= 4096
    os.close(reading)
    os.close(writing)
    assert transfer.widen_pipe(-1) == 0
    with tempfile.TemporaryFile() as file:
        assert transfer.widen_pipe(file.fileno()) == 0


def test_begin_writing_changes_nothing(tmp_path):
    with open(tmp_path / "file", "w+b", buffering=0) as file:
        file.write(b"x" * 100000)
        for size in (-1, 0, 1, 100000, 100001, 2 ** 63 - 1):
            transfer.begin_writing(file.fileno(), size)
        assert file.tell() == 100000 and os.path.getsize(str(tmp_path / "file")) == 100000
    reading, writing = os.pipe()
    transfer.begin_writing(writing, 1)
    transfer.begin_writing(-1, 1)
    os.close(reading)
    os.close(writing)

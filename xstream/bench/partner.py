"""Processes at the other ends of pipes: one takes bytes and forgets them, one sends a file's.

They are processes so that what is measured has a GIL and a CPU clock of its own; and they are started before memory is
taken, so that none is shared with them.
"""
import array
import contextlib
import fcntl
import os
import socket
import subprocess
import sys
from typing import Any, Callable, Iterator, Set, Tuple

#: Of the pipes that are made here, where one may have that.
PIPE_SIZE = 1 << 20
_CHUNK = 1 << 20
_F_SETPIPE_SZ = 1031  # not in Python's fcntl module before 3.10


class Partner:
    """Both processes, as seen from here. Each has one task at a time. Close it. Raises ConnectionError where one of
    them has ended.

    While it has one, all that takes part is on one CPU, and takes turns: spread over several it would be measured what
    it costs to wake each other, which differs by a half from one time to the next.
    """

    def __init__(self) -> None:
        self._cpu = {min(os.sched_getaffinity(0))}
        self._taker, self._giver = _Process(self._cpu), _Process(self._cpu)

    def close(self) -> None:
        """End the processes."""
        self._taker.close()
        self._giver.close()

    def take(self, ends: Tuple[int, int], write: Callable[[int], object]) -> None:
        """Have ``write`` write to the second of two connected descriptors while a process reads the first; returns once
        that has read all. Both are closed."""
        reading, writing = ends
        with _on(self._cpu):
            self._taker.begin(b"", reading)
            try:
                write(writing)
            finally:
                os.close(writing)
            self._taker.wait()

    def give(self, ends: Tuple[int, int], path: str, read: Callable[[int], object]) -> None:
        """Have ``read`` read from the first of two connected descriptors while a process sends a file's bytes to the
        second. Both are closed."""
        reading, writing = ends
        with _on(self._cpu):
            self._giver.begin(os.fsencode(path), writing)
            try:
                read(reading)
            finally:
                os.close(reading)
            self._giver.wait()


@contextlib.contextmanager
def _on(cpus: Set[int]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class _Process:
    def __init__(self, cpus: Set[int]) -> None:
        self._control, theirs = socket.socketpair()
        self._process = subprocess.Popen([sys.executable, "-m", __name__, str(theirs.fileno())],
                                         pass_fds=[theirs.fileno()])
        theirs.close()
        os.sched_setaffinity(self._process.pid, cpus)

    def close(self) -> None:
        self._control.close()
        self._process.wait()

    def begin(self, path: bytes, fd: int) -> None:
        """Send it a descriptor, which is closed here, to send a file to, or with no path to drain."""
        self._control.sendmsg([b":" + path], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        os.close(fd)

    def wait(self) -> None:
        if not self._control.recv(1):
            raise ConnectionError("one of the bench's other processes has ended")


def pipe() -> Tuple[int, int]:
    """A pipe: its ends for reading and writing."""
    reading, writing = os.pipe()
    with contextlib.suppress(OSError):
        fcntl.fcntl(writing, _F_SETPIPE_SZ, PIPE_SIZE)
    return reading, writing


def connection() -> Tuple[int, int]:
    """A pair of connected sockets."""
    reading, writing = socket.socketpair()
    return reading.detach(), writing.detach()


def _drain(fd: int) -> None:
    room = memoryview(bytearray(_CHUNK))
    while os.readv(fd, [room]):
        pass


def _feed(fd: int, path: str) -> None:
    with open(path, "rb") as file:
        size, offset = os.fstat(file.fileno()).st_size, 0
        while offset < size:
            offset += os.sendfile(fd, file.fileno(), offset, size - offset)


def _serve(control: socket.socket) -> None:
    fds = array.array("i", [0])
    while True:
        task, ancillary, _, _ = control.recvmsg(4096, socket.CMSG_SPACE(fds.itemsize))
        if not task:
            return
        fd = _received(ancillary)
        try:
            if len(task) > 1:
                _feed(fd, os.fsdecode(task[1:]))
            else:
                _drain(fd)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the other side had enough
        finally:
            os.close(fd)
        control.send(b"!")


def _received(ancillary: Any) -> int:
    received = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            received.frombytes(data[:received.itemsize])
    return int(received[0])


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as inherited:
        _serve(inherited)

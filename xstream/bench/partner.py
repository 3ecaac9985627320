"""Processes at the other ends of pipes: one reads bytes and drops them, the other sends a file.

They are processes, so that the measured process has its own GIL and CPU clock. They are started before memory is
allocated, so that they share none of it.
"""
import array
import contextlib
import fcntl
import os
import socket
import subprocess
import sys
from typing import Callable, Iterator, Sequence, Set, Tuple

#: Size of the pipes made here, if this process may ask for it.
PIPE_SIZE = 1 << 20
_CHUNK = 1 << 20
_F_SETPIPE_SZ = 1031  # not in Python's fcntl module before 3.10


class Partner:
    """Both processes. Each does one task at a time. Call ``close`` to end them. Raises ConnectionError if one of them
    has ended.

    During a task, all processes that take part run on one CPU: on several, the cost of waking each other would be
    measured, which varies by half.
    """

    def __init__(self) -> None:
        self._cpu = {min(os.sched_getaffinity(0))}
        self._taker, self._giver = _Process(self._cpu), _Process(self._cpu)

    def close(self) -> None:
        """End the processes."""
        self._taker.close()
        self._giver.close()

    def take(self, ends: Tuple[int, int], write: Callable[[int], object]) -> None:
        """Call ``write`` with the second of two connected descriptors while a process reads the first. Returns when it
        has read everything. Closes both."""
        reading, writing = ends
        with _on(self._cpu):
            self._taker.begin(b"", reading)
            try:
                write(writing)
            finally:
                os.close(writing)
            self._taker.wait()

    def give(self, ends: Tuple[int, int], path: str, read: Callable[[int], object]) -> None:
        """Call ``read`` with the first of two connected descriptors while a process sends a file to the second. Closes
        both."""
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
        """Pass the process a descriptor, which is closed here: to send a file to, or without a path, to read."""
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
            pass  # the other side has closed it
        finally:
            os.close(fd)
        control.send(b"!")


def _received(ancillary: Sequence[Tuple[int, int, bytes]]) -> int:
    received = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            received.frombytes(data[:received.itemsize])
    return int(received[0])


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as inherited:
        _serve(inherited)

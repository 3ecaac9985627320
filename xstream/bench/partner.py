"""A process at the other end of a pipe: it takes bytes and forgets them, or sends a file's.

It is another process so that what is measured has a core, a GIL and a CPU clock of its own; and it is started before
memory is taken, so that none is shared with it.
"""
import array
import contextlib
import fcntl
import os
import socket
import subprocess
import sys
from typing import Any, Callable, Tuple

#: Of the pipes that are made here, where one may have that.
PIPE_SIZE = 1 << 20
_CHUNK = 1 << 20
_F_SETPIPE_SZ = 1031  # not in Python's fcntl module before 3.10
_DRAIN, _FEED = b"D", b"F"


class Partner:
    """The process, as seen from here. One task at a time. Close it. Raises ConnectionError where it has ended."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        self._process = subprocess.Popen([sys.executable, "-m", __name__, str(theirs.fileno())],
                                         pass_fds=[theirs.fileno()])
        theirs.close()

    def close(self) -> None:
        """End the process."""
        self._control.close()
        self._process.wait()

    def take(self, ends: Tuple[int, int], write: Callable[[int], object]) -> None:
        """Have ``write`` write to the second of two connected descriptors while the process reads the first; returns
        once it has read all. Both are closed."""
        reading, writing = ends
        self._send(_DRAIN, reading)
        try:
            write(writing)
        finally:
            os.close(writing)
        self._wait()

    def give(self, ends: Tuple[int, int], path: str, read: Callable[[int], object]) -> None:
        """Have ``read`` read from the first of two connected descriptors while the process sends a file's bytes to the
        second. Both are closed."""
        reading, writing = ends
        self._send(_FEED + os.fsencode(path), writing)
        try:
            read(reading)
        finally:
            os.close(reading)
        self._wait()

    def _send(self, task: bytes, fd: int) -> None:
        self._control.sendmsg([task], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        os.close(fd)

    def _wait(self) -> None:
        if not self._control.recv(1):
            raise ConnectionError("the bench's other process has ended")


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
            if task[:1] == _DRAIN:
                _drain(fd)
            else:
                _feed(fd, os.fsdecode(task[1:]))
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

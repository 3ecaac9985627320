"""A process at the other end of a pipe: it takes bytes and forgets them, or sends a file's.

It is another process so that what is measured has a core, a GIL and a CPU clock of its own; and it is started before
memory is taken, so that none is shared with it.
"""
import array
import os
import socket
import subprocess
import sys
from typing import Any, Optional

_CHUNK = 1 << 20
_DRAIN, _FEED = b"D", b"F"


class Partner:
    """The process, as seen from here. One task at a time. Close it."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        self._process = subprocess.Popen([sys.executable, "-m", __name__, str(theirs.fileno())],
                                         pass_fds=[theirs.fileno()])
        theirs.close()

    def close(self) -> None:
        """End the process."""
        self._control.close()
        self._process.wait()

    def drain(self, fd: int) -> None:
        """Have it read ``fd`` to its end; the caller's own is closed."""
        self._send(_DRAIN, fd)

    def feed(self, fd: int, path: str) -> None:
        """Have it send a file's bytes to ``fd``; the caller's own is closed."""
        self._send(_FEED + os.fsencode(path), fd)

    def wait(self) -> None:
        """Until the task is done. Raises ConnectionError where the process has ended."""
        if not self._control.recv(1):
            raise ConnectionError("the bench's other process has ended")

    def _send(self, task: bytes, fd: int) -> None:
        self._control.sendmsg([task], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        os.close(fd)


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


def main(fd: Optional[int] = None) -> None:
    """Serve the tasks that come on a socket's descriptor, until it is closed."""
    with socket.socket(fileno=int(sys.argv[1]) if fd is None else fd) as control:
        _serve(control)


if __name__ == "__main__":
    main()

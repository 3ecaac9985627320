"""libxl's side of its save helper: messages over the helper's stdin and stdout.

Source: tools/libs/light/libxl_save_msgs_gen.pl, libxl_save_helper.c and libxl_save_callout.c of Xen 4.12 to 4.22; log
levels: tools/include/xentoollog.h.
"""
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

# Log levels; xl shows PROGRESS and above, with -v also VERBOSE, with -vvv all.
DEBUG, DETAIL, PROGRESS, INFO, WARN, ERROR = 1, 3, 4, 5, 7, 8

# Message numbers. A callback's number is also its bit in the callback flags.
LOG, REPORT_PROGRESS, SUSPEND, POSTCOPY, CHECKPOINT, WAIT_CHECKPOINT = range(1, 7)
SWITCH_QEMU_LOGDIRTY, STATIC_DATA_DONE = 7, 8
#: Xen 4.12 and 4.13 have no STATIC_DATA_DONE, so the numbers after it are one lower.
_RESTORE_RESULTS, _COMPLETE = 9, 10

_CONTEXT = "xstream"
_NO_ERRNO = 0xFFFFFFFF


class LibxlGone(Exception):
    """libxl closed its end, or sent half a reply."""


class Libxl:
    """The libxl that started this helper.

    - ``callbacks``: the flags that it passed;
    - ``old``: it is Xen 4.12's or 4.13's.

    Raises LibxlGone, and OSError from its pipes.
    """

    def __init__(self, callbacks: int, *, old: bool = False, read_fd: int = 0, write_fd: int = 1) -> None:
        self._callbacks = callbacks
        self._old = old
        self._read_fd = read_fd
        self._write_fd = write_fd

    def log(self, level: int, text: str, errno: "Optional[int]" = None) -> None:
        """Add a line to libxl's log."""
        self._send(LOG, struct.pack("<2I", level, _NO_ERRNO if errno is None else errno) + _string(_CONTEXT)
                   + _string(text))

    def progress(self, what: str, done: int, total: int) -> None:
        """Report progress, which xl shows as a percentage."""
        self._send(REPORT_PROGRESS, _string(_CONTEXT) + _string(what) + struct.pack("<2Q", done, total))

    def has(self, callback: int) -> bool:
        """Whether libxl has a callback."""
        return bool(self._callbacks >> callback & 1)

    def ask(self, callback: int, arguments: bytes = b"", default: int = 1) -> int:
        """Have libxl run a callback and return its answer; ``default`` where it has no such callback."""
        if not self.has(callback):
            return default
        self._send(callback, arguments)
        return self._reply()

    def restore_results(self, store_frame: int, console_frame: int) -> None:
        """Report the frames of a restored guest's rings."""
        self._send(_RESTORE_RESULTS - self._old, struct.pack("<2Q", store_frame, console_frame))

    def complete(self, result: int, errno: int) -> None:
        """Report the end: 0, or -1 with an error number. Waits for libxl to take note."""
        self._send(_COMPLETE - self._old, struct.pack("<2i", result, errno))
        self._reply()

    def _send(self, number: int, arguments: bytes) -> None:
        body = struct.pack("<H", number) + arguments
        message = memoryview(struct.pack("<H", len(body)) + body)
        while message:
            message = message[os.write(self._write_fd, message):]

    def _reply(self) -> int:
        answer = b""
        while len(answer) < 4:
            piece = os.read(self._read_fd, 4 - len(answer))
            if not piece:
                raise LibxlGone("libxl closed the pipe to its helper")
            answer += piece
        value: int = struct.unpack("<i", answer)[0]
        return value


#: A message's length has 16 bits; two strings and some numbers must fit.
_LONGEST_STRING = 16 << 10


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "replace")[:_LONGEST_STRING].replace(b"\0", b"?") + b"\0"
    return struct.pack("<I", len(data)) + data

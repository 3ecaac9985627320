"""A few requests to xenstored, over its socket or Linux' xenbus device.

Source: xen/include/public/io/xs_wire.h; docs/misc/xenstore.txt.
"""
import errno
import os
import socket
import struct

from xstream.xen.errors import XenstoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional

_SOCKETS = ("/run/xenstored/socket", "/var/run/xenstored/socket")
_DEVICES = ("/dev/xen/xenbus", "/proc/xen/xenbus")
_HEAD = struct.Struct("<4I")  # type, request id, transaction id, length of the payload
_LIST, _READ, _WRITE, _WATCH_EVENT, _ERROR, _RESUME = 1, 2, 11, 15, 16, 18
_PAYLOAD_MAX = 4096


class Xenstore:
    """A connection to xenstored; raises XenstoreError."""

    def __init__(self) -> None:
        self._fd = _connect()

    def close(self) -> None:
        """Close the connection."""
        os.close(self._fd)

    def read(self, path: str) -> "Optional[str]":
        """The value at a path, or None where there is none."""
        try:
            return self._request(_READ, _text(path)).decode("utf-8", "replace")
        except XenstoreError as error:
            if error.errno == errno.ENOENT:
                return None
            raise

    def list(self, path: str) -> "List[str]":
        """The names of the entries under a path."""
        return self._request(_LIST, _text(path)).decode("utf-8", "replace").split("\0")[:-1]

    def write(self, path: str, value: str) -> None:
        """Set the value at a path."""
        self._request(_WRITE, _text(path) + value.encode())

    def resume(self, domid: int) -> None:
        """Note that a domain that had shut down runs again."""
        self._request(_RESUME, _text(str(domid)))

    def _request(self, kind: int, payload: bytes) -> bytes:
        message = memoryview(_HEAD.pack(kind, 0, 0, len(payload)) + payload)
        while message:
            message = message[os.write(self._fd, message):]
        while True:
            answer, _, _, length = _HEAD.unpack(self._receive(_HEAD.size))
            if length > _PAYLOAD_MAX:
                raise XenstoreError(errno.EPROTO, "xenstored: an answer of {} bytes, over the protocol's {}".format(
                    length, _PAYLOAD_MAX))
            body = self._receive(length)
            if answer == _ERROR:
                raise _refused(body, payload)
            if answer != _WATCH_EVENT:
                return body

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                piece = os.read(self._fd, size - len(data))
            except ConnectionError:
                piece = b""
            if not piece:
                raise XenstoreError(errno.EIO, "xenstored closed the connection")
            data += piece
        return data


def _refused(body: bytes, payload: bytes) -> XenstoreError:
    """The error in an answer, which is the name of an error number."""
    name = body.rstrip(b"\0").decode("ascii", "replace")
    path = payload.partition(b"\0")[0].decode("utf-8", "replace")
    return XenstoreError(getattr(errno, name, errno.EIO), "xenstored: {} for {}".format(name, path))


def _text(text: str) -> bytes:
    return text.encode() + b"\0"


def _connect() -> int:
    for path in _SOCKETS:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(path)
                return os.dup(connection.fileno())
        except OSError:
            continue
    for path in _DEVICES:
        try:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
    raise XenstoreError(errno.ECONNREFUSED, "xenstored can't be reached at {}".format(", ".join(_SOCKETS + _DEVICES)))

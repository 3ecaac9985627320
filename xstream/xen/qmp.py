"""QEMU's monitor protocol (QMP), as far as saving a domain's device model needs it.

Source: docs/interop/qmp-spec of QEMU; the commands' names and arguments: qapi/migration.json and qapi/misc.json; the
socket's path: tools/libs/light/libxl_qmp.c of Xen.
"""
import errno
import json
import os
import socket
import tempfile

from xstream.xen.errors import QmpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Optional

    from xstream.errors import JsonValue

_FOLDER = "/var/run/xen"
_RECORD_FOLDER = "/var/lib/xen"
_TIMEOUT = 60.0
_LONGEST_LINE = 1 << 20


class Qmp:
    """A connection to the QEMU that is a domain's device model; raises QmpError."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_TIMEOUT)
        try:
            self._socket.connect(path)
            self._lines = self._socket.makefile("rb")
            self._read()  # the greeting
            self.command("qmp_capabilities")
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._socket.close()

    def command(self, name: str, **arguments: "JsonValue") -> "JsonValue":
        """Run a command; returns what it returns. Events that come before the answer are dropped."""
        request: Dict[str, JsonValue] = {"execute": name}
        if arguments:
            request["arguments"] = arguments
        self._socket.sendall(json.dumps(request).encode())
        while True:
            answer = self._read()
            if "error" in answer:
                problem = answer["error"]
                raise QmpError(errno.EINVAL, "QEMU: {}: {}".format(
                    name, problem.get("desc", problem) if isinstance(problem, dict) else problem))
            if "return" in answer:
                return answer["return"]

    def device_model_record(self) -> bytes:
        """The state of the emulated devices: the blob of an EMULATOR_CONTEXT record. The guest must be suspended."""
        with tempfile.TemporaryDirectory(prefix="xstream-", dir=_RECORD_FOLDER) as folder:
            path = os.path.join(folder, "qemu-save")
            self.command("xen-save-devices-state", filename=path)
            with open(path, "rb") as file:
                return file.read()

    def _read(self) -> "Dict[str, JsonValue]":
        line = self._lines.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise QmpError(errno.EPROTO, "QEMU closed the connection, or its answer is too long")
        try:
            answer = json.loads(line.decode("utf-8", "replace"))
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise QmpError(errno.EPROTO, "not an answer of QEMU: {!r}".format(line[:80]))
        return answer


def connect(domid: int) -> "Optional[Qmp]":
    """The QEMU of a domain, or None where it has none. xl's and libvirt's domains have a socket that libxl uses; while
    libxl uses it, connecting waits."""
    path = os.path.join(_FOLDER, "qmp-libxl-{}".format(domid))
    return Qmp(path) if os.path.exists(path) else None

"""Xen's own stream tools, for tests that compare with them.

They are looked for under ``XSTREAM_XEN_TOOLS``, the folder that ``scripts/xen-tools`` filled, and where Debian installs
them. Tests take the ``xen_tools`` fixture, which is this module, and are skipped where the tools are absent.
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import List, Optional, Tuple, Union

Stream = Union[bytes, str, "os.PathLike[str]"]

ABSENT = "Xen's verify-stream-v2 isn't here: run scripts/xen-tools FOLDER and set XSTREAM_XEN_TOOLS=FOLDER"

#: More than the slowest of the genuine streams takes; a tool that hangs is a failed test, not a hung one.
TIMEOUT = 300


def folder() -> Optional[Path]:
    """The folder of the newest tools at hand, or None."""
    roots = [os.environ["XSTREAM_XEN_TOOLS"]] if os.environ.get("XSTREAM_XEN_TOOLS") else []
    for root in roots + ["/"]:
        found = sorted(Path(root).glob("usr/lib/xen-*/bin/verify-stream-v2"))
        if found:
            return found[-1].parent
    return None


def verify_stream_v2(stream: Stream, format: str = "libxc") -> Tuple[bool, str]:
    """Ask ``verify-stream-v2`` about a stream (a file's path, or bytes) of format libxc, libxl or xl.

    Returns whether it accepts it, and what it said, both outputs together.
    """
    with tempfile.TemporaryDirectory() as scratch:
        name = _file(stream, scratch)
        return _run("verify-stream-v2", ["--in", name, "--format", format, "--verbose"], scratch)


def convert_legacy_stream(stream: Stream, guest: str, width: int = 64, format: str = "libxl", xl: bool = False,
                          skip_qemu: bool = False) -> Tuple[Optional[bytes], str]:
    """Have ``convert-legacy-stream`` convert a legacy stream (a file's path, or bytes).

    ``guest`` is "pv" or "hvm", ``width`` the toolstack's 32 or 64, ``format`` "libxc" or "libxl"; ``xl`` says that
    the stream has an xl header. Returns the converted stream, None where the tool fails, and what it said.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "converted")
        arguments = ["--in", _file(stream, scratch), "--out", str(out), "--guest-type", guest, "--width", str(width),
                     "--format", format]
        arguments += ["--xl"] if xl else []
        arguments += ["--skip-qemu"] if skip_qemu else []
        good, said = _run("convert-legacy-stream", arguments, scratch)
        return out.read_bytes() if good else None, said


def _file(stream: Stream, scratch: str) -> str:
    """The path of a regular file: from a pipe the tools would take a short read for the end."""
    if not isinstance(stream, bytes):
        return os.fspath(stream)
    path = Path(scratch, "stream")
    path.write_bytes(stream)
    return str(path)


def _run(tool: str, arguments: List[str], scratch: str) -> Tuple[bool, str]:
    where = folder()
    if where is None:
        raise FileNotFoundError(ABSENT)
    # Debian's Python is the one that the tools are made for; they need nothing beyond its library.
    python = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
    environment = {"PYTHONPATH": str(where.parent / "lib" / "python"), "PYTHONDONTWRITEBYTECODE": "1",
                   "PATH": os.defpath, "LC_ALL": "C.UTF-8"}
    with Path(scratch, "said").open("w+b") as said, open(os.devnull, "rb") as nothing:
        status = subprocess.call([python, str(where / tool)] + arguments, env=environment, stdin=nothing,
                                 stdout=said, stderr=said, timeout=TIMEOUT)
        said.seek(0)
        return status == 0, said.read().decode("utf-8", "replace")

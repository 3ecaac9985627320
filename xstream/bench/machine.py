"""The machine: what it is, what it can do at best, and where scratch files go."""
import contextlib
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import numpy

from xstream.kernels import checksum
from xstream.version import __version__

#: Bytes of one write() or read() where the limit of either is measured.
CHUNK = 1 << 20
#: CPU features that the kernels ask for, or that say how old a CPU is.
_FEATURES = ("sse4_2", "pclmulqdq", "avx2", "avx512f", "avx512bw", "avx512vl", "vpclmulqdq")
_SHARED_MEMORY = "/dev/shm"


def facts() -> Dict[str, Any]:
    """What a run was made on, and with."""
    info = _cpu_info()
    flags = info.get("flags", "").split()
    return {
        "cpu": info.get("model name", platform.machine()), "family": cpu_family(),
        "cores": len(os.sched_getaffinity(0)),
        "features": [name for name in _FEATURES if name in flags], "memory": _memory("MemTotal"),
        "kernel": platform.release(), "python": platform.python_version(), "numpy": numpy.__version__,
        "xstream": __version__, "commit": _commit(), "crc32c": checksum.implementation(),
    }


def cpu_family() -> str:
    """Vendor, family and model of the CPU, as in "GenuineIntel-6-143": ratios are comparable within one of these."""
    info = _cpu_info()
    parts = [info.get(name, "") for name in ("vendor_id", "cpu family", "model")]
    return "-".join(parts) if all(parts) else platform.machine()


def memory_available() -> int:
    """Bytes that can be taken without swapping."""
    return _memory("MemAvailable")


@contextlib.contextmanager
def scratch(size: int) -> Iterator[str]:
    """A folder for files of so many bytes in all: in shared memory where they fit in half of it, so that no disk is
    measured, else where temporary files go. It is removed at the end."""
    with contextlib.suppress(OSError):
        room = os.statvfs(_SHARED_MEMORY)
        if os.access(_SHARED_MEMORY, os.W_OK) and size < room.f_bavail * room.f_frsize // 2:
            with tempfile.TemporaryDirectory(prefix="xstream-bench-", dir=_SHARED_MEMORY) as folder:
                yield folder
            return
    with tempfile.TemporaryDirectory(prefix="xstream-bench-") as folder:
        yield folder


def read_memory(words: Any) -> int:
    """Read an array of uint64, front to back: its sum."""
    return int(words.sum())


def write_all(fd: int, data: memoryview) -> None:
    """Write bytes by write(), ``CHUNK`` at a time."""
    while len(data):
        data = data[os.write(fd, data[:CHUNK]):]


def read_all(fd: int, room: memoryview) -> None:
    """Read to the end of the input by read(), ``CHUNK`` at a time, into ``room`` and, where it is full, again."""
    done = got = 0
    while done == 0 or got:
        got = os.readv(fd, [room[done % len(room):][:CHUNK]])
        done += got


def _cpu_info() -> Dict[str, str]:
    found: Dict[str, str] = {}
    for name, value in _pairs("/proc/cpuinfo"):
        found.setdefault(name, value)
    return found


def _memory(name: str) -> int:
    return next((int(value.split()[0]) << 10 for found, value in _pairs("/proc/meminfo") if found == name), 0)


def _pairs(path: str) -> List[List[str]]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]


def _commit() -> Optional[str]:
    """Of the checkout that the package is run from, with a "+" where it has been changed; None elsewhere."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    described = subprocess.run(["git", "-C", str(checkout), "describe", "--always", "--dirty=+", "--exclude=*"],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return described.stdout.decode().strip() or None

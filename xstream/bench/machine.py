"""The machine: its properties, how busy it is, what it can do at best, and where scratch files go."""
import contextlib
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional

import numpy

from xstream.kernels import checksum
from xstream.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.errors import JsonValue

#: Bytes of one write() or read() when the limit of either is measured.
CHUNK = 1 << 20
#: CPU features that the kernels use, or that tell how old a CPU is.
_FEATURES = ("sse4_2", "pclmulqdq", "avx2", "avx512f", "avx512bw", "avx512vl", "vpclmulqdq")
_SHARED_MEMORY = "/dev/shm"


def facts() -> "Dict[str, JsonValue]":
    """The machine and the versions of a run."""
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
    """Bytes that can be allocated without swapping."""
    return _memory("MemAvailable")


#: Seconds for which the machine is watched, and the share of CPU time from which it counts as busy.
_WATCHED, _BUSY = 0.3, 0.1


class CpuTimes(NamedTuple):
    """CPU time of the whole machine since it was started, in clock ticks: all of it, idle, and stolen, that is given to
    other guests by the hypervisor."""

    total: int
    idle: int
    stolen: int


class Busy(NamedTuple):
    """How busy the machine is with other work, as shares of the time of all CPUs: ``others``, while the bench waits;
    ``stolen``, by the hypervisor during the whole run."""

    others: float
    stolen: float

    def __bool__(self) -> bool:
        return self.others > _BUSY or self.stolen > _BUSY


def cpu_times() -> Optional[CpuTimes]:
    """The CPU times now, or None on a system that doesn't tell them. Source: proc(5), /proc/stat."""
    with contextlib.suppress(OSError, ValueError):
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
        ticks = [int(field) for field in fields[1:9]]  # user, nice, system, idle, iowait, irq, softirq, steal
        return CpuTimes(sum(ticks), ticks[3] + ticks[4], ticks[7])
    return None


def others_at_work() -> float:
    """The share of all CPU time that other processes and guests use now. Waits for a moment."""
    before = cpu_times()
    time.sleep(_WATCHED)
    after = cpu_times()
    if before is None or after is None or after.total == before.total:
        return 0.0
    return max(0.0, 1 - (after.idle - before.idle) / (after.total - before.total))


def stolen_since(start: Optional[CpuTimes]) -> float:
    """The share of all CPU time that the hypervisor has given to other guests since ``start``."""
    now = cpu_times()
    if start is None or now is None or now.total == start.total:
        return 0.0
    return (now.stolen - start.stolen) / (now.total - start.total)


@contextlib.contextmanager
def scratch(size: int) -> Iterator[str]:
    """A folder for files of ``size`` bytes in all, removed at the end: in shared memory if they fit in half of it, so
    that no disk is measured, else where temporary files go."""
    with contextlib.suppress(OSError):
        room = os.statvfs(_SHARED_MEMORY)
        if os.access(_SHARED_MEMORY, os.W_OK) and size < room.f_bavail * room.f_frsize // 2:
            with tempfile.TemporaryDirectory(prefix="xstream-bench-", dir=_SHARED_MEMORY) as folder:
                yield folder
            return
    with tempfile.TemporaryDirectory(prefix="xstream-bench-") as folder:
        yield folder


def read_memory(words: numpy.ndarray) -> int:
    """Read an array of uint64, front to back: its sum."""
    return int(words.sum())


def write_all(fd: int, data: memoryview) -> None:
    """Write bytes by write(), ``CHUNK`` at a time."""
    while len(data):
        data = data[os.write(fd, data[:CHUNK]):]


def read_all(fd: int, room: memoryview) -> None:
    """Read to the end of input by read(), ``CHUNK`` at a time, into ``room``, again from its beginning when it is
    full."""
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
    """The commit of the checkout that the package runs from, with a "+" if it has changes; None without a checkout."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    described = subprocess.run(["git", "-C", str(checkout), "describe", "--always", "--dirty=+", "--exclude=*"],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return described.stdout.decode().strip() or None

"""Workloads: several sides that do the same work, each with a description."""
import importlib
import os
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Callable, Iterator, List, NamedTuple, Optional, Tuple

import numpy

from xstream.guest.parallel import Workers
from xstream.stream.threads import usable_cpus

Work = Callable[[], object]

OURS, THREADS, MACHINE, PEER = "xstream", "threads", "machine", "peer"


class Side(NamedTuple):
    """One way to do a workload's work: its name, a description, and a function that does it.

    ``kind``: OURS; THREADS, ours with another number of threads, a ratio that depends on how busy the machine is;
    MACHINE, a limit that no program can beat by much; PEER, another program.
    """

    name: str
    what: str
    run: Work
    kind: str


class Workload(NamedTuple):
    """Sides that do the same work, ours first, on ``bytes`` bytes of guest pages."""

    name: str
    bytes: int
    sides: Tuple[Side, ...]


def ours(what: str, run: Work) -> Side:
    """A side that is this package."""
    return Side("xstream", what, run, OURS)


def limit(name: str, what: str, run: Work) -> Side:
    """A side that is a limit of the machine."""
    return Side(name, what, run, MACHINE)


def peer(name: str, what: str, run: Work) -> Side:
    """A side that is another program."""
    return Side(name, what, run, PEER)


def by_threads(what: str, run: Callable[[int], object], copying: str,
               arrays: Callable[[], Tuple[numpy.ndarray, numpy.ndarray]]) -> Iterator[Side]:
    """Our work by as many threads as there are CPUs, against the machine's limit for so many threads, and one thread.

    ``run``: the work, with a number of threads; ``copying``: what the limit does; ``arrays``: of bytes, to copy to and
    from. Memory may be shared by all CPUs, so the limit isn't that of one thread times their number.
    """
    jobs = usable_cpus()
    yield ours("{}, by {} threads".format(what, jobs), lambda: run(jobs))
    yield limit("memcpy", "{}, by {} threads".format(copying, jobs),
                lambda: by_parts(numpy.copyto, jobs, *arrays()))
    yield Side("1 thread for {}".format(jobs), "the same by one", lambda: run(1), THREADS)


def by_parts(work: Callable[..., object], jobs: int, *arrays: numpy.ndarray) -> None:
    """Do ``work`` on ``jobs`` equal parts of arrays of one length, each in a thread."""
    bounds = [len(arrays[0]) * at // jobs for at in range(jobs + 1)]
    with Workers(jobs) as workers:
        workers.run([partial(work, *(array[start:end] for array in arrays)) for start, end in zip(bounds, bounds[1:])])


def xen_module(name: str) -> Optional[ModuleType]:
    """A module of Xen's own tools, or None if they aren't installed."""
    for folder in _xen_folders():
        sys.path.append(str(folder / "lib" / "python"))
        try:
            return importlib.import_module(name)
        except ImportError:
            sys.path.pop()
    return None


def xen_converter(source: str, target: str) -> List[str]:
    """The command by which Xen's own tool converts an HVM guest's legacy stream; empty if it isn't installed.
    ``source`` and ``target``: paths, or numbers of descriptors."""
    for folder in _xen_folders():
        tool = folder / "bin" / "convert-legacy-stream"
        if tool.exists():
            # The tool is made for Debian's Python.
            return ["env", "PYTHONDONTWRITEBYTECODE=1", "PYTHONPATH={}".format(folder / "lib" / "python"),
                    "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable, str(tool),
                    "--in", source, "--out", target, "--guest-type", "hvm", "--width", "64", "--format", "libxc"]
    return []


def _xen_folders() -> List[Path]:
    """The folders in which Xen's tools are installed, or unpacked under XSTREAM_XEN_TOOLS."""
    roots = [os.environ.get("XSTREAM_XEN_TOOLS") or "/", "/"]
    return [folder for root in roots for folder in sorted(Path(root).glob("usr/lib/xen-*"), reverse=True)]

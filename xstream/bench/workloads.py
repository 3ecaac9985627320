"""Workloads: several sides that do the same work, each with a description."""
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Callable, List, NamedTuple, Optional, Tuple

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

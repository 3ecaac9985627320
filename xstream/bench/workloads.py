"""What a workload is: sides that do the same work, each of which says what it does."""
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Callable, List, NamedTuple, Optional, Tuple

Work = Callable[[], object]

OURS, THREADS, MACHINE, PEER = "xstream", "threads", "machine", "peer"


class Side(NamedTuple):
    """One way to do a workload's work: who does it, what exactly it does, and the doing.

    ``kind``: OURS; THREADS, ours by fewer threads, where it is up to who else is at work what more are worth; MACHINE,
    a limit: nobody who does the work can be faster by much; PEER, who does the same.
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
    """What this package does."""
    return Side("xstream", what, run, OURS)


def limit(name: str, what: str, run: Work) -> Side:
    """What the machine can do."""
    return Side(name, what, run, MACHINE)


def peer(name: str, what: str, run: Work) -> Side:
    """What another program does."""
    return Side(name, what, run, PEER)


def xen_module(name: str) -> Optional[ModuleType]:
    """A module of Xen's own tools, where they are at hand."""
    for folder in _xen_folders():
        sys.path.append(str(folder / "lib" / "python"))
        try:
            return importlib.import_module(name)
        except ImportError:
            sys.path.pop()
    return None


def xen_converter(source: str, target: str) -> List[str]:
    """The command by which Xen's own tool converts an HVM guest's legacy stream; empty where it isn't at hand.
    ``source`` and ``target``: paths, or numbers of descriptors."""
    for folder in _xen_folders():
        tool = folder / "bin" / "convert-legacy-stream"
        if tool.exists():
            # Debian's Python is the one that the tool is made for.
            return ["env", "PYTHONDONTWRITEBYTECODE=1", "PYTHONPATH={}".format(folder / "lib" / "python"),
                    "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable, str(tool),
                    "--in", source, "--out", target, "--guest-type", "hvm", "--width", "64", "--format", "libxc"]
    return []


def _xen_folders() -> List[Path]:
    """Where Xen's tools are installed, or unpacked under XSTREAM_XEN_TOOLS."""
    roots = [os.environ.get("XSTREAM_XEN_TOOLS") or "/", "/"]
    return [folder for root in roots for folder in sorted(Path(root).glob("usr/lib/xen-*"), reverse=True)]

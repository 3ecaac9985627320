"""What a workload is: sides that do the same work, each of which says what it does."""
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Callable, NamedTuple, Optional, Tuple

Work = Callable[[], object]

OURS, MACHINE, PEER = "xstream", "machine", "peer"


class Side(NamedTuple):
    """One way to do a workload's work: who does it, what exactly it does, and the doing.

    ``kind``: OURS; MACHINE, a limit: nobody who does the work can be faster by much; PEER, who does the same.
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
    """A module of Xen's own tools, where they are installed or unpacked under XSTREAM_XEN_TOOLS."""
    for root in (os.environ.get("XSTREAM_XEN_TOOLS", "/"), "/"):
        for folder in sorted(Path(root).glob("usr/lib/xen-*/lib/python")):
            sys.path.append(str(folder))
            try:
                return importlib.import_module(name)
            except ImportError:
                sys.path.remove(str(folder))
    return None

"""Third-party programs that read guest memory: how to find and run them.

``.ci/run`` installs them. A test that needs one that isn't there is skipped, which is an error in CI.
"""
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Optional

REQUIRED = os.environ.get("XSTREAM_REQUIRE_ALL") == "1"
#: Debian's Python, for which python3-libkdumpfile is built.
SYSTEM_PYTHON = "/usr/bin/python3"


def missing() -> List[str]:
    """The tools that aren't installed."""
    return [name for name, found in _found().items() if not found]


@functools.lru_cache(maxsize=None)
def _found() -> Dict[str, bool]:
    found = {name: shutil.which(name) is not None for name in ("makedumpfile", "gdb", "readelf")}
    found["drgn"] = importlib.util.find_spec("drgn") is not None
    found["volatility3"] = volatility() is not None
    found["python3-libkdumpfile"] = os.path.exists(SYSTEM_PYTHON) and not subprocess.call(
        [SYSTEM_PYTHON, "-c", "import kdumpfile"], stderr=subprocess.DEVNULL)
    return found


def volatility() -> Optional[str]:
    """The ``vol`` beside this Python, or on the path."""
    beside = Path(sys.executable).parent / "vol"
    return str(beside) if beside.exists() else shutil.which("vol")


def run(*command: str, cwd: Optional[str] = None) -> str:
    """The output of a command that must succeed, errors included."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cwd,
                          universal_newlines=True)  # noqa: UP021, Python 3.6 has no text
    assert done.returncode == 0, done.stdout
    return done.stdout

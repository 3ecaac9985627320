"""Trials of what is about to be released: installed as hosts without a network would, and put through the tests."""
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

from builds import HERE, run

CHECKOUT = HERE.parent

#: The pips that hosts of a Python come with, where it isn't one only; the tests are run in the last one's environment.
PIPS = {(3, 6): ("9.0.3", "18.1", "21.3")}

#: What the installed package says of itself, before anything else is installed.
PROBE = """
import json, sys, time
start = time.perf_counter()
import xstream
face = time.perf_counter()
xstream.Reader
reader = time.perf_counter()
from xstream.kernels import checksum, pages
print(json.dumps({
    "at": xstream.__file__, "extra": sorted({"numpy", "tqdm"} & set(sys.modules)), "face": face - start,
    "reader": reader - start, "CRC32C": checksum.implementation(), "zero pages": pages.implementation()}))
"""

#: What the tests need, for hosts whose pip can't ask for it.
TEST = ("numpy", "tqdm", "pytest", "pytest-benchmark", "hypothesis")

#: What the Python made for musl can run: numpy's wheel for musl ends it with a fault while it is imported.
MUSL_TESTS = ("tests/test_bare_host.py",) + tuple(
    "tests/kernels/test_{}.py".format(name) for name in ("cpu", "deltas", "p2m", "transfer", "vmsplice"))

#: A stream for hosts that have no genuine one, from the tests' samples.
SAMPLE = "import sys, samples; open(sys.argv[1], 'wb').write(samples.hvm())"


class Python(NamedTuple):
    """An interpreter that somebody may install a wheel for."""

    path: Path
    version: str
    musl: bool

    @property
    def minor(self) -> int:
        return int(self.version.split(".")[1])

    def target(self) -> Optional[str]:
        """The name of the target whose wheel serves it, if any does."""
        if self.musl:
            return "abi3-musl" if self.minor >= 11 else None
        return "cp36" if self.minor == 6 else "abi3" if self.minor >= 11 else None


def find_python(version: str) -> Optional[Python]:
    """The newest Python of a version ("3.6"; "3": of any) at hand."""
    path = run([CHECKOUT / "scripts" / "find-python", version]).strip()
    return describe(Path(path)) if path else None


def describe(path: Path) -> Python:
    said = run([path, "-c", "import platform, sys; print(platform.python_version(), platform.libc_ver()[0] or 'musl')"])
    version, libc = said.split()
    return Python(path, version, libc != "glibc")


def try_python(python: Python, wheels: Dict[str, Path], sdist: Path, tests: str, scratch: Path) -> List[str]:
    """Install what serves a Python into empty environments and run the tests away from the checkout.

    ``tests``: the folder of those to run, from the checkout.
    """
    target = python.target()
    if target is None:
        refuse(python, sdist.parent, scratch)
        host = Host.empty(python, scratch / "sdist")
        host.online("install", "{}[test]".format(sdist))
        return [host.look(None), host.test(tests)]
    report = []
    for pip in PIPS.get((3, python.minor), ("",)):
        host = Host.empty(python, scratch / ("pip" + pip), pip)
        host.offline("install", "xen-xstream", links=sdist.parent)
        report.append(host.look(wheels[target]))
    if python.musl:  # the Python made for it has no TLS
        foreign("download", ["musllinux_1_2_x86_64"], "--dest", scratch / "links", *TEST)
        host.offline("install", *TEST, links=scratch / "links")
        return report + [host.test(*MUSL_TESTS)]
    host.online("install", "xen-xstream[test]")
    return report + [host.test(tests)]


def refuse(python: Python, dist: Path, scratch: Path) -> None:
    """A Python that no wheel serves is told so in plain words."""
    host = Host.empty(python, scratch / "refused")
    ran = subprocess.run([str(host.python), "-m", "pip", "install", "--no-index", "--find-links", str(dist),
                          "--only-binary", ":all:", "xen-xstream"], env=without_network(), text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if ran.returncode != 1 or "No matching distribution found for xen-xstream" not in ran.stdout:
        raise SystemExit("no refusal by pip of Python {}:\n{}".format(python.version, ran.stdout))


class Host(NamedTuple):
    """An environment of a Python, and a folder around it that is not the checkout's."""

    python: Path
    away: Path

    @classmethod
    def empty(cls, python: Python, away: Path, pip: str = "") -> "Host":
        run([python.path, "-m", "venv", away / "venv"])
        host = cls(away / "venv" / "bin" / "python", away)
        if pip:
            host.online("install", "pip==" + pip)
        return host

    def offline(self, *words: object, links: Path) -> None:
        run([self.python, "-m", "pip", *words, "--no-index", "--find-links", links], self.away, without_network())

    def online(self, *words: object) -> None:
        """What the trial needs and no host does."""
        run([self.python, "-m", "pip", "--quiet", "--disable-pip-version-check", *words], self.away)

    def look(self, wheel: Optional[Path]) -> str:
        """Hold what is installed to what it must be; returns what was found and measured, in a line."""
        env = without_network()
        said = json.loads(run([self.python, "-c", PROBE], self.away, env))
        if not said["at"].startswith(str(self.away)) or said["extra"]:
            raise SystemExit("not what was installed: {}".format(said))
        if wheel is not None:
            with zipfile.ZipFile(wheel) as archive:
                shipped = {name: archive.read(name) for name in archive.namelist() if name.endswith((".py", ".so"))}
            site = Path(said["at"]).parent.parent
            if any((site / name).read_bytes() != data for name, data in shipped.items()):
                raise SystemExit("{} isn't what was installed".format(wheel.name))
        prefix = self.away / "venv"
        for page in "share/man/man1/xstream.1", "share/bash-completion/completions/xstream":
            if not (prefix / page).is_file():
                raise SystemExit("installed without " + page)
        file = self._stream()
        command = [prefix / "bin" / "xstream", "info", file]
        if "libxc stream, version 3" not in run(command, self.away, env):
            raise SystemExit("xstream info doesn't know {}".format(file))
        times = [json.loads(run([self.python, "-c", PROBE], self.away, env)) for _ in range(9)]
        return "{}: import {:.1f} ms, with the reader {:.1f} ms; info {:.0f} ms; CRC32C {}, zero pages {}".format(
            run([self.python, "-m", "pip", "--version"], env=env).split(" from ")[0],
            1000 * statistics.median(time["face"] for time in times),
            1000 * statistics.median(time["reader"] for time in times),
            1000 * statistics.median(_timed(command, env) for _ in range(9)), said["CRC32C"], said["zero pages"])

    def _stream(self) -> Path:
        """A genuine stream, else one of the tests' own."""
        streams = os.environ.get("XSTREAM_STREAMS")
        if streams:
            return Path(streams) / "v3" / "hvm.xs.xz"
        file = self.away / "sample.xs"
        run([self.python, "-c", SAMPLE, file], CHECKOUT / "tests", dict(without_network(), PYTHONDONTWRITEBYTECODE="1"))
        return file

    def test(self, *tests: str) -> str:
        """Run tests from a folder that has nothing else; returns what pytest says in the end."""
        shutil.copytree(CHECKOUT / "tests", self.away / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(CHECKOUT / "pyproject.toml", self.away)
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        said = run([self.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], self.away, env)
        return said.split("\n")[-2]


def foreign(verb: str, platforms: List[str], *words: object) -> None:
    """Have this Python's pip get wheels for hosts of other platforms that run the Python of the limited API."""
    run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", verb, "--python-version", "311",
         "--only-binary", ":all:", *(word for platform in platforms for word in ("--platform", platform)), *words])


def try_aarch64(python: Path, wheel: Path, scratch: Path) -> List[str]:
    """Import the wheel of another machine under emulation and run the kernels' tests.

    Its environment is made from outside: what the emulated Python starts would not be emulated.
    """
    site = scratch / "site"
    platforms = ["manylinux_2_17_aarch64", "manylinux_2_28_aarch64"]
    foreign("install", platforms, "--target", site, "--no-deps", wheel)
    said = json.loads(run([python, "-c", PROBE], scratch, dict(without_network(), PYTHONPATH=str(site))))
    shutil.copytree(CHECKOUT / "tests", scratch / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "pyproject.toml", scratch)
    foreign("install", platforms, "--target", site, "--upgrade", *TEST)
    # Without genuine streams: they take longer to decompress than the tests do.
    env = {name: value for name, value in os.environ.items() if not name.startswith("XSTREAM_")}
    ran = run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels"], scratch,
              dict(env, PYTHONPATH=str(site)))
    return ["emulated: CRC32C {}, zero pages {}".format(said["CRC32C"], said["zero pages"]), ran.split("\n")[-2]]


def try_bundle(python: Python, other: Python, bundle: Path, scratch: Path) -> List[str]:
    """Install the bundle for a user, and see it refused by a Python that it isn't for and where it is damaged."""
    with tarfile.open(bundle) as tar:
        tar.extractall(scratch)
    unpacked = next(scratch.iterdir())
    prefix = scratch / "prefix"
    script = ["sh", unpacked / "install.sh", prefix]
    for damage, interpreter, status in (False, other, 2), (True, python, 1), (False, python, 0):
        if damage:
            shutil.move(unpacked / "LICENSE", scratch)
        ran = subprocess.run([str(word) for word in script], env=dict(without_network(), PYTHON=str(interpreter.path)),
                             text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if ran.returncode != status or status and prefix.exists():
            raise SystemExit("install.sh ended with {} for {}:\n{}".format(ran.returncode, status, ran.stdout))
        if damage:
            shutil.move(scratch / "LICENSE", unpacked)
    said = run([prefix / "bin" / "xstream", "--version"], scratch, without_network()).strip()
    arrays = "import numpy, tqdm, xstream; xstream.GuestMemory().pages; print(numpy.__version__, tqdm.__version__)"
    versions = run([prefix / "lib" / "xstream" / "bin" / "python", "-c", arrays], scratch, without_network()).split()
    return ["install.sh: {}, with numpy {} and tqdm {}; refused where it isn't for, and damaged".format(
        said, *versions)]


def without_network() -> Dict[str, str]:
    """The environment of a host whose pip knows no registry, and whose Python nothing but what is installed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    return dict(kept, PIP_CONFIG_FILE="/dev/null", PIP_DISABLE_PIP_VERSION_CHECK="1")


def _timed(command: List[object], env: Dict[str, str]) -> float:
    start = time.perf_counter()
    run(command, env=env)
    return time.perf_counter() - start

"""Try a release: install its files as a host without a network would, and run the tests."""
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

#: Versions of pip to try, by Python, where there are several; the tests run in the environment of the last.
PIPS = {(3, 6): ("9.0.3", "18.1", "21.3")}

#: Prints facts about the installed package, before anything else is installed.
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

#: Requirements of the tests, for hosts whose pip can't resolve the extra.
TEST = ("numpy", "tqdm", "pytest", "pytest-benchmark", "hypothesis")

#: Tests for the Python built on musl: importing numpy's musl wheel crashes it.
MUSL_TESTS = ("tests/test_bare_host.py",) + tuple(
    "tests/kernels/test_{}.py".format(name) for name in ("cpu", "deltas", "p2m", "transfer", "vmsplice"))

#: Writes a small stream, from the tests' samples.
SAMPLE = "import sys, samples; open(sys.argv[1], 'wb').write(samples.hvm())"


class Python(NamedTuple):
    """An interpreter that users may have."""

    path: Path
    version: str
    musl: bool

    @property
    def minor(self) -> int:
        return int(self.version.split(".")[1])

    def target(self) -> Optional[str]:
        """The name of the target whose wheel it can use, or None."""
        if self.musl:
            return "abi3-musl" if self.minor >= 11 else None
        return "cp36" if self.minor == 6 else "abi3" if self.minor >= 11 else None


def find_python(version: str) -> Optional[Python]:
    """The Python of a version ("3.6"), or the newest one installed ("3"); or None."""
    path = run([CHECKOUT / "scripts" / "find-python", version]).strip()
    return describe(Path(path)) if path else None


def describe(path: Path) -> Python:
    said = run([path, "-c", "import platform, sys; print(platform.python_version(), platform.libc_ver()[0] or 'musl')"])
    version, libc = said.split()
    return Python(path, version, libc != "glibc")


def try_python(python: Python, wheels: Dict[str, Path], sdist: Path, tests: str, scratch: Path) -> List[str]:
    """Install the wheel for a Python, or else the sdist, into empty environments; run the tests away from the checkout.

    ``tests`` is the folder of the tests to run, relative to the checkout.
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
    if python.musl:  # the Python built here has no TLS
        foreign("download", ["musllinux_1_2_x86_64"], "--dest", scratch / "links", *TEST)
        host.offline("install", *TEST, links=scratch / "links")
        return report + [host.test(*MUSL_TESTS)]
    host.online("install", "xen-xstream[test]")
    return report + [host.test(tests)]


def refuse(python: Python, dist: Path, scratch: Path) -> None:
    """On a Python without a wheel, pip must say that there is no matching distribution."""
    host = Host.empty(python, scratch / "refused")
    ran = subprocess.run([str(host.python), "-m", "pip", "install", "--no-index", "--find-links", str(dist),
                          "--only-binary", ":all:", "xen-xstream"], env=without_network(), text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if ran.returncode != 1 or "No matching distribution found for xen-xstream" not in ran.stdout:
        raise SystemExit("no refusal by pip of Python {}:\n{}".format(python.version, ran.stdout))


class Host(NamedTuple):
    """A virtual environment of a Python, in a folder outside the checkout."""

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
        """Run pip with network access, for what only the trial needs."""
        run([self.python, "-m", "pip", "--quiet", "--disable-pip-version-check", *words], self.away)

    def look(self, wheel: Optional[Path]) -> str:
        """Check the installed package; returns a line with what was found and measured."""
        env = without_network()
        said = json.loads(run([self.python, "-c", PROBE], self.away, env))
        if not said["at"].startswith(str(self.away)) or said["extra"]:
            raise SystemExit("another package than the installed one was imported: {}".format(said))
        if wheel is not None:
            with zipfile.ZipFile(wheel) as archive:
                shipped = {name: archive.read(name) for name in archive.namelist() if name.endswith((".py", ".so"))}
            site = Path(said["at"]).parent.parent
            if any((site / name).read_bytes() != data for name, data in shipped.items()):
                raise SystemExit("the installed files differ from those of {}".format(wheel.name))
        prefix = self.away / "venv"
        for page in "share/man/man1/xstream.1", "share/bash-completion/completions/xstream":
            if not (prefix / page).is_file():
                raise SystemExit("installed without " + page)
        file = self._stream()
        command = [prefix / "bin" / "xstream", "info", file]
        if "libxc stream, version 3" not in run(command, self.away, env):
            raise SystemExit("xstream info doesn't recognise {}".format(file))
        times = [json.loads(run([self.python, "-c", PROBE], self.away, env)) for _ in range(9)]
        return "{}: import {:.1f} ms, with the reader {:.1f} ms; info {:.0f} ms; CRC32C {}, zero pages {}".format(
            run([self.python, "-m", "pip", "--version"], env=env).split(" from ")[0],
            1000 * statistics.median(time["face"] for time in times),
            1000 * statistics.median(time["reader"] for time in times),
            1000 * statistics.median(_timed(command, env) for _ in range(9)), said["CRC32C"], said["zero pages"])

    def _stream(self) -> Path:
        file = self.away / "sample.xs"
        run([self.python, "-c", SAMPLE, file], CHECKOUT / "tests", dict(without_network(), PYTHONDONTWRITEBYTECODE="1"))
        return file

    def test(self, *tests: str) -> str:
        """Run tests in a folder that contains only them; returns pytest's last line."""
        shutil.copytree(CHECKOUT / "tests", self.away / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(CHECKOUT / "pyproject.toml", self.away)
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        said = run([self.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], self.away, env)
        return said.split("\n")[-2]


def foreign(verb: str, platforms: List[str], *words: object) -> None:
    """Run this Python's pip for other platforms, with Python 3.11."""
    run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", verb, "--python-version", "311",
         "--only-binary", ":all:", *(word for platform in platforms for word in ("--platform", platform)), *words])


def try_aarch64(python: Path, wheel: Path, scratch: Path) -> List[str]:
    """Import the aarch64 wheel under emulation and run the kernels' tests.

    This Python's pip fills the environment: processes that the emulated Python starts wouldn't be emulated.
    """
    site = scratch / "site"
    platforms = ["manylinux_2_17_aarch64", "manylinux_2_28_aarch64"]
    foreign("install", platforms, "--target", site, "--no-deps", wheel)
    said = json.loads(run([python, "-c", PROBE], scratch, dict(without_network(), PYTHONPATH=str(site))))
    shutil.copytree(CHECKOUT / "tests", scratch / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "pyproject.toml", scratch)
    foreign("install", platforms, "--target", site, "--upgrade", *TEST)
    # Without genuine streams: decompressing them under emulation takes longer than the tests.
    env = {name: value for name, value in os.environ.items() if not name.startswith("XSTREAM_")}
    ran = run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels"], scratch,
              dict(env, PYTHONPATH=str(site), XSTREAM_STREAMS=os.devnull))
    return ["emulated: CRC32C {}, zero pages {}".format(said["CRC32C"], said["zero pages"]), ran.split("\n")[-2]]


def try_bundle(python: Python, other: Python, bundle: Path, scratch: Path) -> List[str]:
    """Install the bundle as a user. It must refuse another Python, and a damaged bundle."""
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
            raise SystemExit("install.sh ended with status {} instead of {}:\n{}".format(
                ran.returncode, status, ran.stdout))
        if damage:
            shutil.move(scratch / "LICENSE", unpacked)
    said = run([prefix / "bin" / "xstream", "--version"], scratch, without_network()).strip()
    arrays = "import numpy, tqdm, xstream, zstandard; xstream.GuestMemory().pages; " \
        "print(numpy.__version__, tqdm.__version__, zstandard.__version__)"
    versions = run([prefix / "lib" / "xstream" / "bin" / "python", "-c", arrays], scratch, without_network()).split()
    return ["install.sh: {}, with numpy {}, tqdm {} and zstandard {}; refused another Python and a damaged "
            "bundle".format(said, *versions)]


def without_network() -> Dict[str, str]:
    """The environment of a host without a network: pip has no index, Python sees only installed packages."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    return dict(kept, PIP_CONFIG_FILE="/dev/null", PIP_DISABLE_PIP_VERSION_CHECK="1")


def _timed(command: List[object], env: Dict[str, str]) -> float:
    start = time.perf_counter()
    run(command, env=env)
    return time.perf_counter() - start

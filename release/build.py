"""Builds of a commit: the source distribution, a wheel for each kind of dom0, and the bundle for those without a network.

The same commit gives the same bytes by the same tools, wherever and whenever.
"""
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Tuple

HERE = Path(__file__).resolve().parent


class Target(NamedTuple):
    """A kind of host, and what a wheel for it is built with."""

    name: str
    #: The interpreter tag: "cp36", or "cp311" for the limited API of that Python.
    python: str
    #: Machine, C library and its oldest version, as zig names them.
    zig: str
    #: The platform tag that auditwheel is to find true.
    platform: str
    #: The machine, as Python names it.
    machine: str


TARGETS = (
    # pip before 19.3, which such hosts have, knows no younger platform tag than manylinux1.
    Target("cp36", "cp36", "x86_64-linux-gnu.2.12", "manylinux1_x86_64", "x86_64"),
    Target("abi3", "cp311", "x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64", "x86_64"),
    Target("abi3-musl", "cp311", "x86_64-linux-musl", "musllinux_1_2_x86_64", "x86_64"),
    Target("abi3-arm", "cp311", "aarch64-linux-gnu.2.17", "manylinux_2_17_aarch64", "aarch64"),
)


class Tools(NamedTuple):
    """The environments that build: Python of an interpreter tag -> its python."""

    pythons: Dict[str, Path]
    #: Seconds since 1970: the commit's, for everything that has a time.
    epoch: int

    def environment(self, **more: str) -> Dict[str, str]:
        """That of every step: nothing of the caller's that could reach a file."""
        kept = {name: value for name, value in os.environ.items()
                if name not in ("CC", "CFLAGS", "LDFLAGS", "CPPFLAGS", "LDSHARED", "PYTHONPATH", "MAKEFLAGS")}
        bin_folder = self.pythons["cp311"].parent
        return dict(kept, SOURCE_DATE_EPOCH=str(self.epoch), XSTREAM_TOOLS=str(bin_folder), LC_ALL="C.UTF-8",
                    PATH="{}:{}".format(bin_folder, os.environ["PATH"]), **more)


def run(command: List[object], **options: object) -> str:
    """Run a command; what it says is its caller's, and shown where it fails."""
    ran = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         universal_newlines=True, **options)  # type: ignore[call-overload]
    if ran.returncode:
        print(ran.stdout, file=sys.stderr)
        raise SystemExit("{} failed with status {}".format(" ".join(map(str, command)), ran.returncode))
    return str(ran.stdout)


def build_sdist(tools: Tools, checkout: Path, scratch: Path, dist: Path) -> Path:
    """The source distribution of the checkout's commit: what isn't committed isn't in it."""
    tree = scratch / "tree"
    tree.mkdir(parents=True)
    archive = scratch / "tree.tar"
    run(["git", "-C", checkout, "archive", "--output", archive, "HEAD"])
    run(["tar", "-x", "-f", archive, "-C", tree])
    run([tools.pythons["cp311"], "setup.py", "--quiet", "sdist", "--dist-dir", scratch / "sdist"], cwd=str(tree),
        env=tools.environment())
    made = next((scratch / "sdist").iterdir())
    unpacked = scratch / "unpacked"
    run(["tar", "-x", "-f", made, "-C", _folder(unpacked)])
    return pack(dist / made.name, next(unpacked.iterdir()), tools.epoch)


def build_wheel(tools: Tools, target: Target, sdist: Path, scratch: Path, dist: Path) -> Path:
    """The wheel for a kind of host, from the source distribution."""
    run(["tar", "-x", "-f", sdist, "-C", _folder(scratch)])
    source = next(scratch.iterdir())
    compiler = HERE / "zig-cc"
    environment = tools.environment(
        CC=str(compiler), LDSHARED="{} -shared".format(compiler), XSTREAM_TARGET=target.zig,
        XSTREAM_ABI3="0" if target.python == "cp36" else "1", _PYTHON_HOST_PLATFORM="linux-" + target.machine)
    run([tools.pythons[target.python], "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", "out"],
        cwd=str(source), env=environment)
    built = next((source / "out").iterdir())
    run([tools.pythons["cp311"], "-m", "auditwheel", "repair", "--plat", target.platform, "--wheel-dir",
         _folder(source / "repaired"), built], env=tools.environment())
    repaired = next((source / "repaired").iterdir())
    return Path(shutil.copy(str(repaired), str(dist / repaired.name)))


def build_bundle(tools: Tools, wheel: Path, version: str, scratch: Path, dist: Path) -> Path:
    """The bundle for dom0s with Python 3.6: the wheel, what it may use, their checksums and a script that installs."""
    folder = scratch / "xstream-{}-xcp-ng-8.3".format(version)
    wheels = _folder(folder / "wheels")
    run([tools.pythons["cp311"], "-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps", "--only-binary",
         ":all:", "--platform", "manylinux1_x86_64", "--python-version", "36", "--implementation", "cp", "--abi", "cp36m",
         "--dest", wheels, "--requirement", HERE / "bundle.txt"], env=tools.environment())
    shutil.copy(str(wheel), str(wheels))
    shutil.copy(str(HERE / "install.sh"), str(folder))
    shutil.copy(str(HERE.parent / "LICENSE"), str(folder))
    (folder / "sha256sums").write_text("".join(
        "{}  {}\n".format(hashlib.sha256(path.read_bytes()).hexdigest(), path.relative_to(folder))
        for path in _files(folder)), encoding="utf-8")
    return pack(dist / (folder.name + ".tar.gz"), folder, tools.epoch)


def pack(archive: Path, folder: Path, epoch: int) -> Path:
    """Pack a folder into a .tar.gz that tells of nothing but its contents."""
    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
        member.mode = 0o755 if member.mode & 0o100 else 0o644
        return member

    with archive.open("wb") as file, gzip.GzipFile("", "wb", 9, file, epoch) as packed, \
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in _files(folder):
            tar.add(str(path), str(path.relative_to(folder.parent)), filter=plain)
    return archive


def digests(dist: Path) -> List[Tuple[str, str]]:
    """Name and SHA-256 of every file."""
    return [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in _files(dist)]


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def _files(folder: Path) -> Iterator[Path]:
    return iter(sorted(path for path in folder.rglob("*") if path.is_file()))

"""Build a commit: the source distribution, a wheel for each kind of host, and a bundle for hosts without a network.

Builds are reproducible: the same commit and the same tools produce the same bytes.
"""
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Dict, Iterator, NamedTuple, Optional, Sequence

HERE = Path(__file__).resolve().parent


class Target(NamedTuple):
    """A kind of host, and how its wheel is built."""

    name: str
    #: The interpreter tag: "cp36", or "cp311" for the limited API of that Python.
    python: str
    #: Machine, C library and the oldest version of the library, in zig's notation.
    zig: str
    #: A platform tag that the wheel must have.
    platform: str
    #: The machine, as Python names it.
    machine: str


TARGETS = (
    # These hosts have pip before 19.3, which knows no platform tag newer than manylinux1.
    Target("cp36", "cp36", "x86_64-linux-gnu.2.12", "manylinux1_x86_64", "x86_64"),
    Target("abi3", "cp311", "x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64", "x86_64"),
    Target("abi3-musl", "cp311", "x86_64-linux-musl", "musllinux_1_2_x86_64", "x86_64"),
    Target("abi3-aarch64", "cp311", "aarch64-linux-gnu.2.17", "manylinux_2_17_aarch64", "aarch64"),
)


class Tools(NamedTuple):
    """The build tools, in the folder that scripts/wheel-tools filled."""

    folder: Path
    #: The commit's time, in seconds since 1970: used for every timestamp.
    epoch: int

    def python(self, tag: str = "cp311") -> Path:
        """The Python that builds wheels with an interpreter tag; the one of cp311 also has the other tools."""
        return self.folder / tag / "bin" / "python"

    def environment(self, **more: str) -> Dict[str, str]:
        """The environment of every step, without the caller's settings that could change a built file."""
        kept = {name: value for name, value in os.environ.items()
                if name not in ("CC", "CFLAGS", "LDFLAGS", "CPPFLAGS", "LDSHARED", "PYTHONPATH", "MAKEFLAGS")}
        beside = self.python().parent
        return dict(kept, SOURCE_DATE_EPOCH=str(self.epoch), XSTREAM_TOOLS=str(beside), LC_ALL="C.UTF-8",
                    PATH="{}:{}".format(beside, os.environ["PATH"]), **more)


def run(command: Sequence[object], cwd: Optional[Path] = None, env: Optional[Dict[str, str]] = None) -> str:
    """The output of a command. If the command fails, print its output and exit."""
    words = [str(word) for word in command]
    ran = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd, env=env)
    if ran.returncode:
        print(ran.stdout, file=sys.stderr)
        raise SystemExit("{} failed with status {}".format(" ".join(words), ran.returncode))
    return ran.stdout


def build_sdist(tools: Tools, checkout: Path, scratch: Path, dist: Path) -> Path:
    """The source distribution of the checkout's commit; uncommitted changes aren't in it."""
    tree = folder(scratch / "tree")
    archive = scratch / "tree.tar"
    run(["git", "-C", checkout, "archive", "--output", archive, "HEAD"])
    run(["tar", "-x", "-f", archive, "-C", tree])
    run([tools.python(), "setup.py", "--quiet", "sdist", "--dist-dir", scratch / "made"], tree, tools.environment())
    made = next((scratch / "made").iterdir())
    run(["tar", "-x", "-f", made, "-C", folder(scratch / "unpacked")])
    return pack(dist / made.name, next((scratch / "unpacked").iterdir()), tools.epoch)


def build_wheel(tools: Tools, target: Target, sdist: Path, scratch: Path, dist: Path) -> Path:
    """The wheel for a kind of host, from the source distribution."""
    run(["tar", "-x", "-f", sdist, "-C", folder(scratch)])
    source = next(scratch.iterdir())
    compiler = HERE / "zig-cc"
    environment = tools.environment(
        CC=str(compiler), LDSHARED="{} -shared".format(compiler), XSTREAM_TARGET=target.zig,
        XSTREAM_ABI3="0" if target.python == "cp36" else "1", _PYTHON_HOST_PLATFORM="linux-" + target.machine)
    run([tools.python(target.python), "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation",
         "--wheel-dir", "built"], source, environment)
    # auditwheel derives the platform tags from the symbols; it has nothing to repair.
    run([tools.python(), "-m", "auditwheel", "repair", "--plat", "auto", "--wheel-dir", folder(source / "tagged"),
         next((source / "built").iterdir())], env=tools.environment())
    tagged = next((source / "tagged").iterdir())
    return Path(shutil.copy(tagged, dist / tagged.name))


def build_bundle(tools: Tools, wheel: Path, scratch: Path, dist: Path) -> Path:
    """The bundle for dom0s with Python 3.6: the wheel, its optional requirements, checksums and an install script."""
    bundle = scratch / "xstream-{}-xcp-ng-8.3".format(wheel.name.split("-")[1])
    shutil.copytree(tools.folder / "bundle", bundle / "wheels")
    for file, to in (wheel, "wheels"), (HERE / "install.sh", "."), (HERE.parent / "LICENSE", "."):
        shutil.copy(file, bundle / to)
    (bundle / "sha256sums").write_text("".join(
        "{}  {}\n".format(digest(path), path.relative_to(bundle)) for path in files(bundle)), encoding="utf-8")
    return pack(dist / (bundle.name + ".tar.gz"), bundle, tools.epoch)


def pack(archive: Path, tree: Path, epoch: int) -> Path:
    """Pack a folder into a .tar.gz that depends on nothing but the folder's contents."""
    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
        member.mode = 0o755 if member.mode & 0o100 else 0o644
        return member

    with archive.open("wb") as file, gzip.GzipFile("", "wb", 9, file, epoch) as packed, \
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in files(tree):
            tar.add(path, str(path.relative_to(tree.parent)), filter=plain)
    return archive


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def files(tree: Path) -> Iterator[Path]:
    """All files below a folder, sorted by name."""
    return iter(sorted(path for path in tree.rglob("*") if path.is_file()))

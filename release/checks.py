"""Static checks of a wheel: contents, metadata, and its shared objects."""
import re
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Iterator, Set

from builds import HERE, Target, Tools, run
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

#: Wheels are copied by hand, over slow links, to small disks. Half of one is the kernels, each with a copy of Cython's
#: run-time support.
MOST_BYTES = 1250000

LIBRARIES = {"gnu": {"libc.so.6"}, "musl": {"libc.musl-x86_64.so.1"}}
SOURCES = re.compile(r"\.(pyx|pxd|c|h|o)$")


def check_wheel(tools: Tools, target: Target, wheel: Path) -> None:
    """Raise SystemExit with all complaints about a wheel."""
    complaints = list(_contents(wheel)) + list(_binaries(target, wheel))
    if target.platform not in wheel.name:
        complaints.append("isn't tagged " + target.platform)
    if complaints:
        raise SystemExit("\n".join("{}: {}".format(wheel.name, complaint) for complaint in complaints))
    if target.python != "cp36":
        run([tools.python(), "-m", "abi3audit", "--strict", wheel], env=tools.environment())
    run([tools.python().with_name("check-wheel-contents"), wheel], env=tools.environment())
    check_metadata(tools, wheel)


def check_metadata(tools: Tools, distribution: Path) -> None:
    """Raise SystemExit if metadata are missing or the description can't be rendered."""
    run([tools.python(), "-m", "twine", "check", "--strict", distribution], env=tools.environment())


def _contents(wheel: Path) -> Iterator[str]:
    if wheel.stat().st_size > MOST_BYTES:
        yield "{} bytes, more than {}".format(wheel.stat().st_size, MOST_BYTES)
    with zipfile.ZipFile(str(wheel)) as archive:
        names = archive.namelist()
        info = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(info).decode("utf-8")
    yield from ("contains a source, " + name for name in names if SOURCES.search(name))
    ends = ["xstream/py.typed", "LICENSE", "share/man/man1/xstream.1", "share/bash-completion/completions/xstream"]
    kernels = {Path(name).name.split(".")[0] for name in names if name.endswith(".so")}
    stubs = {Path(name).stem for name in names if name.startswith("xstream/kernels/") and name.endswith(".pyi")}
    sources = {path.stem for path in (HERE.parent / "xstream" / "kernels").glob("*.pyx")}
    yield from ("lacks " + end for end in ends if not any(name.endswith(end) for name in names))
    if not kernels == stubs == sources:
        yield "has kernels {}, stubs {}, of sources {}".format(sorted(kernels), sorted(stubs), sorted(sources))
    fields = ["License: MIT", "Requires-Python: >=3.6", "Classifier: Typing :: Typed", "Summary: ", "Keywords: "]
    yield from ("has no " + field for field in fields if "\n" + field not in metadata)


def _binaries(target: Target, wheel: Path) -> Iterator[str]:
    allowed = {line.strip() for line in (HERE / "symbols.txt").read_text().splitlines() if not line.startswith("#")}
    libraries = LIBRARIES["musl" if target.zig.endswith("musl") else "gnu"]
    with zipfile.ZipFile(str(wheel)) as archive:
        for name in archive.namelist():
            if name.endswith(".so"):
                binary = ELFFile(BytesIO(archive.read(name)))
                for complaint in _binary(binary, libraries, allowed):
                    yield "{} {}".format(name, complaint)
                if binary.get_machine_arch() != {"x86_64": "x64", "aarch64": "AArch64"}[target.machine]:
                    yield "{} is for {}".format(name, binary.get_machine_arch())


def _binary(binary: ELFFile, libraries: Set[str], allowed: Set[str]) -> Iterator[str]:
    for section in binary.iter_sections():
        if section.name.startswith((".debug", ".symtab")):
            yield "has " + section.name
        if isinstance(section, DynamicSection):
            for tag in section.iter_tags():
                if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH", "DT_TEXTREL"):
                    yield "has " + tag.entry.d_tag
                if tag.entry.d_tag == "DT_NEEDED" and tag.needed not in libraries:
                    yield "needs " + tag.needed
        if isinstance(section, SymbolTableSection):
            wanted = {symbol.name for symbol in section.iter_symbols()
                      if symbol.entry.st_shndx == "SHN_UNDEF" and symbol.name
                      and symbol.entry.st_info.bind != "STB_WEAK"}
            yield from ("imports " + name for name in sorted(wanted - allowed) if not re.match("_?Py", name))
    if any(segment.header.p_type == "PT_GNU_STACK" and segment.header.p_flags & 1
           for segment in binary.iter_segments()):
        yield "has an executable stack"

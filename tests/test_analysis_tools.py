"""Third-party programs read the exports, and find in them what is in the guest.

The guests are Linux, saved by a real Xen and cut down to the pages that these programs look at.
"""
import filecmp
import os
import re
import shutil
import sys
from typing import NamedTuple

import analysis_tools as tools
import genuine_streams
import pytest

import xstream
from xstream import MemoryView, export
from xstream.guest.vcpus import vcpus

GROUP = "few"
RELEASE = "6.1.0-56-cloud-amd64"


def needs(name):
    return pytest.mark.skipif(name in tools.missing(), reason="{} isn't installed".format(name))


class Guest(NamedTuple):
    name: str
    #: The save file, and the exports of it.
    source: str
    elf: str
    raw: str


@pytest.fixture(scope="module", params=genuine_streams.images(GROUP) or ["absent"])
def guest(request, genuine_stream, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    source = str(genuine_stream(GROUP, request.param).path)
    export(source, str(folder / "elf"), to="elf")
    xstream.extract(source, str(folder / "raw"))
    yield Guest(request.param, source, str(folder / "elf"), str(folder / "raw"))
    shutil.rmtree(str(folder))


@needs("makedumpfile")
def test_kernel_log(guest, tmp_path):
    tools.run("makedumpfile", "--dump-dmesg", guest.elf, str(tmp_path / "log"))
    lines = (tmp_path / "log").read_text(encoding="utf-8", errors="replace").splitlines()
    assert "Linux version " + RELEASE in lines[0]
    assert len(lines) == {"hvm-linux-few.xl.xz": 375}.get(guest.name, len(lines)) and len(lines) > 200


@needs("python3-libkdumpfile")
def test_virtual_addresses(guest):
    script = """
import kdumpfile, sys
dump = kdumpfile.kdumpfile(sys.argv[1])
dump.attr["addrxlat.ostype"] = "linux"
name = dump.read(kdumpfile.KDUMP_KVADDR, dump.attr["linux.vmcoreinfo.SYMBOL.init_uts_ns"], 390)
print(name[:5].decode(), name[130:195].decode().strip(chr(0)))
"""
    assert tools.run(tools.SYSTEM_PYTHON, "-c", script, guest.elf).split() == ["Linux", RELEASE]


@needs("drgn")
def test_drgn(guest):
    # In a separate process, because it keeps files open.
    script = """
import drgn, sys
program = drgn.Program()
program.set_core_dump(sys.argv[1])
print(program["UTS_RELEASE"].string_().decode())
with open(sys.argv[2], "rb") as raw:
    for run in sys.argv[3:]:
        first, count = map(int, run.split("+"))
        raw.seek(first * 4096)
        for at in range(first, first + count, 1024):
            size = min(1024, first + count - at) * 4096
            assert program.read(at * 4096, size, physical=True) == raw.read(size), hex(at)
"""
    with MemoryView(guest.source) as view:
        runs = ["{}+{}".format(first, count) for first, count in view.runs().tolist()]
    assert tools.run(sys.executable, "-c", script, guest.elf, guest.raw, *runs).split() == [RELEASE]


@needs("volatility3")
@pytest.mark.parametrize("opened", ["source", "elf"])
def test_volatility(guest, opened, tmp_path):
    plugins = tools.run(sys.executable, "-m", "xstream.volatility").strip()
    vol = [tools.volatility(), "-q", "-p", plugins, "-o", str(tmp_path), "-f", getattr(guest, opened)]
    assert "Linux version " + RELEASE in tools.run(*vol, "banners.Banners")
    if os.path.getsize(guest.raw) > 1 << 30 and not tools.REQUIRED:
        return  # the layer writer writes all of 4 GiB: only in CI
    tools.run(*vol, "layerwriter.LayerWriter")
    written = next(tmp_path.glob("*.raw"))
    assert filecmp.cmp(str(written), guest.raw, shallow=False)
    written.unlink()


@needs("volatility3")
def test_volatility_leaves_other_files_alone(tmp_path):
    (tmp_path / "raw").write_bytes(b"no stream" * 1000)
    plugins = tools.run(sys.executable, "-m", "xstream.volatility").strip()
    out = tools.run(tools.volatility(), "-q", "-p", plugins, "-f", str(tmp_path / "raw"), "banners.Banners")
    assert "Linux" not in out


@needs("gdb")
def test_gdb(guest):
    out = tools.run("gdb", "-batch", "-nx", "-ex", "core " + guest.elf, "-ex", "thread apply all info registers")
    with MemoryView(guest.source) as view:
        cpus = vcpus(view.records.records())
    shown = re.findall(r"^(r\w\w|r\d) +(0x[0-9a-f]+)", out, re.MULTILINE)
    assert len(re.findall("^Thread ", out, re.MULTILINE)) == len(cpus) > 0
    for cpu in cpus:
        for name in ("rip", "rsp", "rax", "r15"):
            assert (name, hex(cpu.registers[name])) in shown


@needs("readelf")
def test_readelf(guest):
    notes = tools.run("readelf", "-nW", guest.elf)
    with MemoryView(guest.source) as view:
        cpus = vcpus(view.records.records())
        runs = len(view.runs())
    assert len(re.findall("CORE .*NT_PRSTATUS", notes)) == len(cpus)
    assert len(re.findall("^ +QEMU ", notes, re.MULTILINE)) == len([cpu for cpu in cpus if cpu.kind == "hvm"])
    assert len(re.findall("^ +VMCOREINFO ", notes, re.MULTILINE)) == 1
    segments = tools.run("readelf", "-lW", guest.elf)
    assert len(re.findall("^ +LOAD ", segments, re.MULTILINE)) == runs
    assert "Warning" not in segments + notes

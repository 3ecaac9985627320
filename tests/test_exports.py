"""Exports of guest memory for analysis tools, read by readers that share no code with the package."""
import os
import stat
import struct
import threading

import containers
import genuine_streams
import legacy_samples
import numpy
import pytest
import samples
from memory_images import PT_LOAD, PT_NOTE, Core, lime_memory, raw_memory, saved_memory
from samples import XALLOC, batch, page, word
from ways import loaded

import xstream
from xstream import MemoryView, export
from xstream.convert import vmcoreinfo

PAGE_SIZE = 4096


def assert_is_memory(pages, memory):
    """The pages by PFN are the populated ones of the memory, and have its bytes."""
    assert sorted(pages) == numpy.flatnonzero(memory.populated).tolist()
    for pfn, contents in pages.items():
        assert contents == memory.buffer[pfn * PAGE_SIZE:(pfn + 1) * PAGE_SIZE], hex(pfn)


def check_exports(source, tmp_path):
    memory = loaded(source)
    for to in ("elf", "lime", "raw"):
        out = tmp_path / to
        report = export(source, str(out), to=to)
        data = out.read_bytes()
        assert report.bytes == len(data) and report.populated == memory.populated_count
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        if to == "raw":
            assert data == memory.buffer
        else:
            assert_is_memory(Core(data).memory if to == "elf" else lime_memory(data), memory)
    return Core((tmp_path / "elf").read_bytes())


def check_saved(path, tmp_path):
    """The exports hold what a reader that shares no code with the package finds in the save file."""
    memory = saved_memory(path.read_bytes())
    for to in ("elf", "lime", "raw"):
        report = export(str(path), str(tmp_path / to), to=to)
        assert report.populated == len(memory) and report.bytes == (tmp_path / to).stat().st_size
    assert Core((tmp_path / "elf").read_bytes()).memory == memory
    assert lime_memory((tmp_path / "lime").read_bytes()) == memory
    assert raw_memory(str(tmp_path / "raw")) == {pfn: page for pfn, page in memory.items() if page.strip(b"\0")}


def test_v3(v3_stream, tmp_path):
    check_saved(v3_stream.path, tmp_path)


def test_xl(xl_stream, tmp_path):
    check_saved(xl_stream.path, tmp_path)


@pytest.mark.parametrize("name", genuine_streams.images("few") or ["absent"])
def test_linux(name, genuine_stream, tmp_path):
    check_saved(genuine_stream("few", name).path, tmp_path)


def test_legacy(legacy_stream, tmp_path):
    check_exports(str(legacy_stream.path), tmp_path)


SMALL = {"hvm": samples.hvm(), "pv": samples.pv(), "pv32": samples.pv(width=4), "libxl": containers.libxl(),
         "checkpoints": samples.checkpointed(3), "legacy": legacy_samples.hvm(),
         "empty": samples.hvm(memory=batch([word(3, 0xF)])),
         "allocated only": samples.hvm(memory=batch([word(pfn, XALLOC) for pfn in range(5000)]))}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_samples(name, tmp_path):
    check_exports(SMALL[name], tmp_path)


def test_layout(tmp_path):
    memory = batch([word(9), word(0), word(2), word(1, XALLOC), word(8)], [page(n) for n in range(4)])
    core = check_exports(samples.hvm(memory=memory), tmp_path)
    assert (core.type, core.machine) == (4, 62)
    assert [segment.type for segment in core.segments] == [PT_NOTE, PT_LOAD, PT_LOAD]
    assert [(load.paddr, load.filesz) for load in core.loads] == [(0, 3 * PAGE_SIZE), (8 * PAGE_SIZE, 2 * PAGE_SIZE)]
    for load in core.loads:
        assert load.vaddr == 0 and load.memsz == load.filesz and load.offset % PAGE_SIZE == 0


@pytest.mark.parametrize("runs", [65533, 65534, 65535])
def test_many_runs(runs, tmp_path):
    """65535 program headers and more have their number in section header 0."""
    parts = [batch([word(2 * pfn, XALLOC) for pfn in range(start, min(start + 1024, runs))])
             for start in range(0, runs, 1024)]
    report = export(samples.hvm(memory=b"".join(parts)), str(tmp_path / "elf"))
    assert report.runs == runs
    with (tmp_path / "elf").open("rb") as file:
        core = Core(file.read(8 << 20))
    assert core.extended == (runs >= 65534)
    assert len(core.loads) == runs and core.segments[0].type == PT_NOTE
    assert core.loads[-1].paddr == 2 * (runs - 1) * PAGE_SIZE
    assert core.loads[-1].offset + PAGE_SIZE == report.bytes


def test_holes(tmp_path):
    data = samples.hvm(memory=batch([word(pfn, XALLOC) for pfn in range(4096)]))
    for to in ("elf", "raw"):
        report = export(data, str(tmp_path / to), to=to)
        status = (tmp_path / to).stat()
        assert status.st_size == report.bytes > 4096 * PAGE_SIZE - 1
        assert status.st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("to", ["elf", "lime", "raw"])
def test_pipe(to, tmp_path):
    data = samples.hvm(memory=batch([word(pfn, XALLOC if pfn % 3 else 0) for pfn in range(500)],
                                    [page(n) for n in range(167)]))
    export(data, str(tmp_path / "file"), to=to)
    os.mkfifo(str(tmp_path / "fifo"))
    got = []

    def receive():
        with open(str(tmp_path / "fifo"), "rb") as file:
            got.append(file.read())

    thread = threading.Thread(target=receive)
    thread.start()
    export(data, str(tmp_path / "fifo"), to=to)
    thread.join()
    assert got == [(tmp_path / "file").read_bytes()]


def test_range(tmp_path):
    data = samples.hvm(memory=batch([word(pfn) for pfn in (0, 1, 2, 3, 6, 9)], [page(n) for n in range(6)]))
    for to in ("elf", "lime", "raw"):
        export(data, str(tmp_path / to), to=to, pfns=(2, 7))
    expected = {2: page(2), 3: page(3), 6: page(4)}
    assert Core((tmp_path / "elf").read_bytes()).memory == expected
    assert lime_memory((tmp_path / "lime").read_bytes()) == expected
    assert (tmp_path / "raw").read_bytes() == samples.memory_of(expected, 8)[2 * PAGE_SIZE:]
    for pfns in ((3, 2), (-1, 2)):
        with pytest.raises(ValueError):
            export(data, str(tmp_path / "x"), pfns=pfns)
    assert export(data, str(tmp_path / "x"), to="raw", pfns=(100, 200)).bytes == 0


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(xstream.TruncatedStream):
        export(samples.hvm()[:-20], str(tmp_path / "x"))
    with pytest.raises(ValueError):
        export(samples.hvm(), str(tmp_path / "x"), to="png")
    assert os.listdir(str(tmp_path)) == []


# Registers

#: Offsets of registers in struct elf_prstatus, and of cr3 in QEMU's note.
RIP, RSP, QEMU_CR3 = 112 + 8 * 16, 112 + 8 * 19, 8 + 18 * 8 + 10 * 24 + 3 * 8


def hvm_cpu(number, rip, cr3):
    """A CPU entry of an HVM context, filled with zeros but for rip, rsp, cr3 and cs."""
    data = bytearray(1032)
    struct.pack_into("<Q", data, 512 + 8 * 7, 0x7000 + number)
    struct.pack_into("<Q", data, 512 + 8 * 16, rip)
    struct.pack_into("<Q", data, 512 + 8 * 20, cr3)
    struct.pack_into("<I", data, 512 + 8 * 28, 0x10)
    return struct.pack("<HHI", 2, number, len(data)) + bytes(data)


def test_registers_of_hvm(tmp_path):
    context = struct.pack("<HHIIIQII", 1, 0, 24, 0x54381286, 1, 0, 0, 0) + hvm_cpu(1, 0xAAA, 0x5000) \
        + hvm_cpu(0, 0xBBB, 0x6000) + struct.pack("<HHI", 0, 0, 0)
    tail = samples.tsc_info() + samples.record(0x09, context) + samples.hvm_params() + samples.end()
    export(samples.hvm(tail=tail), str(tmp_path / "elf"))
    notes = Core((tmp_path / "elf").read_bytes()).notes
    assert [(name, kind, len(data)) for name, kind, data in notes] == \
        [(b"CORE", 1, 336), (b"CORE", 1, 336), (b"QEMU", 0, 440), (b"QEMU", 0, 440)]
    for number, rip, cr3 in ((0, 0xBBB, 0x6000), (1, 0xAAA, 0x5000)):
        status, qemu = notes[number][2], notes[2 + number][2]
        assert struct.unpack_from("<I", status, 32)[0] == number + 1
        assert struct.unpack_from("<Q", status, RIP)[0] == rip
        assert struct.unpack_from("<Q", status, RIP + 8)[0] == 0x10
        assert struct.unpack_from("<Q", status, RSP)[0] == 0x7000 + number
        assert struct.unpack_from("<II", qemu) == (1, 440)
        assert struct.unpack_from("<Q", qemu, 8 + 16 * 8)[0] == rip
        assert struct.unpack_from("<Q", qemu, QEMU_CR3)[0] == cr3


def test_registers_that_are_cut_off_are_zero(tmp_path):
    context = struct.pack("<HHIIIQII", 1, 0, 24, 0x54381286, 1, 0, 0, 0) + struct.pack("<HHI", 2, 0, 3) + bytes(3) \
        + struct.pack("<HHI", 0, 0, 0)
    tail = samples.tsc_info() + samples.record(0x09, context) + samples.hvm_params() + samples.end()
    assert export(samples.hvm(tail=tail), str(tmp_path / "elf")).vcpus == 1


@pytest.mark.parametrize("width", [8, 4])
def test_registers_of_pv(width, tmp_path):
    blob = bytearray(0x1430 if width == 8 else 0xAF0)
    if width == 8:
        struct.pack_into("<Q", blob, 520 + 15 * 8 + 8, 0x1234)  # rip
    else:
        struct.pack_into("<I", blob, 516 + 7 * 4 + 4, 0x1234)  # eip
    tail = samples.tsc_info() + samples.shared_info() + samples.vcpu(0x04, 0, bytes(blob)) + samples.end()
    export(samples.pv(width=width, tail=tail), str(tmp_path / "elf"))
    notes = Core((tmp_path / "elf").read_bytes()).notes
    assert [(name, kind, len(data)) for name, kind, data in notes] == [(b"CORE", 1, 336)]
    assert struct.unpack_from("<Q", notes[0][2], RIP)[0] == 0x1234


def test_bad_registers_do_not_cost_the_memory(tmp_path):
    context = struct.pack("<HHIIIQIIHHI", 1, 0, 24, 0x54381286, 9, 0, 0, 0, 0, 0, 0)  # version 9
    tail = samples.tsc_info() + samples.record(0x09, context) + samples.hvm_params() + samples.end()
    report = export(samples.hvm(tail=tail), str(tmp_path / "elf"))
    assert report.vcpus == 0 and "another version" in report.problem
    assert len(Core((tmp_path / "elf").read_bytes()).memory) == report.populated


# VMCOREINFO

BASE = 0xFFFFFFFF80000000


def info_page(release, table, uts, phys_base=0, more=""):
    text = "OSRELEASE={}\nPAGESIZE=4096\nSYMBOL(init_uts_ns)={:x}\nOFFSET(uts_namespace.name)=4\n" \
           "SYMBOL(swapper_pg_dir)={:x}\nNUMBER(phys_base)={}\n{}".format(release, uts, table, phys_base, more)
    return text.encode().ljust(PAGE_SIZE, b"\0")


def tables(*frames):
    """Pages that translate one virtual address in steps: entry 511 of the first points to the second, and so on, with
    entry 510 in the second level (where the kernel is mapped), entry 0 after."""
    made = []
    for level, frame in enumerate(frames):
        table = bytearray(PAGE_SIZE)
        struct.pack_into("<Q", table, 8 * (511, 510, 0, 0)[level], frame << 12 | 0x63)
        made.append(bytes(table))
    return made


def uts_page(release):
    return (bytes(4) + bytes(130) + release.encode()).ljust(PAGE_SIZE, b"\0")


def guest(*pages):
    return samples.hvm(memory=batch([word(pfn) for pfn in range(len(pages))], list(pages)))


def test_one_vmcoreinfo_is_taken():
    text = info_page("6.1.0", BASE + 0x1000, BASE)
    assert vmcoreinfo.find_vmcoreinfo(MemoryView(guest(bytes(PAGE_SIZE), text))) == text.rstrip(b"\0")
    assert vmcoreinfo.find_vmcoreinfo(MemoryView(guest(text, text))) == text.rstrip(b"\0")


def test_what_is_no_vmcoreinfo():
    for text in (b"OSRELEASE=6.1\n", b"x" + info_page("6.1", BASE, BASE)[:-1], b"OSRELEASE"):
        assert vmcoreinfo.find_vmcoreinfo(MemoryView(guest(text.ljust(PAGE_SIZE, b"\0")))) is None


@pytest.mark.parametrize("order", [0, 1])
def test_of_several_the_running_kernels(order, tmp_path):
    """PFN 2 to 5 are page tables that map the kernel's first page to PFN 6, with the release 6.1.0."""
    running = info_page("6.1.0", BASE + 0x2000, BASE)
    stale = info_page("5.10.0", BASE + 0x2000, BASE)
    first = [stale, running] if order else [running, stale]
    data = guest(*first, *tables(3, 4, 5, 6), uts_page("6.1.0"))
    assert vmcoreinfo.find_vmcoreinfo(MemoryView(data)) == running.rstrip(b"\0")
    assert export(data, str(tmp_path / "elf")).release == "6.1.0"
    assert (b"VMCOREINFO", 0, running.rstrip(b"\0")) in Core((tmp_path / "elf").read_bytes()).notes


def test_none_of_several_proves_itself():
    data = guest(info_page("5.10", BASE + 0x2000, BASE), info_page("4.19", BASE + 0x9000, BASE),
                 *tables(3, 4, 5, 6), uts_page("6.1.0"))
    assert vmcoreinfo.find_vmcoreinfo(MemoryView(data)) is None


def test_a_moved_kernel():
    running = info_page("6.1.0", BASE + 0x9000, BASE, phys_base=-0x7000)
    stale = info_page("5.10", BASE + 0x2000, BASE)
    assert vmcoreinfo.find_vmcoreinfo(MemoryView(guest(stale, running, *tables(3, 4, 5, 6), uts_page("6.1.0")))) \
        == running.rstrip(b"\0")


def test_large_pages_and_five_levels():
    view = MemoryView(guest(*tables(1, 2, 3, 4)))
    assert vmcoreinfo.translate(view, 0, BASE + 0x123) == 0x4123
    assert vmcoreinfo.translate(view, 0, BASE + 0x1000) is None
    assert vmcoreinfo.translate(view, 0, 0) is None
    assert vmcoreinfo.translate(view, 1 << 40, BASE) is None
    large = bytearray(PAGE_SIZE)
    struct.pack_into("<Q", large, 0, 0x40000000 | 0x1E3)
    view = MemoryView(guest(*tables(1, 2, 3, 4)[:2], bytes(large)))
    assert vmcoreinfo.translate(view, 0, BASE + 0x12345) == 0x40012345
    top = bytearray(PAGE_SIZE)
    struct.pack_into("<Q", top, 8 * 511, 0x1063)
    view = MemoryView(guest(bytes(top), *tables(2, 3, 4, 5)))
    assert vmcoreinfo.translate(view, 0, BASE + 0x123, vmcoreinfo.PAGING_5_LEVEL) == 0x5123


@pytest.mark.parametrize("pae", [False, True])
def test_32_bit_kernels(pae):
    address = 0xC0000000
    more = "CONFIG_X86_PAE=y\n" if pae else ""
    running, stale = (info_page(release, address + 0x2000, address, more=more) for release in ("6.1.0", "5.10"))
    entry, size = ("<Q", 8) if pae else ("<I", 4)
    levels = [(3, 3), (0, 4), (0, 5)] if pae else [(768, 3), (0, 4)]
    made = []
    for index, frame in levels:
        table = bytearray(PAGE_SIZE)
        struct.pack_into(entry, table, size * index, frame << 12 | 1)
        made.append(bytes(table))
    assert vmcoreinfo.find_vmcoreinfo(MemoryView(guest(stale, running, *made, uts_page("6.1.0")))) == \
        running.rstrip(b"\0")

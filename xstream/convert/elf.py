"""A saved guest as an ELF core file (vmcore), for crash, drgn, gdb, makedumpfile, libkdumpfile and Volatility.

The file is what QEMU's dump-guest-memory writes without paging: one PT_NOTE segment, then one PT_LOAD segment for each
run of populated PFNs, whose p_paddr is the guest-physical address.

Source of the layouts: System V ABI, chapters 4 and 5, and its AMD64 supplement; elf(5) for PN_XNUM; struct elf_prstatus
in Linux' include/linux/elfcore.h and struct user_regs_struct in arch/x86/include/asm/user_64.h; QEMU's note of a CPU's
registers in target/i386/arch_dump.c; VMCOREINFO in Linux' kernel/crash_core.c.
"""
import struct
from typing import Dict, Iterable, List, NamedTuple, Optional

import numpy

from xstream.convert.images import write_pages
from xstream.convert.vmcoreinfo import find_vmcoreinfo
from xstream.errors import StreamError
from xstream.guest.memory_view import MemoryView
from xstream.guest.vcpus import Vcpu, vcpus
from xstream.stream.sink import Sink
from xstream.wire.libxc import PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.wire.layouts import Fields

_FILE_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_IDENT = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)  # 64-bit, little-endian, version 1, System V
_ET_CORE, _EM_X86_64 = 4, 62
#: One program header.
_SEGMENT = numpy.dtype([("type", "<u4"), ("flags", "<u4"), ("offset", "<u8"), ("vaddr", "<u8"), ("paddr", "<u8"),
                        ("filesz", "<u8"), ("memsz", "<u8"), ("align", "<u8")])
_PT_LOAD, _PT_NOTE, _READ_WRITE_EXECUTE = 1, 4, 7
#: e_phnum of a file whose number of program headers is in section header 0.
_PN_XNUM = 0xFFFF

_NOTE = struct.Struct("<III")
_NT_PRSTATUS = 1
#: struct elf_prstatus up to pr_reg: signal 0, the thread's id at offset 32. After the 27 registers comes pr_fpvalid.
_PRSTATUS = struct.Struct("<32xIIII64x27QI4x")
_PRSTATUS_REGISTERS = ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi",
                       "rdi", "orig_rax", "rip", "cs", "rflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs",
                       "gs")
#: QEMUCPUState version 1: 18 registers, ten segments of selector, limit, flags and base, cr0 to cr4, kernel_gs_base.
_QEMU_CPU = struct.Struct("<II18Q" + 10 * "III4xQ" + "5QQ")
_QEMU_REGISTERS = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11", "r12", "r13",
                   "r14", "r15", "rip", "rflags")
_QEMU_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "ldtr", "tr", "gdtr", "idtr")


class ElfReport(NamedTuple):
    """What was written: bytes; pages and runs of populated PFNs; vcpus with a register note; the release that the
    guest's VMCOREINFO names, None if there is none; why there are no register notes, if the vcpus' records are bad."""

    bytes: int
    populated: int
    runs: int
    vcpus: int
    release: Optional[str]
    problem: Optional[str]


def write_elf(view: MemoryView, sink: Sink, first: int = 0, stop: Optional[int] = None) -> ElfReport:
    """Write a guest as an ELF64 core file, front to back: a pipe will do.

    ``first``, ``stop``: only PFNs from ``first`` up to but not including ``stop``. Memory is worth having even if the
    registers can't be read: then there are no notes of them, and the report says why. Raises OSError.
    """
    runs = view.runs(first, stop)
    cpus: List[Vcpu] = []
    problem = None
    try:
        cpus = vcpus(view.records.records())
    except StreamError as error:
        problem = str(error)
    vmcoreinfo = find_vmcoreinfo(view)
    notes = b"".join(_notes(cpus, vmcoreinfo))
    start = sink.offset
    head = _head(runs, notes)
    sink.write([head, bytes(-len(head) % PAGE_SIZE)])
    for begin, count in runs.tolist():
        write_pages(sink, view, begin, count)
    release = None if vmcoreinfo is None else vmcoreinfo.split(b"\n")[0].partition(b"=")[2].decode("ascii", "replace")
    return ElfReport(sink.offset - start, int(runs[:, 1].sum()), len(runs), len(cpus), release, problem)


def _head(runs: numpy.ndarray, notes: bytes) -> bytes:
    """Everything before the pages: headers and notes."""
    segments = len(runs) + 1
    sections = int(segments >= _PN_XNUM)
    notes_at = _FILE_HEADER.size + segments * _SEGMENT.itemsize + sections * _SECTION_HEADER.size
    data_at = -(-(notes_at + len(notes)) // PAGE_SIZE) * PAGE_SIZE
    header = _FILE_HEADER.pack(
        _IDENT, _ET_CORE, _EM_X86_64, 1, 0, _FILE_HEADER.size,
        _FILE_HEADER.size + segments * _SEGMENT.itemsize if sections else 0, 0, _FILE_HEADER.size, _SEGMENT.itemsize,
        min(segments, _PN_XNUM), _SECTION_HEADER.size if sections else 0, sections, 0)
    section = _SECTION_HEADER.pack(0, 0, 0, 0, 0, 0, 0, segments, 0, 0) if sections else b""
    return b"".join((header, _segments(runs, notes_at, len(notes), data_at).tobytes(), section, notes))


def _segments(runs: numpy.ndarray, notes_at: int, notes_size: int, data_at: int) -> numpy.ndarray:
    """The program headers: the notes, then the runs in order."""
    segments = numpy.zeros(len(runs) + 1, _SEGMENT)
    segments[0] = (_PT_NOTE, 0, notes_at, 0, 0, notes_size, notes_size, 4)
    loads = segments[1:]
    sizes = runs[:, 1] * numpy.uint64(PAGE_SIZE)
    loads["type"], loads["flags"], loads["align"] = _PT_LOAD, _READ_WRITE_EXECUTE, PAGE_SIZE
    loads["paddr"] = runs[:, 0] * numpy.uint64(PAGE_SIZE)
    loads["filesz"] = loads["memsz"] = sizes
    loads["offset"] = numpy.cumsum(sizes) - sizes + numpy.uint64(data_at)
    return segments


def _notes(cpus: List[Vcpu], vmcoreinfo: Optional[bytes]) -> Iterable[bytes]:
    for cpu in cpus:
        yield _note(b"CORE", _NT_PRSTATUS, _prstatus(cpu))
    for cpu in cpus:
        if cpu.kind == "hvm":
            yield _note(b"QEMU", 0, _qemu_cpu(cpu.registers))
    if vmcoreinfo is not None:
        yield _note(b"VMCOREINFO", 0, vmcoreinfo)


def _note(name: bytes, kind: int, data: bytes) -> bytes:
    name += b"\0"
    return b"".join((_NOTE.pack(len(name), len(data), kind), name, bytes(-len(name) % 4), data, bytes(-len(data) % 4)))


def _prstatus(cpu: Vcpu) -> bytes:
    registers: Dict[str, int] = dict(cpu.registers)
    if cpu.kind == "hvm":
        registers.update({name: registers.get(name + "_sel", 0) for name in ("cs", "ds", "es", "fs", "gs", "ss")})
    registers["orig_rax"] = (1 << 64) - 1  # not in a system call
    # The thread's id must not be 0. A 32-bit guest lacks some registers, as may a short record.
    return _PRSTATUS.pack(cpu.number + 1, 0, 0, 0, *(registers.get(name, 0) for name in _PRSTATUS_REGISTERS), 0)


def _qemu_cpu(registers: "Fields") -> bytes:
    fields: List[int] = [registers.get(name, 0) for name in _QEMU_REGISTERS]
    for name in _QEMU_SEGMENTS:
        attributes = registers.get(name + "_arbytes", 0)
        # QEMU has the attributes where a descriptor has them: bits 8 to 15 and 20 to 23.
        fields += (registers.get(name + "_sel", 0), registers.get(name + "_limit", 0),
                   (attributes & 0xFF) << 8 | (attributes & 0xF00) << 12, registers.get(name + "_base", 0))
    fields += (registers.get(name, 0) for name in ("cr0", "cr1", "cr2", "cr3", "cr4", "shadow_gs"))
    return _QEMU_CPU.pack(1, _QEMU_CPU.size, *fields)

"""HVM_CONTEXT: Xen's own state of an HVM guest's virtual CPUs and platform devices.

The blob is a chain of entries, each a descriptor (typecode u16, instance u16, length u32) and its data; HEADER comes
first, END last. Entries are views of the blob; :func:`decode` returns an entry's fields by their names in Xen's header.

Source: xen/include/public/hvm/save.h, arch-x86/hvm/save.h (layouts), xen/arch/x86/hvm/save.c (what a restore
accepts). Structures have grown from version to version; the tables are those of Xen 4.22.
"""
import struct

from xstream.errors import CorruptStream, LimitExceeded, StreamError, StrictViolation, UnsupportedStream
from xstream.tuples import NamedTuple
from xstream.wire import msrs, xsave
from xstream.wire.layouts import Layout, prefixed, repeated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Tuple

    from xstream.wire.frames import Buffer
    from xstream.wire.layouts import Fields, Row

MAGIC = 0x54381286
VERSION = 1
#: The most entries in one context. A guest has about ten per vcpu and a dozen for its platform.
MAX_ENTRIES = 65536

END, HEADER, CPU, CPU_XSAVE, CPU_MSR = 0, 1, 2, 16, 20
_PIC, _PICS = 3, 2

_DESCRIPTOR = struct.Struct("<HHI")


class Entry(NamedTuple):
    """One entry: ``offset`` is that of its descriptor in the blob, ``data`` a view of the bytes after the descriptor.

    ``instance`` is the vcpu, or the index of the device if there are several.
    """

    typecode: int
    name: str
    instance: int
    offset: int
    data: memoryview


class _Kind(NamedTuple):
    """``fixed``: Xen restores only this length; otherwise also shorter, older ones, padded with zeros."""

    name: str
    layout: Layout
    fixed: bool


_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldtr")
_TABLES = _SEGMENTS + ("idtr", "gdtr")


def _cpu(after_efer: "Tuple[Row, ...]", after_error_code: "Tuple[Row, ...]") -> Layout:
    return Layout(*(
        prefixed("fpu", xsave.FXSAVE)
        + tuple((name, "Q") for name in (
            "rax", "rbx", "rcx", "rdx", "rbp", "rsi", "rdi", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
            "r15", "rip", "rflags", "cr0", "cr2", "cr3", "cr4", "dr0", "dr1", "dr2", "dr3", "dr6", "dr7"))
        + tuple((name + "_sel", "I") for name in _SEGMENTS)
        + tuple((name + "_limit", "I") for name in _TABLES)
        + tuple((name + "_base", "Q") for name in _TABLES)
        + tuple((name + "_arbytes", "I") for name in _SEGMENTS)
        + tuple((name, "Q") for name in (
            "sysenter_cs", "sysenter_esp", "sysenter_eip", "shadow_gs", "msr_flags", "msr_lstar", "msr_star",
            "msr_cstar", "msr_syscall_mask", "msr_efer"))
        + after_efer
        + (("tsc", "Q"), ("pending_event", "I"), ("error_code", "I"))
        + after_error_code))


#: 1032 bytes; 1024 before Xen 4.7, without the flags.
_CPU = _cpu((("msr_tsc_aux", "Q"),), (("flags", "I"), ("", "4x")))
#: Before Xen 3.4: 1016 bytes, without msr_tsc_aux and flags.
_CPU_COMPAT = _cpu((), ())

_LAPIC_REGISTERS = Layout(
    ("", "32x"), ("id", "I12x"), ("version", "I12x"), ("", "64x"), ("tpr", "I12x"), ("apr", "I12x"), ("ppr", "I12x"),
    ("eoi", "I12x"), ("rrr", "I12x"), ("ldr", "I12x"), ("dfr", "I12x"), ("svr", "I12x"),
    ("isr", 8 * "I12x"), ("tmr", 8 * "I12x"), ("irr", 8 * "I12x"), ("esr", "I12x"), ("", "96x"), ("lvt_cmci", "I12x"),
    ("icr", "I12x"), ("icr2", "I12x"), ("lvt_timer", "I12x"), ("lvt_thermal", "I12x"), ("lvt_pmc", "I12x"),
    ("lvt_lint0", "I12x"), ("lvt_lint1", "I12x"), ("lvt_error", "I12x"), ("timer_initial", "I12x"),
    ("timer_current", "I12x"), ("", "64x"), ("timer_divide", "I12x"), ("self_ipi", "I12x"))

_PIT_CHANNEL: "Tuple[Row, ...]" = (
    ("count", "I"), ("latched_count", "H"), ("count_latched", "B"), ("status_latched", "B"), ("status", "B"),
    ("read_state", "B"), ("write_state", "B"), ("write_latch", "B"), ("rw_mode", "B"), ("mode", "B"), ("bcd", "B"),
    ("gate", "B"))

_KINDS: "Dict[int, _Kind]" = {
    HEADER: _Kind("HEADER", Layout(
        ("magic", "I"), ("version", "I"), ("changeset", "Q"), ("cpuid", "I"), ("gtsc_khz", "I")), True),
    CPU: _Kind("CPU", _CPU, False),
    3: _Kind("PIC", Layout(
        ("irr", "B"), ("imr", "B"), ("isr", "B"), ("irq_base", "B"), ("init_state:4 priority_add:4", "B"),
        ("readsel_isr:1 poll:1 auto_eoi:1 rotate_on_auto_eoi:1 special_fully_nested_mode:1 special_mask_mode:1 "
         "is_master:1", "B"),
        ("elcr", "B"), ("int_output", "B")), True),
    4: _Kind("IOAPIC", Layout(("base_address", "Q"), ("ioregsel", "I"), ("id", "I"), ("redirtbl", "48Q")), True),
    # 16 bytes in Xen 4.0, 24 up to 4.20.
    5: _Kind("LAPIC", Layout(
        ("apic_base_msr", "Q"), ("disabled", "I"), ("timer_divisor", "I"), ("tdt_msr", "Q"), ("pending_esr", "I"),
        ("", "4x")), False),
    6: _Kind("LAPIC_REGS", _LAPIC_REGISTERS, True),
    7: _Kind("PCI_IRQ", Layout(("interrupts", "16s")), True),
    8: _Kind("ISA_IRQ", Layout(("interrupts", "Q")), True),
    9: _Kind("PCI_LINK", Layout(("route", "4B"), ("", "4x")), True),
    10: _Kind("PIT", Layout(*(
        repeated("channels", 3, *_PIT_CHANNEL) + (("speaker_data_on", "I"), ("", "4x")))), True),
    # 16 bytes up to Xen 4.13.
    11: _Kind("RTC", Layout(("cmos_data", "14B"), ("cmos_index", "B"), ("", "x"), ("rtc_offset", "q")), False),
    12: _Kind("HPET", Layout(*(
        (("capability", "Q"), ("", "8x"), ("config", "Q"), ("", "8x"), ("isr", "Q"), ("", "200x"), ("mc64", "Q"),
         ("", "8x"))
        + repeated("timers", 3, ("config", "Q"), ("cmp", "Q"), ("fsb", "Q"), ("", "8x"))
        + (("", "672x"), ("period", "3Q")))), True),
    13: _Kind("PMTIMER", Layout(("tmr_val", "I"), ("pm1a_sts", "H"), ("pm1a_en", "H")), True),
    14: _Kind("MTRR", Layout(
        ("msr_pat_cr", "Q"), ("msr_mtrr_var", "16Q"), ("msr_mtrr_fixed", "11Q"), ("msr_mtrr_cap", "Q"),
        ("msr_mtrr_def_type", "Q")), True),
    # 16 bytes up to Xen 4.4, 24 in 4.5.
    15: _Kind("VIRIDIAN_DOMAIN", Layout(
        ("hypercall_gpa", "Q"), ("guest_os_id", "Q"), ("time_ref_count", "Q"), ("reference_tsc", "Q")), False),
    # 8 bytes up to Xen 4.6, 16 up to 4.12; before 4.11 the byte was the assist vector.
    17: _Kind("VIRIDIAN_VCPU", Layout(
        ("vp_assist_msr", "Q"), ("apic_assist_pending", "B"), ("", "7x"), ("simp_msr", "Q"), ("sint_msr", "16Q"),
        ("stimer_config_msr", "4Q"), ("stimer_count_msr", "4Q")), False),
    # 8 bytes in Xen 4.2, 24 up to 4.9.
    18: _Kind("VMCE_VCPU", Layout(
        ("caps", "Q"), ("mci_ctl2_bank0", "Q"), ("mci_ctl2_bank1", "Q"), ("mcg_ext_ctl", "Q")), False),
    19: _Kind("TSC_ADJUST", Layout(("tsc_adjust", "Q")), True),
}

#: Typecode to name, of all that Xen has ever sent.
NAMES: "Dict[int, str]" = {typecode: kind.name for typecode, kind in _KINDS.items()}
NAMES.update({END: "END", CPU_XSAVE: "CPU_XSAVE", CPU_MSR: "CPU_MSR"})

_COUNT = struct.Struct("<I4x")
_XSAVE_HEAD = Layout(("xfeature_mask", "Q"), ("xcr0", "Q"), ("xcr0_accum", "Q"))


def parse(untrusted: "Buffer", strict: bool = False) -> "Tuple[Entry, ...]":
    """All entries of a context in order, HEADER and END included; their data are views of the blob.

    Entries of unknown typecodes are kept; their name is the number. Bytes after END are ignored, as by a restore.

    Raises CorruptStream if the chain leaves the blob, doesn't start with a valid HEADER or has no END,
    UnsupportedStream for another version, LimitExceeded over 65536 entries. With ``strict`` also UnsupportedStream
    for an unknown typecode, which no restore accepts, and StrictViolation for an END with data and bytes after it.
    Offsets in errors are relative to the blob.
    """
    blob = memoryview(untrusted)
    entries = [_entry(blob, 0)]
    _check_header(entries[0])
    while entries[-1].typecode != END:
        if len(entries) == MAX_ENTRIES:
            raise LimitExceeded("too many entries in an HVM context", offset=entries[-1].offset,
                                expected="at most {}".format(MAX_ENTRIES))
        last = entries[-1]
        entries.append(_entry(blob, last.offset + _DESCRIPTOR.size + len(last.data)))
    if strict:
        _check_strictly(blob, entries)
    return tuple(entries)


def decode(entry: Entry) -> "Fields":
    """The fields of an entry by name, in the order of Xen's structure, without reserved ones.

    Values are numbers and tuples of numbers; registers of more than 64 bits are single numbers. Fields of arrays of
    structures have names such as ``channels[0].count``, those of the CPU's FXSAVE region ``fpu.fcw``. CPU_XSAVE has
    the fields of :func:`xstream.wire.xsave.decode` after its own, CPU_MSR the one field ``msrs``, a tuple of
    :class:`~xstream.wire.msrs.Msr`. An entry of an older Xen has only the fields that existed then. Empty for END
    and for unknown typecodes.

    Raises CorruptStream for a length that no Xen writes, UnsupportedStream if the entry is longer than in any known
    version. Offsets in errors are relative to the blob.
    """
    if entry.typecode == CPU_XSAVE:
        return _decode_xsave(entry)
    if entry.typecode == CPU_MSR:
        return _decode_msrs(entry)
    if entry.typecode == CPU and len(entry.data) == _CPU_COMPAT.size:
        return _CPU_COMPAT.decode(entry.data)
    if entry.typecode not in _KINDS:
        return {}
    _check_length(entry)
    return _KINDS[entry.typecode].layout.decode(entry.data)


def check(untrusted: "Buffer", *, unknown: bool = False) -> None:
    """Raise what :func:`parse` raises, and for what every Xen refuses of the entries: an unknown typecode, a second
    HEADER, a length that :func:`decode` refuses, a third PIC, a CPU_MSR without MSRs or with reserved bits, an XSAVE
    area of another size than its components take. Their other contents aren't judged. ``unknown``: accept unknown
    typecodes, which a machine that isn't Xen's may have.

    Source: hvm_load() and _hvm_check_entry() in xen/arch/x86/hvm/save.c, hvm_load_cpu_xsave_states() and
    hvm_load_cpu_msrs() in hvm.c, vpic_check() in vpic.c.
    """
    for entry in parse(untrusted)[1:-1]:
        if unknown and entry.typecode not in NAMES:
            continue
        if entry.typecode not in NAMES or entry.typecode == HEADER:
            raise UnsupportedStream("entry of the HVM context that no Xen restores", offset=entry.offset,
                                    field="typecode", expected="a known typecode, after the HEADER",
                                    got=entry.typecode)
        if entry.typecode == CPU_XSAVE:
            _check_xsave(entry)
        elif entry.typecode == CPU_MSR:
            _check_msrs(entry)
        elif entry.typecode == _PIC and entry.instance >= _PICS:
            raise CorruptStream("PIC entry of a wrong instance", offset=entry.offset + 2, field="instance",
                                expected="under {}".format(_PICS), got=entry.instance)
        else:
            _check_length(entry)


def xsave_area(entry: Entry) -> memoryview:
    """The XSAVE area of a CPU_XSAVE entry, for :func:`xstream.wire.xsave.components`; a view."""
    return entry.data[_XSAVE_HEAD.size:]


def _entry(blob: memoryview, offset: int) -> Entry:
    if len(blob) - offset < _DESCRIPTOR.size:
        raise CorruptStream("HVM context without an END", offset=offset, expected="8 bytes of a descriptor",
                            got=len(blob) - offset)
    typecode, instance, length = _DESCRIPTOR.unpack_from(blob, offset)
    start = offset + _DESCRIPTOR.size
    if typecode == END:
        length = 0  # a restore stops here and ignores the length
    elif length > len(blob) - start:
        raise CorruptStream("entry runs out of the HVM context", offset=offset + 4, field="length",
                            expected="at most {}".format(len(blob) - start), got=length)
    name = NAMES.get(typecode) or str(typecode)
    return Entry(typecode, name, instance, offset, blob[start:start + length])


def _check_header(first: Entry) -> None:
    if first.typecode != HEADER:
        raise CorruptStream("HVM context doesn't begin with a HEADER", offset=first.offset, field="typecode",
                            expected=HEADER, got=first.typecode)
    header = decode(first)
    if header["magic"] != MAGIC:
        raise CorruptStream("HVM context with a bad magic number", offset=first.offset + 8, field="magic",
                            expected=hex(MAGIC), got=hex(header["magic"]))
    if header["version"] != VERSION:
        raise UnsupportedStream("HVM context of another version", offset=first.offset + 12, field="version",
                                expected=VERSION, got=header["version"])


def _check_strictly(blob: memoryview, entries: "List[Entry]") -> None:
    for entry in entries:
        if entry.typecode not in NAMES:
            raise UnsupportedStream("unknown entry in the HVM context", offset=entry.offset, field="typecode",
                                    expected="a known typecode", got=entry.typecode)
    end = entries[-1].offset
    length = _DESCRIPTOR.unpack_from(blob, end)[2]
    if length:
        raise StrictViolation("END of the HVM context with data", offset=end + 4, field="length", expected=0,
                              got=length)
    if len(blob) > end + _DESCRIPTOR.size:
        raise StrictViolation("bytes after the END of the HVM context", offset=end + _DESCRIPTOR.size, expected=0,
                              got=len(blob) - end - _DESCRIPTOR.size)


def _check_length(entry: Entry) -> None:
    kind = _KINDS[entry.typecode]
    if kind.fixed and len(entry.data) != kind.layout.size:
        raise _wrong_length(entry, kind.layout.size)
    if len(entry.data) > kind.layout.size:
        raise UnsupportedStream("{} entry of a later version".format(entry.name), offset=entry.offset + 4,
                                field="length", expected="at most {}".format(kind.layout.size), got=len(entry.data))


def _check_xsave(entry: Entry) -> None:
    size = xsave.area_size(_xsave_head(entry)["xcr0_accum"])
    wanted = 0 if size is None else _XSAVE_HEAD.size + size
    # Xen 4.3.0 and before sent zeros after the area.
    if wanted and (len(entry.data) < wanted or any(entry.data[wanted:])):
        raise _wrong_length(entry, wanted)


def _xsave_head(entry: Entry) -> "Fields":
    least = _XSAVE_HEAD.size + xsave.MIN_SIZE
    if len(entry.data) < least:
        raise _wrong_length(entry, "at least {}".format(least))
    return _XSAVE_HEAD.decode(entry.data)


def _check_msrs(entry: Entry) -> None:
    registers = _decode_msrs(entry)["msrs"]
    if not registers:
        raise _wrong_length(entry, "at least one MSR")
    msrs.check(registers, entry.offset + _DESCRIPTOR.size + _COUNT.size)


def _decode_xsave(entry: Entry) -> "Fields":
    fields = _xsave_head(entry)
    fields.update(xsave.decode(xsave_area(entry)))
    return fields


def _decode_msrs(entry: Entry) -> "Fields":
    if len(entry.data) < _COUNT.size:
        raise _wrong_length(entry, "at least {}".format(_COUNT.size))
    count, = _COUNT.unpack_from(entry.data)
    wanted = _COUNT.size + msrs.SIZE * count
    if len(entry.data) != wanted:
        raise _wrong_length(entry, "{} for {} MSRs".format(wanted, count))
    try:
        return {"msrs": msrs.parse(entry.data[_COUNT.size:])}
    except StreamError as error:
        raise error.located(base=entry.offset + _DESCRIPTOR.size + _COUNT.size)


def _wrong_length(entry: Entry, expected: object) -> CorruptStream:
    return CorruptStream("{} entry of a wrong length".format(entry.name), offset=entry.offset + 4, field="length",
                         expected=expected, got=len(entry.data))

"""HVM contexts: genuine ones against what Xen's xen-hvmctx prints of them, constructed ones against Xen's own rules."""
import struct

import pytest
from blobs import assert_hostile_bytes_survive, blob, survives

from xstream.errors import CorruptStream, LimitExceeded, StrictViolation, UnsupportedStream
from xstream.wire import hvm_context, xsave
from xstream.wire.msrs import Msr

GENUINE = ["hvm-context-xl", "hvm-context", "hvm-context-4.5"]


def entry(typecode, data=b"", instance=0, length=None):
    return struct.pack("<HHI", typecode, instance, len(data) if length is None else length) + data


HEADER = entry(1, struct.pack("<IIQII", 0x54381286, 1, 0, 0x50654, 2400000))
END = entry(0)


def only(typecode, data):
    """The fields of a context's only entry of a typecode."""
    return hvm_context.decode(hvm_context.parse(HEADER + entry(typecode, data) + END, strict=True)[1])


def by_name(entries):
    return {(item.name, item.instance): hvm_context.decode(item) for item in entries}


def read_all(data):
    for item in hvm_context.parse(data, strict=True):
        hvm_context.decode(item)


@pytest.mark.parametrize("name", GENUINE)
def test_genuine_contexts_are_taken_whole(name):
    data = blob(name)
    entries = hvm_context.parse(data, strict=True)
    assert entries[0].name == "HEADER" and entries[-1].name == "END"
    assert sum(8 + len(item.data) for item in entries) == len(data)
    for item in entries:
        assert data[item.offset + 8:item.offset + 8 + len(item.data)] == item.data
        assert bool(hvm_context.decode(item)) == (item.name != "END")


def test_entries_of_a_genuine_context():
    entries = hvm_context.parse(blob("hvm-context-xl"))
    assert [(item.name, item.instance, len(item.data)) for item in entries] == [
        ("HEADER", 0, 24), ("CPU", 0, 1032), ("PIC", 0, 8), ("PIC", 1, 8), ("IOAPIC", 0, 400), ("LAPIC", 0, 24),
        ("LAPIC", 1, 24), ("LAPIC_REGS", 0, 1024), ("LAPIC_REGS", 1, 1024), ("PCI_IRQ", 0, 16), ("ISA_IRQ", 0, 8),
        ("PCI_LINK", 0, 8), ("PIT", 0, 56), ("RTC", 0, 24), ("HPET", 0, 1048), ("PMTIMER", 0, 8), ("MTRR", 0, 240),
        ("MTRR", 1, 240), ("VIRIDIAN_DOMAIN", 0, 32), ("VIRIDIAN_VCPU", 0, 216), ("VIRIDIAN_VCPU", 1, 216),
        ("VMCE_VCPU", 0, 32), ("VMCE_VCPU", 1, 32), ("TSC_ADJUST", 0, 8), ("TSC_ADJUST", 1, 8), ("END", 0, 0)]
    assert [item.offset for item in entries[:4]] == [0, 32, 1072, 1088]


def test_fields_of_a_running_guest_are_those_that_xen_hvmctx_prints():
    fields = by_name(hvm_context.parse(blob("hvm-context-xl")))
    assert fields["HEADER", 0] == {"magic": 0x54381286, "version": 1, "changeset": 0xFFFFFFFFFFFFFFFF,
                                   "cpuid": 0x800F12, "gtsc_khz": 2299999}
    cpu = fields["CPU", 0]
    assert (cpu["rip"], cpu["rsp"], cpu["cs_sel"], cpu["cs_base"], cpu["cs_limit"], cpu["cs_arbytes"]) == (
        0x6B25, 0x6DA4, 0xF000, 0xF0000, 0xFFFFFFFF, 0x89B)
    assert (cpu["fpu.fcw"], cpu["fpu.mxcsr"], cpu["idtr_limit"], cpu["tsc"], cpu["flags"]) == (
        0x40, 0x1F80, 0x3FF, 0xE139ED3B3, 1)
    assert fields["LAPIC", 0] == {"apic_base_msr": 0xFEE00900, "disabled": 0, "timer_divisor": 2, "tdt_msr": 0}
    registers = fields["LAPIC_REGS", 0]
    assert (registers["version"], registers["svr"], registers["icr"], registers["icr2"], registers["lvt_lint1"]) == (
        0x50014, 0x1FF, 0x500, 0x2000000, 0x400)
    assert fields["PCI_LINK", 0] == {"route": (5, 10, 11, 5)}
    pit = fields["PIT", 0]
    assert (pit["channels[0].count"], pit["channels[0].mode"], pit["channels[1].mode"]) == (0x10000, 2, 0xFF)
    assert fields["RTC", 0]["cmos_data"][:4] == (0x58, 0, 0x14, 0) and fields["RTC", 0]["cmos_index"] == 0x10
    assert fields["HPET", 0]["timers[2].config"] == 0xF0000000000030
    assert fields["PMTIMER", 0] == {"tmr_val": 0x5AF60B8, "pm1a_sts": 0, "pm1a_en": 0}
    mtrr = fields["MTRR", 0]
    assert (mtrr["msr_pat_cr"], mtrr["msr_mtrr_var"][:2], mtrr["msr_mtrr_cap"], mtrr["msr_mtrr_def_type"]) == (
        0x7040600070406, (0xF0000000, 0xFFF8000800), 0x508, 0xC06)
    assert len(fields["IOAPIC", 0]["redirtbl"]) == 48
    assert fields["VIRIDIAN_VCPU", 1]["sint_msr"] == (0x10000,) * 16


def test_fields_of_a_simulated_guest_are_those_that_xen_hvmctx_prints():
    cpu = by_name(hvm_context.parse(blob("hvm-context")))["CPU", 0]
    assert {name: cpu[name] for name in ("rax", "r15", "cr4", "dr7", "shadow_gs", "msr_efer", "tsc")} == {
        "rax": 0x4544434241403F3E, "r15": 0xBDBCBBBAB9B8B7B6, "cr4": 0xEDECEBEAE9E8E7E6, "dr7": 0x1D1C1B1A19181716,
        "shadow_gs": 0xF5F4F3F2F1F0EFEE, "msr_efer": 0x2524232221201F1E, "tsc": 0x3534333231302F2E}
    # xen-hvmctx prints ds in its line of es, and es in that of ds.
    assert (cpu["ds_sel"], cpu["es_sel"], cpu["gdtr_base"], cpu["ldtr_arbytes"]) == (
        0x25242322, 0x29282726, 0xB5B4B3B2B1B0AFAE, 0xD5D4D3D2)
    assert (cpu["pending_event"], cpu["error_code"]) == (0x39383736, 0x3D3C3B3A)


@pytest.mark.parametrize("length, absent", [
    (1016, {"msr_tsc_aux", "flags"}), (1024, {"flags"}), (1032, set())])
def test_cpu_of_each_version_of_xen(length, absent):
    data = bytearray(length)
    tail = struct.pack("<QII", 0x1122334455667788, 0x80000B0E, 7)  # tsc, pending_event, error_code
    end = 1024 if length == 1032 else length
    data[end - 16:end] = tail
    whole = set(only(2, bytes(1032)))
    fields = only(2, bytes(data))
    assert whole - set(fields) == absent
    assert (fields["tsc"], fields["pending_event"], fields["error_code"]) == (0x1122334455667788, 0x80000B0E, 7)


@pytest.mark.parametrize("typecode, length, last", [
    (5, 16, "timer_divisor"), (5, 24, "tdt_msr"), (5, 32, "pending_esr"), (11, 16, "cmos_index"),
    (11, 24, "rtc_offset"), (15, 16, "guest_os_id"), (15, 24, "time_ref_count"), (15, 32, "reference_tsc"),
    (17, 8, "vp_assist_msr"), (17, 16, "apic_assist_pending"), (17, 216, "stimer_count_msr"), (18, 8, "caps"),
    (18, 24, "mci_ctl2_bank1"), (18, 32, "mcg_ext_ctl")])
def test_entries_that_grew_have_the_fields_of_their_version(typecode, length, last):
    assert list(only(typecode, bytes(length)))[-1] == last


# Sizes and offsets as a C compiler has them.
@pytest.mark.parametrize("typecode, size, places", [
    (2, 1032, {"rdi": (560, 8), "r8": (576, 8), "rip": (640, 8), "cr2": (664, 8), "dr6": (720, 8),
             "ldtr_sel": (764, 4), "gdtr_limit": (804, 4), "idtr_base": (872, 8), "gs_base": (840, 8),
             "ss_arbytes": (908, 4), "sysenter_cs": (920, 8), "sysenter_esp": (928, 8), "sysenter_eip": (936, 8),
             "shadow_gs": (944, 8), "msr_lstar": (960, 8), "msr_star": (968, 8), "msr_cstar": (976, 8),
             "msr_syscall_mask": (984, 8), "msr_efer": (992, 8), "msr_tsc_aux": (1000, 8), "tsc": (1008, 8),
             "pending_event": (1016, 4), "error_code": (1020, 4), "flags": (1024, 4)}),
    (4, 400, {"base_address": (0, 8), "ioregsel": (8, 4), "id": (12, 4)}),
    (5, 32, {"disabled": (8, 4), "timer_divisor": (12, 4), "tdt_msr": (16, 8), "pending_esr": (24, 4)}),
    (10, 56, {"channels[0].latched_count": (4, 2), "channels[1].status": (24, 1), "channels[1].write_latch": (27, 1),
             "channels[2].rw_mode": (44, 1), "channels[2].gate": (47, 1), "speaker_data_on": (48, 4)}),
    (11, 24, {"cmos_index": (14, 1), "rtc_offset": (16, 8)}),
    (12, 1048, {"capability": (0, 8), "config": (16, 8), "isr": (32, 8), "mc64": (240, 8),
             "timers[0].config": (256, 8), "timers[1].cmp": (296, 8), "timers[2].fsb": (336, 8)}),
    (13, 8, {"tmr_val": (0, 4), "pm1a_sts": (4, 2), "pm1a_en": (6, 2)}),
    (14, 240, {"msr_pat_cr": (0, 8), "msr_mtrr_cap": (224, 8), "msr_mtrr_def_type": (232, 8)}),
    (15, 32, {"hypercall_gpa": (0, 8), "guest_os_id": (8, 8), "time_ref_count": (16, 8), "reference_tsc": (24, 8)}),
    (17, 216, {"vp_assist_msr": (0, 8), "apic_assist_pending": (8, 1), "simp_msr": (16, 8)}),
    (18, 32, {"caps": (0, 8), "mci_ctl2_bank0": (8, 8), "mci_ctl2_bank1": (16, 8), "mcg_ext_ctl": (24, 8)})])
def test_places_of_fields(typecode, size, places):
    for name, (offset, width) in places.items():
        data = bytearray(size)
        data[offset + width - 1] = 1
        fields = only(typecode, data)
        assert {field: value for field, value in fields.items() if isinstance(value, int) and value} == {
            name: 1 << 8 * (width - 1)}


def test_pic_has_its_bits_apart():
    assert only(3, bytes([1, 2, 4, 8, 0x5A, 0x45, 0x24, 1])) == {
        "irr": 1, "imr": 2, "isr": 4, "irq_base": 8, "init_state": 10, "priority_add": 5, "readsel_isr": 1, "poll": 0,
        "auto_eoi": 1, "rotate_on_auto_eoi": 0, "special_fully_nested_mode": 0, "special_mask_mode": 0, "is_master": 1,
        "elcr": 0x24, "int_output": 1}


def test_lapic_registers_are_16_bytes_apart():
    registers = only(6, b"".join(struct.pack("<I12x", offset) for offset in range(0, 0x400, 0x10)))
    assert (registers["id"], registers["tpr"], registers["lvt_cmci"], registers["lvt_timer"]) == (
        0x20, 0x80, 0x2F0, 0x320)
    assert (registers["isr"][0], registers["tmr"][0], registers["irr"][7]) == (0x100, 0x180, 0x270)
    assert (registers["timer_divide"], registers["self_ipi"]) == (0x3E0, 0x3F0)


def test_xsave_entry_and_its_components():
    area = bytes(512) + struct.pack("<QQ", 7, 0) + bytes(48) + bytes(range(256))
    data = struct.pack("<QQQ", 0x207, 7, 7) + area
    found = hvm_context.parse(HEADER + entry(16, data) + END)[1]
    fields = hvm_context.decode(found)
    assert (fields["xfeature_mask"], fields["xcr0"], fields["xcr0_accum"], fields["xstate_bv"]) == (0x207, 7, 7, 7)
    assert xsave.components(hvm_context.xsave_area(found)) == {"YMM": bytes(range(256))}


def test_msr_entry():
    data = struct.pack("<I4xIIQIIQ", 2, 0x48, 0, 1, 0x1234, 0, 2)
    fields = only(20, data)
    assert fields == {"msrs": (Msr(0x48, 0, 1), Msr(0x1234, 0, 2))}
    assert [msr.name for msr in fields["msrs"]] == ["SPEC_CTRL", "0x1234"]


@pytest.mark.parametrize("typecode, data", [
    (3, bytes(7)), (3, bytes(9)), (4, bytes(399)), (6, bytes(1020)), (16, bytes(599)), (20, bytes(7)),
    (20, struct.pack("<I4x", 1)), (20, struct.pack("<I4xIIQ", 2, 0x48, 0, 1)),
    (20, struct.pack("<I4x", 0xFFFFFFFF) + bytes(16))])
def test_a_wrong_length_is_named_where_it_stands(typecode, data):
    with pytest.raises(CorruptStream) as caught:
        only(typecode, data)
    assert (caught.value.offset, caught.value.field, caught.value.got) == (len(HEADER) + 4, "length", len(data))


@pytest.mark.parametrize("typecode, length", [(2, 1040), (5, 40), (11, 32), (17, 224)])
def test_a_longer_entry_is_of_a_later_version(typecode, length):
    with pytest.raises(UnsupportedStream):
        only(typecode, bytes(length))


def test_unknown_entries_are_kept_but_no_restore_takes_them():
    data = HEADER + entry(25, b"12345", instance=3) + END
    found = hvm_context.parse(data)[1]
    assert found[:4] == (25, "25", 3, 32) and found.data == b"12345"
    assert hvm_context.decode(found) == {}
    with pytest.raises(UnsupportedStream) as caught:
        hvm_context.parse(data, strict=True)
    assert (caught.value.offset, caught.value.field) == (32, "typecode")


@pytest.mark.parametrize("data, offset", [
    (HEADER + entry(0, b"data"), 36), (HEADER + entry(0, length=4), 36),
    (HEADER + entry(0, length=0xFFFFFFFF), 36), (HEADER + END + b"\0", 40)])
def test_what_a_restore_passes_over_a_verifier_reports(data, offset):
    header, end = hvm_context.parse(data)
    assert (header.name, end.name, len(end.data)) == ("HEADER", "END", 0)
    with pytest.raises(StrictViolation) as caught:
        hvm_context.parse(data, strict=True)
    assert caught.value.offset == offset


@pytest.mark.parametrize("data, offset", [
    (b"", 0), (HEADER[:7], 0), (HEADER[:-1], 4), (HEADER, 32), (HEADER + END[:7], 32), (END, 0),
    (entry(1, bytes(24)) + END, 8), (entry(1, bytes(16)) + END, 4), (entry(3, bytes(8)) + END, 0),
    (HEADER + entry(3, bytes(8), length=17) + END, 36), (HEADER + entry(3, length=0xFFFFFFFF) + END, 36)])
def test_a_broken_chain_is_named_where_it_breaks(data, offset):
    with pytest.raises(CorruptStream) as caught:
        hvm_context.parse(data)
    assert caught.value.offset == offset


def test_another_version_is_unsupported():
    with pytest.raises(UnsupportedStream) as caught:
        hvm_context.parse(entry(1, struct.pack("<IIQII", 0x54381286, 2, 0, 0, 0)) + END)
    assert caught.value.offset == 12


def test_a_million_entries_are_refused():
    with pytest.raises(LimitExceeded):
        hvm_context.parse(HEADER + entry(30) * 1000000 + END)
    assert len(hvm_context.parse(HEADER + entry(30) * (hvm_context.MAX_ENTRIES - 2) + END)) == hvm_context.MAX_ENTRIES


def test_entries_are_views_of_the_blob():
    data = bytearray(HEADER + entry(19, bytes(8)) + END)
    found = hvm_context.parse(data)[1]
    data[40] = 5
    assert hvm_context.decode(found) == {"tsc_adjust": 5}


def test_a_context_at_an_odd_place_reads_the_same():
    data = blob("hvm-context-xl")
    shifted = memoryview(b"\xff" + data)[1:]
    assert by_name(hvm_context.parse(shifted)) == by_name(hvm_context.parse(data))


@pytest.mark.parametrize("name, step", [("hvm-context-xl", 7), ("hvm-context", 11)])
def test_hostile_bytes(name, step):
    assert_hostile_bytes_survive(read_all, blob(name), step)


def test_hostile_descriptors():
    """Every byte of every descriptor and of the header."""
    data = blob("hvm-context-xl")
    for item in hvm_context.parse(data):
        for place in range(item.offset, item.offset + (32 if item.name == "HEADER" else 8)):
            for bit in range(8):
                changed = bytearray(data)
                changed[place] ^= 1 << bit
                survives(read_all, bytes(changed))
                survives(hvm_context.parse, bytes(changed))


def test_hostile_variable_entries():
    xsave_entry = entry(16, struct.pack("<QQQ", 7, 7, 7) + bytes(512) + struct.pack("<QQ", 7, 0) + bytes(48 + 256))
    msr_entry = entry(20, struct.pack("<I4xIIQ", 1, 0x48, 0, 1))
    assert_hostile_bytes_survive(read_all, HEADER + xsave_entry + msr_entry + END)


@pytest.mark.parametrize("name", GENUINE)
def test_genuine_contexts_are_what_xen_takes(name):
    hvm_context.check(blob(name))
    assert_hostile_bytes_survive(hvm_context.check, blob(name), 7)

"""The registers of PV vcpus."""
import struct

import pytest
from blobs import assert_hostile_bytes_survive, blob

from xstream.errors import CorruptStream, LimitExceeded, UnsupportedStream
from xstream.wire import msrs, vcpu, xsave
from xstream.wire.msrs import Msr


def area(xstate_bv=0, xcomp_bv=0, rest=b""):
    return bytes(512) + struct.pack("<QQ", xstate_bv, xcomp_bv) + bytes(48) + rest


def test_genuine_64_bit_context():
    fields = vcpu.basic(blob("vcpu-basic"))
    assert {name: fields[name] for name in ("rax", "rip", "cs", "rsp", "rdx", "gdt_ents", "event_callback_eip",
                                            "fs_base")} == {
        "rax": 0x1111, "rip": 0xFFFFFFFF81001234, "cs": 0xE033, "rsp": 0xFFFFC90000ABC000, "rdx": 1, "gdt_ents": 512,
        "event_callback_eip": 0xFFFFFFFF81800000, "fs_base": 0x7F0000001000}
    assert vcpu.flag_names(fields["flags"]) == ("in_kernel", "online")
    assert fields["gdt_frames"][0] == 4 and len(fields["gdt_frames"]) == 16
    assert [vcpu.cr3_frame(fields["ctrlreg"][index], 8) for index in (1, 3)] == [9, 8]
    assert fields["fpu.mm7"] == 0x99989796959493929190
    assert fields["fpu.xmm0"] == 0xAFAEADACABAAA9A8A7A6A5A4A3A2A1A0
    assert len(fields["trap_ctxt"]) == 256


# Offsets in the two structures, as a C compiler has them.
@pytest.mark.parametrize("size, places", [
    (0x1430, {"flags": (512, 8), "r15": (520, 8), "rdi": (632, 8), "error_code": (640, 4), "rip": (648, 8),
              "cs": (656, 2), "saved_upcall_mask": (660, 1), "rsp": (672, 8), "gs": (712, 2), "ldt_base": (4816, 8),
              "gdt_ents": (4960, 8), "kernel_sp": (4976, 8), "vm_assist": (5136, 8), "gs_base_user": (5160, 8)}),
    (0xAF0, {"flags": (512, 4), "ebx": (516, 4), "eax": (540, 4), "error_code": (544, 2), "eip": (548, 4),
             "cs": (552, 2), "saved_upcall_mask": (554, 1), "esp": (560, 4), "gs": (580, 2), "ldt_base": (2632, 4),
             "gdt_ents": (2704, 4), "kernel_sp": (2712, 4), "event_callback_eip": (2784, 4), "vm_assist": (2796, 4)})])
def test_places_of_registers(size, places):
    for name, (offset, width) in places.items():
        blob_of_one = bytearray(size)
        blob_of_one[offset:offset + width] = b"\xff" * width
        fields = vcpu.basic(blob_of_one)
        assert fields[name] == (1 << 8 * width) - 1
        assert [other for other, value in fields.items() if isinstance(value, int) and value] == [name]


@pytest.mark.parametrize("size, trap, offset", [(0x1430, "<BBH4xQ", 720), (0xAF0, "<BBHI", 584)])
def test_virtual_idt(size, trap, offset):
    data = bytearray(size)
    struct.pack_into(trap, data, offset + 255 * struct.calcsize(trap), 14, 3, 0xE033, 0x12345678)
    traps = vcpu.basic(data)["trap_ctxt"]
    assert traps[255] == vcpu.Trap(14, 3, 0xE033, 0x12345678)
    assert traps[254] == vcpu.Trap(0, 0, 0, 0)


def test_frames_above_4_gib_of_a_32_bit_guest():
    frame = 0x123456
    assert vcpu.cr3_frame((frame << 12 | frame >> 20) & 0xFFFFFFFF, 4) == frame
    assert vcpu.cr3_frame(0xABCDE001, 4) == 0x1ABCDE


@pytest.mark.parametrize("size", [0, 1, 0xAEF, 0xAF1, 0x142F, 0x1431])
def test_contexts_of_other_sizes(size):
    with pytest.raises(CorruptStream) as caught:
        vcpu.basic(bytes(size))
    assert caught.value.got == size


def test_names_of_flags():
    assert vcpu.vm_assist_names(0x100000024) == ("writable_pagetables", "runstate_update_flag", "m2p_strict")
    assert vcpu.flag_names(0x8001) == ("i387_valid", "bit 15")


def test_genuine_extended_context():
    fields = vcpu.extended(blob("vcpu-extended"))
    assert (fields["size"], fields["syscall32_callback_eip"], fields["sysenter_callback_cs"]) == (
        64, 0xFFFFFFFF81800100, 0xE033)
    assert (fields["syscall32_disables_events"], fields["sysenter_disables_events"]) == (1, 0)


@pytest.mark.parametrize("size, last", [(32, "sysenter_disables_events"), (40, "vmce.caps"),
                                        (56, "vmce.mci_ctl2_bank1"), (64, "vmce.mcg_ext_ctl")])
def test_extended_contexts_have_the_fields_of_their_size(size, last):
    whole = struct.pack("<II", 0, size) + bytes(120)
    assert list(vcpu.extended(whole))[-1] == list(vcpu.extended(whole[:size]))[-1] == last


def test_an_extended_context_may_claim_more_than_it_has():
    """Xen only requires that the field vmce is complete or absent."""
    assert "vmce.mcg_ext_ctl" in vcpu.extended(struct.pack("<II", 0, 0xFFFFFFFF) + bytes(120))


@pytest.mark.parametrize("data", [b"\0", bytes(4), bytes(8), struct.pack("<II", 0, 7), struct.pack("<II", 0, 31)])
def test_extended_contexts_that_xen_refuses_as_too_short(data):
    with pytest.raises(CorruptStream) as caught:
        vcpu.extended(data)
    assert caught.value.offset == 4


def test_genuine_xsave():
    data = blob("vcpu-xsave")
    fields = vcpu.xsave_state(data)
    assert (fields["xcr0"], fields["xcr0_accum"], fields["xstate_bv"], fields["fpu.fcw"]) == (7, 7, 0, 0x3330)
    assert xsave.component_names(fields["xcr0"]) == ("X87", "SSE", "YMM")
    assert len(vcpu.xsave_area(data)) == 832


def test_components_of_an_xsave_area():
    places = {2: (576, 256), 5: (832, 64), 9: (896, 8)}
    data = area(0x207, rest=b"y" * 256 + b"k" * 64 + b"p" * 8)
    assert xsave.components(data, places) == {"YMM": b"y" * 256, "PKRU": b"p" * 8}
    assert xsave.components(area(3)) == {}
    assert xsave.components(b"") == {}
    with pytest.raises(CorruptStream):
        xsave.components(data[:-1], places)
    with pytest.raises(UnsupportedStream):
        xsave.components(area(7, 1 << 63 | 7, bytes(256)))


@pytest.mark.parametrize("size", [0, 16])
def test_xsave_blobs_without_an_area(size):
    assert "xstate_bv" not in vcpu.xsave_state(bytes(size))


@pytest.mark.parametrize("size, offset", [(1, 0), (15, 0), (17, 16), (16 + 575, 16)])
def test_xsave_blobs_too_short(size, offset):
    with pytest.raises(CorruptStream) as caught:
        vcpu.xsave_state(bytes(size))
    assert caught.value.offset == offset


def test_genuine_msrs():
    data = blob("vcpu-msrs")
    found = msrs.parse(data)
    assert found == (Msr(0xC0000103, 0, 0x1000), Msr(0x6E0, 0, 0x55AA00))
    assert [msr.name for msr in found] == ["TSC_AUX", "0x6e0"]
    assert msrs.build(found) == data


def test_msrs_of_a_wrong_length():
    with pytest.raises(CorruptStream):
        msrs.parse(bytes(17))
    with pytest.raises(LimitExceeded):
        msrs.parse(bytes(16 * 65537))
    assert msrs.parse(b"") == ()


@pytest.mark.parametrize("read, name, step", [
    (vcpu.basic, "vcpu-basic", 61), (vcpu.extended, "vcpu-extended", 1), (vcpu.xsave_state, "vcpu-xsave", 1),
    (lambda data: xsave.components(data[16:]), "vcpu-xsave", 1), (msrs.parse, "vcpu-msrs", 1)])
def test_hostile_bytes(read, name, step):
    assert_hostile_bytes_survive(read, blob(name), step)


@pytest.mark.parametrize("width, size", [(8, 5168), (4, 2800)])
def test_frames_are_those_of_the_registers(width, size):
    """Read and replaced where the decoder of all fields has them; nothing else changes."""
    new = vcpu.Frames(0x12345, (7, 8), 0x6789A, 5 if width == 8 else None)
    context = bytearray(size)
    entries, word = {8: (4960, "<Q"), 4: (2704, "<I")}[width]
    struct.pack_into(word, context, entries, 513)
    changed = vcpu.with_frames(context, width, new, in_stream=True)
    assert vcpu.frames(changed, width, in_stream=True) == new
    fields = vcpu.basic(changed)
    assert fields["rdx" if width == 8 else "edx"] == 0x12345
    assert fields["gdt_frames"][:3] == (7, 8, 0)
    assert vcpu.cr3_frame(fields["ctrlreg"][3], width) == 0x6789A
    assert fields["ctrlreg"][1] == (5 << 12 | 1 if width == 8 else 0)
    assert vcpu.flag_names(fields["flags"]) == ()
    assert vcpu.with_frames(changed, width, vcpu.Frames(0, (0, 0), 0, None), in_stream=True)[:entries] == \
        context[:entries]
    local = vcpu.basic(vcpu.with_frames(changed, width, new, in_stream=False))
    assert vcpu.flag_names(local["flags"]) == ("online",)
    assert local["ctrlreg"][1] == (5 << 12 if width == 8 else 0)


def test_a_user_table_in_pfn_0():
    context = vcpu.with_frames(bytes(5168), 8, vcpu.Frames(0, (), 0, 0), in_stream=True)
    assert vcpu.frames(context, 8, in_stream=True).user == 0
    assert vcpu.frames(bytes(5168), 8, in_stream=True).user is None
    assert vcpu.frames(bytes(5168), 8, in_stream=False).user is None


@pytest.mark.parametrize("width, size, entries", [(8, 5168, 4960), (4, 2800, 2704)])
def test_too_large_a_gdt(width, size, entries):
    context = bytearray(size)
    struct.pack_into("<I", context, entries, 14 * 512)
    assert len(vcpu.frames(context, width, in_stream=True).gdt) == 14
    struct.pack_into("<I", context, entries, 14 * 512 + 1)
    with pytest.raises(CorruptStream) as caught:
        vcpu.frames(context, width, in_stream=True)
    assert caught.value.offset == entries


def test_frames_that_do_not_fit():
    for frames in (vcpu.Frames(0, (1 << 32,), 0, None), vcpu.Frames(1 << 32, (1,), 0, None)):
        context = bytearray(2800)
        struct.pack_into("<I", context, 2704, 1)
        with pytest.raises(ValueError):
            vcpu.with_frames(context, 4, frames, in_stream=False)

"""What PV guests' streams hold of each vcpu: the blobs of X86_PV_VCPU_BASIC, _EXTENDED and _XSAVE.

The fourth, X86_PV_VCPU_MSRS, is an array of :mod:`xstream.wire.msrs`.

Source: struct vcpu_guest_context in xen/include/public/arch-x86/xen.h, struct cpu_user_regs in arch-x86/xen-x86_64.h
and arch-x86/xen-x86_32.h, struct xen_domctl_ext_vcpucontext in xen/include/public/domctl.h, XEN_DOMCTL_getvcpuextstate
in xen/arch/x86/domctl.c; frames as PFNs: tools/libs/guest/xg_sr_save_x86_pv.c.
"""
import struct

from xstream.errors import CorruptStream, StreamError
from xstream.tuples import NamedTuple
from xstream.wire import features, libxc, msrs, xsave
from xstream.wire.layouts import Layout, prefixed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Optional, Tuple

    from xstream.wire.frames import Buffer
    from xstream.wire.layouts import Fields, Row

#: Bit of ``flags`` to the name of its VGCF constant.
FLAGS: "Dict[int, str]" = {0: "i387_valid", 2: "in_kernel", 3: "failsafe_disables_events", 4: "syscall_disables_events",
                         5: "online", 8: "in_syscall"}
#: Bit of ``vm_assist`` to the name of its VMASST_TYPE constant (xen/include/public/xen.h).
VM_ASSIST: "Dict[int, str]" = {0: "4gb_segments", 1: "4gb_segments_notify", 2: "writable_pagetables",
                             3: "pae_extended_cr3", 4: "architectural_iopl", 5: "runstate_update_flag",
                             32: "m2p_strict"}


class Trap(NamedTuple):
    """One entry of the virtual IDT; ``address`` is 0 if the guest has set none."""

    vector: int
    flags: int
    cs: int
    address: int


_USER_REGS_64: "Tuple[Row, ...]" = tuple((name, "Q") for name in (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi")) + (
    ("error_code", "I"), ("entry_vector", "I"), ("rip", "Q"), ("cs", "H2x"), ("saved_upcall_mask", "B3x"),
    ("rflags", "Q"), ("rsp", "Q"), ("ss", "H6x"), ("es", "H6x"), ("ds", "H6x"), ("fs", "H6x"), ("gs", "H6x"))

_USER_REGS_32: "Tuple[Row, ...]" = tuple((name, "I") for name in ("ebx", "ecx", "edx", "esi", "edi", "ebp", "eax")) + (
    ("error_code", "H"), ("entry_vector", "H"), ("eip", "I"), ("cs", "H"), ("saved_upcall_mask", "Bx"),
    ("eflags", "I"), ("esp", "I"), ("ss", "H2x"), ("es", "H2x"), ("ds", "H2x"), ("fs", "H2x"), ("gs", "H2x"))


def _context(long: str, user_regs: "Tuple[Row, ...]", trap: str, tail: "Tuple[Row, ...]") -> Layout:
    return Layout(*(
        prefixed("fpu", xsave.FXSAVE) + (("flags", long),) + user_regs
        + (("trap_ctxt", 256 * trap), ("ldt_base", long), ("ldt_ents", long), ("gdt_frames", "16" + long),
           ("gdt_ents", long), ("kernel_ss", long), ("kernel_sp", long), ("ctrlreg", "8" + long),
           ("debugreg", "8" + long))
        + tail))


_CONTEXT_64 = _context("Q", _USER_REGS_64, "BBH4xQ", tuple((name, "Q") for name in (
    "event_callback_eip", "failsafe_callback_eip", "syscall_callback_eip", "vm_assist", "fs_base", "gs_base_kernel",
    "gs_base_user")))
_CONTEXT_32 = _context("I", _USER_REGS_32, "BBHI", tuple((name, "I") for name in (
    "event_callback_cs", "event_callback_eip", "failsafe_callback_cs", "failsafe_callback_eip", "vm_assist")))

#: A blob of 32 bytes has no vmce, of 40 its ``caps`` only, of 56 (up to Xen 4.9) no ``mcg_ext_ctl``.
_EXTENDED = Layout(
    ("vcpu", "I"), ("size", "I"), ("syscall32_callback_eip", "Q"), ("sysenter_callback_eip", "Q"),
    ("syscall32_callback_cs", "H"), ("sysenter_callback_cs", "H"), ("syscall32_disables_events", "B"),
    ("sysenter_disables_events", "B"), ("", "2x"), ("vmce.caps", "Q"), ("vmce.mci_ctl2_bank0", "Q"),
    ("vmce.mci_ctl2_bank1", "Q"), ("vmce.mcg_ext_ctl", "Q"))

#: The least ``size``: up to the field vmce.
_EXTENDED_LEAST = 32

_XCR0 = Layout(("xcr0", "Q"), ("xcr0_accum", "Q"))
#: Bytes of a record's body before the blob.
_HEAD = 8


def basic(untrusted: "Buffer") -> "Fields":
    """Registers of a VCPU_BASIC blob under the names of struct vcpu_guest_context, in its order.

    5168 bytes are a 64-bit guest's, 2800 a 32-bit one's. Values are numbers and tuples of numbers (``gdt_frames``,
    ``ctrlreg``, ``debugreg``); ``trap_ctxt`` is a tuple of 256 :class:`Trap`; the FXSAVE region's names begin with
    ``fpu.``. In the stream the frames in use of ``gdt_frames``, those in ``ctrlreg[3]`` and, of a 64-bit guest,
    ``ctrlreg[1]``, and the start info's in vcpu 0's ``rdx`` or ``edx``, are PFNs; in a legacy stream's extended info,
    MFNs.

    Raises CorruptStream for any other size.
    """
    layouts = {layout.size: layout for layout in (_CONTEXT_64, _CONTEXT_32)}
    if len(untrusted) not in layouts:
        raise CorruptStream("vcpu context of a wrong size", offset=0, field="length",
                            expected=" or ".join(str(size) for size in layouts), got=len(untrusted))
    fields = layouts[len(untrusted)].decode(untrusted)
    numbers = iter(fields["trap_ctxt"])
    fields["trap_ctxt"] = tuple(Trap(*four) for four in zip(numbers, numbers, numbers, numbers))
    return fields


def cr3_frame(cr3: int, guest_width: int) -> int:
    """The frame number in a ``ctrlreg[3]``, or in a 64-bit guest's ``ctrlreg[1]``.

    Frames above 4 GiB of a 32-bit guest (``guest_width`` 4) have their high bits folded into the low ones
    (xen_cr3_to_pfn() in arch-x86/xen-x86_32.h).
    """
    if guest_width == 4:
        return (cr3 >> 12 | cr3 << 20) & 0xFFFFFFFF
    return cr3 >> 12


class Frames(NamedTuple):
    """The frame numbers in a VCPU_BASIC blob: MFNs as the guest has them, PFNs in a stream.

    - ``start_info``: all of vcpu 0's rdx (a 32-bit guest: edx) once the guest has suspended itself; in other vcpus the
      register has no meaning;
    - ``gdt``: the frames in use; ``cr3``: the top page table; ``user``: a 64-bit guest's one for user mode, or None.
    """

    start_info: int
    gdt: "Tuple[int, ...]"
    cr3: int
    user: "Optional[int]"


class _Places(NamedTuple):
    word: str
    flags: int
    rdx: int
    gdt_frames: int
    gdt_ents: int
    ctrlreg: int


#: Offsets in the context, by guest width.
_PLACES = {8: _Places("Q", 512, 616, 4832, 4960, 4984), 4: _Places("I", 512, 524, 2640, 2704, 2716)}
_ONLINE = 1 << 5
#: Entries of a GDT that are the guest's own: 14 pages of 512 (FIRST_RESERVED_GDT_ENTRY).
_GDT_ENTRIES = 14 * 512


def top_table(untrusted: "Buffer", guest_width: int) -> int:
    """The frame of the top-level page table in a VCPU_BASIC blob of the width's size (cr3); 0 if there is none."""
    places = _PLACES[guest_width]
    return cr3_frame(_word(untrusted, places, places.ctrlreg + 3 * guest_width), guest_width)


def has_possible_gdt(untrusted: "Buffer", guest_width: int) -> bool:
    """Whether the GDT of a VCPU_BASIC blob of the width's size has no more entries than Xen allows."""
    places = _PLACES[guest_width]
    return _word(untrusted, places, places.gdt_ents) <= _GDT_ENTRIES


def frames(untrusted: "Buffer", guest_width: int, *, in_stream: bool) -> Frames:
    """The frame numbers of a VCPU_BASIC blob of the width's size; ``in_stream`` or as the guest has them.

    Raises CorruptStream for a GDT of too many entries.
    """
    places = _PLACES[guest_width]
    entries = _word(untrusted, places, places.gdt_ents)
    if not has_possible_gdt(untrusted, guest_width):
        raise CorruptStream("GDT of too many entries", offset=places.gdt_ents, field="gdt_ents",
                            expected="at most {}".format(_GDT_ENTRIES), got=entries)
    gdt = struct.unpack_from("<{}{}".format(-(-entries // 512), places.word), untrusted, places.gdt_frames)
    user = None
    if guest_width == 8:
        # In a stream bit 0 tells a table in PFN 0 from none.
        cr1 = _word(untrusted, places, places.ctrlreg + 8)
        user = cr1 >> 12 if (cr1 & 1 if in_stream else cr1) else None
    return Frames(_word(untrusted, places, places.rdx), gdt, top_table(untrusted, guest_width), user)


def with_frames(blob: "Buffer", guest_width: int, new: Frames, *, in_stream: bool) -> bytearray:
    """A copy of a VCPU_BASIC blob with other frame numbers, for a stream or for a guest. In a guest the vcpu is online.

    ``new.gdt`` must be as long as the blob's, and frames fit the guest's width (ValueError). ``start_info`` is
    written for any vcpu.
    """
    places = _PLACES[guest_width]
    changed = bytearray(blob)
    cr3 = new.cr3 << 12
    if guest_width == 4:
        cr3 = (new.cr3 << 12 | new.cr3 >> 20) & 0xFFFFFFFF
    try:
        struct.pack_into("<" + places.word, changed, places.rdx, new.start_info)
        struct.pack_into("<{}{}".format(len(new.gdt), places.word), changed, places.gdt_frames, *new.gdt)
        struct.pack_into("<" + places.word, changed, places.ctrlreg + 3 * guest_width, cr3)
    except struct.error as error:
        raise ValueError("a frame too high for its field: {}".format(error))
    if new.user is not None:
        struct.pack_into("<Q", changed, places.ctrlreg + 8, new.user << 12 | in_stream)
    if not in_stream:
        struct.pack_into("<" + places.word, changed, places.flags, _word(blob, places, places.flags) | _ONLINE)
    return changed


def _word(blob: "Buffer", places: _Places, offset: int) -> int:
    number: int = struct.unpack_from("<" + places.word, blob, offset)[0]
    return number


def flag_names(flags: int) -> "Tuple[str, ...]":
    """Names of the bits set in a context's ``flags``."""
    return features.names(flags, FLAGS)


def vm_assist_names(vm_assist: int) -> "Tuple[str, ...]":
    """Names of the bits set in a context's ``vm_assist``."""
    return features.names(vm_assist, VM_ASSIST)


def extended(untrusted: "Buffer") -> "Dict[str, int]":
    """Fields of a VCPU_EXTENDED blob under the names of struct xen_domctl_ext_vcpucontext, in its order.

    Only fields within both the blob and its ``size`` field are returned; an empty blob has none.

    Raises CorruptStream if ``size`` is under 32, which XEN_DOMCTL_set_ext_vcpucontext refuses. Xen accepts a larger
    one than the blob has.
    """
    if not len(untrusted):
        return {}
    size = _EXTENDED.decode(untrusted).get("size", 0)
    if size < _EXTENDED_LEAST:
        raise CorruptStream("extended vcpu context too short", offset=4, field="size",
                            expected="at least {}".format(_EXTENDED_LEAST), got=size)
    return _EXTENDED.decode(memoryview(untrusted)[:size])


def check_extended(untrusted: "Buffer") -> None:
    """Raise CorruptStream for a VCPU_EXTENDED blob that every Xen refuses: one that says it has less than 32 bytes.

    Xen accepts more bytes than there are, as zeros. Of a size of 0 nothing is said: libxenguest passes it on; nor of
    an empty blob, which Xen 4.6 to 4.8 wrote. Source: XEN_DOMCTL_set_ext_vcpucontext in xen/arch/x86/domctl.c.
    """
    if not len(untrusted):
        return
    size = int.from_bytes(untrusted[4:8], "little")
    if len(untrusted) < 8 or 0 < size < _EXTENDED_LEAST:
        raise CorruptStream("extended vcpu context of a wrong size", offset=4, field="size",
                            expected="at least {}".format(_EXTENDED_LEAST), got=size)


def xsave_state(untrusted: "Buffer") -> "Dict[str, int]":
    """``xcr0``, ``xcr0_accum`` and the fields of :func:`xstream.wire.xsave.decode` of a VCPU_XSAVE blob.

    An empty blob has none; one of 16 bytes has no area.

    Raises CorruptStream for any other blob too short for its header.
    """
    if 0 < len(untrusted) < _XCR0.size:
        raise CorruptStream("XSAVE state too short for its header", offset=0, field="length",
                            expected="at least {}".format(_XCR0.size), got=len(untrusted))
    fields = _XCR0.decode(untrusted)
    try:
        fields.update(xsave.decode(xsave_area(untrusted)))
    except StreamError as error:
        raise error.located(base=_XCR0.size)
    return fields


def check_xsave(untrusted: "Buffer") -> None:
    """Raise CorruptStream for a VCPU_XSAVE blob that every Xen refuses: part of an area, components in use but none
    that ever were, another size than those that were in use take.

    A blob that is empty, or of only a header, is accepted, and nothing is said of one without components: libxenguest
    passes it on. Source: XEN_DOMCTL_setvcpuextstate in xen/arch/x86/domctl.c.
    """
    length = len(untrusted)
    if not length or length == _XCR0.size:
        return
    least = _XCR0.size + xsave.MIN_SIZE
    if length < least:
        raise CorruptStream("XSAVE state of a wrong size", offset=0, field="length",
                            expected="{} or at least {}".format(_XCR0.size, least), got=length)
    head = _XCR0.decode(untrusted)
    if head["xcr0"] and not head["xcr0_accum"]:
        raise CorruptStream("components in use that never were", offset=8, field="xcr0_accum",
                            expected="at least {:#x}".format(head["xcr0"]), got=0)
    size = xsave.area_size(head["xcr0_accum"])
    if size is not None and length != _XCR0.size + size:
        raise CorruptStream("XSAVE state of a wrong size", offset=0, field="length", expected=_XCR0.size + size,
                            got=length)


def check(record: "libxc.Record", converted: bool = False) -> None:
    """Check the blob of a VcpuExtended, VcpuXsave or VcpuMsrs record; raises CorruptStream with an offset relative to
    the body. ``converted``: of a stream from a legacy one, in which what the last two hold is passed on as it is."""
    try:
        if isinstance(record, libxc.VcpuExtended):
            check_extended(record.blob)
        elif converted:
            return
        elif isinstance(record, libxc.VcpuXsave):
            check_xsave(record.blob)
        elif isinstance(record, libxc.VcpuMsrs):
            check_msrs(record.blob)
    except StreamError as error:
        raise error.located(base=_HEAD)


def check_msrs(untrusted: "Buffer") -> None:
    """Raise CorruptStream for a VCPU_MSRS blob that every Xen refuses: reserved bits that aren't zero.
    Source: XEN_DOMCTL_set_vcpu_msrs in xen/arch/x86/domctl.c."""
    msrs.check(msrs.parse(untrusted))


def xsave_area(untrusted: "Buffer") -> memoryview:
    """The XSAVE area of a VCPU_XSAVE blob, for :func:`xstream.wire.xsave.components`; a view."""
    return memoryview(untrusted)[_XCR0.size:]

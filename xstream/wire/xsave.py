"""The XSAVE area: x87, SSE and later registers as the CPU lays them out in memory.

Source: Intel SDM volume 1, chapter 13 (the area) and section 10.5.1 (its FXSAVE region); Xen's struct xsave_struct in
xen/arch/x86/include/asm/xstate.h and the X86_XCR0_*, X86_XSS_* bits in asm/x86-defns.h. Xen sends the standard format,
never the compacted one: expand_xsave_states() in xen/arch/x86/xstate.c.
"""

from xstream.errors import CorruptStream, UnsupportedStream
from xstream.wire import features
from xstream.wire.layouts import Layout, prefixed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Mapping, Optional, Tuple

    from xstream.wire.frames import Buffer
    from xstream.wire.layouts import Fields, Row

#: Bit of XCR0, XSS and XSTATE_BV to component.
COMPONENTS: "Dict[int, str]" = {
    0: "X87", 1: "SSE", 2: "YMM", 3: "BNDREGS", 4: "BNDCSR", 5: "OPMASK", 6: "ZMM", 7: "HI_ZMM", 8: "PROC_TRACE",
    9: "PKRU", 10: "PASID", 11: "CET_U", 12: "CET_S", 13: "HDC", 14: "UINTR", 15: "LBR", 16: "HWP", 17: "TILE_CFG",
    18: "TILE_DATA", 62: "LWP",
}
COMPACTED = 1 << 63
#: The FXSAVE region and the header.
MIN_SIZE = 512 + 64

#: The FXSAVE region, 512 bytes: mm0 to mm7 are numbers of 80 bits, xmm0 to xmm15 of 128.
FXSAVE: "Tuple[Row, ...]" = (
    ("fcw", "H"), ("fsw", "H"), ("ftw", "B"), ("", "x"), ("fop", "H"), ("fip", "Q"), ("fdp", "Q"), ("mxcsr", "I"),
    ("mxcsr_mask", "I"),
) + tuple(("mm{}".format(index), "10s6x") for index in range(8)) + tuple(
    ("xmm{}".format(index), "16s") for index in range(16)) + (("", "96x"),)

_AREA = Layout(*(prefixed("fpu", FXSAVE) + (("xstate_bv", "Q"), ("xcomp_bv", "Q"))))

#: Component to (offset, size) in the standard format, for those that are the same on every CPU.
#: :func:`xstream.wire.policies.xstate_places` has those of a guest's own CPU.
FIXED_PLACES: "Dict[int, Tuple[int, int]]" = {2: (576, 256)}

#: By the components in use, x87 always: those that have their place in the FXSAVE region, and YMM after the header.
_SIZES = {1: MIN_SIZE, 3: MIN_SIZE, 7: MIN_SIZE + 256}


def decode(untrusted: "Buffer") -> "Fields":
    """Fields of an area: those of the FXSAVE region (``fpu.fcw`` ...), ``xstate_bv``, ``xcomp_bv``; none if it is
    empty.

    Raises CorruptStream for an area too short for its header.
    """
    if 0 < len(untrusted) < MIN_SIZE:
        raise CorruptStream("XSAVE area too short for its header", offset=0, field="length",
                            expected="at least {}".format(MIN_SIZE), got=len(untrusted))
    return _AREA.decode(untrusted)


def area_size(xcr0_accum: int) -> "Optional[int]":
    """The bytes that an area takes in which these components have been in use; None where that depends on the CPU, or
    if there are none."""
    return _SIZES.get(xcr0_accum)


def component_names(mask: int) -> "Tuple[str, ...]":
    """Names of the components in XCR0, XSS or XSTATE_BV, lowest bit first; ``"bit n"`` for the unknown."""
    return features.names(mask, COMPONENTS)


def components(untrusted: "Buffer", places: "Mapping[int, Tuple[int, int]]" = FIXED_PLACES) -> "Dict[str, memoryview]":
    """The components in use (in XSTATE_BV) that ``places`` has, by name: views of the area.

    ``places`` maps bits to (offset, size) in bytes. Raises CorruptStream if a place is outside the area,
    UnsupportedStream for an area in the compacted format, which has other places.
    """
    area = memoryview(untrusted)
    header = decode(area)
    if header.get("xcomp_bv", 0) & COMPACTED:
        raise UnsupportedStream("compacted XSAVE area", offset=520, field="xcomp_bv", expected="bit 63 clear",
                                got=hex(header["xcomp_bv"]))
    found = {}
    for bit, (offset, size) in sorted(places.items()):
        if header.get("xstate_bv", 0) >> bit & 1:
            if offset + size > len(area):
                raise CorruptStream("XSAVE component beyond its area", offset=512, field="xstate_bv",
                                    expected="at least {} bytes for {}".format(offset + size, COMPONENTS.get(bit, bit)),
                                    got=len(area))
            found[COMPONENTS.get(bit) or "bit {}".format(bit)] = area[offset:offset + size]
    return found

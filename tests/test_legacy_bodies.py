"""State in legacy streams: what verify refuses, convert refuses; of what it accepts, convert makes what it accepts."""
import io
import struct

import legacy_samples as samples
import pytest
from samples import CONTEXT_FIELDS, context, extended, hvm_context
from ways import WAYS

import xstream
from xstream import CorruptStream, IncompleteStream

CONTEXT = hvm_context()[8:]
TOP = samples.word(3, samples.L4TAB)


def pv(registers=None, *, extended_state=None, words=None, width=8, unmapped=()):
    """A PV guest of one vcpu with PFNs 3 and 4, and 5 to 7."""
    words = [TOP, samples.word(4), samples.word(5)] if words is None else words
    vcpu = (context(8) if registers is None else registers) + (extended_state or extended(1)) + \
        struct.pack("<QQ", 3, 16) + bytes(16)
    return samples.pv(width, 8, samples.batch(width, words, [bytes(4096)] * len(words)),
                      samples.pv_tail(width, 8, unmapped, [vcpu, vcpu]))


def changed(fields):
    """A vcpu's registers with other values at these offsets."""
    blob = bytearray(context(8))
    for offset, value in fields.items():
        struct.pack_into("<Q", blob, offset, value)
    return bytes(blob)


GDT_ENTS = CONTEXT_FIELDS[8][2]
CR1, GDT_FRAMES = 4992, 4832

BAD = {
    "context without END": (samples.hvm(tail=samples.hvm_tail(CONTEXT[:-8])), CorruptStream, "HVM_TAIL"),
    "context of a chain that leaves it": (
        samples.hvm(tail=samples.hvm_tail(CONTEXT[:32] + struct.pack("<HHI", 2, 0, 9999))), CorruptStream, "HVM_TAIL"),
    "context of a wrong magic": (
        samples.hvm(tail=samples.hvm_tail(CONTEXT[:8] + b"\1" + CONTEXT[9:])), CorruptStream, "HVM_TAIL"),
    "device model of zeros": (samples.hvm(tail=samples.hvm_tail(blob=bytes(9))), IncompleteStream, "DEVICE_MODEL"),
    "toolstack cut": (samples.hvm(chunks=samples.toolstack(b"\1\0\0\0\1\0\0\0")), CorruptStream, "TOOLSTACK"),
    "start info that hasn't come": (pv(context(8, start_info=9)), CorruptStream, "VCPU_CONTEXT"),
    "start info past the p2m": (pv(context(8, start_info=16)), CorruptStream, "VCPU_CONTEXT"),
    "start info's high bits": (pv(context(8, start_info=1 << 40 | 4)), CorruptStream, "VCPU_CONTEXT"),
    "start info in a table": (pv(context(8, start_info=3)), CorruptStream, "VCPU_CONTEXT"),
    "start info that is taken back": (pv(unmapped=[4]), CorruptStream, "VCPU_CONTEXT"),
    "start info taken back, 32-bit toolstack": (pv(width=4, unmapped=[4]), CorruptStream, "VCPU_CONTEXT"),
    "no top table": (pv(context(8, top_table=4)), CorruptStream, "VCPU_CONTEXT"),
    "no top table for user mode": (pv(changed({CR1: 5 << 12 | 1})), CorruptStream, "VCPU_CONTEXT"),
    "GDT in a PFN that hasn't come": (pv(changed({GDT_ENTS: 1, GDT_FRAMES: 9})), CorruptStream, "VCPU_CONTEXT"),
    "p2m in a PFN that hasn't come": (
        pv(context(8, start_info=5), words=[TOP, samples.word(5)]), CorruptStream, "P2M_FRAMES"),
    "extended state too short": (
        pv(extended_state=struct.pack("<II", 0, 31) + bytes(120)), CorruptStream, "VCPU_CONTEXT"),
}


@pytest.mark.parametrize("way", ["buffer", "pipe"])
@pytest.mark.parametrize("name", BAD)
def test_bad_state_is_refused_by_verify_and_convert(name, way):
    stream, error, record_type = BAD[name]
    with WAYS[way](stream) as source, pytest.raises(error) as raised:
        xstream.verify(source)
    assert raised.value.layer == "legacy" and raised.value.offset > 0
    assert error is IncompleteStream or raised.value.record_type == record_type
    for squash in (False, True):
        out = io.BytesIO()
        with WAYS[way](stream) as source, pytest.raises((error, IncompleteStream)):
            xstream.convert(source, out, to="libxl", squash=squash)
        with pytest.raises(xstream.StreamError):
            xstream.verify(out.getvalue())


GOOD = {
    "hvm": samples.hvm(), "pv": pv(), "pv of 32 bits": pv(width=4), "another PFN is taken back": pv(unmapped=[5, 9]),
    "remus": samples.remus(rounds=[samples.batch(8, [samples.word(0)], [bytes(4096)])]),
    # Placeholders, not Xen's own state: nothing is said of them, before and after a conversion.
    "a context of another form": samples.hvm(tail=samples.hvm_tail(b"context")),
    "registers of another form": pv(changed({GDT_ENTS: 1 << 20})),
    "a p2m of another form": pv().replace(samples.pv_head(8, 8), samples.pv_head(8, 8)[:-8] + bytes(8)),
}


@pytest.mark.parametrize("to", ["libxc", "libxl"])
@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("way", ["buffer", "pipe"])
@pytest.mark.parametrize("name", GOOD)
def test_what_verify_accepts_is_converted_into_what_it_accepts(name, way, squash, to):
    with WAYS[way](GOOD[name]) as source:
        legacy = xstream.verify(source)
    out = io.BytesIO()
    with WAYS[way](GOOD[name]) as source:
        xstream.convert(source, out, to=to, squash=squash)
    assert xstream.verify(out.getvalue(), checkpointed=not squash and name == "remus").guest == legacy.guest


def test_the_same_state_from_xen_itself_is_refused():
    """Only a legacy stream, and what is converted from it, may have state of another form."""
    out = io.BytesIO()
    xstream.convert(GOOD["a context of another form"], out)
    written = bytearray(out.getvalue())
    written[32:36] = struct.pack("<I", 4)
    with pytest.raises(CorruptStream, match="HVM context"):
        xstream.verify(bytes(written))


def test_an_empty_record_of_the_device_model_is_none():
    stream = samples.hvm(tail=samples.hvm_tail(blob=b""))
    assert xstream.convert(stream, io.BytesIO(), to="libxc").target == "libxc"
    with pytest.raises(xstream.MissingPart):
        xstream.convert(stream, io.BytesIO(), to="libxl")


@pytest.mark.parametrize("guest_width, last", [(8, 3088), (4, 2316)])
def test_zeros_in_place_of_the_end_of_the_shared_info(guest_width, last):
    """Up to the field that says where the p2m ends; what follows it may be zero."""
    stream = samples.pv(8, guest_width)
    page = len(stream) - 4096
    for cut in (1, 727, last):
        with pytest.raises(IncompleteStream, match="SHARED_INFO"):
            xstream.verify(stream[:page + cut] + bytes(4096 - cut))
    assert xstream.verify(stream[:page + last + 1] + bytes(4095 - last)).format == "legacy"

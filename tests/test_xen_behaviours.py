"""What Xen's restorer insists on and what it tolerates, and what makes it misbehave and must be refused.

Source: tools/libs/guest/xg_sr_restore.c, xg_sr_restore_x86_hvm.c, xg_sr_restore_x86_pv.c, xg_sr_common_x86.c.
"""
import struct

import pytest
import samples
from samples import HVM, PV, XALLOC, XTAB, batch, end, headers, p2m_frames, page, policies, pv_info, record, word
from ways import records_of

import xstream
from xstream import CorruptStream, LimitExceeded, OrderError, StrictViolation, UnsupportedStream

STATIC = samples.static_data_end()
PAGES = batch([word(1)], [page(1)])
PV_START = headers(PV) + pv_info() + STATIC
PV_MEMORY = PV_START + p2m_frames(0, 600)


def refuse(stream, kind, **fields):
    with pytest.raises(kind) as caught:
        records_of(stream)
    for name, value in fields.items():
        assert getattr(caught.value, name) == value, (name, str(caught.value))
    assert caught.value.layer == "libxc"
    return caught.value


def accept(stream, strict_too=False):
    """Accepted as by a restore; strictly it is a violation, unless ``strict_too``."""
    got = records_of(stream)
    if strict_too:
        assert records_of(stream, strict=True) == got
    else:
        with pytest.raises(StrictViolation):
            records_of(stream, strict=True)
    return [kept for _, _, kept in got]


@pytest.mark.parametrize("name", dict(samples.SMALL))
def test_good_streams_are_good_strictly(name):
    accept(dict(samples.SMALL)[name], strict_too=True)


@pytest.mark.parametrize("stream, kind, offset, field", [
    (headers(marker=2 ** 64 - 2), CorruptStream, 0, "marker"),
    (b"", CorruptStream, 0, "marker"),
    (b"LibxlFmt", CorruptStream, 0, "marker"),
    (headers(ident=0x58454E47), CorruptStream, 8, "id"),
    (headers(version=1), UnsupportedStream, 12, "version"),
    (headers(version=4), UnsupportedStream, 12, "version"),
    (headers(options=1), UnsupportedStream, 16, "options"),
    (headers(guest=0), UnsupportedStream, 24, "type"),
    (headers(guest=3), UnsupportedStream, 24, "type"),
    (headers(page_shift=21), UnsupportedStream, 28, "page_shift"),
])
def test_headers_insisted_on(stream, kind, offset, field):
    refuse(stream, kind, offset=offset, field=field)


def test_static_data_end_exactly_once():
    before = headers(HVM)
    refuse(before + PAGES, OrderError, offset=40, record=0, record_type="PAGE_DATA")
    refuse(before + STATIC + STATIC, OrderError, offset=48, record=1, record_type="STATIC_DATA_END")
    records_of(before + end())  # libxenguest doesn't ask for it at END
    refuse(headers(PV) + pv_info() + p2m_frames(0, 15), OrderError, record_type="X86_PV_P2M_FRAMES")


@pytest.mark.parametrize("stream", [
    headers(HVM, 2) + PAGES + STATIC,
    headers(PV, 2) + pv_info() + p2m_frames(0, 15) + STATIC,
])
def test_version_2_infers_static_data_end(stream):
    refuse(stream, OrderError, record_type="STATIC_DATA_END")


def test_version_2_takes_an_early_static_data_end_for_what_it_says():
    records_of(headers(HVM, 2) + STATIC + PAGES + end())
    refuse(headers(HVM, 2) + STATIC + STATIC, OrderError)


def test_pv_info_once_and_first():
    refuse(headers(PV) + STATIC + p2m_frames(0, 15), OrderError, record_type="X86_PV_P2M_FRAMES")
    refuse(headers(PV) + samples.shared_info(), OrderError, record_type="SHARED_INFO")
    # Before X86_PV_INFO libxenguest expects a 32-bit guest's vcpu.
    refuse(headers(PV) + samples.vcpu_basic(), CorruptStream, record_type="X86_PV_VCPU_BASIC")
    refuse(headers(PV) + samples.vcpu_basic(width=4) + pv_info(), OrderError, field="guest_width")
    refuse(headers(PV) + pv_info() + pv_info(), OrderError, record_type="X86_PV_INFO", record=1)
    records_of(headers(PV) + STATIC + pv_info() + p2m_frames(0, 15) + samples.vcpu_basic() + end())


@pytest.mark.parametrize("width, levels", [(4, 4), (8, 3), (2, 2), (0, 0), (8, 5)])
def test_pv_info_combinations(width, levels):
    refuse(headers(PV) + pv_info(width, levels), CorruptStream, record_type="X86_PV_INFO", offset=48)


def test_pages_need_the_p2m_and_lie_within_it():
    refuse(PV_START + PAGES, OrderError, record_type="PAGE_DATA")
    records_of(PV_MEMORY + batch([word(600, XTAB)]) + samples.vcpu_basic() + end())
    refuse(PV_MEMORY + batch([word(600, XTAB), word(601, XTAB)]), CorruptStream, field="pfn[1]",
           offset=len(PV_MEMORY) + 8 + 8 + 8)


def test_p2m_frames_fit_their_range_and_leave_no_gap():
    refuse(PV_START + record(3, struct.pack("<IIQ", 5, 4, 0)), CorruptStream, field="start_pfn")
    refuse(PV_START + p2m_frames(0, 600, frames=1), CorruptStream, field="length")
    refuse(PV_START + p2m_frames(0, 600, frames=3), CorruptStream, field="length")
    for gap in (PV_START + p2m_frames(512, 1023), PV_MEMORY + p2m_frames(1536, 1600)):
        refuse(gap + samples.vcpu_basic() + end(), CorruptStream, record_type="END")
    # A gap may be filled later.
    records_of(PV_START + p2m_frames(512, 1023) + p2m_frames(0, 511) + samples.vcpu_basic() + end())
    grown = PV_MEMORY + p2m_frames(601, 1600)
    records_of(grown + batch([word(1600)], [page(1)]) + samples.vcpu_basic() + end())
    # Xen sends the grown p2m from its first new frame, or whole.
    records_of(PV_MEMORY + p2m_frames(0, 900) + batch([word(900)], [page(1)]) + samples.vcpu_basic() + end())


def test_vcpu_0_must_be_there():
    refuse(PV_MEMORY + end(), OrderError, record_type="END")
    refuse(PV_MEMORY + samples.vcpu_basic(vcpu_id=1) + end(), OrderError, record_type="END")
    refuse(PV_MEMORY + samples.vcpu(4, 0, b"") + end(), OrderError, record_type="END")
    refuse(PV_MEMORY + samples.vcpu_basic(width=4), CorruptStream, field="length")


@pytest.mark.parametrize("foreign", [pv_info(), p2m_frames(0, 15), samples.vcpu_basic(), samples.shared_info()])
def test_pv_records_are_unknown_to_hvm(foreign):
    refuse(headers(HVM) + STATIC + foreign, OrderError, offset=48)


@pytest.mark.parametrize("foreign", [samples.hvm_context(), samples.hvm_params()])
def test_hvm_records_are_unknown_to_pv(foreign):
    refuse(PV_MEMORY + foreign, OrderError, offset=len(PV_MEMORY))


@pytest.mark.parametrize("kind", [0x0B, 0x0F, 0x13, 0x7FFFFFFF])
def test_unknown_mandatory_records(kind):
    error = refuse(headers(HVM) + STATIC + record(kind), xstream.StreamError, offset=48, record=1, field="type")
    assert isinstance(error, (UnsupportedStream, OrderError))


def test_unknown_mandatory_records_are_not_corruption():
    refuse(headers(HVM) + STATIC + record(0x13), UnsupportedStream)


def test_a_checkpoint_must_be_announced():
    refuse(headers(HVM) + STATIC + record(0x0E), OrderError, record_type="CHECKPOINT")
    records_of(headers(HVM) + STATIC + record(0x0E), checkpointed=True)


@pytest.mark.parametrize("kind", [5, 6, 7, 8])
def test_invalid_page_types(kind):
    before = headers(HVM) + STATIC
    refuse(before + batch([word(0), word(1, kind)], [page(0)] * 2), CorruptStream, field="pfn[1]",
           offset=len(before) + 8 + 8 + 8, got=kind)


@pytest.mark.parametrize("body, field", [
    (b"", "length"), (bytes(4), "length"), (bytes(8), "count"), (struct.pack("<II", 2, 0) + bytes(8), "count"),
    (struct.pack("<IIQ", 1, 0, 0), "length"), (struct.pack("<IIQ", 1, 0, word(0, XTAB)) + page(0), "length"),
    (struct.pack("<IIQ", 1, 0, 0) + page(0) + bytes(8), "length"),
])
def test_page_data_of_a_wrong_size(body, field):
    refuse(headers(HVM) + STATIC + record(1, body), CorruptStream, field=field, record=1)


@pytest.mark.parametrize("kind, body", [
    (0x02, bytes(7)), (0x03, bytes(4)), (0x04, bytes(4)), (0x04, bytes(100)), (0x05, bytes(8 + 129)),
    (0x06, bytes(8 + 15)), (0x0C, bytes(8 + 15)), (0x07, bytes(4095)), (0x07, bytes(4097)), (0x08, bytes(23)),
    (0x08, bytes(32)), (0x11, b""), (0x11, bytes(25)), (0x12, b""), (0x12, bytes(15)),
])
def test_bodies_of_a_wrong_size(kind, body):
    refuse(PV_MEMORY + record(kind, body) if kind != 2 else headers(PV) + record(2, body), CorruptStream)


@pytest.mark.parametrize("body", [bytes(7), struct.pack("<II", 1, 0), struct.pack("<II", 0, 0) + bytes(16)])
def test_hvm_params_fit_their_count(body):
    refuse(headers(HVM) + STATIC + record(0x0A, body), CorruptStream)


# What it tolerates.

@pytest.mark.parametrize("stream", [
    samples.hvm().replace(headers(HVM), headers(HVM, reserved=(1, 0, 0))),
    samples.hvm().replace(headers(HVM), headers(HVM, reserved=(0, 1, 0))),
    samples.hvm().replace(headers(HVM), headers(HVM, reserved=(0, 0, 1))),
    samples.hvm().replace(headers(HVM), headers(HVM, options=2)),
    samples.hvm(memory=batch([word(1)], [page(1)], reserved=1)),
    samples.hvm(memory=batch([word(1, 0, reserved=0x80)], [page(1)])),
    samples.hvm(tail=samples.tsc_info()[:-4] + b"\1\0\0\0" + samples.hvm_context() + samples.hvm_params() + end()),
    samples.hvm() + b"behind END",
    samples.hvm(memory=PAGES + record(0x8FFFFFFF, b"12345", padding=0xFF)),
], ids=lambda stream: "")
def test_reserved_fields_padding_and_trailing_bytes(stream):
    accept(stream)


def test_bodies_where_there_should_be_none():
    for tail in (record(0x00, b"12345678"), record(0x0D, b"1") + end()):
        accept(samples.hvm(tail=samples.tsc_info() + samples.hvm_context() + samples.hvm_params() + tail))
    accept(headers(HVM) + policies() + record(0x10, b"12345678") + samples.hvm()[len(headers(HVM) + policies()) + 8:])


def test_duplicate_and_unsorted_pfns_and_large_batches():
    accept(samples.hvm(memory=batch([word(9), word(1), word(9)], [page(1), page(2), page(3)])), strict_too=True)
    many = [word(pfn, XTAB) for pfn in range(3000)]
    assert accept(samples.hvm(memory=batch(many)), strict_too=True)[3].pfn_count == 3000


def test_page_table_types_in_hvm():
    accept(samples.hvm(memory=batch([word(1, 4), word(2, 0xA)], [page(1), page(2)])), strict_too=True)


def test_context_records_may_come_again_and_policies_late():
    context = samples.tsc_info() + samples.hvm_context() + samples.hvm_params()
    accept(samples.hvm(tail=context + policies() + context + end()), strict_too=True)


def test_records_that_may_be_missing():
    accept(headers(HVM) + STATIC + end())
    accept(headers(HVM, 2) + end())
    accept(PV_MEMORY + samples.vcpu_basic() + end())


def test_a_converted_stream_has_no_policies():
    accept(headers(HVM, xen=(0, 1)) + samples.hvm()[40 + len(policies()):], strict_too=True)
    accept(headers(HVM, xen=(4, 17)) + samples.hvm()[40 + len(policies()):])


def test_empty_contexts_of_xen_4_6_to_4_8():
    empty = record(0x0A, bytes(8))
    accept(samples.hvm(tail=samples.tsc_info() + samples.hvm_context() + empty + end()), strict_too=True)
    for kind in (0x05, 0x06, 0x0C):
        accept(samples.pv(tail=samples.vcpu(kind, 0, b"") + samples.pv_tail()), strict_too=True)


def test_optional_records_come_through():
    odd = record(0x80000042, b"hello")
    for place in (headers(HVM) + odd + samples.hvm()[40:], samples.hvm(memory=PAGES + odd)):
        unknown = [kept for kept in accept(place, strict_too=True) if isinstance(kept, xstream.Unknown)]
        assert [(kept.type, kept.body) for kept in unknown] == [(0x80000042, b"hello")]


def test_a_page_that_later_comes_as_xtab_stays():
    memory = xstream.GuestMemory()
    xstream.load(samples.hvm(memory=batch([word(1), word(2, XALLOC)], [page(1)]) + batch([word(1, XTAB)])), memory)
    assert memory.populated.tolist() == [False, True, True] and memory.types.tolist() == [0xF, 0xF, 0xE]
    assert memory.pages[1].tobytes() == page(1)


def test_the_last_copy_wins():
    memory = xstream.GuestMemory()
    xstream.load(samples.hvm(memory=batch([word(1), word(1)], [page(1), page(2)]) + batch([word(0)], [page(3)])),
                 memory)
    assert memory.pages[:2].tobytes() == page(3) + page(2)


def test_what_comes_behind_verify_is_compared_and_not_written():
    memory = xstream.GuestMemory()
    tail = (record(0x0D) + batch([word(1), word(2)], [page(1), page(3)]) + samples.hvm_context()
            + samples.hvm_params() + end())
    stream = samples.hvm(memory=batch([word(1), word(2)], [page(1), page(2)]), tail=tail)
    loaded = xstream.load(stream, memory)
    assert memory.pages[1:].tobytes() == page(1) + page(2)
    assert loaded.compared == 2 and loaded.differing == (2,)
    with pytest.raises(xstream.MemoryMismatch) as caught:
        xstream.load(stream[:-8] + samples.tsc_info() + end(), xstream.GuestMemory(), strict=True)
    assert caught.value.pfns == [2] and caught.value.record == 5


def test_a_page_that_only_comes_behind_verify_is_missing():
    """A restore gives the guest a page of zeros there, with which it can't run."""
    pages = batch([word(3, 4), word(4)], [bytes(4096), page(4)])
    xstream.verify(samples.pv(memory=pages + record(0x0D) + pages))
    with pytest.raises(CorruptStream, match="a PFN that the guest doesn't have"):
        xstream.verify(samples.pv(memory=record(0x0D) + pages))


# What makes it misbehave.

def test_page_table_entries_past_the_p2m():
    for entry, good in ((600 << 12 | 1, True), (601 << 12 | 1, False), ((1 << 40) - 1 << 12 | 1, False),
                        (1 << 50, True)):
        table = struct.pack("<Q", entry) + bytes(4088)
        stream = PV_MEMORY + batch([word(1, 1), word(2)], [table, page(2)]) + samples.pv_tail()
        if good:
            xstream.load(stream, xstream.GuestMemory())
            continue
        with pytest.raises(CorruptStream) as caught:
            xstream.load(stream, xstream.GuestMemory())
        assert caught.value.field == "page table entry" and caught.value.record_type == "PAGE_DATA"


def test_limits_are_not_corruption():
    refuse(headers(HVM) + STATIC + batch([word(2 ** 52 - 1)], [page(0)]), LimitExceeded, field="pfn[0]")
    with pytest.raises(LimitExceeded) as caught:
        records_of(PV_START + p2m_frames(0, 2 ** 20), limits=xstream.Limits(guest_pfns=2 ** 20))
    assert caught.value.field == "end_pfn"

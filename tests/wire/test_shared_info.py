"""The shared info page of PV guests."""
import struct

import pytest
from blobs import assert_hostile_bytes_survive, blob

from xstream.errors import CorruptStream
from xstream.wire import shared_info


def test_genuine_page():
    data = blob("shared-info")
    page = shared_info.parse(data, 8)
    assert (page.fields["arch.max_pfn"], page.fields["arch.pfn_to_mfn_frame_list_list"]) == (0x140, 0xA5DC)
    assert (page.fields["wc_version"], page.fields["wc_sec"]) == (0x2C1F1205, 0x60534639)
    assert page.wallclock == 0xC8BBAEA160534639
    assert page.pending.to_bytes(512, "little") == data[2048:2560]
    assert page.masked.to_bytes(512, "little") == data[2560:3072]
    assert len(page.vcpu_info) == 32
    assert page.vcpu_info[1]["evtchn_upcall_pending"] == data[64]


# Offsets as a C compiler has them.
@pytest.mark.parametrize("width, places", [
    (8, {"wc_version": (3072, 4), "wc_sec_hi": (3084, 4), "arch.max_pfn": (3088, 8), "arch.nmi_reason": (3104, 8),
         "arch.p2m_cr3": (3112, 8), "arch.p2m_generation": (3128, 8)}),
    (4, {"wc_version": (2304, 4), "wc_nsec": (2312, 4), "arch.max_pfn": (2316, 4), "arch.nmi_reason": (2324, 4),
         "arch.p2m_cr3": (2328, 4), "arch.wc_sec_hi": (2340, 4)})])
def test_places_of_fields(width, places):
    for name, (offset, size) in places.items():
        data = bytearray(4096)
        data[offset:offset + size] = b"\xff" * size
        page = shared_info.parse(data, width)
        assert {field: value for field, value in page.fields.items() if value} == {name: (1 << 8 * size) - 1}
        assert not page.pending and not page.masked


@pytest.mark.parametrize("width, form", [(8, "<BB6xQQ8x"), (4, "<BB2xII20x")])
def test_vcpu_info(width, form):
    data = bytearray(4096)
    struct.pack_into(form, data, 31 * 64, 1, 2, 3, 4)
    struct.pack_into("<I4xQQIbB", data, 31 * 64 + 32, 5, 6, 7, 8, -9, 10)
    page = shared_info.parse(data, width)
    assert list(page.vcpu_info[31].values()) == [1, 2, 3, 4, 5, 6, 7, 8, -9, 10]
    assert not any(page.vcpu_info[30].values())


@pytest.mark.parametrize("width, pending, masked, ports", [(8, 2048, 2560, 4096), (4, 2048, 2176, 1024)])
def test_event_channels(width, pending, masked, ports):
    data = bytearray(4096)
    data[pending] = 0b1010
    data[pending + ports // 8 - 1] = 0x80
    data[masked] = 0b0010
    page = shared_info.parse(data, width)
    assert page.pending_ports == (1, 3, ports - 1)
    assert page.due_ports == (3, ports - 1)


def test_wallclock_beyond_2106():
    for width, sec, high in ((8, 3076, 3084), (4, 2308, 2340)):
        data = bytearray(4096)
        struct.pack_into("<I", data, sec, 5)
        struct.pack_into("<I", data, high, 1)
        assert shared_info.parse(data, width).wallclock == (1 << 32) + 5


@pytest.mark.parametrize("size", [0, 4095, 4097])
def test_pages_of_other_sizes(size):
    with pytest.raises(CorruptStream):
        shared_info.parse(bytes(size), 8)


@pytest.mark.parametrize("width", [8, 4])
def test_hostile_bytes(width):
    assert_hostile_bytes_survive(lambda data: shared_info.parse(data, width), blob("shared-info"), 97)


@pytest.mark.parametrize("width", [4, 8])
def test_what_a_restored_guest_takes_over(width):
    """All of vcpu_info but the selectors of pending events, and all of arch but the frame lists."""
    page = bytes(range(1, 256)) * 16 + bytes(16)
    before, after = shared_info.parse(page, width), shared_info.parse(shared_info.restored(page, width), width)
    for old, new in zip(before.vcpu_info, after.vcpu_info):
        assert new == dict(old, evtchn_pending_sel=0)
    assert after.pending == 0 and after.masked == (1 << (4096 if width == 8 else 1024)) - 1
    for name, value in after.fields.items():
        fresh = name == "arch.pfn_to_mfn_frame_list_list" or name.startswith("wc_")
        assert value == (0 if fresh else before.fields[name])

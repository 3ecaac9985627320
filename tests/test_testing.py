"""The conformance kit: good backends pass it; of a bad one it names the hook and the rule."""
import io
import re
import struct
import unittest

import pytest

import xstream
from xstream import HvmContext, HvmParams, SharedInfo, SimulatedGuest, VcpuBasic
from xstream.testing import CheckedGuest, GuestTests, Violation, check_guest

KINDS = {"hvm": {"kind": "hvm"}, "pv64": {"kind": "pv"}, "pv32": {"kind": "pv", "width": 4},
         "pv linear": {"kind": "pv", "p2m": "linear"}}


class SimulatedTests(GuestTests):
    options = {}

    def source(self):
        return SimulatedGuest(pages=self.pages, dirty=0.2, **self.options)

    def target(self):
        return SimulatedGuest.empty(self.options.get("kind", "hvm"), limit=4096)

    def change(self, guest):
        guest.step(50)
        return ()


class TestHvm(SimulatedTests):
    options = {"balloon": 20}
    colo = True


class TestPv(SimulatedTests):
    options = {"kind": "pv", "torn": 1, "balloon": 20}


class TestPv32(SimulatedTests):
    options = {"kind": "pv", "width": 4, "p2m": "linear"}


class TestWithUnittest(SimulatedTests, unittest.TestCase):
    pass


def test_without_a_framework():
    everything = check_guest(SimulatedGuest, SimulatedGuest.empty, pages=300, colo=True)
    assert set(everything.values()) == {"passed"} and len(everything) == 12
    saving = check_guest(SimulatedGuest, live=False, checkpoints=False)
    assert saving["test_cold_save"] == "passed" and saving["test_live_save"] == "not applicable: no live saves"
    assert saving["test_checkpoints"] == "not applicable: no checkpoints"
    assert saving["test_restore"] == "not applicable: no target() to restore into"
    assert check_guest(target=SimulatedGuest.empty)["test_cold_save"] == "not applicable: no source() to save"


# Wrong backends: what is wrong, by hook; (kind, hook, part of the rule, a hook to replace).

def short(pages):
    return pages._replace(at=memoryview(pages.at)[:-1])


def with_at(change):
    def changed(guest, pages):
        at = bytearray(memoryview(pages.at).cast("B"))
        numbers = memoryview(at).cast("Q")
        change(numbers)
        return pages._replace(at=numbers)
    return changed


def beyond(numbers):
    numbers[0] = 1 << 40


def twice(numbers):
    numbers[0] = numbers[-1] if len(numbers) > 1 else numbers[0]


MAPPING = [
    ("xstream.Pages", lambda guest, pages: (pages.memory, pages.at)),
    ("contiguous buffers", lambda guest, pages: pages._replace(at=list(pages.at))),
    ("whole pages", lambda guest, pages: pages._replace(memory=memoryview(pages.memory)[:-1])),
    ("uint64 array", lambda guest, pages: pages._replace(at=memoryview(pages.at).cast("B"))),
    ("entry for each frame", lambda guest, pages: short(pages)),
    ("within memory", with_at(beyond)),
    ("its own page", with_at(twice)),
    ("byte for each frame", lambda guest, pages: pages._replace(missing=b"\0" * (len(pages.at) + 1))),
    ("while the guest runs", lambda guest, pages: pages._replace(missing=b"\1" * len(pages.at))),
]


@pytest.mark.parametrize("kind", ["hvm", "pv"])
@pytest.mark.parametrize("rule, change", MAPPING, ids=[rule for rule, _ in MAPPING])
@pytest.mark.parametrize("side", ["source", "target"])
def test_wrong_mappings(kind, rule, change, side):
    class Wrong(SimulatedGuest):
        def map_pages(self, frames):
            return change(self, super().map_pages(frames))

    violated(Wrong, kind, side, "map_pages", rule)


def violated(guest_class, kind, side, hook, rule, **options):
    """Run the kit on one side of a backend; it names the hook and the rule."""
    sides = {"source": lambda: guest_class(kind, 601, dirty=0.2), "target": lambda: guest_class.empty(kind, limit=4096)}
    with pytest.raises(Violation) as caught:
        check_guest(**{side: sides[side]}, **options)
    assert caught.value.hook == hook, str(caught.value)
    assert rule in caught.value.rule and hook in str(caught.value), str(caught.value)


def returning(hook, change):
    """A class whose hook returns something else than it should."""
    def replaced(self, *arguments):
        return change(self, getattr(SimulatedGuest, hook)(self, *arguments))
    return type("Wrong", (SimulatedGuest,), {hook: replaced})


def instead(hook, function):
    """A class whose hook does something else."""
    return type("Wrong", (SimulatedGuest,), {hook: function})


def after(hook, function):
    """A class whose hook does something more."""
    def replaced(self, *arguments):
        getattr(SimulatedGuest, hook)(self, *arguments)
        function(self, *arguments)
    return type("Wrong", (SimulatedGuest,), {hook: replaced})


def records(change):
    return returning("state_records", lambda guest, found: change(found))


def without(kind):
    return records(lambda found: [record for record in found if not isinstance(record, kind)])


def replacing(kind, **fields):
    return records(lambda found: [record._replace(**fields) if isinstance(record, kind) else record
                                  for record in found])


def adding(*params):
    return records(lambda found: [HvmParams.of([*record.params, *params]) if isinstance(record, HvmParams) else record
                                  for record in found])


def uncounted(read_dirty):
    """A class with another read_dirty, and without count_dirty."""
    return type("Wrong", (SimulatedGuest,), {"read_dirty": read_dirty, "count_dirty": xstream.Guest.count_dirty})


def forgets(guest, bitmap, clean, final):
    bitmap[:] = bytes(len(bitmap))


def partly(guest, bitmap, clean, final):
    """Leaves the bytes of clean PFNs as they are."""
    for at, byte in enumerate(guest._dirty):
        if byte:
            bitmap[at] = byte
    if clean:
        guest._dirty[:] = bytes(len(guest._dirty))


def never_cleans(guest, bitmap, clean, final):
    bitmap[:] = guest._dirty


def past_the_end(guest, bitmap, clean, final):
    guest._dirty[:], bitmap[:] = bytes(len(bitmap)), guest._dirty
    bitmap[-1] |= 0x80


def changes_memory(guest, *arguments):
    guest.memory.buffer[100 * 4096] ^= 1


HVM = [
    ("pfn_end", "positive int", returning("pfn_end", lambda guest, end: 0)),
    ("pfn_end", "positive int", returning("pfn_end", lambda guest, end: float(end))),
    ("page_types", "every element", instead("page_types", lambda guest, frames, types: None)),
    ("page_types", "0 to 4", after("page_types", lambda guest, frames, types: types.__setitem__(0, 5))),
    ("page_types", "must not change frames", after(
        "page_types", lambda guest, frames, types: memoryview(frames).__setitem__(0, 7 ^ frames[0]))),
    ("page_types", "must not fail", instead("page_types", lambda guest, frames, types: 1 // 0)),
    ("static_records", "in this order", returning("static_records", lambda guest, found: found[::-1])),
    ("static_records", "valid records", returning(
        "static_records", lambda guest, found: [found[0]._replace(leaves=b"123")])),
    ("state_records", "in this order", records(lambda found: found[::-1])),
    ("state_records", "in this order", without(HvmContext)),
    ("state_records", "chain of entries", replacing(HvmContext, blob=b"")),
    ("state_records", "chain of entries", replacing(HvmContext, blob=struct.pack("<HHI", 1, 0, 24))),
    ("state_records", "belong to the host", adding((2, 5))),
    ("state_records", "belong to the host", adding((18, 5))),
    ("state_records", "left out", adding((30, 0))),
    ("read_dirty", "has to be dirty", uncounted(forgets)),
    ("read_dirty", "write all of bitmap", uncounted(partly)),
    ("read_dirty", "no PFN is dirty afterwards", uncounted(never_cleans)),
    ("read_dirty", "past the last PFN", uncounted(past_the_end)),
    ("count_dirty", "agree with read_dirty", returning("count_dirty", lambda guest, count: count + 1)),
    ("suspend", "implemented", instead("suspend", xstream.Guest.suspend)),
    ("track_dirty", "must not fail", instead("track_dirty", lambda guest, on: 1 // 0)),
]


@pytest.mark.parametrize("hook, rule, guest_class", HVM, ids=["{}: {}".format(*case) for case in HVM])
def test_wrong_sources(hook, rule, guest_class):
    violated(guest_class, "hvm", "source", hook, rule)


PV = [
    ("m2p", "return a buffer", returning("m2p", lambda guest, m2p: [1, 2])),
    ("m2p", "uint64 array", returning("m2p", lambda guest, m2p: memoryview(m2p).cast("B"))),
    ("shared_info", "4096 bytes", returning("shared_info", lambda guest, page: page[:-1])),
    ("state_records", "in this order", records(lambda found: found[1:] + found[:1])),
    ("state_records", "in this order", without(SharedInfo)),
    ("state_records", "at most once", records(lambda found: [*found, found[-1]])),
    ("state_records", "VcpuBasic", without(VcpuBasic)),
    ("state_records", "left out", replacing(xstream.VcpuXsave, blob=b"")),
    ("state_records", "valid records", replacing(xstream.VcpuMsrs, blob=b"123")),
    ("m2p, shared_info, page_types or state_records", "can't use", returning(
        "shared_info", lambda guest, page: bytes(4096))),
    ("page_types", "every element", instead("page_types", lambda guest, frames, types: None)),
]


@pytest.mark.parametrize("hook, rule, guest_class", PV, ids=["{}: {}".format(*case) for case in PV])
def test_wrong_pv_sources(hook, rule, guest_class):
    violated(guest_class, "pv", "source", hook, rule)


def test_memory_that_changes_while_the_guest_is_suspended():
    class Wrong(SimulatedGuest):
        def read_dirty(self, bitmap, clean, final):
            super().read_dirty(bitmap, clean, final)
            if final and clean:
                changes_memory(self)

    violated(Wrong, "hvm", "source", "suspend", "must not change while")
    # Unless others may write there.
    check_guest(lambda: Wrong("hvm", 600), volatile={100})


def test_a_guest_that_cannot_be_saved_again():
    class Wrong(SimulatedGuest):
        def resume(self):
            pass

        def suspend(self):
            assert self.running, "suspended already"
            super().suspend()

    with pytest.raises(Violation, match="suspended already") as caught:
        check_guest(lambda: Wrong(pages=600), checkpoints=False)
    assert caught.value.hook == "resume" and "usable" in caught.value.rule


def test_changes_that_are_not_tracked():
    """The kit has the guest change; the page that isn't reported as dirty is named."""
    class Wrong(SimulatedGuest):
        def write(self):
            self.memory.buffer[300 * 4096] ^= 1
            return [300]

    with pytest.raises(Violation, match="PFN 0x12c") as caught:
        check_guest(lambda: Wrong(pages=600, dirty=0), change=lambda guest: guest.write())
    assert caught.value.hook == "read_dirty"


def same_frame(guest, pfns, frames):
    guest.memory.mark(b"".join((0xE << 60 | pfn).to_bytes(8, "little") for pfn in pfns))
    frames[:] = memoryview(bytearray(8 * len(frames))).cast("Q")


class Copying(SimulatedGuest):
    """Hands out a copy of its memory, which goes when it is unmapped."""

    def map_pages(self, frames):
        pages = super().map_pages(frames)
        return xstream.Pages(bytearray(pages.memory), pages.at)


TARGETS = [
    ("hvm", "populate", "HVM guest's frames", after(
        "populate", lambda guest, pfns, frames: frames.__setitem__(0, 9999))),
    ("hvm", "populate", "every element", instead("populate", lambda guest, pfns, frames: guest.memory.grow(4096))),
    ("hvm", "populate", "must not change pfns", after(
        "populate", lambda guest, pfns, frames: pfns.__setitem__(0, pfns[0] ^ 1))),
    ("pv", "populate", "its own frame", instead("populate", same_frame)),
    ("pv", "start_restore", "guest_width", instead("start_restore", lambda guest, width: None)),
    ("hvm", "set_types", "must not change words", after(
        "set_types", lambda guest, words: words.__setitem__(0, words[0] ^ 1))),
    ("hvm", "map_pages", "stay there", Copying),
    ("pv", "map_pages", "stay there", Copying),
    ("hvm", "map_pages", "writable", returning(
        "map_pages", lambda guest, pages: pages._replace(memory=bytes(pages.memory)))),
    ("hvm", "load_state", "implemented", instead("load_state", xstream.Guest.load_state)),
    ("hvm", "abandon", "must not fail", instead("abandon", lambda guest: 1 // 0)),
    ("hvm", "read_dirty", "no PFN is dirty afterwards", instead("read_dirty", never_cleans)),
    ("hvm", "track_dirty", "must not fail", instead("track_dirty", lambda guest, on: 1 // 0)),
    ("hvm", "end", "must not fail", instead("end", lambda guest: 1 // 0)),
]


@pytest.mark.parametrize("kind, hook, rule, guest_class", TARGETS, ids=["{} {}: {}".format(*case) for case in TARGETS])
def test_wrong_targets(kind, hook, rule, guest_class):
    violated(guest_class, kind, "target", hook, rule, widths=(4, 8), colo=True,
             change=lambda guest: guest._note([5]) or [5])


# The engines call the hooks in the documented order.

class Recording(CheckedGuest):
    """Notes the hooks in the order in which they are called."""

    def __init__(self, guest):
        super().__init__(guest)
        self.order = []

    def _hook(self, name, releasing=False):
        self.order.append(name)
        return super()._hook(name, releasing)


def order_of(guest):
    """The hooks' names, each with a space after it."""
    assert guest.violation is None
    return "".join(name + " " for name in guest.order)


BATCHES = "(page_types (map_pages unmap_pages )?)+"
READ_P2M = "(map_pages unmap_pages )+"


@pytest.mark.parametrize("kind, p2m_kind", [("hvm", "tree"), ("pv", "tree"), ("pv", "linear")])
def test_the_order_of_a_save(kind, p2m_kind):
    start = "pfn_end start_save static_records " if kind == "hvm" else \
        "m2p shared_info " + READ_P2M + "start_save static_records "
    p2m, counted = ("", "count_dirty ") if kind == "hvm" else (READ_P2M, "(shared_info )?count_dirty ")
    cases = {
        "cold": ({}, "suspend " + p2m + BATCHES + "state_records end "),
        "live": ({"live": True}, "track_dirty (" + BATCHES + counted + "(read_dirty " + p2m + ")?)+suspend read_dirty "
                 + p2m + BATCHES + "state_records track_dirty end "),
        "checkpoints": ({"checkpoint": lambda number: number < 3}, "track_dirty (suspend read_dirty " + p2m
                        + "(" + BATCHES + ")?state_records resume )+track_dirty end "),
    }
    for options, expected in cases.values():
        guest = Recording(SimulatedGuest(kind, 1200, dirty=0.3, p2m=p2m_kind))
        xstream.save(guest, io.BytesIO(), **options)
        assert re.match(start + expected + r"\Z", order_of(guest)), order_of(guest)


@pytest.mark.parametrize("kind", ["hvm", "pv"])
def test_the_order_of_a_restore(kind):
    out = io.BytesIO()
    xstream.save(SimulatedGuest(kind, 1200), out)
    # Page tables may refer to PFNs that haven't arrived yet.
    batches = "((populate )?set_types (populate )*(map_pages unmap_pages )?)+"
    expected = "start_restore load_static " + batches + "(map_pages unmap_pages )*load_state "
    expected += "pin_tables (map_pages unmap_pages )+" if kind == "pv" else ""
    guest = Recording(SimulatedGuest.empty(kind))
    xstream.restore(out.getvalue(), guest)
    assert re.match(expected + r"complete end \Z", order_of(guest)), order_of(guest)
    guest = Recording(SimulatedGuest.empty(kind))
    with pytest.raises(xstream.TruncatedStream):
        xstream.restore(out.getvalue()[:-1], guest)
    assert order_of(guest).endswith("abandon end ")

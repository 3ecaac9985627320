"""XenGuest over a Xen that answers from a simulated domain: the structures of every hypercall, byte by byte."""
import errno
import io
import os
from array import array

import pytest
from fake_xen import PAGE, FakeXen

import xstream
from xstream.wire.hvm_params import NUMBERS
from xstream.xen import interface
from xstream.xen.domain import MISSING_CPUID_POLICY, MISSING_MSR_POLICY, Toolstack, XenGuest
from xstream.xen.errors import XenError
from xstream.xen.privcmd import Privcmd

PARAMS = {NUMBERS["STORE_PFN"]: 5, NUMBERS["CONSOLE_PFN"]: 6, NUMBERS["CALLBACK_IRQ"]: 9}
LEAVES, MSRS = bytes(range(48)), bytes(range(16))


class FakeToolstack(Toolstack):
    def __init__(self, xen, domid):
        self.xen, self.domid, self.done = xen, domid, []

    def suspend(self):
        self.xen.domains[self.domid]["flags"] |= interface.DOMAIN_SHUTDOWN | 2 << interface.SHUTDOWN_REASON_SHIFT

    def resume(self):
        self.done.append("resume")

    def qemu_log_dirty(self, on):
        self.done.append(("qemu", on))

    def static_data_done(self, missing):
        self.done.append(("static", missing))


def page(pfn):
    return bytes([pfn % 251, 7]) * (PAGE // 2)


@pytest.fixture
def xen(monkeypatch):
    fake = FakeXen(monkeypatch)
    fake.add(3, {pfn: page(pfn) for pfn in range(2000) if pfn % 100}, params=PARAMS,
             context=xstream.SimulatedGuest("hvm", pages=4).state_records()[1].blob, policies=(LEAVES, MSRS))
    return fake


def saved(xen, **options):
    out = io.BytesIO()
    toolstack = FakeToolstack(xen, 3)
    report = xstream.save(XenGuest(3, toolstack), out, **options)
    return out.getvalue(), toolstack, report


def test_a_cold_save(xen):
    stream, toolstack, _ = saved(xen)
    memory = xstream.GuestMemory()
    xstream.load(stream, memory)
    assert all(memory.pages[pfn].tobytes() == page(pfn) for pfn in range(2000) if pfn % 100)
    records = {type(record): record for record in xstream.open(stream)}
    assert bytes(records[xstream.CpuidPolicy].leaves) == LEAVES
    assert bytes(records[xstream.MsrPolicy].entries) == MSRS
    assert records[xstream.TscInfo][:4] == (0, 2000000, 77, 1)
    # What isn't among the parameters of a stream is left out.
    assert dict(records[xstream.HvmParams].params) == {1: 5, 17: 6}
    assert toolstack.done == []


def test_a_live_save(xen):
    xen.dirty = bytearray(250)
    _, toolstack, report = saved(xen, live=True)
    assert [one.phase for one in report.rounds] == ["live", "final"]
    assert toolstack.done == [("qemu", True), ("qemu", False)]
    modes = [call[1:] for call in xen.calls if call[0] == "shadow"]
    assert modes[0] == (interface.LOGDIRTY_ENABLE, 0) and modes[-1] == (interface.LOGDIRTY_OFF, 0)
    assert (interface.LOGDIRTY_CLEAN, interface.LOGDIRTY_FINAL) in modes


def test_log_dirty_that_is_on_already(xen):
    guest = XenGuest(3, FakeToolstack(xen, 3))
    xen.fail[10] = errno.EINVAL
    with pytest.raises(XenError, match="shadow_op for domain 3: Invalid argument"):
        guest.track_dirty(True)
    del xen.fail[10]
    guest.track_dirty(True)


def test_restore(xen):
    stream, _, _ = saved(xen)
    xen.add(9, {})
    toolstack = FakeToolstack(xen, 9)
    guest = XenGuest(9, toolstack, store_evtchn=21, console_evtchn=22, store_domid=0, console_domid=4)
    restored = xstream.restore(stream, guest)
    target = xen.domains[9]
    assert sorted(target["pages"]) == [pfn for pfn in range(2000) if pfn % 100]
    assert target["pages"][5] == bytes(PAGE) and target["policies"] == (LEAVES, MSRS)
    assert target["params"][2] == 21 and target["params"][18] == 22 and target["params"][1] == 5
    assert target["context"] == xen.domains[3]["context"] and target["tsc"] == (0, 2000000, 1, 0, 77)
    assert toolstack.done == [("static", 0)]
    assert xen.granted[:16] == b"\1\0\4\0\6\0\0\0" + b"\1\0\0\0\5\0\0\0"
    assert restored.completed.store_frame == 5


def test_policies_that_a_stream_lacks(xen):
    xen.domains[3]["policies"] = (b"", b"")
    stream, _, _ = saved(xen)
    xen.add(9, {})
    toolstack = FakeToolstack(xen, 9)
    xstream.restore(stream, XenGuest(9, toolstack))
    assert toolstack.done == [("static", MISSING_CPUID_POLICY | MISSING_MSR_POLICY)] == [("static", 3)]


def test_a_domain_that_gets_too_little_memory(xen):
    stream, _, _ = saved(xen)
    xen.add(9, {})
    xen.domains[9]["room"] = 100
    with pytest.raises(xstream.HookError, match="Xen had memory for 100 of"):
        xstream.restore(stream, XenGuest(9, FakeToolstack(xen, 9)))


def test_a_guest_that_does_not_suspend(xen):
    guest = XenGuest(3, FakeToolstack(xen, 0))
    with pytest.raises(xstream.GuestError, match="still runs"):
        guest.suspend()


@pytest.mark.parametrize("version", [0x11, 0x15, 0x17, 0x18, 0x19])
def test_interface_versions(xen, version):
    xen.version = version
    assert XenGuest(3, FakeToolstack(xen, 3)).kind == "hvm"


def test_an_interface_of_the_future(xen):
    xen.version = 0x30
    with pytest.raises(XenError, match="no interface version"):
        Privcmd().domain_info(3)


def test_no_such_domain(xen):
    with pytest.raises(XenError, match="domain 5: No such process .there is no such domain"):
        Privcmd().domain_info(5)


def test_no_xen(monkeypatch):
    if os.path.exists("/dev/xen/privcmd"):
        pytest.skip("this is a dom0")
    with pytest.raises(XenError, match="must run as root in a dom0"):
        Privcmd()


def populated(xen, domid, pfns):
    """The frames that a guest's populate() returns, and the (order, extents) of its hypercalls."""
    guest, frames = XenGuest(domid, FakeToolstack(xen, domid)), array("Q", bytes(8 * len(pfns)))
    xen.calls.clear()
    guest.populate(memoryview(array("Q", pfns)), memoryview(frames))
    return frames.tolist(), [call[1:] for call in xen.calls if call[0] == "populate"]


@pytest.mark.parametrize("pfns, calls", [
    (range(1024), [(9, 2)]), (range(100, 2000), [(0, 412), (9, 2), (0, 464)]), (range(511), [(0, 511)]),
    (list(range(512, 1000)) + list(range(1001, 1025)), [(0, 512)]),
    ([511, *range(1, 511), 0, *range(512, 1024)], [(0, 512), (9, 1)]),
    (range(1, 4000, 2), [(0, 1024), (0, 976)]), ([], [])])
def test_whole_superpages_are_populated_as_such(xen, pfns, calls):
    xen.add(9, {})
    assert populated(xen, 9, pfns) == (list(pfns), calls)
    assert sorted(xen.domains[9]["pages"]) == sorted(pfns)


def test_without_contiguous_memory_pages_are_populated(xen):
    xen.add(9, {})
    xen.domains[9]["superpages"] = 1
    frames, calls = populated(xen, 9, range(2048))
    assert frames == list(range(2048)) and calls == [(9, 1), (0, 1024), (0, 512)]


def test_a_pv_guest_gets_the_frames_that_xen_chose(xen, monkeypatch):
    monkeypatch.setattr(Privcmd, "guest_width", lambda self, domid: 8)
    xen.add(9, {}, hvm=False)
    frames, calls = populated(xen, 9, [5, *range(512, 1024), 7])
    assert calls == [(0, 1), (9, 1), (0, 1)]
    assert frames == [0x8400, *range(0x8800, 0x8A00), 0x8C00] and sorted(xen.domains[9]["pages"]) == frames

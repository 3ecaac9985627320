"""StateRecords: which records replace earlier ones, which accumulate, and what bounds them."""
import pytest

from xstream import LimitExceeded, Limits
from xstream.stream.state import OVERHEAD, StateRecords
from xstream.wire import legacy, libxc, libxl, xl


def state_of(*records, **options):
    state = StateRecords(**options)
    for record in records:
        state.add(record)
    return state


@pytest.mark.parametrize("make", [
    lambda n: libxc.TscInfo(0, n, 0, 0), lambda n: libxc.SharedInfo(bytes([n]) * 4096),
    lambda n: libxc.HvmContext(bytes([n])), lambda n: libxc.CpuidPolicy(bytes([n]) * 24),
    lambda n: libxc.MsrPolicy(bytes([n]) * 16), lambda n: libxc.VcpuBasic(3, bytes([n])),
    lambda n: libxc.VcpuExtended(3, bytes([n])), lambda n: libxc.VcpuXsave(3, bytes([n])),
    lambda n: libxc.VcpuMsrs(3, bytes([n])), lambda n: libxl.EmulatorContext(2, 0, bytes([n])),
    lambda n: libxc.P2MFrames(0, 511, bytes([n]) * 8)], ids=lambda make: type(make(1)).__name__)
def test_the_last_record_replaces_earlier_ones(make):
    assert state_of(make(1), make(2)).records() == [make(2)]


def test_records_of_different_vcpus_and_device_models_stay_apart():
    records = [libxc.VcpuBasic(0, b"a"), libxc.VcpuBasic(1, b"b"), libxc.VcpuMsrs(0, b"c"),
               libxl.EmulatorContext(2, 0, b"d"), libxl.EmulatorContext(2, 1, b"e"), libxl.EmulatorContext(1, 0, b"f")]
    assert state_of(*records).records() == records


def test_records_of_legacy_guests_without_xsave():
    records = [legacy.ExtendedInfo(8, bytes(8)), legacy.VcpuContext(bytes(8), b"")]
    assert state_of(*records).records() == records


def test_parameters_add_up():
    state = state_of(libxc.HvmParams.of([(1, 10), (5, 50)]), libxc.TscInfo(0, 0, 0, 0),
                     libxc.HvmParams.of([(5, 51), (17, 170)]))
    merged, _ = state.records()
    assert merged.params == [(1, 10), (5, 51), (17, 170)]
    # A checkpoint that doesn't mention a parameter leaves it as it is.
    state.update(state_of(libxc.HvmParams.of([(1, 11)])))
    assert state.of(libxc.HvmParams)[0].params == [(1, 11), (5, 51), (17, 170)]


def test_xenstore_keys_add_up_by_device_model():
    state = state_of(libxl.EmulatorXenstoreData.of([(b"a", b"1"), (b"b", b"2")]),
                     libxl.EmulatorXenstoreData.of([(b"a", b"9")], emulator_id=1),
                     libxl.EmulatorXenstoreData.of([(b"b", b"3"), (b"c", b"")]))
    assert [record.pairs for record in state.records()] == [
        [(b"a", b"1"), (b"b", b"3"), (b"c", b"")], [(b"a", b"9")]]


def test_optional_records_accumulate():
    records = [libxc.Unknown(1 << 31, b"x"), libxc.Unknown(1 << 31, b"x"), libxc.Unknown(1 << 31 | 5, b"y")]
    assert state_of(*records).records() == records


def test_empty_records_replace_nothing():
    records = [libxc.VcpuBasic(0, b"a"), libxc.VcpuXsave(0, b"b"), libxc.HvmParams.of([(1, 2)])]
    empty = [libxc.VcpuBasic(0, b""), libxc.VcpuXsave(0, b""), libxc.HvmParams.of([])]
    assert state_of(*records, *empty).records() == records
    assert state_of(*empty).records() == []
    # An empty HVM context isn't skipped by libxenguest: it is what the guest would get.
    assert state_of(libxc.HvmContext(b"a"), libxc.HvmContext(b"")).records() == [libxc.HvmContext(b"")]


def test_a_growing_p2m():
    first, whole, part = (libxc.P2MFrames(0, 511, bytes(8)), libxc.P2MFrames(0, 1023, bytes(16)),
                          libxc.P2MFrames(512, 1023, bytes(8)))
    assert state_of(first, part).records() == [first, part]
    assert state_of(first, part, whole).records() == [whole]
    assert state_of(whole, first).records() == [whole, first]


def test_what_is_given_with_a_record_is_kept():
    state = StateRecords()
    state.add(xl.SaveHeader(), "outer")
    state.add(libxc.HvmParams.of([(1, 1)]), "first")
    state.add(libxc.HvmParams.of([(2, 2)]), "second")
    assert [kept.where for kept in state.items()] == ["outer", "second"]
    assert len(state) == 2


@pytest.mark.parametrize("make", [
    lambda n: libxc.Unknown(1 << 31, bytes(100)), lambda n: libxc.VcpuXsave(n, bytes(100)),
    lambda n: libxc.HvmParams.of([(n, 0)]), lambda n: libxl.EmulatorXenstoreData.of([(b"%d" % n, bytes(0))]),
    lambda n: libxc.P2MFrames(n, n, bytes(8))], ids=["optional", "vcpus", "parameters", "keys", "p2m"])
def test_memory_is_bounded(make):
    limits = Limits(state_length=100 * OVERHEAD)
    state = StateRecords(limits)
    with pytest.raises(LimitExceeded):
        for number in range(1, 102):
            state.add(make(number))
    assert len(state) <= 100


def test_what_is_replaced_is_not_counted():
    state = StateRecords(Limits(state_length=1 << 20))
    for number in range(100):
        state.add(libxc.HvmContext(bytes(500000)))
        state.add(libxl.EmulatorXenstoreData.of([(b"key", bytes([number % 10 + 1]) * 10)]))
        state.add(libxc.P2MFrames(0, 511, bytes(100000)))
    assert len(state) == 3

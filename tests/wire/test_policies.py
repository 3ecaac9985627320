"""CPU policies: what they say, and how two of them differ."""
import struct

import pytest
from blobs import assert_hostile_bytes_survive, blob
from hypothesis import given
from hypothesis import strategies as st

from xstream.errors import CorruptStream, LimitExceeded
from xstream.wire import features, hvm_params, msrs, policies
from xstream.wire.msrs import Msr
from xstream.wire.policies import Leaf

WORD = st.integers(0, 0xFFFFFFFF)
LEAVES = st.lists(st.builds(Leaf, WORD, st.one_of(st.none(), st.integers(0, 0xFFFFFFFE)), WORD, WORD, WORD, WORD))


def leaf(number, subleaf=None, a=0, b=0, c=0, d=0):
    return Leaf(number, subleaf, a, b, c, d)


@pytest.mark.parametrize("name", ["cpuid-policy-amd", "cpuid-policy-intel"])
def test_genuine_policies_come_back_as_they_were(name):
    data = blob(name)
    assert policies.build(policies.parse(data)) == data


def test_genuine_intel_cpu():
    leaves = policies.parse(blob("cpuid-policy-intel"))
    assert policies.vendor(leaves) == "GenuineIntel"
    assert policies.signature(leaves) == (6, 85, 4)
    assert policies.maximum_leaves(leaves) == (0xD, 0x80000008)
    assert policies.xstate_places(leaves) == {2: (576, 256)}
    assert {"AVX512F", "PCID", "LM", "IBRSB", "XSAVEOPT"} < set(policies.feature_names(leaves))
    assert {"SVM", "VMX", "RTM"}.isdisjoint(policies.feature_names(leaves))


def test_genuine_amd_cpu():
    leaves = policies.parse(blob("cpuid-policy-amd"))
    assert policies.vendor(leaves) == "AuthenticAMD"
    assert policies.signature(leaves) == (23, 1, 2)
    assert policies.brand(leaves) == "AMD EPYC Processor"
    assert policies.maximum_leaves(leaves) == (0xD, 0x8000001E)
    names = policies.feature_names(leaves)
    assert {"SSE4A", "XGETBV1", "NO_LMSL", "LM"} < set(names)
    assert len(set(names)) == len(names)
    assert all("[" not in name for name in names)


def test_genuine_policies_differ():
    intel, amd = (policies.parse(blob("cpuid-policy-" + name)) for name in ("intel", "amd"))
    found = {(item.leaf, item.subleaf, item.register): item for item in policies.differences(intel, amd)}
    assert found[7, 0, "c"][3:] == (8, 0, ("PKU",), ())
    assert found[0x80000001, None, "c"][3:] == (0x121, 0x71, ("3DNOWPREFETCH",), ("CR8_LEGACY", "SSE4A"))
    assert found[0, None, "b"][5:] == ((), ())
    assert (0xD, 0, "a") not in found
    assert policies.differences(intel, intel) == []


def test_order_of_differences():
    one = [leaf(7, 1, d=1), leaf(7, 0, b=1, a=1), leaf(0x80000000, a=1), leaf(1, d=1)]
    assert [item[:3] for item in policies.differences(one, [])] == [
        (1, None, "d"), (7, 0, "a"), (7, 0, "b"), (7, 1, "d"), (0x80000000, None, "a")]


def test_missing_leaves_read_as_zeros_and_the_last_of_repeated_ones_counts():
    assert policies.differences([leaf(2)], []) == []
    assert policies.differences([leaf(1, c=1), leaf(1, c=2)], [leaf(1, c=2)]) == []
    assert policies.differences([], [leaf(1, c=1)]) == [(1, None, "c", 0, 1, (), ("SSE3",))]


BASE = [leaf(0, a=0xD, b=1, c=2, d=3), leaf(7, 0, a=1), leaf(0x80000000, a=0x80000008)]


@pytest.mark.parametrize("place, change, reason", [
    (0, {"b": 9}, "vendor"), (0, {"c": 9}, "vendor"), (0, {"d": 9}, "vendor"),
    (0, {"a": 7}, "highest leaf 0x7, not 0xd"),
    (1, {"a": 0}, "highest subleaf of leaf 0x7 0x0, not 0x1"),
    (2, {"a": 0x80000001}, "highest extended leaf 0x80000001, not 0x80000008")])
def test_conflicts(place, change, reason):
    host = list(BASE)
    host[place] = host[place]._replace(**change)
    found, = policies.conflicts(BASE, [], host, [])
    assert reason in found
    assert len(policies.conflicts(host, [], BASE, [])) == (reason == "vendor")
    assert policies.conflicts(BASE, [], BASE, []) == policies.conflicts([], [], [], []) == ()


def test_platform_info_must_not_lose_bits():
    one = [Msr(0xCE, 0, 1 << 31)]
    assert policies.conflicts(BASE, one, BASE, []) == ("MSR INTEL_PLATFORM_INFO lacks CPUID_FAULTING",)
    assert policies.conflicts(BASE, [], BASE, one) == ()


def test_attributes_are_of_known_features():
    known = {name for table in features.CPUID.values() for name in table.values()} | set(
        features.ARCH_CAPABILITIES.values())
    assert known >= features.NOT_COMPARED


def test_bits_without_a_name_are_named_by_their_place():
    assert policies.feature_names([leaf(1, d=1 << 10 | 1)]) == ("FPU", "0x1.d[10]")
    assert policies.feature_names([leaf(7, 0, c=1 << 15)]) == ("0x7:0.c[15]",)


@given(LEAVES, LEAVES)
def test_differences_mirror(one, other):
    there = policies.differences(one, other)
    back = policies.differences(other, one)
    assert [item[:3] + (item.value_b, item.value_a, item.gained, item.lost) for item in there] == [
        tuple(item) for item in back]
    assert all(item.value_a != item.value_b for item in there)


@given(LEAVES)
def test_built_policies_parse_to_themselves(leaves):
    assert policies.parse(policies.build(leaves)) == tuple(leaves)


@pytest.mark.parametrize("eax, family, model, stepping", [
    (0x50654, 6, 85, 4), (0x800F12, 23, 1, 2), (0xF43, 15, 4, 3), (0x543, 5, 4, 3), (0xA20F10, 25, 0x21, 0)])
def test_signatures(eax, family, model, stepping):
    assert policies.signature([leaf(1, a=eax)]) == (family, model, stepping)


def test_strings_that_are_no_text():
    assert policies.vendor([leaf(0, b=0xFFFFFFFF, c=0x42424242, d=0x41414141)]) == "\ufffd" * 4 + "AAAABBBB"
    assert policies.brand([leaf(0x80000002, a=0x41)]) == "A"
    assert (policies.vendor([]), policies.brand([]), policies.signature([])) == ("", "", (0, 0, 0))


def test_genuine_msr_policy():
    data = blob("msr-policy")
    policy = msrs.parse(data)
    assert policy == (Msr(0xCE, 0, 0x80000000), Msr(0x10A, 0, 0))
    assert [msr.name for msr in policy] == ["INTEL_PLATFORM_INFO", "ARCH_CAPABILITIES"]
    assert msrs.build(policy) == data


def test_msr_policies_differ():
    one = [Msr(0x10A, 0, 1 << 62 | 0b11), Msr(0xCE, 0, 1 << 31)]
    other = [Msr(0x10A, 0, 0b101), Msr(0x123, 0, 5)]
    assert policies.msr_differences(one, other) == [
        (0xCE, 1 << 31, 0, ("CPUID_FAULTING",), ()),
        (0x10A, 1 << 62 | 0b11, 0b101, ("EIBRS", "ITS_NO"), ("RSBA",)),
        (0x123, 0, 5, (), ())]
    assert policies.msr_differences(one, one) == []


def test_features_have_one_name_and_names_one_bit():
    """But for those that AMD's CPUs repeat."""
    named = [name for place, table in features.CPUID.items() for bit, name in table.items()
             if place != (0x80000001, None, "d") or features.CPUID[1, None, "d"].get(bit) != name]
    assert len(named) == len(set(named))
    assert all(0 <= bit < 32 for table in features.CPUID.values() for bit in table)


def test_policies_of_a_wrong_length():
    with pytest.raises(CorruptStream):
        policies.parse(bytes(25))
    with pytest.raises(LimitExceeded):
        policies.parse(bytes(24 * 65537))
    assert policies.parse(b"") == ()


def test_hostile_bytes():
    def read(data):
        leaves = policies.parse(data)
        policies.differences(leaves, genuine)
        for ask in (policies.vendor, policies.brand, policies.signature, policies.xstate_places,
                    policies.feature_names, policies.maximum_leaves):
            ask(leaves)

    data = blob("cpuid-policy-amd")
    genuine = policies.parse(data)
    assert_hostile_bytes_survive(read, data, 13)


def test_names_of_hvm_parameters():
    assert [hvm_params.name(index) for index in (0, 1, 12, 34, 38, 39, 1 << 63)] == [
        "CALLBACK_IRQ", "STORE_PFN", "IDENT_PT", "VM_GENERATION_ID_ADDR", "MCA_CAP", "39", str(1 << 63)]
    assert sorted(hvm_params.NAMES) == list(range(39))


def test_subleaf_none_is_all_ones_on_the_wire():
    assert policies.parse(struct.pack("<6I", 1, 0xFFFFFFFF, 1, 2, 3, 4)) == (Leaf(1, None, 1, 2, 3, 4),)

"""The fuzzer's own parts, and every finding that it ever made."""
import random
import sys
import zlib
from pathlib import Path

import pytest
import samples
from containers import READ
from legacy_samples import SMALL as LEGACY

FUZZ = Path(__file__).resolve().parent.parent / "fuzz"
if not FUZZ.is_dir():
    pytest.skip("not applicable: the fuzzer isn't part of the package", allow_module_level=True)
sys.path.append(str(FUZZ))

import common  # noqa: E402
import driver  # noqa: E402
import kernel_calls  # noqa: E402
import mutator  # noqa: E402
from registry import MUTANTS, TARGETS  # noqa: E402

STREAMS = dict(samples.SMALL + [(name, data) for name, data, _ in READ] + LEGACY)
FINDINGS = sorted(path.name for path in (FUZZ / "findings").glob("*") if path.suffix != ".md")


@pytest.mark.parametrize("name", STREAMS)
def test_pieces_put_together_are_the_stream(name):
    assert mutator.join(mutator.split(STREAMS[name])) == STREAMS[name]


@pytest.mark.parametrize("name", ["hvm3", "pv3", "pv64", "xl"])
def test_pieces_of_a_cut_stream(name):
    whole = STREAMS[name]
    for end in [*range(200), *range(200, len(whole), 61)]:
        assert mutator.join(mutator.split(whole[:end])) == whole[:end]


def test_many_mutants_of_good_streams_are_good():
    mutate = mutator.Mutator(list(STREAMS.values()), [samples.hvm(), samples.pv()])
    mutants = [mutate.mutate(samples.hvm(), seed) for seed in range(200)]
    good = [common.verified(mutant, {"limits": common.LIMITS})[0] == "ok" for mutant in mutants]
    assert 60 < sum(good) < 160
    assert mutants[7] == mutate.mutate(samples.hvm(), 7)


def test_a_new_seed_changes_no_mutant():
    inputs = driver.Inputs()
    before = [hash(mutant) for mutant in inputs.fixed("verify", 1)]
    inputs.whole["new"] = samples.hvm() + b"anything"
    after = [hash(mutant) for mutant in inputs.fixed("verify", 1)]
    seeds = len(inputs.whole)
    assert [number for at, number in enumerate(after) if at % seeds != seeds - 1] == before
    assert len(set(after)) > 0.9 * len(after)


@pytest.mark.parametrize("target", TARGETS)
def test_targets_take_anything(target):
    for data in (b"", b"\0", samples.hvm(), samples.pv()[:-9]):
        TARGETS[target](data, random.Random(zlib.crc32(data)))


@pytest.mark.parametrize("target", TARGETS)
def test_findings(target):
    for name in FINDINGS:
        data = (FUZZ / "findings" / name).read_bytes()
        for seed in (zlib.crc32(data), 1, 2, 3):
            TARGETS[target](data, random.Random(seed))


def test_every_target_has_mutants():
    assert set(MUTANTS) == set(TARGETS)


def test_calls_of_kernels():
    assert kernel_calls.many(random.Random(1)) > 5000

"""Version 3 against the legacy format: every case of the claim for a small guest."""
import contextlib

import pytest

from xstream.bench.claim import FORMS, Claim, case_names

SIZE = 64 << 20


@pytest.fixture(scope="module", params=["hvm", "pv"])
def claim(request, partner):
    with contextlib.closing(Claim(request.param, SIZE, partner)) as made:
        yield made


@pytest.mark.parametrize("side", range(len(FORMS)))
@pytest.mark.parametrize("number", range(len(case_names("hvm", SIZE))))
def test_case(claim, run, number, side):
    run(list(claim.cases())[number].workload, side)

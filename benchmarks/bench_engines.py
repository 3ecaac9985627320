"""The engines, each with the limit of the machine."""
import contextlib

import pytest

from xstream.bench.engines import NAMES, Engines


@pytest.fixture(scope="module")
def engines(partner):
    with contextlib.closing(Engines(16 << 8, partner)) as made:
        yield made


@pytest.mark.parametrize("side", range(2))
@pytest.mark.parametrize("name", NAMES)
def test_engine(engines, run, name, side):
    run(engines.workload(name), side)

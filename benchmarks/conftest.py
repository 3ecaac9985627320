"""The workloads of ``python -m xstream.bench``, for pytest-benchmark."""
import contextlib

import pytest

from xstream.bench.guests import seeded_guest
from xstream.bench.kernels import Kernels
from xstream.bench.partner import Partner
from xstream.bench.verbs import Verbs

GUEST_PAGES = 64 << 8  # 64 MiB


@pytest.fixture(scope="session")
def partner():
    """Started before the benchmarks allocate their memory."""
    with contextlib.closing(Partner()) as made:
        yield made


@pytest.fixture(scope="session")
def guest(partner):
    return seeded_guest(GUEST_PAGES)


@pytest.fixture(scope="session")
def of_verbs(guest, partner):
    with contextlib.closing(Verbs(guest, partner)) as made:
        yield made


@pytest.fixture(scope="session")
def of_kernels(guest):
    return Kernels(guest)


@pytest.fixture
def run(benchmark):
    """Benchmark one side of a workload, by its number, its work and its bytes noted with it."""
    def run_it(workload, number):
        if number >= len(workload.sides):
            pytest.skip("no more sides here")
        side = workload.sides[number]
        benchmark.group = workload.name
        benchmark.extra_info.update(by=side.name, work=side.what, bytes=workload.bytes)
        benchmark(side.run)
    return run_it

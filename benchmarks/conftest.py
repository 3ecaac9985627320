"""The workloads of ``python -m xstream.bench``, for pytest-benchmark."""
import pytest

from xstream.bench.engines import EngineBench
from xstream.bench.guests import seeded_guest
from xstream.bench.workloads import Bench

GUEST_PAGES = 64 << 8  # 64 MiB


@pytest.fixture(scope="session")
def bench():
    made = Bench(seeded_guest(GUEST_PAGES))
    yield made
    made.close()


@pytest.fixture(scope="session")
def engines():
    made = EngineBench(GUEST_PAGES)
    yield made
    made.close()


@pytest.fixture
def run(benchmark):
    """Benchmark one side of a workload, its bytes noted with it."""
    def run_it(work, side):
        benchmark.group = work.name
        benchmark.extra_info.update(work=work.what if side == "ours" else work.limit_what, bytes=work.bytes)
        benchmark(work.run if side == "ours" else work.limit)
    return run_it

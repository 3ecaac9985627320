"""Each verb and kernel, with the limit of the machine and other programs that do the same work."""
import pytest

from xstream.bench import kernels, verbs

#: No workload has more sides than this.
SIDES = 4


@pytest.mark.parametrize("side", range(SIDES))
@pytest.mark.parametrize("name", verbs.NAMES)
def test_verb(of_verbs, run, name, side):
    run(of_verbs.workload(name), side)


@pytest.mark.parametrize("side", range(SIDES))
@pytest.mark.parametrize("name", kernels.NAMES)
def test_kernel(of_kernels, run, name, side):
    run(of_kernels.workload(name), side)

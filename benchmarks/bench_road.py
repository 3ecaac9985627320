"""The road from bytes to guest memory and back: each row of the bench, and its limit beside it."""
import pytest

SIDES = pytest.mark.parametrize("side", ["ours", "limit"])


@SIDES
@pytest.mark.parametrize("name", ["decode", "encode_file", "digest", "zero_scan"])
def test_against_the_machine(bench, run, name, side):
    run(getattr(bench, name)(), side)


@pytest.mark.parametrize("name", ["encode_null", "verify"])
def test_alone(bench, run, name):
    run(getattr(bench, name)(), "ours")


def test_peers(bench):
    """Whatever peers are installed; each is a row of the bench."""
    for work in bench.digest_peers() + bench.verify_peers():
        work.run()

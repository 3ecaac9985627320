"""The engines: each row of the bench, and its limit beside it."""
import os

import pytest

SIDES = pytest.mark.parametrize("side", ["ours", "limit"])


@SIDES
@pytest.mark.parametrize("name", ["restore_file", "restore_pipe", "save_pipe", "save_by_reference"])
def test_against_the_machine(engines, run, name, side):
    if name == "save_by_reference" and not hasattr(os, "splice"):
        pytest.skip("this Python has no os.splice")
    run(getattr(engines, name)(), side)


@pytest.mark.parametrize("number", [0, 1], ids=["normalise", "localise"])
def test_page_tables(engines, run, number):
    run(engines.page_tables()[number], "ours")

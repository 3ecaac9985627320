"""The order rules, as tables."""
import itertools
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import samples

import xstream
from xstream.stream.ordering import CHECKPOINT, END, PAGE_DATA, TABLES, USUAL, VERIFY
from xstream.wire.libxc import GUEST_HVM, GUEST_PV, RECORDS

ROOT = Path(__file__).resolve().parent.parent


def reachable(table):
    seen, todo = set(), ["start"]
    while todo:
        state = todo.pop()
        if state not in seen:
            seen.add(state)
            todo.extend(table[state].values())
    return seen


@pytest.mark.parametrize("kind", TABLES)
def test_every_state_can_be_reached_and_left(kind):
    table = TABLES[kind]
    assert reachable(table) == set(table)
    assert table["end"] == {}
    for state, row in table.items():
        assert set(row) <= set(RECORDS) and set(row.values()) <= set(table)
        assert state == "end" or row


@pytest.mark.parametrize("kind", TABLES)
def test_what_is_usual_can_come(kind):
    come = set(itertools.chain.from_iterable(TABLES[kind].values()))
    assert set(USUAL[kind]) <= come and {END, PAGE_DATA, CHECKPOINT, VERIFY} <= come


def test_each_guest_has_its_tables():
    assert set(TABLES) == {(version, guest) for version in (2, 3) for guest in (GUEST_PV, GUEST_HVM)}


@pytest.mark.skipif(not (ROOT / "docs" / "ordering.md").exists(), reason="tested away from the checkout")
def test_the_drawing_in_the_docs_is_that_of_the_tables():
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    drawn = subprocess.check_output([sys.executable, str(ROOT / "scripts" / "draw-ordering")], env=environment).decode()
    assert (ROOT / "docs" / "ordering.md").read_text(encoding="utf-8") == drawn


def test_a_batch_without_pfns_is_corrupt_whatever_else_is_wrong_with_it():
    """What a restore would refuse comes before what only strict reading reports."""
    stream = samples.hvm(memory=samples.record(1, struct.pack("<II", 0, 7)))
    with pytest.raises(xstream.CorruptStream, match="without PFNs") as raised:
        xstream.verify(stream, strict=True)
    assert not isinstance(raised.value, xstream.StrictViolation)

"""The bench runs, says what it did, and does the work it names. No figure is judged here."""
import json

import numpy
import pytest
import samples

from xstream.bench import __main__ as command
from xstream.bench import guests, timing, workloads


@pytest.fixture
def bench():
    made = workloads.Bench(guests.seeded_guest(300))
    yield made
    made.close()


def test_table(capsys):
    assert command.main(["--size", "1M", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    for name in ("decode", "encode", "verify", "digest", "zero scan", "limit : ours", guests.MIX):
        assert name in out


def test_json(capsys):
    assert command.main(["--size", "1M", "--rounds", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in document["rows"]}
    assert rows["decode"]["bytes"] == 1 << 20 and rows["decode"]["ratio"] > 0
    assert rows["encode"]["cpu_ns_per_page"] >= 0 and document["guest"]["pages"] == 256


def test_a_stream_of_ones_own(tmp_path, capsys):
    path = tmp_path / "stream"
    path.write_bytes(samples.hvm())
    assert command.main([str(path), "--rounds", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["guest"] == {"bytes": 5 * 4096, "pages": 5, "source": str(path)}


def test_bad_arguments(tmp_path, capsys):
    path = tmp_path / "bad"
    path.write_bytes(b"no stream")
    assert command.main([str(path)]) == 1
    assert command.main([str(tmp_path / "absent")]) == 2
    assert "not a stream" in capsys.readouterr().err


def test_the_guest_is_seeded_and_of_its_mix():
    first, second = guests.seeded_guest(3000, seed=5), guests.seeded_guest(3000, seed=5)
    assert first.pages.tobytes() == second.pages.tobytes()
    assert first.pages.tobytes() != guests.seeded_guest(3000, seed=6).pages.tobytes()
    zero = int((~first.pages.any(axis=1)).sum())
    words = first.pages.view(numpy.uint64)
    repeated = int((words == words[:, :1]).all(axis=1).sum()) - zero
    assert 0.25 < zero / 3000 < 0.35 and 0.15 < repeated / 3000 < 0.25


def test_workloads_do_their_work(bench):
    bench.ready.pages[:] = 1
    bench.decode().run()
    assert bench.ready.pages.tobytes() == bench.memory.pages.tobytes()
    assert bench.verify().run().pages == 300
    rows = bench.workloads()
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert row.what and row.bytes == 300 * 4096 and bool(row.limit) == bool(row.limit_what)
        row.run()
        if row.limit:
            row.limit()


def test_both_sides_are_measured_in_turn():
    calls = []
    pair = timing.measure(lambda: calls.append("ours"), lambda: calls.append("limit"), 3)
    assert calls == ["ours", "limit"] * 4 and pair.ratio > 0
    assert pair.ours.least <= pair.ours.median <= pair.ours.most

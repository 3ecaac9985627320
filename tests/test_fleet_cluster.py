"""Scans on a Dask cluster of two processes."""
import json
import os
import signal
from collections import Counter

import containers
import fleet_works
import pytest
import samples

from xstream import cli, fleet
from xstream.fleet import workers

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
                                  host="127.0.0.1") as started:
        yield started


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster) as connected:
        connected.wait_for_workers(2)
        yield connected


@pytest.fixture
def store(tmp_path):
    root = tmp_path / "store"
    root.mkdir()
    for number in range(6):
        (root / "{}.xs".format(number)).write_bytes(samples.hvm())
    (root / "cut.xl").write_bytes(containers.xl()[:-50])
    (root / "none").write_bytes(b"")
    return root


def test_command_line(cluster, client, store, tmp_path, capsys):
    arguments = ["scan", "--json", "--duplicates", "--cache", str(tmp_path / "cache"), str(store)]
    assert cli.main(arguments + ["--dask", cluster.scheduler_address]) == 1
    *records, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert cli.main(["scan", "--json", "--duplicates", str(store)]) == 1
    *local, last_local = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(records, key=str) == sorted(local, key=str) and last == last_local


def test_a_bag(client, store):
    bag = fleet.scan(store, client=client, duplicates=True)
    assert bag.npartitions == 8
    assert sorted(bag.compute()) == sorted(fleet.scan(store, duplicates=True))
    assert bag.pluck(fleet.ImageRecord._fields.index("status")).frequencies().compute() in ([(0, 6), (1, 2)],
                                                                                            [(1, 2), (0, 6)])


def test_an_empty_store(client, tmp_path):
    assert list(fleet.iterate([], fleet.Settings(), client=client)) == []


def test_a_worker_killed_in_the_middle(client):
    """Each image is accounted for once."""
    done = workers.on_cluster(fleet_works.slow, range(30), client)
    found = [next(done), next(done)]
    os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
    found.extend(done)
    assert sorted(found) == [(number, 2 * number) for number in range(30)]


def test_killers(client):
    """What ends workers again and again gets no result; the others get theirs."""
    done = list(workers.on_cluster(fleet_works.kill_odd, range(4), client))
    assert Counter(number for number, _ in done) == Counter(range(4))
    assert dict(done) == {0: 0, 1: None, 2: 4, 3: None}


def test_no_cluster(store, capsys, monkeypatch):
    import dask
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        assert cli.main(["scan", "--dask", "tcp://127.0.0.1:1", str(store)]) == 2
    assert "127.0.0.1:1" in capsys.readouterr().err

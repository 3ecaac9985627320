"""A migration between two processes, and the guest that is migrated."""
import json
import re
import subprocess
import sys

import pytest

from xstream import Guest, HookError, SimulatedGuest, save
from xstream.cli import main

SEND = [sys.executable, "-m", "xstream", "simulate", "send"]
RECEIVE = [sys.executable, "-m", "xstream", "simulate", "receive"]


@pytest.mark.parametrize("guest", ["hvm", "pv"])
def test_over_tcp(guest):
    with subprocess.Popen(RECEIVE + ["127.0.0.1:0", "--json", "--guest", guest], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as receiver:
        address = receiver.stderr.readline().decode().split()[-1]
        said = subprocess.check_output(SEND + [address, "--guest", guest, "--memory", "20M"]).decode()
        received = json.loads(receiver.communicate()[0].decode())
    assert receiver.returncode == 0
    assert "round 0, live" in said and "final" in said
    assert said.split()[-1] == received["contents"]
    assert received["bytes"] == int(re.search("sent ([0-9]+) bytes", said).group(1))


def test_over_a_pipe():
    with subprocess.Popen(SEND + ["-", "--memory", "8M", "--verify", "--json"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as sender:
        said = subprocess.check_output(RECEIVE + ["-"], stdin=sender.stdout).decode()
        sender.stdout.close()
        report = json.loads(sender.stderr.read().decode())
    assert said.split()[-1] == report["contents"]
    assert [last["phase"] for last in report["rounds"]][-1] == "verify"
    assert "differ" not in said


@pytest.mark.parametrize("arguments", [["send", "nowhere"], ["send", "127.0.0.1:99999"], ["receive", "x"]])
def test_no_address(arguments, capsys):
    assert main(["simulate"] + arguments) == 2
    assert "HOST:PORT" in capsys.readouterr().err


def test_nobody_listens():
    assert main(["simulate", "send", "127.0.0.1:1", "--memory", "1M"]) == 2


def test_a_stream_of_another_kind(tmp_path):
    with (tmp_path / "stream").open("wb") as file:
        save(SimulatedGuest("hvm", 100), file)
    with (tmp_path / "stream").open("rb") as file:
        outcome = subprocess.run(RECEIVE + ["-", "--guest", "pv"], stdin=file, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE)
    assert outcome.returncode == 2 and b"HVM" in outcome.stderr


def test_contents_tell_pages_apart():
    guest = SimulatedGuest(pages=500, holes=0)
    pages = {bytes(pages[at:at + 4096]) for _, pages in guest.contents() for at in range(0, len(pages), 4096)}
    assert len(pages) == 500
    assert guest.digest() == SimulatedGuest(pages=500, holes=0).digest()
    assert guest.digest() != SimulatedGuest(pages=500, holes=0, seed=1).digest()


def test_a_sparse_guest_takes_no_memory_for_what_it_does_not_use():
    guest = SimulatedGuest(pages=1 << 20, used=0.001, holes=0)
    assert len(guest.memory) == 1 << 20
    assert bytes(guest.memory.buffer[-4096:]) == bytes(4096)


@pytest.mark.parametrize("options", [
    {"kind": "arm"}, {"pattern": "none"}, {"p2m": "list"}, {"width": 2}, {"kind": "pv", "pages": 10}])
def test_guests_that_cannot_be(options):
    with pytest.raises(ValueError):
        SimulatedGuest(**options)


def test_a_backend_that_lacks_a_hook(tmp_path):
    with (tmp_path / "stream").open("wb") as file, pytest.raises(HookError) as caught:
        save(Guest(), file)
    assert caught.value.hook == "pfn_end"
    assert isinstance(caught.value.__cause__, NotImplementedError)

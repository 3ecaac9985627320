"""The programs in examples/ do what they say."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import genuine_streams
import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
if not EXAMPLES.is_dir():
    pytest.skip("the examples are in a checkout only", allow_module_level=True)


def start(name, *arguments):
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    return subprocess.Popen([sys.executable, str(EXAMPLES / name)] + [str(argument) for argument in arguments],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, env=environment)


def run(name, *arguments):
    """(exit status, stdout, stderr) of an example."""
    process = start(name, *arguments)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


@pytest.fixture
def guest(tmp_path):
    """A genuine save file of a Linux guest."""
    return genuine_streams.unpack("few", "pv64-few.xl.xz", tmp_path).path


def test_every_example_is_listed():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all("]({})".format(path.name) in text for path in EXAMPLES.glob("*.py"))


def test_migrate():
    receiver = start("migrate.py", "receive", "127.0.0.1:0")
    try:
        port = re.match(r"listening on port (\d+)", receiver.stdout.readline()).group(1)
        status, output, errors = run("migrate.py", "send", "127.0.0.1:" + port)
        received, complaints = receiver.communicate(timeout=60)
    finally:
        receiver.kill()
        receiver.wait()
    assert (status, errors, receiver.returncode, complaints) == (0, "", 0, "")
    contents = re.compile(r"contents ([0-9a-f]{8})")
    assert contents.search(output).group(1) == contents.search(received).group(1)
    assert "round 1: " in output


def test_backup(tmp_path, guest):
    store, cut = tmp_path / "store", tmp_path / "cut.xl"
    cut.write_bytes(guest.read_bytes()[:1 << 20])
    status, output, errors = run("backup.py", store, guest, cut)
    assert (status, output.splitlines()) == (1, ["{}: 24576 pages".format(guest)])
    assert "cut.xl: not backed up" in errors
    manifest = json.loads((store / "manifest.json").read_text())
    assert list(manifest) == [guest.name] and manifest[guest.name]["pages"] == 24576
    assert run("backup.py", "--check", store) == (0, "pv64-few.xl: unchanged\n", "")
    copy = store / guest.name
    data = bytearray(copy.read_bytes())
    data[50 << 20] ^= 1
    copy.write_bytes(data)
    assert run("backup.py", "--check", store) == (1, "pv64-few.xl: DAMAGED\n", "")


def test_read_memory(guest):
    status, output, errors = run("read_memory.py", guest)
    assert (status, errors) == (0, "")
    assert "(PFN 0x2000): Linux version 6.1.0" in output
    assert run("read_memory.py", guest, "--text", "no such text in it")[:2] == (1, "")

"""On a host without numpy and tqdm: every command works, arrays are what it lacks."""
import json
import subprocess
import sys

import pytest
import samples

#: An interpreter that has neither, whatever is installed.
BARE = """import sys
sys.modules["numpy"] = sys.modules["tqdm"] = None
"""
COMMAND_LINE = BARE + "from xstream.cli import main; sys.exit(main(sys.argv[1:]))"


def bare(script, *arguments, stdin=b""):
    """Run a script on a bare host: exit status, stdout, stderr."""
    ran = subprocess.Popen([sys.executable, "-c", script] + list(arguments), stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = ran.communicate(stdin)
    return ran.returncode, out, err.decode()


@pytest.mark.parametrize("command", ["info", "verify", "digest"])
@pytest.mark.parametrize("guest", [samples.hvm, samples.pv])
def test_commands(command, guest):
    status, out, err = bare(COMMAND_LINE, command, "-", "--json", stdin=guest())
    assert (status, err) == (0, "")
    assert json.loads(out.decode())["format"] == "libxc" if command != "digest" else out


def test_extract(tmp_path):
    out = tmp_path / "image"
    assert bare(COMMAND_LINE, "extract", "-", str(out), stdin=samples.hvm()) == (0, b"", "")
    assert out.stat().st_size


#: A terminal on which the bar appears at once.
TERMINAL = """
import sys
sys.stderr.isatty = lambda: True
from xstream import cli
cli._Progress.DELAY = 0
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_terminal_without_tqdm():
    """No bar is drawn, and nothing else is different."""
    status, out, err = bare(BARE + TERMINAL, "verify", "-", stdin=samples.hvm())
    assert (status, err) == (0, "") and out.startswith(b"ok")


def test_a_terminal_with_tqdm():
    pytest.importorskip("tqdm")
    status, out, err = bare(TERMINAL, "verify", "-", stdin=samples.hvm())
    assert status == 0 and out.startswith(b"ok") and "B/s" in err


def test_arrays_say_what_they_need():
    status, _, err = bare(BARE + "import xstream; xstream.GuestMemory().pages")
    assert status == 1 and "numpy" in err


def test_a_command_says_what_it_needs():
    script = BARE + """
import xstream.cli as cli
def needs_numpy(options):
    import numpy
cli._COMMANDS["info"] = needs_numpy
sys.exit(cli.main(sys.argv[1:]))"""
    status, out, err = bare(script, "info", "-", stdin=samples.hvm())
    assert (status, out) == (2, b"") and err == "xstream: numpy is needed for this, and not installed\n"


def test_the_benchmarks_say_what_they_need():
    status, _, err = bare(BARE + "import runpy; runpy.run_module('xstream.bench', run_name='__main__')")
    assert (status, err) == (2, "xstream.bench: this needs numpy, which isn't installed here\n")

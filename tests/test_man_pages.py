"""The man page and the completions that are drawn from the argument parser."""
import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xstream import arguments, cli, parser
from xstream.containers.opening import FORMATS
from xstream.version import __version__

RELEASE = Path(__file__).resolve().parent.parent / "release"
if not RELEASE.is_dir():
    pytest.skip("not a checkout", allow_module_level=True)
sys.path.insert(0, str(RELEASE))
import pages  # noqa: E402


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for place, paths in pages.write(folder):
        assert place.startswith("share/")
        assert [Path(path).parent for path in paths] == [folder]
    return folder


def everything(parser):
    """Every command's name and every option, however deep."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield name
                yield from everything(child)
        else:
            yield from action.option_strings


@pytest.mark.parametrize("page", ["xstream.1", "xstream", "_xstream", "xstream.fish"])
def test_nothing_is_left_out(drawn, page):
    text = (drawn / page).read_text(encoding="utf-8").replace("\\-", "-")
    ways = {"xstream.fish": lambda name: "-l " + name[2:] if name.startswith("--") else
            "-s " + name[1:] if name.startswith("-") else name}
    left_out = [name for name in everything(arguments.argument_parser()) if name not in ("-h", "--help", "--version")
                and ways.get(page, str)(name) not in text]
    assert left_out == []
    assert "%(" not in text


def test_every_command_has_examples(drawn):
    text = (drawn / "xstream.1").read_text(encoding="utf-8").replace("\\-", "-")
    for command in pages.commands(arguments.argument_parser()):
        lines = command.examples.splitlines()
        assert 2 <= len(lines) <= 4 and all(line in text for line in lines)
        assert all(" ".join(("xstream",) + command.words) in line for line in lines)
    assert text.count(".EX") == text.count(".EE") > 7


def test_format_has_every_format():
    """The parser has a list of its own, so that it need not load the readers."""
    assert sorted(arguments._FORMATS) == sorted(FORMATS)


def test_help_ends_with_the_examples(capsys):
    for words in (["verify"], ["simulate", "send"]):
        with pytest.raises(SystemExit):
            cli.main(words + ["--help"])
        out = capsys.readouterr().out
        assert "\n\nexamples:\n  xstream " + " ".join(words) in out


def test_help_fits_a_terminal(monkeypatch):
    monkeypatch.setattr(parser, "terminal_width", lambda: 80)
    whole = arguments.argument_parser()
    parsers = [whole] + list(pages._below(whole).choices.values())
    assert len(parsers) > 7
    for one in parsers:
        assert max(map(len, one.format_help().splitlines())) <= 80


def test_the_man_page_names_version_and_status(drawn):
    text = (drawn / "xstream.1").read_text(encoding="utf-8")
    assert "xstream " + __version__ in text and ".SH EXIT STATUS" in text


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff")
def test_the_man_page_has_no_faults(drawn):
    ran = subprocess.Popen(["groff", "-man", "-ww", "-Tascii", "-z", str(drawn / "xstream.1")], stderr=subprocess.PIPE)
    assert (ran.communicate()[1], ran.returncode) == (b"", 0)


def completed(drawn, *words):
    """What bash offers for the last of the words; none of them means that it goes on to file names."""
    script = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _xstream; echo "${COMPREPLY[@]}"'
    out = subprocess.check_output(["bash", "-c", script, "bash", str(drawn / "xstream"), "xstream"] + list(words))
    return out.decode().split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash(drawn):
    assert completed(drawn, "ver") == ["verify"]
    assert completed(drawn, "--v") == ["--version"]
    assert completed(drawn, "verify", "--st") == ["--strict"]
    assert completed(drawn, "verify", "--strict", "--js") == ["--json"]
    assert completed(drawn, "verify", "") == [], "files"
    assert completed(drawn, "simulate", "") == ["send", "receive"]
    assert completed(drawn, "simulate", "send", "--guest", "") == ["hvm", "pv"]
    assert completed(drawn, "simulate", "send", "--gu") == ["--guest"]
    assert completed(drawn, "extract", "--limit", "") == [], "no options where a value belongs"


@pytest.mark.parametrize("shell, page", [("zsh", "_xstream"), ("fish", "xstream.fish")])
def test_other_shells_can_read_theirs(drawn, shell, page):
    if shutil.which(shell) is None:
        pytest.skip("no " + shell)
    assert subprocess.call([shell, "-n", str(drawn / page)]) == 0

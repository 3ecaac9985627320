"""Command lines that are parsed without argparse have the values that argparse finds."""
import pytest

from xstream import arguments

#: Spelt out: the quick parser takes them.
CLEAR = ["info a", "info --json a b -", "verify a", "verify --strict --checkpointed -q a", "verify --quiet - a",
         "verify --format xl --width 64 --guest hvm --limit 4G --json a", "extract a b", "extract -f a -",
         "extract --to elf -j 3 a b", "extract --pfns 0x10-0x20 --salvage --no-sparse a b", "digest --pages a b",
         "diff a b", "diff --json a b", "map --against c a b", "policy a", "policy a b", "policy --json a",
         "scan --digest --csv t.csv a b", "scan --jobs 4 --limit 1T a", "convert a b --to libxc", "convert a b",
         "convert --compress zstd:1 --config c --device-model d -f a b", "save --live guest out", "save 12 -"]
#: Left to argparse.
UNCLEAR = ["verify --form xl a", "info --records a", "verify --limit=4G a", "verify -jq a", "verify a --json b",
           "info --record 2 a", "verify -- -a", "extract -j4 a b", "convert a --to xl b", "simulate send -", "verify",
           "verify a --limit",
           "verify --limit x a", "verify --format xx a", "extract a", "extract a b c", "policy a b c", "verify --help",
           "verify --limit --json a", "digest -j 5000 a", "info --records --record 2 a", "nothing a", "", "--version"]


def by_argparse(words):
    options = arguments.Options()
    arguments.argument_parser(words[0] if words else None).parse_args(words, options)
    return vars(options)


def outcome(parse, words, capsys):
    """The values, or the exit status and what was printed."""
    try:
        return parse(words)
    except SystemExit as end:
        return end.code, capsys.readouterr()


@pytest.mark.parametrize("line", CLEAR + UNCLEAR)
def test_values_are_those_of_argparse(line, capsys):
    words = line.split()
    found = outcome(lambda words: vars(arguments.parse_arguments(words)), words, capsys)
    assert found == outcome(by_argparse, words, capsys)


@pytest.mark.parametrize("line", CLEAR)
def test_clear_lines_need_no_argparse(line):
    words = line.split()
    assert dict(arguments._parsed_quickly(words), command=words[0]) == by_argparse(words)


@pytest.mark.parametrize("line", UNCLEAR)
def test_others_are_left_to_it(line):
    with pytest.raises(arguments._Unclear):
        arguments._parsed_quickly(line.split())

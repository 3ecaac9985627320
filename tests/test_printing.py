"""Printing, as far as test_cli.py doesn't cover it."""
import pytest

from xstream import printing
from xstream.printing import human_size, print_table, print_tree


def printed(capsys, fields, indent=""):
    print_tree(fields, indent)
    return capsys.readouterr().out.split("\n")[:-1]


def test_many_numbers_stand_several_in_a_line(capsys):
    registers = {"r{}".format(number): number << 4 for number in range(20)}
    lines = printed(capsys, registers, "  ")
    assert len(lines) < 5 and max(map(len, lines)) <= 100
    assert lines[0].startswith("  r0 0x0 ") and lines[-1].endswith("r19 0x130")


def test_few_numbers_stand_one_in_a_line(capsys):
    fields = {"mode": 0, "khz": 2300000, "on": True}
    assert printed(capsys, fields) == ["mode: 0", "khz: 2300000 (0x231860)", "on: True"]


def test_text_of_many_lines_is_shown_as_it_is(capsys):
    assert printed(capsys, {"config": "name = 'x'\nmemory = 1\x1b"}) == ["config", "  name = 'x'", "  memory = 1\\x1b"]


FEATURES = {"features": ["FEATURE{}".format(number) for number in range(30)]}


def test_many_words_are_one_line_in_a_pipe(capsys):
    assert len(printed(capsys, FEATURES, "  ")) == 1


@pytest.mark.parametrize("width", [20, 40, 80, 133])
def test_no_line_is_wider_than_the_terminal(capsys, monkeypatch, width):
    monkeypatch.setattr(printing, "terminal_width", lambda: width)
    tree = dict(FEATURES, long="x" * 300, deep={"deeper": {"registers": {"r{}".format(at): at for at in range(40)}}},
                items=[{"name": "a" * 50, "fields": {"b": 2}}])
    lines = printed(capsys, tree)
    assert max(map(len, lines)) <= width
    assert "".join("".join(lines).split()) .count("x") >= 300
    for rows in ([["leaf", "features"], ["0x1", " ".join(FEATURES["features"])]], [["a" * 30] * 9, ["b" * 30] * 9]):
        print_table(rows)
        out = capsys.readouterr().out
        assert max(map(len, out.split("\n"))) <= width
        assert out.split()[2:] == rows[1][:1] + FEATURES["features"] or "bbb" in out


def test_sizes():
    assert [human_size(size) for size in (0, 1023, 1024, 1 << 20, 3 << 39)] == [
        "0 bytes", "1023 bytes", "1024 bytes (1.0 KiB)", "1048576 bytes (1.0 MiB)", "1649267441664 bytes (1.5 TiB)"]


def test_what_is_deeper_stands_below(capsys):
    fields = {"outer": {"inner": 1, "empty": {}}, "none": [],
              "items": [{"name": "a", "fields": {"b": 2}}, {"name": "c"}]}
    assert printed(capsys, fields) == [
        "outer", "  inner: 1", "none: none", "items", "  name a", "    fields", "      b: 2", "  name c"]


def test_a_table_of_nothing_but_headings(capsys):
    print_table([["a", "b"]])
    assert capsys.readouterr().out == "\na  b\n"

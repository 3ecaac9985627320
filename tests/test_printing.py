"""What is printed, where it isn't seen on the command line's own tests."""
from xstream.printing import print_table, print_tree


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


def test_many_words_go_on_below(capsys):
    lines = printed(capsys, {"features": ["FEATURE{}".format(number) for number in range(30)]}, "  ")
    assert len(lines) > 2 and max(map(len, lines)) <= 100 and all(line.startswith("    ") for line in lines[1:])


def test_what_is_deeper_stands_below(capsys):
    fields = {"outer": {"inner": 1, "empty": {}}, "none": [],
              "items": [{"name": "a", "fields": {"b": 2}}, {"name": "c"}]}
    assert printed(capsys, fields) == [
        "outer", "  inner: 1", "none: none", "items", "  name a", "    fields", "      b: 2", "  name c"]


def test_a_table_of_nothing_but_headings(capsys):
    print_table([["a", "b"]])
    assert capsys.readouterr().out == "\na  b\n"

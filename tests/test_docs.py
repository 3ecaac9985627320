"""Every example of the README and the documentation runs, word for word, and links within the repository hold.

The fenced blocks of a page run in order, in an empty folder in which ``tests`` and ``examples`` are those of the
checkout:

- ``python`` blocks share their variables; so do the readers of the page;
- ``sh`` blocks are scripts of bash, which ends at the first command that fails;
- ``console`` blocks show commands after ``$`` and what they print; ``...`` stands for any text, as in doctest;
- ``text`` blocks, and those that Sphinx or Mermaid draw, aren't run.
"""
import doctest
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Iterator, List, NamedTuple, Tuple

import pytest

from xstream.wire import libxc

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "docs" / "conf.py").exists():
    pytest.skip("the documentation is in a checkout only", allow_module_level=True)

PAGES = sorted(path.relative_to(ROOT).as_posix() for folder in (".", "docs") for path in
               ((ROOT / folder).glob("*.md") if folder == "." else (ROOT / folder).rglob("*.md")))
RUN, NOT_RUN = ("python", "sh", "console"), ("text", "mermaid")
FENCE = re.compile(r"^( *)(```+)([^\n`]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FORMATS = {"8": "B", "32": "I", "64": "Q"}
#: Longer than any example needs.
TIMEOUT = 120


class Block(NamedTuple):
    line: int
    language: str
    text: str


def blocks(page: str) -> Iterator[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        yield Block(text.count("\n", 0, found.start()) + 1, found.group(3).strip(), found.group(4))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder for a page's examples; ``xstream`` and ``python`` there are those that run the tests."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, words in (("xstream", "-m xstream"), ("python", ""), ("python3", "")):
        program = programs / name
        program.write_text('#!/bin/sh\nexec "{}" {} "$@"\n'.format(sys.executable, words), encoding="utf-8")
        program.chmod(0o755)
    page = tmp_path / "page"
    page.mkdir()
    for name in ("tests", "examples"):
        if (ROOT / name).exists():
            (page / name).symlink_to(ROOT / name)
    monkeypatch.setenv("PATH", "{}:{}".format(programs, os.environ["PATH"]))
    monkeypatch.setenv("PYTHONPATH", "{}:{}".format(ROOT, os.environ.get("PYTHONPATH", "")).rstrip(":"))
    monkeypatch.chdir(page)
    return page


def run(script: str) -> Tuple[int, str]:
    """Run a script of bash; returns its exit status and what it prints."""
    process = subprocess.Popen(["bash", "-euo", "pipefail", "-c", script], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        output = process.communicate(timeout=TIMEOUT)[0].decode("utf-8")
    finally:
        process.kill()
        process.wait()
    return process.returncode, output


def console(block: Block, where: str) -> None:
    """Each command prints what is shown. Commands may fail: show the exit status with ``echo $?``."""
    for shown in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        lines = shown.splitlines(True)
        count = 1 + next((i for i, line in enumerate(lines[1:]) if not line.startswith("> ")), len(lines) - 1)
        command = "".join([lines[0]] + [line[2:] for line in lines[1:count]])
        wanted, (_, got) = "".join(lines[count:]), run("set +e\n" + command)
        assert doctest.OutputChecker().check_output(wanted, got, FLAGS), \
            "{}: $ {}prints\n{}and not\n{}".format(where, command, got, wanted)


@pytest.mark.parametrize("page", PAGES)
def test_languages(page):
    """A block that isn't run says so by its language."""
    unknown = [block for block in blocks(page) if block.language not in RUN + NOT_RUN
               and not block.language.startswith("{")]
    assert unknown == []


@pytest.mark.parametrize("page", PAGES)
def test_no_example_escapes_the_tests(page):
    """A block of code that is only indented isn't recognised above, and wouldn't be run."""
    text = FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    assert re.findall(r"\n\n(?: {4}|\t).*", text) == []


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.language in RUN for block in blocks(page))])
def test_examples(page, folder):
    variables = {"__name__": "__main__"}
    if sys.version_info < (3, 7) and any("asyncio.run" in block.text for block in blocks(page)):
        pytest.skip("not applicable: asyncio.run came with Python 3.7")
    for block in blocks(page):
        where = "{}, line {}".format(page, block.line)
        if block.language == "python":
            # The first line of the compiled text is the one after the fence.
            exec(compile("\n" * block.line + block.text, str(ROOT / page), "exec"), variables)
        elif block.language == "sh":
            status, output = run(block.text)
            assert status == 0, "{}: exit status {}\n{}".format(where, status, output)
        elif block.language == "console":
            console(block, where)


def links(page: str) -> List[str]:
    text = FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    return [link for link in LINK.findall(text) if not re.match(r"\w+:", link)]


@pytest.mark.parametrize("page", PAGES)
def test_links(page):
    missing = [link for link in links(page) if link.partition("#")[0]
               and not (ROOT / page).parent.joinpath(link.partition("#")[0]).exists()]
    assert missing == []


def layouts() -> Iterator[Tuple[str, List[Tuple[str, str]]]]:
    """Name of each record that begins with numbers, and (field, format) of these, as the page says."""
    text = (ROOT / "docs" / "reference" / "records.md").read_text(encoding="utf-8")
    classes = dict(libxc.RECORDS.values())
    for names, body in re.findall(r"^\| ([A-Z][^|]*) \| ([^|]*) \|$", text.partition("### Layouts")[2], re.MULTILINE):
        first = names.split(", ")[0]
        for name in names.split(", "):
            name = first.rpartition("_")[0] + name if name.startswith("_") else name
            known = ("count",) + classes[name]._fields if name in classes else ()
            fields = [(field, FORMATS[bits]) for field, bits in re.findall(r"\b(\w+) u(8|32|64)\b", body)
                      if field in known]
            if fields:
                yield name, fields


@pytest.mark.parametrize("name, fields", list(layouts()))
def test_layouts_on_the_page_are_those_of_the_code(name, fields):
    record_type = next(number for number, (known, _) in libxc.RECORDS.items() if known == name)
    special = {"guest_width": 8, "pt_levels": 4, "count": 1}
    values = {field: special.get(field, number + 5) for number, (field, _) in enumerate(fields)}
    body = b"".join(struct.pack("<" + form, values[field]) for field, form in fields)
    rest = {"X86_TSC_INFO": 0, "X86_PV_VCPU_BASIC": libxc.VCPU_BASIC_SIZES[8]}.get(name, 16)
    record = libxc.parse(record_type, body + bytes(-len(body) % 8 + rest))
    assert {field: getattr(record, field) for field in values if field != "count"} == {
        field: value for field, value in values.items() if field != "count"}

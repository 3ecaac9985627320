"""``xstream extract`` in the formats of analysis tools."""
import json

import samples
from memory_images import Core, lime_memory
from samples import batch, page, word

from xstream.cli import main

STREAM = samples.hvm(memory=batch([word(1), word(2), word(5)], [page(1), page(2), page(5)]))


def test_formats(tmp_path, capsys):
    (tmp_path / "in").write_bytes(STREAM)
    source, out = str(tmp_path / "in"), str(tmp_path / "out")
    assert main(["extract", "--to", "elf", "--json", source, out]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "elf"
    assert sorted(Core((tmp_path / "out").read_bytes()).memory) == [1, 2, 5]
    assert main(["extract", "--force", "--to", "lime", "--pfns", "0x2-5", source, out]) == 0
    assert lime_memory((tmp_path / "out").read_bytes()) == {2: page(2), 5: page(5)}
    assert main(["extract", "--force", "--pfns", "2", source, out]) == 0
    assert (tmp_path / "out").read_bytes() == page(2)


def test_use(tmp_path, capsys):
    (tmp_path / "in").write_bytes(STREAM)
    source, out = str(tmp_path / "in"), str(tmp_path / "out")
    assert main(["extract", "--salvage", "--to", "elf", source, out]) == 2
    assert "--salvage" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

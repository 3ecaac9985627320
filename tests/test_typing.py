"""The program that mypy checks (tests/typing): it uses every public name, without cast or Any, and runs."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

import xstream

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "tests" / "typing" / "public_api.py"
sys.path.insert(0, str(PROGRAM.parent))


def test_every_public_name_is_used():
    tree = ast.parse(PROGRAM.read_text(encoding="utf-8"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name) and node.value.id == "xstream"}
    assert used == set(xstream.__all__)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not names & {"Any", "cast"}
    assert "type: ignore" not in PROGRAM.read_text(encoding="utf-8")


def test_it_runs(tmp_path):
    import public_api
    found = public_api.main(tmp_path)
    assert found["records"] > 3 and found["populated"] == found["pages"] > 0


def test_mypy_accepts_it():
    pytest.importorskip("mypy")
    # The package has a comment that only older Pythons need, so it is unused on this one.
    command = [sys.executable, "-m", "mypy", "--strict", "--no-warn-unused-ignores", str(PROGRAM)]
    ran = subprocess.run(command, cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert ran.returncode == 0, ran.stdout.decode()

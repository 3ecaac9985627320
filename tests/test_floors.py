"""Rules that are checked on the source: imports only point down, what ``import xstream`` may load, and the syntax of
Python 3.6."""
import ast
import builtins
import functools
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Iterator, NamedTuple, Set

import pytest

import xstream

PACKAGE = Path(xstream.__file__).resolve().parent

#: The layer of each module or subpackage directly under xstream; 0 is the lowest.
LAYERS = {
    "contexts": 0, "ending": 0, "errors": 0, "limits": 0, "tuples": 0, "version": 0,
    "kernels": 1,
    "wire": 2,
    "stream": 3,
    "containers": 4,
    "guest": 5,
    "tools": 6, "convert": 6, "aio": 6, "testing": 6,
    "xen": 7,
    "arguments": 8, "cli": 8, "parser": 8, "printing": 8, "bench": 8, "fleet": 8, "volatility": 8,
    "__init__": 9, "__main__": 9,
}

SOURCES = sorted(path for suffix in ("py", "pyi", "pyx", "pxd") for path in PACKAGE.rglob("*." + suffix))
PYTHON_SOURCES = [path for path in SOURCES if path.suffix == ".py"]

#: An import in Cython source, up to the end of its line; continuation lines only have names from the same module.
CYTHON_IMPORT = re.compile(r"""
    ^[ \t]*
    (?: from [ \t]+ (?P<origin>[\w.]+) [ \t]+ c?import [ \t]+ (?P<names>.+)
      | c?import [ \t]+ (?P<plain>.+) )$
    """, re.MULTILINE | re.VERBOSE)


class Import(NamedTuple):
    """The full name of an imported module, or of something imported from one."""

    line: int
    name: str


def absolute(package: str, module: str, level: int) -> str:
    """The full name of a module imported with ``level`` leading dots from within a package."""
    if level == 0:
        return module
    base = package.split(".")[:len(package.split(".")) - level + 1]
    return ".".join(base + ([module] if module else []))


def python_imports(source: str, package: str) -> Iterator[Import]:
    """All imports of Python source, including those in functions. Relative imports are relative to ``package``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield Import(node.lineno, absolute(package, node.module or "", node.level) + "." + alias.name)


def cython_imports(source: str, package: str) -> Iterator[Import]:
    """The same for Cython source, including cimports."""
    for found in CYTHON_IMPORT.finditer(source):
        line = source.count("\n", 0, found.start()) + 1
        if found.group("plain") is not None:
            for name in found.group("plain").split(","):
                yield Import(line, name.split()[0])
        else:
            module = found.group("origin").lstrip(".")
            origin = absolute(package, module, len(found.group("origin")) - len(module))
            for name in found.group("names").strip("()\\ ").split(","):
                if name.split():
                    yield Import(line, origin + "." + name.split()[0])


def imports(path: Path) -> Iterator[Import]:
    package = ".".join(("xstream",) + path.relative_to(PACKAGE).parent.parts)
    of = cython_imports if path.suffix in (".pyx", ".pxd") else python_imports
    return of(path.read_text(encoding="utf-8"), package)


def part(name: str) -> str:
    """The part of the package that an imported name belongs to; names of ``xstream`` itself belong to ``__init__``."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "__init__"


def upward(source: Path) -> Iterator[str]:
    """A complaint for each import of a source file that points up."""
    place = source.relative_to(PACKAGE)
    own = LAYERS[place.parts[0].split(".")[0]]
    for line, name in imports(source):
        if name.split(".")[0] == "xstream" and LAYERS[part(name)] > own:
            yield "{}:{} (layer {}) imports {} (layer {})".format(place, line, own, name, LAYERS[part(name)])


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("source", SOURCES, ids=named)
def test_every_module_has_a_layer(source):
    assert source.relative_to(PACKAGE).parts[0].split(".")[0] in LAYERS


@pytest.mark.parametrize("source", SOURCES, ids=named)
def test_imports_point_down(source):
    assert list(upward(source)) == []


@pytest.mark.parametrize("source", [path for path in SOURCES if path.parent.name == "kernels"], ids=named)
def test_kernels_know_no_record(source):
    """Kernels import nothing else of the package, not even errors and limits."""
    of_package = [name for _, name in imports(source) if name.split(".")[0] == "xstream"]
    assert [name for name in of_package if part(name) != "kernels"] == []


@pytest.mark.parametrize("module", ["xstream", "xstream.cli"])
def test_package_and_command_line_are_light(module):
    """Neither numpy nor tqdm is loaded before there are arrays or progress to show."""
    script = "import sys, {}; print(sorted({{'numpy', 'tqdm'}} & set(sys.modules)))".format(module)
    assert subprocess.check_output([sys.executable, "-c", script], universal_newlines=True).strip() == "[]"


@pytest.mark.parametrize("source", PYTHON_SOURCES, ids=named)
def test_syntax_is_that_of_python_3_6(source):
    text = source.read_text(encoding="utf-8")
    if sys.version_info >= (3, 8):
        ast.parse(text, str(source), feature_version=(3, 6))
    compile(text, str(source), "exec")


@pytest.mark.parametrize("source", PYTHON_SOURCES, ids=named)
def test_library_is_that_of_python_3_6(source):
    later: Set[str] = {"__future__.annotations", "dataclasses", "contextvars", "graphlib", "zoneinfo", "tomllib"}
    used = {name for _, name in imports(source)}
    assert {name for name in used if name in later or name.split(".")[0] in later} == set()


def test_python_imports_are_found():
    source = ("import os, xstream.wire.libxc as l\nfrom xstream import errors, open\n"
              "def f():\n    from . import memory\n    from ..wire import libxc\n"
              "    from .memory import (\n        A,\n        B)\n")
    assert sorted(python_imports(source, "xstream.guest")) == [
        (1, "os"), (1, "xstream.wire.libxc"), (2, "xstream.errors"), (2, "xstream.open"), (4, "xstream.guest.memory"),
        (5, "xstream.wire.libxc"), (6, "xstream.guest.memory.A"), (6, "xstream.guest.memory.B")]


def test_cython_imports_are_found():
    source = ("# cython: language_level=3\ncimport cython, xstream.kernels.pfns\n"
              "from libc.string cimport memcpy as m, memset\n"
              "from xstream.wire import libxc\nfrom . cimport cpu\nfrom ..errors cimport (A,\n    B)\n"
              'cdef extern from "cpu.h" nogil:\n    int f()\ndef g():\n    import os\n')
    assert list(cython_imports(source, "xstream.kernels")) == [
        (2, "cython"), (2, "xstream.kernels.pfns"), (3, "libc.string.memcpy"), (3, "libc.string.memset"),
        (4, "xstream.wire.libxc"), (5, "xstream.kernels.cpu"), (6, "xstream.errors.A"), (11, "os")]


@pytest.mark.parametrize("name, layer", [("xstream", 9), ("xstream.open", 9), ("xstream.errors.StreamError", 0),
                                         ("xstream.kernels.pfns", 1), ("xstream.cli", 8)])
def test_names_have_the_layer_of_their_part(name, layer):
    assert LAYERS[part(name)] == layer


def test_package_has_all_its_names():
    """What type checkers see is what the table in __init__.py has."""
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    checked = {alias.asname or alias.name: node.module + "." + alias.name
               for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    listed = ast.literal_eval(next(node.value for node in tree.body if isinstance(node, ast.Assign)))
    assert sorted(xstream.__all__) == sorted(checked) == sorted(listed), "run scripts/draw-stub"
    for name, home in checked.items():
        module, _, attribute = home.rpartition(".")
        assert getattr(xstream, name) is getattr(importlib.import_module(module), attribute)
    assert set(xstream.__all__) <= set(dir(xstream))
    with pytest.raises(AttributeError, match="nothing_such"):
        getattr(xstream, "nothing_" + "such")


def public_functions():
    """The public functions, and the public methods of public classes, by name."""
    for name in xstream.__all__:
        value = getattr(xstream, name)
        if inspect.isclass(value):
            for member, function in inspect.getmembers(value, inspect.isfunction):
                if not member.startswith("_") or member == "__init__":
                    yield "{}.{}".format(name, member), function
        elif callable(value):
            yield name, value


def test_every_argument_is_written_out():
    """No public function takes ``**options``, except methods that every NamedTuple has."""
    catch_all = [name for name, function in public_functions()
                 if function.__module__.startswith("xstream.")
                 and any(argument.kind is argument.VAR_KEYWORD
                         for argument in inspect.signature(function).parameters.values())]
    assert catch_all == []


class _Attributes:
    """A module of the package whose attributes include the names that it has for type checkers only."""

    def __init__(self, module):
        self._module = module.__name__

    def __getattr__(self, name):
        return names_of(self._module)[name]


class _Names(dict):
    """A module's names, with those that it imports or defines for type checkers only; for what can't be imported, and
    for classes that it defines for type checkers, ``object``."""

    def __init__(self, module):
        super().__init__(vars(module))
        self.update((name, _Attributes(value)) for name, value in vars(module).items()
                    if inspect.ismodule(value) and value.__name__.startswith("xstream."))
        self.imported, self.aliases = {}, {}
        for block in ast.parse(inspect.getsource(module)).body:
            if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING":
                for node in block.body:
                    if isinstance(node, (ast.Import, ast.ImportFrom)):
                        home = getattr(node, "module", None)
                        self.imported.update((each.asname or each.name, (home, each.name)) for each in node.names)
                    elif isinstance(node, ast.Assign):
                        self.aliases[node.targets[0].id] = ast.Expression(node.value)

    def __missing__(self, name):
        if name in self.aliases:
            try:
                return eval(compile(self.aliases[name], name, "eval"), {}, self)
            except TypeError:  # array.array has parameters from Python 3.12 on
                return object
        home, original = self.imported.get(name, (None, name))
        if home is None:
            found = getattr(builtins, original, None)
            return found or (importlib.import_module(original) if importlib.util.find_spec(original) else object)
        if home.startswith("xstream."):
            importlib.import_module(home)
            if (PACKAGE.parent / home.replace(".", "/")).is_dir():
                return _Attributes(importlib.import_module(home + "." + original))
            return names_of(home)[original]
        return getattr(importlib.import_module(home), original, object) if importlib.util.find_spec(home) else object


@functools.lru_cache(maxsize=None)
def names_of(module):
    return _Names(sys.modules[module])


def named_types(annotation):
    """The classes of the package in an annotation, however deep."""
    if inspect.isclass(annotation) and annotation.__module__.startswith("xstream."):
        yield annotation
    for argument in getattr(annotation, "__args__", None) or ():
        for item in argument if isinstance(argument, (list, tuple)) else (argument,):
            yield from named_types(item)


def annotated(value):
    """What has annotations of a public function or class: its functions, and the class itself for its fields."""
    if not inspect.isclass(value):
        yield inspect.unwrap(value)
        return
    for base in value.__mro__:
        if base.__module__.startswith("xstream."):
            yield base
            for key, member in vars(base).items():
                if not key.startswith("_") or (key == "__init__" and not base.__name__.startswith("_")):
                    yield inspect.unwrap(getattr(member, "fget", None) or getattr(member, "__func__", None) or member)


def types_of(value):
    for owner in annotated(value):
        if inspect.isfunction(owner) or inspect.isclass(owner):
            fields = {name: hint for name, hint in getattr(owner, "__annotations__", {}).items()
                      if not name.startswith("_")}
            carrier = type("Carrier", (), {"__annotations__": fields, "__module__": owner.__module__})
            for hint in typing.get_type_hints(carrier, localns=names_of(owner.__module__)).values():
                yield from named_types(hint)


@pytest.mark.skipif(sys.version_info < (3, 9), reason="not applicable: typing can't evaluate these")
def test_types_of_public_functions_are_public_or_documented():
    """A user who annotates a variable finds the name of every type that public functions take or return: in
    ``xstream``, among the records of ``xstream.wire``, or on the page of the API."""
    page = PACKAGE.parent / "docs" / "reference" / "api.md"
    if not page.exists():
        pytest.skip("not applicable: no documentation here")
    listed = set(re.findall("^.. autoclass:: (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE))
    public = {getattr(xstream, name) for name in xstream.__all__ if inspect.isclass(getattr(xstream, name))}
    wire = {"xstream.wire." + layer for layer in ("libxl", "xl", "libvirt", "xenopsd", "xend", "colo", "legacy")}
    left, seen, hidden = [getattr(xstream, name) for name in xstream.__all__], set(), set()
    while left:
        value = left.pop()
        if not callable(value) or value in seen:
            continue
        seen.add(value)
        for found in types_of(value):
            left.append(found)
            if found not in public and found.__module__ not in wire:
                hidden.add("{}.{}".format(found.__module__, found.__name__))
    assert hidden == listed


def test_package_loads_what_is_used():
    """``info`` doesn't load the engines."""
    script = "import sys, xstream, xstream.tools.info; print('xstream.guest.save' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], universal_newlines=True).strip() == "False"

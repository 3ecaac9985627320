"""The parts of the reference that are drawn from the code: a line ``<!-- generated: NAME -->`` on a page is replaced by
Markdown that is made here, so that a page can't say what the code doesn't.
"""
import argparse
import inspect
import re
from importlib import import_module, util
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pages
from sphinx.application import Sphinx
from sphinx.ext.autodoc import Options
from sphinx.pycode import ModuleAnalyzer

import xstream
from xstream import arguments
from xstream.bench.__main__ import _parser as bench_parser
from xstream.wire import colo, hvm_context, hvm_params, legacy, libvirt, libxc, libxl, xend, xenopsd, xl

#: Sections of the API page: title, the modules whose public names it lists, and what it says first.
SECTIONS: Tuple[Tuple[str, Tuple[str, ...], str], ...] = (
    ("Reading", ("containers.opening", "containers.reader", "containers.layers", "stream.reader",
                 "stream.legacy_reader", "stream.source", "stream.records", "wire.pending"),
     "{func}`xstream.open` recognises the input and returns the right reader."),
    ("Records", ("wire.libxc",),
     "Records of a libxc stream are immutable tuples. [](records.md) shows how they look in the stream."),
    ("Writing", ("stream.writer", "stream.legacy_writer", "stream.sink", "stream.output", "containers.writers"),
     "Each writer refuses to write a stream that the reader would refuse."),
    ("Sources and sinks", ("stream.types",), "What functions read from and write to, as their annotations name it."),
    ("Guest memory", ("guest.memory", "guest.load"), ""),
    ("Inspecting and checking", ("tools",), "Each function returns a report and prints nothing."),
    ("Converting", ("convert",), ""),
    ("Saving and restoring guests", ("guest", "xen"), "[](../backends.md) explains how these work together."),
    ("Limits", ("limits",), "Every cap on untrusted input is a field of `Limits`."),
    ("Errors", ("errors",), "Every error about a stream is a `StreamError`, with the place where it was found."),
)
#: Modules whose records are public.
WIRE = (libxl, xl, libvirt, xenopsd, xend, colo, legacy)
#: Modules that are public as a whole, with the name of their section.
MODULES = (("Event loops: xstream.aio", "xstream.aio"), ("Stores of images: xstream.fleet", "xstream.fleet"),
           ("Testing a backend: xstream.testing", "xstream.testing"))


def api() -> Iterator[str]:
    left = [name for name in xstream.__all__ if not name.startswith("_")]
    for title, modules, text in SECTIONS:
        homes = {name: _home(name) for name in left}
        names = [name for name in left if any((homes[name] + ".").startswith(module + ".") for module in modules)]
        left = [name for name in left if name not in names]
        yield from ("## " + title, "", text, "", "```{eval-rst}")
        for name in sorted(names, key=lambda name: (inspect.isclass(getattr(xstream, name)), name.lower())):
            yield from _documented(name)
        yield from ("```", "")
    yield from ("## Records of containers and legacy streams", "")
    for module in WIRE:
        yield from ("### xstream.wire." + module.LAYER, "", "```{eval-rst}")
        for record in vars(module).values():
            if inspect.isclass(record) and hasattr(record, "_fields") and record.__module__ == module.__name__ \
                    and not record.__name__.startswith("_"):
                yield from _documented_class(record, "{}.{}".format(module.__name__, record.__name__))
        yield from ("```", "")
    assert not left, "public names without a section in docs/_extensions/generated.py: {}".format(left)
    for title, module in MODULES:
        if util.find_spec(module):
            yield from ("## " + title, "", "```{eval-rst}", ".. automodule:: " + module, "")
            names = vars(import_module(module))
            for name in sorted(names.get("__all__") or _defined(module)):
                yield from _documented_member(names[name], module + "." + name)
            yield from ("```", "")


def _defined(module: str) -> List[str]:
    """The public names that a module itself defines."""
    return [name for name, value in vars(import_module(module)).items()
            if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module]


def _documented_member(value: Any, path: str) -> List[str]:
    return _documented_class(value, path) if inspect.isclass(value) else [".. autofunction:: " + path, ""]


def _home(name: str) -> str:
    """The module that defines a public name, within the package; of a name that isn't a class or function, that of its
    table in xstream/__init__.py."""
    value = getattr(xstream, name)
    module = getattr(value, "__module__", None)
    if not isinstance(module, str) or not module.startswith("xstream."):
        module = xstream._HOMES[name]
    return module[len("xstream."):]


def _documented(name: str) -> List[str]:
    value = getattr(xstream, name)
    if name in xstream._HOMES and not inspect.isclass(value) and not inspect.isroutine(value):
        return _documented_alias(name)
    if not inspect.isclass(value):
        return [".. auto{}:: xstream.{}".format("function" if callable(value) else "data", name), ""]
    return _documented_class(value, "xstream." + name)


def _documented_alias(name: str) -> List[str]:
    """A type alias with the comment before it."""
    comments = ModuleAnalyzer.for_module(xstream._HOMES[name]).find_attr_docs()
    return [".. data:: xstream." + name, ""] + ["   " + line for line in comments["", name]] + [""]


def _documented_class(value: type, path: str) -> List[str]:
    name = value.__name__
    lines = [".. autoclass:: " + path, "   :members:"]
    if issubclass(value, tuple):
        # The signature shows the fields; only those with a comment of their own are listed again.
        commented = ModuleAnalyzer.for_module(value.__module__).find_attr_docs()
        fields = [field for field in getattr(value, "_fields", ()) if (name, field) not in commented]
        lines += ["   :exclude-members: " + ", ".join(fields)] if fields else []
    elif not issubclass(value, Exception):
        lines.append("   :inherited-members:")
    return lines + [""]


def commands() -> Iterator[str]:
    return _commands("xstream", arguments.argument_parser())


def bench() -> Iterator[str]:
    return _commands("python -m xstream.bench", bench_parser())


def _commands(program: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    for command in pages.commands(parser):
        name = " ".join((program,) + command.words)
        anchor = "(command-{})=".format("-".join(command.words) or "bench")
        yield from (anchor, "## " + name, "", _prose(command.text), "", "```text", _usage(name, command), "```", "")
        yield from ("| argument | |", "|---|---|")
        for action in command.operands + command.options:
            if not isinstance(action, argparse._HelpAction):
                text = pages._help(action)
                if action.choices and not action.metavar:  # with a metavar, the help text lists them
                    text += ": one of " + ", ".join(map(str, action.choices))
                yield "| {} | {} |".format(_names(action), _cell(_prose(text)))
        yield ""
        examples = getattr(command, "examples", "")
        if examples:
            yield from ("```sh", examples.strip("\n"), "```", "")


def _usage(name: str, command: Any) -> str:
    words = [name, "[OPTION]..."] if command.options else [name]
    return " ".join(words + [pages._usage(action) for action in command.operands])


def _names(action: Any) -> str:
    value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
    return "`{}`".format(" ".join(filter(None, [", ".join(action.option_strings), value])))


def _prose(text: str) -> str:
    """Plain text as Markdown."""
    return re.sub(r"([*_<>`\[\]])", r"\\\1", text)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def exit_status() -> Iterator[str]:
    rows = re.findall(r"(\d): (.*?)\.(?= \d: |\s*$)", arguments.EXIT_STATUS, re.DOTALL)
    assert [status for status, _ in rows] == ["0", "1", "2", "3", "4"], arguments.EXIT_STATUS
    yield from ("| status | meaning |", "|---|---|")
    for status, meaning in rows:
        yield "| {} | {} |".format(status, _cell(_prose(meaning)))


def _first_sentence(value: Any) -> str:
    text = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    return re.sub(r":\w+:`~?\.?(?:[\w.]*\.)?(\w+)`", r"`\1`", text).replace("``", "`")


def _fields(record: Any) -> str:
    return ", ".join(field for field in record._fields if field != "padding") or "none"


def _class(record: Any) -> str:
    public = getattr(xstream, record.__name__, None) is record
    return "{{py:class}}`~xstream.{}`".format(record.__name__) if public else "`{}`".format(record.__name__)


def _records(table: Dict[int, Tuple[str, Any]]) -> Iterator[str]:
    yield from ("| type | name and class | fields | |", "|---|---|---|---|")
    for number, (name, record) in sorted(table.items()):
        text = re.sub("^{}: ?".format(re.escape(name)), "", _first_sentence(record))
        yield "| {:#04x} | {} {} | {} | {} |".format(number, name, _class(record), _cell(_prose(_fields(record))),
                                                     _cell(text[:1].upper() + text[1:]))


def libxc_records() -> Iterator[str]:
    return _records(libxc.RECORDS)


def libxl_records() -> Iterator[str]:
    return _records(libxl.RECORDS)


def xenopsd_records() -> Iterator[str]:
    yield from ("| type | name |", "|---|---|")
    for number, name in sorted(xenopsd.NAMES.items()):
        if number >= 0:
            yield "| {:#06x} | {} |".format(number, name)


def legacy_records() -> Iterator[str]:
    yield from ("| name and class | fields | |", "|---|---|---|")
    for record, name in legacy.NAMES.items():
        yield "| {} {} | {} | {} |".format(name, _class(record), _cell(_prose(_fields(record))),
                                           _cell(_first_sentence(record)))


def page_types() -> Iterator[str]:
    yield from ("| type | name |", "|---|---|")
    for number, name in enumerate(libxc.PAGE_TYPES):
        yield "| {:#x} | {} |".format(number, name)


def hvm_entries() -> Iterator[str]:
    """A table for each kind of entry whose layout is fixed."""
    yield from ("| typecode | name | bytes | fields: offset and name |", "|---|---|---|---|")
    for typecode, name in sorted(hvm_context.NAMES.items()):
        kind = hvm_context._KINDS.get(typecode)
        if kind is None:
            yield "| {} | {} | | |".format(typecode, name)
            continue
        layout = kind.layout
        shown = ["{:#x} {}".format(field.offset, _prose(field.name)) for field in layout._fields]
        yield "| {} | {} | {} | {} |".format(typecode, name, layout.size, ", ".join(shown) if len(shown) < 40 else
                                             "{} fields, see `xstream/wire/hvm_context.py`".format(len(shown)))


def parameters() -> Iterator[str]:
    yield from ("| index | name |", "|---|---|")
    for number, name in sorted(hvm_params.NAMES.items()):
        yield "| {} | {} |".format(number, name)


GENERATED: Dict[str, Callable[[], Iterator[str]]] = {
    "api": api, "bench": bench, "commands": commands, "exit-status": exit_status, "libxc-records": libxc_records,
    "libxl-records": libxl_records, "xenopsd-records": xenopsd_records, "legacy-records": legacy_records,
    "page-types": page_types, "hvm-entries": hvm_entries, "hvm-params": parameters,
}


def fill(app: Sphinx, name: str, source: List[str]) -> None:
    def made(found: Any) -> str:
        return "\n".join(GENERATED[found.group(1)]())
    source[0] = re.sub(r"<!-- generated: ([\w-]+) -->", made, source[0])


def shorten(app: Sphinx, kind: str, name: str, value: Any, options: Options, signature: Optional[str],
            returned: Optional[str]) -> Tuple[Optional[str], Optional[str]]:
    if inspect.isclass(value) and issubclass(value, xstream.StreamError) and "__init__" not in vars(value):
        return "", None     # that of StreamError
    return signature, returned


def setup(app: Sphinx) -> Dict[str, Any]:
    app.connect("source-read", fill)
    app.connect("autodoc-process-signature", shorten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""What reports look like on a terminal. Text out of a stream has its control characters escaped."""
import io
import json
import sys
import textwrap
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

from xstream.errors import StreamError

_WIDTH = 100
#: From this many neighbouring numbers on, such as a CPU's registers, they are shown several in a line.
_GRID = 8


def printable(text: Any) -> str:
    """Text that may come from a stream, with every character that isn't printable escaped."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in shown)


def print_json(document: Dict[str, Any], out: Optional[Any] = None) -> None:
    """Print one JSON document."""
    json.dump(document, out or sys.stdout, indent=2)
    print(file=out or sys.stdout)


def print_table(rows: List[List[str]]) -> None:
    """Print rows in columns; the first row holds the headings. Columns of numbers are aligned to the right."""
    columns = range(len(rows[0]))
    widths = [max(len(row[column]) for row in rows) for column in columns]
    numeric = [all(not row[column] or row[column].replace(".", "").isdigit() for row in rows[1:])
               for column in columns]
    print()
    for row in rows:
        cells = [row[column].rjust(widths[column]) if numeric[column] else row[column].ljust(widths[column])
                 for column in columns]
        print(printable("  ".join(cells).rstrip()))


def print_tree(fields: Dict[str, Any], indent: str = "") -> None:
    """Print fields by name, nested ones indented below their parent."""
    for items in _runs(fields):
        if len(items) >= _GRID:
            _print_grid(items, indent)
            continue
        for name, value in items:
            _print_field(name, value, indent)


def _runs(fields: Dict[str, Any]) -> Iterator[List[Tuple[str, Any]]]:
    """The items, with neighbouring numbers grouped."""
    numbers: List[Tuple[str, Any]] = []
    for name, value in fields.items():
        if _is_number(value):
            numbers.append((name, value))
            continue
        if numbers:
            yield numbers
            numbers = []
        yield [(name, value)]
    if numbers:
        yield numbers


def _print_grid(items: List[Tuple[str, int]], indent: str) -> None:
    cells = ["{} {:#x}".format(name, value) for name, value in items]
    width = max(len(cell) for cell in cells) + 2
    columns = max(1, (_WIDTH - len(indent)) // width)
    for at in range(0, len(cells), columns):
        print(printable(indent + "".join(cell.ljust(width) for cell in cells[at:at + columns]).rstrip()))


def _print_field(name: str, value: Any, indent: str) -> None:
    if isinstance(value, dict):
        if value:
            print(printable(indent + name))
            print_tree(value, indent + "  ")
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        print(printable(indent + name))
        for item in value:
            _print_item(item, indent + "  ")
    elif isinstance(value, list):
        _print_words("{}: {}".format(name, _shown(value)), indent)
    elif isinstance(value, str) and "\n" in value:
        print(printable(indent + name))
        for line in io.StringIO(value):
            print(printable(indent + "  " + line.rstrip("\n")))
    else:
        print(printable("{}{}: {}".format(indent, name, _shown(value))))


def _print_item(item: Any, indent: str) -> None:
    """Print an item of a list: its plain values in one line, nested values below."""
    if not isinstance(item, dict):
        print(printable(indent + _shown(item)))
        return
    plain = {name: value for name, value in item.items() if not isinstance(value, dict)}
    print(printable(indent + ", ".join("{} {}".format(name, _shown(value)) for name, value in plain.items())))
    print_tree({name: value for name, value in item.items() if name not in plain}, indent + "  ")


def _print_words(text: str, indent: str) -> None:
    """Print a long list of words, such as CPU features, wrapped over several lines."""
    for line in textwrap.wrap(printable(text), _WIDTH, break_long_words=False, break_on_hyphens=False,
                              initial_indent=indent, subsequent_indent=indent + "  "):
        print(line)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join("{:#x}".format(item) if _is_number(item) else _shown(item) for item in value) or "none"
    if _is_number(value) and abs(value) > 9:
        return "{0} ({0:#x})".format(value)
    return str(value)


def path(layers: Any) -> str:
    """The layers' formats, outermost first."""
    return " > ".join(layer.format for layer in layers)


def plain_layers(layers: Any) -> List[Dict[str, Any]]:
    """The layers for a JSON document."""
    return [layer._asdict() for layer in layers]


def print_layers(layers: Any) -> None:
    """The layers as a tree; nothing where there is but one."""
    if len(layers) < 2:
        return
    print_table([["layer", "offset", "records", ""]] + [
        ["  " * layer.depth + layer.format, str(layer.offset), str(layer.records),
         ", ".join("{} {}".format(name, value) for name, value in layer.about.items())] for layer in layers])


def print_info(report: Any) -> None:
    """An InfoReport."""
    if report.version:
        print("{} stream, version {}, {} guest, made by {}".format(
            path(report.layers), report.version, report.guest, printable(report.made_by)))
        _print_pages(report)
    else:
        print("{} stream, without memory, made by {}; {} bytes".format(report.format, report.made_by, report.bytes))
    print_layers(report.layers)
    if report.types:
        print_table([["page type", "PFNs"]] + [[name, str(count)] for name, count in report.types.items()])
    print_table([["record type", "bytes"]] + [
        ["{} {}".format(layer, name) if len(report.layers) > 1 else name, str(size)]
        for layer, sizes in report.sizes.items() for name, size in sizes.items()])
    print_table([["layer", "record", "offset", "type", "records", "PFNs", "pages", "bytes"]] + [
        [row.layer, str(row.first), str(row.offset), row.type, str(row.records), str(row.pfns or ""),
         str(row.pages or ""), str(row.bytes)] for row in report.records])
    if report.more_rows:
        print("and {} more rows".format(report.more_rows))
    if report.missing:
        print("missing, though no guest runs without: {}".format(", ".join(report.missing)))
    print_unread(report)


def print_unread(report: Any) -> None:
    """What the reader could not read, if there is anything."""
    if report.unread:
        print("not read: {}".format(report.unread))


def _print_pages(report: Any) -> None:
    print("{} bytes, {} populated PFNs, highest PFN {:#x}".format(
        report.bytes, report.populated, max(report.highest_pfn, 0)))
    print("{} pages sent, of them {} sent again, {} all zero{}".format(
        report.sent, report.resent, report.zero,
        "; {} for comparison".format(report.verified) if report.verified else ""))
    if report.checkpoints:
        print("{} checkpoints; what follows the last is void".format(report.checkpoints))


def print_verified(report: Any) -> None:
    """A VerifyReport."""
    if report.version:
        checkpoints = "{} checkpoints, ".format(report.checkpoints) if report.checkpoints else ""
        print("ok: {1} version {0.version}, {0.guest}, {0.records} records, {0.pages} pages in {0.batches} batches, "
              "{2}{0.bytes} bytes".format(report, path(report.layers), checkpoints))
    else:
        print("ok: {0.format}, {0.records} records, {0.bytes} bytes".format(report))
    print_layers(report.layers)


def print_contents(row: Any, whole: bool) -> None:
    """A RecordContents, all of it or without what fills pages."""
    from xstream.tools.contents import brief
    print("{} record {} at offset {}: {}".format(row.layer, row.record, row.offset, row.type))
    print_tree(row.contents if whole else brief(row.contents), "  ")


def print_contents_json(found: Iterable[Any]) -> Optional[StreamError]:
    """Print RecordContents as one JSON document, written piece by piece: there may be many. Returns the error that
    ended the iteration, which is part of the document."""
    error, before, end = None, "", {"ok": True}
    encoder = json.JSONEncoder(indent=1)
    sys.stdout.write('{"contents": [')
    try:
        for row in found:
            sys.stdout.write(before)
            sys.stdout.writelines(encoder.iterencode(row._asdict()))
            before = ","
    except StreamError as met:
        error, end = met, dict(met.as_dict(), ok=False)
    print("], {}".format(json.dumps(end)[1:]))
    return error


def print_policy(policy: Any) -> None:
    """A Policy: what it says of the CPU, the leaves that aren't all zeros, the MSRs."""
    from xstream.tools.contents import cpuid_contents
    if not policy.leaves and not policy.msrs:
        print("no policies: the stream is older than version 3")
        return
    about = cpuid_contents(policy.leaves)
    leaves = about.pop("leaves")
    print_tree(about)
    print_table([["leaf", "subleaf", "eax", "ebx", "ecx", "edx", "features"]] + [
        ["{:#x}".format(leaf["leaf"]), "" if leaf["subleaf"] is None else "{:#x}".format(leaf["subleaf"])]
        + ["{:08x}".format(leaf[register]) for register in "abcd"] + [" ".join(leaf["features"])]
        for leaf in leaves if any(leaf[register] for register in "abcd")])
    print_table([["msr", "name", "value"]] + [
        ["{:#x}".format(msr.number), msr.name, "{:#018x}".format(msr.value)] for msr in policy.msrs])


def print_differences(report: Any) -> None:
    """A PolicyReport."""
    for name, policy in (("the first", report.a), ("the second", report.b)):
        if not policy.leaves and not policy.msrs:
            print("{} has no policies: its stream is older than version 3".format(name))
    rows = [["{:#x}{}.{}".format(row.leaf, "" if row.subleaf is None else ":{:#x}".format(row.subleaf), row.register),
             row] for row in report.cpuid] + [["msr {:#x}".format(row.number), row] for row in report.msr]
    if rows:
        print_table([["register", "first", "second", "lost", "gained"]] + [
            [place, "{:#x}".format(row.value_a), "{:#x}".format(row.value_b), " ".join(row.lost), " ".join(row.gained)]
            for place, row in rows])
        print()
    print("the second lacks: {}".format(" ".join(report.lost)) if report.lost else
          "the second lacks nothing that the first was told of")

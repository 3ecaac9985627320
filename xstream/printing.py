"""How reports are printed. On a terminal no line is wider than that; elsewhere each line is printed in full.

Control characters in text from a stream are escaped.
"""
import io
import os
import sys

from xstream.errors import BAD_STREAM, BAD_USE, LIMIT_REACHED, OWN_FAULT, StreamError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, TextIO, Tuple, Union

    from xstream.fleet.duplicates import DuplicatesReport
    from xstream.fleet.image import ImageRecord
    from xstream.stream.reader import Layer
    from xstream.tools.contents import RecordContents
    from xstream.tools.diff import DiffReport
    from xstream.tools.info import InfoReport
    from xstream.tools.policy import Policy, PolicyReport
    from xstream.tools.verify import VerifyReport
    from xstream.wire.policies import Difference, MsrDifference

#: Columns of a grid of numbers where there is no terminal.
_GRID_WIDTH = 100
#: From this many neighbouring numbers on, such as a CPU's registers, they are shown several in a line.
_GRID = 8


def terminal_width() -> "Optional[int]":
    """Columns of the terminal that stdout is; None if it isn't one."""
    try:
        return max(os.get_terminal_size(sys.stdout.fileno()).columns, 20)
    except (AttributeError, OSError, ValueError):
        return None


def print_text(text: str, indent: str = "") -> None:
    """Print a line. On a terminal it is wrapped, between words if possible; what follows is indented further."""
    text = printable(text)
    width = terminal_width()
    if width is None or len(indent) + len(text) <= width:
        print(indent + text)
        return
    indent = indent[:width // 2]
    after = indent + "  "
    for line in _wrapped(text, width - len(indent), width - len(after)):
        print(indent + line)
        indent = after


def _wrapped(text: str, first: int, others: int) -> "Iterator[str]":
    """Pieces of a text: the first of at most ``first`` characters, the others of at most ``others``."""
    start, width = 0, first
    while len(text) - start > width:
        cut = text.rfind(" ", start + 1, start + width + 1)
        if cut < 0 or not text[start:cut].strip():
            cut = start + width
        yield text[start:cut].rstrip()
        start, width = cut, others
        while text.startswith(" ", start):
            start += 1
    yield text[start:]


def human_size(size: int) -> str:
    """Bytes, and the same in a unit that people read: "1073741824 bytes (1.0 GiB)"."""
    return "{} bytes".format(size) if size < 1024 else "{} bytes ({})".format(size, short_size(size))


def short_size(size: int) -> str:
    """Bytes in a unit that people read: "1.0 GiB"."""
    value, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return "{} bytes".format(size) if unit == "bytes" else "{:.1f} {}".format(value, unit)


def print_json(document: "Mapping[str, object]", out: "Optional[TextIO]" = None, *, line: bool = False) -> None:
    """Print one JSON document; with ``line`` in a single line."""
    import json
    json.dump(document, out or sys.stdout, indent=None if line else 2)
    print(file=out or sys.stdout)


def print_table(rows: "List[List[str]]") -> None:
    """Print rows in columns; the first row holds the headings. Columns of numbers are aligned to the right. What
    doesn't fit on the terminal's line goes on in the next, within the last column if there is room."""
    columns = range(len(rows[0]))
    widths = [max(len(row[column]) for row in rows) for column in columns]
    numeric = [all(not row[column] or row[column].replace(".", "").isdigit() for row in rows[1:])
               for column in columns]
    terminal = terminal_width()
    before = sum(widths[:-1]) + 2 * (len(widths) - 1)
    print()
    for row in rows:
        cells = [row[column].rjust(widths[column]) if numeric[column] else row[column].ljust(widths[column])
                 for column in columns]
        line = printable("  ".join(cells).rstrip())
        if terminal is None or len(line) <= terminal:
            print(line)
        elif before < terminal * 2 // 3:
            for piece in _wrapped(printable(cells[-1].rstrip()), terminal - before, terminal - before):
                print(line[:before] + piece)
                line = " " * before
        else:
            print_text("  ".join(cells).rstrip())


def print_tree(fields: "Mapping[str, object]", indent: str = "") -> None:
    """Print fields by name, nested ones indented below their parent."""
    numbers: List[Tuple[str, int]] = []
    for name, value in fields.items():
        if isinstance(value, int) and not isinstance(value, bool):
            numbers.append((name, value))
            continue
        _print_numbers(numbers, indent)
        numbers = []
        _print_field(name, value, indent)
    _print_numbers(numbers, indent)


def _print_numbers(items: "List[Tuple[str, int]]", indent: str) -> None:
    """Print neighbouring numbers: many in a grid, few in a line each."""
    if len(items) >= _GRID:
        _print_grid(items, indent)
        return
    for name, value in items:
        _print_field(name, value, indent)


def _print_grid(items: "List[Tuple[str, int]]", indent: str) -> None:
    cells = ["{} {:#x}".format(name, value) for name, value in items]
    width = max(len(cell) for cell in cells) + 2
    columns = max(1, ((terminal_width() or _GRID_WIDTH) - len(indent)) // width)
    for at in range(0, len(cells), columns):
        print_text("".join(cell.ljust(width) for cell in cells[at:at + columns]).rstrip(), indent)


def _print_field(name: str, value: object, indent: str) -> None:
    if isinstance(value, dict):
        if value:
            print_text(name, indent)
            print_tree(value, indent + "  ")
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        print_text(name, indent)
        for item in value:
            _print_item(item, indent + "  ")
    elif isinstance(value, str) and "\n" in value:
        print_text(name, indent)
        for line in io.StringIO(value):
            print_text(line.rstrip("\n"), indent + "  ")
    else:
        print_text("{}: {}".format(name, _shown(value)), indent)


def _print_item(item: object, indent: str) -> None:
    """Print an item of a list: its plain values in one line, nested values below."""
    if not isinstance(item, dict):
        print_text(_shown(item), indent)
        return
    plain = {name: value for name, value in item.items() if not isinstance(value, dict)}
    print_text(", ".join("{} {}".format(name, _shown(value)) for name, value in plain.items()), indent)
    print_tree({name: value for name, value in item.items() if name not in plain}, indent + "  ")


def _shown(value: object) -> str:
    if isinstance(value, list):
        return " ".join("{:#x}".format(item) if _is_number(item) else _shown(item) for item in value) or "none"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 9:
        return "{0} ({0:#x})".format(value)
    return str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def path(layers: "Sequence[Layer]") -> str:
    """The layers' formats, outermost first."""
    return " > ".join(layer.format for layer in layers)


def plain_layers(layers: "Sequence[Layer]") -> "List[Dict[str, object]]":
    """The layers for a JSON document."""
    return [layer._asdict() for layer in layers]


def print_layers(layers: "Sequence[Layer]") -> None:
    """Print the layers as a tree, unless there is only one."""
    if len(layers) < 2:
        return
    print_table([["layer", "offset", "records", ""]] + [
        ["  " * layer.depth + layer.format, str(layer.offset), str(layer.records),
         ", ".join("{} {}".format(name, value) for name, value in layer.about.items())] for layer in layers])


def print_info(report: "InfoReport") -> None:
    """Print an InfoReport."""
    if report.version:
        print_text("{} stream, version {}, {} guest, made by {}".format(
            path(report.layers), report.version, report.guest, report.made_by))
        _print_pages(report)
    else:
        print_text("{} stream, without memory, made by {}; {}".format(
            report.format, report.made_by, human_size(report.bytes)))
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
        print_text("missing, though no guest runs without: {}".format(", ".join(report.missing)))
    print_unread(report)


def print_unread(report: "Union[InfoReport, VerifyReport]") -> None:
    """What the reader could not read, if there is anything."""
    if report.unread:
        print_text("not read: {}".format(report.unread))


def _print_pages(report: "InfoReport") -> None:
    print_text("{}, {} populated PFNs, highest PFN {:#x}".format(
        human_size(report.bytes), report.populated, max(report.highest_pfn, 0)))
    print_text("{} pages sent, of them {} sent again{}{}".format(
        report.sent, report.resent, "" if report.zero is None else ", {} all zero".format(report.zero),
        "; {} for comparison".format(report.verified) if report.verified else ""))
    if report.checkpoints:
        print("{} checkpoints; what follows the last is void".format(report.checkpoints))


def print_verified(report: "VerifyReport", name: str = "") -> None:
    """Print a VerifyReport, after the file's name if several are verified."""
    if report.version:
        checkpoints = "{} checkpoints, ".format(report.checkpoints) if report.checkpoints else ""
        text = ("ok: {1} version {0.version}, {0.guest}, {0.records} records, {0.pages} pages in {0.batches} batches, "
                "{2}{3}".format(report, path(report.layers), checkpoints, human_size(report.bytes)))
    else:
        text = "ok: {0.format}, {0.records} records, {1}".format(report, human_size(report.bytes))
    print_text(name + ": " + text if name else text)
    if not name:
        print_layers(report.layers)
    print_unread(report)


def print_contents(row: "RecordContents", whole: bool) -> None:
    """Print a RecordContents: ``whole``, or without long values."""
    from xstream.tools.contents import brief
    print_text("{} record {} at offset {}: {}".format(row.layer, row.record, row.offset, row.type))
    print_tree(row.contents if whole else brief(row.contents), "  ")


def print_contents_json(found: "Iterable[RecordContents]",
                        end: "Callable[[Optional[StreamError]], Mapping[str, object]]") -> None:
    """Print RecordContents as one JSON document, written piece by piece: there may be many. ``end`` is called with the
    error that ended the iteration, if one did, and returns the rest of the document."""
    import json
    error, before = None, '{"contents": ['
    encoder = json.JSONEncoder(indent=1)
    try:
        for row in found:
            sys.stdout.write(before)
            sys.stdout.writelines(encoder.iterencode(row._asdict()))
            before = ","
    except StreamError as met:
        error = met
    print("{}], {}".format("" if before == "," else before, json.dumps(end(error))[1:]))


def print_policy(policy: "Policy") -> None:
    """Print a Policy: what it says about the CPU, the leaves that aren't all zeros, and the MSRs."""
    from xstream.tools.contents import cpuid_contents, leaf_features
    if not policy:
        print(no_policies("the stream", policy))
        return
    about = cpuid_contents(policy.leaves)
    del about["leaves"]
    print_tree(about)
    print_table([["leaf", "subleaf", "eax", "ebx", "ecx", "edx", "features"]] + [
        ["{:#x}".format(leaf.leaf), "" if leaf.subleaf is None else "{:#x}".format(leaf.subleaf)]
        + ["{:08x}".format(value) for value in (leaf.a, leaf.b, leaf.c, leaf.d)] + [" ".join(leaf_features(leaf))]
        for leaf in policy.leaves if any((leaf.a, leaf.b, leaf.c, leaf.d))])
    print_table([["msr", "name", "value"]] + [
        ["{:#x}".format(msr.number), msr.name, "{:#018x}".format(msr.value)] for msr in policy.msrs])


def no_policies(which: str, policy: "Policy") -> str:
    """Why a stream has no CPU policies."""
    return "{} has no CPU policies: ".format(which) + (
        "it is version {}, and only version 3 has them".format(policy.version) if policy.version < 3 else
        "it is version {}, but was written without them".format(policy.version))


def print_differences(report: "PolicyReport") -> None:
    """Print a PolicyReport: the differences, then the verdict."""
    if report.compatible is None:
        for which, policy in (("the first stream", report.a), ("the second stream", report.b)):
            if not policy.leaves:
                print(no_policies(which, policy))
        print("unknown: there are no two CPU policies to compare")
        return
    rows: List[Tuple[str, Union[Difference, MsrDifference]]] = [
        ("{:#x}{}.{}".format(row.leaf, "" if row.subleaf is None else ":{:#x}".format(row.subleaf), row.register), row)
        for row in report.cpuid]
    rows += [("msr {:#x}".format(row.number), row) for row in report.msr]
    if rows:
        print_table([["register", "first", "second", "lost", "gained"]] + [
            [place, "{:#x}".format(row.value_a), "{:#x}".format(row.value_b), " ".join(row.lost), " ".join(row.gained)]
            for place, row in rows])
        print()
    print_text("compatible" if report.compatible else
               "incompatible: the first's guest can't run with the second's policy")
    for reason in report.reasons:
        print_text(reason, "  ")
    if report.lost:
        print_text("lacks: " + " ".join(report.lost), "  ")
    if report.notes:
        print_text("note: differs in bits that Xen accumulates or handles specially: " + " ".join(report.notes), "  ")


def wrong_use(message: str) -> "Dict[str, object]":
    """The JSON document of a usage error."""
    return dict(StreamError(message).as_dict(), error="UsageError", ok=False)


#: What the exit statuses say about an image.
VERDICTS = {BAD_STREAM: "bad", BAD_USE: "error", OWN_FAULT: "failed", LIMIT_REACHED: "limit reached"}
#: Words of a scan's table that need no attention.
_GOOD_WORDS = ("ok", "compatible", "")


def print_scanned(record: "ImageRecord") -> None:
    """Print an ImageRecord in one line."""
    state = record.state if record.state == "ok" else "{}: {}".format(VERDICTS[record.status], record.state)
    zero = None if record.zero is None else "{} zero".format(record.zero)
    memory = None if record.memory is None else "{}, {} pages populated".format(
        short_size(record.memory), record.populated)
    unread = record.unread and "not read: {}".format(record.unread)
    about = [record.format, record.guest, record.name, record.uuid, record.xen, memory, zero, unread, record.crc32c,
             ": ".join(filter(None, [_suits(record), record.incompatibility]))]
    print_text("{}: {}".format(record.path, "; ".join([state] + [", ".join(filter(None, about))]).rstrip("; ")))


def print_scan(records: "Sequence[ImageRecord]", duplicates: "Optional[DuplicatesReport]") -> None:
    """Print the records as a table, without columns in which nothing is known, and how many have which fault."""
    rows = [[printable(cell) for cell in _scan_row(record)] for record in records]
    if not rows:
        return
    names = ["path", "format", "guest", "name", "uuid", "Xen", "memory", "populated", "zero", "CRC32C", "policy",
             "state"]
    shown = [column for column in range(len(names)) if any(row[column] for row in rows)]
    print_table([[row[column] for column in shown] for row in [names] + rows])
    words = [word for record in records for word in (_verdict(record), _suits(record)) if word not in _GOOD_WORDS]
    parts = ["{} {}".format(words.count(word), word) for word in dict.fromkeys(words)]
    print()
    print_text("{} images: {}".format(len(records), ", ".join(parts or ["all good"])))
    if duplicates is not None:
        _print_duplicates(duplicates)


def _scan_row(record: "ImageRecord") -> "List[str]":
    def text(value: object) -> str:
        return "" if value is None else str(value)

    return [record.path, text(record.format), text(record.guest), text(record.name), text(record.uuid),
            text(record.xen), "" if record.memory is None else short_size(record.memory), text(record.populated),
            text(record.zero), text(record.crc32c), _suits(record), _verdict(record)]


def _verdict(record: "ImageRecord") -> str:
    return "ok" if record.state == "ok" else VERDICTS[record.status]


def _suits(record: "ImageRecord") -> str:
    """What is known about the policy that the guest was compared with, in a word."""
    if record.compatible is None:
        return "unknown policy" if record.incompatibility else ""
    return "compatible" if record.compatible else "incompatible"


def _print_duplicates(report: "DuplicatesReport") -> None:
    saved = report.within + report.between
    about = "" if report.sampled == 1 else ", estimated from {:.2%} of the different pages (standard error {})".format(
        report.sampled, report.standard_error)
    print_text("{} pages, {} different{}".format(report.pages, report.distinct, about))
    print_text("deduplication would save {} pages, {} ({:.1%}): {} repeat within an image, {} between images".format(
        saved, short_size(saved * 4096), saved / max(report.pages, 1), report.within, report.between))


#: Runs of PFNs printed of each kind of difference.
_MOST_RUNS = 20


def print_diff(report: "DiffReport") -> None:
    """What differs between two guests; of long lists of PFNs the first runs."""
    print_text("{} pages compared".format(report.compared))
    for name in ("differing", "appeared", "vanished", "retyped"):
        runs = getattr(report, name)
        if runs:
            shown = ["{:#x}".format(first) if pages == 1 else "{:#x}-{:#x}".format(first, first + pages - 1)
                     for first, pages in runs[:_MOST_RUNS]]
            more = ["... {} runs in all".format(len(runs))] if len(runs) > _MOST_RUNS else []
            print_text("{} PFNs {}: {}".format(sum(pages for _, pages in runs), name, ", ".join(shown + more)))
    for row in report.state:
        print_text("{}: {} -> {}".format(row.name, _value(row.first), _value(row.second)))
    if report.same:
        print_text("the same")


def _value(value: object) -> str:
    if value is None:
        return "absent"
    return hex(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)

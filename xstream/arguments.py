"""The command line's arguments: those of each command, with examples.

A command line without abbreviations, mistakes or --help is parsed here, because loading argparse takes as long as
verifying a small stream; for any other, argparse's parser is built from the same definitions.
"""
import sys

from xstream.limits import Limits
from xstream.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

    from xstream.parser import Parser
    from xstream.tools.contents import Wanted

    #: A parser of commands, and that of one command: argparse's, or the quick one.
    Commands = Union["argparse._SubParsersAction[Parser]", "_QuickCommands"]
    Command = Union[Parser, "_QuickCommand"]

EXIT_STATUS = ("0: good. 1: the stream is bad (policy, scan --against: incompatible; diff: they differ). 2: usage "
               "error or operating-system error (policy: also a file that can't be read, or that has no policy). 3: a "
               "bug in xstream; the message says so. 4: one of xstream's limits was reached; the stream may be good.")
#: The most threads that --jobs accepts.
MOST_JOBS = 1024
_PAGE_SIZE = 4096
_FORMATS = ("libxc", "legacy", "libxl", "xl", "libvirt", "xenopsd", "xend", "colo")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

#: The examples at the end of each command's help.
EXAMPLES = {
    "info": """
        xstream info guest.xl
        xstream info --records guest.xl
        xstream info --record libxl:2 --json guest.xl""",
    "verify": """
        xstream verify guest.xl
        xstream verify --strict *.xl
        zcat guest.xs.gz | xstream verify -""",
    "extract": """
        xstream extract guest.xl guest.raw
        xstream extract --salvage cut.xl guest.raw
        xstream extract --to elf guest.xl guest.core
        ssh host cat guest.xl | xstream extract - - | sha256sum""",
    "digest": """
        xstream digest guest.xl
        xstream digest --json before.xl after.xl
        xstream digest --pages -j 4 guest.xl""",
    "diff": """
        xstream diff before.xl after.xl
        xstream diff --json source.xl restored.xl""",
    "map": """
        xstream map guest.xl memory.html
        xstream map guest.xl memory.png
        xstream map --against after.xl before.xl changes.html""",
    "policy": """
        xstream policy guest.xl
        xstream policy guest.xl other-host.xl
        xstream policy --json guest.xl other-host.xl""",
    "scan": """
        xstream scan /srv/images
        xstream scan --json --cache scan.cache 's3://backup/**/*.xl'
        xstream scan --against new-host.json --csv report.csv '/srv/images/*.xl'
        xstream scan --duplicates --dask tcp://scheduler:8786 /srv/images""",
    "convert": """
        xstream convert old.xl new.xl
        xstream convert --to libxc guest.xl guest.xs
        xstream convert --to xl --config vm.cfg --no-device-model vm.xs vm.xl""",
    "save": """
        xstream save guest guest.xl
        xstream save --live --container libxc 12 guest.xs
        xstream save guest - | zstd > guest.zst""",
    "simulate send": """
        xstream simulate send - > guest.xs
        xstream simulate send --memory 4G --dirty 0.5 localhost:8002""",
    "simulate receive": """
        xstream simulate receive - < guest.xs
        xstream simulate receive localhost:8002""",
}


class Options:
    """The values of a command's arguments, as attributes."""

    if TYPE_CHECKING:
        def __getattr__(self, name: str) -> Any: ...

        def __setattr__(self, name: str, value: object) -> None: ...


class _Unclear(Exception):
    """A command line that the quick parser leaves to argparse."""


class _QuickCommands:
    """Stands in for argparse's parser of commands while one command's arguments are defined."""

    def add_parser(self, name: str, **texts: str) -> "_QuickCommand":
        self.command = _QuickCommand()
        return self.command


class _QuickCommand:
    """Parses the arguments of one command that are spelt out: option names in full, values in words of their own.

    Has those of argparse's methods that define arguments.
    """

    def __init__(self) -> None:
        self._values: Dict[str, object] = {}
        self._flags: Dict[str, str] = {}
        self._options: Dict[str, Tuple[str, Callable[[str], Any], Sequence[object]]] = {}
        self._operands: List[Tuple[str, Optional[str]]] = []

    def add_argument(self, *names: str, action: str = "store", default: object = None, nargs: "Optional[str]" = None,
                     type: "Callable[[str], Any]" = str, choices: "Sequence[object]" = (), metavar: str = "",
                     help: str = "") -> None:
        """As argparse's method."""
        name = names[-1].lstrip("-").replace("-", "_")
        if names[0][0] != "-":
            self._operands.append((name, nargs))
        elif action == "store_true":
            self._values[name] = False
            self._flags.update(dict.fromkeys(names, name))
        else:
            self._values[name] = default
            self._options.update(dict.fromkeys(names, (name, type, choices)))

    def add_mutually_exclusive_group(self) -> "_QuickCommand":
        """As argparse's method; a command line with an argument of the group is left to argparse."""
        group = _QuickCommand()
        group._values = self._values
        return group

    def add_subparsers(self, **texts: str) -> "Any":
        """As argparse's method; a command that has commands is left to argparse."""
        raise _Unclear

    def parse(self, words: "List[str]") -> "Dict[str, object]":
        """The arguments' values. Raises _Unclear."""
        values = dict(self._values)
        operands: List[str] = []
        left = iter(words)
        before = ""  # the kind of the word before
        for word in left:
            if word in self._flags:
                values[self._flags[word]] = True
            elif word in self._options:
                name, convert, choices = self._options[word]
                values[name] = self._converted(next(left, "--"), convert, choices)
            elif word.startswith("-") and word != "-" or (operands and before != "operand"):
                raise _Unclear
            else:
                operands.append(word)
                before = "operand"
                continue
            before = "option"
        values.update(self._assigned(operands))
        return values

    @staticmethod
    def _converted(text: str, convert: "Callable[[str], Any]", choices: "Sequence[object]") -> object:
        try:
            value = convert(text)
        except Exception:  # argparse calls it again, and reports this
            raise _Unclear
        if (text.startswith("-") and text != "-") or (choices and value not in choices):
            raise _Unclear
        return value

    def _assigned(self, operands: "List[str]") -> "Dict[str, object]":
        """The values of the operands: one each; the last may be optional, or take all the rest."""
        rest = iter(operands)
        values: Dict[str, object] = {}
        for name, nargs in self._operands:
            value = next(rest, None)
            if value is None and nargs != "?":
                raise _Unclear
            values[name] = [value] + list(rest) if nargs == "+" else value
        if next(rest, None) is not None:
            raise _Unclear
        return values


def argument_parser(only: "Optional[str]" = None) -> "Parser":
    """argparse's parser of all commands; of one alone if its name is given as ``only``, which is faster to build.

    The man page, the completions and the reference documentation are generated from it.
    """
    from xstream.parser import Parser
    parser = Parser(prog="xstream", description="Read, check and write Xen migration streams.",
                    epilog="Exit status: " + EXIT_STATUS)
    parser.add_argument("--version", action="version", version="xstream " + __version__)
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", prog="xstream")
    commands.required = True
    for name in (only,) if only in COMMANDS else COMMANDS:
        COMMANDS[str(name)](commands)
    return parser


def _add_info(commands: "Commands") -> None:
    info = _add(commands, "info", "show what a stream is and what it contains", several=True)
    shown = info.add_mutually_exclusive_group()
    shown.add_argument("--records", action="store_true",
                       help="decode every record except pages; with --json down to the last register")
    shown.add_argument("--record", type=_wanted, metavar="[LAYER:]N",
                       help="show all of record N of a layer (default: of the memory stream)")


def _add_verify(commands: "Commands") -> None:
    verify = _add(commands, "verify", "check whole streams: print ok, or the first error and where it is", several=True)
    verify.add_argument("--strict", action="store_true", help="also report what a restore ignores: reserved bits, "
                        "padding, trailing bytes, usual records that are missing")
    _add_checkpointed(verify)
    _add_quiet(verify, "print errors only")


def _add_extract(commands: "Commands") -> None:
    extract = _add(commands, "extract", "write the final guest memory to a file: raw, or for analysis tools", out=True)
    extract.add_argument("--to", choices=("raw", "elf", "lime"), default="raw", help="what to write: the pages alone, "
                         "PFN 0 first; an ELF core file with registers, for crash, drgn, gdb, makedumpfile and "
                         "Volatility; a LiME image (default raw)")
    extract.add_argument("--pfns", type=_pfns, metavar="A-B", help="only PFNs A to B, both included; a raw file then "
                         "begins with PFN A")
    extract.add_argument("--salvage", action="store_true", help="of a cut or damaged stream, write what precedes the "
                         "error; say what is missing, and exit with status 1")
    _add_checkpointed(extract)
    _add_jobs(extract)


def _pfns(text: str) -> "Tuple[int, int]":
    """A range of PFNs, decimal or 0x and hexadecimal; argparse's error for anything else."""
    first, _, last = text.partition("-")
    try:
        pfns = int(first, 0), int(last or first, 0)
    except ValueError:
        pfns = (1, 0)
    if not 0 <= pfns[0] <= pfns[1]:
        raise _wrong_argument("not a range of PFNs: {!r}".format(text))
    return pfns


def _add_digest(commands: "Commands") -> None:
    digest = _add(commands, "digest", "compute checksums of the final guest memory", several=True)
    digest.add_argument("--pages", action="store_true", help="print one CRC32C for each populated PFN")
    _add_checkpointed(digest)
    _add_jobs(digest)


def _add_diff(commands: "Commands") -> None:
    diff = _add(commands, "diff", "show what differs between two saved guests: memory, page types, registers")
    diff.add_argument("other", metavar="OTHER", help="the second guest's stream; exit status 0 if they are the same, 1 "
                      "if they differ or a stream is bad")
    _add_jobs(diff)


def _add_map(commands: "Commands") -> None:
    draw = _add(commands, "map", "draw a picture of guest memory, as HTML, or as PNG if OUT ends in .png", out=True)
    draw.add_argument("--against", metavar="OTHER", help="also show which pages differ in another saved guest")
    _add_jobs(draw)


def _add_policy(commands: "Commands") -> None:
    policy = _add(commands, "policy", "show a guest's CPU policy, or what OTHER's policy is missing")
    policy.add_argument("other", metavar="OTHER", nargs="?", help="another stream; exit status 0 if FILE's guest "
                        "can run with its policy, 1 if not, 2 if they can't be compared")


def _add_scan(commands: "Commands") -> None:
    scan = _new(commands, "scan", "check and list all images in folders, matching patterns and at URLs",
                EXAMPLES["scan"])
    scan.add_argument("images", metavar="PATH|URL", nargs="+", help="files; folders; patterns (*, **, ?, [...]); URLs "
                      "that fsspec opens (s3://, sftp://, https://, ...), of which only what is needed is fetched")
    scan.add_argument("--json", action="store_true", help="print one line of JSON for each image to stdout")
    scan.add_argument("--csv", metavar="OUT", help="write the table to a CSV file, too")
    scan.add_argument("--parquet", metavar="OUT", help="write the table to a Parquet file, too (needs pyarrow)")
    scan.add_argument("-f", "--force", action="store_true", help="replace files that exist")
    scan.add_argument("--cache", metavar="FILE", help="remember results in FILE: read only images that are new or have "
                      "changed (by path, size, and modification time or ETag), and continue an interrupted scan")
    scan.add_argument("--digest", action="store_true", help="compute the CRC32C and SHA-256 of each guest's final "
                      "memory, which is loaded for that")
    scan.add_argument("--against", metavar="POLICY|IMAGE", help="find out which guests can run with the CPU policy of "
                      "another host: what xen-cpuid -p prints there, what xstream policy --json prints of one of its "
                      "images, or such an image; incompatible counts as exit status 1, unknown as 2")
    scan.add_argument("--duplicates", action="store_true", help="read all page data: count pages that are zero, and "
                      "those that are equal within and between images")
    scan.add_argument("--strict", action="store_true", help="also report what a restore ignores, as verify --strict")
    _add_checkpointed(scan)
    scan.add_argument("-j", "--jobs", type=_jobs, default=0, metavar="N", help="processes that scan (default: one for "
                      "each CPU that the process may use)")
    scan.add_argument("--dask", metavar="ADDRESS", help="scan on the Dask cluster whose scheduler is at ADDRESS; its "
                      "workers need xstream and access to the images")
    _add_limit(scan)
    _add_quiet(scan, "print only images that aren't good")


def _add_convert(commands: "Commands") -> None:
    convert = _add(commands, "convert", "convert a legacy stream to the current format, or move a guest between "
                   "containers", out=True)
    convert.add_argument("--to", choices=("libxc", "libxl", "xl", "libvirt", "xenopsd", "config", "device-model"),
                         metavar="FORMAT", help="what to write: libxc, the memory stream alone; a container: libxl, "
                         "xl, libvirt, xenopsd; or one part of FILE's container: config, device-model (default: the "
                         "container that FILE has, in its current form)")
    convert.add_argument("--last-checkpoint", action="store_true",
                         help="write the last complete checkpoint as a plain stream")
    _add_compress(convert)
    _add_jobs(convert)
    convert.add_argument("--squash", action="store_true",
                         help="write each page once, with its final contents, as a plain stream")
    convert.add_argument("--config", metavar="CONFIG", help="file with the domain's configuration for the container: "
                         "for xl JSON or the text of a config file, for libvirt XML, for xenopsd the Xenops record")
    convert.add_argument("--device-model", metavar="RECORD", help="file with QEMU's record of an HVM guest")
    convert.add_argument("--no-device-model", action="store_true",
                         help="the guest has no device model record: it is PVH")
    _add_checkpointed(convert)
    _add_quiet(convert, "print errors only, not what was dropped")


def _add_save(commands: "Commands") -> None:
    save = _new(commands, "save", "write a snapshot of a running domain of this dom0, for analysis and backup",
                EXAMPLES["save"])
    save.add_argument("domain", metavar="DOMAIN", help="number or name of the domain; it suspends itself for the "
                      "snapshot and always runs again afterwards")
    _add_out(save)
    _add_compress(save)
    save.add_argument("--live", action="store_true", help="send memory while the guest runs, and suspend it only for "
                      "the rest")
    save.add_argument("--container", choices=("libxl", "libxc"), default="libxl", help="what to write: libxl, with "
                      "QEMU's record of an HVM guest (default); or libxc, the memory stream alone. To restore a "
                      "domain, use a toolstack's own save command instead")
    save.add_argument("--json", action="store_true", help="print one JSON document to stderr")


def _add_out(command: "Command") -> None:
    command.add_argument("out", metavar="OUT", help="file to write; - for stdout")
    command.add_argument("-f", "--force", action="store_true", help="replace OUT if it exists")
    command.add_argument("--no-sparse", action="store_true", help="write blocks of zeros to a file, not holes")


def _add_compress(command: "Command") -> None:
    command.add_argument("--compress", type=_compression, metavar="zstd[:LEVEL]", help="compress OUT by zstd, which "
                         "zstd -d undoes; xstream reads it without decompressing what it doesn't need. Without this "
                         "option, an OUT that ends in .zst is compressed at level 3. Needs the package zstandard")


def _compression(text: str) -> str:
    from xstream.stream.zstd import level_of
    try:
        level_of(text)
    except ValueError as error:
        raise _wrong_argument(str(error))
    return text


def _add_simulate(commands: "Commands") -> None:
    text = "migrate a simulated guest between two processes"
    ends = commands.add_parser("simulate", help=text, description=_sentence(text)).add_subparsers(
        title="ends", dest="end", metavar="END")
    ends.required = True
    send = _add_end(ends, "send", "make a guest and save it while it runs")
    send.add_argument("--memory", type=parse_size, metavar="SIZE", default=256 << 20,
                      help="size of its memory (K, M, G, T; default 256M)")
    send.add_argument("--seed", type=int, default=0, metavar="N",
                      help="seed of its contents: the same number makes the same guest (default 0)")
    send.add_argument("--dirty", type=float, metavar="RATIO", default=0.1,
                      help="pages that it writes for each page sent (default 0.1)")
    send.add_argument("--cold", action="store_true", help="suspend it first")
    send.add_argument("--downtime", type=float, metavar="MS", help="suspend it once the rest can be sent in this many "
                      "milliseconds (default: by the rule of Xen's toolstack)")
    send.add_argument("--verify", action="store_true", help="send everything once more, for comparison")
    receive = _add_end(ends, "receive", "restore the guest of the first sender that connects")
    for end in (send, receive):
        end.add_argument("--guest", choices=["hvm", "pv"], default="hvm", help="kind of guest (default hvm)")


def _add_end(ends: "Commands", name: str, text: str) -> "Command":
    end = _new(ends, name, text, EXAMPLES["simulate " + name])
    end.add_argument("address", metavar="HOST:PORT", help="address of the other end; - for {}".format(
        "stdout" if name == "send" else "stdin"))
    end.add_argument("--json", action="store_true",
                     help="print one JSON document, on stderr if the stream is on stdout")
    return end


#: The commands, and what adds their parsers.
COMMANDS: "Dict[str, Callable[[Commands], None]]" = {
    "info": _add_info, "verify": _add_verify, "extract": _add_extract, "digest": _add_digest, "diff": _add_diff,
    "map": _add_map, "policy": _add_policy, "scan": _add_scan,
    "convert": _add_convert, "save": _add_save, "simulate": _add_simulate,
}


def _add(commands: "Commands", name: str, text: str, *, several: bool = False, out: bool = False) -> "Command":
    """A parser with the arguments that all commands share; with ``several``, of more than one FILE."""
    command = _new(commands, name, text, EXAMPLES[name])
    if several:
        command.add_argument("files", metavar="FILE", nargs="+", help="the streams; - for stdin")
    else:
        command.add_argument("file", metavar="FILE", help="the stream; - for stdin")
    if out:
        _add_out(command)
    command.add_argument("--json", action="store_true", help="print one JSON document to stdout")
    command.add_argument("--format", choices=_FORMATS, metavar="FORMAT",
                         help="the format of FILE: {} (default: recognised by its content)".format(", ".join(_FORMATS)))
    command.add_argument("--width", type=int, choices=(32, 64), help="bits of the toolstack that wrote a legacy "
                         "stream, if that can't be recognised")
    command.add_argument("--guest", choices=("pv", "hvm"), help="kind of guest in a legacy stream, if that can't be "
                         "recognised")
    _add_limit(command)
    return command


def _add_limit(command: "Command") -> None:
    command.add_argument("--limit", type=parse_size, metavar="SIZE", default=Limits().guest_pfns * _PAGE_SIZE,
                         help="the largest guest to accept, by its highest PFN (K, M, G, T; default 16T)")


def _new(commands: "Commands", name: str, text: str, examples: str) -> "Command":
    examples = "\n".join(line.strip() for line in examples.strip().splitlines())
    return commands.add_parser(name, help=text, description=_sentence(text), examples=examples)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _add_checkpointed(command: "Command") -> None:
    command.add_argument("--checkpointed", action="store_true",
                         help="the stream has checkpoints (Remus, COLO) and ends with its last complete one")


def _add_quiet(command: "Command", text: str) -> None:
    command.add_argument("-q", "--quiet", action="store_true", help=text)


def _add_jobs(command: "Command") -> None:
    command.add_argument("-j", "--jobs", type=_jobs, default=0, metavar="N", help="threads that work on pages "
                         "(default: one for each CPU that the process may use)")


def _jobs(text: str) -> int:
    if not text.isdigit() or int(text) > MOST_JOBS:
        raise _wrong_argument("not a number of jobs: {!r}".format(text))
    return int(text)


def _wrong_argument(message: str) -> Exception:
    """argparse's error for a value that an argument can't have."""
    from argparse import ArgumentTypeError
    return ArgumentTypeError(message)


def parse_size(text: str) -> int:
    """The number of bytes in a size such as "512M"; raises argparse's error for anything else."""
    number, unit = text.upper().rstrip("IB"), ""
    if number and number[-1] in "KMGT":
        number, unit = number[:-1], number[-1]
    if not number.isdigit() or not int(number):
        raise _wrong_argument("not a size: {!r}".format(text))
    return int(number) * _UNITS[unit]


def _wanted(text: str) -> "Wanted":
    from xstream.tools.contents import parse_wanted
    try:
        return parse_wanted(text)
    except ValueError:
        raise _wrong_argument("not a record's number: {!r}".format(text))


def parse_arguments(arguments: "Optional[List[str]]" = None) -> Options:
    """Parse the arguments of one command, by default those of the process."""
    words = sys.argv[1:] if arguments is None else arguments
    name = words[0] if words else None
    options = Options()
    try:
        vars(options).update(_parsed_quickly(words), command=name)
    except _Unclear:
        argument_parser(name).parse_args(words, options)
    return options


def _parsed_quickly(words: "List[str]") -> "Dict[str, object]":
    if not words or words[0] not in COMMANDS:
        raise _Unclear
    commands = _QuickCommands()
    COMMANDS[words[0]](commands)
    return commands.command.parse(words[1:])

"""The command line: runs a command, shows progress, prints reports and errors, returns exit statuses."""
import os
import sys
import time

from xstream.arguments import MOST_JOBS, Options, parse_arguments
from xstream.errors import (
    BAD_STREAM,
    BAD_USE,
    GOOD,
    LIMIT_REACHED,
    OWN_FAULT,
    LimitExceeded,
    MissingPart,
    StreamError,
    printable,
)
from xstream.limits import Limits
from xstream.printing import (
    VERDICTS,
    human_size,
    plain_layers,
    print_contents,
    print_contents_json,
    print_diff,
    print_differences,
    print_info,
    print_json,
    print_policy,
    print_scan,
    print_scanned,
    print_text,
    print_verified,
    wrong_use,
)
from xstream.tuples import NamedTuple
from xstream.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, TextIO, Tuple, TypeVar, Union

    from distributed import Client
    from tqdm import tqdm

    from xstream.convert.conversion import Converted
    from xstream.fleet.image import ImageRecord, Settings
    from xstream.tools.contents import RecordContents
    from xstream.tools.digest import DigestReport
    from xstream.tools.extract import ExtractReport
    from xstream.tools.policy import Policy

    T = TypeVar("T")

_PAGE_SIZE = 4096
_STDIN, _STDOUT = 0, 1
_SHOWN_RANGES = 20


def main(arguments: "Optional[List[str]]" = None) -> int:
    """Run one command; returns its exit status. Without ``arguments``, those of the process: then signals end it, after
    unfinished files have been removed."""
    if arguments is not None:
        return _run(parse_arguments(arguments))
    _open_closed_descriptors()
    try:
        return _flushed(_run_own())
    except (KeyboardInterrupt, _Signalled) as ended:
        import signal
        number = ended.number if isinstance(ended, _Signalled) else int(signal.SIGINT)
    # End as the signal would have ended the process, so that a shell stops its loop or script.
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number


def _run_own() -> int:
    """Run the command of the process's arguments; returns the exit status, also after help and usage errors."""
    try:
        options = parse_arguments()
    except SystemExit as ended:
        return int(ended.code or GOOD)
    if hasattr(options, "out"):
        _raise_on_signals()
    return _run(options)


def _flushed(status: int) -> int:
    """Write out what was printed; returns the exit status. What can't be written is discarded, so that Python doesn't
    complain once more when it ends; for stdout that is an error."""
    try:
        sys.stdout.flush()
    except OSError as error:
        status = status or BAD_USE
        _discard(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            _complain(error.strerror or str(error))
    try:
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)
    return status


def _discard(out: "TextIO") -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


class _Signalled(BaseException):
    """A signal to end the process has arrived; raised so that unfinished files are removed first."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _raise_on_signals() -> None:
    import signal

    def end(number: int, frame: "Optional[FrameType]") -> None:
        raise _Signalled(number)

    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP; leave it so
            signal.signal(number, end)


def _open_closed_descriptors() -> None:
    """Keep files from being opened as descriptor 0, 1 or 2 if the caller closed those. Text printed to a closed stdout
    or stderr is discarded; reading and writing the descriptors fails."""
    for fd, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest free number, which is fd
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _run(options: Options) -> int:
    """Run a command on each of its files; returns the highest exit status."""
    files = getattr(options, "files", None)
    options.documents = None if files is None or len(files) == 1 else []
    options.named = False
    worst = GOOD
    for file in files or [getattr(options, "file", None)]:
        options.file = file
        worst = max(worst, _run_one(options))
    if options.json and options.documents:
        try:
            print_json({"ok": worst == GOOD, "files": options.documents})
        except OSError as error:  # of stdout
            options.json = False
            worst = max(worst, _report(options, error))
    return worst


def _run_one(options: Options) -> int:
    """Run a command once; report whatever it raises."""
    try:
        name = options.command if options.command != "simulate" else options.command + " " + options.end
        status = _COMMANDS[name](options)
        sys.stdout.flush()
        return GOOD if status is None else int(status)
    except Exception as error:
        return _report(options, error)


def _several(options: Options) -> bool:
    """Whether the command was given more than one file."""
    return options.documents is not None


def _emit(options: Options, document: "Mapping[str, object]", out: "Optional[TextIO]" = None) -> None:
    """Print a JSON document; or keep it for the one that is printed for several files."""
    if _several(options):
        options.documents.append(dict(document, file=_name(options)))
    else:
        print_json(document, out, line=options.command == "scan")


def _report(options: Options, error: Exception) -> int:
    """Print an error, by --json as a document; returns the exit status."""
    status, messages = _verdict(options, error)
    if isinstance(error, BrokenPipeError):
        messages = []  # the reader of our output has seen enough
    if status == OWN_FAULT:
        import traceback
        traceback.print_exception(type(error), error, error.__traceback__)
    try:
        if options.json:
            _print_error(options, error, messages)
        sys.stdout.flush()
    except OSError:
        # stdout can't be written to. Python would complain once more at exit.
        _discard(sys.stdout)
    if not (options.json and getattr(options, "out", None) == "-"):
        for message in messages:
            _complain(message)
    return status


def _print_error(options: Options, error: Exception, messages: "List[str]") -> None:
    """The JSON document of an error; on stderr if stdout carries the output."""
    fields = error if isinstance(error, StreamError) else StreamError(messages[0] if messages else str(error))
    document = dict(fields.as_dict(), error=type(error).__name__, file=_name(options), ok=False)
    _emit(options, document, sys.stderr if getattr(options, "out", None) == "-" else None)


def _verdict(options: Options, error: Exception) -> "Tuple[int, List[str]]":
    """The exit status that an error means, and what to say about it."""
    if isinstance(error, StreamError):
        messages = ["{}: {}".format(_name(options), error)]
        if isinstance(error, LimitExceeded):
            if error.field != "length" and hasattr(options, "limit"):
                messages.append("--limit raises the limit on the guest's size")
            return LIMIT_REACHED, messages
        if error.record_type == "CHECKPOINT" and getattr(options, "checkpointed", True) is False:
            messages.append("--checkpointed reads a stream with checkpoints")
        return BAD_USE if options.command == "policy" else BAD_STREAM, messages
    if isinstance(error, ImportError):
        needed = {"numpy": "numpy", "PIL": "Pillow"}.get(error.name or "")
        return BAD_USE, ["{} is needed for this, and not installed".format(needed) if needed else str(error)]
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return BAD_USE, [reason if error.filename is None else "{}: {}".format(error.filename, reason)]
    if isinstance(error, (MemoryError, MissingPart)):
        return BAD_USE, [str(error) or "out of memory"]
    return OWN_FAULT, ["this is a bug in xstream {}, not in the stream; please report it".format(__version__)]


def _name(options: Options) -> str:
    """The input's name in messages."""
    file = getattr(options, "current", None) or getattr(options, "file", None) or getattr(options, "address", "-")
    return "stdin" if file == "-" else str(file)


class _Progress:
    """A progress bar on a terminal, if tqdm is installed; elsewhere nothing. It counts bytes; or ``images``."""

    #: Seconds before the bar appears. Most work is done by then and never imports tqdm.
    DELAY = 1.0

    def __init__(self, options: Options, images: "Optional[int]" = None) -> None:
        self._bar: Optional[tqdm] = None
        self._images = images
        self._total = _file_size(options.file) if images is None else images
        wanted = sys.stderr.isatty() and not options.json
        self._appears = time.monotonic() + self.DELAY if wanted else float("inf")

    def __enter__(self) -> "Callable[[int], None]":
        return self._update

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def _update(self, offset: int) -> None:
        if time.monotonic() >= self._appears:
            self._appears = float("inf")
            self._appear(offset)
        if self._bar is not None:
            self._bar.update(offset - self._bar.n)

    def _appear(self, offset: int) -> None:
        try:
            from tqdm import tqdm
        except ImportError:
            return
        unit = "B" if self._images is None else "image"
        self._bar = tqdm(total=self._total, initial=offset, unit=unit, unit_scale=self._images is None, leave=False)

    def hide(self) -> None:
        """Clear the bar's line for other output; the next update draws the bar again."""
        if self._bar is not None:
            self._bar.clear()


def _file_size(path: str) -> "Optional[int]":
    try:
        return (os.fstat(0) if path == "-" else os.stat(path)).st_size or None
    except OSError:
        return None


def _source(options: Options) -> "Union[str, int]":
    """What the tools read from: a path or stdin's descriptor."""
    return _input(options.file)


def _input(file: str) -> "Union[str, int]":
    return _STDIN if file == "-" else file


def _sink(options: Options) -> "Union[str, int]":
    """What the tools write to: a path, or stdout's descriptor. Raises FileExistsError for a file that exists, unless
    --force is given, and shutil.SameFileError for the input file, in any case."""
    from xstream.stream.sink import check_not_same_file
    if options.out == "-":
        check_not_same_file(_source(options), _STDOUT)
        return _STDOUT
    check_not_same_file(_source(options), options.out)
    return _new_file(options)


def _new_file(options: Options) -> str:
    """The path to write to. Raises FileExistsError for a file that exists, unless --force is given."""
    path: str = options.out
    _refuse_existing(path, options.force)
    return path


def _refuse_existing(path: str, force: bool) -> None:
    if not force and os.path.isfile(path):
        raise FileExistsError("{} exists; --force replaces it".format(path))


def _format(options: Options) -> "Dict[str, Any]":
    """The reader's arguments that every command has."""
    return {"format": options.format, "width": options.width and options.width // 8, "guest": options.guest,
            "limits": Limits(guest_pfns=-(-options.limit // _PAGE_SIZE))}


def _print_name(options: Options) -> None:
    """Print the file's name above its report, if there are several files."""
    if _several(options):
        if options.named:
            print()
        options.named = True
        print_text(_name(options) + ":")


def _info(options: Options) -> "Optional[int]":
    if options.records or options.record is not None:
        return _contents(options)
    from xstream.tools.info import info
    with _Progress(options) as progress:
        report = info(_source(options), **_format(options), progress=progress)
    error = report.error
    if options.json:
        _emit(options, _with_error(report, error, records=[row._asdict() for row in report.records],
                                   layers=plain_layers(report.layers)))
    else:
        _print_name(options)
        print_info(report)
    if error is None:
        return None
    sys.stdout.flush()
    return _complain_of(options, error)


def _with_error(report: NamedTuple, error: "Optional[StreamError]", **fields: object) -> "Dict[str, object]":
    """The JSON document of a report whose field ``error`` says what ended the reading; ``fields`` replace others."""
    document: Dict[str, object] = dict(report._asdict(), ok=error is None, **fields)
    del document["error"]
    return document if error is None else dict(error.as_dict(), **document)


def _complain_of(options: Options, error: Exception) -> int:
    """Print an error that a report contains; returns the exit status."""
    status, messages = _verdict(options, error)
    for message in messages:
        _complain(message)
    return status


def _contents(options: Options) -> "Optional[int]":
    from xstream.tools.contents import contents
    faults: List[str] = []
    shown = 0
    met: Optional[StreamError] = None

    def rows(found: "Iterable[RecordContents]") -> "Iterator[RecordContents]":
        nonlocal shown
        for shown, row in enumerate(found, 1):  # noqa: B007
            faults.extend([row.fault] if row.fault and row.fault not in faults else [])
            yield row

    def judged() -> "Tuple[int, str]":
        if options.record is not None and not shown:
            return BAD_USE, "no such record"
        if faults:
            return (LIMIT_REACHED if faults == [LimitExceeded.__name__] else BAD_STREAM,
                    "records that can't be parsed: see the fields named error")
        return GOOD, ""

    def end(error: "Optional[StreamError]") -> "Dict[str, object]":
        nonlocal met
        met = error
        if error is not None:
            return dict(error.as_dict(), ok=False)
        status, message = judged()
        return dict(wrong_use(message) if status == BAD_USE else {}, ok=status == GOOD)

    with _Progress(options) as progress:
        found = rows(contents(_source(options), options.record, **_format(options), progress=progress))
        if not options.json:
            _print_name(options)
            for row in found:
                print_contents(row, whole=options.record is not None)
        elif _several(options):
            every: List[Dict[str, object]] = []
            try:
                every.extend(row._asdict() for row in found)
                rest = end(None)
            except StreamError as error:
                rest = end(error)
            _emit(options, dict(rest, contents=every))
        else:
            print_contents_json(found, end)
    if met is not None:
        return _complain_of(options, met)
    status, message = judged()
    if message:
        _complain(message)
    return status


def _verify(options: Options) -> "Optional[int]":
    from xstream.tools.verify import verify
    try:
        with _Progress(options) as progress:
            report = verify(_source(options), **_format(options), strict=options.strict,
                            checkpointed=options.checkpointed, progress=progress)
    except (StreamError, OSError) as error:
        if options.json or not _several(options):
            raise
        status, _ = _verdict(options, error)
        print_text("{}: {}: {}".format(_name(options), VERDICTS[status], getattr(error, "strerror", None) or error))
        return status
    if options.json:
        _emit(options, dict(report._asdict(), ok=True, layers=plain_layers(report.layers)))
    elif not options.quiet:
        print_verified(report, _name(options) if _several(options) else "")
    return None


def _extract(options: Options) -> "Optional[int]":
    if options.to != "raw" or options.pfns is not None:
        return _export(options)
    from xstream.tools.extract import extract
    with _Progress(options) as progress:
        report = extract(_source(options), _sink(options), salvage=options.salvage, **_format(options),
                         checkpointed=options.checkpointed, progress=progress, jobs=_threads(options),
                         sparse=not options.no_sparse)
    error = report.error
    if options.json and options.out != "-":
        print_json(_with_error(report, error))
    if error is None:
        _complain_of_unread(options, report)
        return None
    sys.stdout.flush()
    status = _complain_of(options, error)
    _complain("salvaged {} pages; {}".format(report.populated, _missing_ranges(report)))
    return status


def _export(options: Options) -> "Optional[int]":
    if options.salvage:
        message = "--salvage writes raw images of all memory: not with --to or --pfns"
        if options.json and options.out != "-":
            print_json(wrong_use(message))
        _complain(message)
        return BAD_USE
    from xstream.convert.exports import export
    with _Progress(options) as progress:
        report = export(_source(options), _sink(options), to=options.to, pfns=options.pfns, **_format(options),
                        checkpointed=options.checkpointed, progress=progress, sparse=not options.no_sparse)
    if options.json and options.out != "-":
        print_json(report._asdict())
    if report.problem is not None:
        _complain("no registers: " + report.problem)
    return None


def _complain_of_unread(options: Options, report: "Union[Converted, DigestReport, ExtractReport]") -> None:
    """Say what followed the memory and could not be read."""
    if report.unread and not getattr(options, "quiet", False):
        _complain("not read: " + report.unread)


def _threads(options: Options) -> int:
    from xstream.stream.threads import usable_cpus
    return int(options.jobs) or min(usable_cpus(), MOST_JOBS)


def _missing_ranges(report: "ExtractReport") -> str:
    if not report.missing:
        return "no PFN below the highest one is missing; higher ones may be"
    ranges = ["{:#x}-{:#x}".format(first, first + count - 1) for first, count in report.missing[:_SHOWN_RANGES]]
    more = ", ..." if len(report.missing) > _SHOWN_RANGES else ""
    return "missing: {} PFNs: {}{}".format(report.missing_pages, ", ".join(ranges), more)


def _digest(options: Options) -> None:
    from xstream.tools.digest import digest, page_digests
    arguments = dict(_format(options), checkpointed=options.checkpointed,
                     jobs=_threads(options))
    if options.pages:
        with _Progress(options) as progress:
            pairs = page_digests(_source(options), progress=progress, **arguments)
        if options.json:
            _emit(options, {"pages": {str(pfn): "{:08x}".format(crc) for pfn, crc in pairs}})
        else:
            _print_name(options)
            sys.stdout.writelines("{:#x} {:08x}\n".format(pfn, crc) for pfn, crc in pairs)
        return
    with _Progress(options) as progress:
        report = digest(_source(options), progress=progress, **arguments)
    shown = dict(report._asdict(), crc32c="{:08x}".format(report.crc32c),
                 pages_crc32c="{:08x}".format(report.pages_crc32c))
    if options.json:
        _emit(options, shown)
        return
    del shown["unread"]
    _print_name(options)
    shown["bytes"] = human_size(report.bytes).replace(" bytes", "", 1)
    for name, value in shown.items():
        print_text("{:13} {}".format(name, "not computed: holes too large" if value is None else value))
    _complain_of_unread(options, report)


def _diff(options: Options) -> "Optional[int]":
    from xstream.tools.diff import diff
    with _Progress(options) as progress:
        report = diff(_source(options), _input(options.other), progress=progress,
                      jobs=_threads(options), **_format(options))
    if options.json:
        print_json(dict(report._asdict(), same=report.same, state=[row._asdict() for row in report.state]))
    else:
        print_diff(report)
    return GOOD if report.same else BAD_STREAM


def _map(options: Options) -> None:
    from xstream.tools.draw import draw_memory
    against = None if options.against is None else _input(options.against)
    with _Progress(options) as progress:
        drawn = draw_memory(_source(options), _sink(options), against=against, progress=progress,
                            jobs=_threads(options), **_format(options))
    if options.json and options.out != "-":
        print_json(drawn._asdict())


def _policy(options: Options) -> "Optional[int]":
    from xstream.tools.policy import compare_policies
    first = _read_policy(options, options.file)
    if options.other is None:
        _one_policy(options, first)
        if first.error is not None:
            return _verdict(options, first.error)[0]
        return GOOD if first else BAD_USE
    report = compare_policies(first, _read_policy(options, options.other))
    if options.json:
        print_json({"compatible": report.compatible, "reasons": list(report.reasons), "lost": list(report.lost),
                    "notes": list(report.notes), "cpuid": [row._asdict() for row in report.cpuid],
                    "msr": [row._asdict() for row in report.msr]})
    else:
        print_differences(report)
    return {True: GOOD, False: BAD_STREAM, None: BAD_USE}[report.compatible]


def _read_policy(options: Options, file: str) -> "Policy":
    """The policies of one of the files. What ended the reading after them is reported, and doesn't matter."""
    from xstream.tools.policy import policy
    options.current = file
    with _Progress(options) as progress:
        found = policy(_input(file), **_format(options), progress=progress)
    if found.error is not None:
        _complain_of(options, found.error)
    return found


def _one_policy(options: Options, policy: "Policy") -> None:
    from xstream.tools.contents import cpuid_contents, msrs_contents
    if options.json:
        good = bool(policy) and policy.error is None
        print_json(dict({} if policy.error is None else policy.error.as_dict(), ok=good, version=policy.version,
                        cpuid=cpuid_contents(policy.leaves), msrs=msrs_contents(policy.msrs)))
    else:
        print_policy(policy)


def _scan(options: Options) -> int:
    import contextlib

    from xstream.fleet.duplicates import Duplicates
    from xstream.fleet.scanning import find_all, iterate
    outputs = [path for path in (options.csv, options.parquet) if path]
    for path in outputs:
        _refuse_existing(path, options.force)
    own = {os.path.abspath(path) for path in outputs + ([options.cache] if options.cache else [])}
    places = [place for place in find_all(options.images) if os.path.abspath(place.path) not in own]
    duplicates = Duplicates()
    found = []
    progress = _Progress(options, len(places))
    with progress as update, contextlib.ExitStack() as stack:
        client = None if options.dask is None else stack.enter_context(_dask_client(options.dask))
        for number, record in enumerate(iterate(
                places, _scan_settings(options), jobs=options.jobs or None, cache=options.cache, client=client), 1):
            if record.sample is not None:
                duplicates.add(record.sample)
            found.append(record._replace(sample=None))
            progress.hide()
            if options.json:
                print_json(dict(record.as_dict(), ok=record.status == GOOD), line=True)
            elif record.status or not options.quiet:
                print_scanned(record)
            sys.stdout.flush()
            update(number)
    found.sort(key=lambda record: record.path)  # images are done in any order
    _write_tables(options, found)
    report = duplicates.report() if options.duplicates else None
    if options.json and report is not None:
        print_json({"duplicates": report._asdict()}, line=True)
    elif not options.json and not options.quiet:
        print_scan(found, report)
    if not found:
        _complain("no images found")
        return BAD_USE
    return max(record.status for record in found)


def _scan_settings(options: Options) -> "Settings":
    from xstream.fleet.image import Settings
    from xstream.fleet.scanning import read_policy
    options.current = options.against
    against = None if options.against is None else read_policy(options.against)
    return Settings(Limits(guest_pfns=-(-options.limit // _PAGE_SIZE)), options.strict, options.checkpointed,
                    options.digest, options.duplicates, against)


def _dask_client(address: str) -> "Client":
    try:
        from distributed import Client
    except ImportError:
        raise ImportError("--dask needs the package distributed: install xen-xstream[fleet]")
    return Client(address)


def _write_tables(options: Options, found: "List[ImageRecord]") -> None:
    from xstream.fleet.tables import write_csv, write_parquet
    if options.csv:
        write_csv(found, options.csv)
    if options.parquet:
        write_parquet(found, options.parquet)


def _convert(options: Options) -> "Optional[int]":
    from xstream.convert.conversion import convert
    with _Progress(options) as progress:
        report = convert(_source(options), _sink(options), to=options.to, config=_contents_of(options.config),
                         device_model=_contents_of(options.device_model), no_device_model=options.no_device_model,
                         squash=options.squash, last_checkpoint=options.last_checkpoint,
                         checkpointed=options.checkpointed, progress=progress, jobs=_threads(options),
                         sparse=not options.no_sparse, compress=options.compress, **_format(options))
    if options.json and options.out != "-":
        print_json(report._asdict())
    if report.dropped and not options.quiet:
        _complain("dropped (no equivalent in the output format): " + ", ".join(report.dropped))
    _complain_of_unread(options, report)
    return None


def _contents_of(path: "Optional[str]") -> "Optional[bytes]":
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()


def _save(options: Options) -> None:
    from xstream.xen.snapshot import snapshot
    saved = snapshot(options.domain, _STDOUT if options.out == "-" else _new_file(options), live=options.live,
                     container=None if options.container == "libxc" else options.container,
                     sparse=not options.no_sparse, compress=options.compress)
    if options.json:
        print_json(dict(saved._asdict(), rounds=[last._asdict() for last in saved.rounds]), sys.stderr)


def _simulate_send(options: Options) -> None:
    from xstream.guest.policies import downtime_policy, xen_policy
    from xstream.guest.rounds import Round
    from xstream.guest.simulated import SimulatedGuest
    from xstream.tools.simulate import send
    # The stream itself may be on stdout.
    out = sys.stderr if options.address == "-" else sys.stdout

    def show(last: Round) -> None:
        if not options.json:
            print("round {0.number}, {0.phase}: {0.pages} pages, {0.bytes} bytes in {0.seconds:.3f} s, {1:.0f} MiB/s{2}"
                  .format(last, last.rate / (1 << 20), "" if last.downtime is None else
                          "; {} dirty, would take {:.1f} ms".format(last.dirty, last.downtime * 1000)), file=out)

    guest = SimulatedGuest(options.guest, max(options.memory // _PAGE_SIZE, 64), options.seed, dirty=options.dirty)
    policy = xen_policy() if options.downtime is None else downtime_policy(options.downtime)
    report = _with_address(options, lambda: send(
        guest, options.address, live=not options.cold, policy=policy, verify=options.verify, on_round=show))
    saved = report.saved
    if options.json:
        rounds = [dict(last._asdict(), rate=last.rate, downtime=last.downtime) for last in saved.rounds]
        print_json(dict(saved._asdict(), rounds=rounds, contents="{:08x}".format(report.contents)), out)
        return
    print("sent {} bytes, downtime {:.1f} ms; CRC32C of the contents {:08x}".format(
        saved.bytes, saved.downtime * 1000, report.contents), file=out)


def _simulate_receive(options: Options) -> None:
    from xstream.guest.simulated import SimulatedGuest
    from xstream.tools.simulate import receive

    def listening(address: str) -> None:
        print("listening on " + address, file=sys.stderr, flush=True)

    guest = SimulatedGuest.empty(options.guest)
    report = _with_address(options, lambda: receive(guest, options.address, listening=listening))
    restored = report.restored
    if options.json:
        print_json({"pages": restored.pages, "bytes": restored.bytes, "populated": report.populated,
                     "differing": restored.differing, "contents": "{:08x}".format(report.contents)})
        return
    print("restored {} pages from {} bytes, {} PFNs populated; CRC32C of the contents {:08x}".format(
        restored.pages, restored.bytes, report.populated, report.contents))
    if restored.differing:
        print("pages that differ from those sent for comparison: PFNs " + ", ".join(map(hex, restored.differing)))


def _with_address(options: Options, run: "Callable[[], T]") -> "T":
    """Call ``run``; an invalid address, or another kind of guest than asked for, is a usage error."""
    from xstream.guest.guest import GuestError
    try:
        return run()
    except (GuestError, ValueError) as error:
        raise OSError(str(error))


_COMMANDS: "Dict[str, Callable[[Options], Optional[int]]]" = {
    "info": _info, "verify": _verify, "extract": _extract, "digest": _digest, "diff": _diff, "map": _map,
    "policy": _policy, "scan": _scan, "convert": _convert, "save": _save, "simulate send": _simulate_send,
    "simulate receive": _simulate_receive,
}


def _complain(text: str) -> None:
    try:
        print("xstream: " + printable(text), file=sys.stderr)
    except (OSError, ValueError):
        pass  # nothing can be said if stderr can't be written to

"""The claim: version 3 against the legacy format, for guests of every size, saved and restored."""
import contextlib
import os
from typing import Callable, Dict, Iterator, NamedTuple, Sequence, Tuple

from xstream.bench import machine
from xstream.bench.guests import BenchGuest, seeded_guest, write_legacy, write_stream
from xstream.bench.partner import Partner, connection, pipe
from xstream.bench.workloads import OURS, Side, Work, Workload
from xstream.guest.load import load
from xstream.stream.sink import SplicingSink
from xstream.wire.libxc import PAGE_SIZE

PIPE, SOCKET, FILE, NULL = "pipe", "socket", "file", "/dev/null"
_ENDS: Dict[str, Callable[[], Tuple[int, int]]] = {PIPE: pipe, SOCKET: connection}
_GUEST_NAMES = {"hvm": "HVM", "pv": "PV"}
#: From this size on only the main forms and places are measured: the whole matrix would take too long.
LARGE = 1 << 30
#: Bytes allocated to a file at a time.
_TURN = 64 << 10


class Form(NamedTuple):
    """A way to write a stream: its name, what it does, and a function that does it."""

    name: str
    what: str
    write: Callable[[BenchGuest, int], object]
    #: Forms of one format write the same bytes.
    format: str


class Case(NamedTuple):
    """One comparison of the claim: all forms for one guest, size, and place to write to or read from. ``sizes``: the
    bytes of each side's stream."""

    verb: str
    guest: str
    size: int
    where: str
    workload: Workload
    sizes: Sequence[int]


def _write_by_object(guest: BenchGuest, fd: int) -> None:
    with open(fd, "wb", buffering=0, closefd=False) as file:
        write_stream(guest, file)


def _legacy(width: int, gathered: bool) -> Form:
    name = "legacy{}".format(8 * width)
    how = "a batch by one writev" if gathered else "as the old code did: count, PFN words and each run of pages alone"
    return Form("{} {}".format(name, "writev" if gathered else "write"),
                "the legacy format of a {}-bit toolstack, {}".format(8 * width, how),
                lambda guest, fd: write_legacy(guest, fd, width, gathered), name)


#: The others are compared with the first.
FORMS = (
    Form("v3 writev", "version 3 by writev, pages straight out of the guest", write_stream, "v3"),
    Form("v3 vmsplice", "version 3 by vmsplice, pages by reference",
         lambda guest, fd: write_stream(guest, SplicingSink(fd)), "v3"),
    Form("v3 write", "version 3 through an object with write(), a batch's pages gathered first", _write_by_object,
         "v3"),
    _legacy(8, False), _legacy(8, True), _legacy(4, False), _legacy(4, True),
)
SPLICED = "v3 vmsplice"
#: Those that are measured for large guests too.
_KEY_FORMS = ("v3 writev", "v3 vmsplice", "legacy64 write")


class Claim:
    """All cases of one guest. It is saved over an existing stream of itself and restored into its own memory, so that
    nothing changes. Call ``close`` to remove its files."""

    def __init__(self, kind: str, size: int, partner: Partner) -> None:
        self.guest = seeded_guest(size // PAGE_SIZE, kind)
        self._size = size
        self._partner = partner
        self._forms = [form for form in FORMS if size < LARGE or form.name in _KEY_FORMS]
        formats = {form.format: form for form in reversed(self._forms)}
        self._cleanup = contextlib.ExitStack()
        self._folder = self._cleanup.enter_context(machine.scratch(len(formats) * size))
        self._streams = self._make_streams(list(formats.values()))

    def close(self) -> None:
        """Remove the files."""
        self._cleanup.close()

    def cases(self) -> Iterator[Case]:
        """All cases, in order. Measure each before the next: the forms of a save to a file replace the stream there."""
        for name, (verb, where) in case_names(self.guest.kind, self._size).items():
            yield self._case(name, verb, where)
            if (verb, where) == ("save", FILE):
                self._write(self._forms[0], self._streams[self._forms[0].format])  # the other forms have replaced it

    def _case(self, name: str, verb: str, where: str) -> Case:
        if verb == "save":
            forms = [form for form in self._forms if form.name != SPLICED or where == PIPE]
            formats = [form.format for form in forms]
            sides = [Side(form.name, form.what, self._save(form, where), OURS) for form in forms]
        else:
            formats = list(dict.fromkeys(form.format for form in self._forms))
            sides = [Side(format_, "a {} stream into the memory that it was made of".format(format_),
                          self._restore(format_, where), OURS) for format_ in formats]
        return Case(verb, self.guest.kind, self._size, where, Workload(name, self._size, tuple(sides)),
                    [os.stat(self._streams[format_]).st_size for format_ in formats])

    def _save(self, form: Form, where: str) -> Work:
        def write(fd: int) -> None:
            form.write(self.guest, fd)

        def to_path(path: str) -> None:
            with _opened(path) as fd:
                write(fd)
        if where in _ENDS:
            return lambda: self._partner.take(_ENDS[where](), write)
        # All forms write to the same file: in two files, the same bytes can take 8 % longer in one of them.
        return lambda: to_path(self._streams[self._forms[0].format] if where == FILE else os.devnull)

    def _restore(self, name: str, where: str) -> Work:
        path = self._streams[name]
        if where in _ENDS:
            return lambda: self._partner.give(_ENDS[where](), path, lambda fd: load(fd, self.guest.memory))
        return lambda: load(path, self.guest.memory)

    def _make_streams(self, forms: Sequence[Form]) -> Dict[str, str]:
        """A file for each form. Their memory is allocated in turns, because some of a machine's memory is faster."""
        paths = {form.format: os.path.join(self._folder, form.format) for form in forms}
        with contextlib.ExitStack() as opened:
            fds = [opened.enter_context(_opened(paths[form.format])) for form in forms]
            for offset in range(0, self._size, _TURN):
                for fd in fds:
                    os.posix_fallocate(fd, offset, _TURN)
        for form in forms:
            self._write(form, paths[form.format])
        return paths

    def _write(self, form: Form, path: str) -> None:
        with _opened(path) as fd:
            form.write(self.guest, fd)
            os.ftruncate(fd, os.lseek(fd, 0, os.SEEK_CUR))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def case_names(kind: str, size: int) -> Dict[str, Tuple[str, str]]:
    """The verb and place of each case of a guest of this kind and size, by name."""
    saves, restores = ((PIPE, FILE), (PIPE, FILE)) if size >= LARGE else ((PIPE, SOCKET, FILE, NULL),
                                                                          (PIPE, SOCKET, FILE))
    guest = _GUEST_NAMES[kind] + " " + size_name(size)
    return {**{"save {} to {}".format(guest, where): ("save", where) for where in saves},
            **{"restore {} from {}".format(guest, where): ("restore", where) for where in restores}}


def size_name(size: int) -> str:
    """A size with its unit, as in "64 MiB"."""
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << shift:
            return "{:g} {}".format(size / (1 << shift), unit)
    return "{} bytes".format(size)


def room_for(size: int) -> int:
    """Bytes of memory that the claim needs for a guest of this size: the guest, its streams in both formats, and some
    reserve."""
    return 4 * size

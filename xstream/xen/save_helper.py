"""``xstream-save-helper``: runs instead of Xen's libxl-save-helper, so that xl and libvirt save, restore and migrate
domains through xstream.

libxl creates the domain, suspends the guest, talks to QEMU and writes its own records around the memory stream; the
helper reads and writes the memory stream. ``LIBXL_SAVE_HELPER=/usr/bin/xstream-save-helper xl migrate ...`` turns it on
for one command.

Source: tools/libs/light/libxl_save_callout.c and libxl_save_helper.c of Xen 4.12 to 4.22.
"""
import errno
import os
import struct
import sys

from xstream.tuples import NamedTuple
from xstream.version import __version__
from xstream.xen import libxl
from xstream.xen.domain import Toolstack, XenGuest
from xstream.xen.libxl import Libxl
from xstream.xen.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Callable, List, Optional, Union

    from xstream.guest.rounds import Round

_USAGE = "xstream-save-helper: libxl starts this program; set LIBXL_SAVE_HELPER to its path (see its man page)"
# Stream types: xc_stream_type_t of xenguest.h.
_PLAIN, _REMUS, _COLO = range(3)
# Flags of a save: XCFLAGS_* of xenguest.h.
_LIVE, _DEBUG = 1, 2
#: What libxl's checkpoint callback returns to go on.
_GO_ON = 1
#: Progress is reported when it has moved by this part of the whole.
_PROGRESS_STEPS = 100


class SaveRequest(NamedTuple):
    """The arguments of a save. ``old``: they are in the form of Xen 4.12 and 4.13."""

    io_fd: int
    receive_fd: int
    domid: int
    flags: int
    callbacks: int
    stream_type: int
    old: bool


class RestoreRequest(NamedTuple):
    """The arguments of a restore. ``old``: they are in the form of Xen 4.12 and 4.13."""

    io_fd: int
    send_back_fd: int
    domid: int
    store_evtchn: int
    store_domid: int
    console_evtchn: int
    console_domid: int
    callbacks: int
    stream_type: int
    old: bool


def main(arguments: "Optional[List[str]]" = None) -> int:
    """Do what libxl asks for; returns the exit status: 0 if the result has been sent to libxl, 2 for a usage error."""
    words = sys.argv[1:] if arguments is None else arguments
    request = parse(words)
    if request is None:
        print(_USAGE, file=sys.stderr)
        return 2
    parent = Libxl(request.callbacks, old=request.old)
    parent.log(libxl.DEBUG, "xstream {}: {}".format(__version__, " ".join(words)))
    try:
        if request.stream_type == _COLO:
            raise NotImplementedError("xstream-save-helper doesn't support COLO; use Xen's own helper for it")
        if isinstance(request, SaveRequest):
            _save(parent, request)
        else:
            _restore(parent, request)
    except Exception as error:
        parent.log(libxl.ERROR, _described(error))
        parent.complete(-1, getattr(_os_error(error), "errno", None) or errno.EIO)
        return 0
    parent.complete(0, 0)
    return 0


def parse(words: "List[str]") -> "Union[SaveRequest, RestoreRequest, None]":
    """The request in a command line, or None. Up to Xen 4.13 libxl passes one more number before the callback flags to
    save (hvm), two to restore (hvm, pae)."""
    mode, numbers = (words[0], words[1:]) if words else ("", [])
    if not all(number.lstrip("-").isdigit() for number in numbers):
        return None
    values = [int(number) for number in numbers]
    if mode == "--save-domain" and len(values) in (6, 7):
        io_fd, receive_fd, domid, flags = values[:4]
        return SaveRequest(io_fd, receive_fd, domid, flags, values[-2], values[-1], len(values) == 7)
    if mode == "--restore-domain" and len(values) in (9, 11):
        io_fd, send_back_fd, domid, store_evtchn, store_domid, console_evtchn, console_domid = values[:7]
        return RestoreRequest(io_fd, send_back_fd, domid, store_evtchn, store_domid, console_evtchn, console_domid,
                              values[-2], values[-1], len(values) == 11)
    return None


class _LibxlToolstack(Toolstack):
    """libxl as the toolstack of the domain."""

    def __init__(self, parent: Libxl, domid: int, stream_type: int) -> None:
        self._parent = parent
        self._domid = domid
        self._stream_type = stream_type

    def suspend(self) -> None:
        self._want(libxl.SUSPEND, "suspend the guest")

    def resume(self) -> None:
        # After a plain save, good or failed, libxl resumes the guest itself.
        if self._stream_type != _PLAIN:
            self._want(libxl.POSTCOPY, "resume the guest after a checkpoint")

    def qemu_log_dirty(self, on: bool) -> None:
        if self._parent.ask(libxl.SWITCH_QEMU_LOGDIRTY, struct.pack("<2I", self._domid, on), default=0):
            raise OSError(errno.EIO, "libxl couldn't turn QEMU's log-dirty mode {}".format("on" if on else "off"))

    def static_data_done(self, missing: int) -> None:
        if self._parent.ask(libxl.STATIC_DATA_DONE, struct.pack("<I", missing), default=0):
            raise OSError(errno.EIO, "libxl couldn't make up the CPU policy that the stream lacks")

    def _want(self, callback: int, what: str) -> None:
        if not self._parent.ask(callback):
            raise OSError(errno.EIO, "libxl couldn't " + what)


def _save(parent: Libxl, request: SaveRequest) -> None:
    from xstream.guest.save import save
    settings = Settings.from_environment(os.environ)
    terminated = _fail_writes_on_sigterm(request.io_fd)
    guest = XenGuest(request.domid, _LibxlToolstack(parent, request.domid, request.stream_type))
    parent.log(libxl.INFO, "saving domain {} ({}, Xen {}.{})".format(request.domid, guest.kind, *guest.xen_version))
    remus = request.stream_type == _REMUS
    try:
        live = bool(request.flags & _LIVE)
        saved = save(guest, request.io_fd, live=live, policy=settings.policy() if live else None,
                     verify=bool(request.flags & _DEBUG) and not remus,
                     checkpoint=(lambda number: parent.ask(libxl.CHECKPOINT) == _GO_ON) if remus else None,
                     on_round=lambda last: parent.log(libxl.INFO, round_line(last)),
                     progress=_reported(parent), memory_crc=settings.memory_crc)
    except Exception:
        if terminated():
            raise InterruptedError(errno.EINTR, "terminated: the save was abandoned")
        raise
    parent.log(libxl.INFO, "saved: {} bytes, {} checkpoints, {:.0f} ms under suspension".format(
        saved.bytes, saved.checkpoints, 1000 * saved.downtime))
    _log_memory_crc(parent, saved.memory_crc)


def _restore(parent: Libxl, request: RestoreRequest) -> None:
    from xstream.guest.restore import restore
    settings = Settings.from_environment(os.environ)
    guest = XenGuest(request.domid, _LibxlToolstack(parent, request.domid, request.stream_type),
                     store_evtchn=request.store_evtchn, store_domid=request.store_domid,
                     console_evtchn=request.console_evtchn, console_domid=request.console_domid)
    parent.log(libxl.INFO, "restoring domain {} ({}, Xen {}.{})".format(request.domid, guest.kind, *guest.xen_version))
    restored = restore(request.io_fd, guest, checkpointed=request.stream_type == _REMUS, exact=True,
                       checkpoint=lambda number: parent.ask(libxl.CHECKPOINT) == _GO_ON,
                       memory_crc=settings.memory_crc)
    if restored.failover is not None:
        parent.log(libxl.WARN, "failover to checkpoint {}: {}".format(restored.checkpoints,
                                                                      _described(restored.failover)))
    if restored.differing:
        parent.log(libxl.ERROR, "verification: {} pages differ, the first at PFN {:#x}".format(
            len(restored.differing), restored.differing[0]))
    parent.log(libxl.INFO, "restored: {} pages from {} bytes".format(restored.pages, restored.bytes))
    _log_memory_crc(parent, restored.memory_crc)
    completed = restored.completed
    parent.restore_results(completed.store_frame or 0, completed.console_frame or 0)


def _log_memory_crc(parent: Libxl, crc: "Optional[int]") -> None:
    if crc is not None:
        parent.log(libxl.INFO, "memory CRC32C {:08x}".format(crc))


def round_line(last: "Round") -> str:
    """One round of a save as a log line: pages, rate, dirty PFNs, and the downtime that these would take."""
    line = "round {} ({}): {} pages, {:.1f} MiB in {:.2f} s, {:.1f} MiB/s".format(
        last.number, last.phase, last.pages, last.bytes / 2 ** 20, last.seconds, last.rate / 2 ** 20)
    if last.dirty is not None:
        line += ", {} PFNs dirty".format(last.dirty)
    if last.downtime is not None:
        line += ", predicted downtime {:.0f} ms".format(1000 * last.downtime)
    return line


def _reported(parent: Libxl) -> "Callable[[int, int], None]":
    """A progress function that reports each percent once."""
    last = -1

    def report(done: int, total: int) -> None:
        nonlocal last
        step = _PROGRESS_STEPS * done // total if total else _PROGRESS_STEPS
        if step != last:
            last = step
            parent.progress("memory", done, total)

    return report


def _fail_writes_on_sigterm(io_fd: int) -> "Callable[[], bool]":
    """From SIGTERM on, writes to the stream fail, so that the save rolls back between two of libxl's callbacks, never
    within one. Returns a function that says whether SIGTERM has come."""
    # The module signal itself is the same with enums around it, which take time to load.
    import _signal as signal  # type: ignore[import-not-found]
    unwritable = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    came: List[int] = []

    def handler(number: int, frame: "Optional[FrameType]") -> None:
        came.append(number)
        os.dup2(unwritable, io_fd)

    signal.signal(signal.SIGTERM, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    return lambda: bool(came)


def _os_error(error: BaseException) -> "Optional[OSError]":
    """The OSError that caused an error, or None."""
    cause: Optional[BaseException] = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    return cause


def _described(error: BaseException) -> str:
    return "{}: {}".format(type(error).__name__, error)


if __name__ == "__main__":
    sys.exit(main())

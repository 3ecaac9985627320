"""The conformance tests: a backend goes through every hook, in every order in which the engines call them."""
import contextlib
import io
import os
import threading
from typing import Any, Callable, Container, Dict, Iterable, Iterator, Optional, Sequence, Tuple, Union
from unittest import SkipTest

from xstream.errors import StreamError
from xstream.guest.guest import Cancelled, Guest, GuestError, HookError
from xstream.guest.load import load
from xstream.guest.memory import GuestMemory
from xstream.guest.policies import Decision
from xstream.guest.restore import restore
from xstream.guest.rounds import Round
from xstream.guest.save import save
from xstream.guest.simulated import SimulatedGuest
from xstream.kernels import checksum
from xstream.testing.checked import CheckedGuest, InjectedFailure, Violation
from xstream.wire.libxc import PAGE_SIZE

#: The hooks whose results the engines can find fault with only later.
_CULPRITS = {"hvm": "pfn_end", "pv": "m2p, shared_info, page_types or state_records"}
#: Live rounds and checkpoints of each test.
_ROUNDS = 3


class GuestTests:
    """Tests of a backend. Derive from it, define :meth:`source`, :meth:`target` or both, and have pytest or unittest
    collect the class:

        class TestMyGuest(xstream.testing.GuestTests):
            def source(self):
                return MyGuest.booted()

            def target(self):
                return MyGuest.empty()

    A test raises :class:`Violation`, which names the hook and the rule. Tests of hooks that aren't defined are skipped.
    """

    #: Number of PFNs of the guests that are restored into ``target()``.
    pages = 600
    #: Word sizes of the PV guests that are restored into ``target()``.
    widths: Sequence[int] = (8, 4)
    #: Whether the backend can track dirty PFNs while the guest runs, and can resume a suspended guest.
    live = True
    checkpoints = True
    #: Whether a restored HVM guest can be tracked, suspended and resumed, as COLO needs.
    colo = False
    #: PFNs that others (device models, console and xenstore daemons) may write to while the guest is suspended.
    volatile: Container[int] = ()

    def source(self) -> Guest:
        """A running guest to save; each call returns one that nothing has been done with."""
        raise SkipTest("not applicable: no source() to save")

    def target(self) -> Guest:
        """A guest to restore into; each call returns an empty one."""
        raise SkipTest("not applicable: no target() to restore into")

    def change(self, guest: Guest) -> Iterable[int]:
        """Make a running source write to some of its pages, and return their PFNs. Called after live rounds. Default:
        nothing, for sources that change by themselves, or can't be made to."""
        return ()

    # Saving

    def test_cold_save(self) -> None:
        """Suspend, then send."""
        self._save(self.source())

    def test_live_save(self) -> None:
        """Rounds while the guest runs."""
        self._need(self.live, "live saves")
        self._save(self.source(), live=True)

    def test_verified_save(self) -> None:
        """Everything is sent twice, and the second time is the same as the first."""
        self._need(self.live, "live saves")
        self._save(self.source(), live=True, verify=True)

    def test_checkpoints(self) -> None:
        """The guest is suspended and resumed several times; afterwards it runs and can be saved again."""
        self._need(self.checkpoints, "checkpoints")
        guest = self.source()
        self._save(guest, live=self.live, checkpoint=lambda number: number < _ROUNDS)
        self._save(guest)

    def test_cancelled_save(self) -> None:
        """The caller stops the save, while the guest runs and once it is suspended; the guest stays usable."""
        for live in (False, True) if self.live else (False,):
            guest = self.source()
            checked = CheckedGuest(guest, volatile=self.volatile)
            # Cold, the guest is suspended by the time the first batch is sent.
            try:
                _run(checked, lambda: save(checked, io.BytesIO(), live=live, cancelled=lambda: True))  # noqa: B023
            except Cancelled:
                self._check_usable(guest, "resume", "after a save has been cancelled")

    def test_failures_while_saving(self) -> None:
        """Each hook fails, at several of its calls; the guest stays usable."""
        checked, _ = self._save(self.source(), live=self.live)
        for hook, number in _calls(checked):
            self._fail_while_saving(hook, number, live=self.live)
        if self.checkpoints:
            self._fail_while_saving("resume", 1, live=self.live, checkpoint=lambda number: True)

    def _save(self, guest: Guest, **options: Any) -> Tuple[CheckedGuest, bytes]:
        """Save a guest and compare the stream with its memory."""
        checked = CheckedGuest(guest, volatile=self.volatile)
        out = io.BytesIO()

        def change(last: Round) -> None:
            if last.phase == "live":
                list(self.change(guest))

        _run(checked, lambda: save(checked, out, policy=_policy, on_round=change, **options))
        data = out.getvalue()
        memory = GuestMemory()
        loaded = load(data, memory, checkpointed="checkpoint" in options)
        differing = [pfn for pfn in loaded.differing if pfn not in self.volatile]
        if differing:
            raise Violation("suspend", "memory must not change while the guest is suspended",
                            "PFN {:#x}".format(differing[0]))
        self._compare(checked, memory, "read_dirty" if options.get("live") else "map_pages")
        return checked, data

    def _compare(self, checked: CheckedGuest, memory: GuestMemory, hook: str) -> None:
        for pfn, crc in checked.memory.items():
            page = memory.buffer[pfn * PAGE_SIZE:(pfn + 1) * PAGE_SIZE]
            if checksum.crc32c(page) != crc and pfn not in self.volatile:
                raise Violation(hook, "the stream has to end in the memory of the suspended guest; a page that changes "
                                      "while the guest runs has to be dirty", "PFN {:#x}".format(pfn))

    def _fail_while_saving(self, hook: str, number: int, **options: Any) -> None:
        guest = self.source()
        checked = CheckedGuest(guest, fail=(hook, number), volatile=self.volatile)
        _run_failing(checked, lambda: save(checked, io.BytesIO(), policy=_policy, **options))
        if hook != "end":
            self._check_usable(guest, hook, "after this hook has failed")

    def _check_usable(self, guest: Guest, hook: str, when: str) -> None:
        try:
            self._save(guest)
        except Violation as violation:
            raise Violation(hook, "the guest has to run on and be usable {}".format(when), str(violation))

    # Restoring

    def test_restore(self) -> None:
        """A plain stream, with every kind of page."""
        for _, data in self._streams():
            self._restore(self.target(), data)

    def test_restore_with_checkpoints(self) -> None:
        """Memory and state arrive several times; the last complete checkpoint counts."""
        for source, _ in self._streams():
            out = io.BytesIO()
            save(source, out, live=True, checkpoint=lambda number: number < _ROUNDS)
            self._restore(self.target(), out.getvalue(), checkpointed=True)
            self._restore(self.target(), out.getvalue()[:-1], checkpointed=True)

    def test_failures_while_restoring(self) -> None:
        """Each hook fails, at several of its calls; the guest is abandoned."""
        for _, data in self._streams():
            for hook, number in _calls(self._restore(self.target(), data)):
                checked = CheckedGuest(self.target(), fail=(hook, number), volatile=self.volatile)
                _run_failing(checked, lambda: restore(data, checked))  # noqa: B023

    def test_broken_streams(self) -> None:
        """The stream breaks off, early and late; the guest is abandoned."""
        for _, data in self._streams():
            for place in (0, 39, 100, len(data) // 2, len(data) - 1):
                checked = CheckedGuest(self.target(), volatile=self.volatile)
                with contextlib.suppress(StreamError):
                    _run(checked, lambda: restore(data[:place], checked))  # noqa: B023

    def test_colo(self) -> None:
        """HVM: the restored guest runs between checkpoints, and the primary receives the list of what it changed."""
        target = self.target()
        self._need(self.colo and target.kind == "hvm", "COLO")
        primary = SimulatedGuest(target.kind, self.pages, seed=1, dirty=0.2)
        stream, back_channel = os.pipe(), os.pipe()
        sender = threading.Thread(target=_send, args=(primary, stream[1], back_channel[0]))
        sender.start()
        try:
            with os.fdopen(stream[0], "rb") as source, os.fdopen(back_channel[1], "wb") as sink:
                self._restore(target, source.fileno(), back_channel=sink.fileno(),
                              checkpoint=lambda number: list(self.change(target)) or True)
        finally:
            sender.join()
            os.close(back_channel[0])

    def test_migration(self) -> None:
        """What has been saved can be restored."""
        source, target = self.source(), self.target()
        self._need(source.kind == target.kind, "source and target of the same kind")
        _, data = self._save(source, live=self.live)
        self._restore(target, data)

    def _streams(self) -> Iterator[Tuple[SimulatedGuest, bytes]]:
        """Simulated guests of the target's kind, and their streams."""
        kind = self.target().kind
        for width in self.widths if kind == "pv" else (8,):
            guests = [SimulatedGuest(kind, self.pages, seed=1, width=width, dirty=0.2) for _ in range(2)]
            out = io.BytesIO()
            save(guests[1], out)
            yield guests[0], out.getvalue()

    def _restore(self, target: Guest, data: Union[bytes, int], **options: Any) -> CheckedGuest:
        checked = CheckedGuest(target, volatile=self.volatile)
        _run(checked, lambda: restore(data, checked, **options))
        return checked

    def _need(self, condition: bool, what: str) -> None:
        if not condition:
            raise SkipTest("not applicable: no {}".format(what))


def _send(primary: Guest, stream: int, back_channel: int) -> None:
    """The primary's side of COLO; if the secondary fails, its connections break."""
    try:
        with contextlib.suppress(OSError, StreamError):
            save(primary, stream, live=True, policy=_policy, checkpoint=lambda number: number < _ROUNDS,
                 back_channel=back_channel)
    finally:
        os.close(stream)


def _policy(last: Round) -> Decision:
    return Decision.STOP if last.number + 1 >= _ROUNDS else Decision.CONTINUE


def _run(checked: CheckedGuest, action: Callable[[], object]) -> None:
    """Run an engine; a violation comes first, whatever the engine made of it."""
    try:
        action()
    except Exception as error:
        if checked.violation is not None:
            raise checked.violation from error
        if isinstance(error, GuestError) and not isinstance(error, (HookError, Cancelled)):
            raise Violation(_CULPRITS[checked.kind], "the engine can't use what it returned", str(error)) from error
        raise
    if checked.violation is not None:
        raise checked.violation


def _run_failing(checked: CheckedGuest, action: Callable[[], object]) -> None:
    """Run an engine while a hook is made to fail."""
    try:
        _run(checked, action)
    except HookError as error:
        if not isinstance(error.__cause__, InjectedFailure):
            raise


def _calls(checked: CheckedGuest) -> Iterator[Tuple[str, int]]:
    """Each hook that was called, with the numbers of its first, second and last call."""
    for hook, count in checked.calls.items():
        for number in sorted({1, min(2, count), count}):
            yield hook, number


def check_guest(source: Optional[Callable[[], Guest]] = None, target: Optional[Callable[[], Guest]] = None, *,
                change: Optional[Callable[[Guest], Iterable[int]]] = None, live: bool = True, checkpoints: bool = True,
                colo: bool = False, pages: int = GuestTests.pages, widths: Sequence[int] = GuestTests.widths,
                volatile: Container[int] = ()) -> Dict[str, str]:
    """Run all tests of :class:`GuestTests` on a backend, without a test framework.

    ``source`` and ``target`` are functions that return a fresh guest at each call; the other arguments are the class's
    attributes and methods. Returns the names of the tests, each with "passed" or the reason why it was skipped. Raises
    the first :class:`Violation`.
    """
    tests = GuestTests()
    settings = {"source": source, "target": target, "change": change, "live": live, "checkpoints": checkpoints,
                "colo": colo, "pages": pages, "widths": widths, "volatile": volatile}
    for name, value in settings.items():
        if value is not None:
            setattr(tests, name, value)
    results: Dict[str, str] = {}
    # In the order of their definition: the simplest first.
    for name in [name for name in vars(GuestTests) if name.startswith("test_")]:
        try:
            getattr(tests, name)()
            results[name] = "passed"
        except SkipTest as skipped:
            results[name] = str(skipped)
    return results

"""The CPU that a guest sees: the policies of one stream, or whether a guest can move from one to another."""
from typing import Callable, List, NamedTuple, Optional, Tuple

from xstream.containers.opening import reading
from xstream.errors import StreamError
from xstream.limits import Limits
from xstream.wire import features, libxc, msrs, policies
from xstream.wire.formats import record_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.stream.reader import AnyReader
    from xstream.stream.types import StreamLike
    from xstream.wire.formats import AnyRecord


class Policy(NamedTuple):
    """A stream's CPU policies, each empty if it has none; of repeated records the last one counts, as in a restore.

    ``version`` is that of the memory stream; versions before 3 have no policies. ``error`` is what ended the reading
    before the stream's end, if anything did: of a truncated stream the policies at its beginning are still valid.
    """

    leaves: Tuple[policies.Leaf, ...]
    msrs: Tuple[msrs.Msr, ...]
    version: int = 3
    error: Optional[StreamError] = None

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.leaves or self.msrs)


class PolicyReport(NamedTuple):
    """How the policies of ``b`` differ from those of ``a``, register by register, and what that means for a guest that
    runs with ``a`` and has to run with ``b``.

    - ``compatible``: None if either has no CPUID policy, so that nothing can be said; else whether there are no
      ``reasons`` against it and nothing is ``lost``;
    - ``reasons``: what makes Xen itself refuse: :func:`xstream.wire.policies.conflicts`; none if
      ``compatible`` is None;
    - ``lost``: features of ``a`` that ``b`` lacks;
    - ``notes``: differing bits that aren't features to lose: those that Xen accumulates over a pool of hosts or handles
      specially, such as RSBA or MD_CLEAR.
    """

    a: Policy
    b: Policy
    cpuid: List[policies.Difference]
    msr: List[policies.MsrDifference]
    reasons: Tuple[str, ...]

    @property
    def compatible(self) -> Optional[bool]:
        if not self.a.leaves or not self.b.leaves:
            return None
        return not self.reasons and not self.lost

    @property
    def lost(self) -> Tuple[str, ...]:
        return tuple(name for name in self._names("lost") if name not in features.NOT_COMPARED)

    @property
    def notes(self) -> Tuple[str, ...]:
        return tuple(["-" + name for name in self._names("lost") if name in features.NOT_COMPARED]
                     + ["+" + name for name in self._names("gained") if name in features.NOT_COMPARED])

    def _names(self, which: str) -> Tuple[str, ...]:
        """The features in the differences, each once."""
        found: List[str] = []
        for row in self.cpuid:
            found.extend(getattr(row, which))
        for item in self.msr:
            found.extend(getattr(item, which))
        return tuple(dict.fromkeys(found))


def policy(source: "StreamLike", *, format: Optional[str] = None, limits: Limits = Limits(), strict: bool = False,
           checkpointed: bool = True, width: Optional[int] = None, guest: Optional[str] = None,
           progress: Callable[[int], object] = lambda offset: None) -> Policy:
    """The CPU policies of a stream; the arguments are those of :func:`xstream.open`. ``progress`` is called with the
    offset reached, once per batch.

    Raises StreamError or a subclass if reading fails before any policy was found; a later error is in the result.
    """
    with reading(source, format=format, limits=limits, strict=strict, checkpointed=checkpointed, width=width,
                 guest=guest) as reader:
        found = Policy((), ())
        try:
            while True:
                progress(reader.source.offset)
                if reader.next_run(pages=False) is not None:
                    continue
                record = reader.next_record()
                if record is None:
                    break
                found = with_record(found, record, reader)
        except StreamError as error:
            if not found:
                raise
            found = found._replace(error=error)
        return found._replace(version=reader.identity.version)


def with_record(found: Policy, record: "AnyRecord", reader: "AnyReader") -> Policy:
    """The policies after one more record, which ``reader`` has just returned. Raises CorruptStream."""
    try:
        if isinstance(record, libxc.CpuidPolicy):
            return found._replace(leaves=policies.parse(record.leaves))
        if isinstance(record, libxc.MsrPolicy):
            return found._replace(msrs=msrs.parse(record.entries))
    except StreamError as error:
        raise error.located(layer=reader.layer, base=reader.offset + 8, record=reader.index,
                            record_type=record_name(reader.layer, record))
    return found


def compare_policies(a: Policy, b: Policy) -> PolicyReport:
    """Compare leaf by leaf and MSR by MSR; what one policy doesn't have counts as zeros."""
    reasons = policies.conflicts(a.leaves, a.msrs, b.leaves, b.msrs) if a.leaves and b.leaves else ()
    return PolicyReport(a, b, policies.differences(a.leaves, b.leaves), policies.msr_differences(a.msrs, b.msrs),
                        reasons)

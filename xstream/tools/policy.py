"""The CPU that a guest has been shown: the policies of one stream, or how those of two differ."""
from typing import Any, Callable, List, NamedTuple, Tuple

from xstream.containers.opening import open_stream
from xstream.errors import StreamError
from xstream.wire import libxc, msrs, policies
from xstream.wire.formats import record_name


class Policy(NamedTuple):
    """A stream's policies, each empty where it has none; of repeated records the last counts, as on restore."""

    leaves: Tuple[policies.Leaf, ...]
    msrs: Tuple[msrs.Msr, ...]


class PolicyReport(NamedTuple):
    """How the policies of ``b`` differ from those of ``a``, register by register."""

    a: Policy
    b: Policy
    cpuid: List[policies.Difference]
    msr: List[policies.MsrDifference]

    @property
    def lost(self) -> Tuple[str, ...]:
        """The features that the guest of ``a`` was told of and that of ``b`` wasn't, each once."""
        return tuple(dict.fromkeys(
            [name for difference in self.cpuid for name in difference.lost]
            + [name for difference in self.msr for name in difference.lost]))


def policy(source: Any, *, progress: Callable[[int], Any] = lambda offset: None, **options: Any) -> Policy:
    """The policies of a stream; ``source`` and ``options`` are those of xstream.open, but checkpoints need not be
    announced. Streams before version 3 have none. Raises StreamError's kin."""
    options.setdefault("checkpointed", True)
    found = Policy((), ())
    with open_stream(source, **options) as reader:
        while True:
            progress(reader.source.offset)
            if reader.next_run() is not None:
                continue
            record = reader.next_record()
            if record is None:
                return found
            try:
                if isinstance(record, libxc.CpuidPolicy):
                    found = found._replace(leaves=policies.parse(record.leaves))
                elif isinstance(record, libxc.MsrPolicy):
                    found = found._replace(msrs=msrs.parse(record.entries))
            except StreamError as error:
                raise error.located(layer=reader.layer, base=reader.offset + 8, record=reader.index,
                                    record_type=record_name(reader.layer, record))


def compare_policies(a: Policy, b: Policy) -> PolicyReport:
    """Compare leaf by leaf, MSR by MSR; what a policy doesn't have counts as zeros."""
    return PolicyReport(a, b, policies.differences(a.leaves, b.leaves), policies.msr_differences(a.msrs, b.msrs))

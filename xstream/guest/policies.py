"""When a live save stops sending what changes and suspends the guest."""
import enum

from xstream.tuples import NamedTuple
from xstream.wire.libxc import PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional


class Round(NamedTuple):
    """One round of a save.

    - ``number``: from 0; ``phase``: "live", "final" (suspended), "checkpoint" or "verify";
    - ``pfns``, ``pages``, ``bytes``: number of PFNs, of pages with data, and of bytes sent;
    - ``seconds``: duration; ``rate``: bytes per second;
    - ``dirty``: number of PFNs that the next round would send; None once the guest is suspended;
    - ``downtime``: estimated seconds to send them at this rate.
    """

    number: int
    phase: str
    pfns: int
    pages: int
    bytes: int
    seconds: float
    dirty: "Optional[int]" = None

    @property
    def rate(self) -> float:
        """Bytes per second; 0 for a round that took no measurable time."""
        return self.bytes / self.seconds if self.seconds > 0 else 0.0

    @property
    def downtime(self) -> "Optional[float]":
        """Estimated seconds to send what is dirty, at this round's rate; None if unknown."""
        if self.dirty is None or not self.rate:
            return None
        return self.dirty * (PAGE_SIZE + 8) / self.rate


class Decision(enum.Enum):
    """What a policy wants next."""

    CONTINUE = "send another live round"
    STOP = "suspend the guest and send the rest"
    ABORT = "cancel the save; the guest runs on"


if TYPE_CHECKING:
    #: Called after every live round.
    Policy = Callable[[Round], Decision]


def xen_policy(rounds: int = 5, dirty: int = 50) -> "Policy":
    """Xen's own policy: stop after ``rounds`` rounds, or with fewer than ``dirty`` PFNs dirty (simple_precopy_policy()
    in tools/libs/guest/xg_sr_save.c)."""
    def policy(last: Round) -> Decision:
        enough = last.number + 1 >= rounds or (last.dirty or 0) < dirty
        return Decision.STOP if enough else Decision.CONTINUE
    return policy


def downtime_policy(milliseconds: float, rounds: int = 30) -> "Policy":
    """Stop once the dirty PFNs can be sent within ``milliseconds`` at the last round's rate, or after ``rounds``
    rounds."""
    def policy(last: Round) -> Decision:
        short = last.downtime is not None and last.downtime * 1000 <= milliseconds
        return Decision.STOP if short or not last.dirty or last.number + 1 >= rounds else Decision.CONTINUE
    return policy

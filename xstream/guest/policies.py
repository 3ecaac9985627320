"""When a live save stops sending what changes and suspends the guest."""
import enum
from typing import Callable, NamedTuple, Optional

from xstream.wire.libxc import PAGE_SIZE


class Round(NamedTuple):
    """What one round of a save did.

    - ``number``: from 0; ``phase``: "live", "final" (suspended), "checkpoint" or "verify";
    - ``pfns``, ``pages``, ``bytes``: sent: PFNs, those of them with data, and all bytes;
    - ``seconds``: how long it took; ``rate``: bytes a second;
    - ``dirty``: PFNs that the next round would have to send, None where the guest doesn't run any more;
    - ``downtime``: seconds that they would take at this rate.
    """

    number: int
    phase: str
    pfns: int
    pages: int
    bytes: int
    seconds: float
    dirty: Optional[int] = None

    @property
    def rate(self) -> float:
        """Bytes a second; 0 for a round that took no time."""
        return self.bytes / self.seconds if self.seconds > 0 else 0.0

    @property
    def downtime(self) -> Optional[float]:
        """Seconds that sending what is dirty takes at this round's rate; None where that isn't known."""
        if self.dirty is None or not self.rate:
            return None
        return self.dirty * (PAGE_SIZE + 8) / self.rate


class Decision(enum.Enum):
    """What a policy wants next."""

    CONTINUE = "another live round"
    STOP = "suspend, and send the rest"
    ABORT = "give up; the guest runs on"


#: Asked after every live round.
Policy = Callable[[Round], Decision]


def xen_policy(rounds: int = 5, dirty: int = 50) -> Policy:
    """Xen's own: stop after so many rounds, or with fewer PFNs dirty (simple_precopy_policy() in
    tools/libs/guest/xg_sr_save.c)."""
    def policy(last: Round) -> Decision:
        enough = last.number + 1 >= rounds or (last.dirty or 0) < dirty
        return Decision.STOP if enough else Decision.CONTINUE
    return policy


def downtime_policy(milliseconds: float, rounds: int = 30) -> Policy:
    """Stop once what is dirty can be sent within so many milliseconds at the last round's rate, or after so many
    rounds."""
    def policy(last: Round) -> Decision:
        short = last.downtime is not None and last.downtime * 1000 <= milliseconds
        return Decision.STOP if short or not last.dirty or last.number + 1 >= rounds else Decision.CONTINUE
    return policy

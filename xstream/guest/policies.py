"""When a live save stops sending what changes and suspends the guest."""
import enum

from xstream.guest.rounds import Round

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable


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

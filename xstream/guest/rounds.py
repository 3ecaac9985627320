"""The rounds of a save."""
from xstream.tuples import NamedTuple
from xstream.wire.libxc import PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional


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

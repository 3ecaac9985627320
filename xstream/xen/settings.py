"""Settings of the helpers, from environment variables: libxl passes its own environment on to them."""
from xstream.tuples import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping, Optional

    from xstream.guest.policies import Decision, Policy
    from xstream.guest.rounds import Round

_DOWNTIME, _ROUNDS, _GIVE_UP = "XSTREAM_DOWNTIME", "XSTREAM_ROUNDS", "XSTREAM_GIVE_UP"
_MEMORY_CRC = "XSTREAM_MEMORY_CRC"
#: Live rounds at most, with a downtime target.
_MOST_ROUNDS = 30


class Settings(NamedTuple):
    """How a live save ends its rounds, and what is logged.

    - ``downtime`` (``XSTREAM_DOWNTIME``): milliseconds: suspend the guest once the rest can be sent in that time.
      Without it Xen's rule applies: at most 5 rounds, or fewer than 50 dirty PFNs;
    - ``rounds`` (``XSTREAM_ROUNDS``): live rounds at most, instead of 5, or of 30 with a downtime target;
    - ``give_up`` (``XSTREAM_GIVE_UP=1``, with a downtime target): where the rounds end before the target is reached,
      fail and leave the guest running, instead of suspending it for longer;
    - ``memory_crc`` (``XSTREAM_MEMORY_CRC=1``, also for restores): read the guest's whole memory once more and log its
      CRC32C.
    """

    downtime: "Optional[float]" = None
    rounds: "Optional[int]" = None
    give_up: bool = False
    memory_crc: bool = False

    @classmethod
    def from_environment(cls, environment: "Mapping[str, str]") -> "Settings":
        """The settings in an environment. Raises ValueError, naming the variable, for a value that makes no sense."""
        downtime = _positive(environment, _DOWNTIME)
        rounds = _positive(environment, _ROUNDS)
        give_up = _flag(environment, _GIVE_UP)
        if give_up and downtime is None:
            raise ValueError("{} needs {}".format(_GIVE_UP, _DOWNTIME))
        return cls(downtime, None if rounds is None else int(rounds), give_up,
                   _flag(environment, _MEMORY_CRC))

    def policy(self) -> "Policy":
        """The policy to pass to :func:`xstream.save`."""
        from xstream.guest.policies import Decision, downtime_policy, xen_policy  # not needed for restores
        if self.downtime is None:
            return xen_policy() if self.rounds is None else xen_policy(self.rounds)
        target, stop = self.downtime, downtime_policy(self.downtime, self.rounds or _MOST_ROUNDS)

        def policy(last: "Round") -> "Decision":
            decision = stop(last)
            missed = last.downtime is not None and last.downtime * 1000 > target
            return Decision.ABORT if self.give_up and decision is Decision.STOP and missed else decision

        return policy


def _flag(environment: "Mapping[str, str]", name: str) -> bool:
    return environment.get(name, "") not in ("", "0")


def _positive(environment: "Mapping[str, str]", name: str) -> "Optional[float]":
    text = environment.get(name, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError("{} is {!r}, not a positive number".format(name, text))
    return value

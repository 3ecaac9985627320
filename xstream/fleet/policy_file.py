"""Files with a host's CPU policies: what ``xstream policy --json`` prints, and what ``xen-cpuid -p`` prints."""
import json
import re
from typing import Dict, List, NamedTuple, Optional, Union

from xstream.errors import CorruptStream, LimitExceeded
from xstream.stream.source import Source
from xstream.tools.policy import Policy
from xstream.wire import policies
from xstream.wire.msrs import Msr
from xstream.wire.policies import Leaf

#: Bytes of a file that is parsed. Those of real hosts take 30 KiB.
MOST_BYTES = 4 << 20
#: Bytes in which the first policy of xen-cpuid's output begins.
_HEAD = 4096

# The lines that print_policy() in tools/misc/xen-cpuid.c writes.
_TITLE = re.compile(r"^(.*) policy: \d+ leaves, \d+ MSRs$", re.MULTILINE)
_LEAF = re.compile(r"^ *([0-9a-f]{8}):([0-9a-f]{8}) -> ([0-9a-f]{8}):([0-9a-f]{8}):([0-9a-f]{8}):([0-9a-f]{8})$",
                   re.MULTILINE)
_MSR = re.compile(r"^ *([0-9a-f]{8}) -> ([0-9a-f]{16})$", re.MULTILINE)


class HostPolicies(NamedTuple):
    """The most that guests of each kind can have on a host: Xen's "max" policies. None: the host runs no such guests.
    """

    pv: Optional[Policy]
    hvm: Optional[Policy]


#: What guests are compared with: a policy for all of them, or a host's policies.
Against = Union[Policy, HostPolicies]


def is_policy_file(source: Source) -> bool:
    """Whether an input begins like a policy file."""
    head = bytes(source.peek(_HEAD))[:_HEAD]
    return head.startswith(b"{") or _TITLE.search(head.decode("latin-1")) is not None


def parse_policy(untrusted: bytes) -> Against:
    """The policies in such a file. Raises CorruptStream if it is anything else, LimitExceeded.

    Of ``xen-cpuid -p`` a host's "PV Max" and "HVM Max" policies count, or the policy of the only domain.
    """
    if len(untrusted) > MOST_BYTES:
        raise LimitExceeded("policy file larger than the limit", layer="policy", offset=0,
                            expected="at most {} bytes".format(MOST_BYTES))
    return _parse_json(untrusted) if untrusted.lstrip().startswith(b"{") else _parse_text(untrusted.decode("latin-1"))


def _parse_json(untrusted: bytes) -> Policy:
    try:
        document = json.loads(untrusted.decode("utf-8"))
        leaves = tuple(Leaf(_number(row["leaf"]), None if row["subleaf"] is None else _number(row["subleaf"]),
                            *(_number(row[register]) for register in "abcd")) for row in document["cpuid"]["leaves"])
        msrs = tuple(Msr(_number(row["index"]), _number(row["flags"]), _number(row["value"], 64))
                     for row in document["msrs"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptStream("not a policy file: {}: {}".format(type(error).__name__, error), layer="policy", offset=0,
                            expected="what xstream policy --json or xen-cpuid -p prints")
    return _with_leaves(Policy(leaves, msrs))


def _number(value: object, bits: int = 32) -> int:
    if not isinstance(value, int) or value >> bits:
        raise ValueError("not a number of {} bits: {!r}".format(bits, value))
    return value


def _parse_text(text: str) -> Against:
    titles = list(_TITLE.finditer(text))
    ends = [title.start() for title in titles[1:]] + [len(text)]
    found: Dict[str, Policy] = {}
    for title, end in zip(titles, ends):
        found[title.group(1).strip()] = _parse_policy(text[title.end():end])
    domains: List[str] = [name for name in found if name.startswith("Domain ")]
    if len(domains) == 1 and len(found) == 1:
        return _with_leaves(found[domains[0]])
    host = {name: _with_leaves(found[name]) for name in ("PV Max", "HVM Max") if name in found}
    if not host:
        raise CorruptStream("neither the policies of a host nor of one domain in the file", layer="policy", offset=0,
                            expected="what xstream policy --json or xen-cpuid -p prints")
    return HostPolicies(host.get("PV Max"), host.get("HVM Max"))


def _parse_policy(text: str) -> Policy:
    """One policy. xen-cpuid leaves out leaves that are all zero."""
    leaves = []
    for match in _LEAF.finditer(text):
        leaf, subleaf, *registers = (int(word, 16) for word in match.groups())
        leaves.append(Leaf(leaf, None if subleaf == policies.NO_SUBLEAF else subleaf, *registers))
    msrs = tuple(Msr(int(match.group(1), 16), 0, int(match.group(2), 16)) for match in _MSR.finditer(text))
    return Policy(tuple(leaves), msrs)


def _with_leaves(found: Policy) -> Policy:
    if not found.leaves:
        raise CorruptStream("no CPUID policy in the file", layer="policy", offset=0, expected="at least one leaf")
    return found

"""CPU policies as ``xstream policy --json`` prints them."""
import json

from xstream.errors import CorruptStream, LimitExceeded
from xstream.tools.policy import Policy
from xstream.wire.msrs import Msr
from xstream.wire.policies import Leaf

#: Bytes of a file that is parsed. Those of real hosts take 30 KiB.
MOST_JSON = 4 << 20


def parse_policy(untrusted: bytes) -> Policy:
    """The policies in such a document. Raises CorruptStream if it is anything else, LimitExceeded."""
    if len(untrusted) > MOST_JSON:
        raise LimitExceeded("policy file larger than the limit", layer="policy", offset=0,
                            expected="at most {} bytes".format(MOST_JSON))
    try:
        document = json.loads(untrusted.decode("utf-8"))
        leaves = tuple(Leaf(_number(row["leaf"]), None if row["subleaf"] is None else _number(row["subleaf"]),
                            *(_number(row[register]) for register in "abcd")) for row in document["cpuid"]["leaves"])
        msrs = tuple(Msr(_number(row["index"]), _number(row["flags"]), _number(row["value"], 64))
                     for row in document["msrs"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptStream("not a policy file: {}: {}".format(type(error).__name__, error), layer="policy", offset=0,
                            expected="what xstream policy --json prints")
    if not leaves:
        raise CorruptStream("no CPUID policy in the file", layer="policy", offset=0, expected="at least one leaf")
    return Policy(leaves, msrs)


def _number(value: object, bits: int = 32) -> int:
    if not isinstance(value, int) or value >> bits:
        raise ValueError("not a number of {} bits: {!r}".format(bits, value))
    return value

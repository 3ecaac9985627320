"""All targets by name."""
from typing import Dict

import engines
import kernel_calls
import stores
import targets
from common import Target

TARGETS: Dict[str, Target] = dict(targets.TARGETS, **engines.TARGETS, **stores.TARGETS, **kernel_calls.TARGETS)
#: Targets whose inputs are record bodies, not streams.
OF_BODIES = ("helpers", "wire", "kernels")
#: Mutants that are run for each change; all of them have gone through without a finding.
MUTANTS = {
    "records": 12000, "again": 12000, "verify": 18000, "info": 4000, "extract": 5000, "policy": 3000, "convert": 6000,
    "compressed": 4000, "export": 4000, "commands": 6000, "wire": 100000, "restore": 6000, "save": 2400,
    "asynchronous": 1400, "back channel": 7000, "helpers": 6000, "scan": 5000, "seekable": 3200, "kernels": 40000,
}

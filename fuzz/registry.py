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
#: How many mutants of each target are run for each change.
MUTANTS = {
    "records": 2000, "again": 3000, "verify": 2500, "info": 1500, "extract": 2000, "policy": 1200, "convert": 6000,
    "compressed": 1500, "export": 1500, "commands": 2000, "wire": 50000, "restore": 6000, "save": 2400,
    "asynchronous": 700, "back channel": 3000, "helpers": 2500, "scan": 5000, "seekable": 3200, "kernels": 20000,
}

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
#: Mutants that are run for each change: for each target about as many as take half a minute with sanitizers.
MUTANTS = {
    "records": 4000, "again": 8000, "verify": 5000, "info": 2500, "extract": 3000, "policy": 2000, "convert": 4000,
    "compressed": 3000, "export": 3000, "commands": 4000, "wire": 100000, "restore": 4000, "save": 1500,
    "asynchronous": 1000, "back channel": 5000, "helpers": 5000, "scan": 4000, "seekable": 2000, "kernels": 40000,
}

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
#: Mutants that are run for each change: for each target as many as take about half a minute of one CPU.
MUTANTS = {
    "records": 12000, "again": 25000, "verify": 18000, "info": 9000, "extract": 12000, "policy": 7000, "convert": 15000,
    "compressed": 11000, "export": 9000, "commands": 14000, "wire": 250000, "restore": 15000, "save": 6000,
    "asynchronous": 3500, "back channel": 18000, "helpers": 15000, "scan": 13000, "seekable": 8000, "kernels": 100000,
}

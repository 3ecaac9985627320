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
#: How many mutants of each seed `mutants` tries: a minute or two of each target. Every change has to pass 60 % of them.
MUTANTS = {
    "records": 430, "again": 1230, "verify": 770, "info": 390, "extract": 630, "policy": 220, "convert": 600,
    "compressed": 410, "export": 410, "commands": 540, "wire": 3850, "restore": 540, "save": 125, "asynchronous": 80,
    "back channel": 650, "helpers": 180, "scan": 340, "seekable": 195, "kernels": 2500,
}

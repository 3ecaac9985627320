"""params.py DOMID IMAGE: whether a domain has every HVM parameter of an image that a legacy stream can carry.

The image is of another run of the guest; the parameters are compared as Xen has them now.
"""
import sys

from legacy_from_current import legacy_params, params_of

from xstream.wire.hvm_params import NUMBERS
from xstream.xen.privcmd import Privcmd

names = {number: name for name, number in NUMBERS.items()}
xen, domid = Privcmd(), int(sys.argv[1])
wanted = legacy_params(params_of(sys.argv[2]))
# Without the old parameter for the VM86 TSS, which Xen turns into the new one.
found = {index: xen.hvm_param(domid, index) for index in wanted if names[index] != "VM86_TSS"}
differing = {names[index]: (wanted[index], value) for index, value in found.items() if value != wanted[index]}
print("{} parameters compared: {}; differing (sent, set): {}".format(
    len(found), ", ".join("{}={:#x}".format(names[index], value) for index, value in sorted(found.items())), differing))
sys.exit(bool(differing) or len(found) < 3)

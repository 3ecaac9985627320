"""dirty.py DOMID: exit status 0 if log-dirty mode of a domain is off, 1 if it is on."""
import errno
import sys

from xstream.xen import interface
from xstream.xen.errors import XenError
from xstream.xen.privcmd import Privcmd

xen, domid = Privcmd(), int(sys.argv[1])
try:
    xen.domctl(interface.SHADOW_OP, domid, interface.LOGDIRTY_ENABLE)  # refused where it is on
except XenError as error:
    sys.exit(int(error.errno == errno.EINVAL))
xen.domctl(interface.SHADOW_OP, domid, interface.LOGDIRTY_OFF)

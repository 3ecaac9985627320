"""A snapshot of a running domain without its toolstack."""
import contextlib
import errno

from xstream.guest.save import Saved, save
from xstream.xen.domain import XenGuest
from xstream.xen.errors import XenError
from xstream.xen.privcmd import Privcmd
from xstream.xen.qmp import connect
from xstream.xen.standalone import Standalone
from xstream.xen.xenstore import Xenstore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional

    from xstream.guest.policies import Policy
    from xstream.stream.types import SinkLike


def snapshot(domain: str, sink: "SinkLike", *, container: "Optional[str]" = "libxl", live: bool = False,
             policy: "Optional[Policy]" = None, progress: "Callable[[int, int], object]" = lambda done, total: None,
             sparse: bool = True, compress: "Optional[str]" = None) -> Saved:
    """Write a running domain's memory and state to ``sink`` (as :func:`xstream.save` takes it); then it runs again.

    - ``domain``: its number or name;
    - ``container``: "libxl", with QEMU's record of an HVM guest; None: the bare memory stream;
    - ``live``: send memory while the guest runs, and suspend it for the rest; ``policy`` says when;
    - ``sparse``: a regular file gets holes instead of blocks of zeros; ``compress``: as :func:`xstream.save` has it.

    The guest suspends itself on a request in xenstore and is resumed whatever happens. The result is for analysis and
    backup. Restoring it needs a toolstack, which creates the domain and its devices.

    Raises XenError for a domain that doesn't exist, and what :func:`xstream.save` raises; the guest then runs.
    """
    with contextlib.ExitStack() as opened:
        store = Xenstore()
        opened.callback(store.close)
        xen = Privcmd()
        opened.callback(xen.close)
        domid = _domid(store, domain)
        qmp = connect(domid)
        if qmp is not None:
            opened.callback(qmp.close)
        toolstack = Standalone(domid, xen, store, qmp)
        guest = XenGuest(domid, toolstack, xen=xen)
        opened.callback(toolstack.resume)
        return save(guest, sink, container=container, live=live, policy=policy, progress=progress,
                    sparse=sparse, compress=compress,
                    device_model=(lambda: toolstack.device_model) if qmp is not None and container else None)


def _domid(store: Xenstore, domain: str) -> int:
    """The number of a domain that is given by number or name."""
    if domain.isdigit():
        return int(domain)
    for domid in store.list("/local/domain"):
        if store.read("/local/domain/{}/name".format(domid)) == domain:
            return int(domid)
    raise XenError(errno.ESRCH, "there is no domain of the name {!r}".format(domain))

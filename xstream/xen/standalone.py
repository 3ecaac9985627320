"""Suspending and resuming a domain without its toolstack, through xenstore, QMP and hypercalls.

Source: tools/libs/light/libxl_dom_suspend.c, tools/libs/guest/xg_resume.c, xen/include/public/sched.h.
"""
import struct
import time

from xstream.guest.guest import GuestError
from xstream.xen import interface, state
from xstream.xen.domain import Toolstack
from xstream.xen.privcmd import Privcmd
from xstream.xen.qmp import Qmp
from xstream.xen.xenstore import Xenstore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

#: libxl waits as long for a guest to answer.
_SECONDS = 60
_POLL_SECONDS = 0.05
#: sched_op and its SCHEDOP_remote_shutdown: u16 domid, u32 reason.
_SCHED_OP, _REMOTE_SHUTDOWN = 29, 4
_SHUTDOWN_ARGUMENT = struct.Struct("<H2xI")


class Standalone(Toolstack):
    """A running domain whose toolstack isn't asked. ``qmp`` is its QEMU, if it has one.

    ``device_model`` is QEMU's record, as of the last suspension.
    """

    def __init__(self, domid: int, xen: Privcmd, store: Xenstore, qmp: "Optional[Qmp]") -> None:
        self._domid = domid
        self._xen = xen
        self._store = store
        self._qmp = qmp
        self.device_model = b""

    def suspend(self) -> None:
        """Ask the guest to suspend itself. An HVM guest without PV drivers can't: Xen suspends it."""
        if self._suspends_itself(self._xen.domain_info(self._domid).hvm):
            self._ask_guest()
        else:
            buffer = self._xen.buffer(_SHUTDOWN_ARGUMENT.size)
            _SHUTDOWN_ARGUMENT.pack_into(buffer.view, 0, self._domid, interface.SHUTDOWN_SUSPEND)
            self._xen.call(_SCHED_OP, _REMOTE_SHUTDOWN, buffer.address, what="sched_op remote_shutdown",
                           domid=self._domid)
        if self._qmp is not None:
            self._qmp.command("stop")
            self.device_model = self._qmp.device_model_record()

    def _suspends_itself(self, hvm: bool) -> bool:
        """PV guests do, and HVM guests with PV drivers, which set the callback."""
        return not hvm or bool(self._xen.hvm_param(self._domid, state.CALLBACK_IRQ))

    def _ask_guest(self) -> None:
        path = "/local/domain/{}/control/shutdown".format(self._domid)
        self._store.write(path, "suspend")
        end = time.monotonic() + _SECONDS
        while self._xen.domain_info(self._domid).shutdown is None:
            if time.monotonic() > end:
                self._store.write(path, "")
                raise GuestError("domain {} doesn't answer the request to suspend; does its kernel have Xen's PV "
                                 "drivers?".format(self._domid))
            time.sleep(_POLL_SECONDS)

    def resume(self) -> None:
        """Let the guest go on where it suspended itself: its call returns 1, "cancelled"."""
        info = self._xen.domain_info(self._domid)
        if info.shutdown is None:
            return
        if self._suspends_itself(info.hvm):
            width = 8 if info.hvm else self._xen.guest_width(self._domid)
            context = bytearray(state.read_vcpu_context(self._xen, self._domid, 0))
            register, offset = interface.VCPU_CONTEXT_RAX[width]
            register.pack_into(context, offset, 1)
            state.write_vcpu_context(self._xen, self._domid, 0, bytes(context))
        self._xen.domctl(interface.RESUME_DOMAIN, self._domid)
        if self._qmp is not None:
            self._qmp.command("cont")
        self._store.resume(self._domid)

    def qemu_log_dirty(self, on: bool) -> None:
        """Have QEMU report what it writes."""
        if self._qmp is not None:
            self._qmp.command("xen-set-global-dirty-log", enable=on)

"""Hypercalls and foreign mappings through Linux' privcmd device.

Source: include/uapi/xen/privcmd.h of Linux (a stable user interface) for the device's ioctls; for the hypercalls see
:mod:`xstream.xen.interface`.
"""
import errno
import fcntl
import mmap
import os
import struct

from xstream.contexts import suppress
from xstream.kernels import mapping
from xstream.tuples import NamedTuple
from xstream.xen.errors import XenError
from xstream.xen.interface import (
    DOMAIN_HVM,
    DOMAIN_SHUTDOWN,
    DOMCTL,
    DOMCTL_HEAD,
    DOMCTL_UNION,
    DOMCTL_VERSIONS,
    GET_ADDRESS_SIZE,
    GET_DOMAIN_INFO,
    GET_HVM_PARAM,
    HVM_OP,
    HVM_PARAM,
    HYPERCALL_NAMES,
    MEMORY_OP,
    PAGE_SIZE,
    SET_HVM_PARAM,
    SHUTDOWN_REASON_SHIFT,
    XEN_VERSION,
    Domctl,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Sequence, Tuple

    from xstream.kernels.buffers import Numbers

_DEVICES = ("/dev/xen/privcmd", "/proc/xen/privcmd")
_BUFFER_DEVICE = "/dev/xen/hypercall"
_MAP_LOCKED = 0x2000


def _ioctl(number: int, size: int) -> int:
    return size << 16 | ord("P") << 8 | number


_HYPERCALL_ARGUMENTS = struct.Struct("<6Q")  # hypercall number, then five arguments
_MAP_BATCH = struct.Struct("<IH2x3Q")        # number of frames, domid, address, pointers to frames and errors
_MAP_RESOURCE = struct.Struct("<H2x3I2Q")    # domid, type, id, first frame; number of frames, address
_IOCTL_HYPERCALL = _ioctl(0, _HYPERCALL_ARGUMENTS.size)
_IOCTL_MAP_BATCH = _ioctl(4, _MAP_BATCH.size)
_IOCTL_MAP_RESOURCE = _ioctl(7, _MAP_RESOURCE.size)

#: What an error usually means, where strerror() alone would mislead.
_MEANINGS = {
    errno.EPERM: "not root in a control domain, or refused by Xen's security policy",
    errno.EACCES: "this Xen has another version of the interface",
    errno.ESRCH: "there is no such domain",
    errno.ENOMEM: "the domain or the host has no memory left for this",
    errno.EOPNOTSUPP: "this Xen was built without it (log-dirty mode of PV guests needs shadow paging)",
    errno.ENOSYS: "this Xen or this kernel doesn't have the operation",
    errno.EBUSY: "another process uses it for this domain",
    errno.EINVAL: "the domain isn't in a state for this, or Xen rejects the value",
    errno.EFAULT: "Xen couldn't reach a buffer",
}


def _error(number: "Optional[int]", what: str, domid: "Optional[int]" = None) -> XenError:
    code = number or errno.EIO
    meaning = _MEANINGS.get(code)
    return XenError(code, "{}{}: {}{}".format(
        what, "" if domid is None else " for domain {}".format(domid), os.strerror(code),
        " ({})".format(meaning) if meaning else ""))


class DomainInfo(NamedTuple):
    """What Xen says of a domain.

    - ``hvm``: an HVM or PVH guest, else PV;
    - ``shutdown``: the shutdown reason (2: suspended), None while the domain hasn't shut down;
    - ``shared_info_frame``: MFN of a PV guest's shared info page; ``max_vcpu_id``: the highest vcpu number.
    """

    hvm: bool
    shutdown: "Optional[int]"
    shared_info_frame: int
    max_vcpu_id: int


class HypercallBuffer:
    """Memory that Xen reads and writes during a hypercall: ``view`` (bytes, writable) and its ``address``.

    The kernel may move or unmap ordinary memory for a moment, in which case the hypercall fails with EFAULT; this
    memory it doesn't. Freed when it is closed or garbage-collected.
    """

    def __init__(self, fd: "Optional[int]", size: int) -> None:
        room = max(-(-size // PAGE_SIZE), 1) * PAGE_SIZE
        if fd is not None:
            self._map = mmap.mmap(fd, room, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        else:
            self._map = mmap.mmap(-1, room, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_LOCKED,
                                  mmap.PROT_READ | mmap.PROT_WRITE)
        self.view = memoryview(self._map)
        self.address = mapping.address(self._map)

    def close(self) -> None:
        """Free the memory. Raises BufferError while views of ``view`` are alive."""
        self.view.release()
        self._map.close()


class ForeignMapping:
    """Frames of a domain in this process's memory: ``memory`` is a view of them, in the order asked for.

    ``errors`` is an array of C int: for each frame 0, or a negative error number (the frame isn't there). ``whole``:
    every frame is there.
    """

    def __init__(self, device: mmap.mmap, errors: memoryview) -> None:
        self._map = device
        self.memory = memoryview(device)
        self.errors = errors
        self.whole = errors.tobytes() == bytes(errors.nbytes)

    def close(self) -> None:
        """Unmap the frames. Raises BufferError while other views of them are alive."""
        self.memory.release()
        self._map.close()


class Privcmd:
    """The hypercall device of a control domain, opened.

    Raises XenError (an OSError) for failed calls, OSError where the device can't be opened: outside a dom0 there is
    none. Not for use by several threads at once: hypercalls share one argument page.
    """

    def __init__(self) -> None:
        self.fd = _open_device()
        self._buffer_fd: Optional[int] = None
        with suppress(OSError):  # Linux before 4.18 has none
            self._buffer_fd = os.open(_BUFFER_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        self._argument = HypercallBuffer(self._buffer_fd, PAGE_SIZE)
        self._version: Optional[int] = None
        self._fields: Dict[int, int] = {}  # of each operation of domctl: how many fields it has

    def close(self) -> None:
        """Close the device. Mappings and buffers live on until they are closed."""
        self._argument.close()
        for fd in (self.fd, self._buffer_fd):
            if fd is not None:
                os.close(fd)

    def buffer(self, size: int) -> HypercallBuffer:
        """Memory of at least ``size`` bytes for hypercalls."""
        return HypercallBuffer(self._buffer_fd, size)

    def call(self, op: int, *arguments: int, what: str = "", domid: "Optional[int]" = None) -> int:
        """Make a hypercall; returns its non-negative result. ``what`` and ``domid`` are for the error's message."""
        block = bytearray(_HYPERCALL_ARGUMENTS.pack(op, *(arguments + (0,) * (5 - len(arguments)))))
        try:
            result: int = fcntl.ioctl(self.fd, _IOCTL_HYPERCALL, block, True)
            return result
        except OSError as error:
            raise _error(error.errno, what or HYPERCALL_NAMES[op], domid) from None

    def xen_version(self) -> "Tuple[int, int]":
        """Major and minor version of the running Xen."""
        version = self.call(XEN_VERSION, 0, 0)
        return version >> 16, version & 0xFFFF

    def domctl(self, operation: Domctl, domid: int, *values: "Any") -> "Tuple[Any, ...]":
        """Do an operation on a domain; ``values`` fill its structure from the front, the rest is zero. Returns the
        structure's fields after the call."""
        if self._version is None:
            self._version = self._find_version()
        return self._domctl(operation, domid, values, self._version)

    def _domctl(self, operation: Domctl, domid: int, values: "Sequence[Any]", version: int) -> "Tuple[Any, ...]":
        view, layout = self._argument.view, operation.layout
        DOMCTL_HEAD.pack_into(view, 0, operation.number, version, domid)
        view[DOMCTL_HEAD.size:DOMCTL_HEAD.size + DOMCTL_UNION] = bytes(DOMCTL_UNION)
        if values:
            if operation.number not in self._fields:
                self._fields[operation.number] = len(layout.unpack(bytes(layout.size)))
            missing = self._fields[operation.number] - len(values)
            layout.pack_into(view, DOMCTL_HEAD.size, *values, *(0,) * missing)
        self.call(DOMCTL, self._argument.address, what="domctl " + operation.name, domid=domid)
        return layout.unpack_from(view, DOMCTL_HEAD.size)

    def _find_version(self) -> int:
        newest = max(DOMCTL_VERSIONS)
        for version in DOMCTL_VERSIONS + (newest + 1, newest + 2):
            try:
                self._domctl(GET_DOMAIN_INFO, 0, (), version)
                return version
            except XenError as error:
                if error.errno != errno.EACCES:
                    raise
        raise _error(errno.EACCES, "domctl: no interface version from {:#x} to {:#x} is this Xen's".format(
            min(DOMCTL_VERSIONS), newest + 2))

    def domain_info(self, domid: int) -> DomainInfo:
        """What Xen says of a domain. Raises XenError (ESRCH) if there is no such domain."""
        found, flags, _, _, _, _, _, frame, _, _, max_vcpu_id = self.domctl(GET_DOMAIN_INFO, domid)
        if found != domid:  # Xen answers for the next domain that there is
            raise _error(errno.ESRCH, "domctl getdomaininfo", domid)
        reason = flags >> SHUTDOWN_REASON_SHIFT & 0xFF if flags & DOMAIN_SHUTDOWN else None
        return DomainInfo(bool(flags & DOMAIN_HVM), reason, frame, max_vcpu_id)

    def memory_op(self, command: int, argument: bytes, what: str, domid: "Optional[int]" = None) -> "Tuple[int, bytes]":
        """Do a memory operation; returns its result and its structure after the call."""
        view = self._argument.view
        view[:len(argument)] = argument
        result = self.call(MEMORY_OP, command, self._argument.address, what="memory_op " + what, domid=domid)
        return result, bytes(view[:len(argument)])

    def guest_width(self, domid: int) -> int:
        """The word size of a PV guest in bytes, 4 or 8."""
        width: int = self.domctl(GET_ADDRESS_SIZE, domid)[0] // 8
        return width

    def hvm_param(self, domid: int, index: int) -> int:
        """The value of an HVM parameter."""
        HVM_PARAM.pack_into(self._argument.view, 0, domid, index, 0)
        self.call(HVM_OP, GET_HVM_PARAM, self._argument.address, what="hvm_op get_param {}".format(index), domid=domid)
        value: int = HVM_PARAM.unpack_from(self._argument.view)[2]
        return value

    def set_hvm_param(self, domid: int, index: int, value: int) -> None:
        """Set an HVM parameter."""
        HVM_PARAM.pack_into(self._argument.view, 0, domid, index, value)
        self.call(HVM_OP, SET_HVM_PARAM, self._argument.address, domid=domid,
                  what="hvm_op set_param {} to {:#x}".format(index, value))

    def map_frames(self, domid: int, frames: "Numbers", writable: bool = False) -> ForeignMapping:
        """Map frames of a domain: ``frames`` is a uint64 buffer, GFNs of an HVM guest, MFNs of a PV guest.

        A frame that can't be mapped is reported in ``errors``, not raised; touching its page then ends the process
        with SIGBUS. A PV guest's page tables can only be mapped read-only.
        """
        count = len(frames)
        errors = memoryview(bytearray(4 * count)).cast("i")
        protection = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
        room = mmap.mmap(self.fd, count * PAGE_SIZE, mmap.MAP_SHARED, protection)
        argument = bytearray(_MAP_BATCH.pack(count, domid, mapping.address(room), mapping.address(frames),
                                             mapping.address(errors)))
        try:
            fcntl.ioctl(self.fd, _IOCTL_MAP_BATCH, argument, True)
        except OSError as error:
            if error.errno != errno.ENOENT:  # some are paged out: that is in their errors
                room.close()
                raise _error(error.errno, "mapping {} frames".format(count), domid) from None
        return ForeignMapping(room, errors)

    def map_whole(self, domid: int, frames: "Numbers", writable: bool = False) -> ForeignMapping:
        """``map_frames`` where every frame must be there. Raises XenError naming those that aren't."""
        mapped = self.map_frames(domid, frames, writable)
        if not mapped.whole:
            bad = [index for index, error in enumerate(mapped.errors) if error]
            number = -mapped.errors[bad[0]]
            mapped.close()
            raise _error(number, "mapping frames {}".format(", ".join(
                hex(frame) for index, frame in enumerate(frames) if index in bad[:8])), domid)
        return mapped

    def map_resource(self, domid: int, kind: int, number: int, frame: int, count: int) -> ForeignMapping:
        """Map ``count`` frames of a resource of a domain (Linux 4.18 and later), writable."""
        room = mmap.mmap(self.fd, count * PAGE_SIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        argument = bytearray(_MAP_RESOURCE.pack(domid, kind, number, frame, count, mapping.address(room)))
        try:
            fcntl.ioctl(self.fd, _IOCTL_MAP_RESOURCE, argument, True)
        except OSError as error:
            room.close()
            raise _error(error.errno, "mapping resource {}".format(kind), domid) from None
        return ForeignMapping(room, memoryview(bytearray(4 * count)).cast("i"))


def _open_device() -> int:
    failures: List[str] = []
    for path in _DEVICES:
        try:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            failures.append("{}: {}".format(path, error.strerror))
    raise XenError(errno.ENODEV, "no access to Xen: this must run as root in a dom0 ({})".format("; ".join(failures)))

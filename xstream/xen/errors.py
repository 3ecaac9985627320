"""Errors of the interfaces to Xen, xenstored and QEMU."""


class XenError(OSError):
    """A hypercall or mapping failed. The message names the call, the domain and the usual cause of the error."""

    def __str__(self) -> str:
        return self.strerror or super().__str__()


class XenstoreError(XenError):
    """xenstored refused a request, or can't be reached."""


class QmpError(XenError):
    """QEMU refused a command, or can't be reached."""


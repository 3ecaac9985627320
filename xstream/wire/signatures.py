"""The names of formats, and the bytes that they begin with; without loading what reads them."""
LIBXC, LEGACY, XL, LIBVIRT, LIBXL = "libxc", "legacy", "xl", "libvirt", "libxl"
XENOPSD, XEND, COLO = "xenopsd", "xend", "colo"

LIBXC_MARKER = b"\xff" * 8
LIBXL_MAGIC = b"LibxlFmt"
XL_MAGIC = b"Xen saved domain, xl format\n \0 \r"
LIBVIRT_MAGIC = b"libvirt-xml\n \0 \r"
XENOPSD_SIGNATURE = b"XenSavedDomv2-\n"
XENOPSD_LEGACY_SIGNATURE = b"XenSavedDomain\n"
XEND_MAGIC = b"LinuxGuestRecord"
#: COLO's back channel begins with a CHECKPOINT_STATE record (type 5, length 8): "secondary ready" (2).
COLO_START = b"\5\0\0\0\x08\0\0\0\2\0\0\0"

"""The start info page, which a PV guest receives when it starts, and again when it is restored.

Source: struct start_info in xen/include/public/xen.h; what a restore changes: process_start_info() in
tools/libs/guest/xg_sr_restore_x86_pv.c. A guest that suspends itself replaces the MFNs by PFNs.
"""
import struct

from xstream.tuples import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.wire.frames import Buffer

#: nr_pages, shared_info, flags, store_mfn, store_evtchn, console mfn, console evtchn; by guest width. They follow
#: the magic at the beginning of the page.
_FIELDS = {8: struct.Struct("<QQI4xQI4xQI"), 4: struct.Struct("<IIIIIII")}
MAGIC_SIZE = 32


class StartInfo(NamedTuple):
    """What a restore sets. ``shared_info`` is an address in bytes, ``store`` and ``console`` are frames."""

    nr_pages: int
    shared_info: int
    flags: int
    store: int
    store_evtchn: int
    console: int
    console_evtchn: int


def size(guest_width: int) -> int:
    """Bytes from the page's beginning to the end of what a restore sets."""
    return MAGIC_SIZE + _FIELDS[guest_width].size


def parse(untrusted: "Buffer", guest_width: int) -> StartInfo:
    """The fields of a page, or of its first ``size()`` bytes."""
    return StartInfo(*_FIELDS[guest_width].unpack_from(untrusted, MAGIC_SIZE))


def build(info: StartInfo, guest_width: int) -> bytes:
    """The bytes at offset MAGIC_SIZE. Raises ValueError for numbers too large for their fields."""
    try:
        return _FIELDS[guest_width].pack(*info)
    except struct.error as error:
        raise ValueError("a number too large for the start info: {}".format(error))

"""The console ring, a page shared by a guest and its console backend.

Source: struct xencons_interface in xen/include/public/io/console.h; what a restore does to it: dom_console_init() in
tools/libs/guest/xg_dom_boot.c, since Xen 4.21 (commits b6fc307b0b and 971b7d5ecb).
"""
from xstream.wire.libxc import PAGE_SIZE

#: Offset of ``connection``, one byte after the rings of 1024 and 2048 bytes and their four indices.
CONNECTION = 3088
DISCONNECTED = 1


def set_disconnected(page: bytearray) -> None:
    """Mark a copy of a console page as disconnected: no backend is connected."""
    page[CONNECTION] = DISCONNECTED


def cleared() -> bytearray:
    """An empty console page, marked as disconnected."""
    page = bytearray(PAGE_SIZE)
    set_disconnected(page)
    return page

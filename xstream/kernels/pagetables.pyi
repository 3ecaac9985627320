"""Convert the page tables of PV guests between MFNs, which the guest uses, and PFNs, which a stream uses.

Buffers may be misaligned. Tables and maps that change during a call can't make it reach outside its buffers: each entry
is loaded once.
"""
from typing import Tuple

from xstream.kernels.buffers import BufferLike

#: No error.
OK: int
#: The MFN of a present entry isn't in the guest's p2m.
STALE: int
#: A present entry of an L2 to L4 table maps a superpage.
SUPERPAGE: int
#: The table is an L4, and the guest has 3 levels.
LEVEL: int
#: The PFN of a present entry is past the p2m.
PAST_P2M: int
#: The PFN of a present entry has no MFN.
UNPOPULATED: int
#: An entry in a slot that belongs to the hypervisor isn't zero.
XEN_SLOT: int

#: No frame: what an unpopulated PFN has in a p2m, and the compat m2p of a 64-bit guest.
INVALID_MFN: int

def normalise(pages: BufferLike, types: BufferLike, p2m: BufferLike, m2p: BufferLike, out: BufferLike,
              torn: BufferLike, *, levels: int, paused: bool, compat_m2p_mfn: int = ...) -> Tuple[int, int, int]:
    """Write ``pages`` to ``out`` as a stream has them: MFNs become PFNs, and the hypervisor's slots become zero.

    ``pages``: k x 4096 bytes. ``types``: uint8[k], page types; pages that aren't tables (types 1 to 4 and 9 to 12) are
    copied. ``p2m``: uint64, the MFN of each PFN (widen a 32-bit guest's first, and its all-ones to INVALID_MFN).
    ``m2p``: uint64, PFN of each MFN. ``out``: writable, k x 4096 bytes; may be ``pages``, if they are a copy. ``torn``:
    uint8[k], becomes 1 for a table that can't be normalised and 0 for every other page. ``levels``: 3 or 4.
    ``compat_m2p_mfn``: first frame of the m2p that Xen maps into a 32-bit guest; it identifies the guest's top L2.

    While the guest runs, bad entries are expected: it updates its tables in steps, and page types change. Such tables
    are zeroed in ``out`` and have to be sent again later. Once the guest is ``paused`` they are errors.

    Returns (index, entry, reason) of the first error of a paused guest, after which ``out`` and ``torn`` aren't
    complete, or (-1, -1, OK). Reasons: STALE, SUPERPAGE, LEVEL (entry 0). Raises TypeError or ValueError for buffers of
    the wrong kind or size.

    As Xen's tools/libs/guest/xg_sr_save_x86_pv.c (normalise_pagetable).
    """

def referenced(pages: BufferLike, types: BufferLike, state: BufferLike, pfns: BufferLike) -> int:
    """Find the PFNs that present entries of normalised tables refer to and that aren't populated; mark them populated.

    ``pages``, ``types``: as in ``normalise``. ``state``: writable uint8, one byte for each PFN, as in
    :mod:`xstream.kernels.pfns`; PFNs past it are ignored. ``pfns``: writable uint64, receives each such PFN once.
    Returns how many; if ``pfns`` is full, call again for more.

    As populate in Xen's tools/libs/guest/xg_sr_restore_x86_pv.c (x86_pv_localise_page).
    """

def localise(pages: BufferLike, types: BufferLike, p2m: BufferLike, out: BufferLike) -> Tuple[int, int, int]:
    """Write normalised ``pages`` to ``out`` as the restored guest has them: PFNs of present entries become MFNs.

    ``pages``, ``types``, ``p2m``: as in ``normalise``; pages that aren't tables are copied. ``out``: writable, k x 4096
    bytes; may be ``pages``.

    Returns (-1, -1, OK), or (index, entry, reason) of the first bad entry, with nothing written: PAST_P2M, or
    UNPOPULATED for an MFN that doesn't fit an entry. Doesn't look for superpages: ``check`` does. If the tables change
    during the call, some pages may have been written.

    As Xen's tools/libs/guest/xg_sr_restore_x86_pv.c (x86_pv_localise_page).
    """

def check(pages: BufferLike, types: BufferLike, pfn_end: int, *, levels: int, strict: bool,
          superpages: bool = False) -> Tuple[int, int, int]:
    """Check normalised tables. Returns (index, entry, reason) of the first bad entry, or (-1, -1, OK).

    ``pages``, ``types``: as in ``normalise``. Reasons: LEVEL (entry 0), PAST_P2M for a PFN of ``pfn_end`` or more,
    SUPERPAGE unless ``superpages`` are allowed, and with ``strict`` XEN_SLOT. Xen up to 4.5 didn't check the superpage
    bit: streams from it have it in what was left of Xen's own mappings in a PAE guest's top L2, and in tables that
    changed while they were saved.
    """

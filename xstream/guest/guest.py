"""What save() and restore() ask of a machine: one class to derive from, and the errors of its hooks.

The division of work is that of Xen's own code (struct xc_sr_save_ops and xc_sr_restore_ops in
tools/libs/guest/xg_sr_common.h): the engines know the stream, its order, and how PFNs and frames are exchanged; a guest
knows how to reach its memory and its processors.
"""
from typing import Any, Callable, NamedTuple, Optional, Sequence, Tuple

from xstream.wire.frames import Buffer
from xstream.wire.libxc import GUEST_HVM, GUEST_PV, Record


class Pages(NamedTuple):
    """Pages that a guest has made reachable: page i is number ``at[i]`` of ``memory``.

    - ``memory``: a buffer of whole pages; writable when it is for restoring;
    - ``at``: uint64, an index for each page, in the order asked for.

    A guest whose whole memory is mapped gives that and the frames; one that maps page by page gives its mapping and
    0, 1, 2, ...
    """

    memory: Buffer
    at: Any


class Completed(NamedTuple):
    """What a toolstack wants to know of a restored guest.

    - ``store_frame``, ``console_frame``: frames of the xenstore and console rings, None where the stream names none;
    - ``start_info_pfn``, ``p2m_pfns``: of a PV guest, where its start info and its p2m are; else None and empty.
    """

    store_frame: Optional[int] = None
    console_frame: Optional[int] = None
    start_info_pfn: Optional[int] = None
    p2m_pfns: Sequence[int] = ()


class GuestError(Exception):
    """The guest isn't what it should be, or didn't do what it was asked."""


class HookError(GuestError):
    """A guest's hook raised an exception, which is this one's ``__cause__``. ``hook`` is the hook's name."""

    def __init__(self, hook: str, cause: BaseException) -> None:
        super().__init__("the guest's {}() failed: {}".format(hook, cause or type(cause).__name__))
        self.hook = hook


class Cancelled(GuestError):
    """The caller wanted no more."""


class Guest:
    """A machine to save or to restore into. Derive from it and define the hooks for what yours can do.

    Numbers: a *PFN* is a page as the guest counts them, from 0, and as streams do. A *frame* is a page as the host
    counts them: for an HVM guest the same number, for a PV guest the MFN. Arrays of either are uint64 buffers that
    belong to the engine and are good during the call; numpy.frombuffer makes arrays of them. Hooks that fill an array
    write to all of it.

    Errors: whatever a hook raises stops the engine, which undoes what it has to and raises HookError from it.

    Calls come from one thread, one at a time, except where a caller of the engines does otherwise.
    """

    #: "hvm" (PVH as well) or "pv".
    kind = "hvm"
    #: Bytes in a word of a PV guest: 8 or 4. Restoring sets it, by ``start_restore``.
    guest_width = 8
    #: Of the Xen that the guest runs on, for the stream's header: (major, minor).
    xen_version: Tuple[int, int] = (4, 17)
    #: Saving: whether pages may be put into a pipe by reference (vmsplice). What the guest does to a page before the
    #: pipe's reader has taken it is then what the reader gets; while the guest runs that does no harm, for the page
    #: comes again. The engine waits for the pipe to be empty before it lets the guest run. Say True only if pages can't
    #: be unmapped or reused while they are in the pipe, and the reader copies them out of it.
    spliceable = False
    #: Saving a 32-bit PV guest: first frame of the m2p that Xen maps into it; without it, all ones.
    compat_m2p_mfn = 2 ** 64 - 1
    #: Restoring a PV guest: event channels of its xenstore and console, and the frame of its shared info.
    store_evtchn = 0
    console_evtchn = 0
    shared_info_frame = 0

    # Memory, both ways

    def map_pages(self, frames: Any) -> Pages:
        """Make pages reachable, at most 1024 when saving, one at least. Called once a batch.

        The memory stays the guest's: saving, it is read while the guest may write to it; restoring, it is written. It
        must stay good until ``unmap_pages``. Each frame is one that ``page_types`` said carries data, or that
        ``populate`` gave, or (PV) that holds the guest's p2m.
        """
        raise NotImplementedError

    def unmap_pages(self, pages: Pages) -> None:
        """The engine is done with what ``map_pages`` gave; called once for each. Default: nothing."""

    # Saving

    def pfn_end(self) -> int:
        """HVM: one more than the highest PFN. Asked once; the stream can't have PFNs past it. Restoring under COLO:
        once a checkpoint, of what has been restored."""
        raise NotImplementedError

    def page_types(self, frames: Any, types: Any) -> None:
        """Fill ``types`` (uint8) with the present types of frames: 0 NOTAB, 1-4 page tables (9-12 pinned), 13 BROKEN,
        14 XALLOC (to be allocated, contents don't matter), 15 XTAB for what isn't there. Called once a batch. PV: a
        frame may be one that isn't the guest's any more, or all ones; those are XTAB, too."""
        raise NotImplementedError

    def static_records(self) -> Sequence[Record]:
        """What stands ahead of memory: CpuidPolicy and MsrPolicy, in this order. Called once. Default: none."""
        return ()

    def state_records(self) -> Sequence[Record]:
        """What stands behind memory; called with the guest suspended, once, or once a checkpoint.

        - HVM: TscInfo, HvmContext, HvmParams (without those that are 0);
        - PV: TscInfo, SharedInfo, then for each vcpu that is online VcpuBasic, VcpuExtended, VcpuXsave, VcpuMsrs, each
          left out where it would be empty. Frames in VcpuBasic are MFNs: the engine makes them PFNs.
        """
        raise NotImplementedError

    def track_dirty(self, on: bool) -> None:
        """Begin, or end, to note which PFNs change. Live and checkpointed saves only; after a beginning always an end.

        Nothing is dirty at the beginning.
        """
        raise NotImplementedError

    def read_dirty(self, bitmap: Any, clean: bool) -> None:
        """Fill ``bitmap`` (a bit for each PFN, bit 0 of byte 0 first; bits past the last stay zero) with the PFNs
        written to, populated or given up since they were last cleaned; with ``clean`` none is dirty from then on, in
        one step. Called with and without ``clean`` once a round."""
        raise NotImplementedError

    def suspend(self) -> None:
        """Have the guest suspend itself, or stop it; on return it doesn't run and its memory stays as it is. Called
        once, or once a checkpoint. If it raises, the guest is taken to be running."""
        raise NotImplementedError

    def resume(self) -> None:
        """Let a suspended guest go on: after a checkpoint, or since the save has failed."""
        raise NotImplementedError

    def m2p(self) -> Any:
        """PV: the host's m2p, uint64, PFN of each MFN. Called once; the view is looked at until the end, and should
        show what the table is at that time."""
        raise NotImplementedError

    def shared_info(self) -> Buffer:
        """PV: the shared info page as it is now, 4096 bytes, a view or a copy. Called at the beginning and once a
        round."""
        raise NotImplementedError

    # Restoring

    def start_restore(self, guest_width: int) -> None:
        """A stream of this guest's kind has begun; ``guest_width`` is 8 or 4 for a PV guest, 0 for HVM. Called once,
        first. Default: takes over the width."""
        self.guest_width = guest_width or self.guest_width

    def load_static(self, records: Sequence[Record]) -> None:
        """Take the CPU policies that came, each at most once; what is missing is for the toolstack to make up. Called
        once, before anything is populated. Default: nothing."""

    def populate(self, pfns: Any, frames: Any) -> None:
        """Give the guest memory for ``pfns``, zeroed, and say in ``frames`` which frames it got (HVM: the PFNs). Called
        with each PFN once, before the first page is written to it."""
        raise NotImplementedError

    def set_types(self, words: Any) -> None:
        """A batch's PFN words (8 bytes each: type in bits 63-60, PFN in 51-0) have come, whose pages are written next.
        The last type counts. Default: nothing; Xen only wants to know in the end, by ``pin_tables``."""

    def load_state(self, records: Sequence[Record]) -> None:
        """Take the state, the last of each record that came, with memory in place. Called once, and under COLO once a
        checkpoint.

        - HVM: TscInfo, HvmParams, HvmContext;
        - PV: TscInfo; SharedInfo, to be taken over whole but for its wallclock; for each vcpu VcpuBasic with MFNs,
          VcpuExtended, VcpuXsave, VcpuMsrs.
        """
        raise NotImplementedError

    def pin_tables(self, frames: Any, types: Any) -> None:
        """PV: pin the page tables in ``frames``; ``types`` (uint8) are 9 to 12. Called once, if there are any, after
        ``load_state``. Default: nothing."""

    def complete(self, result: Completed) -> None:
        """The guest is whole and may run. Called last, and under COLO once a checkpoint. Default: nothing."""

    def abandon(self) -> None:
        """The restore has failed: the guest isn't whole and must never run. Called once; default: nothing."""


#: Domain header type of each kind of guest.
GUEST_TYPES = {"hvm": GUEST_HVM, "pv": GUEST_PV}


class Hooks:
    """A guest's hooks under their names, so that what they raise comes out as HookError."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def __getattr__(self, name: str) -> Callable[..., Any]:
        hook = getattr(self._guest, name)

        def call(*arguments: Any) -> Any:
            try:
                return hook(*arguments)
            except Exception as error:
                raise HookError(name, error) from error

        setattr(self, name, call)
        return call

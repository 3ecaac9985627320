"""The interface between the save and restore engines and a machine: the class to derive a backend from.

The division of work is that of Xen's own code (struct xc_sr_save_ops and xc_sr_restore_ops in
tools/libs/guest/xg_sr_common.h): the engines know the stream, its record order, and the translation between PFNs and
frames; a backend knows how to reach its machine's memory and vcpus. docs/backends.md explains how to write one, and
:mod:`xstream.testing` checks one.
"""
from xstream.tuples import NamedTuple
from xstream.wire.libxc import GUEST_HVM, GUEST_PV

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional, Sequence, Tuple

    from xstream.kernels.buffers import Flags, Numbers
    from xstream.wire.frames import Buffer
    from xstream.wire.libxc import Record

#: Domain header type of each kind of guest.
GUEST_TYPES = {"hvm": GUEST_HVM, "pv": GUEST_PV}


class Pages(NamedTuple):
    """Guest pages that a backend has mapped: page i is page number ``at[i]`` of ``memory``.

    - ``memory``: a contiguous buffer of whole pages; writable when restoring;
    - ``at``: uint64 array, one page number per requested frame, in the order requested. A backend that has mapped all
      guest memory returns that and the frame numbers; one that maps each batch returns the mapping and 0, 1, 2, ...;
    - ``missing``: uint8 array with one byte per requested frame, nonzero for a page that could not be mapped because
      the guest gave it up since ``page_types``; empty when all are mapped. ``at`` has an entry for these too, which is
      not used. Only allowed while the guest runs: the engine then sends the page again later;
    - ``handle``: whatever the backend needs to release the mapping; the engine passes it back to ``unmap_pages``.
    """

    memory: "Buffer"
    at: "Numbers"
    missing: "Flags" = b""
    handle: "Any" = None


class Completed(NamedTuple):
    """What a toolstack needs to know about a restored guest.

    - ``store_frame``, ``console_frame``: frames of the xenstore and console rings; None if the stream names none. The
      backend seeds the grant table with them, and the toolstack introduces the guest to xenstored and xenconsoled;
    - ``start_info_pfn``, ``p2m_pfns``: of a PV guest, the PFNs of its start info and its p2m; else None and empty.
    """

    store_frame: "Optional[int]" = None
    console_frame: "Optional[int]" = None
    start_info_pfn: "Optional[int]" = None
    p2m_pfns: "Sequence[int]" = ()


class GuestError(Exception):
    """The guest is in a state that can't be saved or restored into, or a hook returned something invalid."""


class HookError(GuestError):
    """A hook of the guest raised an exception, which is the ``__cause__``. ``hook`` is the hook's name."""

    def __init__(self, hook: str, cause: BaseException) -> None:
        super().__init__("the guest's {}() failed: {}".format(hook, cause or type(cause).__name__))
        self.hook = hook


class Cancelled(GuestError):
    """The caller's ``cancelled`` function or policy ended the operation."""


class Guest:
    """A machine to save or to restore into. Derive from it and implement the hooks that your machine needs.

    Terms: a *PFN* is a page number in the guest's own numbering, from 0; streams and dirty bitmaps use PFNs. A *frame*
    is a page number in the host's numbering: equal to the PFN for an HVM guest, the MFN for a PV guest.

    Arguments: arrays of PFNs and frames are contiguous uint64 memoryviews owned by the engine. They are valid only
    during the call (``numpy.frombuffer(frames, "<u8")`` makes an array without copying). A hook that fills an array
    must write every element.

    Errors: an exception from a hook stops the engine, which undoes what it has to and raises :class:`HookError` from
    it. Hooks are called one at a time, from the thread that runs the engine (under :mod:`xstream.aio`, one worker
    thread per operation). Hooks may block.
    """

    #: "hvm" (for PVH as well) or "pv".
    kind = "hvm"
    #: Size of a word of a PV guest in bytes: 8 or 4. ``start_restore`` sets it when restoring.
    guest_width = 8
    #: Version (major, minor) of the Xen that the guest runs on, for the stream's domain header.
    xen_version: "Tuple[int, int]" = (4, 17)
    #: Saving: whether pages may be put into a pipe by reference (vmsplice) instead of being copied. Set it to True only
    #: if ``map_pages`` returns ordinary process memory whose pages are not unmapped, freed or reused while they are in
    #: the pipe, and the reader copies them out. Foreign mappings never qualify: vmsplice fails on them with EFAULT. A
    #: running guest may write to such pages; they are then sent again. The engine waits for the pipe to drain before it
    #: resumes the guest.
    spliceable = False
    #: Saving a 32-bit PV guest: first frame of the m2p that Xen maps into it (XENMEM_machphys_compat_mfn_list); all
    #: ones if unknown.
    compat_m2p_mfn = 2 ** 64 - 1
    #: Restoring: event channel ports that the toolstack has allocated for the xenstore and console rings. A PV guest
    #: finds them in its start info; for an HVM guest the engine adds them to HvmParams as parameters 2
    #: (HVM_PARAM_STORE_EVTCHN) and 18 (HVM_PARAM_CONSOLE_EVTCHN). 0 means none.
    store_evtchn = 0
    console_evtchn = 0
    #: Restoring a PV guest: frame of its shared info page.
    shared_info_frame = 0

    # Memory, saving and restoring

    def map_pages(self, frames: memoryview) -> Pages:
        """Map pages of the guest. Called once per batch with at least one frame; at most 1024 when saving. When
        restoring, a frame may occur more than once: a stream may send a page repeatedly, and the last one counts.
        Restoring a compressed image, further batches may be mapped before this one is unmapped; the engine's threads
        then write to several mappings at once, while all hooks are still called one at a time.

        The mapping stays the backend's and must stay valid until ``unmap_pages``. Saving, the engine reads it while the
        guest may write to it; restoring, the engine writes to it. Each frame is one that ``page_types`` reported to
        carry data, that ``populate`` returned, or (PV) that holds the guest's p2m.
        """
        raise NotImplementedError

    def unmap_pages(self, pages: Pages) -> None:
        """Release what ``map_pages`` returned. Called once for each successful ``map_pages``, even after a failure.
        Default: nothing."""

    def end(self) -> None:
        """Release everything that belongs to this save or restore: m2p and shared info mappings, device handles.

        Called exactly once, as the last hook, whether the operation succeeded or not; the guest may be saved or
        restored again afterwards. An exception is reported as HookError after everything else is done, and changes
        nothing: after a successful save the guest stays suspended, after a successful restore it is complete. Default:
        nothing.
        """

    # Saving

    def start_save(self, pfn_end: int) -> None:
        """A save begins. ``pfn_end`` is one more than the guest's highest PFN: for an HVM guest what the hook
        ``pfn_end`` returned, for a PV guest what the engine found in its shared info. Dirty bitmaps have that many
        bits. Called once, before ``static_records``. Default: nothing."""

    def pfn_end(self) -> int:
        """HVM: one more than the highest PFN. Called once when saving; higher PFNs can't be sent later. Called once per
        checkpoint when restoring under COLO."""
        raise NotImplementedError

    def page_types(self, frames: memoryview, types: memoryview) -> None:
        """Write the current type of each frame to ``types`` (uint8). Called once per batch.

        0 NOTAB, 1-4 L1TAB to L4TAB, 9-12 the same pinned, 13 BROKEN, 14 XALLOC (allocated, contents irrelevant), 15
        XTAB (no page). PV: a frame may be one that no longer belongs to the guest, or all ones; both are XTAB.
        """
        raise NotImplementedError

    def static_records(self) -> "Sequence[Record]":
        """CpuidPolicy and MsrPolicy, in this order, which precede memory in the stream. Called once. Default: none."""
        return ()

    def state_records(self) -> "Sequence[Record]":
        """The guest's state, which follows memory. Called with the guest suspended, once or once per checkpoint.

        - HVM: TscInfo, HvmContext, HvmParams. Of the parameters, those that libxenguest sends, without those that are
          0: STORE_PFN 1, IOREQ_PFN 5, BUFIOREQ_PFN 6, PAGING_RING_PFN 27, MONITOR_RING_PFN 28, SHARING_RING_PFN 29,
          VM86_TSS_SIZED 37, CONSOLE_PFN 17, ACPI_IOPORTS_LOCATION 19, VIRIDIAN 9, IDENT_PT 12, VM_GENERATION_ID_ADDR
          34, IOREQ_SERVER_PFN 32, NR_IOREQ_SERVER_PAGES 33, X87_FIP_WIDTH 36, MCA_CAP 38 (write_hvm_params() in
          tools/libs/guest/xg_sr_save_x86_hvm.c);
        - PV: TscInfo, SharedInfo, then for each online vcpu VcpuBasic, VcpuExtended, VcpuXsave, VcpuMsrs, each left out
          if it would be empty. VcpuBasic holds MFNs, as Xen returns them: the engine translates them.
        """
        raise NotImplementedError

    def track_dirty(self, on: bool) -> None:
        """Start or stop tracking which PFNs change. Live and checkpointed saves, and restores under COLO, only; each
        start is followed by one stop. No PFN is dirty at the start.

        Xen tracks what vcpus write. An emulated device that writes by DMA (QEMU) does its own tracking, which the
        backend has to switch as well (libxl's switch_qemu_logdirty callback; QMP xen-set-global-dirty-log): without it
        those writes are silently lost.
        """
        raise NotImplementedError

    def read_dirty(self, bitmap: memoryview, clean: bool, final: bool) -> None:
        """Fill ``bitmap`` (one bit per PFN, bit 0 of byte 0 first; bits past the last PFN are zero) with the PFNs
        written to, populated or given up since they were last cleaned.

        - ``clean``: also mark all PFNs clean, atomically with reading;
        - ``final``: the guest is suspended, and the result must include pages that the hypervisor or a device model
          may have written on the guest's behalf (Xen: XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL).
        """
        raise NotImplementedError

    def count_dirty(self) -> "Optional[int]":
        """How many PFNs are dirty, without cleaning them; called after each live round, for the policy. Xen counts
        without copying the bitmap (XEN_DOMCTL_SHADOW_OP_PEEK with a NULL bitmap). Default: None, and the engine calls
        ``read_dirty(bitmap, False, False)`` instead."""
        return None

    def suspend(self) -> None:
        """Suspend the guest. On return its vcpus don't run and its memory doesn't change. Called once, or once per
        checkpoint. If it raises, the engine assumes that the guest runs."""
        raise NotImplementedError

    def resume(self) -> None:
        """Let a suspended guest run again: after a checkpoint, or because the save failed."""
        raise NotImplementedError

    def m2p(self) -> "Buffer":
        """PV: the host's m2p, a uint64 buffer with the PFN of each MFN. Called once; the engine reads the buffer until
        the save ends, and expects it to show the table's current contents."""
        raise NotImplementedError

    def shared_info(self) -> "Buffer":
        """PV: the current shared info page, 4096 bytes, a view or a copy. Called at the start and, if the
        guest's p2m is a linear list, after each live round."""
        raise NotImplementedError

    # Restoring

    def start_restore(self, guest_width: int) -> None:
        """A stream of this guest's kind begins; ``guest_width`` is 8 or 4 for a PV guest, 0 for HVM. Called once, as
        the first hook. Default: sets ``guest_width``."""
        self.guest_width = guest_width or self.guest_width

    def load_static(self, records: "Sequence[Record]") -> None:
        """Apply the CPU policies: a CpuidPolicy and an MsrPolicy, each present at most once. Called once, before
        anything is populated.

        The toolstack has to provide what is missing: libxl expects its static_data_done callback in any case, with bit
        0 set for a missing CPUID policy and bit 1 for a missing MSR policy. XEN_DOMCTL_set_cpu_policy wants all of its
        err_* fields set to all ones. Default: nothing.
        """

    def populate(self, pfns: memoryview, frames: memoryview) -> None:
        """Allocate memory for ``pfns`` and write the frames to ``frames`` (HVM: the PFNs themselves). Called once for
        each PFN, before a page is written to it, with all PFNs of a batch that need it: enough to allocate 2 MiB pages.

        The contents of the new pages don't matter to the engine; don't expose another guest's data.
        """
        raise NotImplementedError

    def set_types(self, words: memoryview) -> None:
        """A batch of PFN words (8 bytes each: type in bits 63-60, PFN in 51-0) has arrived; its pages are written next.
        The last type of each PFN is the one that counts. Default: nothing, because Xen needs the types only for
        pinning, which ``pin_tables`` does."""

    def load_state(self, records: "Sequence[Record]") -> None:
        """Apply the guest's state, in this order, with all memory in place. Called once, or once per checkpoint under
        COLO.

        - HVM: TscInfo, HvmParams, HvmContext. HvmParams combines all parameters of the stream and contains
          ``store_evtchn`` and ``console_evtchn``;
        - PV: TscInfo; SharedInfo, reduced to what a restored guest keeps: copy all of it except the wallclock (12 bytes
          at 0x900, or 16 at 0xC00 for a 64-bit guest); for each vcpu VcpuBasic with MFNs, VcpuExtended, VcpuXsave,
          VcpuMsrs.
        """
        raise NotImplementedError

    def pin_tables(self, frames: memoryview, types: memoryview) -> None:
        """PV: pin the page tables in ``frames``; ``types`` (uint8) are 9 to 12. Called after ``load_state``, at most
        1024 at a time. Default: nothing."""

    def complete(self, result: Completed) -> None:
        """The guest is complete and may run. Called once, or once per checkpoint under COLO.

        The backend seeds the grant table here: entry 0 grants the console's domain access to ``console_frame``, entry 1
        the xenstore's domain to ``store_frame``. Default: nothing.
        """

    def abandon(self) -> None:
        """The restore failed: the guest is incomplete and must never run. Called at most once. Default: nothing."""

"""The hypercalls that saving and restoring need: numbers, structures and interface versions.

Source: xen/include/public/{xen,domctl,memory,version,hvm/hvm_op,hvm/params,arch-x86/xen}.h of Xen 4.12 to 4.22. No
field used here moved between these versions; only the interface version of domctl changed.
"""
import struct

from xstream.tuples import NamedTuple

PAGE_SIZE = 4096

# Hypercall numbers: xen.h.
MEMORY_OP, XEN_VERSION, MMUEXT_OP, HVM_OP, DOMCTL = 12, 17, 26, 34, 36
HYPERCALL_NAMES = {MEMORY_OP: "memory_op", XEN_VERSION: "xen_version", MMUEXT_OP: "mmuext_op", HVM_OP: "hvm_op",
                   DOMCTL: "domctl"}

#: Pseudo domain that owns Xen's own memory, such as the machine-to-physical table.
DOMID_XEN = 0x7FF2

#: XEN_DOMCTL_INTERFACE_VERSION of Xen 4.12 to 4.22; several releases share one. Newer versions are tried after these.
DOMCTL_VERSIONS = (0x17, 0x18, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11)
#: A domctl starts with u32 cmd, u32 interface_version, u16 domain and padding; a union of 128 bytes follows.
DOMCTL_HEAD = struct.Struct("<IIH6x")
DOMCTL_UNION = 128


class Domctl(NamedTuple):
    """One operation of domctl: its number, its name without XEN_DOMCTL_, and its part of the union."""

    number: int
    name: str
    layout: struct.Struct


# u16 domain, u32 flags, u64 tot_pages, max_pages, outstanding, shr, paged, shared_info_frame, cpu_time, u32
# nr_online_vcpus, max_vcpu_id.
GET_DOMAIN_INFO = Domctl(5, "getdomaininfo", struct.Struct("<H2xI7Q2I"))
# u32 op, mode, mb; pointer to the bitmap, u64 pages, u32 fault_count, dirty_count.
SHADOW_OP = Domctl(10, "shadow_op", struct.Struct("<3I4x2Q2I"))
# u32 vcpu, pointer to the context.
SET_VCPU_CONTEXT = Domctl(12, "setvcpucontext", struct.Struct("<I4xQ"))
GET_VCPU_CONTEXT = Domctl(13, "getvcpucontext", struct.Struct("<I4xQ"))
# u32 vcpu, u8 online, blocked, running.
GET_VCPU_INFO = Domctl(14, "getvcpuinfo", struct.Struct("<I3B"))
RESUME_DOMAIN = Domctl(27, "resumedomain", struct.Struct(""))
# u32 size, pointer to the buffer.
GET_HVM_CONTEXT = Domctl(33, "gethvmcontext", struct.Struct("<I4xQ"))
SET_HVM_CONTEXT = Domctl(34, "sethvmcontext", struct.Struct("<I4xQ"))
# u32 bits.
SET_ADDRESS_SIZE = Domctl(35, "set_address_size", struct.Struct("<I"))
GET_ADDRESS_SIZE = Domctl(36, "get_address_size", struct.Struct("<I"))
# The union from the vcpu number on is the VCPU_EXTENDED record's body.
SET_EXT_VCPU_CONTEXT = Domctl(42, "set_ext_vcpucontext", struct.Struct("<128s"))
GET_EXT_VCPU_CONTEXT = Domctl(43, "get_ext_vcpucontext", struct.Struct("<128s"))
# u32 mode, gtsc_khz, incarnation, padding; u64 elapsed_nsec.
GET_TSC_INFO = Domctl(59, "gettscinfo", struct.Struct("<4IQ"))
SET_TSC_INFO = Domctl(60, "settscinfo", struct.Struct("<4IQ"))
# u64 number of frames, pointer to u64 frames, which become types in bits 31 to 28.
GET_PAGE_FRAME_INFO = Domctl(61, "getpageframeinfo3", struct.Struct("<2Q"))
# u32 vcpu, u64 xfeature_mask, u64 size, pointer to the area.
SET_VCPU_XSAVE = Domctl(62, "setvcpuextstate", struct.Struct("<I4x3Q"))
GET_VCPU_XSAVE = Domctl(63, "getvcpuextstate", struct.Struct("<I4x3Q"))
# u32 vcpu, msr_count, pointer to the MSRs.
GET_VCPU_MSRS = Domctl(72, "get_vcpu_msrs", struct.Struct("<2IQ"))
SET_VCPU_MSRS = Domctl(73, "set_vcpu_msrs", struct.Struct("<2IQ"))
# u32 nr_leaves, nr_msrs, pointers to both; when setting: u32 err_leaf, err_subleaf, err_msr, which must be all ones.
GET_CPU_POLICY = Domctl(82, "get_cpu_policy", struct.Struct("<2I2Q3I"))
SET_CPU_POLICY = Domctl(83, "set_cpu_policy", struct.Struct("<2I2Q3I"))

# Flags of getdomaininfo.
DOMAIN_HVM, DOMAIN_SHUTDOWN = 2, 4
SHUTDOWN_REASON_SHIFT, SHUTDOWN_SUSPEND = 16, 2

# shadow_op: operations, and the mode of the last read, which adds the pages that Xen itself has mapped.
LOGDIRTY_OFF, LOGDIRTY_ENABLE, LOGDIRTY_CLEAN, LOGDIRTY_PEEK = 0, 2, 11, 12
LOGDIRTY_FINAL = 1

# Operations of memory_op and their structures.
MAXIMUM_RAM_PAGE, MACHPHYS_MFN_LIST, POPULATE_PHYSMAP, MAXIMUM_GPFN, MACHPHYS_COMPAT_MFN_LIST = 2, 5, 6, 14, 25
# u32 max_extents, pointer to the list, u32 nr_extents.
MFN_LIST = struct.Struct("<I4xQI4x")
# Pointer to the frames, u64 nr_extents, u32 extent_order, mem_flags, u16 domid.
RESERVATION = struct.Struct("<2Q2IH6x")
#: The m2p is mapped in extents of 2 MiB.
M2P_EXTENT = 2 << 20

# hvm_op: u16 domid, u32 index, u64 value.
SET_HVM_PARAM, GET_HVM_PARAM = 0, 1
HVM_PARAM = struct.Struct("<H2xIQ")
#: Parameters that a stream carries, in the order in which Xen writes them (those that are 0 are left out).
SAVED_PARAMS = ("STORE_PFN", "IOREQ_PFN", "BUFIOREQ_PFN", "PAGING_RING_PFN", "MONITOR_RING_PFN", "SHARING_RING_PFN",
                "VM86_TSS_SIZED", "CONSOLE_PFN", "ACPI_IOPORTS_LOCATION", "VIRIDIAN", "IDENT_PT",
                "VM_GENERATION_ID_ADDR", "IOREQ_SERVER_PFN", "NR_IOREQ_SERVER_PAGES", "X87_FIP_WIDTH", "MCA_CAP")

# mmuext_op: u32 cmd, u64 mfn, u64 unused. Commands 0 to 3 pin page tables of levels 1 to 4.
MMUEXT = struct.Struct("<I4x2Q")
#: From a pinned page table's type in a stream (9 to 12) to its pin command.
PIN_COMMAND_OFFSET = 9

# Entries of a version 1 grant table: u16 flags, u16 domid, u32 frame.
GRANT_ENTRY = struct.Struct("<2HI")
GRANT_PERMIT_ACCESS = 1
GRANT_CONSOLE, GRANT_XENSTORE = 0, 1
#: XENMEM_resource_grant_table, in privcmd's terms.
RESOURCE_GRANT_TABLE = 1

#: rax (eax) in struct vcpu_guest_context, as format and offset, by the guest's word size.
VCPU_CONTEXT_RAX = {8: (struct.Struct("<Q"), 600), 4: (struct.Struct("<I"), 540)}

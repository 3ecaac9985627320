"""Names of the CPU features that policies carry.

Source: xen/include/public/arch-x86/cpufeatureset.h (Xen 4.22; versions add bits, none has changed the meaning of one).
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Mapping, Optional, Tuple

    #: A register of a CPUID leaf: leaf, subleaf (None where the leaf has none), "a" to "d".
    Register = Tuple[int, Optional[int], str]

#: Bit to feature for each register that holds features.
CPUID: "Dict[Register, Dict[int, str]]" = {
    (0x1, None, "c"): {
        0: "SSE3", 1: "PCLMULQDQ", 2: "DTES64", 3: "MONITOR", 4: "DSCPL", 5: "VMX", 6: "SMX", 7: "EIST",
        8: "TM2", 9: "SSSE3", 11: "SDBG", 12: "FMA", 13: "CX16", 14: "XTPR", 15: "PDCM", 17: "PCID", 18: "DCA",
        19: "SSE4_1", 20: "SSE4_2", 21: "X2APIC", 22: "MOVBE", 23: "POPCNT", 24: "TSC_DEADLINE", 25: "AESNI",
        26: "XSAVE", 27: "OSXSAVE", 28: "AVX", 29: "F16C", 30: "RDRAND", 31: "HYPERVISOR",
    },
    (0x1, None, "d"): {
        0: "FPU", 1: "VME", 2: "DE", 3: "PSE", 4: "TSC", 5: "MSR", 6: "PAE", 7: "MCE", 8: "CX8", 9: "APIC",
        11: "SEP", 12: "MTRR", 13: "PGE", 14: "MCA", 15: "CMOV", 16: "PAT", 17: "PSE36", 19: "CLFLUSH",
        21: "DS", 22: "ACPI", 23: "MMX", 24: "FXSR", 25: "SSE", 26: "SSE2", 27: "SS", 28: "HTT", 29: "TM1",
        31: "PBE",
    },
    (0x7, 0, "b"): {
        0: "FSGSBASE", 1: "TSC_ADJUST", 2: "SGX", 3: "BMI1", 4: "HLE", 5: "AVX2", 6: "FDP_EXCP_ONLY", 7: "SMEP",
        8: "BMI2", 9: "ERMS", 10: "INVPCID", 11: "RTM", 12: "PQM", 13: "NO_FPU_SEL", 14: "MPX", 15: "PQE",
        16: "AVX512F", 17: "AVX512DQ", 18: "RDSEED", 19: "ADX", 20: "SMAP", 21: "AVX512_IFMA", 23: "CLFLUSHOPT",
        24: "CLWB", 25: "PROC_TRACE", 26: "AVX512PF", 27: "AVX512ER", 28: "AVX512CD", 29: "SHA", 30: "AVX512BW",
        31: "AVX512VL",
    },
    (0x7, 0, "c"): {
        0: "PREFETCHWT1", 1: "AVX512_VBMI", 2: "UMIP", 3: "PKU", 4: "OSPKE", 5: "WAITPKG", 6: "AVX512_VBMI2",
        7: "CET_SS", 8: "GFNI", 9: "VAES", 10: "VPCLMULQDQ", 11: "AVX512_VNNI", 12: "AVX512_BITALG", 13: "TME",
        14: "AVX512_VPOPCNTDQ", 16: "LA57", 22: "RDPID", 24: "BLD", 25: "CLDEMOTE", 27: "MOVDIRI",
        28: "MOVDIR64B", 29: "ENQCMD", 30: "SGX_LC", 31: "PKS",
    },
    (0x7, 0, "d"): {
        1: "SGX_KEYS", 2: "AVX512_4VNNIW", 3: "AVX512_4FMAPS", 4: "FSRM", 5: "UINTR", 8: "AVX512_VP2INTERSECT",
        9: "SRBDS_CTRL", 10: "MD_CLEAR", 11: "RTM_ALWAYS_ABORT", 13: "TSX_FORCE_ABORT", 14: "SERIALIZE",
        15: "HYBRID", 16: "TSXLDTRK", 18: "PCONFIG", 19: "ARCH_LBR", 20: "CET_IBT", 22: "AMX_BF16",
        23: "AVX512_FP16", 24: "AMX_TILE", 25: "AMX_INT8", 26: "IBRSB", 27: "STIBP", 28: "L1D_FLUSH",
        29: "ARCH_CAPS", 30: "CORE_CAPS", 31: "SSBD",
    },
    (0x7, 1, "a"): {
        0: "SHA512", 1: "SM3", 2: "SM4", 4: "AVX_VNNI", 5: "AVX512_BF16", 6: "LASS", 7: "CMPCCXADD",
        8: "ARCH_PERF_MON", 10: "FZRM", 11: "FSRS", 12: "FSRCS", 17: "FRED", 18: "LKGS", 19: "WRMSRNS",
        20: "NMI_SRC", 21: "AMX_FP16", 23: "AVX_IFMA", 26: "LAM", 27: "MSRLIST", 30: "NO_INVD", 31: "MOVRS",
    },
    (0x7, 1, "b"): {
        0: "INTEL_PPIN",
    },
    (0x7, 1, "d"): {
        4: "AVX_VNNI_INT8", 5: "AVX_NE_CONVERT", 8: "AMX_COMPLEX", 10: "AVX_VNNI_INT16", 14: "PREFETCHI",
        17: "UIRET_UIF", 18: "CET_SSS", 24: "SLSM",
    },
    (0x7, 2, "d"): {
        0: "INTEL_PSFD", 1: "IPRED_CTRL", 2: "RRSBA_CTRL", 3: "DDP_CTRL", 4: "BHI_CTRL", 5: "MCDT_NO",
        6: "UC_LOCK_DIS",
    },
    (0xD, 1, "a"): {
        0: "XSAVEOPT", 1: "XSAVEC", 2: "XGETBV1", 3: "XSAVES", 4: "XFD",
    },
    (0x80000001, None, "c"): {
        0: "LAHF_LM", 1: "CMP_LEGACY", 2: "SVM", 3: "EXTAPIC", 4: "CR8_LEGACY", 5: "ABM", 6: "SSE4A",
        7: "MISALIGNSSE", 8: "3DNOWPREFETCH", 9: "OSVW", 10: "IBS", 11: "XOP", 12: "SKINIT", 13: "WDT",
        15: "LWP", 16: "FMA4", 19: "NODEID_MSR", 21: "TBM", 22: "TOPOEXT", 26: "DBEXT", 29: "MONITORX",
        30: "ADDR_MSK_EXT",
    },
    (0x80000001, None, "d"): {
        11: "SYSCALL", 20: "NX", 22: "MMXEXT", 25: "FFXSR", 26: "PAGE1GB", 27: "RDTSCP", 29: "LM",
        30: "3DNOWEXT", 31: "3DNOW",
    },
    (0x80000007, None, "d"): {
        7: "HW_PSTATE", 8: "ITSC", 9: "CPB", 10: "EFRO",
    },
    (0x80000008, None, "b"): {
        0: "CLZERO", 2: "RSTR_FP_ERR_PTRS", 9: "WBNOINVD", 12: "IBPB", 14: "IBRS", 15: "AMD_STIBP",
        16: "IBRS_ALWAYS", 17: "STIBP_ALWAYS", 18: "IBRS_FAST", 19: "IBRS_SAME_MODE", 20: "NO_LMSL",
        23: "AMD_PPIN", 24: "AMD_SSBD", 25: "VIRT_SSBD", 26: "SSB_NO", 27: "CPPC", 28: "PSFD", 29: "BTC_NO",
        30: "IBPB_RET",
    },
    (0x80000021, None, "a"): {
        0: "NO_NEST_BP", 1: "FS_GS_NS", 2: "LFENCE_DISPATCH", 5: "VERW_CLEAR", 6: "NSCB", 8: "AUTO_IBRS",
        10: "AMD_FSRS", 11: "AMD_FSRC", 17: "CPUID_USER_DIS", 18: "EPSF", 19: "FSRSC", 20: "AMD_PREFETCHI",
        23: "AVX512_BMM", 27: "SBPB", 28: "IBPB_BRTYPE", 29: "SRSO_NO", 30: "SRSO_US_NO", 31: "SRSO_MSR_FIX",
    },
    (0x80000021, None, "c"): {
        1: "TSA_SQ_NO", 2: "TSA_L1_NO",
    },
}

#: Bit to feature of the MSR ARCH_CAPABILITIES.
ARCH_CAPABILITIES: "Dict[int, str]" = {
    0: "RDCL_NO", 1: "EIBRS", 2: "RSBA", 3: "SKIP_L1DFL", 4: "INTEL_SSB_NO", 5: "MDS_NO",
    6: "IF_PSCHANGE_MC_NO", 7: "TSX_CTRL", 8: "TAA_NO", 9: "MCU_CTRL", 10: "MISC_PKG_CTRL",
    11: "ENERGY_FILTERING", 12: "DOITM", 13: "SBDR_SSDP_NO", 14: "FBSDP_NO", 15: "PSDP_NO", 16: "MCU_EXT",
    17: "FB_CLEAR", 18: "FB_CLEAR_CTRL", 19: "RRSBA", 20: "BHI_NO", 21: "XAPIC_STATUS", 23: "OVRCLK_STATUS",
    24: "PBRSB_NO", 25: "GDS_CTRL", 26: "GDS_NO", 27: "RFDS_NO", 28: "RFDS_CLEAR", 29: "IGN_UMONITOR",
    30: "MON_UMON_MITG", 32: "PB_OPT_CTRL", 62: "ITS_NO",
}

#: Bit to feature of the MSR INTEL_PLATFORM_INFO.
PLATFORM_INFO: "Dict[int, str]" = {31: "CPUID_FAULTING"}

#: Features that a guest should see if any host of its pool has them ("|" in cpufeatureset.h): Xen accumulates them.
ACCUMULATED = frozenset(["NO_LMSL", "MD_CLEAR", "FS_GS_NS", "VERW_CLEAR", "FB_CLEAR", "RFDS_CLEAR"])

#: Bits that don't simply announce new functionality ("!" in cpufeatureset.h): Xen handles each in its own way.
SPECIAL = frozenset([
    "APIC", "HTT", "X2APIC", "OSXSAVE", "RDRAND", "HYPERVISOR", "CMP_LEGACY", "HLE", "FDP_EXCP_ONLY", "RTM",
    "NO_FPU_SEL", "CLWB", "OSPKE", "VIRT_SSBD", "MD_CLEAR", "RTM_ALWAYS_ABORT", "ARCH_CAPS", "VERW_CLEAR", "SRSO_US_NO",
    "RSBA", "FB_CLEAR", "RRSBA", "RFDS_CLEAR", "ITS_NO",
])

#: Differences in these say nothing about whether a guest can move.
NOT_COMPARED = ACCUMULATED | SPECIAL

# AMD's CPUs repeat these bits of leaf 1 in leaf 0x80000001 (common_1d in xen/tools/gen-cpuid.py).
_COMMON_1D = 0x0183F3FF
CPUID[0x80000001, None, "d"].update(
    {bit: name for bit, name in CPUID[0x1, None, "d"].items() if _COMMON_1D >> bit & 1})


def names(mask: int, table: "Mapping[int, str]", unknown: str = "bit {}") -> "Tuple[str, ...]":
    """The names of the bits set in ``mask``, lowest first. A bit without a name is called ``unknown``, with its
    number."""
    return tuple(table.get(bit) or unknown.format(bit) for bit in range(mask.bit_length()) if mask >> bit & 1)


def cpuid_names(leaf: int, subleaf: "Optional[int]", register: str, value: int) -> "Tuple[str, ...]":
    """The features in a register of a CPUID leaf, lowest bit first; empty if the register holds no features.

    A bit without a name is called ``0x7:0.b[22]``, or ``0x1.d[10]`` if the leaf has no subleaves.
    """
    table = CPUID.get((leaf, subleaf, register))
    if table is None:
        return ()
    place = "{:#x}".format(leaf) if subleaf is None else "{:#x}:{}".format(leaf, subleaf)
    return names(value, table, "{}.{}[{{}}]".format(place, register))

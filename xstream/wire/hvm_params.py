"""Names of the parameters in HVM_PARAMS records.

Source: xen/include/public/hvm/params.h, including names of older versions.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict

NAMES: "Dict[int, str]" = {
    0: "CALLBACK_IRQ",
    1: "STORE_PFN",
    2: "STORE_EVTCHN",
    3: "APIC_ENABLED",  # Xen 3.0 only
    4: "PAE_ENABLED",
    5: "IOREQ_PFN",
    6: "BUFIOREQ_PFN",
    7: "NVRAM_FD",  # of ia64, up to Xen 4.2
    8: "VHPT_SIZE",  # of ia64, up to Xen 4.2
    9: "VIRIDIAN",
    10: "TIMER_MODE",
    11: "HPET_ENABLED",
    12: "IDENT_PT",
    13: "DM_DOMAIN",
    14: "ACPI_S_STATE",
    15: "VM86_TSS",
    16: "VPT_ALIGN",
    17: "CONSOLE_PFN",
    18: "CONSOLE_EVTCHN",
    19: "ACPI_IOPORTS_LOCATION",
    20: "MEMORY_EVENT_CR0",
    21: "MEMORY_EVENT_CR3",
    22: "MEMORY_EVENT_CR4",
    23: "MEMORY_EVENT_INT3",
    24: "NESTEDHVM",
    25: "MEMORY_EVENT_SINGLE_STEP",
    26: "BUFIOREQ_EVTCHN",
    27: "PAGING_RING_PFN",
    28: "MONITOR_RING_PFN",  # ACCESS_RING_PFN up to Xen 4.5
    29: "SHARING_RING_PFN",
    30: "MEMORY_EVENT_MSR",
    31: "TRIPLE_FAULT_REASON",
    32: "IOREQ_SERVER_PFN",
    33: "NR_IOREQ_SERVER_PAGES",
    34: "VM_GENERATION_ID_ADDR",
    35: "ALTP2M",
    36: "X87_FIP_WIDTH",
    37: "VM86_TSS_SIZED",
    38: "MCA_CAP",
}


#: The numbers by name.
NUMBERS: "Dict[str, int]" = {name: index for index, name in NAMES.items()}


def name(index: int) -> str:
    """The parameter's name without its HVM_PARAM prefix, or its number if it has none."""
    return NAMES.get(index) or str(index)

#ifndef XSTREAM_PAGETABLES_H
#define XSTREAM_PAGETABLES_H

#include <stdint.h>

/* Bits of a page-table entry, the same for 64-bit and PAE guests. */
#define XSTREAM_PRESENT UINT64_C(0x001)
#define XSTREAM_PSE UINT64_C(0x080)
#define XSTREAM_FRAME UINT64_C(0x000ffffffffff000)
#define XSTREAM_NO_FRAME UINT64_MAX

/* The entries that belong to the hypervisor: 0xffff800000000000 to 0xffff87ffffffffff in the L4 of a 64-bit guest;
 * 0xf5800000 and up in the top L2 of a PAE guest, whose L3 has only 4 entries. */
#define XSTREAM_XEN_L4_FIRST 256
#define XSTREAM_XEN_L4_END 272
#define XSTREAM_XEN_PAE_L3_FIRST 4
#define XSTREAM_XEN_PAE_L2_FIRST 428

#endif

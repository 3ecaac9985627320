"""The caps that untrusted input meets."""
from typing import NamedTuple


class Limits(NamedTuple):
    """What a stream may ask for. Immutable: derive another with ``limits._replace(guest_pfns=...)``."""

    #: Bytes in one record's body. Xen's own cap (REC_LENGTH_MAX in xg_sr_common.h).
    record_length: int = 128 << 20
    #: Bytes of a body that has to be held in memory whole: everything but page data. The largest genuine ones, HVM
    #: contexts of guests with hundreds of vcpus, stay under 1 MiB.
    body_length: int = 16 << 20
    #: PFN words in one PAGE_DATA record. Xen sends 1024; a record full of pages has 32767; 8 MiB of words.
    batch_pfns: int = 1 << 20
    #: One more than the highest PFN of a guest: 16 TiB of guest-physical address space, Xen's own limit for a guest.
    guest_pfns: int = 1 << 32
    #: Bytes of all records beside memory that are kept until the stream, or its next checkpoint, is complete. Those of
    #: a guest with 512 vcpus take less than 16 MiB.
    state_length: int = 64 << 20

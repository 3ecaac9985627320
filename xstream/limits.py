"""Limits on what untrusted input may ask for."""
from xstream.tuples import NamedTuple


class Limits(NamedTuple):
    """What a stream may ask for; beyond it, LimitExceeded is raised.

    Immutable: derive another with ``limits._replace(guest_pfns=...)``.
    """

    #: Bytes in one record's body. Xen's own cap (REC_LENGTH_MAX in xg_sr_common.h).
    record_length: int = 128 << 20
    #: Bytes of a body that is held in memory as a whole: everything except page data. The largest genuine ones, HVM
    #: contexts of guests with hundreds of vcpus, are smaller than 1 MiB.
    body_length: int = 16 << 20
    #: PFN words in one PAGE_DATA record: 8 MiB of them. Xen sends 1024; a record with a page for each word has room for
    #: 32767.
    batch_pfns: int = 1 << 20
    #: One more than the highest PFN of a guest: 16 TiB of guest-physical address space.
    guest_pfns: int = 1 << 32
    #: Bytes of all records other than memory that are kept until the stream or its next checkpoint is complete. A guest
    #: with 512 vcpus has less than 16 MiB.
    state_length: int = 64 << 20

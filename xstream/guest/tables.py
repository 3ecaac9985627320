"""Page tables within batches: where they are, and whether a stream's are good ones."""
from typing import Any

from xstream.errors import CorruptStream
from xstream.kernels import pagetables
from xstream.stream.source import PendingPages
from xstream.wire.frames import Buffer
from xstream.wire.libxc import PAGE_SIZE, PageData

#: Page-table levels by guest width.
LEVELS = {8: 4, 4: 3}
_TYPE_OF_BYTE = bytes(byte >> 4 for byte in range(256))
_WITHOUT_DATA = bytes((0xD, 0xE, 0xF))
_BAD_TABLE = {
    pagetables.PAST_P2M: "page table entry past the end of the p2m",
    pagetables.SUPERPAGE: "page table entry that maps a superpage",
    pagetables.LEVEL: "page table of a level that the guest doesn't have",
    pagetables.XEN_SLOT: "page table entry in a slot of the hypervisor's own",
}


def data_types(words: Buffer) -> bytes:
    """The types, a byte each, of the words that carry data, in order."""
    # The type is in the highest nibble of the highest byte of each word.
    return bytes(words[7::8]).translate(_TYPE_OF_BYTE).translate(None, _WITHOUT_DATA)


def any_tables(types: bytes) -> bool:
    """Whether there is a page table among pages of these types."""
    return bool(types.translate(None, b"\0"))


def from_legacy(reader: Any) -> bool:
    """Whether a stream is a legacy one, or was: then tables, and PFNs without a page, mean what they meant there."""
    domain = getattr(reader.memory, "domain", None)
    return domain is None or not domain.xen_major


def checked_tables(reader: Any, record: PageData) -> PageData:
    """The batch, once the page tables in it are known to be good ones; its data then are in memory. Nothing is looked
    at in batches without. Raises CorruptStream, relative to the record."""
    types = data_types(record.words) if reader.pt_levels else b""
    if not any_tables(types):
        return record
    if isinstance(record.data, PendingPages):
        record = record._replace(data=record.data.read())
    page, entry, reason = pagetables.check(record.data, types, reader.pfn_end, levels=reader.pt_levels,
                                           strict=reader.strict, superpages=from_legacy(reader))
    if reason != pagetables.OK:
        offset = 8 + len(record.words) + page * PAGE_SIZE + 8 * entry
        raise CorruptStream(_BAD_TABLE[reason], offset=8 + offset, field="page table entry",
                            expected="a table of the guest's PFNs, under {:#x}".format(reader.pfn_end),
                            got="entry {} of page {} of the batch".format(entry, page))
    return record

"""Page tables within batches of a stream: finding and checking them."""

from xstream.errors import CorruptStream
from xstream.kernels import pagetables
from xstream.stream.reader import from_legacy
from xstream.wire.libxc import PAGE_SIZE, PageData
from xstream.wire.pending import in_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.stream.reader import AnyReader
    from xstream.wire.frames import Buffer

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


def data_types(words: "Buffer") -> bytes:
    """The page types of the words that carry data, in order, one byte each."""
    # The type is the high nibble of each word's last byte.
    return bytes(words[7::8]).translate(_TYPE_OF_BYTE).translate(None, _WITHOUT_DATA)


def any_tables(types: bytes) -> bool:
    """Whether any of these page types is a page table's."""
    return bool(types.translate(None, b"\0"))


def checked_tables(reader: "AnyReader", record: PageData) -> PageData:
    """The batch, with its page tables checked and, if it has any, its data read into memory. Raises CorruptStream with
    an offset relative to the record."""
    types = data_types(record.words) if reader.pt_levels else b""
    if not any_tables(types):
        return record
    data = in_memory(record.data)
    record = record._replace(data=data)
    page, entry, reason = pagetables.check(data, types, reader.pfn_end, levels=reader.pt_levels,
                                           strict=reader.strict, superpages=from_legacy(reader))
    if reason != pagetables.OK:
        offset = 8 + len(record.words) + page * PAGE_SIZE + 8 * entry
        raise CorruptStream(_BAD_TABLE[reason], offset=8 + offset, field="page table entry",
                            expected="a table of the guest's PFNs, under {:#x}".format(reader.pfn_end),
                            got="entry {} of page {} of the batch".format(entry, page))
    return record

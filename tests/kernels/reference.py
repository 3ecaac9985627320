"""The kernels pfns, pages, checksum and batches in plain numpy and Python: slow and obvious, with the same
signatures."""
import os
import struct
from types import SimpleNamespace

import numpy

PFN_MASK = numpy.uint64((1 << 52) - 1)


def words_of(words):
    return numpy.frombuffer(words, "<u8")


def carries(types):
    return (types < 5) | ((types > 8) & (types < 13))


def split(words):
    values = words_of(words)
    return values & PFN_MASK, (values >> numpy.uint64(60)).astype(numpy.uint8)


def u8(buffer):
    return numpy.frombuffer(buffer, numpy.uint8)


def u64(buffer):
    return numpy.frombuffer(buffer, numpy.uint64)


def by_pfn(buffer):
    return u8(buffer).reshape(-1, 4096)


# pfns

def unpack(words, pfns, types):
    u64(pfns)[:], u8(types)[:] = split(words)


def pack(pfns, types, words):
    words_of(words)[:] = u64(pfns) | u8(types).astype(numpy.uint64) << numpy.uint64(60)


def check(words, pfn_end, strict):
    carrying = 0
    for index, value in enumerate(words_of(words).tolist()):
        kind = value >> 60
        if 5 <= kind <= 8:
            return index, 1, carrying
        if value & (1 << 52) - 1 >= pfn_end:
            return index, 2, carrying
        if strict and value >> 52 & 0xFF:
            return index, 3, carrying
        carrying += kind < 5 or 8 < kind < 13
    return -1, 0, carrying


def widen(legacy, width, pfn_end, strict, words):
    values = numpy.frombuffer(legacy, {4: "<u4", 8: "<u8"}[width]).tolist()
    kept, carrying = [], 0
    for index, value in enumerate(values):
        kind, pfn = value >> 28 & 0xF, value & 0xFFFFFFF
        reason = 3 if value >> 32 or (strict and kind == 15 and pfn) else 0 if kind == 15 else \
            1 if kind in (5, 6, 7) else 2 if pfn >= pfn_end else 0
        if reason:
            words[:8 * len(kept)] = b"".join(kept)
            return index, reason, len(kept), carrying
        if kind != 15:
            kind = 0 if kind == 8 else kind
            kept.append((kind << 60 | pfn).to_bytes(8, "little"))
            carrying += kind < 13
    words[:8 * len(kept)] = b"".join(kept)
    return -1, 0, len(kept), carrying


def narrow(words, width, legacy):
    for index, value in enumerate(words_of(words).tolist()):
        kind, pfn = value >> 60, value & (1 << 52) - 1
        if pfn >> 28:
            return index
        old = kind << 28 | (0 if kind == 15 else pfn)
        legacy[width * index:width * index + width] = old.to_bytes(width, "little")
    return -1


def select(words, bitmap, wanted, mark, out, pages):
    chosen, carried = [], []
    all_words = words_of(words).tolist()
    page = count_data(words)
    for value in reversed(all_words):
        carries_page = value >> 60 < 5 or 8 < value >> 60 < 13
        page -= carries_page
        pfn = value & (1 << 52) - 1
        if (bitmap[pfn // 8] >> pfn % 8 & 1) != wanted:
            continue
        if mark:
            bitmap[pfn // 8] |= 1 << pfn % 8
        chosen.insert(0, value.to_bytes(8, "little"))
        carried[:0] = [page] if carries_page else []
    out[:8 * len(chosen)] = b"".join(chosen)
    u64(pages)[:len(carried)] = carried
    return len(chosen), len(carried)


def populated_of(pfns, state, flags):
    for index, pfn in enumerate(u64(pfns).tolist()):
        flags[index] = pfn < len(state) and state[pfn] & 0x40 != 0


def forget(pfns, state, sent):
    found = []
    for pfn in u64(pfns).tolist():
        if pfn < len(state):
            found += [pfn] if state[pfn] & 0x20 else []
            state[pfn] = 0
    u64(sent)[:len(found)] = found
    return len(found)


def count_data(words):
    return int(carries(split(words)[1]).sum())


def data_pfns(words, pfns):
    all_pfns, types = split(words)
    found = all_pfns[carries(types)]
    u64(pfns)[:len(found)] = found
    return len(found)


def highest_pfn(words):
    return max([-1] + split(words)[0].tolist())


def mark(words, state):
    states = u8(state)
    carrying = resent = 0
    for pfn, kind in zip(*(values.tolist() for values in split(words))):
        old = int(states[pfn])
        kept = old & 0x60
        if kind < 5 or 8 < kind < 13:
            carrying += 1
            resent += bool(old & 0x20)
            kept = 0x60
        elif kind == 14:
            kept |= 0x40
        states[pfn] = 0x80 | kept | kind ^ 15
    return carrying, carrying - resent, resent


def types_of(state, types):
    u8(types)[:] = u8(state) & 15 ^ 15


def populated(state, flags):
    u8(flags)[:] = u8(state) >> 6 & 1


def count_populated(state):
    return int((u8(state) >> 6 & 1).sum())


def populated_pfns(state, start, pfns):
    found = start + numpy.flatnonzero(u8(state)[start:] >> 6 & 1)[:len(pfns)]
    u64(pfns)[:len(found)] = found
    return len(found)


def type_histogram(state):
    states = u8(state)
    return numpy.bincount(states[states >= 128] & 15 ^ 15, minlength=16).tolist()


def count_bits(bitmap):
    return int(numpy.unpackbits(u8(bitmap)).sum())


def bitmap_to_pfns(bitmap, first, pfns):
    bits = [bit for bit in range(8 * len(bitmap)) if bitmap[bit // 8] >> bit % 8 & 1]
    u64(pfns)[:len(bits)] = numpy.array(bits, numpy.uint64) + numpy.uint64(first)
    return len(bits)


def pfns_to_bitmap(pfns, bitmap):
    for pfn in u64(pfns).tolist():
        bitmap[pfn // 8] |= 1 << pfn % 8


def runs(pfns, starts, lengths):
    found = []
    for index, pfn in enumerate(u64(pfns).tolist()):
        if found and pfn == found[-1][2] + 1:
            found[-1][1:] = found[-1][1] + 1, pfn
        else:
            found.append([index, 1, pfn])
    u64(starts)[:len(found)] = [run[0] for run in found]
    u64(lengths)[:len(found)] = [run[1] for run in found]
    return len(found)


def ascending(pfns):
    values = u64(pfns).tolist()
    return all(one < other for one, other in zip(values, values[1:]))


def batch_end(pfns, start, order):
    window = u64(pfns).tolist()[start:start + (1 << order)]
    if sorted(set(window)) != window:
        return start + len(window)
    return start + sum(pfn >> order == window[0] >> order for pfn in window)


# pages

def scatter(memory, pfns, pages):
    for pfn, page in zip(u64(pfns).tolist(), by_pfn(pages)):
        by_pfn(memory)[pfn] = page


def gather(memory, pfns, pages):
    by_pfn(pages)[:] = by_pfn(memory)[u64(pfns).astype(int)]


def compare(memory, pfns, pages, differing):
    found = u64(pfns)[(by_pfn(memory)[u64(pfns).astype(int)] != by_pfn(pages)).any(axis=1)]
    u64(differing)[:len(found)] = found
    return len(found)


def zero_pages(pages, indices):
    found = numpy.flatnonzero(~by_pfn(pages).any(axis=1))
    u64(indices)[:len(found)] = found
    return len(found)


def zero_pfns(memory, pfns, out):
    found = u64(pfns)[~by_pfn(memory)[u64(pfns).astype(int)].any(axis=1)]
    u64(out)[:len(found)] = found
    return len(found)


def writev(fd, buffers):
    data = b"".join(bytes(buffer) for buffer in buffers)
    return os.write(fd, data)


def readv(fd, buffers):
    return os.readv(fd, buffers)


def write_pages(fd, head, memory, pfns):
    return os.write(fd, bytes(head) + by_pfn(memory)[u64(pfns).astype(int)].tobytes())


def read_pages(fd, memory, pfns, skip=0):
    size = len(pfns) * 4096
    pages = bytearray(by_pfn(memory)[u64(pfns).astype(int)].tobytes())
    got = os.read(fd, size - skip)
    pages[skip:skip + len(got)] = got
    scatter(memory, pfns, bytes(pages))
    return len(got)


def pread_pages(fd, pfns, pages):
    for index, pfn in enumerate(u64(pfns).tolist()):
        pages[4096 * index:4096 * index + 4096] = os.pread(fd, 4096, pfn * 4096).ljust(4096, b"\0")


def pwrite_pages(fd, pfns, pages, sparse=False):
    for pfn, page in zip(u64(pfns).tolist(), by_pfn(pages)):
        if sparse and not page.any():
            continue
        os.pwrite(fd, page.tobytes(), pfn * 4096)


# checksum

def crc32c(data, value=0):
    crc = value ^ 0xFFFFFFFF
    for byte in bytes(data):
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def crc32c_pages(pages, out):
    numpy.frombuffer(out, numpy.uint32)[:] = [crc32c(page.tobytes()) for page in by_pfn(pages)]


def crc32c_zeros(value, length):
    return crc32c(bytes(length), value)


def crc32c_combine(a, b, length_b):
    return crc32c_zeros(a, length_b) ^ crc32c_zeros(0, length_b) ^ b


# batches

def scan(data, frame_type, length_limit, pfn_end, strict, words, extents):
    position = used = records = pages = 0
    view = bytes(data)
    while 2 * records < len(extents) and len(view) - position >= 16:
        kind, length, count, reserved = struct.unpack_from("<IIII", view, position)
        whole = view[position + 16:position + 16 + 8 * count]
        if kind != frame_type or length > length_limit or not count or (strict and reserved) \
                or 8 + 8 * count > length or position + 8 + length > len(view) or used + count > len(words) // 8:
            break
        bad, _, carrying = check(whole, pfn_end, strict)
        if bad >= 0 or length != 8 + 8 * count + 4096 * carrying:
            break
        words[8 * used:8 * (used + count)] = whole
        u64(extents)[2 * records:2 * records + 2] = position + 16 + 8 * count, carrying
        position += 8 + length
        used += count
        pages += carrying
        records += 1
    return records, position, used, pages


def scan_sparse(data, holes, frame_type, length_limit, pfn_end, strict, words):
    whole, hidden, last = b"", [], 0
    for at, size in u64(holes).reshape(-1, 2).tolist():
        whole += bytes(data[last:at])
        hidden.append((len(whole), len(whole) + size))
        whole += bytes(size)
        last = at
    whole += bytes(data[last:])
    extents = numpy.zeros(len(words) // 4, numpy.uint64)
    most = scan(whole, frame_type, length_limit, pfn_end, strict, words, extents)[0]
    begin = used = records = pages = 0
    for head_end, count in extents[:2 * most].reshape(-1, 2).tolist():
        end = head_end + 4096 * count
        if any(first < head_end and begin < after or first < end < after for first, after in hidden):
            break
        used += (head_end - begin - 16) // 8
        pages += count
        records += 1
        begin = end
    return records, begin, used, pages


def scatter_extents(memory, pfns, data, extents):
    pages = b"".join(bytes(data[at:at + 4096 * count]) for at, count in u64(extents).reshape(-1, 2).tolist())
    scatter(memory, pfns, pages)


pfns = SimpleNamespace(**{name: globals()[name] for name in (
    "unpack", "pack", "check", "count_data", "data_pfns", "highest_pfn", "mark", "types_of", "populated",
    "count_populated", "populated_pfns", "type_histogram", "count_bits", "bitmap_to_pfns", "pfns_to_bitmap", "runs",
    "ascending", "batch_end", "widen", "narrow", "select", "populated_of", "forget")})
pages = SimpleNamespace(**{name: globals()[name] for name in (
    "scatter", "gather", "compare", "zero_pages", "zero_pfns", "writev", "readv", "write_pages", "read_pages",
    "pwrite_pages", "pread_pages")})
checksum = SimpleNamespace(**{name: globals()[name] for name in (
    "crc32c", "crc32c_pages", "crc32c_zeros", "crc32c_combine")})
batches = SimpleNamespace(scan=scan, scan_sparse=scan_sparse, scatter=scatter_extents)

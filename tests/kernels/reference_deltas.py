"""The kernel ``deltas`` in plain Python, for buffers of the right kind: slow and easy to read."""
from collections import OrderedDict

OK, NEED_MORE, ZERO_RUN, PAST_END, NOT_HELD = range(5)
LONGEST = 5120
WHOLE = 4097


def page_of(data, at, page):
    """(status, where the form ends or its bad marker is, the page it makes of ``page``)."""
    page = bytearray(page)
    if at == len(data):
        return NEED_MORE, at, page
    if data[at] == 0:
        return OK, at + 1, page
    if data[at] == 0x80:
        whole = data[at + 1:at + WHOLE]
        return (OK, at + WHOLE, bytearray(whole)) if len(whole) == 4096 else (NEED_MORE, at, page)
    cursor = 0
    while cursor < 4096:
        if at == len(data):
            return NEED_MORE, at, page
        size = 4 * (data[at] & 0x7f)
        if size == 0:
            return ZERO_RUN, at, page
        if cursor + size > 4096:
            return PAST_END, at, page
        if data[at] & 0x80:
            at += 1
        else:
            run = data[at + 1:at + 1 + size]
            if len(run) < size:
                return NEED_MORE, at, page
            page[cursor:cursor + size] = run
            at += 1 + size
        cursor += size
    return OK, at, page


def decode(data, memory, pfns, held=None):
    data, at = bytes(data), 0
    for index, pfn in enumerate(pfns):
        if pfn >= len(memory) // 4096:
            raise IndexError("pfns[{}] is {}".format(index, pfn))
    for index, pfn in enumerate(pfns):
        pfn = int(pfn)
        status, end, page = page_of(data, at, memory[4096 * pfn:4096 * pfn + 4096])
        if status == OK and held is not None and not held[index]:
            # A form replaces the whole page if applying it to the page's complement has the same result.
            inverse = bytes(byte ^ 0xff for byte in memory[4096 * pfn:4096 * pfn + 4096])
            if page_of(data, at, inverse)[2] != page:
                return index, at, NOT_HELD, at
        if status != OK:
            return index, at, status, end if status != NEED_MORE else -1
        memory[4096 * pfn:4096 * pfn + 4096] = page
        at = end
    return len(pfns), at, OK, -1


def form_of(held, page):
    """The form of a page against the copy that the receiver holds."""
    form, at = bytearray(), 0
    changed = [held[i:i + 4] != page[i:i + 4] for i in range(0, 4096, 4)]
    if not any(changed):
        return b"\0"
    while at < 1024:
        end = at
        while end < min(1024, at + 127) and changed[end] == changed[at]:
            end += 1
        if changed[at]:
            form.append(end - at)
            form += page[4 * at:4 * end]
        else:
            form.append(0x80 | end - at)
        at = end
    return bytes(form) if len(form) < WHOLE else b"\x80" + page


def bound(pages):
    return WHOLE * pages


def encode(held, pages, out):
    pages = bytes(pages)
    forms = b"".join(form_of(bytes(held[at:at + 4096]), pages[at:at + 4096]) for at in range(0, len(pages), 4096))
    held[:] = pages
    out[:len(forms)] = forms
    return len(forms)


class Cache:
    def __init__(self, pfn_end, slots=8192):
        self.pfn_end = pfn_end
        self.slots = slots
        self.pages = OrderedDict()

    def encode(self, pfns, types, pages, out):
        pages = bytes(pages)
        for index, pfn in enumerate(pfns):
            if pfn >= self.pfn_end:
                raise IndexError("pfns[{}] is {}".format(index, pfn))
        forms = b"".join(self.form_of(int(pfn), page_type, pages[4096 * i:4096 * i + 4096])
                         for i, (pfn, page_type) in enumerate(zip(pfns, types)))
        out[:len(forms)] = forms
        return len(forms)

    def form_of(self, pfn, page_type, page):
        held = self.pages.pop(pfn, None)
        if page_type:
            return b"\x80" + page
        if held is None and len(self.pages) == self.slots:
            self.pages.popitem(last=False)
        self.pages[pfn] = page
        return b"\x80" + page if held is None else form_of(held, page)

"""The kernel ``p2m`` in plain Python, for arguments of the right kind and size."""
INVALID = 2 ** 64 - 1


def lookup(table, numbers, out):
    for at, number in enumerate(list(numbers)):
        out[at] = table[number] if number < len(table) else INVALID


def types_at(state, numbers, types):
    for at, number in enumerate(numbers):
        types[at] = ~state[number] & 15 if number < len(state) else 15


def changed(old, new, bitmap):
    differing = [at for at in range(len(old)) if old[at] != new[at]]
    for at in differing:
        bitmap[at // 8] |= 1 << at % 8
    return len(differing)


def widen(entries, out):
    for at in range(len(out)):
        entry = int.from_bytes(entries[4 * at:4 * at + 4], "little")
        out[at] = INVALID if entry == 0xFFFFFFFF else entry


def narrow(table, entries):
    if any(frame >= 0xFFFFFFFF and frame != INVALID for frame in table):
        raise ValueError
    for at, frame in enumerate(table):
        entries[4 * at:4 * at + 4] = (frame & 0xFFFFFFFF).to_bytes(4, "little")


def claim(words, state, pfns):
    numbers = [int.from_bytes(words[at:at + 8], "little") for at in range(0, len(words), 8)]
    if any(number & (1 << 52) - 1 >= len(state) for number in numbers):
        raise IndexError
    found = 0
    for number in numbers:
        pfn = number & (1 << 52) - 1
        if number >> 60 not in (13, 15) and not state[pfn] & 0x40:
            state[pfn] |= 0x40
            pfns[found] = pfn
            found += 1
    return found


def assign(table, numbers, values):
    if any(number >= len(table) for number in numbers):
        raise IndexError
    for number, value in zip(numbers, values):
        table[number] = value


def populated_only(table, state, out):
    for at, frame in enumerate(table):
        out[at] = frame if state[at] & 0x40 else INVALID

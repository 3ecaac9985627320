"""Changes streams by their structure: a stream is split into pieces (headers, records, batches), these are changed, and
lengths and counts are computed again when it is put together. Independent of the package's own readers.

Three of four mutants are good streams with changes that should leave them good; the others get hostile changes.
"""
import random
import struct
from typing import Callable, List, Optional, Sequence, Tuple, Union

PAGE = 4096
LONGEST = 1 << 17  # of a mutant; pages dominate, and more of them exercise nothing new

MARKER, LIBXL, XENOPSD = b"\xff" * 8, b"LibxlFmt", b"XenSavedDomv2-\n"
XL, LIBVIRT, XEND = b"Xen saved domain, xl format\n \0 \r", b"libvirt-xml\n \0 \r", b"LinuxGuestRecord"
LIBXC_TYPES = [*range(0x14), 0x80000000, 0x80000001, 0xFFFFFFFF]
LIBXL_TYPES = [*range(7), 0x80000000]
XENOPSD_TYPES = [0x0F, 0xF0, 0xF1, 0xF2, 0xF00, 0xF01, 0xF10, 0xF11, 0xF12, 0xF13, 0xFFFF]
CHUNKS = [*range(-22, 0), 0, 1, 1024, 1025]
#: Sizes of the bodies of legacy chunks; those of others are read from the body itself.
CHUNK_SIZES = {-1: 0, -9: 0, -13: 0, -7: 20,
               **dict.fromkeys((-3, -4, -8, -10, -11, *range(-21, -18), *range(-17, -13)), 12)}
#: Record types that may come again right after themselves: the last one counts.
REPEATABLE = (0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0A, 0x0C)
#: Record types that begin with a vcpu's number.
VCPU = (0x04, 0x05, 0x06, 0x0C)
#: How many of the mutants are to be good streams. A third of these turn bad, or are read with options that refuse them.
GENTLE_SHARE = 0.75
BORDERS = [0, 1, 2, 7, 8, 9, 15, 16, 0x7F, 0x80, 0xFF, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0xFFFF, 0x10000, 1 << 20,
           (1 << 20) + 1, (1 << 28) - 1, 1 << 28, 128 << 20, (128 << 20) + 1, 0x7FFFFFFF, 0x80000000,
           0xFFFFFFF8, 0xFFFFFFFF, 1 << 32, 1 << 40, (1 << 52) - 1, 1 << 52, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
#: Parts of text in configurations: JSON, XML, S-expressions, escapes.
TEXTS = [b"{", b"}", b"[", b"]", b'"', b"\\", b"\\u0000", b"\\ud800", b"1e999", b"null", b",", b":", b"\0", b"\x1b[31m",
         b"\x9b", b"\xff", b"\xe2\x80\xae", b"(", b")", b'"\\255"', b"<", b"</", b"<!ENTITY a 'b'>", b"&a;",
         b"<![CDATA[", b"\r\n", b"name", b"c_info", b"vm_str", b"type", b"pvh", b"9" * 300, b"[" * 300, b"(" * 300,
         b'{"a":' * 100]


class Piece:
    """A part of a stream. ``kind`` says how ``bytes()`` puts it together:

    - "raw": ``body`` alone;
    - "record": libxc and libxl; ``number`` is the type. "item": the same of xenopsd. "image": its header alone;
    - "batch": a PAGE_DATA record, or of a legacy stream the ``width`` of its words; ``words``, ``pages``;
    - "chunk": of a legacy stream: ``number`` and ``body``;
    - "xl", "libvirt", "xend": a save file's header; ``body`` is its configuration, ``number`` xl's flags.

    ``lie`` is added to the length or count; ``padding`` is the value of padding and reserved bytes.
    """

    def __init__(self, kind: str, body: bytes = b"", number: int = 0, *, words: Sequence[int] = (),
                 pages: Sequence[bytes] = (), width: int = 0) -> None:
        self.kind, self.body, self.number, self.width = kind, body, number, width
        self.words, self.pages = list(words), list(pages)
        self.lie = self.padding = 0

    def copy(self) -> "Piece":
        other = Piece(self.kind, self.body, self.number, words=self.words, pages=self.pages, width=self.width)
        other.lie, other.padding = self.lie, self.padding
        return other

    def __bytes__(self) -> bytes:
        body, number = self.body, self.number
        if self.kind == "batch" and self.width:
            count = (len(self.words) + self.lie) & 0x7FFFFFFF
            return struct.pack("<I", count) + _ulongs(self.words, self.width) + b"".join(self.pages)
        if self.kind == "batch":
            count = (len(self.words) + (self.lie & 1)) & 0xFFFFFFFF
            body, number = struct.pack("<II", count, self.padding) + _ulongs(self.words, 8) + b"".join(self.pages), 1
        length = len(body) + self.lie
        if self.kind in ("record", "batch"):
            return struct.pack("<II", number, length & 0xFFFFFFFF) + body + bytes([self.padding]) * (-len(body) % 8)
        if self.kind in ("item", "image"):
            return struct.pack("<qQ", number, length % 2 ** 64) + body
        if self.kind == "chunk":
            return struct.pack("<i", number) + body
        if self.kind == "xl":
            data = struct.pack("<I", length & 0xFFFFFFFF) + body
            return XL + struct.pack("<IIII", 0x01020304, number & 0xFFFFFFFF, self.padding, len(data)) + data
        if self.kind == "libvirt":
            return LIBVIRT + struct.pack("<II", number, length & 0xFFFFFFFF) + bytes([self.padding]) * 40 + body
        if self.kind == "xend":
            return XEND + struct.pack(">I", length & 0xFFFFFFFF) + body
        return body


def _ulongs(words: Sequence[int], width: int) -> bytes:
    return b"".join((word % 256 ** width).to_bytes(width, "little") for word in words)


def join(pieces: Sequence[Piece]) -> bytes:
    return b"".join(map(bytes, pieces))[:LONGEST]


def carries(word: int, shift: int = 60) -> bool:
    """Whether a page follows for a PFN word."""
    return word >> shift not in (0xD, 0xE, 0xF) and (shift == 28 or not 5 <= word >> shift <= 8)


class _Splitter:
    """Splits a stream as far as it is understood; ``pieces`` put together are the same bytes."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.pieces: List[Piece] = []
        layers = []  # inside which layers this place is, outermost first
        while self.at < len(data):
            before = self.at
            layers = self._next(layers)
            if self.at == before:
                self._raw(len(data))

    def _next(self, layers: List[str]) -> List[str]:
        rest = self.data[self.at:self.at + 64]
        if rest.startswith(MARKER) and len(rest) >= 40:
            self._raw(40)
            return layers + ["libxc"]
        for magic, size, layer in ((LIBXL, 16, "libxl"), (XENOPSD, 15, "xenopsd")):
            if rest.startswith(magic):
                self._raw(size)
                return layers + [layer]
        if rest.startswith(XL) and len(rest) >= 52:
            return self._header("xl", 48, "<I", struct.unpack_from("<I", rest, 36)[0], layers)
        if rest.startswith(LIBVIRT) and len(rest) == 64:
            return self._header("libvirt", 20, "<I", struct.unpack_from("<I", rest, 16)[0], layers)
        if rest.startswith(XEND) and len(rest) > 20:
            return self._header("xend", 16, ">I", 0, layers)
        if layers and layers[-1] != "legacy":
            return self._item(layers) if layers[-1] == "xenopsd" else self._record(layers)
        if "legacy" not in layers and len(rest) > 16 and struct.unpack_from("<I", rest)[0] < 1 << 28:
            self._legacy(8 if not any(rest[4:8]) else 4)
            return layers + ["legacy"]
        return layers

    def _take(self, size: int) -> bytes:
        taken = self.data[self.at:self.at + size]
        self.at += len(taken)
        return taken

    def _raw(self, size: int) -> None:
        self.pieces.append(Piece("raw", self._take(size)))

    def _header(self, kind: str, at: int, form: str, number: int, layers: List[str]) -> List[str]:
        length, = struct.unpack_from(form, self.data, self.at + at)
        start = self.at + (64 if kind == "libvirt" else at + 4)
        made = Piece(kind, self.data[start:start + length], number)
        if bytes(made) == self.data[self.at:start + length]:
            self.pieces.append(made)
            self.at = start + length
        else:
            self._raw(start - self.at)
        return layers

    def _record(self, layers: List[str]) -> List[str]:
        if len(self.data) - self.at < 8:
            return layers
        number, length = struct.unpack_from("<II", self.data, self.at)
        body = self.data[self.at + 8:self.at + 8 + length]
        made = Piece("record", body, number)
        if number == 1 and layers[-1] == "libxc" and len(body) >= 8:
            count, = struct.unpack_from("<I", body)
            words = [word for word, in struct.iter_unpack("<Q", body[8:8 + 8 * count][:8 * ((len(body) - 8) // 8)])]
            pages = [body[at:at + PAGE] for at in range(8 + 8 * count, len(body), PAGE)]
            made = Piece("batch", words=words, pages=pages)
        whole = bytes(made)
        if whole != self.data[self.at:self.at + len(whole)]:
            made = Piece("raw", self.data[self.at:self.at + 8 + length + -length % 8])
        self.pieces.append(made)
        self.at += len(bytes(made))
        return self._after(layers, number)

    @staticmethod
    def _after(layers: List[str], number: int) -> List[str]:
        """The layers after a record of this type."""
        inside = layers[-1]
        if number == 0 or (inside == "libxc" and number == 0xE and "libxl" in layers):
            return layers[:-1]
        return layers + ["libxc"] if inside == "libxl" and number == 4 else layers

    def _item(self, layers: List[str]) -> List[str]:
        if len(self.data) - self.at < 16:
            return layers
        number, length = struct.unpack_from("<qQ", self.data, self.at)
        if number in (0xF0, 0xF1, 0xF2):
            self._raw(16)
            inner = self.data[self.at:self.at + 8]
            if number == 0xF2 and not inner.startswith((MARKER, LIBXL)):
                self._legacy(8 if not any(inner[4:8]) else 4)
            return layers
        if length > len(self.data) - self.at - 16:
            return layers
        self.at += 16
        self.pieces.append(Piece("item", self._take(length), number))
        return layers[:-1] if number == 0xFFFF else layers

    def _legacy(self, width: int) -> None:
        start = self.at
        p2m_size, mark = (int.from_bytes(self.data[start + at:start + at + width], "little") for at in (0, width))
        self._raw(width)
        if mark == 256 ** width - 1:
            total, = struct.unpack_from("<I", self.data.ljust(self.at + width + 4, b"\0"), self.at + width)
            info = self._take(width + 4 + total)
            guest_width = 8 if b"vcpu\x30\x14" in info else 4
            self.pieces.append(Piece("raw", info))
            self._raw(width * -(-p2m_size // (PAGE // guest_width)))
        while self._chunk(width):
            pass

    def _chunk(self, width: int) -> bool:
        number, = struct.unpack_from("<i", self.data.ljust(self.at + 4, b"\0"), self.at)
        if len(self.data) - self.at < 4 or number > 1024:
            return False
        body = self.data[self.at + 4:]
        if number > 0:
            words = [int.from_bytes(body[at:at + width], "little") for at in range(0, number * width, width)]
            end = number * width + PAGE * sum(carries(word & 0xFFFFFFFF, 28) for word in words)
            pages = [body[at:at + PAGE] for at in range(number * width, min(end, len(body)), PAGE)]
            made = Piece("batch", words=words, pages=pages, width=width)
        else:
            size = CHUNK_SIZES.get(number, 0)
            if number == -2:
                size = 4 + 8 * (struct.unpack_from("<I", body.ljust(4, b"\0"))[0] // 64 % 64 + 1)
            elif number in (-12, -18):
                prefix = 4 if number == -18 else width
                size = prefix + int.from_bytes(body[:prefix], "little")
            made = Piece("chunk", body[:size], number)
        if bytes(made) != self.data[self.at:self.at + len(bytes(made))]:
            return False
        self.pieces.append(made)
        self.at += len(bytes(made))
        return number != 0


def split(data: bytes) -> List[Piece]:
    """The pieces of a stream."""
    return _Splitter(data).pieces


def scrambled(body: bytes, rng: random.Random) -> bytes:
    """A record's body with a few bytes changed, numbers at their borders, or another length."""
    changed = bytearray(body)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, width = rng.randrange(len(changed) + 1), rng.choice((1, 1, 4, 8))
        at -= at % width
        number = rng.choice((rng.choice(BORDERS), rng.getrandbits(64))) % 256 ** width
        kind = rng.random()
        if kind < 0.7:
            changed[at:at + width] = number.to_bytes(width, "little")
        elif kind < 0.85:
            changed[at:at] = changed[:rng.choice((1, 8, 64, PAGE))]
        else:
            del changed[at:at + rng.choice((1, 8, 64, PAGE))]
    return bytes(changed)


Change = Callable[["Mutator", List[Piece]], None]


class Mutator:
    """``seeds``: streams to take pieces from; ``good``: those to begin with where the mutant is to be good.
    ``scramble(body, size)`` changes bytes without knowing what they are."""

    def __init__(self, seeds: Sequence[bytes], good: Sequence[bytes],
                 scramble: Optional[Callable[[bytes, int], bytes]] = None) -> None:
        self.seeds, self.good = list(seeds), list(good)
        self._scramble = scramble or self._flip
        self.rng = random.Random(0)

    def remember(self, data: bytes) -> None:
        """Add a mutant that turned out to be a good stream."""
        if len(self.good) < 1000:
            self.good.append(data)
        else:
            self.good[self.rng.randrange(len(self.good))] = data

    def mutate(self, data: bytes, seed: Union[int, str]) -> bytes:
        """A mutant of ``data``, or of a good stream."""
        rng = self.rng = random.Random(seed)
        gentle = bool(self.good) and rng.random() < GENTLE_SHARE
        pieces = split(rng.choice(self.good) if gentle else data)
        for _ in range(rng.choice((1, 1, 2, 3, 5))):
            change = rng.choice(GENTLE if gentle or rng.random() < 0.2 else HOSTILE)
            if pieces:
                change(self, pieces)
        return join(pieces)

    # Choices.

    def _at(self, pieces: Sequence[Piece], *kinds: str) -> int:
        """The index of a piece of one of the kinds, of any kind if there is none."""
        fitting = [at for at, piece in enumerate(pieces) if piece.kind in kinds]
        return self.rng.choice(fitting or range(len(pieces)))

    def _batch(self, pieces: Sequence[Piece]) -> Piece:
        return pieces[self._at(pieces, "batch")]

    def _number(self, old: int, width: int) -> int:
        new = self.rng.choice((self.rng.choice(BORDERS), old + self.rng.choice((-8, -4, -1, 1, 4, 8)), old << 1,
                               self.rng.randrange(64), self.rng.choice(LIBXC_TYPES)))
        return new % 256 ** width

    def _bytes(self, size: int) -> bytes:
        return bytes([self.rng.choice((0, 0xFF, self.rng.randrange(256)))]) * size

    def _flip(self, body: bytes, size: int) -> bytes:
        changed = bytearray(body or b"\0")
        changed[self.rng.randrange(len(changed))] ^= 1 << self.rng.randrange(8)
        return bytes(changed[:size])

    # Changes that leave a good stream good, mostly.

    def reorder_pages(self, pieces: List[Piece]) -> None:
        batch = self._batch(pieces)
        shift, pages = (28 if batch.width else 60), iter(batch.pages)
        pairs = [(word, next(pages, b"") if carries(word, shift) else b"") for word in batch.words]
        self.rng.shuffle(pairs)
        batch.words, batch.pages = [word for word, _ in pairs], [page for _, page in pairs if page]

    def retype_pages(self, pieces: List[Piece]) -> None:
        """Give PFNs another type, with or without a page as the type wants it; or another number."""
        batch = self._batch(pieces)
        shift, pages, kept = (28 if batch.width else 60), iter(batch.pages), []
        for at, word in enumerate(batch.words):
            page = next(pages, bytes(PAGE)) if carries(word, shift) else bytes(PAGE)
            if self.rng.random() < 0.4:
                kind = self.rng.choice((0, 0, 0, 0xD, 0xE, 0xF, 1, 9, word >> shift & 0xF))
                pfn = self.rng.choice((word & 0xFFFF, self.rng.randrange(16), self.rng.randrange(1 << 7)))
                word = batch.words[at] = kind << shift | pfn
            if carries(word, shift):
                kept.append(page)
        batch.pages = kept

    def fill_page(self, pieces: List[Piece]) -> None:
        batch = self._batch(pieces)
        if batch.pages:
            at = self.rng.randrange(len(batch.pages))
            unit = self.rng.choice((bytes(8), self._bytes(8), struct.pack("<Q", self.rng.choice(BORDERS))))
            batch.pages[at] = self.rng.choice((unit * 512, batch.pages[at][:8 * 100].ljust(PAGE, b"\0")))

    def divide_batch(self, pieces: List[Piece]) -> None:
        at = self._at(pieces, "batch")
        batch = pieces[at]
        if len(batch.words) > 1:
            cut = self.rng.randrange(1, len(batch.words))
            carried = sum(carries(word, 28 if batch.width else 60) for word in batch.words[:cut])
            rest = batch.copy()
            batch.words, rest.words = batch.words[:cut], batch.words[cut:]
            batch.pages, rest.pages = batch.pages[:carried], batch.pages[carried:]
            pieces.insert(at + 1, rest)

    def repeat_batch(self, pieces: List[Piece]) -> None:
        at = self._at(pieces, "batch")
        pieces[at:at] = [pieces[at].copy() for _ in range(self.rng.choice((1, 1, 3)))]

    def repeat_record(self, pieces: List[Piece]) -> None:
        found = [at for at, piece in enumerate(pieces) if piece.kind == "record" and piece.number in REPEATABLE]
        if found:
            at = self.rng.choice(found)
            pieces.insert(at, pieces[at].copy())

    def swap_neighbours(self, pieces: List[Piece]) -> None:
        found = [at for at in range(len(pieces) - 1) if {pieces[at].kind, pieces[at + 1].kind} <= {"record", "batch"}]
        if found:
            at = self.rng.choice(found)
            pieces[at], pieces[at + 1] = pieces[at + 1], pieces[at]

    def add_optional(self, pieces: List[Piece]) -> None:
        at = self._at(pieces, "record", "batch")
        body = self._bytes(self.rng.choice((0, 1, 7, 8, 100, 5000)))
        pieces.insert(at, Piece("record", body, 0x80000000 | self.rng.randrange(32)))

    def add_verify(self, pieces: List[Piece]) -> None:
        batches = [piece for piece in pieces if piece.kind == "batch"]
        if batches and not batches[0].width:
            at = 1 + max(at for at, piece in enumerate(pieces) if piece.kind == "batch")
            pieces[at:at] = [Piece("record", number=0xD)] + [batch.copy() for batch in batches[-2:]]

    def change_value(self, pieces: List[Piece]) -> None:
        """Change a number of a record's body where most are free: not in its first eight bytes."""
        piece = pieces[self._at(pieces, "record", "chunk")]
        if len(piece.body) >= 16 and piece.number not in (0x02, 0x03, 0x09):
            body, at = bytearray(piece.body), self.rng.randrange(1, len(piece.body) // 8) * 8
            struct.pack_into("<Q", body, at, self._number(struct.unpack_from("<Q", body, at)[0], 8))
            piece.body = bytes(body)

    def change_text(self, pieces: List[Piece]) -> None:
        piece = pieces[self._at(pieces, "xl", "libvirt", "xend", "item")]
        if piece.kind in ("xl", "libvirt", "xend", "item"):
            at, text = self.rng.randrange(len(piece.body) + 1), self.rng.choice(TEXTS)
            piece.body = piece.body[:at] + text + piece.body[at + self.rng.choice((0, 0, len(text))):]

    def renumber(self, pieces: List[Piece]) -> None:
        """Give all PFNs other numbers, each PFN the same one everywhere."""
        mask = self.rng.choice((1, 2, 7, 16, 64))
        for piece in pieces:
            if piece.kind == "batch":
                piece.words = [word ^ mask for word in piece.words]

    def add_vcpu(self, pieces: List[Piece]) -> None:
        """One vcpu more, with the state of the last one."""
        found = [at for at, piece in enumerate(pieces)
                 if piece.kind == "record" and piece.number in VCPU and len(piece.body) >= 8]
        if found:
            last = max(pieces[at].body[0] for at in found)
            copies = [pieces[at].copy() for at in found if pieces[at].body[0] == last]
            for copy in copies:
                copy.body = bytes([(last + 1) & 0xFF]) + copy.body[1:]
            pieces[found[-1] + 1:found[-1] + 1] = copies

    def set_padding(self, pieces: List[Piece]) -> None:
        pieces[self._at(pieces, "record", "batch")].padding = self.rng.choice((0, 1, 0xFF))

    def append_bytes(self, pieces: List[Piece]) -> None:
        pieces.append(Piece("raw", self._bytes(self.rng.choice((1, 8, 44, 5000)))))

    def enclose(self, pieces: List[Piece]) -> None:
        """Put the whole into the next container that fits around it."""
        whole = join(pieces)
        if whole.startswith(MARKER):
            head = [Piece("raw", LIBXL + struct.pack(">II", 2, 0)), Piece("record", number=1)]
            emulator = Piece("record", struct.pack("<II", 2, 0) + b"QEVM" + self._bytes(9), 3)
            pieces[:0], pieces[len(pieces):] = head, [emulator, Piece("record")]
        elif whole.startswith(LIBXL):
            pieces.insert(0, self.rng.choice((Piece("xl", b'{"c_info":{}}\0', 3), Piece("libvirt", b"<domain/>\0", 2))))
        elif whole[:4] != b"Xen " and whole[:3] not in (b"lib", b"Xen", b"Lin"):
            pieces.insert(0, self.rng.choice((Piece("xl", b"name='x'\n", 0), Piece("libvirt", b"<domain/>\0", 1),
                                              Piece("xend", b"(domain)"))))

    # Changes that mostly spoil a stream.

    def drop(self, pieces: List[Piece]) -> None:
        at = self.rng.randrange(len(pieces))
        del pieces[at:at + self.rng.choice((1, 1, 1, 2, 5))]

    def double(self, pieces: List[Piece]) -> None:
        at = self.rng.randrange(len(pieces))
        size = self.rng.choice((1, 1, 2, 4))
        repeated = [piece.copy() for piece in pieces[at:at + size]] * self.rng.choice((1, 1, 2, 30))
        to = self.rng.choice((at, self.rng.randrange(len(pieces) + 1)))
        pieces[to:to] = repeated

    def move(self, pieces: List[Piece]) -> None:
        piece = pieces.pop(self.rng.randrange(len(pieces)))
        pieces.insert(self.rng.randrange(len(pieces) + 1), piece)

    def borrow(self, pieces: List[Piece]) -> None:
        """Insert a piece of another stream."""
        other = split(self.rng.choice(self.seeds))
        if other:
            pieces.insert(self.rng.randrange(len(pieces) + 1), self.rng.choice(other))

    def cross(self, pieces: List[Piece]) -> None:
        """Go on as another stream does from some piece on."""
        other = split(self.rng.choice(self.seeds))
        pieces[self.rng.randrange(len(pieces)) + 1:] = other[self.rng.randrange(len(other) + 1):]

    def retype(self, pieces: List[Piece]) -> None:
        piece = pieces[self._at(pieces, "record", "item", "chunk", "xl", "libvirt")]
        types = {"record": LIBXC_TYPES, "item": XENOPSD_TYPES, "chunk": CHUNKS}.get(piece.kind, LIBXL_TYPES)
        piece.number = self.rng.choice(types)

    def add_record(self, pieces: List[Piece]) -> None:
        body = self._bytes(self.rng.choice((0, 0, 1, 7, 8, 16, 24, 40, 200, 4096)))
        kind, types = self.rng.choice((("record", LIBXC_TYPES), ("record", LIBXL_TYPES), ("item", XENOPSD_TYPES),
                                       ("chunk", CHUNKS)))
        made = [Piece(kind, body, self.rng.choice(types))] * self.rng.choice((1, 1, 3, 300))
        at = self.rng.randrange(len(pieces) + 1)
        pieces[at:at] = made

    def lie(self, pieces: List[Piece]) -> None:
        """Let a length or count be another than what follows."""
        piece = pieces[self._at(pieces, "record", "batch", "item", "xl", "libvirt", "xend")]
        piece.lie = self.rng.choice((self.rng.choice(BORDERS), -8, -1, 1, 8, -len(piece.body)))

    def resize(self, pieces: List[Piece]) -> None:
        """Let a body be shorter or longer, with the length right."""
        piece = pieces[self._at(pieces, "record", "item", "chunk", "raw")]
        at, size = self.rng.randrange(len(piece.body) + 1), self.rng.choice((1, 4, 8, 16, 4096))
        inserted = self.rng.choice((b"", b"", self._bytes(size), piece.body[:size]))
        piece.body = piece.body[:at] + inserted + piece.body[at + (0 if inserted else size):]

    def change_number(self, pieces: List[Piece]) -> None:
        """Set an aligned number to a border value."""
        at = self._at(pieces, "record", "item", "chunk", "raw")
        piece = pieces[at]
        width = self.rng.choice((1, 2, 4, 4, 8, 8))
        whole = bytearray(bytes(piece)[:self.rng.choice((64, 1 << 20))])
        if len(whole) < width:
            return
        place = self.rng.randrange(len(whole) - width + 1) // width * width
        order = self.rng.choice(("little", "little", "big"))
        new = self._number(int.from_bytes(whole[place:place + width], order), width)
        whole[place:place + width] = new.to_bytes(width, order)
        pieces[at] = Piece("raw", bytes(whole) + bytes(piece)[len(whole):])

    def change_words(self, pieces: List[Piece]) -> None:
        batch = self._batch(pieces)
        if batch.words:
            at = self.rng.randrange(len(batch.words))
            kind = self.rng.randrange(16) << (28 if batch.width else 60)
            batch.words[at] = self.rng.choice((self._number(batch.words[at], 8), kind | batch.words[at] & 0xFFFF,
                                               kind | self.rng.choice(BORDERS) & 0xFFFFFFF))

    def scramble(self, pieces: List[Piece]) -> None:
        piece = pieces[self._at(pieces, "record", "item", "chunk", "raw", "xl", "libvirt", "xend")]
        if piece.body:
            piece.body = self._scramble(piece.body[:LONGEST], min(len(piece.body) + 64, LONGEST))

    def truncate(self, pieces: List[Piece]) -> None:
        at = self.rng.randrange(len(pieces))
        whole = bytes(pieces[at])
        pieces[at:] = [Piece("raw", whole[:self.rng.choice((self.rng.randrange(len(whole) + 1), 8, 12))])]

    def zero_tail(self, pieces: List[Piece]) -> None:
        """What an interrupted save leaves."""
        at = self.rng.randrange(len(pieces))
        size = len(join(pieces[at:]))
        pieces[at:] = [Piece("raw", bytes(size))]

    def nest_wrongly(self, pieces: List[Piece]) -> None:
        """Put a container around a part, or take away the start of one."""
        at = self.rng.randrange(len(pieces))
        head = self.rng.choice((
            Piece("raw", LIBXL + struct.pack(">II", 2, self.rng.choice((0, 0, 1, 2)))),
            Piece("raw", XENOPSD), Piece("record", number=1),
            Piece("image", number=self.rng.choice((0xF0, 0xF1, 0xF2))), Piece("xl", b"{}\0", self.rng.randrange(4)),
            Piece("libvirt", b"<a/>\0", self.rng.randrange(4)), Piece("xend", b"(a)"),
            Piece("raw", MARKER + struct.pack(">IIHHI", 0x58454E46, self.rng.randrange(5), 0, 0, 0)
                  + struct.pack("<IHHII", self.rng.randrange(4), 12, 0, 4, 17))))
        if self.rng.random() < 0.3:
            del pieces[:at]
        pieces.insert(self.rng.choice((0, 0, at)) if pieces else 0, head)


GENTLE: Tuple[Change, ...] = (
    Mutator.reorder_pages, Mutator.retype_pages, Mutator.fill_page, Mutator.divide_batch, Mutator.repeat_batch,
    Mutator.repeat_record, Mutator.swap_neighbours, Mutator.add_optional, Mutator.add_verify, Mutator.change_value,
    Mutator.change_text, Mutator.renumber, Mutator.add_vcpu, Mutator.set_padding, Mutator.append_bytes, Mutator.enclose)
HOSTILE: Tuple[Change, ...] = (
    Mutator.drop, Mutator.double, Mutator.move, Mutator.borrow, Mutator.cross, Mutator.retype, Mutator.add_record,
    Mutator.lie, Mutator.resize, Mutator.change_number, Mutator.change_number, Mutator.change_words, Mutator.scramble,
    Mutator.scramble, Mutator.truncate, Mutator.zero_tail, Mutator.nest_wrongly)

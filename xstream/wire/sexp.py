"""S-expressions, as xenopsd's and xend's images hold them.

Source: the syntax of the OCaml library sexplib. xend's (tools/python/xen/xend/sxp.py up to Xen 4.4) is a subset, except
for single quotes, which are treated like double quotes.
"""
import re

from xstream.errors import CorruptStream, LimitExceeded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Match, Optional, Tuple, Union

    from xstream.wire.frames import Buffer

#: Limits on one expression: bytes, nesting, and atoms and lists in total. A genuine one has a few thousand atoms.
MAX_SIZE = 1 << 20
MAX_DEPTH = 100
MAX_ITEMS = 65536

if TYPE_CHECKING:
    #: An atom, or a tuple of expressions.
    Sexp = Union[str, Tuple["Sexp", ...]]

_TOKEN = re.compile(
    br"""(?P<space> [ \t\r\n\f]+ | ;[^\n]* )
       | (?P<open> \( )
       | (?P<close> \) )
       | (?P<quote> ["'] )
       | (?P<plain> [^ \t\r\n\f()"';]+ )""", re.VERBOSE)
_IN_STRING = {b'"': re.compile(br'["\\]'), b"'": re.compile(br"['\\]")}
_ESCAPE = re.compile(br"\\(?:(\d{3})|x([0-9A-Fa-f]{2})|\r?\n[ \t]*|(.))", re.DOTALL)
_LETTERS = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"b": b"\b"}


def parse(untrusted: "Buffer") -> "Sexp":
    """The single expression in a text; invalid UTF-8 in an atom is replaced.

    Raises CorruptStream unless it is exactly one, LimitExceeded over the limits. Offsets are relative to the text.
    """
    text = bytes(untrusted)
    if len(text) > MAX_SIZE:
        raise LimitExceeded("S-expression longer than the limit", offset=0,
                            expected="at most {} bytes".format(MAX_SIZE), got=len(text))
    outer: List[List[Sexp]] = []
    items: List[Sexp] = []
    offset = count = 0
    while offset < len(text):
        token = _TOKEN.match(text, offset)
        assert token is not None  # every byte begins one
        kind, offset = token.lastgroup, token.end()
        count += kind != "space"
        if count > MAX_ITEMS or (kind == "open" and len(outer) == MAX_DEPTH):
            raise LimitExceeded("S-expression larger than the limit", offset=token.start(),
                                expected="at most {} items, {} deep".format(MAX_ITEMS, MAX_DEPTH))
        if kind == "open":
            outer.append(items)
            items = []
        elif kind == "close":
            if not outer:
                raise CorruptStream("S-expression closes a list that isn't open", offset=token.start())
            closed = tuple(items)
            items = outer.pop()
            items.append(closed)
        elif kind == "quote":
            end = _end_of_string(text, token.start())
            items.append(_decoded(_ESCAPE.sub(_unescaped, text[offset:end])))
            offset = end + 1
        elif kind == "plain":
            items.append(_decoded(token.group()))
    if outer or len(items) != 1:
        raise CorruptStream("not one whole S-expression", offset=offset, expected="1",
                            got="an open list" if outer else len(items))
    return items[0]


def _end_of_string(text: bytes, start: int) -> int:
    """The offset of the quote that ends the string which begins at ``start``."""
    pattern = _IN_STRING[text[start:start + 1]]
    found = pattern.search(text, start + 1)
    while found is not None and found.group() == b"\\":
        found = pattern.search(text, found.end() + 1)
    if found is None:
        raise CorruptStream("string without an end in an S-expression", offset=start)
    return found.start()


def _decoded(atom: bytes) -> str:
    return atom.decode("utf-8", "replace")


def _unescaped(escape: "Match[bytes]") -> bytes:
    letter: Optional[bytes]
    decimal, hexadecimal, letter = escape.groups()
    if decimal is not None:
        return bytes([int(decimal) & 0xFF])
    if hexadecimal is not None:
        return bytes([int(hexadecimal, 16)])
    if letter is None:
        return b""  # an escaped line end
    return _LETTERS.get(letter, letter)


def build(sexp: "Sexp") -> bytes:
    """The text of an expression, with atoms quoted if they must be."""
    if isinstance(sexp, str):
        return _quoted(sexp)
    return b"(" + b" ".join(build(item) for item in sexp) + b")"


def _quoted(atom: str) -> bytes:
    content = atom.encode("utf-8")
    if re.match(br"""[^\x00-\x20()"';\\|#\x7f-\xff]+\Z""", content):
        return content
    return b'"' + re.sub(br'[\x00-\x1f"\\\x7f-\xff]', lambda found: b"\\%03d" % found.group()[0], content) + b'"'

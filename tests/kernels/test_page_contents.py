"""Kinds of page contents, compared with a plain reference."""
import collections
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xstream.kernels import contents
from xstream.kernels.contents import OTHER, RANDOM, TEXT, ZERO

PAGE = 4096


def reference(page):
    counts = collections.Counter(page)
    if counts[0] == PAGE:
        return ZERO
    if sum(count * count for count in counts.values()) <= PAGE * PAGE // 128:
        return RANDOM
    printable = sum(count for byte, count in counts.items() if 32 <= byte < 127 or byte in b"\t\n\r")
    return TEXT if printable * 8 >= PAGE and printable * 8 >= 7 * (PAGE - counts[0]) else OTHER


def kinds(pages):
    found = bytearray(b"\xff" * (len(pages) // PAGE))
    contents.classify(pages, found)
    return list(found)


def noise(size, seed=1):
    source = random.Random(seed)
    return bytes(source.getrandbits(8) for _ in range(size))


def filled(start):
    return start.ljust(PAGE, b"\0")


EXAMPLES = {
    "zeros": (bytes(PAGE), ZERO),
    "one byte": (filled(b"x"), OTHER),
    "the last byte": (bytes(PAGE - 1) + b"x", OTHER),
    "noise": (noise(PAGE), RANDOM),
    "half a page of noise": (filled(noise(PAGE // 2)), OTHER),
    "7 bits of noise": (bytes(byte & 0x7F for byte in noise(PAGE)), OTHER),
    "every byte": (bytes(range(256)) * 16, RANDOM),
    "128 bytes": (bytes(range(128, 256)) * 32, RANDOM),
    "126 bytes": (bytes(range(130, 256)) * 32 + bytes(64), OTHER),
    "text": (filled(b"OSRELEASE=6.1.0\nPAGESIZE=4096\n" * 30), TEXT),
    "an eighth of text": (filled(b"x" * 512), TEXT),
    "less": (filled(b"x" * 511), OTHER),
    "UTF-16": ("Some text\r\n".encode("utf-16-le") * 186 + bytes(4), TEXT),
    "text and one in eight others": (b"1234567\x01" * 512, TEXT),
    "text and more others": (b"1234567\x01" * 511 + b"123456\x01\x01", OTHER),
    "base64": (bytes(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[byte & 63]
                     for byte in noise(PAGE)), TEXT),
}


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_examples(name):
    page, kind = EXAMPLES[name]
    assert reference(page) == kind
    assert kinds(page) == [kind]


@given(alphabet=st.binary(min_size=1, max_size=300), zeros=st.integers(0, PAGE), seed=st.integers(0, 99))
def test_reference(alphabet, zeros, seed):
    page = filled(bytes(random.Random(seed).choices(alphabet, k=PAGE - zeros)))
    assert kinds(page) == [reference(page)]


def test_many_pages_in_any_buffer():
    pages = [page for page, _ in EXAMPLES.values()] * 3
    assert kinds(b"".join(pages)) == [reference(page) for page in pages]
    assert kinds(memoryview(bytearray(b"x" + b"".join(pages)))[1:]) == [reference(page) for page in pages]
    assert kinds(b"") == []


def test_wrong_arguments():
    for pages, found in ((bytes(100), bytearray(1)), (bytes(PAGE), bytearray(2)), (bytes(PAGE), bytes(1))):
        with pytest.raises(ValueError):
            contents.classify(pages, found)
    with pytest.raises(TypeError):
        contents.classify(None, bytearray(1))

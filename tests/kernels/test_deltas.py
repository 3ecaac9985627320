"""The page deltas of legacy checkpoints: the kernel compared with a plain reference."""
import array
import threading

import pytest
import reference_deltas
from hypothesis import given
from hypothesis import strategies as st

from xstream.kernels import deltas

PAGE = 4096
SKIP_ALL = b"\xff" * 8 + b"\x88"
EDGES = [0, 1, 2, 126, 127, 128, 253, 254, 255, 896, 1016, 1022, 1023]


@pytest.fixture(params=[deltas, reference_deltas], ids=["kernel", "reference"])
def kernel(request):
    return request.param


def numbers(*values):
    return array.array("Q", values)


def page_with(words, page=bytes(PAGE)):
    """A page with some words changed."""
    changed = bytearray(page)
    for word in words:
        changed[4 * word] ^= 0xff
    return bytes(changed)


def run(kernel, data, pages=1, pfns=None):
    """(result, memory) of decoding into pages filled with 0x11."""
    memory = bytearray(b"\x11" * PAGE * pages)
    return kernel.decode(data, memory, numbers(*(range(pages) if pfns is None else pfns))), bytes(memory)


def coded(kernel, held, pages):
    held, out = bytearray(held), bytearray(kernel.bound(len(pages) // PAGE))
    used = kernel.encode(held, pages, out)
    assert bytes(held) == pages
    return bytes(out[:used])


# --- decoding

@pytest.mark.parametrize("data, end", [
    (b"\0", b""),
    (SKIP_ALL, b""),
    (b"\x80" + bytes(range(256)) * 16, bytes(range(256)) * 16),
    (b"\x01abcd" + b"\xff" * 8 + b"\x87", b"abcd"),
    (b"\x02abcdefgh" + b"\xfe" + b"\xff" * 7 + b"\x87", b"abcdefgh"),
], ids=["unchanged", "skipped over", "whole", "one word", "two words"])
def test_good_pages(kernel, data, end):
    result, memory = run(kernel, data)
    assert result == (1, len(data), kernel.OK, -1)
    assert memory == end + b"\x11" * (PAGE - len(end))


def test_every_word_in_a_run_of_its_own_is_the_longest_form(kernel):
    data = b"".join(b"\x01" + bytes([word % 251] * 4) for word in range(1024))
    assert len(data) == kernel.LONGEST
    result, memory = run(kernel, data)
    assert result == (1, kernel.LONGEST, kernel.OK, -1)
    assert memory == b"".join(bytes([word % 251] * 4) for word in range(1024))


@pytest.mark.parametrize("data, status, bad", [
    (b"\x81\x80", "ZERO_RUN", 1),
    (b"\x81\x00", "ZERO_RUN", 1),
    (b"\x01abcd\x00", "ZERO_RUN", 5),
    (b"\xff" * 9, "PAST_END", 8),
    (b"\xff" * 8 + b"\x09", "PAST_END", 8),
    (b"\x01abcd" + b"\xff" * 8 + b"\x88", "PAST_END", 13),
])
@pytest.mark.parametrize("before", [b"", b"\0", b"\x80" + bytes(PAGE)], ids=["first", "second", "after a whole one"])
def test_bad_markers(kernel, data, status, bad, before):
    """The pages before a bad form are done, its own page is unchanged, and what follows it doesn't matter."""
    done = 1 if before else 0
    for rest in (b"", bytes(PAGE)):
        result, memory = run(kernel, before + data + rest, pages=3)
        assert result == (done, len(before), getattr(kernel, status), len(before) + bad)
        assert memory[PAGE * done:] == b"\x11" * PAGE * (3 - done)


@pytest.mark.parametrize("data", [b"\x80" + bytes(PAGE), b"\x02abcdefgh\xfe" + b"\xff" * 7 + b"\x87", SKIP_ALL])
def test_every_cut_asks_for_more(kernel, data):
    for cut in range(0, len(data), 1 if len(data) < 100 else 819):
        result, memory = run(kernel, b"\0" + data[:cut], pages=2)
        assert result == (1, 1, kernel.NEED_MORE, -1)
        assert memory == b"\x11" * PAGE * 2


@pytest.mark.parametrize("data, whole", [
    (b"\x80" + bytes(PAGE), True), (b"\0", False), (SKIP_ALL, False),
    (b"\x02abcdefgh\xfe" + b"\xff" * 7 + b"\x87", False),
    ((b"\x7f" + b"abcd" * 127) * 8 + b"\x08" + b"abcd" * 8, True),
])
def test_a_page_that_isnt_held_must_come_whole(kernel, data, whole):
    memory = bytearray(b"\x11" * 2 * PAGE)
    result = kernel.decode(b"\0" + data, memory, numbers(0, 1), bytes([1, 0]))
    assert result == ((2, 1 + len(data), kernel.OK, -1) if whole else (1, 1, kernel.NOT_HELD, 1))
    assert whole or memory == b"\x11" * 2 * PAGE


def test_what_is_left_over_is_not_looked_at(kernel):
    assert run(kernel, b"\0\xff\xff\x80")[0] == (1, 1, kernel.OK, -1)
    assert run(kernel, b"\x81\x80", pages=1, pfns=[])[0] == (0, 0, kernel.OK, -1)


def test_a_pfn_may_come_again(kernel):
    rest = b"\xff" * 8 + b"\x87"
    result, memory = run(kernel, b"\x01abcd" + rest + b"\x01efgh" + rest + b"\0", pages=2, pfns=[1, 1, 0])
    assert result[:3] == (3, 29, kernel.OK)
    assert memory[PAGE:PAGE + 4] == b"efgh" and memory[:PAGE] == b"\x11" * PAGE


@pytest.mark.parametrize("pfns", [[2], [0, 2], [0, 2 ** 64 - 1], [0, 2 ** 52]])
def test_a_pfn_past_the_memory(kernel, pfns):
    memory = bytearray(2 * PAGE)
    with pytest.raises(IndexError, match=r"pfns\[{}\] is {}".format(len(pfns) - 1, pfns[-1])):
        kernel.decode(b"\x80" + b"\x22" * PAGE, memory, numbers(*pfns))
    assert memory == bytes(2 * PAGE)


#: Forms whole, cut, damaged and invented.
FORMS = st.lists(st.one_of(
    st.sampled_from([b"\0", SKIP_ALL, b"\x80" + b"\x55" * PAGE, b"\x7f" + b"\x66" * 508, b"\xff" * 8, b"\x88",
                     b"\x80"]),
    st.binary(max_size=40)), max_size=12).map(b"".join)


@given(data=FORMS, pfns=st.lists(st.integers(0, 3), max_size=6))
def test_any_bytes_decode_alike(data, pfns):
    assert run(deltas, data, 4, pfns) == run(reference_deltas, data, 4, pfns)


@given(data=FORMS, sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=20))
def test_data_may_come_piecewise(data, sizes):
    """Decoding in pieces, each joined to the rest of the one before, has the same result as decoding at once."""
    whole, expected = run(deltas, data, 4)
    memory, carried, done, taken = bytearray(b"\x11" * PAGE * 4), b"", 0, 0
    pieces = [data[i:i + sizes[0]] for i in range(0, len(data), sizes[0])]
    for piece in pieces:
        piece = carried + piece
        pages, used, status, _ = deltas.decode(piece, memory, numbers(*range(done, 4)))
        done, taken, carried = done + pages, taken + used, piece[used:]
        if status != deltas.NEED_MORE:
            break
        assert len(carried) < deltas.LONGEST
    assert memory == expected
    assert (done, taken) == whole[:2]


# --- encoding

@pytest.mark.parametrize("words, form", [
    ([], b"\0"),
    ([0], b"\x01\xff\0\0\0" + b"\xff" * 8 + b"\x87"),
    ([1023], b"\xff" * 8 + b"\x87" + b"\x01\xff\0\0\0"),
    ([0, 1, 3], b"\x02" + b"\xff\0\0\0" * 2 + b"\x81\x01\xff\0\0\0" + b"\xff" * 8 + b"\x84"),
    (range(128), b"\x7f" + b"\xff\0\0\0" * 127 + b"\x01\xff\0\0\0" + b"\xff" * 7 + b"\x87"),
    (range(1024), b"\x80" + b"\xff\0\0\0" * 1024),
], ids=["none", "first", "last", "two runs", "one over a marker", "all"])
def test_forms_written(kernel, words, form):
    assert coded(kernel, bytes(PAGE), page_with(words)) == form


def test_a_delta_may_be_as_long_as_a_page_but_no_longer(kernel):
    """1020 consecutive words need 9 markers, 4080 bytes and a marker for the rest: 4090. 1022 need over 4097."""
    assert len(coded(kernel, bytes(PAGE), page_with(range(1020)))) == 4090
    assert len(coded(kernel, bytes(PAGE), page_with(range(1021)))) == 4094
    assert coded(kernel, bytes(PAGE), page_with(range(1022)))[:1] == b"\x80"
    # 510 pairs of one changed and one not, then 4 in a row: far from the bound.
    assert len(coded(kernel, bytes(PAGE), page_with(range(0, 1024, 2)))) == 3072


@given(words=st.lists(st.sets(st.one_of(st.sampled_from(EDGES), st.integers(0, 1023))), min_size=1, max_size=3),
       filled=st.booleans())
def test_pages_encode_alike_and_decode_back(words, filled):
    if filled:  # the few that aren't changed
        words = [set(range(1024)) - changed for changed in words]
    held = bytes(range(256)) * 16 * len(words)
    pages = b"".join(page_with(changed, held[:PAGE]) for changed in words)
    data = coded(deltas, held, pages)
    assert data == coded(reference_deltas, held, pages)
    memory = bytearray(held)
    assert deltas.decode(data, memory, numbers(*range(len(words)))) == (len(words), len(data), deltas.OK, -1)
    assert memory == pages


def test_each_byte_of_a_word_counts(kernel):
    for byte in range(4):
        page = bytearray(PAGE)
        page[400 + byte] = 1
        assert coded(kernel, bytes(PAGE), bytes(page))[:2] == b"\xe4\x01"


# --- the cache

def sent(cache, *entries):
    """The output of a cache for entries (pfn, type, first word changed)."""
    out = bytearray(reference_deltas.bound(len(entries)))
    pages = b"".join(page_with([word]) for _, _, word in entries)
    used = cache.encode(numbers(*(pfn for pfn, _, _ in entries)), bytes(kind for _, kind, _ in entries), pages, out)
    return bytes(out[:used])


def is_whole(form):
    return len(form) == 4097 and form[0] == 0x80


def test_new_pages_come_whole_and_known_ones_as_deltas(kernel):
    cache = kernel.Cache(8, 4)
    assert is_whole(sent(cache, (3, 0, 1)))
    assert sent(cache, (3, 0, 1)) == b"\0"
    assert len(sent(cache, (3, 0, 2))) == 1 + 9 + 9
    assert len(sent(cache, (5, 0, 2), (5, 0, 2), (3, 0, 2))) == 4097 + 1 + 1


@pytest.mark.parametrize("page_type", [1, 4, 9, 12])
def test_page_tables_come_whole_and_are_forgotten(kernel, page_type):
    cache = kernel.Cache(8, 4)
    sent(cache, (3, 0, 1))
    assert is_whole(sent(cache, (3, page_type, 1)))
    assert is_whole(sent(cache, (3, page_type, 1)))
    assert is_whole(sent(cache, (3, 0, 1)))
    assert sent(cache, (3, 0, 1)) == b"\0"


def test_the_page_not_sent_for_the_longest_time_makes_room(kernel):
    cache = kernel.Cache(8, 3)
    sent(cache, (0, 0, 1), (1, 0, 1), (2, 0, 1))
    assert sent(cache, (0, 0, 1)) == b"\0"
    assert is_whole(sent(cache, (3, 0, 1)))  # in place of 1
    assert sent(cache, (0, 0, 1), (2, 0, 1), (3, 0, 1)) == b"\0\0\0"
    assert is_whole(sent(cache, (1, 0, 1)))  # in place of 0
    assert sent(cache, (2, 0, 1), (3, 0, 1), (1, 0, 1)) == b"\0\0\0"


def test_a_forgotten_page_makes_room_first(kernel):
    cache = kernel.Cache(8, 3)
    sent(cache, (0, 0, 1), (1, 0, 1), (2, 0, 1), (2, 1, 1))
    assert is_whole(sent(cache, (3, 0, 1)))
    assert sent(cache, (0, 0, 1), (1, 0, 1), (3, 0, 1)) == b"\0\0\0"


def test_a_pfn_past_the_cache_changes_nothing(kernel):
    cache = kernel.Cache(8, 3)
    with pytest.raises(IndexError, match=r"pfns\[1\] is 8"):
        sent(cache, (0, 0, 1), (8, 0, 1))
    assert is_whole(sent(cache, (0, 0, 1)))


@given(slots=st.integers(1, 4), batches=st.lists(st.lists(st.tuples(
    st.integers(0, 7), st.sampled_from([0, 0, 0, 1, 12]), st.integers(0, 3)), min_size=1, max_size=12), max_size=8))
def test_caches_are_alike_and_the_receiver_follows(slots, batches):
    cache, reference = deltas.Cache(8, slots), reference_deltas.Cache(8, slots)
    memory = bytearray(b"\x33" * PAGE * 8)
    for batch in batches:
        data = sent(cache, *batch)
        assert data == sent(reference, *batch)
        pfns = [pfn for pfn, _, _ in batch]
        assert deltas.decode(data, memory, numbers(*pfns)) == (len(batch), len(data), deltas.OK, -1)
        for pfn, word in {pfn: word for pfn, _, word in batch}.items():
            assert memory[PAGE * pfn:PAGE * pfn + PAGE] == page_with([word])


def test_threads_in_turn_or_an_error():
    cache = deltas.Cache(4096)
    failures = []

    def work():
        pages = bytes(PAGE * 512)
        out = bytearray(deltas.bound(512))
        for _ in range(4):
            try:
                cache.encode(numbers(*range(512)), bytes(512), pages, out)
            except RuntimeError as error:
                failures.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(failures) <= {"the cache is in use by another thread"}
    assert sent(cache, (511, 0, 0))[0] == 1


# --- the interface

@pytest.mark.parametrize("shift", range(1, 9))
def test_any_alignment(shift):
    held, pages = bytes(2 * PAGE), page_with([0, 500]) + page_with([1023])
    here, there, out = bytearray(held + bytes(shift)), bytes(shift) + pages, bytearray(deltas.bound(2) + shift)
    used = deltas.encode(memoryview(here)[shift:], memoryview(there)[shift:], memoryview(out)[shift:])
    pfns = memoryview(bytearray(shift) + numbers(1, 0).tobytes())[shift:].cast("Q")
    memory = bytearray(shift + 2 * PAGE)
    result = deltas.decode(memoryview(out)[shift:shift + used], memoryview(memory)[shift:], pfns)
    assert result == (2, used, deltas.OK, -1)
    assert memory[shift:] == pages[PAGE:] + pages[:PAGE]
    cache = deltas.Cache(2)
    assert cache.encode(pfns, bytes(2), memoryview(there)[shift:], memoryview(out)[shift:]) == 2 * 4097


def test_overlapping_buffers_stay_within_them():
    memory = bytearray(b"\x7f" * PAGE * 4)
    deltas.decode(memory, memory, numbers(0, 1, 2, 3))
    deltas.decode(memoryview(memory)[PAGE // 2:], memory, numbers(0, 1))
    everything = bytearray(b"\x42" * PAGE * 8)
    deltas.encode(memoryview(everything)[:PAGE * 2], memoryview(everything)[PAGE:PAGE * 3], everything)


def test_nothing_at_all():
    assert deltas.decode(b"", bytearray(), numbers()) == (0, 0, deltas.OK, -1)
    assert deltas.encode(bytearray(), b"", bytearray()) == 0
    assert deltas.Cache(0).encode(numbers(), b"", b"", bytearray()) == 0
    assert deltas.bound(0) == 0
    with pytest.raises(IndexError):
        deltas.decode(b"\0", bytearray(), numbers(0))
    with pytest.raises(IndexError):
        sent(deltas.Cache(0), (0, 0, 0))


@pytest.mark.parametrize("arguments, error, message", [
    ((5, bytearray(PAGE), numbers(0)), TypeError, "data must be a buffer, not int"),
    ((b"", bytes(PAGE), numbers(0)), ValueError, "memory must be writable"),
    ((b"", bytearray(PAGE + 1), numbers(0)), ValueError, "memory must hold whole pages"),
    ((b"", bytearray(PAGE), array.array("I", [0])), TypeError, "pfns must be of uint64"),
    ((b"", bytearray(PAGE), array.array("q", [0])), TypeError, "pfns must be of uint64"),
    ((b"", bytearray(PAGE), memoryview(numbers(0, 1, 2))[::2]), ValueError, "pfns must be contiguous"),
    ((memoryview(b"abcd")[::2], bytearray(PAGE), numbers(0)), ValueError, "data must be contiguous"),
])
def test_wrong_arguments_of_decode(arguments, error, message):
    with pytest.raises(error, match=message):
        deltas.decode(*arguments)


@pytest.mark.parametrize("arguments, message", [
    ((bytes(PAGE), bytes(PAGE), bytearray(4097)), "held must be writable"),
    ((bytearray(PAGE), bytes(PAGE), bytes(4097)), "out must be writable"),
    ((bytearray(PAGE), bytes(PAGE), bytearray(4096)), "out must have 4097 bytes for 1 pages, not 4096"),
    ((bytearray(PAGE), bytes(2 * PAGE), bytearray(9000)), "held must have 8192 bytes, not 4096"),
    ((bytearray(9), bytes(9), bytearray(9000)), "pages must hold whole pages"),
])
def test_wrong_arguments_of_encode(arguments, message):
    with pytest.raises(ValueError, match=message):
        deltas.encode(*arguments)


@pytest.mark.parametrize("arguments, message", [
    ((numbers(0), b"", bytes(PAGE), bytearray(4097)), "types must have 1 elements, not 0"),
    ((numbers(), b"\0", bytes(PAGE), bytearray(4097)), "pfns must have 1 elements, not 0"),
    ((numbers(0), b"\0", bytes(PAGE), bytearray(4096)), "out must have 4097 bytes"),
])
def test_wrong_arguments_of_a_cache(arguments, message):
    with pytest.raises(ValueError, match=message):
        deltas.Cache(1).encode(*arguments)


@pytest.mark.parametrize("arguments", [(-1,), (2 ** 32 + 1,), (1, 0), (1, 2 ** 31 + 1), (1, -5)])
def test_wrong_sizes_of_a_cache(arguments):
    with pytest.raises(ValueError, match="must be"):
        deltas.Cache(*arguments)


def test_a_negative_bound():
    with pytest.raises(ValueError, match="must not be negative"):
        deltas.bound(-1)

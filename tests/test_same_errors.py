"""The same damage is the same error, whichever verb meets it."""
import io
import struct

import containers
import legacy_samples
import pytest
import samples
from ways import WAYS

import xstream

ATTRIBUTES = ("layer", "offset", "record", "record_type", "field", "expected", "got")
VERBS = {
    "extract": lambda stream, **options: xstream.extract(stream, io.BytesIO(), **options),
    "digest": xstream.digest,
    "convert": lambda stream: xstream.convert(stream, io.BytesIO()),
}
STREAM = samples.hvm()
BAD_POLICY = samples.record(0x11, bytes(23))


def damages():
    """Streams by what is wrong with them: the frame and order of records, PFN words, pages that are cut off."""
    bad_word = samples.hvm(memory=samples.batch([samples.word(5, 7)], [samples.page(3)]))
    late = STREAM[:-len(samples.end())] + samples.static_data_end() + samples.end()
    yield "marker", b"\0" + STREAM[1:]
    yield "header cut", STREAM[:30]
    yield "record cut", STREAM[:-3]
    yield "pages cut", STREAM[:STREAM.index(samples.page(2)) + 100]
    yield "page type", bad_word
    yield "order", late
    yield "unknown", STREAM[:-len(samples.end())] + samples.record(0x55, b"") + samples.end()
    yield "policy size", samples.headers() + BAD_POLICY + STREAM[40:]
    yield "no state", STREAM[:40] + samples.static_data_end() + samples.end()


def error_of(verb, stream):
    with pytest.raises(xstream.StreamError) as caught:
        verb(stream)
    return type(caught.value), {name: getattr(caught.value, name) for name in ATTRIBUTES}


@pytest.mark.parametrize("wrap", [bytes, lambda stream: containers.xl(containers.libxl(stream))], ids=["libxc", "xl"])
@pytest.mark.parametrize("verb", VERBS)
def test_structure(verb, wrap):
    for what, stream in damages():
        if (verb, what) == ("convert", "no state"):
            continue  # found at the end of the memory stream, before that is written, and not at the container's
        assert error_of(VERBS[verb], wrap(stream)) == error_of(xstream.verify, wrap(stream)), what


@pytest.mark.parametrize("wrap", [bytes, lambda stream: containers.xl(containers.libxl(stream))], ids=["libxc", "xl"])
def test_bodies(wrap):
    """What is wrong inside a record's body: convert finds it as verify does. extract and digest load memory alone: they
    look at no body, except for whether an HVM context is whole."""
    body = bytearray(samples.hvm_context())
    struct.pack_into("<I", body, 12, 0x7FFFFFFF)  # the length of the first entry
    damaged = STREAM.replace(samples.hvm_context(), bytes(body))
    found = error_of(xstream.verify, wrap(damaged))
    assert error_of(VERBS["convert"], wrap(damaged)) == found
    assert found[1]["record_type"] == "HVM_CONTEXT" and found[1]["got"] == 0x7FFFFFFF


def without_state():
    """Streams whose first checkpoint lacks state and whose second is cut inside its pages, with the place of the
    record that completes the first: layer, offset, number."""
    checkpoint = samples.record(0x0E)
    pages = samples.batch([samples.word(1)], [samples.page(7)])[:-1000]
    first = samples.checkpointed(1)[:-len(checkpoint)].replace(samples.hvm_context(), b"") + checkpoint
    libxc = first + pages
    yield "libxc", libxc, ("libxc", len(first) - len(checkpoint), 6)
    first = containers.libxl_checkpointed(1).replace(samples.hvm_context(), b"")
    libxl = first + pages
    yield "libxl", libxl, ("libxl", len(first) - len(containers.checkpoint_end()), 3)
    head = len(containers.xl_header())
    yield "xl", containers.xl(libxl), ("libxl", head + len(first) - len(containers.checkpoint_end()), 3)
    first = legacy_samples.remus().replace(legacy_samples.hvm_tail(blob=b"0"),
                                           legacy_samples.hvm_tail(context=b"", blob=b"0"))
    yield "legacy", first + legacy_samples.batch(8, [legacy_samples.word(0)], [samples.page(1)])[:-9], (
        "legacy", len(first), 8)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("verb", ["verify", "extract", "digest", "MemoryView"])
@pytest.mark.parametrize("stream, place", [case[1:] for case in without_state()],
                         ids=[case[0] for case in without_state()])
def test_what_a_checkpoint_lacks_from_every_source(stream, place, verb, way):
    """The error is located at the checkpoint, wherever a source notices that what follows is cut off."""
    verbs = dict(VERBS, verify=xstream.verify, MemoryView=xstream.MemoryView)
    with WAYS[way](stream) as source, pytest.raises(xstream.IncompleteStream) as caught:
        verbs[verb](source, checkpointed=True)
    error = caught.value
    assert (error.layer, error.offset, error.record, error.missing) == (*place, ("HVM_CONTEXT",))

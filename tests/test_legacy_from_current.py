"""Genuine streams of Xen 4.17, written as legacy ones, converted back and squashed: still the same guest.

On a real Xen such images of Linux guests, PV and HVM, run on after ``xl restore``.
"""
import io

import pytest
from legacy_from_current import legacy_from_current, legacy_params, params_of
from superpages import superpages

import xstream


def converted(stream, **options):
    out = io.BytesIO()
    xstream.convert(stream, out, **options)
    return out.getvalue()


def check(stream):
    pages = list(xstream.page_digests(stream))
    old = legacy_from_current(stream)
    once = converted(old, to="libxc")
    for result in (once, converted(once, squash=True), converted(old, to="libxc", squash=True),
                   converted(old, to="libxl", squash=True)):
        xstream.verify(result)
        assert list(xstream.page_digests(result)) == pages
        assert params_of(result) == legacy_params(params_of(stream))
    if xstream.info(stream).guest == "x86 HVM":
        whole = superpages(stream, one_record=True)
        assert superpages(converted(stream, to="libxc", squash=True)) == superpages(once) == whole
        assert len(params_of(once)) >= 3


def test_v3_streams(v3_stream):
    if "remus" in v3_stream.path.name:
        pytest.skip("not applicable: a stream with checkpoints")
    check(v3_stream.path.read_bytes())


def test_xl_files(xl_stream):
    check(xl_stream.path.read_bytes())

"""The messages between libxl and its save helper, byte by byte."""
import os
import struct

import pytest

from xstream.xen import libxl, save_helper
from xstream.xen.libxl import Libxl, LibxlGone


class Pipes:
    def __init__(self):
        self.replies, self.reply_writer = os.pipe()
        self.reader, self.messages = os.pipe()

    def connect(self, callbacks, **options):
        return Libxl(callbacks, read_fd=self.replies, write_fd=self.messages, **options)

    def reply(self, *values):
        os.write(self.reply_writer, struct.pack("<{}i".format(len(values)), *values))

    def message(self):
        size, = struct.unpack("<H", os.read(self.reader, 2))
        return os.read(self.reader, size)

    def close(self):
        for fd in (self.replies, self.reply_writer, self.reader, self.messages):
            os.close(fd)


@pytest.fixture
def pipes():
    made = Pipes()
    yield made
    made.close()


def test_log_and_progress(pipes):
    parent = pipes.connect(0)
    parent.log(libxl.ERROR, "no\0 luck", 5)
    assert pipes.message() == (struct.pack("<HII", 1, 8, 5) + struct.pack("<I", 8) + b"xstream\0"
                               + struct.pack("<I", 9) + b"no? luck\0")
    parent.log(libxl.INFO, "good")
    assert struct.unpack_from("<HII", pipes.message()) == (1, 5, 0xFFFFFFFF)
    parent.progress("memory", 3, 9)
    assert pipes.message() == (struct.pack("<HI", 2, 8) + b"xstream\0" + struct.pack("<I", 7) + b"memory\0"
                               + struct.pack("<QQ", 3, 9))


def test_a_long_text_fits_a_message(pipes):
    pipes.connect(0).log(libxl.INFO, "x" * 100000)
    assert len(pipes.message()) < 1 << 16


def test_callbacks(pipes):
    parent = pipes.connect(1 << libxl.SUSPEND)
    pipes.reply(1, -2)
    assert parent.ask(libxl.SUSPEND) == 1 and pipes.message() == b"\3\0"
    assert parent.ask(libxl.CHECKPOINT) == 1 and parent.ask(libxl.SWITCH_QEMU_LOGDIRTY, b"", default=0) == 0
    assert parent.ask(libxl.SUSPEND) == -2


@pytest.mark.parametrize("old, results, complete", [(False, 9, 10), (True, 8, 9)])
def test_results(pipes, old, results, complete):
    parent = pipes.connect(0, old=old)
    pipes.reply(0)
    parent.restore_results(0x11, 0x22)
    parent.complete(-1, 28)
    assert pipes.message() == struct.pack("<HQQ", results, 0x11, 0x22)
    assert pipes.message() == struct.pack("<Hii", complete, -1, 28)


def test_libxl_that_is_gone(pipes):
    parent = pipes.connect(1 << libxl.SUSPEND)
    os.write(pipes.reply_writer, b"\1\0")
    os.close(pipes.reply_writer)
    with pytest.raises(LibxlGone):
        parent.ask(libxl.SUSPEND)
    pipes.reply_writer = os.dup(pipes.replies)


@pytest.mark.parametrize("words, expected", [
    ("--save-domain 14 -1 3 1 136 0", save_helper.SaveRequest(14, -1, 3, 1, 136, 0, False)),
    ("--save-domain 14 -1 3 1 1 136 2", save_helper.SaveRequest(14, -1, 3, 1, 136, 2, True)),
    ("--restore-domain 14 -1 3 4 5 6 7 768 1", save_helper.RestoreRequest(14, -1, 3, 4, 5, 6, 7, 768, 1, False)),
    ("--restore-domain 14 -1 3 4 5 6 7 1 1 768 1", save_helper.RestoreRequest(14, -1, 3, 4, 5, 6, 7, 768, 1, True)),
    ("", None), ("--save-domain 1 2 3", None), ("--save-domain 14 -1 x 1 136 0", None), ("--check 1 2 3 4 5 6", None),
])
def test_arguments(words, expected):
    assert save_helper.parse(words.split()) == expected


def test_wrong_use(capsys):
    assert save_helper.main([]) == 2
    assert "LIBXL_SAVE_HELPER" in capsys.readouterr().err

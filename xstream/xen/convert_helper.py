"""``xstream-convert-helper``: runs instead of Xen's convert-legacy-stream, which libxl starts when it meets a legacy
stream. ``LIBXL_CONVERT_HELPER=/usr/bin/xstream-convert-helper xl restore ...`` turns it on for one command.

Source: tools/libs/light/libxl_convert_callout.c of Xen 4.6 to 4.22: what libxl passes, and that only the exit status
counts; libxl passes its own word size, whatever the stream's is.
"""
import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional

_OPTIONS = ("--in", "--out", "--width", "--guest", "--format")
_USAGE = ("xstream-convert-helper: libxl starts this program with --in FD --out FD --width 32|64 --guest pv|hvm "
          "--format libxl; set LIBXL_CONVERT_HELPER to its path (see its man page)")


def main(arguments: "Optional[List[str]]" = None) -> int:
    """Convert from one descriptor to another; returns the exit status: 0, 1 for a bad stream, 2 for anything else.
    Errors go to stderr, which is xl's."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    if options is None:
        print(_USAGE, file=sys.stderr)
        return 2
    from xstream.convert.conversion import convert
    from xstream.errors import StreamError
    from xstream.stream.source import open_source
    fd = int(options["--in"])
    try:
        # What follows the stream in a pipe is xl's. A file is read twice: its descriptor is passed on.
        source = fd if stat.S_ISREG(os.fstat(fd).st_mode) else open_source(fd, exact=True)
        # A Remus stream becomes a plain one: libxl doesn't expect checkpoints here.
        convert(source, int(options["--out"]), to=options["--format"], format="legacy", guest=options.get("--guest"),
                last_checkpoint=True)
    except StreamError as error:
        print("xstream-convert-helper: {}".format(error), file=sys.stderr)
        return 1
    except Exception as error:
        print("xstream-convert-helper: {}: {}".format(type(error).__name__, error), file=sys.stderr)
        return 2
    return 0


def _parse(words: "List[str]") -> "Optional[Dict[str, str]]":
    """The options by name, or None where they aren't libxl's."""
    options = dict(zip(words[::2], words[1::2]))
    descriptors = all(options.get(name, "").isdigit() for name in ("--in", "--out"))
    known = len(words) == 2 * len(options) and set(options) <= set(_OPTIONS)
    return options if known and descriptors and options.get("--format") in ("libxl", "libxc") else None


if __name__ == "__main__":
    sys.exit(main())

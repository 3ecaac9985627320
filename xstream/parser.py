"""The parser that understands every command line, explains wrong ones and prints help; it loads argparse."""
import argparse
import contextlib
import sys

from xstream.printing import print_json, terminal_width, wrong_use

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, Optional

_EXAMPLES_HEAD = "examples:"


class _Formatter(argparse.HelpFormatter):
    """Formats help at the terminal's width, and keeps the lines of examples.

    argparse makes a formatter for each argument, to check it; the first without a width would import shutil.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=(terminal_width() or 82) - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(_EXAMPLES_HEAD) else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """A parser that prints a usage error as a JSON document too, if --json is given. ``examples`` are commands, one a
    line, that help ends with."""

    def __init__(self, *, prog: "Optional[str]" = None, description: "Optional[str]" = None,
                 epilog: "Optional[str]" = None, examples: str = "") -> None:
        if examples:
            epilog = "\n  ".join([_EXAMPLES_HEAD] + examples.splitlines())
        super().__init__(prog=prog, description=description, epilog=epilog, formatter_class=_Formatter)
        self.examples = examples

    def _print_message(self, message: str, file: "Any" = None) -> None:
        """As in newer Pythons, text that can't be written doesn't change the exit status."""
        with contextlib.suppress(OSError):
            super()._print_message(message, file)

    def error(self, message: str) -> "NoReturn":
        if "--json" in sys.argv:
            with contextlib.suppress(OSError):  # stdout can't be written to, and the message follows
                print_json(wrong_use(message))
        super().error(message)

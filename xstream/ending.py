"""How a program of the package ends."""
import atexit
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def end(status: int) -> "NoReturn":
    """End the process with an exit status. Unless there are threads or exit handlers, Python doesn't free its memory
    first, which would take as long as verifying a small stream."""
    if "threading" not in sys.modules and not atexit._ncallbacks():
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
        except (OSError, ValueError):
            pass  # Python reports this when it ends
        else:
            os._exit(status)
    sys.exit(status)

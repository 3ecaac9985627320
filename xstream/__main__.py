"""``python -m xstream``: the command line."""
import sys

from xstream.cli import main

if __name__ == "__main__":
    sys.exit(main())

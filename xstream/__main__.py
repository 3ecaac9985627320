"""``python -m xstream``: the command line."""
from xstream.cli import main
from xstream.ending import end

if __name__ == "__main__":
    end(main())

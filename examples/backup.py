#!/usr/bin/env python3
"""Back up save files: each one is verified, copied, and listed with digests of its guest's memory.

    python backup.py STORE FILE...      copies the files into STORE; STORE/manifest.json lists them
    python backup.py --check STORE      does STORE still hold what the manifest says?

A file that is damaged or not complete isn't copied. Exit status: 0 if all files are good, else 1.
"""
import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, List

import xstream


def describe(path: Path) -> Dict[str, Any]:
    """What the manifest says of a file. Raises xstream.StreamError for a bad stream."""
    # Reads headers and PFN words only: a bad file is refused before the expensive part.
    report = xstream.verify(str(path))
    digest = xstream.digest(str(path), jobs=os.cpu_count() or 1)
    return {
        "format": report.format,
        "guest": report.guest,
        "made_by": report.made_by,
        "bytes": path.stat().st_size,
        "pages": digest.populated,
        "memory_sha256": digest.pages_sha256,
    }


def back_up(store: Path, files: List[Path]) -> bool:
    """Copy the good files; returns whether all were good."""
    manifest = read_manifest(store)
    good = True
    for path in files:
        try:
            manifest[path.name] = describe(path)
        except (xstream.StreamError, OSError) as error:
            print("{}: not backed up: {}".format(path, error), file=sys.stderr)
            good = False
        else:
            shutil.copyfile(str(path), str(store / path.name))
            print("{}: {} pages".format(path, manifest[path.name]["pages"]))
    (store / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return good


def check(store: Path) -> bool:
    """Compare every file with the manifest; returns whether all are the same."""
    good = True
    for name, expected in read_manifest(store).items():
        try:
            same = describe(store / name) == expected
        except (xstream.StreamError, OSError) as error:
            print("{}: {}".format(name, error), file=sys.stderr)
            same = False
        print("{}: {}".format(name, "unchanged" if same else "DAMAGED"))
        good = good and same
    return good


def read_manifest(store: Path) -> Dict[str, Dict[str, Any]]:
    path = store / "manifest.json"
    return json.loads(path.read_text()) if path.exists() else {}


def main() -> int:
    parser = argparse.ArgumentParser(description="Back up save files after verifying them.")
    parser.add_argument("--check", action="store_true", help="compare STORE with its manifest")
    parser.add_argument("store", metavar="STORE", type=Path)
    parser.add_argument("files", metavar="FILE", type=Path, nargs="*")
    options = parser.parse_args()
    options.store.mkdir(parents=True, exist_ok=True)
    good = check(options.store) if options.check else back_up(options.store, options.files)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

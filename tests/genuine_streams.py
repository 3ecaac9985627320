"""Streams that Xen's own libraries and tools wrote, and the manifests that say what is in them.

They are looked for under ``XSTREAM_STREAMS``, and in ``shared/streams`` beside the checkout: folders ``v3``, ``xl`` and
``legacy``, each with xz-compressed streams and a ``manifest.json``. Tests take the fixtures ``v3_stream``,
``xl_stream`` and ``legacy_stream``, which run them once for each stream of the manifest, or ``genuine_stream``, which
gives a stream by name; they are skipped where the streams are absent.
"""
import json
import lzma
import os
import shutil
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

ABSENT = "no genuine streams: set XSTREAM_STREAMS to their folder"


class GenuineStream(NamedTuple):
    """One stream, unpacked."""

    path: Path
    #: What the manifest says of it; empty for a file that the manifest has no entry of its own for.
    about: Dict[str, Any]
    #: The whole manifest, which may hold what is common to all its streams.
    manifest: Dict[str, Any]


def folder() -> Optional[Path]:
    """The folder of the streams, or None."""
    beside = Path(__file__).resolve().parent.parent.parent / "shared" / "streams"
    path = Path(os.environ.get("XSTREAM_STREAMS") or beside)
    return path if (path / "v3" / "manifest.json").is_file() else None


def manifest(group: str) -> Dict[str, Any]:
    """The manifest of a group: "v3", "xl" or "legacy"."""
    where = folder()
    if where is None:
        raise FileNotFoundError(ABSENT)
    loaded: Dict[str, Any] = json.loads((where / group / "manifest.json").read_text(encoding="utf-8"))
    return loaded


def names(group: str) -> List[str]:
    """The file names of a group's streams, as its manifest has them."""
    return [entry["file"] for entry in manifest(group)["files"]]


def unpack(group: str, name: str, into: Path) -> GenuineStream:
    """Unpack a stream, or another file of the group, into a folder, once."""
    where = folder()
    if where is None:
        raise FileNotFoundError(ABSENT)
    path = into / group / name[:-len(".xz")]
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        with lzma.open(str(where / group / name)) as packed, path.open("wb") as out:
            shutil.copyfileobj(packed, out, 1 << 20)
    whole = manifest(group)
    about = next((entry for entry in whole["files"] if entry["file"] == name), {})
    return GenuineStream(path, about, whole)

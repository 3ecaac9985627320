"""Genuine streams (written by Xen's own libraries and tools), and the manifests that describe their contents.

``tests/data/streams`` has a selection of them; ``XSTREAM_STREAMS`` names another folder. Either has a folder for each
group: ``v3``, ``xl`` and ``legacy`` with a ``manifest.json``, and ``few`` and ``tried`` without. A stream is an
xz-compressed file in its group's folder, or a member of one of the ``*.tar.xz`` beside these folders (streams with the
same guest memory compress better together).

Tests use the fixtures ``v3_stream``, ``xl_stream`` and ``legacy_stream``, which run them once for each stream of the
manifest, or ``genuine_stream``, which returns a stream by group and name. Names end in ``.xz``, as in the manifests.
"""
import json
import lzma
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

ABSENT = "no genuine streams: set XSTREAM_STREAMS to their folder"
DATA = Path(__file__).resolve().parent / "data" / "streams"


class GenuineStream(NamedTuple):
    """One stream, decompressed."""

    path: Path
    #: Its entry in the manifest; empty for a file without one.
    about: Dict[str, Any]
    #: The whole manifest, which may hold what its streams have in common.
    manifest: Dict[str, Any]


def folder() -> Optional[Path]:
    """The folder of the streams, or None."""
    path = Path(os.environ.get("XSTREAM_STREAMS") or DATA)
    return path if (path / "v3" / "manifest.json").is_file() else None


def images(group: str) -> List[str]:
    """The names of the compressed files of a group that are present."""
    path = folder()
    return sorted(file.name for file in (path / group).glob("*.xz")) if path else []


def manifest(group: str) -> Dict[str, Any]:
    """The manifest of a group; a group without one has no files in it."""
    path = _folder() / group / "manifest.json"
    if not path.is_file():
        return {"files": []}
    loaded: Dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def names(group: str) -> List[str]:
    """The names of a group's streams, in the manifest's order."""
    return [entry["file"] for entry in manifest(group)["files"]]


def unpack(group: str, name: str, into: Path) -> GenuineStream:
    """Decompress a stream, or another file of the group, into a folder; once for each folder."""
    path = into / group / name[:-len(".xz")]
    packed = _folder() / group / name
    if not path.exists() and packed.is_file():
        path.parent.mkdir(exist_ok=True)
        with lzma.open(str(packed)) as stream, path.open("wb") as out:
            shutil.copyfileobj(stream, out, 1 << 20)
    elif not path.exists():
        _unpack_archives(group, path, into)
    whole = manifest(group)
    about = next((entry for entry in whole["files"] if entry["file"] == name), {})
    return GenuineStream(path, about, whole)


def _folder() -> Path:
    where = folder()
    if where is None:
        raise FileNotFoundError(ABSENT)
    return where


def _unpack_archives(group: str, path: Path, into: Path) -> None:
    """Unpack archives until the path exists, the group's own archive first."""
    archives = sorted(_folder().glob("*.tar.xz"), key=lambda archive: (archive.name != group + ".tar.xz", archive.name))
    for archive in archives:
        with tarfile.open(str(archive)) as tar:
            for member in tar:
                target = into / member.name
                if not target.exists():
                    target.parent.mkdir(exist_ok=True)
                    with tar.extractfile(member) as stream, target.open("wb") as out:  # type: ignore[union-attr]
                        shutil.copyfileobj(stream, out, 1 << 20)
        if path.exists():
            return
    raise FileNotFoundError("no genuine stream {}/{}.xz".format(group, path.name))

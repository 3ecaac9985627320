"""Where images are: files, folders, patterns, and whatever fsspec opens."""
import errno
import glob
import os
import re
import stat
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import PurePath
from typing import IO, Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple, Union

from xstream.stream.ranges import RangeSource
from xstream.stream.source import ObjectSource, Source, open_source

#: Fields of fsspec's descriptions of files that change with the contents, best first.
_STAMPS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "Last-Modified", "modified")

#: The component of a pattern that matches any number of folders.
_RECURSIVE = re.compile(r"(?:(?<=/)|\A)\*\*(?:/|\Z)")


#: A name in a store, and what the store says of it or why it can't.
_Found = Tuple[str, Union[Dict[str, Any], Exception]]


class Place(NamedTuple):
    """One image: its path or URL, its size in bytes, and a stamp that changes with its contents (modification time or
    ETag), each None if unknown. ``error``: why there is nothing to scan, or None."""

    path: str
    bytes: Optional[int] = None
    stamp: Optional[str] = None
    error: Optional[str] = None


def find_places(path: str, options: Mapping[str, object]) -> Iterator[Place]:
    """The images that a path, a pattern (``*``, ``**``, ``?``, ``[...]``) or a URL names: of a folder, all files in it
    and in folders below, without those that a symbolic link names as folders. What can't be listed is a Place with an
    ``error``. ``options`` are those of the URL's file system in fsspec."""
    if is_url(path):
        try:
            yield from _remote(path, options)
        except Exception as error:  # of any file system and of its libraries
            yield Place(path, error=reason(error))
    elif glob.has_magic(path) and not os.path.lexists(path):
        found = list(_below(path) if _RECURSIVE.search(path) else _matching(path))
        yield from found or [Place(path, error="no file matches")]
    else:
        yield from _local(path)


def is_url(path: str) -> bool:
    """Whether fsspec opens this, because it isn't a local path."""
    return ("://" in path or "::" in path) and not os.path.lexists(path)


def reason(error: BaseException) -> str:
    """What went wrong, for people: without the path if the error has one."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, FileNotFoundError) and error.errno is None:  # fsspec's, which often have a path alone
        return "{}: {}".format(os.strerror(errno.ENOENT), said)
    return said


def _matching(pattern: str) -> Iterator[Place]:
    for name in sorted(glob.glob(pattern)):
        yield from _local(name)


def _below(pattern: str) -> Iterator[Place]:
    """What a pattern with ``**`` matches. Python's glob would follow links to folders, and go round in circles."""
    head, tail = _RECURSIVE.split(pattern, 1)
    for top in sorted(glob.glob(head)) if glob.has_magic(head) else [head or os.curdir]:
        for place in _local(top):
            if not tail or place.error or PurePath(place.path).match(tail):
                yield place


def _local(path: str) -> Iterator[Place]:
    if "\0" in path or not os.path.isdir(path):  # Python 3.7 and older raise ValueError for NUL
        yield _file(path)
        return
    unlisted: List[OSError] = []
    for folder, folders, files in os.walk(path, onerror=unlisted.append):
        folders.sort()
        for name in sorted(files):
            place = _file(os.path.join(folder, name))
            if place.error != _NOT_A_FILE:
                yield place
    for error in unlisted:
        yield Place(str(error.filename), error=reason(error))


_NOT_A_FILE = "not a file"


def _file(path: str) -> Place:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        return Place(path, error=reason(error))
    if stat.S_ISREG(status.st_mode):
        return Place(path, status.st_size, str(status.st_mtime_ns))
    return Place(path) if stat.S_ISBLK(status.st_mode) else Place(path, error=_NOT_A_FILE)


def _filesystem(url: str, options: Mapping[str, object]) -> Any:
    """(file system, path in it). Raises ImportError with advice."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise ImportError("URLs need the package fsspec: install xen-xstream[fleet]")
    return url_to_fs(url, **options)


def _remote(url: str, options: Mapping[str, object]) -> Iterator[Place]:
    system, path = _filesystem(url, options)
    if "*" in path or "[" in path:  # "?" begins the query of a web address
        found = _matching_names(system, path)
    else:
        about = {} if url.endswith("/") else system.info(path)
        if about and about.get("type") != "directory":
            yield _described(url, about)
            return
        found = _all_below(system, path)
    # The path may lack the URL's scheme and host.
    inner, outside = path.rstrip("/"), url.rstrip("/")
    outside = outside[:-len(inner)] if inner and outside.endswith(inner) else system.unstrip_protocol("")
    files = {name: about for name, about in found if isinstance(about, Exception) or about.get("type") != "directory"}
    for name, about in sorted(files.items()):
        yield Place(outside + name, error=reason(about)) if isinstance(about, Exception) else \
            _described(outside + name, about)
    if not files:
        yield Place(url, error="no file matches")


def _all_below(system: Any, folder: str) -> Iterator[_Found]:
    """The files in a folder and in folders below."""
    if _lists_at_once(system):
        yield from system.find(folder, detail=True).items()
        return
    for name, about in _listing(system, folder):
        if isinstance(about, Exception) or about.get("type") != "directory":
            yield name, about
        else:
            yield from _all_below(system, name)


def _matching_names(system: Any, pattern: str) -> Iterator[_Found]:
    """What a pattern matches: fsspec's own glob() takes a folder that can't be listed for an empty one."""
    if "**" in pattern and _lists_at_once(system):
        yield from system.glob(pattern, detail=True).items()
        return
    if "http" in system.protocol:
        pattern = pattern.replace("?", "[?]")
    before = pattern[:re.search(r"[*?[]", pattern).start()].rpartition("/")[0]  # type: ignore[union-attr]  # has one
    # With "**" a folder is looked at more than once.
    listing = lru_cache(maxsize=None)(lambda folder: list(_listing(system, folder)))
    yield from _descended(listing, before, pattern[len(before):].strip("/").split("/"))


def _descended(listing: Callable[[str], List[_Found]], folder: str, components: List[str]) -> Iterator[_Found]:
    """What matches the components of a pattern in a folder."""
    first, rest = components[0], components[1:]
    anything = first == "**"
    if anything and rest:
        yield from _descended(listing, folder, rest)
    for name, about in listing(folder):
        if isinstance(about, Exception):
            yield name, about
        elif anything or fnmatchcase(name.rstrip("/").rpartition("/")[2], first):
            if not rest:
                yield name, about
            if about.get("type") == "directory" and (rest or anything):
                yield from _descended(listing, name, components if anything else rest)


def _listing(system: Any, folder: str) -> Iterator[_Found]:
    """What is in a folder, without itself. If it can't be listed, the folder with the error: fsspec's walk() and find()
    leave that out."""
    web = "http" in system.protocol
    try:
        listed = system.ls(folder.rstrip("/") + "/" if web else folder, detail=True)
    except Exception as error:  # of any file system and of its libraries
        yield folder, error
        return
    for about in listed:
        if about["name"].rstrip("/") != folder.rstrip("/"):
            yield about["name"], about


def _lists_at_once(system: Any) -> bool:
    """Whether a store lists all that is below a folder in one go, as those of objects do. This raises its errors."""
    from fsspec.asyn import AsyncFileSystem
    return isinstance(system, AsyncFileSystem) and type(system)._find is not AsyncFileSystem._find


def _described(url: str, about: Mapping[str, Any]) -> Place:
    stamp = next((about[name] for name in _STAMPS if about.get(name)), None)
    return Place(url, about.get("size"), None if stamp is None else str(stamp))


def open_place(path: str, options: Mapping[str, object]) -> Source:
    """A Source for an image, which the caller closes: for a URL one that reads only what is needed, if the server can
    send parts of files. Raises OSError, also for whatever else the file system raises, and ImportError."""
    if not is_url(path):
        return open_source(path)
    with _as_os_errors(path):
        system, inner = _filesystem(path, options)
        file = system.open(inner, "rb", cache_type="none")
    try:
        source = RangeSource(_File(file, path))
        if "http" in system.protocol:
            # Some web servers answer every request with the whole file, which fsspec notices from the second byte on.
            file.seek(1)
            file.read(1)
            file.seek(0)
        return source
    except (OSError, ValueError):
        file.close()
    # A server that can't send parts: read from front to back.
    with _as_os_errors(path):
        return _StreamedSource(_File(system.open(inner, "rb", block_size=0), path))


class _StreamedSource(ObjectSource):
    """A file that can't seek. ``close()`` closes it."""

    def __init__(self, file: "_File") -> None:
        super().__init__(file)
        self._opened = file

    def close(self) -> None:
        self._opened.close()


class _as_os_errors:
    """Turns every exception of a file system but ImportError into an OSError that names the URL."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: Optional[BaseException], trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, ImportError):
            raise OSError(getattr(error, "errno", None) or errno.EIO, reason(error), self._url) from error


class _File:
    """A file of fsspec's that raises nothing but OSError."""

    def __init__(self, file: IO[bytes], url: str) -> None:
        self._file = file
        self._guard = _as_os_errors(url)

    def read(self, size: int) -> bytes:
        with self._guard:
            data: bytes = self._file.read(size)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> None:
        with self._guard:
            self._file.seek(offset, whence)

    def tell(self) -> int:
        with self._guard:
            return int(self._file.tell())

    def close(self) -> None:
        self._file.close()

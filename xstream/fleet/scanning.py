"""Scans of stores of images: what they have in common, wherever they run."""
import contextlib
import os
from functools import partial
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Union, overload

from xstream.errors import OWN_FAULT, CorruptStream
from xstream.fleet.cache import Cache
from xstream.fleet.image import ImageRecord, Settings, scan_image
from xstream.fleet.places import Place, find_places, is_url, open_place
from xstream.fleet.policy_file import MOST_BYTES, Against, is_policy_file, parse_policy
from xstream.fleet.workers import in_processes, on_cluster
from xstream.limits import Limits
from xstream.stream.threads import usable_cpus
from xstream.tools.policy import policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dask.bag import Bag
    from distributed import Client

#: One path or URL, or many.
Places = Union[str, "os.PathLike[str]", Iterable[Union[str, "os.PathLike[str]"]]]
_KILLED = "ended the process that read it, twice: a crash, too little memory, or a file that shrank while it was read"


@overload
def scan(places: Places, *, limits: Limits = ..., strict: bool = ..., checkpointed: bool = ...,
         jobs: Optional[int] = ..., digest: bool = ..., duplicates: bool = ..., against: Optional[Against] = ...,
         cache: Optional[str] = ..., storage_options: Optional[Mapping[str, object]] = ...,
         client: None = ...) -> Iterator[ImageRecord]: ...


@overload
def scan(places: Places, *, limits: Limits = ..., strict: bool = ..., checkpointed: bool = ...,
         jobs: Optional[int] = ..., digest: bool = ..., duplicates: bool = ..., against: Optional[Against] = ...,
         cache: Optional[str] = ..., storage_options: Optional[Mapping[str, object]] = ...,
         client: "Client") -> "Bag": ...


def scan(places: Places, *, limits: Limits = Limits(), strict: bool = False, checkpointed: bool = False,
         jobs: Optional[int] = None, digest: bool = False, duplicates: bool = False, against: Optional[Against] = None,
         cache: Optional[str] = None, storage_options: Optional[Mapping[str, object]] = None,
         client: "Optional[Client]" = None) -> "Union[Iterator[ImageRecord], Bag]":
    """Scan stores of images. Yields an :class:`ImageRecord` for each image, as it is done.

    - ``places``: paths of files and folders, patterns, and URLs that fsspec opens. Only URLs need fsspec;
    - ``limits``, ``strict``, ``checkpointed``, ``digest``, ``duplicates``, ``against``, ``storage_options``: see
      :class:`Settings`; ``against`` is what :func:`read_policy` returns;
    - ``jobs``: the number of processes; default: one for each CPU that this process may use;
    - ``cache``: path of a file that remembers images that haven't changed, and an interrupted scan;
    - ``client``: a client of a Dask cluster. Then the result is a Dask bag of records, one partition for each image,
      which is computed by Dask's own rules: it neither uses ``jobs`` nor ``cache``, and an image that ends a worker as
      often as Dask allows makes the computation fail. ``iterate`` accounts for that.

    What is wrong with an image is in its record: nothing that an image contains ends the scan. A program, unlike a
    notebook, must call this under ``if __name__ == "__main__"``, as for all of multiprocessing. Raises OSError if
    ``cache`` can't be used.
    """
    settings = Settings(limits, strict, checkpointed, digest, duplicates, against, storage_options)
    if client is not None:
        from dask.bag import from_sequence
        return from_sequence(find_all(places, storage_options), partition_size=1).map(scan_image, settings)
    return iterate(find_all(places, storage_options), settings, jobs=jobs, cache=cache)


def find_all(places: Places, storage_options: Optional[Mapping[str, object]] = None) -> List[Place]:
    """All images in these places, each once."""
    given = [places] if isinstance(places, (str, os.PathLike)) else places
    found: Dict[str, Place] = {}
    for path in given:
        for place in find_places(os.fspath(path), storage_options or {}):
            found.setdefault(place.path if is_url(place.path) else os.path.abspath(place.path), place)
    return list(found.values())


def iterate(places: List[Place], settings: Settings, *, jobs: Optional[int] = None, cache: Optional[str] = None,
            client: "Optional[Client]" = None) -> Iterator[ImageRecord]:
    """Yields the record of each place, as it is done: first those that ``cache`` has, then those that processes of this
    machine, or with ``client`` the workers of a Dask cluster, work out. Each image is accounted for once, with a record
    of status 3 if it ended its process twice."""
    with contextlib.ExitStack() as stack:
        known = None if cache is None else stack.enter_context(contextlib.closing(Cache(cache, settings)))
        new: List[Place] = []
        for place in places:
            record = None if known is None else known.find(place)
            if record is None:
                new.append(place)
            else:
                yield record
        work = partial(scan_image, settings=settings)
        done = in_processes(work, new, max(1, min(jobs or usable_cpus(), len(new)))) if client is None \
            else on_cluster(work, new, client)
        for place, found in done:
            record = found or ImageRecord.failed(place, OWN_FAULT, _KILLED)
            if known is not None:
                known.add(place, record)
            yield record


def read_policy(path: str, storage_options: Optional[Mapping[str, object]] = None) -> Against:
    """A host's CPU policies for ``against``: from what ``xen-cpuid -p`` prints there, from the JSON that
    ``xstream policy --json`` prints, or from an image that was saved there.

    Raises CorruptStream if there is no CPUID policy in it, other subclasses of StreamError, and OSError.
    """
    with open_place(path, storage_options or {}) as source:
        if is_policy_file(source):
            return parse_policy(bytes(source.peek(MOST_BYTES + 1)))
        found = policy(source)
    if not found.leaves:
        raise CorruptStream("no CPUID policy in the image", layer="libxc", expected="a stream of version 3",
                            got="version {}".format(found.version))
    return found._replace(error=None)

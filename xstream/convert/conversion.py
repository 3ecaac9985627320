"""Conversion: legacy streams to the current format, guests from one container to another, parts of a container."""
import contextlib
import os
import stat
from typing import Callable, ContextManager, Dict, Iterator, NamedTuple, Optional, Tuple, Union

from xstream.containers.opening import AnyReader, reading
from xstream.containers.reader import NestedReader
from xstream.convert.containers import TARGETS, Origin, Parts, Target
from xstream.convert.legacy import Again, Items, LegacyConversion, domain_header, legacy_reader
from xstream.convert.parts import CONFIG, DEVICE_MODEL, find_config, find_device_model
from xstream.convert.squash import Squash
from xstream.errors import StreamError, TruncatedStream
from xstream.kernels import transfer
from xstream.limits import Limits
from xstream.stream.legacy_reader import LegacyReader
from xstream.stream.output import written_in_place
from xstream.stream.reader import PageRun
from xstream.stream.sink import Sink, check_not_same_file, compressed, compression_of, opened_sink
from xstream.stream.source import DescriptorSource
from xstream.tools.record_checks import RecordChecks
from xstream.wire import legacy, libxc, libxl, xenopsd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.stream.types import SinkLike, StreamLike
    from xstream.wire.formats import AnyRecord

Progress = Callable[[int], object]


class Converted(NamedTuple):
    """What a conversion did.

    - ``source``: the formats read, outermost first; ``target``: what was written;
    - ``guest``: the kind of guest, as in ``info``; None if only a part of the container was read;
    - ``pages``: guest pages written, including those sent again and those sent for comparison;
    - ``checkpoints``: complete checkpoints read;
    - ``bytes_read``: the offset reached in the (decompressed) source; ``bytes_written``;
    - ``dropped``: layer and name of the records that have no equivalent in the target, each once;
    - ``unread``: what follows in the source and could not be read, in words: a vGPU's own stream in a suspend image.
    """

    source: Tuple[str, ...]
    target: str
    guest: Optional[str]
    pages: int
    checkpoints: int
    bytes_read: int
    bytes_written: int
    dropped: Tuple[str, ...]
    unread: Optional[str]


class Request(NamedTuple):
    """The arguments of ``convert``, as every writer in the table below gets them."""

    source: "StreamLike"
    sink: "SinkLike"
    to: Optional[str]
    parts: Parts
    squash: bool
    last_checkpoint: bool
    checkpointed: bool
    format: Optional[str]
    width: Optional[int]
    guest: Optional[str]
    limits: Limits
    strict: bool
    progress: Progress
    jobs: int
    sparse: bool
    compress: Optional[str]

    def open(self, source: "StreamLike") -> ContextManager[AnyReader]:
        """A reader for ``source``, which is this request's or replaces it."""
        return reading(source, format=self.format, limits=self.limits, strict=self.strict, width=self.width,
                       guest=self.guest, checkpointed=self.checkpointed or self.squash or self.last_checkpoint,
                       jobs=self.jobs)


def convert(source: "StreamLike", sink: "SinkLike", *, to: Optional[str] = None, config: Optional[bytes] = None,
            device_model: Optional[bytes] = None, no_device_model: bool = False, squash: bool = False,
            last_checkpoint: bool = False, checkpointed: bool = False, format: Optional[str] = None,
            width: Optional[int] = None, guest: Optional[str] = None, limits: Limits = Limits(), strict: bool = False,
            progress: Progress = lambda offset: None, jobs: int = 1, sparse: bool = True,
            compress: Optional[str] = None) -> Converted:
    """Write what ``source`` contains to ``sink`` in the format ``to``.

    ``to`` is one of:

    - None: the container that the source has, in its current form: a legacy stream in it becomes a current one, a
      header that announces another stream than the one that follows is corrected. A source that is in the current
      format already is checked and copied, to the same bytes. A bare legacy stream, and one of xend, which has no
      current container, becomes "libxc";
    - "libxc": the memory stream alone;
    - "libxl", "xl", "libvirt", "xenopsd": the memory stream in that container;
    - "config": the domain's configuration alone, "device-model": QEMU's record alone, as ``config`` and
      ``device_model`` take them.

    ``source`` is anything that :func:`xstream.open` takes, or a reader. ``sink`` is a path (the file appears when it is
    complete, mode 0600, and replaces what was there; a pipe or device is written in place) or anything else that
    :func:`~xstream.stream.sink.opened_sink` takes.

    - ``config``: for "xl" the domain's configuration as JSON or as the text of a config file, for "libvirt" its XML,
      for "xenopsd" the Xenops record. It replaces the source's;
    - ``device_model``: QEMU's record, replaces the source's; ``no_device_model``: an HVM guest has none, as it is PVH;
    - ``squash``: write each PFN once, with its final contents, as a plain stream, from a temporary file;
    - ``last_checkpoint``: of a stream with checkpoints (Remus, COLO) write the last complete one as a plain stream;
    - ``checkpointed``: the source has checkpoints, and they are to be kept. A legacy stream says itself whether it has
      any, but only after the first: read from a pipe, page deltas against the first checkpoint need this option, or
      ``last_checkpoint`` or ``squash``, so that a copy of the memory is kept in a temporary file;
    - ``format``, ``width``, ``guest``, ``limits``, ``strict``: as :func:`xstream.open` has them;
    - ``progress``: called with the source's offset, once per batch;
    - ``jobs``: threads that copy pages with ``squash``, and that compress and decompress. The output is the same with
      any number;
    - ``sparse``: a regular file gets holes instead of blocks of zeros; its bytes are the same;
    - ``compress``: "zstd" or "zstd:LEVEL": write a compressed image (:mod:`xstream.stream.zstd`), which ``zstd -d``
      turns into the stream. None stands for "zstd" if ``sink`` is a path that ends in ".zst". Page data of a compressed
      source is copied as it is, without being decompressed or checked, unless a level is named or ``strict`` is set.

    Page data moves from descriptor to descriptor inside the kernel where possible. Memory use is bounded whatever the
    size of the guest.

    Raises MissingPart, naming it, for a part that the container needs but neither the source nor the caller has;
    UnsupportedStream for checkpoints that the container can't hold, and for a record that can't be read but would have
    to be copied; another StreamError for what is wrong with the
    source, IncompleteStream if it isn't whole; shutil.SameFileError if source and sink are the same file; other
    OSErrors; ValueError for an unknown ``to``. After an error, a file is not left at a sink's path, and a stream
    written to a descriptor has no END.
    """
    if to is not None and to not in WRITERS:
        raise ValueError("unknown target {!r}; known are {}".format(to, ", ".join(WRITERS)))
    check_not_same_file(source, sink)
    request = Request(source, sink, to, Parts(config, device_model, no_device_model), squash, last_checkpoint,
                      checkpointed, format, width, guest, limits, strict, progress, jobs, sparse,
                      compression_of(sink, compress))
    return write_container(request) if to is None else WRITERS[to](request)


def write_container(request: Request) -> Converted:
    """Write a memory stream, alone or in a container."""
    with _opened(request) as (reader, again):
        formats = tuple(layer.format for layer in reader.layers)
        to = request.to or (formats[0] if formats[0] in TARGETS else libxc.LAYER)
        from_legacy = legacy.LAYER in formats
        squash = request.squash or (request.last_checkpoint and not from_legacy)
        origin = _origin(reader, formats, plain=squash or request.last_checkpoint)
        items: Items
        if squash:
            items = _squashed(reader, formats, request.progress, request.jobs)
        elif from_legacy:
            items = LegacyConversion(reader, again, last_checkpoint=request.last_checkpoint,
                                     keep=request.checkpointed).items()
        else:
            items = _copied(reader, runs=request.compress is None)
        with _sink(request) as sink:
            target = TARGETS[to](sink, request.parts, origin)
            _transfer(items, target, request.progress)
            target.finish()
            return Converted(formats, to, reader.identity.guest, target.pages, reader.checkpoints,
                             reader.source.offset, sink.offset, tuple(target.dropped), reader.unread)


def _origin(reader: AnyReader, formats: Tuple[str, ...], *, plain: bool) -> Origin:
    """What targets need to know of the stream to write; ``plain``: it has no checkpoints."""
    if isinstance(reader.memory, LegacyReader):
        domain, image, checkpointed = domain_header(legacy_reader(reader).head), libxc.ImageHeader(), True
    else:
        domain, image, checkpointed = reader.memory.domain, reader.memory.image, reader.checkpointed
    return Origin(reader, formats, domain, image, checkpointed and not plain)


def write_part(request: Request) -> Converted:
    """Write one part of a container."""
    assert request.to is not None
    with request._replace(checkpointed=True).open(request.source) as reader:
        part = _PARTS[request.to](reader, request.progress)
        with _sink(request) as sink:
            sink.write([part])
        return Converted(tuple(layer.format for layer in reader.layers), request.to, None, 0, reader.checkpoints,
                         reader.source.offset, len(part), (), reader.unread)


#: Records that end a stream which is complete.
_ENDS = (libxc.End, libxl.End, xenopsd.EndOfImage)
_PARTS: Dict[str, Callable[[AnyReader, Progress], bytes]] = {CONFIG: find_config, DEVICE_MODEL: find_device_model}
#: What ``convert`` can write, by name.
WRITERS: Dict[str, Callable[[Request], Converted]] = {
    **dict.fromkeys(TARGETS, write_container), **dict.fromkeys(_PARTS, write_part),
}


def _transfer(items: Items, target: Target, progress: Progress) -> None:
    """Give a target all items."""
    reader = target.origin.reader
    checks = RecordChecks(reader)
    # What the caller says of the device model's record replaces what the source has or lacks.
    supplied = target.parts.device_model is not None or target.parts.no_device_model
    whole = reader.memory if supplied else reader
    try:
        with contextlib.closing(items):
            for layer, record in items:
                if layer == libxc.LAYER:
                    _check(checks, record, copied=layer == reader.layer and not reader.memory.ended)
                if isinstance(record, _ENDS):
                    # A copy of an incomplete or bad stream must not look complete, so this comes before its END.
                    if layer == libxc.LAYER:
                        reader.memory.check_whole()
                    elif layer == target.origin.formats[0] or xenopsd.LAYER not in target.origin.formats:
                        whole.check_whole()  # xenopsd's record of QEMU may follow a libxl stream
                    checks.finish()
                target.take(layer, record)
                progress(reader.source.offset)
    except TruncatedStream:
        # Whatever follows the last complete checkpoint is void, truncated pages included.
        if not reader.checkpoints:
            raise
    except StreamError as error:
        if error.layer is None:
            error.located(layer=reader.layer, record=reader.index, base=reader.offset)
        raise
    whole.check_whole()
    checks.finish()


def _check(checks: RecordChecks, record: "AnyRecord", *, copied: bool) -> None:
    """Check a record of the libxc stream to write, as verify would. ``copied``: the source's last one."""
    if isinstance(record, (libxc.PageData, PageRun)):
        checks.batches(record.words)
        return
    try:
        checks.record(record)
    except StreamError as error:
        raise checks.located(error, record) if copied else error


def _copied(reader: AnyReader, *, runs: bool) -> Items:
    """The records of a reader; with ``runs`` in runs where it has them. In a run, pages aren't apart from the rest."""
    while True:
        record = (runs and reader.next_run()) or reader.next_record()
        if record is None:
            return
        yield reader.layer, record


def _squashed(reader: AnyReader, formats: Tuple[str, ...], progress: Progress, jobs: int) -> Items:
    with contextlib.closing(Squash(reader)) as squash:
        squash.load(progress, jobs)
        yield from squash.items(formats)


@contextlib.contextmanager
def _opened(request: Request) -> Iterator[Tuple[AnyReader, Optional[Again]]]:
    """The reader of the source, read up to where memory begins; and for a legacy stream what opens it once more from
    its beginning, if that is possible.

    A regular file with a legacy stream is read by descriptor, so that pages move inside the kernel. Other files are
    mapped, which finds many small batches at once.
    """
    source = request.source
    if isinstance(source, int):
        transfer.widen_pipe(source)
    with request.open(source) as reader:
        if isinstance(reader, NestedReader):
            reader.look_ahead()
        legacy_inside = any(layer.format == legacy.LAYER for layer in reader.layers)
        mapped = _is_better_mapped(request)
        if not legacy_inside or not _is_file(source) or mapped:
            yield reader, (lambda: request.open(source)) if mapped or _is_buffer(source) else None
            return
    with _descriptor(source) as fd:  # type: ignore[arg-type]  # _is_file() says so
        begin = os.lseek(fd, 0, os.SEEK_CUR)
        with request.open(DescriptorSource(fd)) as reader:
            if isinstance(reader, NestedReader):
                reader.look_ahead()
            yield reader, lambda: _opened_again(request, fd, begin)


@contextlib.contextmanager
def _opened_again(request: Request, fd: int, begin: int) -> Iterator[AnyReader]:
    """A reader of the file from ``begin`` on; afterwards the file's position is restored."""
    here = os.lseek(fd, 0, os.SEEK_CUR)
    os.lseek(fd, begin, os.SEEK_SET)
    try:
        with request.open(DescriptorSource(fd)) as reader:
            yield reader
    finally:
        os.lseek(fd, here, os.SEEK_SET)


def _is_better_mapped(request: Request) -> bool:
    """Whether page data goes from a file to one with holes, so that it has to be looked at for zeros."""
    return (isinstance(request.source, (str, os.PathLike)) and isinstance(request.sink, (str, os.PathLike))
            and request.sparse and not written_in_place(os.fspath(request.sink)))


def _is_file(source: object) -> bool:
    """Whether a source is a regular file, by path or descriptor."""
    return isinstance(source, (str, int, os.PathLike)) and stat.S_ISREG(os.stat(source).st_mode)


def _is_buffer(source: object) -> bool:
    """Whether a source is a buffer."""
    try:
        memoryview(source)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


@contextlib.contextmanager
def _descriptor(source: "Union[int, str, os.PathLike[str]]") -> Iterator[int]:
    """A descriptor of a path, closed afterwards; or the descriptor that was given."""
    if isinstance(source, int):
        yield source
        return
    fd = os.open(os.fspath(source), os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _sink(request: Request) -> Iterator[Sink]:
    if isinstance(request.sink, int):
        transfer.widen_pipe(request.sink)
    with opened_sink(request.sink, sparse=request.sparse) as opened, \
            compressed(opened, request.compress, request.jobs) as sink:
        yield sink

"""What a scan finds out about one image."""
from contextlib import suppress
from functools import partial
from typing import Dict, Mapping, NamedTuple, Optional, Union

from xstream.containers.opening import AnyReader, open_stream
from xstream.errors import BAD_STREAM, BAD_USE, GOOD, LIMIT_REACHED, OWN_FAULT, LimitExceeded, StreamError
from xstream.fleet.duplicates import PageSample, Sampler
from xstream.fleet.places import Place, open_place, reason
from xstream.fleet.policy_file import Against, HostPolicies
from xstream.limits import Limits
from xstream.stream.reader import PageRun
from xstream.tools.digest import digest
from xstream.tools.info import Survey, next_run
from xstream.tools.names import DomainName, domain_name
from xstream.tools.policy import Policy, compare_policies, with_record
from xstream.tools.verify import Verifier
from xstream.version import __version__
from xstream.wire import colo, legacy, libxc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xstream.errors import JsonValue
    from xstream.wire.formats import AnyRecord
    from xstream.wire.frames import Buffer

#: Layers that say what wrote the stream and for which kind of guest.
_IDENTIFYING = {libxc.LAYER, legacy.LAYER, colo.LAYER}


class Settings(NamedTuple):
    """How images are scanned.

    - ``limits``, ``strict``, ``checkpointed``: as in :func:`xstream.verify`;
    - ``digest``: also compute checksums of the final memory; it is loaded, so that takes as much memory as the guest;
    - ``duplicates``: also read all page data, to find zero pages and equal pages;
    - ``against``: a host's or another guest's CPU policies, which each guest has to run with, as
      :func:`xstream.fleet.read_policy` returns them; or None;
    - ``storage_options``: what fsspec's file system takes besides a URL, such as credentials; or None.
    """

    limits: Limits = Limits()
    strict: bool = False
    checkpointed: bool = False
    digest: bool = False
    duplicates: bool = False
    against: Optional[Against] = None
    storage_options: Optional[Mapping[str, object]] = None


class ImageRecord(NamedTuple):
    """One image. Fields are None if they aren't known: because the image has nothing of the kind, couldn't be read that
    far, or wasn't scanned for it. Text comes from the image, and may contain control characters.

    - ``path``: its path or URL;
    - ``state``: "ok", or the first error with its place;
    - ``status``: the exit status that this is worth: 0 good; 1 the stream is bad, or the guest can't run with the
      policy; 2 the image can't be read, or nothing is known about the policy; 3 a bug in xstream, or the image ended
      the process that read it; 4 one of xstream's limits was reached;
    - ``format``, ``version``, ``guest``, ``xen``: of the outermost layer, and of the memory stream: what wrote it;
    - ``name``, ``uuid``: the domain's, as the configuration in the container says;
    - ``bytes``: the image's size, compressed if it is;
    - ``memory``, ``populated``: populated memory in bytes and in pages; of an image that is cut, up to there;
    - ``sent``, ``zero``: pages in the stream, and those of them that are all zeros, if page data was read;
    - ``unread``: what follows the memory and couldn't be read;
    - ``compatible``, ``incompatibility``: whether the guest can run with the policy, and why not;
    - ``crc32c``, ``sha256``: checksums of the final memory's image as in ``xstream digest``, in hexadecimal;
    - ``error``, ``layer``, ``offset``, ``record``, ``record_type``, ``field``: the error's class and its place;
    - ``sample``: hashes of some of its pages, for :class:`xstream.fleet.Duplicates`.
    """

    path: str
    state: str = "ok"
    status: int = GOOD
    format: Optional[str] = None
    version: Optional[int] = None
    guest: Optional[str] = None
    xen: Optional[str] = None
    name: Optional[str] = None
    uuid: Optional[str] = None
    bytes: Optional[int] = None
    memory: Optional[int] = None
    populated: Optional[int] = None
    sent: Optional[int] = None
    zero: Optional[int] = None
    unread: Optional[str] = None
    compatible: Optional[bool] = None
    incompatibility: Optional[str] = None
    crc32c: Optional[str] = None
    sha256: Optional[str] = None
    error: Optional[str] = None
    layer: Optional[str] = None
    offset: Optional[int] = None
    record: Optional[int] = None
    record_type: Optional[str] = None
    field: Optional[str] = None
    sample: Optional[PageSample] = None

    @classmethod
    def failed(cls, place: Place, status: int, state: str, error: Optional[str] = None) -> "ImageRecord":
        """The record of an image of which nothing else is known."""
        return cls(path=place.path, state=state, status=status, error=error, bytes=place.bytes)

    def as_dict(self) -> "Dict[str, JsonValue]":
        """The fields by name, without the sample; values as JSON, CSV and Parquet represent them."""
        fields = dict(self._asdict())
        del fields["sample"]
        return fields


def scan_image(place: Place, settings: Settings = Settings()) -> ImageRecord:
    """Verify one image and describe it. Without ``duplicates`` and ``digest``, page data isn't read.

    Raises nothing: whatever is wrong is in the record. The arguments and the result can be pickled.
    """
    if place.error is not None:
        return ImageRecord.failed(place, BAD_USE, place.error, "OSError")
    scan = _Scan(place, settings)
    try:
        scan.run()
    except Exception as error:
        return _with_error(scan.record(), error)
    return scan.record()


class _ImageSurvey(Survey):
    """A survey that reads page data only if its pages are sampled."""

    def __init__(self, limits: Limits, sampler: Optional[Sampler]) -> None:
        super().__init__(limits)
        self.reads_pages = sampler is not None
        self._sampler = sampler

    def scan(self, data: "Buffer") -> None:
        super().scan(data)
        if self._sampler is not None:
            self._sampler.add(data)


class _Scan:
    """One pass over an image, and a second one if its memory is to be digested."""

    def __init__(self, place: Place, settings: Settings) -> None:
        self._place = place
        self._settings = settings
        self._sampler = Sampler() if settings.duplicates else None
        self._survey = _ImageSurvey(settings.limits, self._sampler)
        self._record = ImageRecord(path=place.path, bytes=place.bytes)
        self._name = DomainName()
        self._policy = Policy((), ())

    def run(self) -> None:
        """Raises what is wrong."""
        settings = self._settings
        storage = settings.storage_options or {}
        with open_place(self._place.path, storage) as source, open_stream(
                source, limits=settings.limits, strict=settings.strict, checkpointed=settings.checkpointed) as reader:
            self._verify(reader)
        if settings.digest and self._record.version:
            with open_place(self._place.path, storage) as source:
                found = digest(source, limits=settings.limits, strict=settings.strict,
                               checkpointed=settings.checkpointed)
            self._record = self._record._replace(crc32c="{:08x}".format(found.crc32c), sha256=found.sha256)

    def _verify(self, reader: AnyReader) -> None:
        verifier = Verifier(reader, partial(self._observe, reader), partial(next_run, reader, self._survey))
        try:
            while verifier.step():
                pass
            verifier.finish()
        finally:
            self._identify(reader)
        self._record = self._record._replace(unread=reader.unread)

    def _identify(self, reader: AnyReader) -> None:
        """Enter what the layers that have been read say of themselves."""
        with suppress(StreamError):  # in the headers of the memory stream
            layers = [layer.format for layer in reader.layers]
            self._record = self._record._replace(format=layers[0])
            if set(layers) & _IDENTIFYING:
                format, version, guest, made_by = reader.identity
                self._record = self._record._replace(format=format, version=version, guest=guest or None,
                                                     xen=made_by or None)

    def _observe(self, reader: AnyReader, item: "Union[AnyRecord, PageRun]") -> None:
        if isinstance(item, PageRun):
            self._survey.run(reader, item)
            return
        self._survey.record(reader, item)
        self._name = DomainName(*(new or old for new, old in zip(domain_name(item), self._name)))
        if self._settings.against is not None:
            self._policy = with_record(self._policy, item, reader)

    def record(self) -> ImageRecord:
        """What is known so far."""
        record, survey = self._record._replace(**self._name._asdict()), self._survey
        if record.version:
            populated = survey.pfns.memory.populated_count
            record = record._replace(memory=populated * libxc.PAGE_SIZE, populated=populated, sent=survey.sent)
            record = self._compared(record)
        survey.pfns.close()
        if self._sampler is not None and record.version:
            record = record._replace(zero=survey.zero, sample=self._sampler.sample())
        return record

    def _compared(self, record: ImageRecord) -> ImageRecord:
        if self._settings.against is None:
            return record
        against = self._settings.against
        if isinstance(against, HostPolicies):
            kind = self._record.guest or ""
            chosen = against.pv if kind == libxc.GUEST_NAMES[libxc.GUEST_PV] else against.hvm
            if chosen is None:
                return record._replace(status=BAD_STREAM, compatible=False,
                                       incompatibility="the host runs no {} guests".format(kind))
            against = chosen
        report = compare_policies(self._policy, against)
        if report.compatible:
            return record._replace(compatible=True)
        if report.compatible is None:
            return record._replace(status=BAD_USE, incompatibility="the image has no CPUID policy")
        lost = ["lacks " + " ".join(report.lost)] if report.lost else []
        return record._replace(status=BAD_STREAM, compatible=False,
                               incompatibility="; ".join(list(report.reasons) + lost))


def _with_error(record: ImageRecord, error: Exception) -> ImageRecord:
    if isinstance(error, StreamError):
        status = LIMIT_REACHED if isinstance(error, LimitExceeded) else BAD_STREAM
        return record._replace(
            state=str(error), status=status, error=type(error).__name__, layer=error.layer, offset=error.offset,
            record=error.record, record_type=error.record_type, field=error.field)
    if isinstance(error, (OSError, ImportError, MemoryError)):
        return record._replace(state=reason(error), status=BAD_USE, error=type(error).__name__)
    return record._replace(state="this is a bug in xstream {}: {!r}".format(__version__, error), status=OWN_FAULT,
                           error=type(error).__name__)

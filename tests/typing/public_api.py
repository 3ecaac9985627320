"""A program that uses every public name as its users would. mypy checks it strictly; it has no cast and no Any.

tests/test_typing.py runs it too.
"""
import os
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Tuple, Type, Union

import xstream
from xstream import fleet

ERRORS: List[Type[Exception]] = [
    xstream.CorruptStream, xstream.IncompleteStream, xstream.LimitExceeded, xstream.MemoryMismatch, xstream.OrderError,
    xstream.StreamError, xstream.StrictViolation, xstream.TruncatedStream, xstream.UnsupportedStream,
    xstream.MissingPart, xstream.NeedMoreData, xstream.Cancelled, xstream.GuestError, xstream.HookError,
]


def describe(error: xstream.StreamError) -> str:
    layer: Optional[str] = error.layer
    offset: Optional[int] = error.offset
    record: Optional[int] = error.record
    if isinstance(error, xstream.TruncatedStream):
        return "{} bytes missing".format(error.missing)
    return "{} at {} in record {}: {}".format(layer, offset, record, error.message)


def make(path: Path, kind: str = "hvm") -> xstream.Saved:
    guest: xstream.Guest = xstream.SimulatedGuest(kind, 600, 1)
    rounds: List[int] = []

    def on_round(last: xstream.Round) -> None:
        rounds.append(last.pages)

    def decide(last: xstream.Round) -> xstream.Decision:
        return xstream.Decision.STOP if last.number else xstream.Decision.CONTINUE

    policies: Tuple[Callable[[xstream.Round], xstream.Decision], ...] = (
        xstream.xen_policy(), xstream.downtime_policy(100.0), decide)
    for policy in policies:
        saved = xstream.save(guest, path, live=True, policy=policy, on_round=on_round, limits=xstream.Limits())
        guest = xstream.SimulatedGuest(kind, 600, 1)
    return saved


def reread(stream: xstream.StreamLike) -> int:
    return xstream.verify(stream).records


def check(path: Union[str, Path]) -> Dict[str, int]:
    verified: xstream.VerifyReport = xstream.verify(path, strict=False, limits=xstream.Limits(guest_pfns=1 << 20))
    surveyed: xstream.InfoReport = xstream.info(path)
    rows: List[xstream.RecordRow] = list(surveyed.records)
    summed: xstream.DigestReport = xstream.digest(path, jobs=2)
    pages: List[Tuple[int, int]] = list(xstream.page_digests(path))
    records: Iterator[xstream.RecordContents] = xstream.contents(path)
    shown: List[str] = [row.type for row in records]
    extracted: xstream.ExtractReport = xstream.extract(path, os.devnull, salvage=True)
    for first, count in extracted.missing:
        print(first + count)
    return {"records": verified.records, "populated": surveyed.populated, "sent": surveyed.sent,
            "crc": summed.crc32c, "pages": len(pages),
            "shown": len(shown), "rows": len(rows), "bytes": extracted.bytes}


def compare(path: Path) -> Optional[bool]:
    policy: xstream.Policy = xstream.policy(path)
    report: xstream.PolicyReport = xstream.compare_policies(policy, policy)
    lost: Tuple[str, ...] = report.lost
    return report.compatible if not lost else False


def memory_of(path: Path) -> Tuple[int, int]:
    memory = xstream.GuestMemory(limit=1 << 20)
    loaded: xstream.Loaded = xstream.load(path, memory)
    return len(memory), loaded.data


def analyse(path: Path, out: Path) -> int:
    exported: xstream.Exported = xstream.export(path, out, to="lime")
    with xstream.MemoryView(path) as view:
        return exported.populated + len(view.read(0, 4096))


def changes(first: Path, second: Path) -> List[str]:
    compared: xstream.DiffReport = xstream.diff(first, second)
    changed: Tuple[xstream.Changed, ...] = compared.state
    return [str(change) for change in changed]


def store(folder: Path) -> Dict[str, bool]:
    duplicates = fleet.Duplicates()
    good: Dict[str, bool] = {}
    for record in fleet.scan([folder], duplicates=True, jobs=1, against=fleet.read_policy(str(folder / "guest.xs"))):
        if record.sample is not None:
            duplicates.add(record.sample)
        good[record.path] = record.state == "ok" and record.compatible is not False
    return good if duplicates.report().distinct else {}


def draw(path: Path, other: Path, out: Path) -> int:
    drawn: xstream.Drawn = xstream.draw_memory(path, out, to="html", against=other, jobs=2)
    return drawn.contents["zero"] + drawn.resent


def move(path: Path, out: Path) -> str:
    converted: xstream.Converted = xstream.convert(path, out, to="libxl", no_device_model=True)
    return converted.target


def run_on(path: Path, kind: str = "hvm") -> int:
    guest = xstream.SimulatedGuest.empty(kind)
    restored: xstream.Restored = xstream.restore(path, guest)
    around: Tuple[xstream.LayerRecord, ...] = tuple(restored.records)
    return restored.pages + len(around)


def records(path: Path) -> Iterator[str]:
    with xstream.open(path) as reader:
        if isinstance(reader, (xstream.Reader, xstream.LegacyReader, xstream.NestedReader)):
            yield reader.identity.guest
        for record in reader:
            if isinstance(record, xstream.PageData):
                yield "{} PFNs".format(record.pfn_count)
            elif isinstance(record, xstream.CpuidPolicy):
                yield "{} bytes of leaves".format(len(record.leaves))
            elif isinstance(record, (xstream.VcpuBasic, xstream.VcpuExtended, xstream.VcpuMsrs, xstream.VcpuXsave)):
                yield "vcpu {}".format(record.vcpu_id)
            elif isinstance(record, xstream.TscInfo):
                yield "{} kHz".format(record.khz)
            elif isinstance(record, xstream.PVInfo):
                yield "{} bits".format(record.guest_width * 8)
            elif isinstance(record, xstream.Unknown):
                yield hex(record.type)
            else:
                yield type(record).__name__


#: Records that have no branch above.
OTHERS: Tuple[type, ...] = (
    xstream.Checkpoint, xstream.CheckpointDirtyPfnList, xstream.End, xstream.HvmContext, xstream.HvmParams,
    xstream.MsrPolicy, xstream.P2MFrames, xstream.SharedInfo, xstream.StaticDataEnd, xstream.Verify,
)


def copy(source: xstream.SourceLike, sink: xstream.SinkLike) -> Tuple[int, str]:
    """The pages of a stream, and its format, by whatever reader it needs."""
    pages = 0
    reader: xstream.AnyReader = xstream.open(source)
    with reader:
        identity: xstream.Identity = reader.identity
        while True:
            run: Optional[xstream.PageRun] = reader.next_run()
            if run is not None:
                pages += run.pages
                continue
            record = reader.next_record()
            if record is None:
                break
            if isinstance(record, xstream.PageData) and isinstance(record.data, xstream.PendingPages):
                pages += len(record.data.read()) // 4096
        layers: Tuple[xstream.Layer, ...] = reader.layers
    xstream.convert(source, sink, to="libxc")
    return pages, "{} in {}".format(identity.format, layers[0].format)


def push(data: bytes) -> int:
    pushed = xstream.PushReader(limits=xstream.Limits())
    count = 0
    for start in range(0, len(data), 1000):
        pushed.feed(data[start:start + 1000])
        count += sum(1 for _ in pushed.records())
    pushed.finish()
    return count + sum(1 for _ in pushed.records())


def rewrite(path: Path, out: Path) -> None:
    with xstream.open(path) as reader, open(str(out), "wb") as file:
        assert isinstance(reader, xstream.Reader)
        domain: xstream.DomainHeader = reader.domain
        image: xstream.ImageHeader = reader.image
        writer = xstream.Writer(file, domain, image)
        for record in reader:
            writer.write(record)


#: Writers of other formats, and what authors of a Guest return from its hooks.
MORE: Tuple[type, ...] = (
    xstream.BackChannelWriter, xstream.LegacyWriter, xstream.LibvirtWriter, xstream.LibxlWriter, xstream.XenopsdWriter,
    xstream.XlWriter, xstream.Completed, xstream.Pages,
)


def main(folder: Path) -> Dict[str, int]:
    path = folder / "guest.xs"
    make(path)
    found = check(path)
    assert compare(path) is not False and run_on(path) > 0 and len(list(records(path))) > 3
    assert memory_of(path)[0] > 0 and push(path.read_bytes()) > 3 and move(path, folder / "guest.libxl") == "libxl"
    rewrite(path, folder / "again.xs")
    assert store(folder)[str(path)]
    assert reread(path) == reread(xstream.open(path)) == found["records"]
    assert copy(path, folder / "copy.xs") == (found["sent"], "libxc in libxc")
    assert changes(path, path) == []
    assert analyse(path, folder / "guest.lime") > 4096
    try:
        xstream.verify(path.read_bytes()[:-1])
    except xstream.StreamError as error:
        print(describe(error), xstream.__version__)
    return found

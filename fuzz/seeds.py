"""Where fuzzing begins: small streams of the tests, genuine ones cut to a few pages, and every finding ever made."""
import io
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import mutator

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import containers  # noqa: E402
import genuine_streams  # noqa: E402
import legacy_from_current  # noqa: E402
import legacy_samples  # noqa: E402
import samples  # noqa: E402

import xstream  # noqa: E402
from xstream.stream import signs  # noqa: E402
from xstream.wire import hvm_context, hvm_params, legacy, libxc, msrs, xenopsd  # noqa: E402

#: The streams of which pieces get into the fixed mutants of others.
DONORS = ("hvm3", "pv3", "legacy hvm64", "legacy pv32 by 64", "libxl", "xl", "libvirt", "xenopsd", "checkpoints",
          "colo")
#: Pages that a genuine stream keeps, and the size beyond which what is left isn't used.
_PAGES, _LARGEST = 5, mutator.LONGEST


def findings() -> Dict[str, bytes]:
    """Every finding ever made."""
    return {path.name: path.read_bytes() for path in sorted((HERE / "findings").iterdir()) if path.suffix != ".md"}


def streams() -> Dict[str, bytes]:
    """All seeds that are streams, by name."""
    found = dict(_samples())
    found.update((name, cut(data)) for name, data in _genuine())
    found.update(findings())
    return {name: data for name, data in found.items() if len(data) <= _LARGEST}


def bodies(whole: Dict[str, bytes]) -> Dict[str, bytes]:
    """The bodies of the records of streams, each once."""
    found = {piece.body: name for name, data in whole.items() for piece in mutator.split(data)
             if 0 < len(piece.body) < 5000}
    return {"{}-{}".format(name, number): body for number, (body, name) in enumerate(found.items())}


def _samples() -> Iterator[Tuple[str, bytes]]:
    yield from samples.SMALL
    yield from (("legacy " + name, data) for name, data in legacy_samples.SMALL)
    yield from ((name, data) for name, data, _ in containers.READ)
    yield "checkpoints", samples.checkpointed()
    yield "libxl checkpoints", containers.libxl_checkpointed()
    yield "libxl colo", containers.libxl_checkpointed(colo=True)
    yield "legacy remus", legacy_samples.remus()
    yield "legacy compressed", _compressed()
    yield "legacy tmem", legacy_samples.hvm(chunks=legacy_samples.tmem([(0, 1, legacy_samples.tmem_page(0))]))
    for kind, width in (("hvm", 8), ("pv", 8), ("pv", 4)):
        name = "{} of {} bytes".format(kind, width)
        plain = saved(kind, width)
        yield name, plain
        yield name + " with checkpoints", saved(kind, width, live=True, checkpoint=lambda number: number < 2)
        yield name + " verified", saved(kind, width, live=True, verify=True)
        yield name + " legacy", legacy_from_current.legacy_from_current(plain)


def _compressed() -> bytes:
    words = [legacy_samples.word(0), legacy_samples.word(1)]
    pages = legacy_samples.whole(samples.page(3)) + b"\0"
    round_ = legacy_samples.batch(8, words) + legacy_samples.compressed(8, pages)
    return legacy_samples.remus(rounds=[round_, round_], compress=True)


def saved(kind: str, width: int, **options: Any) -> bytes:
    """The stream of a small simulated guest."""
    out = io.BytesIO()
    guest = xstream.SimulatedGuest(kind, 12 if kind == "hvm" else 24, seed=width, width=width, vcpus=1)
    xstream.save(guest, out, **options)
    return out.getvalue()


def _genuine() -> Iterator[Tuple[str, bytes]]:
    """The genuine streams that are here, and those tried before."""
    with tempfile.TemporaryDirectory(prefix="xstream-seeds-") as into:
        for group in ("v3", "xl", "legacy"):
            for name in genuine_streams.names(group) if genuine_streams.folder() else ():
                yield name, genuine_streams.unpack(group, name, Path(into)).path.read_bytes()
        for group in ("few", "tried"):
            for name in genuine_streams.images(group):
                yield name, genuine_streams.unpack(group, name, Path(into)).path.read_bytes()


def cut(data: bytes) -> bytes:
    """A stream with its first pages, what is around them, and the rest of it: not what it was, but of the same make."""
    if len(data) < _LARGEST // 4:
        return data
    left = _PAGES
    kept: List[mutator.Piece] = []
    for piece in mutator.split(data):
        if piece.kind == "batch":
            if not left:
                continue
            shift = 28 if piece.width else 60
            piece.words = piece.words[:left]
            piece.pages = piece.pages[:sum(mutator.carries(word, shift) for word in piece.words)]
            left -= len(piece.words)
        kept.append(piece)
    return b"".join(map(bytes, kept))


def dictionary() -> List[bytes]:
    """Words that mean something in the formats, from the package's own tables."""
    words = [sign.magic for sign in signs.OURS + signs.COMPRESSED + signs.OTHERS if sign.magic]
    words += [kind.to_bytes(4, "little") for kind in [*libxc.RECORDS, *range(7), 0x80000000]]
    words += [(kind % 2 ** 64).to_bytes(8, "little") for kind in xenopsd.NAMES]
    words += [index.to_bytes(8, "little") for index in hvm_params.NAMES]
    words += [code.to_bytes(2, "little") for code in hvm_context.NAMES]
    words += [number.to_bytes(4, "little") for number in msrs.NAMES]
    words += [(number % 2 ** 32).to_bytes(4, "little") for number in range(-22, 0)]
    return words + list(legacy.SIGNATURES) + mutator.TEXTS


def write_dictionary(path: Path) -> None:
    """In the form that libFuzzer reads."""
    escaped = {"".join("\\x{:02x}".format(byte) for byte in word) for word in dictionary() if len(word) <= 64}
    path.write_text("".join('"{}"\n'.format(word) for word in sorted(escaped)), encoding="ascii")

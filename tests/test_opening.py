"""Recognition by content: of each format, from every kind of source, and of foreign formats."""
import bz2
import contextlib
import gc
import gzip
import importlib
import io
import lzma
import os
import struct
import subprocess
import sys
import tarfile

import containers
import legacy_samples
import pytest
import samples
from ways import WAYS, whole

import xstream
from xstream import CorruptStream, LimitExceeded, NeedMoreData, PushReader, TruncatedStream, UnsupportedStream
from xstream.stream.source import FedSource
from xstream.wire import xenopsd

NAMES = [name for name, _, _ in containers.READ]
LAYERS = {name: layers for name, _, layers in containers.READ}


def read(source, **options):
    """Every record with its place; the layers' formats."""
    with xstream.open(source, **options) as reader:
        records = []
        record = reader.next_record()
        while record is not None:
            records.append((reader.layer, reader.index, reader.offset, kept(record)))
            record = reader.next_record()
        return records, [layer.format for layer in reader.layers]


def kept(record):
    """A record that compares by content and stays good, its lazy data read."""
    data = getattr(record, "data", None)
    if hasattr(data, "read"):
        return whole(record._replace(data=data.read()))
    return whole(record)


@pytest.mark.parametrize("size, known", [(5000, True), (70000, False)])
@pytest.mark.parametrize("way", sorted(set(WAYS) - {"trickle"}))
def test_what_encloses_the_memory_is_known_after_little_data(way, size, known):
    """From every source alike, an emulator's data before the memory doesn't keep the layers from being known."""
    before = containers.xenopsd_record(0x0F, containers.XENOPS) + containers.xenopsd_record(0xF00, bytes(size))
    with WAYS[way](containers.xenopsd(before=before)) as source, xstream.open(source) as reader:
        if known:
            assert reader.identity.guest == "x86 HVM"
            assert [len(record.data) for record in map(kept, reader) if isinstance(record, xenopsd.Blob)][0] == size
        else:
            with pytest.raises(xstream.OrderError, match="no memory image at the beginning"):
                reader.identity  # noqa: B018 - reads up to the memory


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_every_format_from_every_source(name, way):
    stream = containers.STREAMS[name]
    with WAYS[way](stream) as source:
        records, layers = read(source)
    assert layers == LAYERS[name]
    assert records == read(stream)[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_not_mapped_any_longer_than_it_is_read(name, tmp_path):
    path = tmp_path / "stream"
    path.write_bytes(containers.STREAMS[name])
    gc.disable()
    try:
        with contextlib.suppress(CorruptStream, xstream.MissingPart):
            xstream.verify(str(path))
        with open("/proc/self/maps") as maps:
            assert str(path) not in maps.read()
    finally:
        gc.enable()


@pytest.mark.parametrize("name", NAMES)
def test_byte_by_byte(name):
    stream = containers.STREAMS[name]
    push = PushReader()
    got = []
    for at in range(len(stream)):
        push.feed(stream[at:at + 1])
        for record in push.records():
            got.append((push.reader.layer, push.reader.index, push.reader.offset, kept(record)))
    push.finish()
    got += [(push.reader.layer, push.reader.index, push.reader.offset, kept(record)) for record in push.records()]
    assert got == read(stream)[0]


def test_nothing_is_taken_while_too_little_has_been_fed():
    source = FedSource()
    stream = containers.xl()
    for at in range(31):
        source.feed(stream[at:at + 1])
        with pytest.raises(NeedMoreData):
            xstream.open(source)
    source.feed(stream[31:])
    source.finish()
    assert read(source)[0] == read(stream)[0]


def test_no_more_is_asked_for_than_it_takes():
    """A pipe that holds no more than a libxc stream's first eight bytes doesn't keep the opener waiting."""
    reading, writing = os.pipe()
    try:
        os.write(writing, samples.hvm()[:8])
        assert isinstance(xstream.open(reading), xstream.Reader)
        os.write(writing, samples.hvm()[8:40])
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("name", NAMES)
def test_a_format_can_be_said(name):
    stream = containers.STREAMS[name]
    assert read(stream, format=LAYERS[name][0]) == read(stream)
    other = "libvirt" if LAYERS[name][0] != "libvirt" else "xl"
    with pytest.raises(CorruptStream) as caught:
        read(stream, format=other)
    assert caught.value.layer == other and caught.value.offset == 0
    with pytest.raises(ValueError, match="unknown format"):
        xstream.open(stream, format="vmdk")


def ext2():
    """The superblock of an ext2 filesystem, after a boot block of zeros."""
    return bytes(1080) + b"\x53\xef" + bytes(3000)


def vhd(disk, block=0x200000, at=4):
    """A dynamic VHD with one block at a sector, which begins with ``disk``."""
    footer = (b"conectix" + struct.pack(">IIQ", 2, 0x10000, 512)).ljust(512, b"\0")
    header = (b"cxsparse" + struct.pack(">qQIII", -1, 1536, 0x10000, 1, block)).ljust(1024, b"\0")
    table = struct.pack(">I", at).ljust(512, b"\xff")
    bitmap = -(-block // 512 // 8 // 512) * 512
    image = (footer + header + table).ljust(at * 512, b"\0") + b"\xff" * bitmap + disk
    return image + footer


def qcow2(disk, version=3, cluster=1 << 16):
    """A qcow2 image: header, both tables and the first cluster in a cluster each."""
    header = b"QFI\xfb" + struct.pack(">IQIIQIIQ", version, 0, 0, 16, 1 << 30, 0, 1, cluster)
    tables = struct.pack(">Q", 1 << 63 | 2 * cluster).ljust(cluster, b"\0") + \
        struct.pack(">Q", 1 << 63 | 3 * cluster).ljust(cluster, b"\0")
    return header.ljust(cluster, b"\0") + tables + disk


@pytest.mark.parametrize("way", ["buffer", "mapped", "pipe", "object", "fed"])
@pytest.mark.parametrize("image, command", [
    (vhd, "vpc"), (lambda disk: vhd(disk, block=1 << 22, at=700), "vpc"), (qcow2, "qcow2"),
    (lambda disk: qcow2(disk, version=2), "qcow2"),
])
def test_a_suspend_image_on_a_virtual_disk(image, command, way):
    for disk, named in ((containers.xenopsd(), r"with a suspend image on it \(format xenopsd\)"),
                        (containers.xenopsd_unstructured(), r"suspend image on it \(format xenopsd\)"),
                        (ext2(), "with an ext2"), (b"nothing known" * 300, "if a suspend image is on the disk")):
        with WAYS[way](image(disk)) as source, pytest.raises(UnsupportedStream, match=named) as caught:
            xstream.open(source)
        assert "qemu-img convert -f {} -O raw".format(command) in str(caught.value)


def test_a_disk_whose_tables_lead_nowhere():
    for image in (vhd(b""), qcow2(b""), vhd(b"x" * 5000, at=0xFFFFFFFE >> 20), qcow2(b"")[:1 << 16],
                  b"QFI\xfb" + b"\xff" * 100, b"conectix".ljust(512, b"\0") + b"cxsparse" + b"\xff" * 100):
        for way in ("buffer", "mapped", "pipe"):
            with WAYS[way](image) as source, pytest.raises(UnsupportedStream, match="disk image: if"):
                xstream.open(source)


def test_a_fixed_vhd_is_its_disk_and_a_footer():
    footer = (b"conectix" + struct.pack(">IIQ", 2, 0x10000, 2 ** 64 - 1)).ljust(512, b"\0")
    assert xstream.verify(containers.xenopsd() + bytes(5000) + footer).format == "xenopsd"


def tar(*names):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return out.getvalue()


@pytest.mark.parametrize("stream, named", [
    (containers.QEMU, "QEMU migration stream"),
    (b"\x7fELF\2\1\1" + bytes(60), "ELF"),
    (tar("ova.xml", "Ref:1/00000000"), "XVA"),
    (tar("guest.xl"), "tar archive"),
    (b"LibvirtQemudSave" + bytes(100), "QEMU"),
    (b"\x04\x22\x4d\x18" + bytes(20), "lz4"),
    (b"QFI\xfb" + bytes(20), "qcow2"),
    (b"LibvirtQemudPart" + bytes(100), "unfinished save file of libvirt"),
    (lzma.compress(samples.hvm(), lzma.FORMAT_ALONE), "lzma file: decompress it"),
    (b"conectix" + bytes(504), "VHD disk image: if a suspend image is on the disk, make it raw: qemu-img"),
    (ext2(), r"ext2.*mount"),
])
def test_what_it_is_not_is_said_by_name(stream, named):
    for way in ("buffer", "pipe", "trickle", "fed"):
        with WAYS[way](stream) as source, pytest.raises(UnsupportedStream, match=named):
            xstream.open(source)


@pytest.mark.parametrize("stream", [b"", b"\0", b"hello, world", bytes(1000), b"\xff" * 7, b"LibxlFm",
                                    b"Xen saved domain, xl format\n", b"\x01" * 500])
def test_what_nobody_knows_is_corrupt(stream):
    for way in ("buffer", "pipe", "trickle", "fed"):
        with WAYS[way](stream) as source, pytest.raises(CorruptStream, match="not a stream or save file"):
            xstream.open(source)


COMPRESSED = {"gzip": gzip.compress, "xz": lzma.compress, "bzip2": bz2.compress}


@pytest.mark.parametrize("way", ["buffer", "mapped", "pipe", "trickle", "object"])
@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_files_are_decompressed(name, way):
    stream = containers.xl()
    with WAYS[way](COMPRESSED[name](stream)) as source:
        assert read(source) == read(stream)


@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_members_one_after_the_other(name):
    compress = COMPRESSED[name]
    stream = containers.xl()
    packed = b"".join(compress(stream[at:at + 5000]) for at in range(0, len(stream), 5000))
    assert read(packed) == read(stream)
    assert read(packed + bytes(512), strict=True) == read(stream)
    with pytest.raises(CorruptStream) as caught:
        read(packed + b"more", strict=True)
    assert caught.value.layer == name


@pytest.mark.parametrize("name", COMPRESSED)
def test_bad_compressed_data(name):
    packed = COMPRESSED[name](containers.xl())
    for length in range(10, len(packed), 61):
        with pytest.raises((TruncatedStream, CorruptStream)):
            read(packed[:length])
    for at in range(0, len(packed), 7):
        with contextlib.suppress(xstream.StreamError):
            read(packed[:at] + bytes([packed[at] ^ 0x55]) + packed[at + 1:])


def test_compressed_twice_is_once_too_often():
    with pytest.raises(UnsupportedStream, match="within compressed input"):
        xstream.open(gzip.compress(lzma.compress(samples.hvm())))


def test_an_xz_dictionary_that_asks_for_too_much():
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
    with pytest.raises(LimitExceeded):
        read(lzma.compress(samples.hvm(), filters=filters))


def test_compressed_bytes_cannot_be_fed():
    push = PushReader()
    push.feed(gzip.compress(samples.hvm()))
    with pytest.raises(UnsupportedStream, match="decompress"):
        list(push.records())


def zstd_compress():
    for module in ("compression.zstd", "zstandard"):
        try:
            return importlib.import_module(module).compress
        except ImportError:
            continue
    return None


def test_zstd():
    compress = zstd_compress()
    if compress is None:
        with pytest.raises(UnsupportedStream, match="zstd -dc"):
            xstream.open(b"\x28\xb5\x2f\xfd" + bytes(20))
        return
    stream = containers.xl()
    packed = b"".join(compress(stream[at:at + 5000]) for at in range(0, len(stream), 5000))
    for way in ("buffer", "pipe", "trickle"):
        with WAYS[way](packed) as source:
            assert read(source) == read(stream)


def test_a_compressed_bomb_takes_no_memory():
    script = ("import gzip, resource, sys, xstream\n"
              "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
              "try: xstream.verify(0)\n"
              "except xstream.StreamError as error: print(error)\n"
              "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n")
    batch = samples.batch([samples.word(0)], [bytes(4096)])
    stream = samples.headers() + samples.static_data_end() + batch * 40000
    done = subprocess.run([sys.executable, "-c", script], input=gzip.compress(stream, 1), stdout=subprocess.PIPE,
                          check=True, timeout=120)
    assert b"short" in done.stdout and int(done.stdout.split()[-1]) < 64 * 1024


def test_reports_of_a_stream_cut_after_a_checkpoint_are_the_same_from_every_source():
    data = samples.checkpointed(rounds=3)
    for cut in range(len(data) - 13000, len(data), 611):
        for verb in (xstream.verify, xstream.info):
            reports = set()
            for way in WAYS.values():
                with way(data[:cut]) as source:
                    try:
                        reports.add(repr(verb(source, checkpointed=True)))
                    except xstream.StreamError as error:
                        reports.add(str(error))
            assert len(reports) == 1, cut


@pytest.mark.parametrize("name", ["hvm", "libxl", "legacy"])
def test_readers_as_sources(name, tmp_path):
    """Whatever reads a whole stream takes a reader that is open already, and leaves it open."""
    data = {"hvm": samples.hvm(), "libxl": containers.libxl(), "legacy": legacy_samples.hvm(8)}[name]
    for work in (xstream.verify, xstream.info, xstream.digest, xstream.policy,
                 lambda source: list(xstream.contents(source)),
                 lambda source: list(xstream.page_digests(source)),
                 lambda source: xstream.extract(source, io.BytesIO()),
                 lambda source: xstream.convert(source, io.BytesIO(), to="libxc")):
        expected = work(data)
        with open(str(tmp_path / "stream"), "wb") as file:
            file.write(data)
        with open(str(tmp_path / "stream"), "rb") as file, xstream.open(file) as reader:
            assert work(reader) == expected
            assert not file.closed

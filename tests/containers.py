"""Small containers built byte by byte from their specifications, independently of the package's own writers."""
import struct
from typing import Any, List, Sequence, Tuple

import samples

JSON_CONFIG = b'{"c_info": {"type": "hvm", "name": "guest"}}\0'
XENOPS = b'((time 20230101T00:00:00Z)(word_size 64)(vm_str "{\\"a\\":1}")(xs_subtree((vm/x y)("" ""))))'
QEMU = b"QEVM" + bytes(range(100))


def record(kind: int, body: bytes = b"", **options: Any) -> bytes:
    return samples.record(kind, body, **options)


def libxl_header(version: int = 2, options: int = 0, ident: bytes = b"LibxlFmt") -> bytes:
    return ident + struct.pack(">II", version, options)


def context() -> bytes:
    return record(1)


def xenstore(*strings: bytes, emulator: int = 2, index: int = 0, tail: bytes = b"") -> bytes:
    body = b"".join(string + b"\0" for string in strings) + tail
    return record(2, struct.pack("<II", emulator, index) + body)


def emulator(blob: bytes = QEMU, emulator: int = 2, index: int = 0) -> bytes:
    return record(3, struct.pack("<II", emulator, index) + blob)


def checkpoint_end() -> bytes:
    return record(4)


def checkpoint_state(control: int = 0) -> bytes:
    return record(5, struct.pack("<II", control, 0))


def end() -> bytes:
    return record(0)


def libxl(inner: bytes = b"", tail: bytes = b"") -> bytes:
    tail = tail or xenstore(b"physmap/f0000000/start_addr", b"f0000000", b"physmap/f0000000/name", b"vga") + emulator()
    return libxl_header() + context() + (inner or samples.hvm()) + tail + end()


def libxl_pv() -> bytes:
    return libxl_header() + context() + samples.pv() + end()


def libxl_checkpointed(rounds: int = 3, colo: bool = False) -> bytes:
    """Remus, or COLO: libxc continues after each CHECKPOINT_END, without END. PFN 0 holds page(10), page(11), ..."""
    tail = samples.tsc_info() + samples.hvm_context() + samples.hvm_params() + samples.record(0x0E)
    parts = [libxl_header() + context() + samples.headers() + samples.policies() + samples.static_data_end()]
    for number in range(rounds):
        parts.append(samples.batch([samples.word(0)], [samples.page(10 + number)]) + tail)
        parts.append(xenstore(b"a", b"b") + emulator() + checkpoint_end() + (checkpoint_state() if colo else b""))
    return b"".join(parts)


def colo(rounds: int = 2) -> bytes:
    """COLO's back channel: each round's three states and the PFNs that the secondary has dirtied."""
    return b"".join(checkpoint_state(2) + checkpoint_state(3) + checkpoint_state(1)
                    + samples.record(0x0F, struct.pack("<{}Q".format(number), *range(number)))
                    for number in range(3, 3 + rounds))


def xl_header(config: bytes = JSON_CONFIG, *, mandatory: int = 3, optional: int = 0, rest: bytes = b"",
              byte_order: int = 0x01020304, length: int = -1, config_length: int = -1) -> bytes:
    data = struct.pack("<I", len(config) if config_length < 0 else config_length) + config + rest
    return (b"Xen saved domain, xl format\n \0 \r" + struct.pack("<IIII", byte_order, mandatory, optional,
                                                                 len(data) if length < 0 else length) + data)


def xl(inner: bytes = b"", **options: Any) -> bytes:
    return xl_header(**options) + (inner or libxl())


def libvirt_header(xml: bytes = b"<domain type='xen'/>\0", version: int = 2, unused: bytes = bytes(40)) -> bytes:
    return b"libvirt-xml\n \0 \r" + struct.pack("<II", version, len(xml)) + unused + xml


def libvirt(inner: bytes = b"", **options: Any) -> bytes:
    return libvirt_header(**options) + (inner or libxl())


def xenopsd_record(kind: int, body: bytes = b"") -> bytes:
    return struct.pack("<qq", kind, len(body)) + body


def xenopsd(memory: bytes = b"", kind: int = 0xF0, before: bytes = b"", after: bytes = b"", length: int = 0) -> bytes:
    return (b"XenSavedDomv2-\n" + (before or xenopsd_record(0x0F, XENOPS)) + struct.pack("<qq", kind, length)
            + (memory or samples.hvm()) + (after or xenopsd_record(0xF00, QEMU)) + xenopsd_record(0xFFFF))


def xenopsd_libxl() -> bytes:
    return xenopsd(libxl(), 0xF1, after=xenopsd_record(0xF11, b"vars") + xenopsd_record(0xF12, b"t0")
                   + xenopsd_record(0xF13, b"t1") + xenopsd_record(0xF01, QEMU))


def legacy_hvm(device_model: bytes = b"DeviceModelRecord0002" + struct.pack("<I", 4) + b"QEVM") -> bytes:
    """A legacy HVM stream of a 64-bit toolstack: two pages of sixteen, TSC info, the tail."""
    chunk = struct.Struct("<i")
    blob = samples.hvm_context()[8:]
    return (struct.pack("<Q", 16) + chunk.pack(-7) + struct.pack("<IQII", 1, 2, 3, 4)
            + chunk.pack(2) + struct.pack("<QQ", 1, 3) + samples.page(1) + samples.page(3)
            + chunk.pack(-2) + struct.pack("<iQ", 0, 1) + chunk.pack(-9) + chunk.pack(0)
            + struct.pack("<QQQI", 5, 6, 7, len(blob)) + blob + device_model)


def xenopsd_unstructured() -> bytes:
    return (b"XenSavedDomain\n" + legacy_hvm(device_model=b"") + b"QemuDeviceModelRecord\n"
            + struct.pack(">i", len(QEMU)) + QEMU)


def xend(config: bytes = b"(domain (name guest))") -> bytes:
    return b"LinuxGuestRecord" + struct.pack(">i", len(config)) + config + legacy_hvm()


#: Name, bytes, and the formats of the layers, outermost first.
ALL: List[Tuple[str, bytes, Sequence[str]]] = [
    ("libxc", samples.hvm(), ["libxc"]),
    ("libxl", libxl(), ["libxl", "libxc"]),
    ("libxl-pv", libxl_pv(), ["libxl", "libxc"]),
    ("xl", xl(), ["xl", "libxl", "libxc"]),
    ("xl-misaligned", xl(config=b"xyz\0"), ["xl", "libxl", "libxc"]),
    ("xl-text", xl(legacy_hvm(), config=b"name = 'x'\n", mandatory=0), ["xl", "legacy"]),
    ("xl-4.5", xl(legacy_hvm(), mandatory=1), ["xl", "legacy"]),
    ("xl-bare", xl_header(length=0)[:48] + libxl(), ["xl", "libxl", "libxc"]),
    ("libvirt", libvirt(), ["libvirt", "libxl", "libxc"]),
    ("libvirt-1", libvirt(legacy_hvm(), version=1), ["libvirt", "legacy"]),
    ("xenopsd", xenopsd(), ["xenopsd", "libxc"]),
    ("xenopsd-libxl", xenopsd_libxl(), ["xenopsd", "libxl", "libxc"]),
    ("xenopsd-legacy", xenopsd(legacy_hvm(), 0xF2, after=xenopsd_record(0xF11, b"v")), ["xenopsd", "legacy"]),
    ("xenopsd-unstructured", xenopsd_unstructured(), ["xenopsd", "legacy"]),
    ("xend", xend(), ["xend", "legacy"]),
    ("legacy", legacy_hvm(), ["legacy"]),
]
#: The same, and a container without a memory stream.
READ = ALL + [("colo", colo(), ["colo"])]
STREAMS = {name: stream for name, stream, _ in READ}
#: Those without a legacy stream: the package writes these.
WRITTEN = [name for name, _, layers in ALL if "legacy" not in layers]

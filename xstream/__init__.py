"""Xen migration streams: read, check, write and measure.

Source of the formats: the specifications in Xen's docs/specs, and Xen's own code where it says more.
"""
from xstream.errors import (
    CorruptStream,
    LimitExceeded,
    MemoryMismatch,
    MissingPart,
    OrderError,
    StreamError,
    StrictViolation,
    TruncatedStream,
    UnsupportedStream,
)
from xstream.guest.guest import Cancelled, Completed, Guest, GuestError, HookError, Pages
from xstream.guest.load import load
from xstream.guest.memory import GuestMemory
from xstream.guest.policies import Decision, Round, downtime_policy, xen_policy
from xstream.guest.restore import Restored, restore
from xstream.guest.save import Saved, save
from xstream.guest.simulated import SimulatedGuest
from xstream.limits import Limits
from xstream.stream.container_writers import LibvirtWriter, LibxlWriter, XenopsdWriter, XlWriter
from xstream.stream.containers import NestedReader
from xstream.stream.legacy_reader import LegacyReader
from xstream.stream.legacy_writer import LegacyWriter
from xstream.stream.opening import PushReader
from xstream.stream.opening import open_stream as open
from xstream.stream.reader import Reader
from xstream.stream.source import NeedMoreData
from xstream.stream.writer import Writer
from xstream.tools.contents import contents
from xstream.tools.convert import convert
from xstream.tools.digest import digest, page_digests
from xstream.tools.extract import extract
from xstream.tools.info import info
from xstream.tools.policy import compare_policies, policy
from xstream.tools.rewrap import Parts, rewrap
from xstream.tools.verify import verify
from xstream.version import __version__
from xstream.wire.libxc import (
    Checkpoint,
    CheckpointDirtyPfnList,
    CpuidPolicy,
    DomainHeader,
    End,
    HvmContext,
    HvmParams,
    ImageHeader,
    MsrPolicy,
    P2MFrames,
    PageData,
    PVInfo,
    SharedInfo,
    StaticDataEnd,
    TscInfo,
    Unknown,
    VcpuBasic,
    VcpuExtended,
    VcpuMsrs,
    VcpuXsave,
    Verify,
)

__all__ = [
    "Cancelled", "Checkpoint", "CheckpointDirtyPfnList", "Completed", "CorruptStream", "CpuidPolicy", "Decision",
    "DomainHeader", "End", "Guest", "GuestError", "GuestMemory", "HookError", "HvmContext", "HvmParams",
    "ImageHeader", "LegacyReader", "LegacyWriter", "LibvirtWriter", "LibxlWriter", "LimitExceeded", "Limits",
    "MemoryMismatch", "MissingPart", "MsrPolicy", "NeedMoreData", "NestedReader", "OrderError", "P2MFrames", "PVInfo",
    "PageData", "Pages", "Parts", "PushReader", "Reader", "Restored", "Round", "Saved", "SharedInfo",
    "SimulatedGuest", "StaticDataEnd", "StreamError", "StrictViolation", "TruncatedStream", "TscInfo", "Unknown",
    "UnsupportedStream", "VcpuBasic", "VcpuExtended", "VcpuMsrs", "VcpuXsave", "Verify", "Writer", "XenopsdWriter",
    "XlWriter", "__version__", "compare_policies", "contents", "convert", "digest", "downtime_policy", "extract",
    "info", "load", "open", "page_digests", "policy", "restore", "rewrap", "save", "verify", "xen_policy",
]

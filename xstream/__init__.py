"""Xen migration streams: read, check, write and measure.

Source of the formats: the specifications in Xen's docs/specs, and Xen's own code where it says more.
"""
import sys
from importlib import import_module
from types import ModuleType

from xstream.version import __version__

# What type checkers read instead of the table below. Not typing's own constant: on Python 3.6 that module alone costs
# more than a host should pay for what it doesn't use.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List

    from xstream.containers.opening import PushReader
    from xstream.containers.opening import open_stream as open
    from xstream.containers.reader import NestedReader
    from xstream.containers.writers import BackChannelWriter, LibvirtWriter, LibxlWriter, XenopsdWriter, XlWriter
    from xstream.convert.conversion import Converted, convert
    from xstream.errors import (
        CorruptStream,
        IncompleteStream,
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
    from xstream.guest.restore import LayerRecord, Restored, restore
    from xstream.guest.save import Saved, save
    from xstream.guest.simulated import SimulatedGuest
    from xstream.limits import Limits
    from xstream.stream.legacy_reader import LegacyReader
    from xstream.stream.legacy_writer import LegacyWriter
    from xstream.stream.reader import Reader
    from xstream.stream.source import NeedMoreData
    from xstream.stream.writer import Writer
    from xstream.tools.contents import contents
    from xstream.tools.digest import digest, page_digests
    from xstream.tools.extract import extract
    from xstream.tools.info import info
    from xstream.tools.policy import compare_policies, policy
    from xstream.tools.verify import verify
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
    "BackChannelWriter", "Cancelled", "Checkpoint", "CheckpointDirtyPfnList", "Completed", "Converted",
    "CorruptStream", "CpuidPolicy", "Decision", "DomainHeader", "End", "Guest", "GuestError", "GuestMemory",
    "HookError", "HvmContext", "HvmParams", "ImageHeader", "IncompleteStream", "LayerRecord", "LegacyReader",
    "LegacyWriter", "LibvirtWriter", "LibxlWriter", "LimitExceeded", "Limits", "MemoryMismatch", "MissingPart",
    "MsrPolicy", "NeedMoreData", "NestedReader", "OrderError", "P2MFrames", "PVInfo", "PageData", "Pages",
    "PushReader", "Reader", "Restored", "Round", "Saved", "SharedInfo", "SimulatedGuest", "StaticDataEnd",
    "StreamError", "StrictViolation", "TruncatedStream", "TscInfo", "Unknown", "UnsupportedStream", "VcpuBasic",
    "VcpuExtended", "VcpuMsrs", "VcpuXsave", "Verify", "Writer", "XenopsdWriter", "XlWriter", "__version__",
    "compare_policies", "contents", "convert", "digest", "downtime_policy", "extract", "info", "load", "open",
    "page_digests", "policy", "restore", "save", "verify", "xen_policy",
]

#: The module of each name: it is loaded when the name is first used.
_HOMES = {name: "xstream." + module for module, names in {
    "errors": "CorruptStream IncompleteStream LimitExceeded MemoryMismatch MissingPart OrderError StreamError "
              "StrictViolation TruncatedStream UnsupportedStream",
    "guest.guest": "Cancelled Completed Guest GuestError HookError Pages",
    "guest.load": "load",
    "guest.memory": "GuestMemory",
    "guest.policies": "Decision Round downtime_policy xen_policy",
    "guest.restore": "LayerRecord Restored restore",
    "guest.save": "Saved save",
    "guest.simulated": "SimulatedGuest",
    "limits": "Limits",
    "containers.writers": "BackChannelWriter LibvirtWriter LibxlWriter XenopsdWriter XlWriter",
    "containers.reader": "NestedReader",
    "stream.legacy_reader": "LegacyReader",
    "stream.legacy_writer": "LegacyWriter",
    "containers.opening": "PushReader open",
    "stream.reader": "Reader",
    "stream.source": "NeedMoreData",
    "stream.writer": "Writer",
    "tools.contents": "contents",
    "convert.conversion": "Converted convert",
    "tools.digest": "digest page_digests",
    "tools.extract": "extract",
    "tools.info": "info",
    "tools.policy": "compare_policies policy",
    "tools.verify": "verify",
    "wire.libxc": "Checkpoint CheckpointDirtyPfnList CpuidPolicy DomainHeader End HvmContext HvmParams ImageHeader "
                  "MsrPolicy P2MFrames PVInfo PageData SharedInfo StaticDataEnd TscInfo Unknown VcpuBasic "
                  "VcpuExtended VcpuMsrs VcpuXsave Verify",
}.items() for name in names.split()}


class _Face(ModuleType):
    """This module, with its names where they are wanted (Python 3.6 asks no module's own ``__getattr__``)."""

    def __getattr__(self, name: str) -> object:
        if name not in _HOMES:
            raise AttributeError("module 'xstream' has no attribute {!r}".format(name))
        # Under its own name it would hide Python's in the module where it is written.
        value: object = getattr(import_module(_HOMES[name]), "open_stream" if name == "open" else name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        # The import system would bind the package xstream.convert where the function of that name belongs.
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)

    def __dir__(self) -> "List[str]":
        return sorted(set(super().__dir__()) | set(__all__))


sys.modules[__name__].__class__ = _Face

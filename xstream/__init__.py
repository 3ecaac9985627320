"""Xen migration streams: read, check, write and measure.

Source of the formats: the specifications in Xen's docs/specs, and Xen's own code where it says more.
"""
import sys

from xstream.version import __version__

#: The public names, and the module of each, which is loaded when one of its names is first used. This is the only list:
#: ``scripts/draw-stub`` writes __init__.pyi, which type checkers read instead of this file, from it.
_HOMES = {name: "xstream." + module for module, names in {
    "errors": "CorruptStream IncompleteStream LimitExceeded MemoryMismatch MissingPart OrderError StreamError "
              "StrictViolation TruncatedStream UnsupportedStream",
    "guest.guest": "Cancelled Completed Guest GuestError HookError Pages",
    "guest.load": "Loaded load",
    "guest.memory": "GuestMemory",
    "guest.memory_view": "MemoryView",
    "guest.policies": "Decision downtime_policy xen_policy",
    "guest.rounds": "Round",
    "guest.restore": "LayerRecord Restored restore",
    "guest.save": "Saved save",
    "guest.simulated": "SimulatedGuest",
    "limits": "Limits",
    "containers.writers": "BackChannelWriter LibvirtWriter LibxlWriter XenopsdWriter XlWriter",
    "containers.reader": "NestedReader",
    "stream.legacy_reader": "LegacyReader",
    "stream.legacy_writer": "LegacyWriter",
    "containers.opening": "PushReader open",
    "stream.reader": "AnyReader Identity Layer PageRun Reader",
    "stream.source": "NeedMoreData",
    "stream.types": "SinkLike SourceLike StreamLike",
    "stream.writer": "Writer",
    "tools.contents": "RecordContents contents",
    "convert.conversion": "Converted convert",
    "convert.exports": "Exported export",
    "tools.diff": "Changed DiffReport diff",
    "tools.digest": "DigestReport digest page_digests",
    "tools.draw": "Drawn draw_memory",
    "tools.extract": "ExtractReport extract",
    "tools.info": "InfoReport RecordRow info",
    "tools.policy": "Policy PolicyReport compare_policies policy",
    "tools.verify": "VerifyReport verify",
    "wire.libxc": "Checkpoint CheckpointDirtyPfnList CpuidPolicy DomainHeader End HvmContext HvmParams ImageHeader "
                  "MsrPolicy P2MFrames PVInfo PageData SharedInfo StaticDataEnd TscInfo Unknown VcpuBasic "
                  "VcpuExtended VcpuMsrs VcpuXsave Verify",
    "wire.pending": "PendingPages",
}.items() for name in names.split()}

__all__ = sorted(_HOMES) + ["__version__"]


_Module = type(sys)  # the module types, which has a name for this, takes time to load


class _LazyModule(_Module):
    """This module; a name is imported when it is first used. (Python 3.6 has no ``__getattr__`` of modules.)"""

    def __getattr__(self, name: str) -> object:
        if name not in _HOMES:
            raise AttributeError("module 'xstream' has no attribute {!r}".format(name))
        # open is called open_stream where it is defined, so that it doesn't shadow the builtin there.
        __import__(_HOMES[name])
        value: object = getattr(sys.modules[_HOMES[name]], "open_stream" if name == "open" else name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        # The import system would bind the package xstream.convert where the function of that name belongs.
        if name not in _HOMES or not isinstance(value, _Module):
            super().__setattr__(name, value)

    def __dir__(self) -> list:
        return sorted(set(super().__dir__()) | set(__all__))


sys.modules[__name__].__class__ = _LazyModule

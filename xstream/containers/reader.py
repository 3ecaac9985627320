"""The reader of containers: files in which other layers enclose a memory stream.

Each layer has its own reader (:mod:`xstream.containers.layers`); a :class:`NestedReader` reads from the one whose
record comes next.
"""
from collections import deque

from xstream.containers.layers import LAYERS, LayerReader, LibxlReader, Settings
from xstream.containers.nesting import INNER_CHECKPOINT, INNER_END
from xstream.errors import LimitExceeded, OrderError, UnsupportedStream
from xstream.limits import Limits
from xstream.stream.reader import Identity, Layer, PageRun, Reader, check_end
from xstream.stream.records import RecordReader
from xstream.stream.source import PendingPages, open_source
from xstream.tuples import NamedTuple
from xstream.wire import hvm_params, libxc, libxl, xenopsd
from xstream.wire.libxc import DomainHeader, ImageHeader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Deque, Iterator, List, Optional, Tuple, Union

    from xstream.containers.layers import AnyLayer, MemoryReader
    from xstream.stream.types import SourceLike
    from xstream.wire.formats import AnyRecord
    from xstream.wire.frames import Buffer

#: The parameters that the domain builder sets for a guest with a device model.
_IOREQ_SERVER = tuple(index for index, name in hvm_params.NAMES.items()
                      if name in ("IOREQ_SERVER_PFN", "NR_IOREQ_SERVER_PAGES"))
#: Records that ``look_ahead`` keeps at most. A container has one to three before the memory stream.
_LOOK_AHEAD = 16
#: Bytes of an emulator's data that ``look_ahead`` keeps at most. Xen's toolstacks write none before the memory stream.
_LOOK_AHEAD_BYTES = 64 << 10


def _is_whole(device_model: "Union[Buffer, PendingPages]") -> bool:
    """Whether a device model's record has contents, and isn't visibly cut. One that is too large to be held isn't read.
    """
    from xstream.wire import vmstate  # loaded for guests that have one
    return len(device_model) > 0 if isinstance(device_model, PendingPages) else vmstate.is_whole(device_model)


class _Given(NamedTuple):
    """A record, its layer, its index there and its offset."""

    record: "AnyRecord"
    layer: str
    number: int
    offset: int


def _kept(given: _Given) -> _Given:
    """A record that stays valid when the next one is read, if it has little data."""
    record = given.record
    if not isinstance(record, xenopsd.Blob) or not isinstance(record.data, PendingPages) \
            or len(record.data) > _LOOK_AHEAD_BYTES:
        return given
    return given._replace(record=record._replace(data=record.data.read()))


class NestedReader(RecordReader):
    """Records of a container, of all its layers, in order.

    It has Reader's interface. After each record, ``layer``, ``index`` and ``offset`` are that record's. ``identity``,
    ``image`` and ``domain`` are the memory stream's, except ``identity.format``, which is the container's. ``layers``
    has all layers found so far, outermost first.

    ``format`` is the outermost layer's; :func:`xstream.open` finds it out. The other arguments are those of
    :func:`xstream.open`.

    Raises StreamError or a subclass for errors in any layer, and OSError if the source can't be read.
    """

    def __init__(self, source: "SourceLike", format: str, *, limits: Limits = Limits(), strict: bool = False,
                 checkpointed: bool = False, width: "Optional[int]" = None, guest: "Optional[str]" = None) -> None:
        self.source = open_source(source)
        self.limits = limits
        self.strict = strict
        self.checkpointed = checkpointed
        self.layer = format
        self.index = -1
        self.offset = self.source.offset
        settings = Settings(limits, strict, checkpointed, width, guest)
        self._outermost = LAYERS[format](self.source, settings)
        self._stack: List[AnyLayer] = [self._outermost]
        self._met: List[Tuple[int, AnyLayer]] = [(0, self._outermost)]
        self._memory: Optional[MemoryReader] = None
        self._ahead: Deque[_Given] = deque()
        self._last: Optional[AnyRecord] = None
        self._finished = False
        self._device_model = self._needs_device_model = False

    if TYPE_CHECKING:
        def __iter__(self) -> Iterator[AnyRecord]: ...

    def next_record(self) -> "Optional[AnyRecord]":
        """The next record of any layer, or None after the last (checkpointed: or if the input ends after a complete
        checkpoint). NeedMoreData loses nothing: call again once more has been fed."""
        given = self._ahead.popleft() if self._ahead else self._pull()
        if given is None:
            self._finish()
            return None
        self._last, self.layer, self.index, self.offset = given
        return self._last

    def next_run(self, *, pages: bool = True) -> "Optional[PageRun]":
        """As Reader's, if the memory stream's records come next; else None."""
        if self._ahead or not self._stack or self._stack[-1] is not self._memory:
            return None
        run = self._memory.next_run(pages=pages)
        if run is not None:
            self.layer, self.index, self.offset = self._memory.layer, self._memory.index, self._memory.offset
        return run

    @property
    def layers(self) -> "Tuple[Layer, ...]":
        """The layers found so far, outermost first."""
        return tuple(Layer(reader.layer, depth, reader.start, reader.index + 1, reader.describe())
                     for depth, reader in self._met)

    @property
    def libxl_header(self) -> "Optional[libxl.Header]":
        """The header of the libxl layer, if there is one and it has been read."""
        return next((reader.header for _, reader in self._met if isinstance(reader, LibxlReader)), None)

    @property
    def memory(self) -> "MemoryReader":
        """The reader of the memory stream. Raises what ``look_ahead`` raises."""
        self.look_ahead()
        assert self._memory is not None
        return self._memory

    def look_ahead(self) -> None:
        """Read up to the beginning of the memory stream, so that all layers that enclose it are known. The records read
        are kept for ``next_record``.

        Raises LimitExceeded after too many records, OrderError if there is no memory stream or if it isn't near the
        beginning, and what reading raises.
        """
        self._descend()
        while self._memory is None:
            if len(self._ahead) == _LOOK_AHEAD:
                raise LimitExceeded("no memory image after {} records".format(_LOOK_AHEAD),
                                    layer=self._outermost.layer, offset=self.source.offset)
            given = self._pull() if self._can_look_ahead() else None
            if given is None:
                raise OrderError("no memory image at the beginning", layer=self._outermost.layer,
                                 offset=self.source.offset)
            self._ahead.append(_kept(given))
            self._descend()

    @property
    def identity(self) -> Identity:
        """The container's format, and what the memory stream's headers say."""
        if self._outermost.identity is not None:
            return self._outermost.identity
        return self.memory.identity._replace(format=self._outermost.layer)

    @property
    def image(self) -> ImageHeader:
        """The memory stream's image header. Raises UnsupportedStream for a legacy stream, which has none."""
        return self._libxc().image

    @property
    def domain(self) -> DomainHeader:
        """The memory stream's domain header. Raises UnsupportedStream for a legacy stream, which has none."""
        return self._libxc().domain

    def _libxc(self) -> Reader:
        memory = self.memory
        if not isinstance(memory, Reader):
            raise UnsupportedStream("a legacy stream has no headers of a libxc stream", layer=memory.layer,
                                    offset=memory.start)
        return memory

    @property
    def missing(self) -> "Tuple[str, ...]":
        """Records that a guest can't run without and that haven't come: the memory stream's, and the device model's
        record (EMULATOR_CONTEXT, or QEMU's record in a suspend image) of a guest that has a device model.

        The configuration says whether it has one, which is what libxl goes by: HVM guests do, PVH and PV guests don't.
        Without a configuration the guest has one if HVM_PARAMS sets the pages of its I/O request server, as the domain
        builder does only for a device model (tools/libs/guest/xg_dom_x86.c, since Xen 4.5), or if any of its records
        has come.
        """
        missing = () if self._memory is None else self._memory.missing
        return missing + self._missing_device_model()

    def _missing_device_model(self) -> "Tuple[str, ...]":
        if not isinstance(self._memory, Reader) or self._device_model or self.unread is not None \
                or self._memory.domain.type != libxc.GUEST_HVM:
            return ()
        formats = {reader.layer for _, reader in self._met}
        said = [reader.device_model for _, reader in self._met
                if isinstance(reader, LayerReader) and reader.device_model is not None]
        if not (said[0] if said else self._needs_device_model):
            return ()
        if libxl.LAYER in formats:
            return (libxl.type_name(libxl.EMULATOR_CONTEXT),)
        return (xenopsd.type_name(xenopsd.QEMU_XEN),) if xenopsd.LAYER in formats else ()

    def _lost(self) -> "Tuple[str, ...]":
        ended = self._memory is not None and self._outermost.ended and self.unread is None
        return self._memory.lost() if ended else ()  # type: ignore[union-attr]  # ended

    def _note_device_model(self, record: "AnyRecord") -> None:
        """Note whether the guest has a device model, and whether its record has come with contents."""
        if isinstance(record, libxl.EmulatorContext):
            self._device_model = self._device_model or _is_whole(record.blob)
        elif isinstance(record, libxl.EmulatorXenstoreData):
            self._needs_device_model = True
        elif isinstance(record, xenopsd.Blob) and record.type in xenopsd.QEMU_RECORDS:
            self._device_model = self._device_model or _is_whole(record.data)
        elif isinstance(record, libxc.HvmParams):
            self._needs_device_model = self._needs_device_model or any(
                index in _IOREQ_SERVER and value for index, value in libxc.HVM_PARAM.iter_unpack(record.entries))

    @property
    def unread(self) -> "Optional[str]":  # type: ignore[override]
        """What follows that can't be read, in words: a vGPU's own stream in a suspend image, after the memory. The
        records end there. None if everything can be read."""
        return next((reader.unread for _, reader in self._met if reader.unread is not None), None)

    @property
    def cut(self) -> "Optional[libxc.PageData]":  # type: ignore[override]
        """The memory stream's."""
        return None if self._memory is None else self._memory.cut

    @property
    def verifying(self) -> bool:
        """Whether pages that come now are sent for comparison only (after VERIFY)."""
        return self._memory is not None and self._memory.verifying

    @property
    def checkpoints(self) -> int:
        """The number of complete checkpoints. In a libxl stream CHECKPOINT_END completes one."""
        counting = self._counting
        return 0 if counting is None else counting.checkpoints

    @property
    def last_checkpoint(self) -> "Optional[Tuple[str, int, int]]":  # type: ignore[override]
        """The record that completed the last checkpoint: its layer, number and offset; None before the first."""
        counting = self._counting
        return None if counting is None else counting.last_checkpoint

    @property
    def _counting(self) -> "Union[LibxlReader, MemoryReader, None]":
        """The reader whose records complete checkpoints."""
        return next((reader for _, reader in self._met if isinstance(reader, LibxlReader)), self._memory)

    @property
    def ended(self) -> bool:  # type: ignore[override]
        """Whether the outermost layer's last record has been read."""
        return self._outermost.ended

    @property
    def pt_levels(self) -> int:
        """Page-table levels of a PV guest, 3 or 4; 0 for an HVM guest, or before a PV guest's is known."""
        return 0 if self._memory is None else self._memory.pt_levels

    @property
    def pfn_end(self) -> int:
        """One more than the highest PFN that may come; see Reader."""
        return self.limits.guest_pfns if self._memory is None else self._memory.pfn_end

    def _can_look_ahead(self) -> bool:
        """Whether another record may be read: after one with little data that isn't in the source any more."""
        if not self._ahead:
            return not isinstance(getattr(self._last, "data", None), PendingPages)
        return len(getattr(self._ahead[-1].record, "data", b"")) <= _LOOK_AHEAD_BYTES

    def _pull(self) -> "Optional[_Given]":
        """Read the next record from the layer that it belongs to."""
        while True:
            self._descend()
            if not self._stack:
                return None
            top = self._stack[-1]
            record = top.next_record()
            if record is not None:
                self._note_device_model(record)
                if isinstance(record, libxc.Checkpoint) and self._below() == libxl.LAYER:
                    self._ascend(INNER_CHECKPOINT)
                return _Given(record, top.layer, top.index, top.offset)
            if not top.ended:
                self._stack.clear()  # the input has ended after a checkpoint, which ends every layer
            else:
                self._ascend(INNER_END)

    def _descend(self) -> None:
        """Enter the streams that begin or continue at this point."""
        while self._stack and isinstance(self._stack[-1], LayerReader):
            top = self._stack[-1]
            top.begin()
            inner = top.take_inner()
            if inner is None:
                return
            self._stack.append(inner)
            if all(inner is not met for _, met in self._met):
                self._met.append((len(self._stack) - 1, inner))
                if not isinstance(inner, LayerReader):
                    self._memory = inner

    def _ascend(self, event: str) -> None:
        self._stack.pop()
        if self._stack:
            outer = self._stack[-1]
            assert isinstance(outer, LayerReader)
            outer.follow_inner(event)

    def _below(self) -> "Optional[str]":
        return self._stack[-2].layer if len(self._stack) > 1 else None

    def _finish(self) -> None:
        """After the last record, once: check what follows it."""
        if self._finished:
            return
        self.source.buffered()  # raises if the last record's data was not read and is cut off
        if not self.source.exact:
            check_end(self.source, self._outermost.layer, self.strict and self._outermost.ended)
        self._finished = True

"""COLO's back channel: records that the secondary sends to the primary on a separate descriptor, without a header.

For each checkpoint there are three CHECKPOINT_STATE records of libxl and one CHECKPOINT_DIRTY_PFN_LIST of libxc, in the
frames that both formats share.

Source: tools/libs/light/libxl_colo_{restore,save}.c, handle_checkpoint() in tools/libs/guest/xg_sr_restore.c,
colo_merge_secondary_dirty_bitmap() in xg_sr_save.c.
"""

from xstream.errors import UnsupportedStream
from xstream.wire import libxc, libxl, signatures
from xstream.wire.frames import FRAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import List, Optional, Tuple, Union

    from xstream.wire.frames import Buffer

LAYER = signatures.COLO
DIRTY_PFN_LIST = 0x0F

if TYPE_CHECKING:
    Record = Union[libxl.CheckpointState, libxc.CheckpointDirtyPfnList]

START = signatures.COLO_START


def type_name(record_type: int) -> str:
    """The name that a record type has in libxl's or libxc's specification, or its number."""
    if record_type == DIRTY_PFN_LIST:
        return libxc.type_name(record_type)
    return libxl.type_name(record_type)


def type_of(record: "Record") -> int:
    """The record's type number."""
    return DIRTY_PFN_LIST if isinstance(record, libxc.CheckpointDirtyPfnList) else libxl.type_of(record)


def turn_of(record: "Record") -> int:
    """The key of a record in the order table: a state's control id, or DIRTY_PFN_LIST."""
    return DIRTY_PFN_LIST if isinstance(record, libxc.CheckpointDirtyPfnList) else record.control_id


def turn_name(turn: int) -> str:
    """The name of a value of ``turn_of``."""
    return type_name(turn) if turn == DIRTY_PFN_LIST else "CHECKPOINT_STATE {}".format(libxl.CHECKPOINT_STATES[turn])


def parse(record_type: int, body: "Buffer", padding: "Buffer" = b"") -> "Record":
    """The record for a body, as :func:`libxl.parse` and :func:`libxc.parse` return it. Raises what they raise, and
    UnsupportedStream for any other type."""
    if record_type not in (libxl.CHECKPOINT_STATE, DIRTY_PFN_LIST):
        raise UnsupportedStream("not a record of COLO's back channel", offset=-FRAME.size, field="type",
                                expected="CHECKPOINT_STATE or CHECKPOINT_DIRTY_PFN_LIST", got=type_name(record_type))
    wire: ModuleType = libxc if record_type == DIRTY_PFN_LIST else libxl
    record: Record = wire.parse(record_type, body, padding)
    return record


def build(record: "Record") -> "List[Buffer]":
    """The pieces of a record's body, in order, without frame and padding."""
    wire: ModuleType = libxc if type_of(record) == DIRTY_PFN_LIST else libxl
    pieces: List[Buffer] = wire.build(record)
    return pieces


def ignored_content(record: "Record") -> "Optional[Tuple[int, str, object]]":
    """(offset in the body, field, value) of a field that is ignored and should be zero, or None."""
    return None if isinstance(record, libxc.CheckpointDirtyPfnList) else libxl.ignored_content(record)

"""What is checked of each record beside the order of records: its body, and what it says about the guest's PFNs."""
from xstream.containers.opening import AnyReader
from xstream.stream.reader import from_legacy
from xstream.wire.libxc import GUEST_WIDTHS

# What type checkers need; the modules themselves are only loaded for streams that need them.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Optional

    from xstream.errors import StreamError
    from xstream.tools.pfn_checks import PfnChecks
    from xstream.wire.formats import AnyRecord
    from xstream.wire.frames import Buffer


_MEMORY = ("legacy", "libxc")
#: Where a record's body lies in it, by layer.
_BODY_OFFSET: "Dict[str, int]" = {"libxc": 8, "libxl": 8}


class RecordChecks:
    """Checks the records of a reader, or those that a conversion makes of them.

    The methods raise StreamError or a subclass. Offsets of errors about one record are relative to its body, unless
    they have a layer: then they are absolute.
    """

    def __init__(self, reader: AnyReader) -> None:
        self._reader = reader
        self._pfn_checks: Optional[PfnChecks] = None

    def batches(self, words: "Buffer") -> None:
        """Take note of the PFN words of one or more batches."""
        checks = self._need_pfn_checks()
        if checks is not None:
            checks.note_batch(words)

    def record(self, record: "AnyRecord") -> None:
        """Check a record that isn't a batch."""
        from xstream.tools.bodies import check_body  # loads what only some records need
        reader = self._reader
        legacy_width = reader.memory.head.width if reader.layer == "legacy" else 0  # type: ignore[union-attr]
        check_body(record, GUEST_WIDTHS.get(reader.pt_levels, 0), legacy_width,
                   converted=reader.layer in _MEMORY and from_legacy(reader))
        checks = self._need_pfn_checks()
        if checks is not None:
            checks.note(record)

    def located(self, error: "StreamError", record: "AnyRecord") -> "StreamError":
        """The error of ``record`` with its place, if the reader has just returned that record."""
        if error.layer is None:
            from xstream.wire.formats import record_name
            reader = self._reader
            error.located(layer=reader.layer, base=reader.offset + _BODY_OFFSET.get(reader.layer, 0),
                          record=reader.index, record_type=record_name(reader.layer, record))
        return error

    def finish(self) -> None:
        """Check what only the end can tell."""
        if self._pfn_checks is not None:
            self._pfn_checks.finish()

    def _need_pfn_checks(self) -> "Optional[PfnChecks]":
        """Those of a PV guest, or of a legacy stream, whose pages may be compressed; None for others."""
        if self._pfn_checks is None and (self._reader.pt_levels or self._reader.layer == "legacy"):
            from xstream.tools.pfn_checks import PfnChecks
            self._pfn_checks = PfnChecks(self._reader)
        return self._pfn_checks

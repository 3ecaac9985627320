"""A file with the records of earlier scans, so that an image that hasn't changed isn't read again."""
import base64
import json
from typing import IO, Any, Dict, Optional

from xstream.errors import BAD_STREAM, GOOD, LIMIT_REACHED
from xstream.fleet.duplicates import PageSample
from xstream.fleet.image import ImageRecord, Settings
from xstream.fleet.places import Place
from xstream.version import __version__

#: A failure to read, and a process that ended, may not happen again.
_LASTING = (GOOD, BAD_STREAM, LIMIT_REACHED)


class Cache:
    """Records by path or URL, size, stamp (modification time or ETag) and settings. Lines of JSON, added as images are
    done: a scan that is interrupted goes on where it was. Lines that can't be read are ignored.

    Raises OSError if the file can't be read or written.
    """

    def __init__(self, path: str, settings: Settings) -> None:
        # Whatever changes a record. Credentials don't, and aren't written.
        self._settings = repr((__version__, settings._replace(storage_options=None)))
        self._records: Dict[str, ImageRecord] = {}
        self._file: IO[str] = open(path, "a+", encoding="ascii", errors="replace")
        self._file.seek(0)
        last = "\n"
        for last in self._file:
            self._load(last)
        if not last.endswith("\n"):
            self._file.write("\n")  # an interrupted scan has left part of a line

    def _load(self, line: str) -> None:
        try:
            key, fields = json.loads(line)
            sample = fields.pop("sample")
            if sample is not None:
                pages, end, hashes = sample
                fields["sample"] = PageSample(pages, end, base64.b64decode(hashes))
            self._records[str(key)] = ImageRecord(**fields)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            pass

    def find(self, place: Place) -> Optional[ImageRecord]:
        """The record of an image that hasn't changed, or None."""
        return None if place.stamp is None else self._records.get(self._key(place))

    def add(self, place: Place, record: ImageRecord) -> None:
        """Write a record, if it would be the same again and a change of the image would be noticed."""
        if place.stamp is None or record.status not in _LASTING:
            return
        fields: Dict[str, Any] = dict(record._asdict())
        if record.sample is not None:
            pages, end, hashes = record.sample
            fields["sample"] = [pages, end, base64.b64encode(hashes).decode("ascii")]
        self._file.write(json.dumps([self._key(place), fields]) + "\n")
        self._file.flush()

    def _key(self, place: Place) -> str:
        return json.dumps([place.path, place.bytes, place.stamp, self._settings])

    def close(self) -> None:
        self._file.close()

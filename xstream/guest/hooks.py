"""A guest's hooks as the engines call them: every exception becomes a HookError that names the hook."""

from xstream.contexts import suppress
from xstream.guest.guest import Completed, Guest, GuestError, HookError, Pages
from xstream.kernels import pages as page_kernel
from xstream.wire.libxc import PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Optional, Sequence, Type

    from xstream.wire.frames import Buffer
    from xstream.wire.libxc import Record


class _Naming:
    """Turns exceptions raised within it into HookError."""

    def __init__(self, hook: str) -> None:
        self._hook = hook

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: "Optional[Type[BaseException]]", error: "Optional[BaseException]",
                 trace: "Optional[TracebackType]") -> None:
        if isinstance(error, Exception):
            raise HookError(self._hook, error) from error


class Mapped:
    """Pages that are unmapped at the end of a ``with`` statement."""

    def __init__(self, hooks: "Hooks", pages: Pages) -> None:
        self._hooks = hooks
        self._pages = pages

    def __enter__(self) -> Pages:
        return self._pages

    def __exit__(self, kind: "Optional[Type[BaseException]]", error: "Optional[BaseException]",
                 trace: "Optional[TracebackType]") -> None:
        if kind is None:
            self._hooks.unmap_pages(self._pages)
        else:
            with suppress(HookError):
                self._hooks.unmap_pages(self._pages)


class Hooks:
    """The hooks of a guest, under the same names; see :class:`~xstream.guest.guest.Guest`."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def mapped(self, frames: memoryview, *, running: bool = False) -> "Mapped":
        """Map pages for the duration of a ``with`` statement. They are unmapped after a failure too; an exception from
        unmapping doesn't hide the first one. Raises GuestError for missing pages, unless the guest is ``running``."""
        return Mapped(self, self.map_whole(frames, running=running))

    def map_whole(self, frames: memoryview, *, running: bool = False) -> Pages:
        """Map pages until ``unmap_pages``. Raises what :meth:`mapped` does."""
        pages = self.map_pages(frames)
        if len(pages.missing) not in (0, len(frames)):
            problem = "map_pages() returned {} flags of missing pages for {} frames".format(
                len(pages.missing), len(frames))
        elif not running and any(pages.missing):
            problem = "map_pages() reports missing pages although the guest isn't running"
        else:
            return pages
        with suppress(HookError):
            self.unmap_pages(pages)
        raise GuestError(problem)

    def read(self, frames: memoryview) -> bytearray:
        """A copy of the pages of some frames."""
        out = bytearray(len(frames) * PAGE_SIZE)
        with self.mapped(frames) as pages:
            page_kernel.gather(pages.memory, pages.at, out)
        return out

    # Three hooks are called for each batch, with cold caches, so they do without a context manager.

    def map_pages(self, frames: memoryview) -> Pages:
        try:
            return self._guest.map_pages(frames)
        except Exception as error:
            raise HookError("map_pages", error) from error

    def unmap_pages(self, pages: Pages) -> None:
        try:
            self._guest.unmap_pages(pages)
        except Exception as error:
            raise HookError("unmap_pages", error) from error

    def page_types(self, frames: memoryview, types: memoryview) -> None:
        try:
            self._guest.page_types(frames, types)
        except Exception as error:
            raise HookError("page_types", error) from error

    def end(self) -> None:
        with _Naming("end"):
            self._guest.end()

    def start_save(self, pfn_end: int) -> None:
        with _Naming("start_save"):
            self._guest.start_save(pfn_end)

    def pfn_end(self) -> int:
        with _Naming("pfn_end"):
            return self._guest.pfn_end()

    def static_records(self) -> "Sequence[Record]":
        with _Naming("static_records"):
            return self._guest.static_records()

    def state_records(self) -> "Sequence[Record]":
        with _Naming("state_records"):
            return self._guest.state_records()

    def track_dirty(self, on: bool) -> None:
        with _Naming("track_dirty"):
            self._guest.track_dirty(on)

    def read_dirty(self, bitmap: memoryview, clean: bool, final: bool) -> None:
        with _Naming("read_dirty"):
            self._guest.read_dirty(bitmap, clean, final)

    def count_dirty(self) -> "Optional[int]":
        with _Naming("count_dirty"):
            return self._guest.count_dirty()

    def suspend(self) -> None:
        with _Naming("suspend"):
            self._guest.suspend()

    def resume(self) -> None:
        with _Naming("resume"):
            self._guest.resume()

    def m2p(self) -> "Buffer":
        with _Naming("m2p"):
            return self._guest.m2p()

    def shared_info(self) -> "Buffer":
        with _Naming("shared_info"):
            return self._guest.shared_info()

    def start_restore(self, guest_width: int) -> None:
        with _Naming("start_restore"):
            self._guest.start_restore(guest_width)

    def load_static(self, records: "Sequence[Record]") -> None:
        with _Naming("load_static"):
            self._guest.load_static(records)

    def populate(self, pfns: memoryview, frames: memoryview) -> None:
        with _Naming("populate"):
            self._guest.populate(pfns, frames)

    def set_types(self, words: memoryview) -> None:
        with _Naming("set_types"):
            self._guest.set_types(words)

    def load_state(self, records: "Sequence[Record]") -> None:
        with _Naming("load_state"):
            self._guest.load_state(records)

    def pin_tables(self, frames: memoryview, types: memoryview) -> None:
        with _Naming("pin_tables"):
            self._guest.pin_tables(frames, types)

    def complete(self, result: Completed) -> None:
        with _Naming("complete"):
            self._guest.complete(result)

    def abandon(self) -> None:
        with _Naming("abandon"):
            self._guest.abandon()

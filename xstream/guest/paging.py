"""The page tables that the virtual CPUs of a saved guest use.

Source: Intel SDM volume 3, chapter 4. The tables of a PV guest in a stream hold PFNs, so they are read as an HVM
guest's.
"""
import numpy

from xstream.guest.memory_view import MemoryView
from xstream.guest.vcpus import Vcpu
from xstream.kernels import pfns as pfn_kernel
from xstream.tuples import NamedTuple
from xstream.wire.libxc import PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, List, Sequence, Tuple

_PRESENT, _LARGE = 1, 1 << 7
_FRAME = (1 << 52) - PAGE_SIZE
_CR0_PG, _CR4_PAE, _CR4_LA57, _EFER_LMA = 1 << 31, 1 << 5, 1 << 12, 1 << 10
#: Tables read at once.
_AT_ONCE = 1024


class _Form(NamedTuple):
    """A form of page tables: how many levels; the size of an entry in bytes; the levels at which an entry can map a
    large page instead of pointing to a table; how many entries the top table has."""

    levels: int
    entry_size: int = 8
    large: "Tuple[int, ...]" = (2, 3)
    top_entries: int = 512


class Tables(NamedTuple):
    """The pages that are page tables: ``pfns``, ndarray (n,) uint64, ascending, and the level of each, ndarray (n,)
    uint8, 1 to 5; of a page that is used at several levels, the highest."""

    pfns: numpy.ndarray
    levels: numpy.ndarray


def uses_paging(cpu: Vcpu) -> bool:
    """Whether a vcpu's cr3 is in use: an HVM guest's firmware may run without paging."""
    return cpu.kind == "pv" or bool(cpu.registers.get("cr0", 0) & _CR0_PG)


def reached_tables(view: MemoryView, cpus: "Sequence[Vcpu]") -> Tables:
    """The page tables that the vcpus' cr3 lead to.

    Only pages that are in the stream count. Time and memory are bounded by the guest's size, whatever the entries say.
    """
    tops: Dict[_Form, List[int]] = {}
    for cpu in filter(uses_paging, cpus):
        form = _form(cpu, view.pt_levels)
        # A PAE guest's top table has 32 bytes, and may begin anywhere in its page.
        inside = cpu.registers.get("cr3", 0) % PAGE_SIZE & ~31 if form.top_entries == 4 else 0
        tops.setdefault(form, []).append(cpu.page_table * PAGE_SIZE + inside)
    found = [level for form, addresses in tops.items() for level in _walk(view, form, addresses)]
    found.sort(key=lambda tables: -tables[0])
    pfns = numpy.concatenate([numpy.zeros(0, numpy.uint64)] + [pfns for _, pfns in found])
    levels = numpy.concatenate([numpy.zeros(0, numpy.uint8)] + [
        numpy.full(len(pfns), level, numpy.uint8) for level, pfns in found])
    pfns, first = numpy.unique(pfns, return_index=True)
    return Tables(pfns, levels[first])


def _form(cpu: Vcpu, pv_levels: int) -> _Form:
    """The page tables that a vcpu uses."""
    if cpu.kind == "pv":
        return _Form(pv_levels, large=())
    cr4, efer = (cpu.registers.get(name, 0) for name in ("cr4", "msr_efer"))
    if efer & _EFER_LMA:
        return _Form(5 if cr4 & _CR4_LA57 else 4)
    return _Form(3, large=(2,), top_entries=4) if cr4 & _CR4_PAE else _Form(2, entry_size=4, large=(2,))


def _walk(view: MemoryView, form: _Form, addresses: "Sequence[int]") -> "List[Tuple[int, numpy.ndarray]]":
    """(level, PFNs of the tables) of each level, from the top."""
    tables = _in_stream(view, numpy.array([address // PAGE_SIZE for address in addresses], numpy.uint64))
    found = [(form.levels, tables)]
    pieces: Iterable[numpy.ndarray]
    for level in range(form.levels, 1, -1):
        if level == 3 and form.top_entries == 4:
            pieces = [numpy.frombuffer(view.read(address, 32), numpy.uint8) for address in addresses]
        else:
            pieces = (view.pages(tables[start:start + _AT_ONCE]).reshape(-1)
                      for start in range(0, len(tables), _AT_ONCE))
        below = [_targets(piece.view("<u{}".format(form.entry_size)), level in form.large) for piece in pieces]
        tables = _in_stream(view, numpy.concatenate([numpy.zeros(0, numpy.uint64)] + below))
        found.append((level - 1, tables))
    return found


def _targets(entries: numpy.ndarray, large: bool) -> numpy.ndarray:
    """The PFNs that entries point to, each once."""
    flags = entries & (_PRESENT | _LARGE if large else _PRESENT)
    return numpy.unique((entries[flags == _PRESENT].astype(numpy.uint64) & numpy.uint64(_FRAME)) >> numpy.uint64(12))


def _in_stream(view: MemoryView, pfns: numpy.ndarray) -> numpy.ndarray:
    """Those of the PFNs whose contents are in the stream, each once, ascending."""
    pfns = numpy.unique(pfns[pfns < len(view)])
    found: numpy.ndarray = pfns[view.state[pfns.astype(numpy.int64)] & pfn_kernel.SENT != 0]
    return found

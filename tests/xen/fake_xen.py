"""A Xen that answers the hypercalls of xstream.xen from simulated domains, on a machine without Xen.

It reads and fills the structures that privcmd would be given, at their addresses.
"""
import ctypes
import errno
import os
import struct

from xstream.kernels import mapping
from xstream.xen import interface, privcmd

HYPERCALL, MAP_BATCH, MAP_RESOURCE = 0x305000, 0x205004, 0x205007
PAGE = 4096


def memory_at(address, size):
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


class FakeXen:
    """Domains by number; ``frames`` are their pages. ``calls`` lists (operation, domid) as they came."""

    def __init__(self, monkeypatch, version=0x15):
        self.version = version
        self.domains = {0: {"flags": 0}}
        self.calls = []
        self.fail = {}
        self.dirty = b""
        self.granted = b""
        monkeypatch.setattr(privcmd, "_open_device", lambda: os.open("/dev/zero", os.O_RDWR))
        monkeypatch.setattr(privcmd, "_BUFFER_DEVICE", "/dev/zero")
        monkeypatch.setattr(privcmd.fcntl, "ioctl", self.ioctl)
        # The pages of a read-only mapping have to be filled, too.
        monkeypatch.setattr(privcmd.mmap, "PROT_READ", privcmd.mmap.PROT_READ | privcmd.mmap.PROT_WRITE)
        self._mapped = {}
        close = privcmd.ForeignMapping.close

        def write_back(mapped):
            self._unmap(mapped)
            close(mapped)

        monkeypatch.setattr(privcmd.ForeignMapping, "close", write_back)

    def add(self, domid, pages, *, hvm=True, params=None, context=b"", policies=(b"", b"")):
        self.domains[domid] = {
            "flags": interface.DOMAIN_HVM if hvm else 0, "pages": pages, "params": dict(params or {}),
            "context": context, "policies": policies, "tsc": (0, 2000000, 1, 0, 77)}

    def ioctl(self, fd, request, block, mutate=True):
        if request == HYPERCALL:
            op, *arguments = struct.unpack("<6Q", block)
            return getattr(self, "op_" + interface.HYPERCALL_NAMES[op])(*arguments)
        if request == MAP_BATCH:
            return self.map_batch(*struct.unpack("<IH2x3Q", block))
        assert request == MAP_RESOURCE
        domid, kind, number, first, count, address = struct.unpack("<H2x3I2Q", block)
        assert (kind, number, first, count) == (interface.RESOURCE_GRANT_TABLE, 0, 0, 1)
        self._mapped[address] = None, ()
        return 0

    def _unmap(self, mapped):
        """Take over what was written to frames that were mapped."""
        domid, frames = self._mapped.pop(mapping.address(mapped.memory))
        if domid is None:
            self.granted = bytes(mapped.memory)
        elif not mapped.memory.readonly:
            for index, frame in enumerate(frames):
                self.domains[domid]["pages"][frame] = bytes(mapped.memory[PAGE * index:PAGE * (index + 1)])

    def map_batch(self, count, domid, address, frames, errors):
        pages = self.domains[domid]["pages"]
        self._mapped[address] = domid, memory_at(frames, 8 * count).cast("Q").tolist()
        for index, frame in enumerate(self._mapped[address][1]):
            if frame in pages:
                memory_at(address + PAGE * index, PAGE)[:] = pages[frame]
            else:
                memory_at(errors, 4 * count).cast("i")[index] = -errno.EINVAL
        return 0

    def op_xen_version(self, command, argument, *rest):
        return 4 << 16 | 17

    def op_memory_op(self, command, argument, *rest):
        if command == interface.MAXIMUM_GPFN:
            domid, = struct.unpack("<H", memory_at(argument, 2))
            return max(self.domains[domid]["pages"])
        assert command == interface.POPULATE_PHYSMAP
        pointer, count, order, flags, domid = struct.unpack("<2Q2IH", memory_at(argument, 26))
        assert order in (0, 9) and flags == 0
        domain = self.domains[domid]
        room = domain.get("superpages" if order else "room", 1 << 30)
        extents = memory_at(pointer, 8 * count).cast("Q")
        self.calls.append(("populate", order, min(count, room)))
        for index, pfn in enumerate(extents[:room]):
            base = pfn
            if not domain["flags"] & interface.DOMAIN_HVM:
                base = extents[index] = domain["next_frame"] = domain.get("next_frame", 0x8000) + 1024
            for frame in range(base, base + (1 << order)):
                assert frame not in domain["pages"]
                domain["pages"][frame] = bytes(PAGE)
        return min(count, room)

    def op_hvm_op(self, command, argument, *rest):
        domid, index, value = struct.unpack("<H2xIQ", memory_at(argument, 16))
        params = self.domains[domid]["params"]
        if command == interface.SET_HVM_PARAM:
            params[index] = value
        else:
            memory_at(argument, 16)[8:] = struct.pack("<Q", params.get(index, 0))
        return 0

    def op_domctl(self, address, *rest):
        memory = memory_at(address, 144)
        command, version, domid = struct.unpack_from("<IIH", memory)
        if version != self.version:
            raise OSError(errno.EACCES, "")
        self.calls.append((command, domid))
        if command in self.fail:
            raise OSError(self.fail[command], "")
        union = memory[16:]
        getattr(self, "domctl_{}".format(command))(domid, union)
        return 0

    def domctl_5(self, domid, union):
        found = min(number for number in self.domains if number >= domid) if domid <= max(self.domains) else 0
        flags = self.domains[found]["flags"]
        struct.pack_into("<H2xI7Q2I", union, 0, found, flags, 0, 0, 0, 0, 0, 0x99, 0, 1, 0)

    def domctl_10(self, domid, union):
        op, mode, mb, pointer, pages, _, _ = struct.unpack_from("<3I4x2Q2I", union)
        self.calls.append(("shadow", op, mode))
        if op in (interface.LOGDIRTY_CLEAN, interface.LOGDIRTY_PEEK):
            if pointer:
                memory_at(pointer, len(self.dirty))[:] = self.dirty
            struct.pack_into("<I", union, 36, sum(bin(byte).count("1") for byte in self.dirty))

    def domctl_33(self, domid, union):
        size, pointer = struct.unpack_from("<I4xQ", union)
        context = self.domains[domid]["context"]
        if pointer:
            assert size == len(context)
            memory_at(pointer, size)[:] = context
        struct.pack_into("<I", union, 0, len(context))

    def domctl_34(self, domid, union):
        size, pointer = struct.unpack_from("<I4xQ", union)
        self.domains[domid]["context"] = bytes(memory_at(pointer, size))

    def domctl_59(self, domid, union):
        struct.pack_into("<4IQ", union, 0, *self.domains[domid]["tsc"])

    def domctl_60(self, domid, union):
        self.domains[domid]["tsc"] = struct.unpack_from("<4IQ", union)

    def domctl_61(self, domid, union):
        count, pointer = struct.unpack_from("<2Q", union)
        frames = memory_at(pointer, 8 * count).cast("Q")
        for index in range(count):
            frames[index] = 0 if frames[index] in self.domains[domid]["pages"] else 0xF0000000

    def domctl_82(self, domid, union):
        leaves, msrs = self.domains[domid]["policies"]
        nr_leaves, nr_msrs, leaf_pointer, msr_pointer = struct.unpack_from("<2I2Q", union)
        if leaf_pointer:
            memory_at(leaf_pointer, len(leaves))[:] = leaves
            memory_at(msr_pointer, len(msrs))[:] = msrs
        struct.pack_into("<2I", union, 0, len(leaves) // 24, len(msrs) // 16)

    def domctl_83(self, domid, union):
        nr_leaves, nr_msrs, leaf_pointer, msr_pointer, *errors = struct.unpack_from("<2I2Q3I", union)
        assert errors == [0xFFFFFFFF] * 3
        self.domains[domid]["policies"] = (bytes(memory_at(leaf_pointer, 24 * nr_leaves)),
                                           bytes(memory_at(msr_pointer, 16 * nr_msrs)))


# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest's physical memory: mappings of this process, reached by guest-physical address."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
from contextlib import suppress
from typing import Iterator, NamedTuple, Sequence, overload

from ..units import format_size
from .errors import ConfigError, HostError

PAGE = 4096
GAP_START = 0xC000_0000  # below 4 GiB the last GiB belongs to devices, as on a PC
GAP_END = 0x1_0000_0000
HUGE_PAGES = (2 << 20, 1 << 30)  # those of x86-64
_WINDOW = 32 << 30
_SECTION = 128 << 20  # what Linux adds memory in (its SECTION_SIZE)
# include/uapi/asm-generic/mman-common.h and mman.h; the mmap module has none of them before 3.13
MAP_NORESERVE, _MAP_HUGETLB, _HUGE_SHIFT = 0x4000, 0x40000, 26
_ADD_SEALS, _SEAL_ALL, _SEAL_SHRINK, _SEAL_GROW = 1033, 0x1, 0x2, 0x4  # linux/fcntl.h
_IOVEC = struct.Struct("QQ")  # include/uapi/linux/uio.h
_HUGE_PAGES_OF_HOST = "/sys/kernel/mm/hugepages"


class Backing(NamedTuple):
    """Where a guest's memory comes from.

    ``page`` is the size of the host's huge pages that it consists of (hugetlbpage.rst), 0 for
    pages as the host has them; with ``thp`` the host is asked to make those huge where it can
    (transhuge.rst). ``shared`` memory can be mapped by another process too, as vhost-user wants it.
    """

    page: int = 0
    thp: bool = False
    shared: bool = False


PLAIN = Backing()


class Region:
    """One contiguous piece of guest memory, a memory slot for KVM.

    ``mapping`` is what it stands on, of ``size`` bytes at least, and ``fd`` the file behind that,
    -1 for none. A ``read_only`` one is mapped without leave to write. ``returns`` is the advice
    (madvise(2)) by which its pages are given back to the host, None where they are kept.
    """

    def __init__(
        self,
        start: int,
        size: int,
        mapping: mmap.mmap,
        fd: int = -1,
        *,
        read_only: bool = False,
        returns: int | None = None,
    ) -> None:
        self.start = start
        self.size = size
        self.map = mapping
        self.fd = fd
        self.read_only = read_only
        self.returns = returns
        anchor = ctypes.c_char.from_buffer(self.map)
        self.address = ctypes.addressof(anchor)  # where the region lies in this process
        del anchor
        whole = memoryview(self.map)[:size]
        self.view = whole.toreadonly() if read_only else whole
        self.words = self.view.cast("H")  # a word is read and written at once, never by halves

    def give_back(self, offset: int, length: int) -> int:
        """Let the host have the whole pages in there, which read as zeros then; return their bytes.

        0 where the host keeps them, because it can take none of these or will not.
        """
        first = offset + PAGE - 1 & -PAGE
        size = (offset + length & -PAGE) - first
        if self.returns is None or size <= 0:
            return 0
        try:
            self.map.madvise(self.returns, first, size)
        except OSError:  # locked, as all of a process may be
            return 0
        return size

    def close(self) -> None:
        """Give the memory back, unless somebody still holds a piece of it."""
        self.words.release()
        self.view.release()
        with suppress(BufferError):
            self.map.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class IoVector(Sequence[memoryview]):
    """Pieces of a region in the form that the kernel takes: ``iovecs`` is an array of struct iovec.

    They become memoryviews one by one where somebody looks at them.
    """

    def __init__(self, region: Region, iovecs: bytes) -> None:
        self._region = region
        self.iovecs = iovecs

    def total(self) -> int:
        """Return the bytes that there are in all of them."""
        return sum(memoryview(self.iovecs).cast("Q")[1::2].tolist())

    def __len__(self) -> int:
        return len(self.iovecs) // _IOVEC.size

    @overload
    def __getitem__(self, which: int) -> memoryview: ...

    @overload
    def __getitem__(self, which: slice) -> IoVector: ...

    def __getitem__(self, which: int | slice) -> memoryview | IoVector:
        if isinstance(which, slice):
            first, end, step = which.indices(len(self))
            if step != 1:
                raise IndexError("pieces are taken one after the other")
            return IoVector(self._region, self.iovecs[_IOVEC.size * first : _IOVEC.size * end])
        count = len(self)
        if not -count <= which < count:
            raise IndexError(which)
        return self._view(*_IOVEC.unpack_from(self.iovecs, _IOVEC.size * (which % count)))

    def __iter__(self) -> Iterator[memoryview]:
        return (self._view(*each) for each in _IOVEC.iter_unpack(self.iovecs))

    def _view(self, place: int, length: int) -> memoryview:
        offset = place - self._region.address
        return self._region.view[offset : offset + length]


def total(buffers: Sequence[memoryview]) -> int:
    """Return the bytes that there are in all of the buffers."""
    return buffers.total() if isinstance(buffers, IoVector) else sum(map(len, buffers))


def _free_pages(page: int) -> int | None:
    """Return how many huge pages the host has left; None where it has none or cannot be asked."""
    try:
        with open(f"{_HUGE_PAGES_OF_HOST}/hugepages-{page >> 10}kB/free_hugepages") as file:
            free = int(file.read())
        with open(f"{_HUGE_PAGES_OF_HOST}/hugepages-{page >> 10}kB/resv_hugepages") as file:
            return free - int(file.read())  # promised to others already
    except OSError:
        return None


def check_pages(size: int, backing: Backing) -> None:
    """Raise HostError if the host has not the huge pages for ``size`` bytes of memory now.

    When the memory is mapped, the host may be out of sight already.
    """
    if backing.page in HUGE_PAGES:
        free = _free_pages(backing.page)
        if free is None or free < size // backing.page:
            raise _too_few_pages(size, backing.page, OSError("Cannot allocate memory"))


def _too_few_pages(size: int, page: int, error: Exception) -> HostError:
    """Say what the host lacks for ``size`` bytes in huge pages."""
    needed, name = size // page, format_size(page)
    free = _free_pages(page)
    if free is None:
        return HostError(f"this host has no huge pages of {name}: {error}")
    return HostError(
        f"the guest needs {needed} huge pages of {name}, this host has {max(free, 0)} free",
        "free some, or have more made (vm.nr_hugepages)",
    )


def _map_anonymous(size: int, backing: Backing) -> mmap.mmap:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    if backing.page:
        # Without MAP_NORESERVE: what the host has too few of is refused here, not in the guest.
        order = backing.page.bit_length() - 1
        return mmap.mmap(-1, size, flags=flags | _MAP_HUGETLB | order << _HUGE_SHIFT)
    flags |= MAP_NORESERVE
    mapping = mmap.mmap(-1, size, flags=flags)
    if backing.thp and size >= HUGE_PAGES[0]:
        # KVM maps a huge page where both addresses are aligned. The kernel fills its address space
        # from above: what is longer by the remainder begins at the boundary below.
        anchor = ctypes.c_char.from_buffer(mapping)
        beyond = ctypes.addressof(anchor) % HUGE_PAGES[0]
        del anchor
        if beyond:
            mapping.close()
            mapping = mmap.mmap(-1, size + beyond, flags=flags)
    return mapping


def _map_shared(size: int, backing: Backing) -> tuple[mmap.mmap, int]:
    """Return a mapping and its file, whose size nobody can change any more."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    if backing.page:
        flags |= os.MFD_HUGETLB | (backing.page.bit_length() - 1) << os.MFD_HUGE_SHIFT
    fd = os.memfd_create("guest", flags)
    try:
        os.ftruncate(fd, size)
        # Whoever gets the file could else take the memory from under this process.
        fcntl.fcntl(fd, _ADD_SEALS, _SEAL_SHRINK | _SEAL_GROW | _SEAL_ALL)
        reserve = 0 if backing.page else MAP_NORESERVE
        return mmap.mmap(fd, size, flags=mmap.MAP_SHARED | reserve), fd
    except BaseException:
        os.close(fd)
        raise


def allocate(start: int, size: int, backing: Backing) -> Region:
    """Return new memory for the guest-physical address ``start``, all zeros.

    Raises HostError where the host has not got it. Huge pages are never given back: another could
    take them, and the guest would die when it touches the place again.
    """
    try:
        if backing.shared:
            mapping, fd = _map_shared(size, backing)
            returns = mmap.MADV_REMOVE
        else:
            mapping, fd = _map_anonymous(size, backing), -1
            returns = mmap.MADV_DONTNEED
    except (OSError, ValueError, OverflowError) as error:
        if backing.page:
            raise _too_few_pages(size, backing.page, error) from error
        raise HostError(f"cannot map {size} bytes of guest memory: {error}") from error
    if backing.thp and not backing.page:
        with suppress(OSError):  # a kernel without them
            mapping.madvise(mmap.MADV_HUGEPAGE)
    return Region(start, size, mapping, fd, returns=None if backing.page else returns)


class GuestMemory:
    """All memory of a guest: ``size`` bytes from address 0, what passes 3 GiB continued at 4 GiB.

    ``more`` are regions that devices put behind it; they get their place here and outlive it.
    Every access is checked against the regions; an address outside raises ConfigError.
    """

    def __init__(self, size: int, backing: Backing = PLAIN, more: Sequence[Region] = ()) -> None:
        if backing.page and backing.page not in HUGE_PAGES:
            raise ConfigError(
                f"huge pages are of {' or '.join(map(format_size, HUGE_PAGES))}, "
                f"found {format_size(backing.page)}"
            )
        page = backing.page or PAGE
        if size <= 0 or size % page:
            unit = f"{format_size(page)}, its huge pages" if backing.page else f"{PAGE} bytes"
            raise ConfigError(f"memory must be a positive multiple of {unit}, found {size}")
        self.size = size
        self.regions: list[Region] = []
        self.backing = backing
        self.devices = tuple(more)
        try:
            self.regions.append(allocate(0, min(size, GAP_START), backing))
            if size > GAP_START:
                self.regions.append(allocate(GAP_END, size - GAP_START, backing))
        except HostError:
            self.close()
            raise
        for region in more:
            region.start = -(-self._top() // _SECTION) * _SECTION
            self.regions.append(region)

    def _top(self) -> int:
        """Return the first address above 4 GiB that no region has."""
        return max(GAP_END, *(region.start + region.size for region in self.regions))

    def find(self, address: int, length: int) -> tuple[Region, int]:
        """Return the region that holds all of it, and the offset in the region."""
        for region in self.regions:
            offset = address - region.start
            if offset >= 0 and offset + length <= region.size:
                return region, offset
        raise ConfigError(
            f"{length} bytes at {address:#x} lie outside the guest's {self.size} bytes of memory"
        )

    def guest_address(self, place: int) -> int:
        """Return the guest-physical address of what lies at ``place`` in this process."""
        for region in self.regions:
            if region.address <= place < region.address + region.size:
                return region.start + place - region.address
        raise ConfigError("a place outside of the guest's memory")

    def read(self, address: int, length: int) -> bytes:
        """Return ``length`` bytes at guest-physical ``address``."""
        region, offset = self.find(address, length)
        return region.map[offset : offset + length]

    def view(self, address: int, length: int) -> memoryview:
        """Return the guest's bytes themselves, for reading in place."""
        region, offset = self.find(address, length)
        return region.view[offset : offset + length]

    def room(self, address: int, length: int) -> memoryview:
        """Return the guest's bytes themselves, for writing in place; ConfigError if read-only."""
        region, offset = self.find(address, length)
        if region.read_only:
            raise ConfigError(f"{length} bytes at {address:#x} may not be written")
        return region.view[offset : offset + length]

    def write(self, address: int, data: bytes | bytearray | memoryview | mmap.mmap) -> None:
        """Write ``data`` at guest-physical ``address``."""
        region, offset = self.find(address, len(data))
        if region.read_only:
            raise ConfigError(f"{len(data)} bytes at {address:#x} may not be written")
        region.map[offset : offset + len(data)] = data

    def high_window(self) -> tuple[int, int]:
        """Return the addresses behind all memory that devices may use: first, first behind."""
        start = -(-self._top() // _WINDOW) * _WINDOW
        return start, start + _WINDOW

    def close(self) -> None:
        """Give all memory back but what belongs to devices."""
        for region in self.regions:
            if region not in self.devices:
                region.close()
        self.regions = []

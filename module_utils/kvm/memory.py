# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest's physical memory: anonymous mappings, reached by guest-physical address."""

from __future__ import annotations

import ctypes
import mmap

from .errors import ConfigError, HostError

PAGE = 4096
GAP_START = 0xC000_0000  # below 4 GiB the last GiB belongs to devices, as on a PC
GAP_END = 0x1_0000_0000
_MAP_NORESERVE = (
    0x4000  # include/uapi/asm-generic/mman-common.h; the mmap module lacks it before 3.13
)


class Region:
    """One contiguous piece of guest memory, a memory slot for KVM."""

    def __init__(self, start: int, size: int) -> None:
        self.start = start
        self.size = size
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        try:
            self.map = mmap.mmap(-1, size, flags=flags)
        except (OSError, ValueError, OverflowError) as error:
            raise HostError(f"cannot map {size} bytes of guest memory: {error}") from error
        anchor = ctypes.c_char.from_buffer(self.map)
        self.address = ctypes.addressof(anchor)  # where the region lies in this process
        del anchor

    def close(self) -> None:
        """Give the memory back."""
        self.map.close()


class GuestMemory:
    """All memory of a guest: ``size`` bytes from address 0, what passes 3 GiB continued at 4 GiB.

    Every access is checked against the regions; an address outside raises ConfigError.
    """

    def __init__(self, size: int) -> None:
        if size <= 0 or size % PAGE:
            raise ConfigError(f"memory must be a positive multiple of {PAGE} bytes, found {size}")
        self.size = size
        self.regions: list[Region] = []
        try:
            self.regions.append(Region(0, min(size, GAP_START)))
            if size > GAP_START:
                self.regions.append(Region(GAP_END, size - GAP_START))
        except HostError:
            self.close()
            raise

    def _find(self, address: int, length: int) -> tuple[Region, int]:
        for region in self.regions:
            offset = address - region.start
            if offset >= 0 and offset + length <= region.size:
                return region, offset
        raise ConfigError(
            f"{length} bytes at {address:#x} lie outside the guest's {self.size} bytes of memory"
        )

    def read(self, address: int, length: int) -> bytes:
        """Return ``length`` bytes at guest-physical ``address``."""
        region, offset = self._find(address, length)
        return region.map[offset : offset + length]

    def write(self, address: int, data: bytes) -> None:
        """Write ``data`` at guest-physical ``address``."""
        region, offset = self._find(address, len(data))
        region.map[offset : offset + len(data)] = data

    def close(self) -> None:
        """Give all memory back."""
        for region in self.regions:
            region.close()
        self.regions = []

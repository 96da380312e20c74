# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a guest's memory comes from: huge pages and their lack, shared memory, pages given back."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest
from ansible.module_utils.kvm import abi, attach, device
from ansible.module_utils.kvm import memory as memory_module
from ansible.module_utils.kvm.errors import ConfigError, HostError
from ansible.module_utils.kvm.memory import PAGE, Backing, GuestMemory, Region, allocate
from ansible.module_utils.kvm.virtio.pmem import open_image

MIB, GIB = 1 << 20, 1 << 30
HUGE = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")


def free_huge_pages():
    try:
        return int((HUGE / "free_hugepages").read_text())
    except OSError:
        return -1


def flags_of(region):
    """Return the flags of a region's mapping, as /proc/PID/smaps has them."""
    found = []
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(" ", 1)[0]
        if "-" in first and ":" not in first:
            start, end = (int(one, 16) for one in first.split("-"))
            inside = start <= region.address < end
        elif inside and line.startswith("VmFlags:"):
            found = line.split()[1:]
    return found


@pytest.mark.parametrize(
    ("size", "page", "what"),
    [
        (3 * MIB, 2 * MIB, "multiple of 2MiB, its huge pages"),
        (PAGE, 2 * MIB, "multiple of 2MiB, its huge pages"),
        (512 * MIB, GIB, "multiple of 1GiB, its huge pages"),
        (128 * MIB, 4 * MIB, "huge pages are of 2MiB or 1GiB, found 4MiB"),
        (128 * MIB, PAGE, "huge pages are of 2MiB or 1GiB, found 4KiB"),
    ],
)
def test_a_size_that_is_no_number_of_huge_pages_is_refused(size, page, what):
    with pytest.raises(ConfigError, match=what):
        GuestMemory(size, Backing(page))


@pytest.mark.skipif(free_huge_pages() < 0, reason="this kernel has no huge pages")
@pytest.mark.parametrize("shared", [False, True])
def test_a_host_without_free_huge_pages_is_told_before_anything_runs(shared):
    free = free_huge_pages()
    reserved = int((HUGE / "resv_hugepages").read_text())
    needed = free + 8
    with pytest.raises(
        HostError,
        match=f"needs {needed} huge pages of 2MiB, this host has {free - reserved} free",
    ) as caught:
        GuestMemory(needed * 2 * MIB, Backing(2 * MIB, shared=shared))
    assert "vm.nr_hugepages" in caught.value.remedy


def test_a_host_that_knows_no_such_pages_is_told_so(monkeypatch, tmp_path):
    monkeypatch.setattr(memory_module, "_HUGE_PAGES_OF_HOST", str(tmp_path))
    with pytest.raises(HostError, match="this host has no huge pages of 1GiB"):
        GuestMemory(1 << 40, Backing(GIB))


@pytest.mark.skipif(free_huge_pages() < 2, reason="no huge page is free here")
@pytest.mark.parametrize("shared", [False, True])
def test_memory_of_huge_pages(shared):
    memory = GuestMemory(4 * MIB, Backing(2 * MIB, shared=shared))
    (region,) = memory.regions
    memory.write(3 * MIB, b"here")
    assert "ht" in flags_of(region)
    assert region.give_back(0, 4 * MIB) == 0
    assert memory.read(3 * MIB, 4) == b"here"
    memory.close()


def test_memory_for_transparent_huge_pages_is_aligned_and_advised():
    for size in (2 * MIB, 5 * MIB, 64 * MIB):
        region = allocate(0, size, Backing(thp=True))
        assert region.address % (2 * MIB) == 0
        assert len(region.view) == region.size == size
        if os.path.exists("/sys/kernel/mm/transparent_hugepage"):
            assert "hg" in flags_of(region)
        region.close()
    small = allocate(0, PAGE, Backing(thp=True))
    small.close()


def test_shared_memory_is_seen_by_others_who_cannot_take_it_away():
    memory = GuestMemory(4 * MIB, Backing(shared=True))
    (region,) = memory.regions
    other = mmap.mmap(region.fd, 4 * MIB)
    memory.write(MIB, b"from here")
    assert other[MIB : MIB + 9] == b"from here"
    other[:5] = b"there"
    assert memory.read(0, 5) == b"there"
    for size in (0, 8 * MIB):
        with pytest.raises(PermissionError):
            os.ftruncate(region.fd, size)
    assert not os.get_inheritable(region.fd)
    fd = region.fd
    memory.close()
    other.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_shared_memory_that_cannot_be_had_leaves_nothing(monkeypatch):
    before = os.listdir("/proc/self/fd")
    with pytest.raises(HostError, match="cannot map"):
        GuestMemory(1 << 62, Backing(shared=True))
    assert os.listdir("/proc/self/fd") == before


GIVEN = [
    (0, PAGE, PAGE),
    (0, 2 * MIB, 2 * MIB),
    (1, PAGE, 0),
    (1, 2 * PAGE, PAGE),
    (PAGE - 1, PAGE + 1, PAGE),
    (PAGE, PAGE - 1, 0),
    (3 * PAGE, 0, 0),
]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("offset", "length", "given"), GIVEN)
def test_whole_pages_are_given_back(offset, length, given, shared):
    region = allocate(0, 2 * MIB, Backing(shared=shared))
    region.view[:] = b"\x55" * len(region.view)
    assert region.give_back(offset, length) == given
    first = -(-offset // PAGE) * PAGE
    assert bytes(region.view[first : first + given]) == bytes(given)
    assert region.view.tobytes().count(0) == given
    region.close()


def test_pages_that_the_host_keeps_are_not_counted(monkeypatch):
    region = allocate(0, 2 * MIB, Backing())
    region.returns = 12345  # no advice that there is
    assert region.give_back(0, PAGE) == 0
    region.close()


def test_a_read_only_region_is_a_read_only_slot(tmp_path, monkeypatch):
    (tmp_path / "image").write_bytes(bytes(2 * MIB))
    regions = [open_image(str(tmp_path / "image"), read_only=flag) for flag in (True, True)]
    memory = GuestMemory(2 * MIB, more=regions)
    asked = []

    def ioctl(descriptor, request, argument):
        assert request == abi.SET_USER_MEMORY_REGION
        asked.append((argument.slot, argument.flags, argument.guest_phys_addr))
        return 0

    monkeypatch.setattr(device.fcntl, "ioctl", ioctl)
    vm = device.Vm(None, os.open("/dev/null", os.O_RDONLY))
    vm.add_memory(memory)
    vm.close()
    assert asked == [(0, 0, 0), (1, 2, 4 * GIB), (2, 2, 4 * GIB + 128 * MIB)]
    memory.close()
    for region in regions:
        region.close()


def test_regions_are_found_by_where_they_lie_here(new_memory):
    memory = new_memory(3 * GIB + 2 * PAGE)
    for region in memory.regions:
        for offset in (0, region.size - 1):
            assert memory.guest_address(region.address + offset) == region.start + offset
    with pytest.raises(ConfigError, match="outside of the guest's memory"):
        memory.guest_address(0)


class Config:
    """Stands in for a MachineConfig."""

    def _replace(self, **changed):
        return changed


BACKINGS = [
    ({}, Backing()),
    ({"memory_backing": None}, Backing()),
    ({"memory_backing": {"thp": True}}, Backing(thp=True)),
    ({"memory_backing": {"hugepage_size": 2 * MIB, "thp": False}}, Backing(2 * MIB)),
    ({"memory_backing": {"hugepage_size": "1GiB"}}, Backing(GIB)),
    ({"memory_backing": {"hugepage_size": None, "thp": True}}, Backing(thp=True)),
]


@pytest.mark.parametrize(("machine", "backing"), BACKINGS)
def test_a_definition_says_where_memory_comes_from(machine, backing):
    changed = attach.equip(Config(), machine, [])
    assert changed == {"devices": [], "regions": [], "backing": backing}


WRONG = [
    ({"memory_backing": {"hugepage": True}}, "memory_backing has no hugepage"),
    ({"memory_backing": {"hugepage_size": "huge"}}, "hugepage_size: expected a whole number"),
    ({"pmem": [{}]}, "persistent memory needs a file"),
    ({"pmem": [{"file": 7}]}, "persistent memory needs a file"),
    ({"pmem": [{"file": "/x", "readonly": True}]}, "persistent memory has no readonly"),
    ({"shares": [{"tag": "x"}]}, "a shared folder needs a path"),
    ({"shares": [{"path": "/", "cache": "no", "tags": "x"}]}, "a shared folder has no cache, tags"),
    ({"balloon": {"target": "2GiB"}}, "target must be a whole number"),
    ({"balloon": {"target": -1}}, "target must be a whole number"),
    ({"balloon": {"reporting": False}}, "a balloon has no reporting"),
]


@pytest.mark.parametrize(("machine", "what"), WRONG)
def test_what_a_definition_cannot_mean_is_refused(machine, what):
    with pytest.raises(ConfigError, match=what):
        attach.equip(Config(), machine, attach.open_all(machine))


def test_a_balloon_has_a_target_and_reports_unless_it_is_told():
    spec = {"balloon": {"target": 64 * MIB, "free_page_reporting": False}}
    (one,) = attach.open_all(spec)
    assert one.make()._target.size == 64 * MIB
    assert not one.make().features & 1 << 5
    (one,) = attach.open_all({"balloon": True})
    assert one.make()._target.size is None
    assert one.make().features & 1 << 5


def test_devices_say_what_they_need_of_it():
    region = object()
    opened = [
        attach.Attachment(lambda: None, regions=[region]),
        attach.Attachment(lambda: None, shared=True),
    ]
    changed = attach.equip(Config(), {}, opened)
    assert changed["regions"] == [region]
    assert changed["backing"] == Backing(shared=True)
    assert changed["devices"] == [one.make for one in opened]


def test_a_region_needs_not_begin_where_its_mapping_ends():
    mapping = mmap.mmap(-1, 4 * PAGE)
    region = Region(0, 3 * PAGE, mapping)
    assert len(region.view) == 3 * PAGE
    assert len(region.words) == 3 * PAGE // 2
    region.close()
    assert mapping.closed

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Raw CPUID and model-specific registers through a made device."""

from __future__ import annotations

import struct

import pytest
from ansible.module_utils.host.probes import registers


def leaf(eax=0, ebx=0, ecx=0, edx=0):
    return struct.pack("<4I", eax, ebx, ecx, edx)


def letters(text):
    return struct.unpack("<3I", text.encode().ljust(12, b"\0"))


def reader(contents, problems=()):
    """Return a device reader over {"0/cpuid": {offset: bytes}}."""

    def read(path, offsets, size):
        name = "/".join(path.split("/")[-2:])
        if name in problems:
            return {}, f"{path}: Permission denied"
        device = contents.get(name, {})
        found = {offset: device[offset] for offset in offsets if offset in device}
        assert all(len(value) == size for value in found.values())
        return found, None

    return read


@pytest.fixture
def two_cpus(tree):
    return tree({"/dev/cpu/0": None, "/dev/cpu/1": None, "/dev/cpu/microcode": ""})


def test_intel_locked_on_one_cpu(two_cpus):
    b, d, c = letters("GenuineIntel")
    first = {0: leaf(22, b, c, d), 1: leaf(ecx=1 << 5 | 1 << 31)}
    contents = {
        "0/cpuid": first,
        "1/cpuid": {1: leaf(ecx=1 << 5)},
        "0/msr": {0x3A: (5).to_bytes(8, "little"), 0x480: (0x1234).to_bytes(8, "little")},
        "1/msr": {0x3A: (1).to_bytes(8, "little")},
    }
    found = registers.probe(two_cpus, reader(contents))
    assert found.vendor == "GenuineIntel"
    assert found.vmx == {0: True, 1: True}
    assert found.feature_control == {0: 5, 1: 1}
    assert found.msr == {0x3A: 5, 0x480: 0x1234}
    assert found.vm_cr == {}
    assert found.cpuid_problem is found.msr_problem is None


def test_amd(two_cpus):
    contents = {
        "0/cpuid": {0x80000001: leaf(ecx=1 << 2)},
        "1/cpuid": {0x80000001: leaf()},
        "0/msr": {0xC0010114: (0x10).to_bytes(8, "little")},
    }
    found = registers.probe(two_cpus, reader(contents))
    assert found.svm == {0: True, 1: False}
    assert found.vm_cr == {0: 0x10}


@pytest.mark.parametrize(
    ("bit", "signature", "expected"),
    [(1, "KVMKVMKVM", "KVMKVMKVM"), (0, "garbage", ""), (1, "", "")],
)
def test_hypervisor(two_cpus, bit, signature, expected):
    ebx, ecx, edx = letters(signature)
    contents = {"0/cpuid": {1: leaf(ecx=bit << 31), 0x40000000: leaf(0, ebx, ecx, edx)}}
    assert registers.probe(two_cpus, reader(contents)).hypervisor == expected


def test_forbidden(two_cpus):
    found = registers.probe(two_cpus, reader({}, problems={"0/cpuid", "0/msr"}))
    assert (found.cpuid_problem or "").endswith("Permission denied")
    assert (found.msr_problem or "").endswith("Permission denied")
    assert found.hypervisor is found.vendor is None


def test_no_devices(tmp_path):
    found = registers.probe(str(tmp_path))
    assert "module cpuid" in (found.cpuid_problem or "")
    assert "module msr" in (found.msr_problem or "")


def test_read_device(tmp_path):
    path = tmp_path / "device"
    path.write_bytes(bytes(range(20)))
    values, problem = registers.read_device(str(path), [0, 4, 16], 8)
    assert values == {0: bytes(range(8)), 4: bytes(range(4, 12))}  # 16: too short, left out
    assert problem is None
    assert registers.read_device(str(tmp_path / "none"), [0], 8)[1] is not None


def test_allows():
    msr = {registers.BASIC: 0, registers.SECONDARY: 1 << 33, registers.EPT_VPID: 1 << 17}
    assert registers.allows(msr, registers.SECONDARY, 1) is True
    assert registers.allows(msr, registers.SECONDARY, 2) is False
    assert registers.allows(msr, registers.EPT_VPID, 17) is True
    assert registers.allows(msr, registers.TERTIARY, 4) is False  # this CPU has no such register
    assert registers.allows({}, registers.SECONDARY, 1) is None

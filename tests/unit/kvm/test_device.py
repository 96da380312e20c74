# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be wrong with /dev/kvm, each with its message and remedy.

Files stand in for the device as far as they can. Where only a real KVM would answer, fcntl.ioctl
is replaced by a table of answers.
"""

from __future__ import annotations

import errno
import os
import struct
from functools import partial

import pytest
from ansible.module_utils.kvm import abi, builder, device
from ansible.module_utils.kvm.device import Kvm, Vcpu, Vm
from ansible.module_utils.kvm.errors import EXIT_CONFIG, EXIT_INTERNAL, HostError, KvmError
from ansible.module_utils.kvm.loader import Image


class Ioctls:
    """Answers ioctls by number: a value, an errno's OSError, or a function of the argument."""

    def __init__(self, **answers):
        self.answers = {"GET_API_VERSION": 12, **answers}
        self.names = {getattr(abi, name): name for name in self.answers}
        self.asked = []

    def ioctl(self, descriptor, request, argument=0):
        name = self.names[request]
        self.asked.append((name, argument))
        answer = self.answers[name]
        if isinstance(answer, OSError):
            raise answer
        return answer(argument) if callable(answer) else answer


def failure(number):
    return OSError(number, os.strerror(number))


@pytest.fixture
def answer(monkeypatch):
    """Let KVM answer as told."""

    def install(**answers):
        made = Ioctls(**answers)
        monkeypatch.setattr(device.fcntl, "ioctl", made.ioctl)
        return made

    return install


@pytest.fixture
def kvm(answer):
    """Return a KVM device that answers its version and whatever `answer` is told later."""
    answer()
    with Kvm("/dev/null") as opened:
        yield opened


def open_fails(monkeypatch, number):
    def fail(*_):
        raise failure(number)

    monkeypatch.setattr(device.os, "open", fail)


OPEN_ERRORS = {
    errno.ENOENT: ("/dev/kvm is missing", "load kvm_intel or kvm_amd"),
    errno.ENOTDIR: ("/dev/kvm is missing", "load kvm_intel or kvm_amd"),
    errno.EACCES: ("may not be opened by this user", "run as root or join the group kvm"),
    errno.EPERM: ("may not be opened by this user", "run as root or join the group kvm"),
    errno.EBUSY: ("cannot open /dev/kvm: Device or resource busy", "another hypervisor holds"),
    errno.ENODEV: ("cannot open /dev/kvm: No such device", "enable VT-x or AMD-V"),
    errno.ENXIO: ("cannot open /dev/kvm: No such device or address", "enable VT-x or AMD-V"),
}


@pytest.mark.parametrize("number", OPEN_ERRORS)
def test_a_device_that_cannot_be_opened(monkeypatch, number):
    words, remedy = OPEN_ERRORS[number]
    open_fails(monkeypatch, number)
    with pytest.raises(HostError, match=words) as refused:
        Kvm("/dev/kvm")
    assert remedy in refused.value.remedy
    assert refused.value.status == EXIT_CONFIG


def test_a_device_that_is_really_missing(tmp_path):
    with pytest.raises(HostError, match="kvm is missing"):
        Kvm(str(tmp_path / "kvm"))
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="kvm is missing"):
        Kvm(str(tmp_path / "file" / "kvm"))


def make_file(path):
    path.touch()


def make_pipe(path):
    os.mkfifo(str(path))


def make_device(path):
    path.symlink_to("/dev/null")


@pytest.mark.parametrize("make", [make_file, make_pipe, make_device])
def test_what_is_not_a_kvm_device(tmp_path, make):
    path = tmp_path / "kvm"
    make(path)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(HostError, match="is not a KVM device: Inappropriate ioctl"):
        Kvm(str(path))
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_folder_in_the_devices_place(tmp_path):
    with pytest.raises(HostError, match=r"cannot open .*: Is a directory"):
        Kvm(str(tmp_path))


@pytest.mark.parametrize("version", [0, 10, 11, 13])
def test_another_api_version(answer, version):
    answer(GET_API_VERSION=version)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(HostError, match=f"expected KVM API 12, found {version}"):
        Kvm("/dev/null")
    assert set(os.listdir("/proc/self/fd")) == before


CREATE_ERRORS = {
    errno.EBUSY: ("cannot create a VM: Device or resource busy", "another hypervisor holds"),
    errno.ENOMEM: ("cannot create a VM: Cannot allocate memory", None),
    errno.EOPNOTSUPP: ("cannot create a VM: Operation not supported", None),
}


@pytest.mark.parametrize("number", CREATE_ERRORS)
def test_kvm_that_makes_no_vm_is_the_hosts_error(kvm, answer, number):
    words, remedy = CREATE_ERRORS[number]
    answer(CREATE_VM=failure(number))
    with pytest.raises(HostError, match=words) as refused:
        kvm.create_vm()
    assert (remedy is None and refused.value.remedy is None) or remedy in refused.value.remedy
    assert refused.value.status == EXIT_CONFIG


def test_another_ioctl_that_fails_is_an_internal_error_that_names_it(kvm, answer):
    answer(GET_VCPU_MMAP_SIZE=failure(errno.EINVAL))
    with pytest.raises(KvmError, match="cannot ask for the vCPU's shared area: Invalid") as failed:
        kvm.vcpu_mmap_size()
    assert failed.value.status == EXIT_INTERNAL


@pytest.mark.parametrize(
    ("answers", "limit"),
    [({66: 1024, 9: 8}, 1024), ({66: 0, 9: 8}, 8), ({66: 0, 9: 0}, 4)],
)
def test_max_vcpus_falls_back_as_the_kernels_document_says(kvm, answer, answers, limit):
    answer(CHECK_EXTENSION=lambda number: answers[number])
    assert kvm.max_vcpus() == limit


def test_supported_cpuid_is_cut_to_what_kvm_filled(kvm, answer):
    def fill(buffer):
        assert struct.unpack_from("II", buffer) == (256, 0)
        struct.pack_into("II7I", buffer, 0, 1, 0, *range(7))
        return 0

    answer(GET_SUPPORTED_CPUID=fill)
    found = kvm.supported_cpuid()
    assert len(found) == 8 + 40
    assert struct.unpack_from("7I", found, 8) == tuple(range(7))


def test_feature_msrs_are_asked_one_by_one(kvm, answer):
    def indexes(buffer):
        struct.pack_into("4I", buffer, 0, 3, 0x480, 0x10A, 0x48F)
        return 0

    def value(buffer):
        (index,) = struct.unpack_from("I", buffer, 8)
        if index == 0x10A:
            raise failure(errno.EINVAL)
        struct.pack_into("Q", buffer, 16, index * 2)
        return 0 if index == 0x48F else 1

    answer(GET_MSR_FEATURE_INDEX_LIST=indexes, GET_MSRS=value)
    assert kvm.feature_msrs() == {0x480: 0x900}


def test_a_kvm_without_feature_msrs(kvm, answer):
    answer(GET_MSR_FEATURE_INDEX_LIST=failure(errno.ENOTTY))
    assert kvm.feature_msrs() == {}


@pytest.fixture
def vm(kvm):
    with open("/dev/null", "rb") as file, Vm(kvm, os.dup(file.fileno())) as made:
        yield made


def test_the_platform_comes_up_in_kvms_order(vm, answer):
    made = answer(SET_TSS_ADDR=0, SET_IDENTITY_MAP_ADDR=0, CREATE_IRQCHIP=0, CREATE_PIT2=0)
    vm.create_platform()
    (tss, address), (identity, where), *rest = made.asked
    assert (tss, address) == ("SET_TSS_ADDR", 0xFFFBD000 - (1 << 32))  # a signed C int
    assert (identity, bytes(where)) == ("SET_IDENTITY_MAP_ADDR", struct.pack("Q", 0xFFFBC000))
    assert [name for name, _ in rest] == ["CREATE_IRQCHIP", "CREATE_PIT2"]


def test_every_region_becomes_a_slot(vm, answer, new_memory):
    slots = []

    def add(argument):
        slots.append((argument.slot, argument.guest_phys_addr, argument.memory_size))
        return 0

    answer(SET_USER_MEMORY_REGION=add)
    vm.add_memory(new_memory(5 << 30))
    assert slots == [(0, 0, 3 << 30), (1, 4 << 30, 2 << 30)]


def test_memory_that_kvm_does_not_take(vm, answer, new_memory):
    answer(SET_USER_MEMORY_REGION=failure(errno.EINVAL))
    with pytest.raises(KvmError, match="cannot add guest memory: Invalid argument"):
        vm.add_memory(new_memory(4096))


@pytest.fixture
def vcpu(vm, answer, tmp_path):
    """Return a vCPU whose shared area is a file of the test's own."""
    path = tmp_path / "kvm_run"
    path.write_bytes(bytes(3 * 4096))
    answer(GET_VCPU_MMAP_SIZE=3 * 4096)
    with Vcpu(vm, os.open(str(path), os.O_RDWR), 5) as made:
        yield made


def test_a_vcpu_whose_area_cannot_be_mapped_is_closed(vm, answer):
    answer(GET_VCPU_MMAP_SIZE=4096)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(KvmError, match="cannot map vCPU 1"):
        Vcpu(vm, os.open("/dev/null", os.O_RDONLY), 1)
    assert set(os.listdir("/proc/self/fd")) == before


def test_views_of_the_shared_area(vcpu):
    struct.pack_into("<I", vcpu.run8, 8, abi.EXIT_MMIO)  # kvm_run.exit_reason
    assert vcpu.run32[2] == abi.EXIT_MMIO
    vcpu.kick()
    assert bytes(vcpu.run8[:4]) == b"\0\1\0\0"  # kvm_run.immediate_exit


def enter(vcpu, answer, result):
    """Run a vCPU whose entry is answered so; it holds on to the ioctl that it was made with."""
    answer(RUN=result)
    vcpu.enter = partial(device.fcntl.ioctl, vcpu.fd, abi.RUN, 0)
    return vcpu.run()


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (0, abi.EXIT_HLT),
        (failure(errno.EINTR), abi.EXIT_INTR),
        (failure(errno.EAGAIN), abi.EXIT_INTR),
    ],
)
def test_an_entry(vcpu, answer, result, reason):
    struct.pack_into("<I", vcpu.run8, 8, abi.EXIT_HLT)
    assert enter(vcpu, answer, result) == reason


def test_an_entry_that_fails(vcpu, answer):
    with pytest.raises(KvmError, match="cannot run vCPU 5: Bad address"):
        enter(vcpu, answer, failure(errno.EFAULT))


def test_msrs_that_kvm_does_not_take_are_named(vcpu, answer):
    answer(SET_MSRS=1)
    with pytest.raises(KvmError, match="KVM does not take MSR 0x174"):
        vcpu.set_msrs([(0x10, 0), (0x174, 8)])
    answer(SET_MSRS=2)
    vcpu.set_msrs([(0x10, 0), (0x174, 8)])


def test_closing_twice_closes_once(vcpu):
    vcpu.close()
    vcpu.close()
    assert vcpu.fd == -1


def test_another_architecture_is_refused(kvm, monkeypatch):
    monkeypatch.setattr(builder, "_ARCHITECTURE", "aarch64")
    config = builder.MachineConfig(Image("boot", b"\xf4"), 1 << 20)
    with pytest.raises(HostError, match="x86-64 guests only, this host is aarch64"):
        builder.Machine(kvm, config, lambda _: None)


@pytest.mark.parametrize("vcpus", [0, -1, 9, 100_000])
def test_a_number_of_vcpus_that_kvm_does_not_have(kvm, answer, vcpus):
    answer(CHECK_EXTENSION=8)
    config = builder.MachineConfig(Image("boot", b"\xf4"), 1 << 20, vcpus)
    with pytest.raises(KvmError, match=f"expected 1 to 8 vCPUs, found {vcpus}") as refused:
        builder.Machine(kvm, config, lambda _: None)
    assert refused.value.status == EXIT_CONFIG

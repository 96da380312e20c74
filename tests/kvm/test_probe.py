# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probe on the real /dev/kvm."""

from __future__ import annotations

import json
import os
import struct

import pytest
from ansible.module_utils.kvm import abi, probe
from ansible.module_utils.kvm.device import Kvm

pytestmark = pytest.mark.kvm


@pytest.fixture(scope="module")
def found():
    return probe.probe()


def test_a_usable_kvm(found):
    assert (found["present"], found["permitted"], found["error"]) == (True, True, None)
    assert (found["api_version"], found["vm_created"]) == (12, True)
    assert found["vcpu_mmap_size"] >= 4096
    assert found["machine"] == os.uname().machine
    assert json.loads(json.dumps(found)) == found


def test_capabilities_by_name(found):
    for view in ("system", "vm"):
        capabilities = found["capabilities"][view]
        assert set(capabilities) == set(abi.CAPABILITIES)
        assert all(value >= 0 for value in capabilities.values())
        # Without these the helper could not run a guest, and it does.
        for name in ("irqchip", "user_memory", "set_tss_addr", "immediate_exit"):
            assert capabilities[name] >= 1, name
    assert found["capabilities"]["system"]["nr_memslots"] >= 2


def test_cpuid_leaves(found):
    leaves = {(leaf["leaf"], leaf["subleaf"]): leaf for leaf in found["cpuid"]}
    words = [leaves[0, 0][name] for name in ("ebx", "edx", "ecx")]
    vendor = struct.pack("<3I", *words)
    assert vendor in {b"GenuineIntel", b"AuthenticAMD", b"HygonGenuine", b"CentaurHauls"}
    assert (1, 0) in leaves
    for leaf in found["cpuid"]:
        assert set(leaf) == {"leaf", "subleaf", "eax", "ebx", "ecx", "edx"}


def test_feature_msrs_have_hexadecimal_names(found):
    for name, value in found["feature_msrs"].items():
        assert name == hex(int(name, 16))
        assert 0 <= value < 1 << 64


def test_ring_0_is_known_here(found):
    assert found["ring0"] in {"native", "emulated"}


def test_every_vcpu_may_be_made_that_is_promised(found):
    with Kvm() as kvm, kvm.create_vm() as vm:
        vm.create_platform()
        limit = kvm.max_vcpus()
        assert limit == found["capabilities"]["system"]["max_vcpus"]
        with vm.create_vcpu(0), vm.create_vcpu(min(limit, 64) - 1):
            pass


def test_it_leaves_nothing_open():
    before = set(os.listdir("/proc/self/fd"))
    probe.probe()
    assert set(os.listdir("/proc/self/fd")) == before


def test_the_command_says_the_same(helper, found):
    done = helper.run("probe", "--json")
    assert (done.status, done.err) == (0, "")
    said = json.loads(done.out)
    # CPUID has places that differ from one CPU of the host to the next, as the APIC id.
    leaves = [
        [(leaf["leaf"], leaf["subleaf"]) for leaf in view.pop("cpuid")]
        for view in (said, dict(found))
    ]
    assert leaves[0] == leaves[1]
    assert said == {key: value for key, value in found.items() if key != "cpuid"}


def test_the_command_for_people(helper):
    done = helper.run("probe")
    assert done.status == 0
    assert "API version   12" in done.out
    assert "immediate_exit" in done.out


def test_the_command_without_kvm(helper):
    done = helper.run("probe", "--device", "/nowhere/kvm")
    assert (done.status, done.out) == (78, "device        /nowhere/kvm\n")
    assert done.err == "kvm-helper: /nowhere/kvm is missing\n"

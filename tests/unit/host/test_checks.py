# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every check's every level, and what the checks say of whole machines.

LEVELS holds for each check and each level that it declares a change of a host that lacks nothing.
The first test fails if one is missing.
"""

from __future__ import annotations

from typing import Callable

import pytest
from ansible.module_utils.host.checks import BY_ID, CHECKS, run
from ansible.module_utils.host.probes.memory import HugePages
from ansible.module_utils.host.probes.registers import Registers
from ansible.module_utils.host.verdict import judge

from .conftest import kvm_view, refresh

LIMITS = {check.id: check.limit for check in CHECKS}
VITAL = [check.id for check in CHECKS if check.vital]


def having(**changes):
    """Set attributes of the host by path, with __ for the dot; keys of dicts are found too."""

    def change(host, _cpuinfo_of):
        for path, value in changes.items():
            *way, last = path.split("__")
            thing = host
            for part in way:
                thing = thing[part] if isinstance(thing, dict) else getattr(thing, part)
            if isinstance(thing, dict):
                thing[last] = value
            else:
                setattr(thing, last, value)

    return change


def sample(name, **changes):
    """Give the host other CPUs, and perhaps more changes."""

    def change(host, cpuinfo_of):
        host.cpuinfo = cpuinfo_of(name)
        having(**changes)(host, cpuinfo_of)

    return change


def with_kvm(**changes):
    return having(kvm=kvm_view(**changes))


NOTHING = having()
NO_CPUINFO = having(cpuinfo__readable=False, cpuinfo__kinds=[], cpuinfo__architecture=None)
NO_VENDOR_MODULE = {
    "modules__loaded": ("kvm",),
    "kvm": kvm_view(vm_created=False, api_version=None),
}
NOT_ASKED = having(kvm=None)

LEVELS: dict[str, dict[str, Callable[..., None]]] = {
    "cpu.architecture": {
        "pass": NOTHING,
        "warn": having(platform__machine="aarch64"),
        "fail": having(platform__machine="i686"),
        "unknown": having(platform__machine=None),
    },
    "cpu.firmware": {
        "pass": having(registers=Registers(feature_control={0: 5, 1: 5})),
        "warn": sample(
            "intel_firmware_disabled", registers=Registers(feature_control={0: 0, 1: 0})
        ),
        "fail": having(registers=Registers(feature_control={0: 5, 1: 1})),
        "info": sample(
            "intel_firmware_disabled", registers=Registers(vmx={0: False}), **NO_VENDOR_MODULE
        ),
        "unknown": sample("intel_firmware_disabled", **NO_VENDOR_MODULE),
    },
    "cpu.virtualization": {
        "pass": NOTHING,
        "warn": sample("pvm"),
        "fail": sample("vm_without_flags", **NO_VENDOR_MODULE),
        "unknown": NO_CPUINFO,
    },
    "cpu.uniform": {
        "pass": NOTHING,
        "info": sample("intel_hybrid", cpus__core_types="0-1"),
        "warn": sample("arm64_big_little"),
        "fail": sample("intel_disagreeing"),
        "unknown": NO_CPUINFO,
    },
    "cpu.baseline": {
        "info": NOTHING,
        "warn": sample("vm_without_flags"),
        "unknown": having(cpuinfo__kinds=[]),
    },
    "cpu.smt": {"info": NOTHING, "unknown": having(cpus__smt=None)},
    "cpu.vulnerabilities": {
        "pass": NOTHING,
        "warn": having(cpus__vulnerabilities={"mds": "Vulnerable: no microcode"}),
        "unknown": having(cpus__vulnerabilities=None),
    },
    "cpu.clock": {
        "pass": NOTHING,
        "warn": having(platform__clocksource="hpet"),
        "info": having(platform__clocksource="kvm-clock"),
        "unknown": having(platform__clocksource=None),
    },
    "kvm.module": {
        "pass": NOTHING,
        "warn": sample("power9", modules__loaded=("kvm", "kvm_pr")),
        "fail": having(**NO_VENDOR_MODULE),
        "unknown": having(modules__readable=False),
    },
    "kvm.device": {
        "pass": NOTHING,
        "fail": having(devices__kvm=False),
        "unknown": having(devices__kvm=False, devices__readable=False),
    },
    "kvm.access": {
        "pass": NOTHING,
        "fail": with_kvm(permitted=False, error="forbidden"),
        "unknown": NOT_ASKED,
    },
    "kvm.api": {
        "pass": NOTHING,
        "fail": with_kvm(api_version=11),
        "unknown": NOT_ASKED,
    },
    "kvm.vm": {
        "pass": NOTHING,
        "fail": with_kvm(vm_created=False, error="cannot create a VM: busy"),
        "unknown": with_kvm(vm_created=False, api_version=None),
    },
    "kvm.capabilities": {
        "pass": NOTHING,
        "warn": with_kvm(capabilities={"system": {"user_memory": 1}, "vm": {}}),
        "unknown": NOT_ASKED,
    },
    "kvm.execution": {
        "pass": NOTHING,
        "warn": with_kvm(ring0="emulated"),
        "unknown": with_kvm(ring0="unknown"),
    },
    "kvm.limits": {"info": NOTHING, "unknown": NOT_ASKED},
    "memory.size": {"info": NOTHING, "unknown": having(memory__total=None)},
    "memory.numa": {
        "info": NOTHING,
        "warn": lambda host, _: setattr(host.memory.nodes[1], "memory", 0),
        "unknown": having(memory__nodes=None),
    },
    "memory.hugepages": {
        "info": NOTHING,
        "warn": lambda host, _: setattr(
            host.memory.nodes[1], "hugepages", [HugePages(2 << 20, 0, 0)]
        ),
        "unknown": having(memory__hugepages=None),
    },
    "memory.thp": {
        "pass": NOTHING,
        "info": having(memory__thp="never"),
        "unknown": having(memory__thp=None),
    },
    "memory.ksm": {
        "info": NOTHING,
        "warn": having(memory__ksm=True),
        "unknown": having(memory__ksm=None),
    },
    "memory.swap": {"info": NOTHING, "unknown": having(memory__swap=None)},
    "iommu.hardware": {
        "pass": NOTHING,
        "warn": having(pci__iommu__tables=[], pci__iommu__groups=0),
        "unknown": having(pci__iommu__tables=None, pci__iommu__groups=0),
    },
    "iommu.enabled": {
        "pass": NOTHING,
        "warn": having(pci__iommu__groups=0),
        "unknown": having(pci__iommu__groups=None),
    },
    "iommu.interrupt_remapping": {
        "pass": NOTHING,
        "warn": having(pci__iommu__interrupt_remapping=False),
        "unknown": having(pci__iommu__interrupt_remapping=None),
    },
    "device.vfio": {
        "pass": NOTHING,
        "info": having(devices__vfio=False, modules__loaded=("kvm", "kvm_intel")),
        "unknown": having(devices__readable=False),
    },
    "sriov.devices": {"info": NOTHING, "unknown": having(pci__devices=None)},
    "net.queues": {"info": NOTHING, "unknown": having(pci__nets=None)},
    "device.vhost_net": {
        "pass": NOTHING,
        "warn": having(devices__vhost_net=False),
        "unknown": having(devices__readable=False),
    },
    "device.vhost_vsock": {
        "pass": NOTHING,
        "info": having(devices__vhost_vsock=False),
        "unknown": having(devices__readable=False),
    },
    "device.tun": {
        "pass": NOTHING,
        "fail": having(devices__tun=False),
        "unknown": having(devices__readable=False),
    },
    "secure.guests": {
        "pass": sample("amd_epyc", secure__sev=True, secure__sev_es=True, devices__sev=True),
        "warn": sample("amd_epyc", secure__sev=False),
        "info": NOTHING,
        "unknown": NO_CPUINFO,
    },
    "platform.hypervisor": {
        "pass": NOTHING,
        "warn": having(platform__hypervisor="xen", platform__xen_dom0=True),
        "info": having(platform__hypervisor="kvm"),
        "unknown": having(platform__hypervisor=None),
    },
    "platform.container": {
        "pass": NOTHING,
        "warn": having(platform__container="docker"),
        "unknown": having(platform__container=None),
    },
    "platform.kernel": {
        "pass": NOTHING,
        "warn": having(platform__kernel="4.18.0-553.el8"),
        "unknown": having(platform__kernel=None),
    },
    "platform.os": {"info": NOTHING, "unknown": having(platform__os=None)},
    "platform.cmdline": {
        "info": NOTHING,
        "warn": having(platform__cmdline=[("iommu", "off")]),
        "unknown": having(platform__cmdline=None),
    },
    "software.qemu": {"info": NOTHING, "unknown": having(software__qemu=None)},
    "software.libvirt": {"info": NOTHING, "unknown": having(software__libvirt=None)},
    "cgroup.version": {"info": NOTHING, "unknown": having(cgroups__version=None)},
}


def for_controller(name):
    return {
        "pass": NOTHING,
        "warn": lambda host, _: host.cgroups.controllers.update({name: ""}),
        "unknown": lambda host, _: host.cgroups.controllers.update({name: None}),
    }


def for_feature(name, levels):
    """Make the states of a feature; `off` and `absent` warn where the feature is wanted."""

    def in_state(state, hardware):
        def change(host, cpuinfo_of):
            amd = name not in host.features
            if amd:
                host.cpuinfo = cpuinfo_of("amd_epyc")
            refresh(host)
            found = host.features[name]
            found.state, found.hardware = state, hardware

        return change

    states = {"pass": in_state("on", True), "unknown": in_state("unknown", None)}
    states["warn" if "warn" in levels else "info"] = in_state("off", True)
    return states


@pytest.mark.parametrize("state", ["off", "absent"])
def test_wanted_features_warn_and_others_are_facts(make_host, state):
    host = make_host()
    for found in host.features.values():
        found.state, found.hardware = state, state == "off"
    results = by_id(run(host))
    warned = {name for name in host.features if results[f"feature.{name}"]["level"] == "warn"}
    assert warned == {"ept", "vpid", "unrestricted_guest"}


for row in CHECKS:
    if row.id.startswith("cgroup.") and row.id != "cgroup.version":
        LEVELS[row.id] = for_controller(row.id.partition(".")[2])
    if row.id.startswith("feature."):
        LEVELS[row.id] = for_feature(row.id.partition(".")[2], row.levels)


def test_every_level_of_every_check_has_a_case():
    assert {check.id: sorted(check.levels) for check in CHECKS} == {
        identity: sorted(cases) for identity, cases in LEVELS.items()
    }


@pytest.mark.parametrize(
    ("identity", "level"), [(identity, level) for identity in LEVELS for level in LEVELS[identity]]
)
def test_levels(make_host, cpuinfo_of, identity, level):
    host = make_host()
    LEVELS[identity][level](host, cpuinfo_of)
    finding = BY_ID[identity].test(host)
    assert finding.level == level
    assert finding.found
    assert bool(finding.expected) == (level in ("warn", "fail"))
    if level == "pass":
        assert not finding.remedies


def by_id(results):
    return {result["id"]: result for result in results}


def verdict_of(host):
    return judge(run(host), LIMITS, VITAL)


def test_a_host_that_lacks_nothing_is_ready(make_host):
    verdict = verdict_of(make_host())
    assert verdict["state"] == "ready", verdict
    assert verdict["limits"] == verdict["remedies"] == []


def test_shape_order_and_uniqueness(make_host):
    results = run(make_host())
    keys = {"id", "level", "title", "found", "expected", "remedy", "source"}
    assert all(set(result) == keys for result in results)
    order = [check.id for check in CHECKS]
    assert [result["id"] for result in results] == [i for i in order if i in by_id(results)]
    assert len(set(order)) == len(order)
    assert all(check.limit for check in CHECKS if "warn" in check.levels)


def test_no_flag_yet_kvm_works(make_host, cpuinfo_of):
    host = make_host("pvm")
    host.modules.loaded = ("kvm", "kvm_pvm")
    host.kvm = kvm_view(ring0="emulated")
    refresh(host)
    results = by_id(run(host))
    assert results["cpu.virtualization"]["found"] == "no vmx or svm flag, yet KVM works (kvm_pvm)"
    assert not any(identity.startswith("feature.") for identity in results)
    assert verdict_of(host)["state"] == "limited"


def not_working(host):
    host.kvm = kvm_view(present=False, permitted=None, api_version=None, vm_created=False)
    host.kvm.update(capabilities={"system": {}, "vm": {}}, ring0="unknown", error="missing")
    host.devices.kvm = False
    host.modules.loaded = ()
    host.modules.parameters = {}
    refresh(host)
    return host


def test_the_firmware_is_the_first_remedy(make_host):
    host = not_working(make_host("intel_firmware_disabled"))
    host.registers = Registers(vmx={0: True, 1: True}, feature_control={0: 1, 1: 1})
    verdict = verdict_of(host)
    assert verdict["state"] == "not_ready"
    assert verdict["remedies"][0].startswith("enable VT-x (Intel Virtualization Technology)")
    assert "power the machine fully off" in verdict["remedies"][0]
    assert "switched off by the firmware on every CPU" in verdict["summary"]


@pytest.mark.parametrize(
    ("vm_cr", "svm", "level"),
    [({0: 0x10}, {0: True}, "fail"), ({0: 0}, {0: True}, "pass"), ({}, {0: True}, "fail")],
)
def test_the_firmware_of_amd(make_host, vm_cr, svm, level):
    host = not_working(make_host("amd_firmware_disabled"))
    host.registers = Registers(svm=svm, vm_cr=vm_cr)
    assert by_id(run(host))["cpu.firmware"]["level"] == level


@pytest.mark.parametrize(("kernel", "level"), [("6.1.0", "pass"), ("5.4.0", "unknown")])
def test_old_kernels_show_the_flag_of_a_locked_cpu(make_host, kernel, level):
    host = not_working(make_host())
    host.platform.kernel = kernel
    assert by_id(run(host))["cpu.firmware"]["level"] == level


def test_a_missing_module_is_to_be_loaded(make_host):
    verdict = verdict_of(not_working(make_host()))
    assert verdict["remedies"][0].startswith("modprobe kvm_intel")


@pytest.mark.parametrize(
    ("attribute", "value", "remedy"),
    [
        (
            "blacklisted",
            {"kvm_intel": "/etc/modprobe.d/off.conf"},
            "remove kvm_intel from /etc/mod",
        ),
        ("available", {"kvm_intel": False}, "install a kernel with kvm_intel"),
    ],
)
def test_why_the_module_is_missing(make_host, attribute, value, remedy):
    host = not_working(make_host())
    setattr(host.modules, attribute, value)
    assert verdict_of(host)["remedies"][0].startswith(remedy)


def test_a_vm_needs_nested_virtualization(make_host):
    host = not_working(make_host("vm_without_flags"))
    host.platform.hypervisor = "kvm"
    remedies = verdict_of(host)["remedies"]
    assert remedies[0].startswith(
        "switch nested virtualization on in the hypervisor underneath (kvm)"
    )


def test_a_container_without_the_device(make_host):
    host = make_host()
    host.devices.kvm = False
    host.platform.container = "docker"
    assert by_id(run(host))["kvm.device"]["remedy"] == "give this container the device /dev/kvm"


def test_a_node_without_its_module(make_host):
    host = make_host()
    host.modules.loaded = ()
    host.kvm = kvm_view(api_version=None, vm_created=False, error="cannot open: No such device")
    results = by_id(run(host))
    assert results["kvm.api"]["level"] == "fail"
    assert results["kvm.api"]["remedy"] is None
    assert results["kvm.module"]["remedy"].startswith("modprobe kvm_intel")


def test_hardware_has_it_module_has_it_off(make_host):
    host = make_host()
    host.modules.parameters["kvm_intel"].update(ept="N", enable_apicv="N")
    refresh(host)
    results = by_id(run(host))
    assert results["feature.ept"]["level"] == "warn"
    assert results["feature.ept"]["remedy"].startswith("options kvm_intel ept=1 in /etc/modprobe.d")
    assert results["feature.apicv"]["level"] == "info"
    assert "the module has it off" in results["feature.apicv"]["found"]


@pytest.mark.parametrize(
    ("name", "machine", "expected"),
    [
        ("arm64", "aarch64", {"cpu.virtualization": "pass", "kvm.module": "pass"}),
        ("s390x", "s390x", {"cpu.virtualization": "pass", "secure.guests": "warn"}),
        ("power9", "ppc64le", {"cpu.virtualization": "pass", "kvm.module": "pass"}),
        ("riscv64", "riscv64", {"cpu.virtualization": "pass", "cpu.uniform": "pass"}),
    ],
)
def test_other_architectures_are_told_apart(make_host, name, machine, expected):
    host = make_host(name)
    host.platform.machine = machine
    host.modules.loaded = ("kvm", "kvm_hv") if name == "power9" else ("kvm",)
    host.modules.parameters = {}
    refresh(host)
    results = by_id(run(host))
    assert results["cpu.architecture"]["level"] == "warn"
    assert {identity: results[identity]["level"] for identity in expected} == expected
    x86_only = {"cpu.firmware", "cpu.baseline", "kvm.execution", "iommu.interrupt_remapping"}
    assert not x86_only & set(results)
    assert verdict_of(host)["state"] == "limited"


def test_secure_execution(make_host):
    host = make_host("s390x")
    host.secure.ultravisor = True
    host.platform.cmdline = [("prot_virt", "1")]
    assert by_id(run(host))["secure.guests"]["found"] == "Secure Execution"


def test_s390x_without_pci_has_no_iommu_to_check(make_host):
    host = make_host("s390x")
    host.pci.count = 0
    assert "iommu.hardware" not in by_id(run(host))


def test_iommu_switched_off_by_hand(make_host):
    host = make_host()
    host.pci.iommu.groups = 0
    host.platform.cmdline = [("intel_iommu", "off")]
    assert by_id(run(host))["iommu.enabled"]["remedy"].startswith("drop intel_iommu=off")


def test_ignored_checks_stay_as_facts(make_host):
    host = make_host()
    host.devices.tun = host.devices.vhost_net = False
    results = run(host, ["device.tun", "device.vhost_net", "cpu.smt"])
    assert by_id(results)["device.tun"]["level"] == "info"
    assert by_id(results)["device.tun"]["found"] == "ignored (fail): no /dev/net/tun"
    assert by_id(results)["cpu.smt"]["found"].startswith("on")
    assert judge(results, LIMITS, VITAL)["state"] == "ready"

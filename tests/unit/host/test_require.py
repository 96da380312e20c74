# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Features that must be there, and names that do not exist."""

from __future__ import annotations

import pytest
from ansible.module_utils.converge.errors import InputError
from ansible.module_utils.host.checks import run
from ansible.module_utils.host.checks.require import (
    FEATURE_NAMES,
    REQUIRABLE,
    check_names,
    required,
)
from ansible.module_utils.host.features import FEATURES
from ansible.module_utils.host.verdict import judge

from .conftest import kvm_view


def levels(host, *names):
    return {row["id"].partition(".")[2]: row["level"] for row in required(host, names)}


def test_a_host_that_lacks_nothing(make_host):
    names = [
        "kvm",
        "hardware_virtualization",
        "native_execution",
        "slat",
        "ept",
        "vpid",
        "virtual_apic",
        "tagged_tlb",
        "nested",
        "iommu",
        "interrupt_remapping",
        "vfio",
        "sriov",
        "sriov_active",
        "hugepages",
        "numa",
        "vhost_net",
        "vhost_vsock",
        "tun",
        "bare_metal",
        "cgroups",
        "cgroup_v2",
        "qemu",
        "libvirt",
        "tsc",
        "uniform_cpus",
        "mitigations",
        "x86_64_v2",
        "aes",
        "x2apic",
    ]
    assert levels(make_host(), *names) == dict.fromkeys(names, "pass")


def test_what_is_not_there(make_host):
    names = "npt sev hugepages_1gb ksm smt_off x86_64_v9 ipi_virtualization".replace(
        "x86_64_v9", "secure_guests"
    ).split()
    assert levels(make_host(), *names) == dict.fromkeys(names, "fail")


@pytest.mark.parametrize("name", FEATURE_NAMES)
def test_every_feature_has_an_answer_on_every_machine(make_host, name):
    for sample in ("intel_vmx_flags", "amd_epyc", "pvm", "arm64", "s390x", "power9", "unknown"):
        host = make_host(sample)
        (row,) = required(host, [name])
        assert row["level"] in ("pass", "fail", "unknown")
        assert row["found"]
        assert row["title"] == f"Required: {REQUIRABLE[name].title}"


def test_what_cannot_be_told_is_unknown_and_not_ready(make_host):
    host = make_host()
    host.pci.devices = None
    host.kvm = None
    rows = required(host, ["sriov", "kvm"])
    assert [row["level"] for row in rows] == ["unknown", "unknown"]
    assert judge([*run(host), *rows], {}, [])["state"] == "not_ready"


def test_remedies(make_host):
    host = make_host()
    host.modules.parameters["kvm_intel"]["nested"] = "N"
    host.kvm = kvm_view(ring0="emulated")
    host.features["nested"].state = "off"
    nested, native = required(host, ["nested", "native_execution"])
    assert nested["remedy"] == "options kvm_intel nested=1 in /etc/modprobe.d/kvm.conf"
    assert "VT-x or AMD-V" in native["remedy"]


def test_all_processor_features_can_be_required():
    assert {row.name for row in FEATURES} <= set(FEATURE_NAMES)


def test_known_names():
    check_names(["cpu.smt", "feature.ept"], ["ept", "iommu"])


def test_unknown_names_are_told_at_once_with_the_nearest():
    with pytest.raises(InputError) as caught:
        check_names(["cpu.smt", "kvm.devce"], ["iomu", "zzzzzzzz"])
    text = str(caught.value)
    assert (
        "checks_ignore[1]: expected the name of a check, found 'kvm.devce': did you mean kvm.dev"
        in text
    )
    assert "require[0]: expected the name of a feature, found 'iomu': did you mean iommu" in text
    assert "require[1]" in text
    assert "docs/readiness.md lists them" in text

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way from a host to the controller: probed there, judged here, with nothing lost between."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils.converge.errors import InputError
from ansible.module_utils.host.checks import run
from ansible.module_utils.host.checks.require import FEATURE_NAMES, required
from ansible.module_utils.host.observe import observe, to_dict
from ansible.module_utils.host.probes.registers import BASIC, SECONDARY, Registers
from ansible.module_utils.host.readiness import assess, restore

from .conftest import kvm_view, refresh

SAMPLES = ["intel_vmx_flags", "intel_disagreeing", "amd_epyc", "pvm", "arm64", "s390x", "unknown"]


def travel(host):
    """Return the host's plain values as Ansible carries them: as JSON."""
    return json.loads(json.dumps(to_dict(host)))


@pytest.mark.parametrize("sample", SAMPLES)
def test_nothing_is_lost_on_the_way(make_host, sample):
    host = make_host(sample)
    host.registers = Registers(
        cpuid={1: (0, 0, 1 << 5, 0)},
        msr={BASIC: 1 << 54, SECONDARY: 3 << 33},
        vmx={0: True},
        svm={0: False},
        feature_control={0: 5},
        vm_cr={0: 16},
    )
    refresh(host)
    arrived = restore(travel(host))
    assert travel(arrived) == travel(host)
    assert run(arrived) == run(host)
    assert required(arrived, FEATURE_NAMES) == required(host, FEATURE_NAMES)


def test_nothing_read_travels_too(tmp_path):
    host = observe(str(tmp_path))
    assert run(restore(travel(host))) == run(restore(to_dict(host)))


def test_what_is_derived(make_host):
    host = make_host()
    host.registers.msr = {BASIC: 1 << 54, SECONDARY: 1 << 33}
    host.kvm = kvm_view(feature_msrs={"0x480": 0, "0x48b": 1 << 46})
    found = assess(travel(host))
    assert found["host"]["features"]["ept"]["state"] == "on"
    secondary = "secondary processor-based controls"
    assert found["host"]["vmx"]["hardware"][secondary]["Enable EPT"] == "yes"
    assert found["host"]["vmx"]["guest"][secondary]["Enable EPT"] == "no"
    assert found["host"]["vmx"]["guest"][secondary]["VMCS shadowing"] == "yes"
    json.dumps(found)


def test_ignored_and_required(make_host):
    host = make_host()
    host.devices.tun = False
    found = assess(travel(host), ["device.tun"], ["sev"])
    assert found["verdict"]["state"] == "not_ready"
    assert [row["id"] for row in found["checks"] if row["level"] == "fail"] == ["require.sev"]


def test_unknown_names(make_host):
    with pytest.raises(InputError, match="checks_ignore"):
        assess(travel(make_host()), ["device.tunn"])


def test_an_empty_root_is_never_ready(tmp_path):
    found = assess(to_dict(observe(str(tmp_path))))
    assert "pass" not in {result["level"] for result in found["checks"]}
    assert found["host"]["kvm"] is None
    assert found["verdict"]["state"] != "ready"

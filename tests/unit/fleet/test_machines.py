# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine types of a fleet: what each host says it has, and what all of them know."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.fleet.machines import common
from ansible.module_utils.guest.libvirt.capabilities import HostCapabilities, read_capabilities

# Shortened from what libvirt 9.0 and 11.3 say on Debian 12 and 13.
CAPABILITIES = """
<capabilities>
  <host><cpu><arch>x86_64</arch></cpu></host>
  <guest>
    <os_type>hvm</os_type>
    <arch name='x86_64'>
      <emulator>/usr/bin/qemu-system-x86_64</emulator>
      <machine maxCpus='255'>pc-i440fx-{new}</machine>
      <machine canonical='pc-i440fx-{new}' maxCpus='255'>pc</machine>
      <machine maxCpus='288'>pc-q35-{old}</machine>
      <machine canonical='pc-q35-{new}' maxCpus='288'>q35</machine>
      <machine maxCpus='1'>isapc</machine>
      <machine maxCpus='288'>microvm</machine>
      <domain type='qemu'/><domain type='kvm'/>
    </arch>
  </guest>
  <guest>
    <os_type>hvm</os_type>
    <arch name='aarch64'><machine canonical='virt-{new}'>virt</machine></arch>
  </guest>
</capabilities>
"""


def host(old: str, new: str) -> HostCapabilities:
    return read_capabilities(CAPABILITIES.format(old=old, new=new))


def test_a_host_tells_the_versions_of_its_own_architecture() -> None:
    assert host("6.2", "7.2").versions() == {
        "x86_64": {"pc": ["pc-i440fx-7.2"], "q35": ["pc-q35-6.2", "pc-q35-7.2"]}
    }
    assert HostCapabilities().versions() == {}


def test_new_guests_get_the_newest_machine_that_all_hosts_know() -> None:
    rooms = [{"machines": one.versions()} for one in (host("6.2", "7.2"), host("7.2", "10.0"))]
    machines = common([*rooms, {}])
    assert machines == {"x86_64": {"q35": "pc-q35-7.2"}}, "of pc no version is common"
    newer = host("7.2", "10.0").among(machines)
    assert newer.of({}).machine == "pc-q35-7.2"
    assert newer.of({}).families["q35"] == "pc-q35-7.2"
    assert newer.of({}).families["pc"] == "pc-i440fx-10.0"
    assert newer.of({"arch": "aarch64"}).machine == "virt-10.0"
    # What a host does not know, it cannot be given.
    assert host("9.1", "10.0").among(machines).of({}).machine == "pc-q35-10.0"
    assert (
        host("6.2", "7.2").among({"riscv64": {"virt": "virt-7.2"}}).of({}).machine == "pc-q35-7.2"
    )


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ([["a-9.2", "a-10.0"], ["a-10.0", "a-9.2"]], {"x": {"a": "a-10.0"}}),
        ([["a-9.2"], ["a-10.0"]], {}),
        ([["a-rhel9.4.0", "a-rhel9.2.0"], ["a-rhel9.2.0"]], {"x": {"a": "a-rhel9.2.0"}}),
        ([], {}),
    ],
)
def test_what_is_common_is_told_by_numbers(versions: list[list[str]], expected: Any) -> None:
    assert common({"machines": {"x": {"a": known}}} for known in versions) == expected

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""IOMMU, SR-IOV and network queues from made trees."""

from __future__ import annotations

import pytest
from ansible.module_utils.host.probes import pci

from .conftest import Link

TABLES = "/sys/firmware/acpi/tables"
BUS = "/sys/bus/pci/devices"
UNIT = "/sys/class/iommu/dmar0/intel-iommu"
GROUPS = "/sys/kernel/iommu_groups"


@pytest.mark.parametrize(
    ("files", "tables"),
    [
        ({}, None),
        ({f"{TABLES}/FACP": ""}, []),
        ({f"{TABLES}/DMAR": ""}, ["DMAR"]),
        ({f"{TABLES}/IVRS": ""}, ["IVRS"]),
        ({f"{TABLES}/IORT": ""}, ["IORT"]),
    ],
)
def test_tables(tree, files, tables):
    assert pci.probe(tree(files)).iommu.tables == tables


def test_groups(tree):
    files = {
        f"{GROUPS}/0/devices/0000:00:00.0": "",
        f"{GROUPS}/1/devices/0000:00:01.0": "",
        f"{GROUPS}/1/devices/0000:01:00.0": "",
    }
    found = pci.probe(tree(files)).iommu
    assert (found.groups, found.devices, found.largest_group) == (2, 3, 2)


def test_disabled_and_absent(tree, tmp_path):
    assert pci.probe(str(tmp_path)).iommu.groups is None
    assert pci.probe(tree({GROUPS: None})).iommu.groups == 0


@pytest.mark.parametrize(
    ("ecap", "cap", "remapping", "posted"),
    [
        ("f020df\n", "8d2078c106f0466\n", True, True),
        ("0\n", "0\n", False, False),
        (None, None, None, None),
    ],
)
def test_units_of_intel(tree, ecap, cap, remapping, posted):
    files = {UNIT: None}
    if ecap:
        files.update({f"{UNIT}/ecap": ecap, f"{UNIT}/cap": cap})
    found = pci.probe(tree(files)).iommu
    assert (found.units, found.interrupt_remapping, found.posted_interrupts) == (
        ["dmar0"],
        remapping,
        posted,
    )


def test_units_of_amd(tree):
    found = pci.probe(tree({"/sys/class/iommu/ivhd0/amd-iommu/features": "1\n"})).iommu
    assert (found.interrupt_remapping, found.posted_interrupts) == (True, None)


def network(real, queues=2):
    """Return a card with SR-IOV behind an interface, as sysfs links them."""
    files = {
        f"{real}/vendor": "0x8086\n",
        f"{real}/device": "0x158b\n",
        f"{real}/numa_node": "-1\n",
        f"{real}/sriov_totalvfs": "64\n",
        f"{real}/sriov_numvfs": "4\n",
        f"{real}/driver": Link("../../../bus/pci/drivers/i40e"),
        f"{real}/iommu_group": Link("../../../kernel/iommu_groups/12"),
        "/sys/class/net/eno1/device": Link(f"../../..{real[4:]}"),
        "/sys/class/net/lo/queues/rx-0": None,
    }
    for number in range(queues):
        files[f"/sys/class/net/eno1/queues/rx-{number}"] = None
        files[f"/sys/class/net/eno1/queues/tx-{number}"] = None
    return files


def test_virtual_functions_and_queues(tree):
    address = "0000:3b:00.0"
    real = f"/sys/devices/pci0000:3a/0000:3a:00.0/{address}"
    files = {
        **network(real),
        f"{BUS}/{address}": Link(f"../../../devices/pci0000:3a/0000:3a:00.0/{address}"),
        f"{BUS}/0000:00:1f.0/vendor": "0x8086\n",
    }
    found = pci.probe(tree(files), lambda name: {"max_combined": 64} if name == "eno1" else None)
    assert found.count == 2
    (card,) = found.devices  # what has neither functions nor interfaces is counted, not listed
    assert (card.address, card.driver, card.iommu_group) == (address, "i40e", "12")
    assert (card.total_vfs, card.active_vfs, card.numa_node) == (64, 4, None)
    (net,) = found.nets
    assert (net.name, net.pci, net.rx_queues, net.tx_queues) == ("eno1", address, 2, 2)
    assert (net.channels, net.vmdq) == ({"max_combined": 64}, None)


def test_drivers_of_another_root_are_not_asked(tree):
    found = pci.probe(tree(network("/sys/devices/pci0000:3a/0000:3b:00.0")))
    assert found.nets[0].channels is None


def test_no_pci(tmp_path):
    found = pci.probe(str(tmp_path))
    assert found.count is found.devices is found.nets is None


def test_ethtool_of_no_interface():
    assert pci.ethtool_channels("no-such-if0") is None

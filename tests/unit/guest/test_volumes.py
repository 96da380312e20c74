# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes that are no file of a host: pools as libvirt's formatstorage.html has them."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.guest.libvirt.volumes import over_the_network
from ansible.module_utils.virt.document import tree
from ansible.module_utils.virt.reader import read
from ansible.module_utils.virt.writer import Capabilities, write

HOSTS = "<host name='mon1' port='6789'/><host name='192.0.2.7'/>"
BY_USAGE = "<auth username='libvirt' type='ceph'><secret usage='client.libvirt secret'/></auth>"
UUID = "2ec115d7-3a88-3ceb-bc12-0ac909a6fd87"
BY_UUID = f"<auth username='admin' type='ceph'><secret uuid='{UUID}'/></auth>"
NETWORK = {
    "protocol": "rbd",
    "name": "guests/disk",
    "hosts": [{"name": "mon1", "port": 6789}, {"name": "192.0.2.7"}],
}


def pool(kind: str, source: str) -> str:
    return f"<pool type='{kind}'><name>p</name><source>{source}</source></pool>"


@pytest.mark.parametrize(
    ("auth", "login"),
    [
        ("", {}),
        (
            BY_USAGE,
            {"username": "libvirt", "type": "ceph", "usage": "client.libvirt secret"},
        ),
        (BY_UUID, {"username": "admin", "type": "ceph", "secret": UUID}),
    ],
)
def test_a_volume_of_ceph_is_reached_over_the_network(auth: str, login: dict[str, Any]) -> None:
    xml = pool("rbd", f"{HOSTS}<name>guests</name>{auth}")
    network = {**NETWORK, **({"auth": login} if login else {})}
    source = over_the_network(tree(xml), "disk")
    assert source == {"network": network, "format": "raw"}
    disk = {"target": "vda", "bus": "virtio", **source}
    written = write({"disks": [disk]}, "web", Capabilities("pc-q35-10.0"))
    (there,) = read(written)["disks"]
    assert there["network"] == network


@pytest.mark.parametrize("xml", [pool("gluster", "<name>v</name>"), "<pool type='rbd'/>"])
def test_what_is_not_known_is_left_to_libvirt(xml: str) -> None:
    assert over_the_network(tree(xml), "disk") is None

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which network manager a host has."""

from __future__ import annotations

import pytest
from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.system.network import managers
from ansible.module_utils.system.network.ifupdown import Ifupdown
from ansible.module_utils.system.network.networkd import Networkd
from ansible.module_utils.system.network.networkmanager import NetworkManager

MAIN = "etc/network/interfaces"
CLAIM = {MAIN: "iface eth0 inet dhcp\n"}
NM = {"run/NetworkManager/devices/2": "[device]\nmanaged=true\nconnection-uuid=1\n"}
NETWORKD = {"run/systemd/netif/links/2": "NETWORK_FILE=/etc/systemd/network/x.network\n"}
UNMANAGED = {"run/systemd/netif/links/2": "ADMIN_STATE=unmanaged\n"}


@pytest.fixture
def root(tmp_path):
    """Return a function that makes a root with these files."""

    def make(files):
        for path, content in files.items():
            place = tmp_path / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content, encoding="utf-8")
        return str(tmp_path)

    return make


def runner(*running):
    units = ("networkmanager", "networkd")
    states = "\n".join("active" if unit in running else "inactive" for unit in units)
    return lambda _: (3, states, "")


@pytest.mark.parametrize(
    ("files", "running", "expected"),
    [
        (CLAIM, (), "ifupdown"),
        ({MAIN: "auto lo\n"}, (), "ifupdown"),
        ({**CLAIM, **NM}, ("networkmanager",), "two"),
        ({MAIN: "auto lo\n", **NM}, ("networkmanager",), "networkmanager"),
        ({MAIN: "auto lo\n", **NETWORKD}, ("networkd",), "networkd"),
        ({**CLAIM, **UNMANAGED}, ("networkd",), "ifupdown"),
        ({**NM, **NETWORKD}, ("networkd", "networkmanager"), "two"),
        ({**NM, **NETWORKD}, ("networkd",), "networkd"),
        ({}, ("networkd",), "networkd"),
        ({}, (), "none"),
        ({**CLAIM, "etc/network/interfaces.d/virtfleet": "x"}, ("networkd",), "ifupdown"),
        ({**CLAIM, "etc/systemd/network/10-virtfleet-x.network": "x"}, (), "networkd"),
    ],
)
def test_whoever_has_the_interfaces(made, root, files, running, expected):
    live = made.live(made.link("eth0", index=2))
    where = root(files)
    if expected in {"two", "none"}:
        message = "are managed by" if expected == "two" else "no network manager found"
        with pytest.raises(VirtfleetError, match=message):
            managers.detect(where, runner(*running), live, ["eth0", "br0"])
    else:
        assert managers.detect(where, runner(*running), live, ["eth0", "br0"]) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"etc/systemd/system/multi-user.target.wants/systemd-networkd.service": ""}, "networkd"),
        (
            {"etc/systemd/system/multi-user.target.wants/NetworkManager.service": "", **CLAIM},
            "networkmanager",
        ),
        (CLAIM, "ifupdown"),
        ({}, None),
    ],
)
def test_an_image_says_what_is_enabled(root, files, expected):
    where = root(files)
    if expected is None:
        with pytest.raises(VirtfleetError, match="no network manager is enabled"):
            managers.detect(where, runner(), None, ["eth0"])
    else:
        assert managers.detect(where, runner(), None, ["eth0"]) == expected


def test_files_of_others_that_may_hold_secrets_are_not_read(root):
    connections = "etc/NetworkManager/system-connections"
    ours = f"{connections}/virtfleet-br0.nmconnection"
    files = {f"{connections}/home.nmconnection": "psk=", ours: "x", MAIN: "m", "etc/hosts": "h"}
    assert sorted(managers.files(root(files))) == [f"/{ours}", f"/{MAIN}"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("ifupdown", Ifupdown), ("networkd", Networkd), ("networkmanager", NetworkManager)],
)
def test_a_backend_by_its_name(name, kind):
    assert isinstance(managers.make(name, lambda _: None), kind)


@pytest.mark.parametrize(
    ("files", "name", "expected"),
    [
        ({}, "ifupdown", False),
        ({"usr/sbin/resolvconf": ""}, "ifupdown", True),
        ({"etc/network/if-up.d/000resolvconf": ""}, "ifupdown", True),
        ({}, "networkd", True),
    ],
)
def test_who_hands_name_servers_on(root, files, name, expected):
    assert managers.resolver(root(files), name) is expected

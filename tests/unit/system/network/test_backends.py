# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of the three managers, and what must be told to them."""

from __future__ import annotations

import configparser

import pytest
from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.system.network.backend import MARK, Foreign, Telling
from ansible.module_utils.system.network.ifupdown import MAIN, OURS, Ifupdown
from ansible.module_utils.system.network.ledger import Former
from ansible.module_utils.system.network.networkd import Networkd
from ansible.module_utils.system.network.networkmanager import NetworkManager
from ansible.module_utils.system.network.observe import Address
from ansible.module_utils.system.network.spec import Interface

MAC = "02:00:00:00:00:04"
BRIDGE = Interface(
    "br0",
    "bridge",
    ports=("eth0",),
    addresses=("192.0.2.5/24", "2001:db8::5/64"),
    gateway=("192.0.2.1", "2001:db8::1"),
    dns=("192.0.2.53", "2001:db8::53"),
    mtu=9000,
    mac=MAC,
)
FILTER = Interface("br1", "bridge", ports=("bond0",), vlan_filtering=True, stp=True)
BOND = Interface("bond0", "bond", ports=("eth1", "eth2"), mode="802.3ad", miimon=100, mac=MAC)
TAGGED = Interface("br1.7", "vlan", link="br1", id=7, dhcp=True)
ALL = (BRIDGE, BOND, FILTER, TAGGED)


def lines(files, path):
    content = files[path][0]
    assert content.startswith(MARK)
    return [line.strip() for line in content.splitlines()]


def makes(name, rest):
    return f"pre-up test -e /sys/class/net/{name} || ip link add {rest}"


def test_ifupdown_makes_everything_with_ip():
    files = Ifupdown(None).render(ALL)
    assert list(files) == [OURS]
    assert files[OURS][1] == 0o644
    assert lines(files, OURS)[2:] == [
        "auto br0",
        "iface br0 inet manual",
        makes("br0", f"name br0 address {MAC} type bridge stp_state 0"),
        "pre-up ip link set dev eth0 master br0",
        "pre-up ip link set dev eth0 mtu 9000",
        "pre-up ip link set dev eth0 up",
        "pre-up ip link set dev br0 mtu 9000",
        "up ip link set dev br0 up",
        "dns-nameservers 192.0.2.53 2001:db8::53",
        "post-down ip link delete dev br0 2>/dev/null || true",
        "iface br0 inet static",
        "address 192.0.2.5/24",
        "gateway 192.0.2.1",
        "iface br0 inet6 static",
        "address 2001:db8::5/64",
        "gateway 2001:db8::1",
        "",
        "auto bond0",
        "iface bond0 inet manual",
        makes("bond0", f"name bond0 address {MAC} type bond mode 802.3ad miimon 100"),
        "pre-up ip link set dev eth1 down",
        "pre-up ip link set dev eth1 master bond0",
        "pre-up ip link set dev eth1 up",
        "pre-up ip link set dev eth2 down",
        "pre-up ip link set dev eth2 master bond0",
        "pre-up ip link set dev eth2 up",
        "up ip link set dev bond0 up",
        "post-down ip link delete dev bond0 2>/dev/null || true",
        "",
        "auto br1",
        "iface br1 inet manual",
        makes("br1", "name br1 type bridge vlan_filtering 1 stp_state 1"),
        "pre-up ip link set dev bond0 master br1",
        "pre-up bridge vlan add dev bond0 vid 2-4094",
        "pre-up ip link set dev bond0 up",
        "pre-up bridge vlan add dev br1 vid 7 self",
        "up ip link set dev br1 up",
        "post-down ip link delete dev br1 2>/dev/null || true",
        "",
        "auto br1.7",
        "iface br1.7 inet manual",
        "pre-up ip link set dev br1 up",
        makes("br1.7", "link br1 name br1.7 type vlan id 7"),
        "up ip link set dev br1.7 up",
        "post-down ip link delete dev br1.7 2>/dev/null || true",
        "iface br1.7 inet dhcp",
    ]


def test_ifupdown_keeps_a_device_and_knows_a_router_without_an_address():
    device = Interface("eth3", "ethernet", mtu=1400, gateway=("fe80::1",))
    assert lines(Ifupdown(None).render([device]), OURS)[2:] == [
        "auto eth3",
        "iface eth3 inet manual",
        "pre-up ip link set dev eth3 mtu 1400",
        "up ip link set dev eth3 up",
        "up ip route replace default via fe80::1 dev eth3",
    ]
    assert Ifupdown(None).render([]) == {}


@pytest.mark.parametrize(
    ("client", "stop", "start"),
    [
        (
            "dhclient",
            "dhclient -x -pf /run/dhclient.eth0.pid -lf /var/lib/dhcp/dhclient.eth0.leases eth0",
            "dhclient -1 -4 -pf /run/dhclient.eth0.pid -lf /var/lib/dhcp/dhclient.eth0.leases eth0",
        ),
        ("dhcpcd", "dhcpcd -x eth0", "dhcpcd --waitip=4 --timeout 20 eth0"),
    ],
)
def test_ifupdown_ends_and_starts_the_client_that_there_is(made, client, stop, start):
    backend = Ifupdown(client)
    assert made.commands(backend.before(Telling(leased=("eth0",)))) == [stop]
    assert made.commands(backend.live(Telling(started=("eth0",)))) == [start]
    assert made.commands(backend.resume(Telling(leased=("eth0",), touched=("eth0", "x")))) == [
        start
    ]
    assert backend.persist(Telling(started=("eth0",))) == []
    assert backend.forget(Telling(leased=("eth0",))) == []


def test_ifupdown_sees_what_others_claim():
    found = {
        MAIN: "auto eth0\niface eth0 inet dhcp\nsource /etc/network/interfaces.d/*\n",
        "/etc/network/interfaces.d/more": "iface br0 inet manual\n",
        OURS: "iface br0 inet manual\n",
    }
    foreign = Ifupdown(None).foreign(found, ["br0", "eth0", "eth1"], {})
    assert foreign.claims == {"eth0": MAIN, "br0": "/etc/network/interfaces.d/more"}
    edits = {path: content or "" for path, content in foreign.edits.items()}
    assert edits[MAIN].startswith("#virtfleet:eth0# auto eth0\n")
    after = {**found, **edits}
    assert Ifupdown(None).foreign(after, ["br0", "eth0"], {}) == Foreign({}, {})
    assert Ifupdown(None).disown(after, ["br0", "eth0"], last=True) == {
        MAIN: found[MAIN],
        "/etc/network/interfaces.d/more": found["/etc/network/interfaces.d/more"],
    }


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ("source /etc/network/interfaces.d/*", True),
        ("source-directory /etc/network/interfaces.d", True),
        ("source interfaces.d/*", True),
        ("source /etc/network/interfaces.d/virtfleet", True),
        ("#source /etc/network/interfaces.d/*", False),
        ("source /etc/network/interfaces.d/*.cfg", False),
        ("", False),
    ],
)
def test_ifupdown_needs_a_line_that_reads_our_file(line, read):
    foreign = Ifupdown(None).foreign({MAIN: f"auto lo\n{line}\n"}, [], {})
    assert foreign.claims == ({} if read else {f"source {OURS}": MAIN})
    if not read:
        assert str(foreign.edits[MAIN]).endswith(f"source {OURS}\n")


def test_networkd_has_two_files_an_interface():
    files = Networkd().render(ALL)
    folder = "/etc/systemd/network/10-virtfleet-"
    assert sorted(path[len(folder) :] for path in files) == sorted(
        [
            *("br0.netdev", "br0.network", "bond0.netdev", "bond0.network", "br1.netdev"),
            *("br1.network", "br1.7.netdev", "br1.7.network"),
            *("eth0.network", "eth1.network", "eth2.network"),
        ]
    )
    assert lines(files, f"{folder}br0.netdev")[1:] == [
        *("[NetDev]", "Name=br0", "Kind=bridge", f"MACAddress={MAC}", "MTUBytes=9000", ""),
        *("[Bridge]", "STP=no"),
    ]
    assert lines(files, f"{folder}br0.network")[1:] == [
        *("[Match]", "Name=br0", "", "[Link]", "MTUBytes=9000", "", "[Network]"),
        *("ConfigureWithoutCarrier=yes", "Address=192.0.2.5/24", "Address=2001:db8::5/64"),
        *("Gateway=192.0.2.1", "Gateway=2001:db8::1", "DNS=192.0.2.53", "DNS=2001:db8::53"),
    ]
    assert lines(files, f"{folder}eth0.network")[1:] == [
        *("[Match]", "Name=eth0", "", "[Link]", "MTUBytes=9000", "", "[Network]", "Bridge=br0"),
        *("LinkLocalAddressing=no", "IPv6AcceptRA=no"),
    ]
    assert lines(files, f"{folder}bond0.netdev")[-3:] == [
        *("[Bond]", "Mode=802.3ad", "MIIMonitorSec=100ms")
    ]
    assert "Bond=bond0" in lines(files, f"{folder}eth1.network")
    assert lines(files, f"{folder}bond0.network")[-2:] == ["[BridgeVLAN]", "VLAN=2-4094"]
    assert lines(files, f"{folder}br1.netdev")[-3:] == ["[Bridge]", "STP=yes", "VLANFiltering=yes"]
    assert lines(files, f"{folder}br1.network")[-4:] == ["VLAN=br1.7", "", "[BridgeVLAN]", "VLAN=7"]
    assert lines(files, f"{folder}br1.7.netdev")[-2:] == ["[VLAN]", "Id=7"]
    assert lines(files, f"{folder}br1.7.network")[-2:] == ["[Network]", "DHCP=ipv4"]


def test_networkd_takes_part_by_files_that_a_boot_forgets(made):
    files = {"/etc/systemd/network/10-virtfleet-br0.network": ("text", 0o644)}
    runtime = "/run/systemd/network/00-virtfleet-br0.network"
    telling = Telling(files, touched=("eth0",))
    backend = Networkd()
    assert backend.before(telling) == []
    assert made.writes(backend.live(telling)) == {runtime: "text"}
    assert made.commands(backend.live(telling)) == ["networkctl reload"]
    for after in (backend.persist(telling), backend.forget(telling)):
        assert made.writes(after) == {runtime: None}
        assert made.commands(after) == ["networkctl reload"]
    assert backend.resume(telling) == []


def test_networkd_lets_go_of_what_is_taken_away_before_it_goes(made):
    folder = "/run/systemd/network/00-virtfleet-"
    route = {"family": 4, "dst": "default", "gateway": "192.0.2.1", "dev": "eth0"}
    static = Former(mtu=9000, addresses=(Address("192.0.2.5/24"),), routes=(route,))
    telling = Telling(
        removed=("br0",), returned={"eth0": static, "eth1": Former(dhcp=True)}, grows=False
    )
    backend = Networkd()
    found = made.writes(backend.before(telling))
    assert made.commands(backend.before(telling)) == ["networkctl reload"]
    assert found == {
        f"{folder}br0.network": MARK + "[Match]\nName=br0\n\n[Link]\nUnmanaged=yes\n",
        f"{folder}eth0.network": MARK
        + "[Match]\nName=eth0\n\n[Link]\nMTUBytes=9000\n\n[Network]\nDHCP=no\n"
        + "Address=192.0.2.5/24\nGateway=192.0.2.1\n",
        f"{folder}eth1.network": MARK
        + "[Match]\nName=eth1\n\n[Link]\nMTUBytes=1500\n\n[Network]\nDHCP=ipv4\n",
    }
    assert backend.live(telling) == [], "it would make again what its lasting files still name"
    assert made.writes(backend.persist(telling)) == dict.fromkeys(found)
    assert made.writes(backend.forget(telling)) == dict.fromkeys(found)


ETC = "/etc/systemd/network"
NAMED = "[Match]\nName=eth0\n\n[Network]\nDHCP=yes\n"


@pytest.mark.parametrize(
    ("path", "content", "claimed", "refused"),
    [
        (f"{ETC}/10-cloud-init-eth0.network", NAMED, True, None),
        (f"{ETC}/50-eth0.network", NAMED, False, None),
        (f"{ETC}/05-all.network", "[Match]\nName=e*\n", True, "rename it to sort later"),
        (f"{ETC}/05-two.network", "[Match]\nName=eth0 eth1\n", True, "rename it to sort later"),
        (f"{ETC}/05-any.network", "[Network]\nDHCP=yes\n", True, "rename it to sort later"),
        (f"{ETC}/05-mac.network", f"[Match]\nMACAddress={MAC}\nName=eth0\n", True, None),
        (f"{ETC}/05-mac.network", "[Match]\nMACAddress=02:00:00:00:00:99\n", False, None),
        ("/run/systemd/network/10-netplan-eth0.network", NAMED, True, "take eth0 out"),
        (f"{ETC}/05-eth0.conf", NAMED, False, None),
        (f"{ETC}/99-eth0.netdev", "[NetDev]\nName=eth0\n", True, None),
        (f"{ETC}/05-other.netdev", "[NetDev]\nName=eth00\n", False, None),
        (f"{ETC}/10-virtfleet-eth0.network", NAMED, False, None),
    ],
)
def test_networkd_sees_files_that_would_win(path, content, claimed, refused):
    foreign = Networkd().foreign({path: content}, ["eth0"], {"eth0": MAC})
    assert foreign.claims == ({"eth0": path} if claimed else {})
    if refused:
        assert refused in foreign.refused["eth0"]
        assert foreign.edits == {}
    elif claimed:
        assert foreign.edits == {path: None, f"{path}.virtfleet-aside": content}
        aside = {f"{path}.virtfleet-aside": content}
        assert Networkd().foreign(aside, ["eth0"], {"eth0": MAC}) == Foreign()
        back = {f"{path}.virtfleet-aside": None, path: content}
        assert Networkd().disown(aside, ["eth0"], last=True) == back
        assert Networkd().disown(aside, ["eth1"], last=True) == {}


def keyfile(files, name):
    content, mode = files[f"/etc/NetworkManager/system-connections/virtfleet-{name}.nmconnection"]
    assert mode == 0o600
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(content)
    return {section: dict(parser[section]) for section in parser.sections()}


def test_networkmanager_has_a_keyfile_an_interface():
    files = NetworkManager().render(ALL)
    bridge = keyfile(files, "br0")
    assert bridge["connection"].pop("uuid")
    assert bridge == {
        "connection": {
            "id": "virtfleet-br0",
            "type": "bridge",
            "interface-name": "br0",
            "autoconnect-priority": "100",
            "autoconnect-slaves": "1",
        },
        "bridge": {"stp": "false", "mac-address": MAC},
        "ethernet": {"mtu": "9000"},
        "ipv4": {
            "method": "manual",
            "address1": "192.0.2.5/24",
            "gateway": "192.0.2.1",
            "dns": "192.0.2.53;",
        },
        "ipv6": {
            "method": "manual",
            "address1": "2001:db8::5/64",
            "gateway": "2001:db8::1",
            "dns": "2001:db8::53;",
        },
    }
    port = keyfile(files, "eth0")
    assert port["connection"]["master"] == "br0"
    assert port["connection"]["slave-type"] == "bridge"
    assert port["ethernet"] == {"mtu": "9000"}
    assert "ipv4" not in port
    bond = keyfile(files, "bond0")
    assert bond["bond"] == {"mode": "802.3ad", "miimon": "100"}
    assert bond["ethernet"] == {"cloned-mac-address": MAC}
    assert bond["bridge-port"] == {"vlans": "2-4094"}
    filtering = keyfile(files, "br1")["bridge"]
    assert filtering == {"stp": "true", "vlan-filtering": "true", "vlans": "7"}
    vlan = keyfile(files, "br1.7")
    assert vlan["vlan"] == {"id": "7", "parent": "br1"}
    assert (vlan["ipv4"]["method"], vlan["ipv6"]["method"]) == ("auto", "auto")
    nothing = keyfile(NetworkManager().render([Interface("eth9", "ethernet")]), "eth9")
    assert nothing["ipv4"]["method"] == "disabled"


def test_networkmanager_takes_part_by_files_that_a_boot_forgets(made):
    path = "/etc/NetworkManager/system-connections/virtfleet-br0.nmconnection"
    telling = Telling({path: ("text", 0o600)}, touched=("eth0",))
    backend = NetworkManager()
    assert backend.before(telling) == []
    live = backend.live(telling)
    assert made.writes(live) == {path.replace("/etc", "/run"): "text"}
    assert live[0].mode == 0o600
    assert made.commands(live) == [
        "nmcli connection reload",
        "nmcli --wait 20 connection up id virtfleet-br0",
    ]
    for after in (backend.persist(telling), backend.forget(telling)):
        assert made.writes(after) == {path.replace("/etc", "/run"): None}
        assert made.commands(after) == ["nmcli connection reload"]
    assert made.commands(backend.resume(telling)) == [
        "nmcli device set eth0 managed yes",
        "nmcli --wait 20 device connect eth0",
    ]
    assert backend.foreign({}, ["eth0"], {}) == Foreign()
    assert backend.disown({}, ["eth0"], last=True) == {}


def test_networkmanager_lets_go_of_what_is_taken_away(made):
    telling = Telling(removed=("br0",), returned={"eth0": Former()}, grows=False)
    backend = NetworkManager()
    assert made.commands(backend.before(telling)) == [
        "nmcli connection modify --temporary virtfleet-br0 connection.autoconnect no",
        "nmcli device set br0 managed no",
        "nmcli device set eth0 managed no",
    ]
    assert backend.live(telling) == []
    assert made.commands(backend.persist(telling))[-1] == "nmcli device set eth0 managed yes"


@pytest.mark.parametrize(
    ("backend", "path"),
    [
        (Ifupdown(None), OURS),
        (Networkd(), f"{ETC}/10-virtfleet-x.network"),
        (NetworkManager(), "/etc/NetworkManager/system-connections/virtfleet-x.nmconnection"),
    ],
)
def test_a_file_of_somebody_else_under_our_name_is_an_error(backend, path):
    assert backend.paths({path: MARK, "/etc/other": "x"}) == [path]
    assert backend.paths({}) == []
    with pytest.raises(VirtfleetError, match="is not virtfleet's"):
        backend.paths({path: "mine\n"})

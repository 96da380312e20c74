# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what was asked for and what there is to a change with its way back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible.module_utils.converge.errors import InputError
from ansible.module_utils.system.network.ifupdown import MAIN, OURS
from ansible.module_utils.system.network.ledger import PATH, Former, Ledger, parse
from ansible.module_utils.system.network.networkd import Networkd
from ansible.module_utils.system.network.observe import Address
from ansible.module_utils.system.network.plan import plan


def done_with(made, first, *links):
    files = made.writes(first.persist)
    ledger = parse(files.pop(PATH))
    return replace(made.host(*links), ledger=ledger, files={MAIN: made.INTERFACES, **files})


def done(made, observed, *links, routes=()):
    """Return the host as it is after its plan for BR0 was carried out."""
    first = plan(made.request(made.BR0), observed)
    files = {**observed.files, **made.writes(first.persist)}
    return replace(
        observed, live=made.live(*links, routes=routes), ledger=parse(files.pop(PATH)), files=files
    )


@pytest.fixture
def bridged(made):
    """Return a host whose eth0 is the port of our br0."""
    return done(
        made,
        made.with_eth0(),
        made.link(
            "br0", kind="bridge", stp=False, mac="02:00:00:00:00:04", addresses=["192.0.2.5/24"]
        ),
        made.link("eth0", master="br0"),
        routes=[made.route("default", "br0", "192.0.2.1")],
    )


def test_addresses_move_to_the_bridge(made):
    found = plan(made.request(made.BR0), made.with_eth0())
    assert [(a.id, a.object, a.action, a.when) for a in found.actions] == [
        ("a1", "interface/br0", "create", "live"),
        ("a2", f"file{OURS}", "create", "next_boot"),
    ]
    assert [(c.path, c.before, c.after) for c in found.actions[0].changes] == [
        ("ports", None, ["eth0"]),
        ("addresses", None, ["192.0.2.5/24"]),
        ("gateway", None, ["192.0.2.1"]),
        ("ports.eth0.addresses", ["192.0.2.5/24"], []),
    ]
    assert [c for c in made.commands(found.apply) if "flush" not in c] == [
        "ip link add name br0 address 02:00:00:00:00:04 type bridge stp_state 0",
        "ip link set dev eth0 master br0",
        "ip link set dev eth0 up",
        "ip link set dev br0 up",
        "ip address replace 192.0.2.5/24 dev br0",
        "ip -4 route replace default via 192.0.2.1 dev br0",
    ]
    assert made.writes(found.apply) == {}, "a reboot before the confirmation forgets all of it"
    assert set(made.writes(found.persist)) == {OURS, PATH}
    assert made.writes(found.rollback) == {OURS: None, PATH: None}
    back = made.commands(found.rollback)
    assert back[0] == "ip link delete dev br0"
    assert "ip address replace 192.0.2.5/24 dev eth0" in back
    assert back[-1] == "ip -4 route replace default via 192.0.2.1 dev eth0 proto boot"


def test_a_second_run_has_nothing_to_do(made, bridged):
    found = plan(made.request(made.BR0), bridged)
    assert (found.actions, found.apply, found.persist, found.rollback) == ((), (), (), ())


def test_what_is_not_stated_is_not_compared(made, bridged):
    observed = replace(
        bridged,
        live=made.live(
            *bridged.live.links.values(),
            made.link("vnet0", master="br0"),
            routes=bridged.live.routes,
        ),
    )
    bare = {"name": "br0", "type": "bridge"}
    assert plan(made.request(bare), observed).actions == ()
    assert plan(made.request(made.BR0), observed).actions == (), "a guest's port is none of ours"


def changed(made, bridged, **links):
    """Return the host with other properties of its links."""
    found = {
        name: replace(link, **links.get(name, {})) for name, link in bridged.live.links.items()
    }
    return replace(bridged, live=made.live(*found.values(), routes=bridged.live.routes))


@pytest.mark.parametrize(
    ("stated", "there", "changes", "expected"),
    [
        (
            {"stp": True},
            {},
            [("stp", False, True)],
            ["ip link set dev br0 type bridge stp_state 1"],
        ),
        (
            {"mtu": 9000},
            {},
            [("mtu", 1500, 9000), ("ports.eth0.mtu", 1500, 9000)],
            ["ip link set dev eth0 mtu 9000", "ip link set dev br0 mtu 9000"],
        ),
        (
            {"vlan_filtering": True},
            {"br0": {"vlan_filtering": False}},
            [("vlan_filtering", False, True), ("ports.eth0.vlans", None, "2-4094")],
            [
                "ip link set dev br0 type bridge vlan_filtering 1",
                "bridge vlan add dev eth0 vid 2-4094",
            ],
        ),
        (
            {"addresses": ["192.0.2.6/24"]},
            {},
            [("addresses", ["192.0.2.5/24"], ["192.0.2.6/24"])],
            [
                "ip address replace 192.0.2.6/24 dev br0",
                "ip address delete 192.0.2.5/24 dev br0",
                "ip address replace 192.0.2.6/24 dev br0",
                "ip -4 route replace default via 192.0.2.1 dev br0",
            ],
        ),
        (
            {"gateway": []},
            {},
            [("gateway", ["192.0.2.1"], [])],
            ["ip -4 route delete default via 192.0.2.1 dev br0"],
        ),
        (
            {"gateway": ["192.0.2.2"]},
            {},
            [("gateway", ["192.0.2.1"], ["192.0.2.2"])],
            [
                "ip -4 route replace default via 192.0.2.2 dev br0",
                "ip -4 route delete default via 192.0.2.1 dev br0",
            ],
        ),
        (
            {"dhcp": False},
            {"br0": {"addresses": (Address("192.0.2.5/24"), Address("192.0.2.9/24", True, 60))}},
            [("dhcp", True, False)],
            [
                "dhclient -x -pf /run/dhclient.br0.pid -lf /var/lib/dhcp/dhclient.br0.leases br0",
                "ip address delete 192.0.2.9/24 dev br0",
                "ip -4 route replace default via 192.0.2.1 dev br0",
            ],
        ),
        (
            {},
            {"br0": {"up": False, "addresses": ()}},
            [("addresses", [], ["192.0.2.5/24"])],
            [
                "ip link set dev br0 up",
                "ip address replace 192.0.2.5/24 dev br0",
                "ip -4 route replace default via 192.0.2.1 dev br0",
            ],
        ),
        (
            {},
            {"eth0": {"master": None}},
            [("ports", [], ["eth0"])],
            ["ip link set dev eth0 master br0", "ip link set dev eth0 up"],
        ),
    ],
)
def test_only_what_differs_changes(made, bridged, stated, there, changes, expected):
    observed = changed(made, bridged, **there)
    found = plan(made.request({**made.BR0, **stated}), observed)
    action = found.actions[0]
    assert (action.object, action.action) == ("interface/br0", "update")
    assert [(c.path, c.before, c.after) for c in action.changes] == changes
    assert [c for c in made.commands(found.apply) if "flush" not in c] == expected


def test_dhcp_moves_with_its_client(made):
    lease = Address("192.0.2.5/24", dynamic=True, valid=600, preferred=500)
    observed = made.host(made.link("eth0", addresses=[lease]))
    stated = {"name": "br0", "type": "bridge", "ports": ["eth0"], "dhcp": True}
    found = plan(made.request(stated), observed)
    commands = made.commands(found.apply)
    assert commands[0].startswith("dhclient -x ")
    assert commands[0].endswith(" eth0")
    assert commands[-1].startswith("dhclient -1 -4 ")
    assert commands[-1].endswith(" br0")
    back = made.commands(found.rollback)
    assert "ip address replace 192.0.2.5/24 dev eth0 valid_lft 600 preferred_lft 500" in back
    assert any(c.startswith("dhclient -1") and c.endswith(" eth0") for c in back)
    ledger = parse(made.writes(found.persist)[PATH])
    assert ledger.former["eth0"] == Former(dhcp=True)


def test_a_port_that_is_not_stated_any_more_gets_back_what_it_had(made, bridged):
    found = plan(made.request({**made.BR0, "ports": []}), bridged)
    commands = made.commands(found.apply)
    assert commands[:3] == [
        "ip link set dev eth0 nomaster",
        "ip link set dev eth0 mtu 1500",
        "ip link set dev eth0 up",
    ]
    assert "ip address replace 192.0.2.5/24 dev eth0" in commands


def test_a_stack_is_made_from_below_and_taken_away_from_above(made):
    stack = [
        {"name": "br20", "type": "bridge", "ports": ["bond0.20"]},
        {"name": "bond0.20", "type": "vlan", "link": "bond0", "id": 20},
        {
            "name": "bond0",
            "type": "bond",
            "ports": ["eth1", "eth2"],
            "mode": "802.3ad",
            "mtu": 9000,
        },
    ]
    observed = made.host(made.link("eth1"), made.link("eth2"))
    found = plan(made.request(*stack), observed)
    assert [c for c in made.commands(found.apply) if "flush" not in c] == [
        "ip link add name bond0 address 02:00:00:00:00:04 type bond mode 802.3ad miimon 0",
        "ip link set dev eth1 down",
        "ip link set dev eth1 master bond0",
        "ip link set dev eth1 mtu 9000",
        "ip link set dev eth1 up",
        "ip link set dev eth2 down",
        "ip link set dev eth2 master bond0",
        "ip link set dev eth2 mtu 9000",
        "ip link set dev eth2 up",
        "ip link set dev bond0 mtu 9000",
        "ip link set dev bond0 up",
        "ip link add link bond0 name bond0.20 type vlan id 20",
        "ip link set dev bond0.20 up",
        "ip link add name br20 address 02:00:00:00:00:04 type bridge stp_state 0",
        "ip link set dev bond0.20 master br20",
        "ip link set dev bond0.20 up",
        "ip link set dev br20 up",
    ]
    assert made.commands(found.rollback)[:3] == [
        f"ip link delete dev {name}" for name in ("br20", "bond0.20", "bond0")
    ]
    ledger = parse(made.writes(found.persist)[PATH])
    assert [i.name for i in ledger.interfaces] == ["bond0", "bond0.20", "br20"]
    there = made.live(
        made.link("eth1", master="bond0"),
        made.link("eth2", master="bond0"),
        made.link("bond0", kind="bond", mode="802.3ad", mtu=9000),
        made.link("bond0.20", kind="vlan", link="bond0", id=20, master="br20"),
        made.link("br20", kind="bridge"),
    )
    files = {**observed.files, OURS: made.writes(found.persist)[OURS]}
    later = replace(observed, live=there, ledger=ledger, files=files)
    gone = plan(made.request(state="absent"), later)
    assert [a.object for a in gone.actions][:3] == [
        *("interface/br20", "interface/bond0.20", "interface/bond0")
    ]
    assert all(a.destructive for a in gone.actions[:3])
    assert made.writes(gone.persist) == {OURS: None, PATH: None}


def test_a_bond_whose_mode_differs_is_made_anew_with_what_stands_on_it(made):
    stated = [
        {"name": "bond0", "type": "bond", "ports": ["eth1"], "mode": "802.3ad"},
        {"name": "v5", "type": "vlan", "link": "bond0", "id": 5},
    ]
    links = [
        made.link("eth1", master="bond0"),
        made.link("bond0", kind="bond", mode="active-backup", miimon=0),
        made.link("v5", kind="vlan", link="bond0", id=5),
    ]
    found = plan(made.request(*stated), made.host(*links))
    assert [(a.object, a.action) for a in found.actions][:2] == [
        ("interface/bond0", "replace"),
        ("interface/v5", "create"),
    ]
    assert found.actions[0].changes[0].to_dict() == {
        "path": "mode",
        "before": "active-backup",
        "after": "802.3ad",
    }
    assert made.commands(found.apply)[0] == "ip link delete dev bond0"
    back = made.commands(found.rollback)
    assert "ip link add link bond0 name v5 type vlan id 5" in back


def test_a_vlan_of_a_filtering_bridge_passes_at_the_bridge(made):
    stated = {"name": "br0.7", "type": "vlan", "link": "br0", "id": 7}
    bridge = made.link("br0", kind="bridge", vlan_filtering=True, vlans=((1, 1),))
    found = plan(made.request(stated), made.host(bridge))
    assert made.commands(found.apply)[-1] == "bridge vlan add dev br0 vid 7 self"


def test_a_bridge_without_a_port_has_a_mac_of_its_own_that_it_keeps(made):
    stated = {"name": "br9", "type": "bridge"}
    first = plan(made.request(stated), made.host())
    mac = made.commands(first.apply)[0].split()[6]
    assert mac.startswith("02:")
    assert len(mac) == 17
    other = plan(replace(made.request(stated), host="kvm2"), made.host())
    assert mac not in made.commands(other.apply)[0]
    there = done_with(made, first, made.link("br9", kind="bridge", mac=mac))
    assert plan(made.request(stated), there).actions == ()


def test_a_vlan_of_a_bridge_that_is_made_with_it_passes_too(made):
    stated = [
        {"name": "br1", "type": "bridge", "vlan_filtering": True},
        {"name": "br1.7", "type": "vlan", "link": "br1", "id": 7},
    ]
    found = plan(made.request(*stated), made.host())
    assert "bridge vlan add dev br1 vid 7 self" in made.commands(found.apply)
    off = plan(made.request({**stated[0], "vlan_filtering": False}, stated[1]), made.host())
    assert not [c for c in made.commands(off.apply) if c.startswith("bridge vlan")]


def test_the_former_network_comes_back(made, bridged):
    found = plan(made.request(state="absent"), bridged)
    assert [(a.object, a.action) for a in found.actions] == [
        ("interface/br0", "delete"),
        (f"file{OURS}", "delete"),
    ]
    assert made.commands(found.apply) == [
        "ip link delete dev br0",
        "ip link set dev eth0 mtu 1500",
        "ip link set dev eth0 up",
        "ip address replace 192.0.2.5/24 dev eth0",
        "ip -4 route replace default via 192.0.2.1 dev eth0 proto boot",
    ]
    assert plan(made.request(state="absent"), made.with_eth0()).actions == ()


def test_absent_in_the_list_means_that_one_alone(made, bridged):
    gone = plan(made.request({**made.BR0, "state": "absent"}), bridged)
    assert [a.object for a in gone.actions] == ["interface/br0", f"file{OURS}"]
    foreign = plan(made.request({"name": "virbr0", "type": "bridge", "state": "absent"}), bridged)
    assert foreign.actions == (), "what is not ours is left alone"


def test_a_lease_goes_back_to_the_port(made, bridged):
    lease = Address("192.0.2.77/24", dynamic=True, valid=600, preferred=500)
    ledger = Ledger(bridged.ledger.interfaces, {"eth0": Former(dhcp=True)})
    observed = replace(changed(made, bridged, br0={"addresses": (lease,)}), ledger=ledger)
    commands = made.commands(plan(made.request(state="absent"), observed).apply)
    assert "ip address replace 192.0.2.77/24 dev eth0 valid_lft 600 preferred_lft 500" in commands
    assert "ip -4 route replace default via 192.0.2.1 dev eth0" in commands
    assert commands[-1].startswith("dhclient -1 -4 ")


@pytest.mark.parametrize(
    "extra", [{"name": "vnet0", "master": "br0"}, {"name": "br0.9", "kind": "vlan", "link": "br0"}]
)
def test_a_bridge_is_not_taken_away_from_under_a_guest(made, bridged, extra):
    links = (*bridged.live.links.values(), made.link(**extra))
    observed = replace(bridged, live=made.live(*links, routes=bridged.live.routes))
    found = plan(made.request(state="absent"), observed)
    assert found.actions == ()
    assert [(b.object, extra["name"] in b.reason) for b in found.blocked] == [
        ("interface/br0", True)
    ]


STANZA = "auto eth0\niface eth0 inet static\n  address 192.0.2.5/24\n"


def test_configuration_of_others_is_taken_over_only_when_asked_for(made):
    files = {MAIN: STANZA + made.INTERFACES}
    observed = made.with_eth0(files=files)
    with pytest.raises(InputError, match=r"interfaces\[0\].ports\[0\].*adopt: true"):
        plan(made.request(made.BR0), observed)
    found = plan(made.request(made.BR0, adopt=True), observed)
    assert [(a.object, a.action) for a in found.actions][-1] == (f"file{MAIN}", "adopt")
    taken = made.writes(found.persist)[MAIN]
    assert taken.startswith("#virtfleet:eth0# auto eth0\n")
    assert made.writes(found.rollback)[MAIN] == files[MAIN]
    after = {MAIN: taken, OURS: made.writes(found.persist)[OURS]}
    ledger = parse(made.writes(found.persist)[PATH])
    live = made.live(made.link("br0", kind="bridge"), made.link("eth0", master="br0"))
    later = replace(observed, files=after, ledger=ledger, live=live)
    gone = plan(made.request(state="absent"), later)
    assert made.writes(gone.persist) == {OURS: None, MAIN: files[MAIN], PATH: None}
    assert gone.actions[-1].reason == "what was taken over is given back"


def test_an_image_gets_files_alone(made):
    observed = replace(made.with_eth0(), live=None)
    found = plan(made.request(made.BR0), observed)
    assert [a.object for a in found.actions] == [f"file{OURS}"]
    assert found.apply == ()
    assert set(made.writes(found.persist)) == {OURS, PATH}
    with pytest.raises(InputError, match="adopt"):
        plan(made.request(made.BR0), replace(observed, files={MAIN: STANZA + made.INTERFACES}))


def test_networkd_knows_what_goes_before_it_goes(made):
    observed = made.with_eth0(backend=Networkd())
    there = done(
        made,
        observed,
        made.link(
            "br0", kind="bridge", stp=False, mac="02:00:00:00:00:04", addresses=["192.0.2.5/24"]
        ),
        made.link("eth0", master="br0"),
        routes=[made.route("default", "br0", "192.0.2.1")],
    )
    assert plan(made.request(made.BR0), there).actions == ()
    gone = plan(made.request(state="absent"), there)
    assert made.commands(gone.apply)[:2] == ["networkctl reload", "ip link delete dev br0"]
    assert made.commands(gone.apply).count("networkctl reload") == 1
    before = made.writes(gone.apply)
    assert set(before) == {
        f"/run/systemd/network/00-virtfleet-{name}.network" for name in ("br0", "eth0")
    }
    assert "Address=192.0.2.5/24" in before["/run/systemd/network/00-virtfleet-eth0.network"]
    assert made.writes(gone.persist).items() >= dict.fromkeys(before).items()
    back = made.commands(gone.rollback)
    assert back[:2] == ["networkctl reload", back[1]]
    assert back[1].startswith("ip link add name br0 ")
    assert made.commands(gone.persist) == ["networkctl reload", "ip link delete dev br0"]


def test_a_ledger_that_differs_alone_is_written(made, bridged):
    stated = {**made.BR0, "stp": False}
    found = plan(made.request(stated), bridged)
    assert [(a.object, a.action) for a in found.actions] == [(f"file{PATH}", "update")]


@pytest.mark.parametrize(
    ("routes", "resolver", "stated", "kinds"),
    [
        ([], False, {"dns": ["192.0.2.53"]}, ["dns_not_applied"]),
        ([], True, {"dns": ["192.0.2.53"]}, []),
        ([("198.51.100.0/24", "static")], True, {}, ["routes_dropped"]),
        ([("198.51.100.0/24", "dhcp")], True, {}, []),
    ],
)
def test_what_is_outstanding_is_told(made, routes, resolver, stated, kinds):
    observed = made.host(
        made.link("eth0", addresses=["192.0.2.5/24"]),
        routes=[made.route(dst, "eth0", "192.0.2.7", protocol=by) for dst, by in routes],
        resolver=resolver,
    )
    found = plan(made.request({**made.BR0, **stated}), observed)
    assert [p.kind for p in found.pending] == kinds

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a fleet's files make of hosts and guests, and all that is wrong with them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip("jsonschema", reason="a fleet is read on the controller alone")

from ansible.module_utils.converge.errors import InputError
from ansible.module_utils.fleet.declare import declare
from ansible.module_utils.fleet.merge import merged
from fleets import BASE, written

CASES = Path(__file__).resolve().parents[2] / "cases" / "fleet"


def fleet(**sections):
    return declare(written(**sections))


def guest(entry, **sections):
    """Return the one guest that is declared."""
    (found,) = fleet(guests={"web01": {"host": "kvm1", **entry}}, **sections).guests
    return found


def told(text):
    """Return what is said of a file's text."""
    content = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(InputError) as raised:
        declare([("fleet.yml", content)])
    return [str(problem) for problem in raised.value.problems]


def test_short_words_become_what_the_module_takes():
    found = guest({"size": "small", "image": "debian-12", "network": "lan"})
    assert found.spec == {
        "name": "web01",
        "vcpus": 1,
        "memory": "1GiB",
        "disks": [
            {
                "target": "vda",
                "file": "/srv/images/web01.qcow2",
                "size": "10GiB",
                "image": "debian-12",
            }
        ],
        "nics": [{"network": "lan"}],
    }


def test_a_guest_that_was_renamed_keeps_its_disk():
    entry = {"host": "kvm1", "size": "small", "was": "old[2:3]"}
    found = fleet(guests={"web[1:2]": entry, "log": {**entry, "was": "{{ former }}"}}).guests
    assert [one.spec["was"] for one in found] == ["old2", "old3", "{{ former }}"]
    assert [one.spec["disks"][0]["file"] for one in found] == [
        f"/srv/images/{name}.qcow2" for name in ("old2", "old3", "{{ former }}")
    ]
    helper = {"host": "kvm1", "engine": "ioctl", "kernel": "host", "was": "old"}
    (found,) = fleet(guests={"a": helper}).guests
    assert found.spec["was"] == "old"


def test_hosts_get_what_the_roles_take():
    sections = {
        "networks": {**BASE["networks"], "backup": {"mode": "isolated", "hypervisors": "*2"}},
        "guests": {"a[1:2]": {"host": "kvm1", "memory": "1GiB"}},
    }
    first, second = fleet(**sections).hypervisors
    assert (first.name, first.groups) == ("kvm1", ())
    assert (second.name, second.groups) == ("kvm2", ("rack_b",))
    assert second.variables["ansible_host"] == "192.0.2.2"
    assert [one["name"] for one in first.variables["kvm_network_networks"]] == ["lan", "inner"]
    assert second.variables["kvm_network_networks"][2] == {"name": "backup", "mode": "isolated"}
    assert first.variables["kvm_image_images"] == [{"name": "debian-12"}]
    assert first.variables["kvm_guest_fleet"] == "test"
    assert first.place == {
        "offers": ["image debian-12", "network inner", "network lan", "pool local"]
    }
    assert second.place["offers"][1] == "network backup"


def test_layers_lie_over_each_other():
    sections = {
        "defaults": {"size": "small", "title": "default", "network": "lan", "vars": {"a": 1}},
        "profiles": {
            "base": {"title": "base", "cpu": {"mode": "host-model"}, "vars": {"b": 2}},
            "big": {"profile": "base", "memory": "8GiB", "groups": ["heavy"]},
        },
        "guest_groups": {"heavy": {"vars": {"a": 3}, "title": "heavy"}},
    }
    found = guest({"profile": "big", "vars": {"c": 4}, "vcpus": 4, "network": None}, **sections)
    assert found.groups == ("heavy",)
    assert found.variables == {"a": 3, "b": 2, "c": 4}
    assert found.spec == {
        "name": "web01",
        "title": "heavy",
        "cpu": {"mode": "host-model"},
        "vcpus": 4,
        "memory": "8GiB",
    } | {"disks": found.spec["disks"]}
    plain = guest({}, **sections)
    assert (plain.spec["title"], plain.spec["nics"]) == ("default", [{"network": "lan"}])


def test_many_profiles_in_a_circle_are_told_in_time():
    names = [f"p{n}" for n in range(14)]
    profiles = {name: {"profile": names} for name in names}
    with pytest.raises(InputError) as raised:
        guest({"memory": "1GiB", "profile": "p0"}, profiles=profiles)
    assert len(raised.value.problems) == len(names)


def test_a_profile_lies_over_those_that_it_stands_on():
    profiles = {
        f"p{n}": {"profile": [f"p{m}" for m in range(n)], "title": f"p{n}"} for n in range(30)
    }
    profiles["p1"]["description"] = "of p1"
    spec = guest({"memory": "1GiB", "profile": "p29"}, profiles=profiles).spec
    assert (spec["title"], spec["description"]) == ("p29", "of p1")


def test_another_engine_takes_of_the_defaults_what_it_knows():
    sections = {"defaults": {"size": "small", "network": "lan", "autostart": True, "title": "x"}}
    spec = guest({"engine": "ioctl", "kernel": "host", "memory": "64MiB"}, **sections).spec
    assert spec == {
        "name": "web01",
        "autostart": True,
        "engine": "ioctl",
        "kernel": "host",
        "memory": "64MiB",
    }


def test_the_order_of_names_is_that_of_the_file_and_changes_nothing_else():
    guests = {f"g{n}": {"host": "kvm1", "size": "small"} for n in range(4)}
    one, other = fleet(guests=guests), fleet(guests=dict(reversed(guests.items())))
    assert [g.name for g in one.guests] == [g.name for g in reversed(other.guests)]
    assert sorted(one.guests, key=str) == sorted(other.guests, key=str)


ADDRESSES = [
    ("lan", {"ip": {"addresses": ["192.0.2.7/24"]}}, "192.0.2.7", True),
    ("inner", {"ip": {"addresses": ["10.0.0.7/24"]}}, "10.0.0.7", False),
    ("inner", {"lease": "10.0.0.8"}, "10.0.0.8", False),
    ("lan", {}, None, False),
    ("lan", {"ip": {"addresses": ["{{ address }}"]}}, None, False),
]


@pytest.mark.parametrize(("network", "nic", "address", "direct"), ADDRESSES)
def test_an_address_that_is_stated_is_known(network, nic, address, direct):
    stated = {"memory": "1GiB", "cloud_init": {}, "network": {"network": network, **nic}}
    found = guest(stated)
    assert (found.address, found.direct) == (address, direct)


def test_a_fleet_of_one_host_needs_no_host():
    sections = {"hypervisors": {"only": None}, "guests": {"a": {"memory": "1GiB"}}}
    (found,) = fleet(**sections).guests
    assert found.host == "only"


def test_files_are_joined_and_say_where_each_thing_stands():
    more = b"guests:\n  db01: {host: kvm1, size: small}\nsizes:\n  big: {memory: 9GiB}\n"
    found = declare([*written(), ("fleet.d/db.yml", more)])
    assert [one.name for one in found.guests] == ["db01"]
    again = b"guests:\n  db01:\n    host: kvm1\n    size: smal\n"
    with pytest.raises(InputError) as raised:
        declare([*written(), ("fleet.d/a.yml", more), ("fleet.d/b.yml", again)])
    (problem,) = raised.value.problems
    assert problem.path == "fleet.d/b.yml:2:3: guests.db01"
    assert problem.found == "it at fleet.d/a.yml:2:3 already"
    with pytest.raises(InputError) as raised:
        declare([*written(), ("fleet.d/b.yml", again)])
    assert str(raised.value) == (
        "fleet.d/b.yml:4:5: guests.db01.size: expected a size (small), found 'smal':"
        " did you mean small?"
    )


class Vault(str):
    """Stands for a value that only the plugin's caller can read."""

    __slots__ = ()


def test_a_vault_s_value_stays_what_it_is():
    content = b"""
plugin: kvm_fleet
hypervisors: {kvm1: }
guests:
  a:
    memory: 1GiB
    graphics: [{type: vnc, password: !vault "$ANSIBLE_VAULT;1.1;AES256"}]
"""
    found = declare([("fleet.yml", content)], {"!vault": Vault})
    password = found.guests[0].spec["graphics"][0]["password"]
    assert (type(password), password) == (Vault, "$ANSIBLE_VAULT;1.1;AES256")


def test_an_image_of_the_controller_is_one():
    images = {"mine": {"file": "images/mine.qcow2"}, "debian-12": {"via": "controller"}}
    (host, _) = fleet(images=images).hypervisors
    assert host.variables["kvm_image_images"] == [
        {"name": "mine", "file": "images/mine.qcow2"},
        {"name": "debian-12", "via": "controller"},
    ]


def test_a_fleet_has_short_names_of_its_own():
    entry = {"url": "https://images.example.org/a.qcow2", "checksums": "https://example.org/SUMS"}
    catalogue = {"myos-4.2": entry, "debian-12": entry}
    for host in fleet(images={"myos-4.2": {}}, catalogue=catalogue).hypervisors:
        assert host.variables["kvm_image_catalogue"] == catalogue
        assert host.variables["kvm_image_images"] == [{"name": "myos-4.2"}]
    for host in fleet().hypervisors:
        assert "kvm_image_catalogue" not in host.variables
    # What a template makes is left to the hosts, and with it the names of images.
    lazy = {"{{ name }}": entry, "b": {**entry, "url": "{{ mirror }}/b.qcow2"}}
    fleet(images={"b": {}}, catalogue=lazy)


def test_a_template_is_left_to_the_hosts():
    entry = {"memory": "{{ memory }}", "cloud_init": {"ssh_keys": "{{ keys }}"}}
    assert guest(entry).spec["memory"] == "{{ memory }}"
    vlan = {"id": "{{ id }}", "link": "eth0"}
    network = {"network": {"ethernets": "{{ ports }}", "vlans": {"eth0.5": vlan}}}
    for document in (
        "{{ lookup('template', 'web.yml') }}",
        "#cloud-config\nhostname: {{ name }}\n{% if new %}\npackages: [{{ more }}]\n{% endif %}",
        {"users": [{"name": "ops", "lock_passwd": "{{ lock }}"}], "packages": "{{ packages }}"},
    ):
        guest({"memory": "1GiB", "cloud_init": {"user_data": document, "network_config": network}})
    guest({"memory": "1GiB", "cloud_init": {"network_config": {"network": "{{ network }}"}}})


def test_a_first_boot_that_cloud_init_would_not_read_is_told_with_its_place():
    text = (
        "plugin: kvm_fleet\nhypervisors: {kvm1: }\nguests:\n  a:\n    memory: 1GiB\n"
        "    cloud_init:\n      user_data:\n        users:\n        - default\n"
        "        - {name: ops, sudo: {a: b}}\n"
        "      network_config:\n        vlans:\n          eth0.5: {id: five, link: eth0}\n"
    )
    sudo, vlan = told(text)
    assert sudo.startswith("fleet.yml:10:")
    assert "cloud_init.user_data.users[1].sudo: expected text, true or false or a list" in sudo
    assert vlan.startswith("fleet.yml:13:")
    assert "vlans.eth0.5.id: expected a whole number, found text" in vlan


def test_what_hosts_alone_can_judge_is_left_to_them():
    one = {"mode": "nat", "hypervisors": "kvm1", "ips": [{"address": "192.0.2.1", "prefix": 24}]}
    fleet(
        networks={"one": one, "two": {**one, "hypervisors": "kvm2"}, "default": {}},
        pools={"a": {"type": "dir", "path": "{{ place }}"}, "b": {"type": "{{ kind }}"}},
    )
    lazy = {"mode": "{{ way }}", "mtu": "{{ mtu }}", "ips": [{"address": "{{ address }}"}]}
    found = fleet(networks={"lazy": lazy}).hypervisors[0].variables["kvm_network_networks"]
    assert found == [{"name": "lazy", **lazy}]


def test_null_takes_away_what_stands_below():
    assert merged([{"a": {"b": 1, "c": 2}}, {"a": {"b": None}, "d": 1}, {"d": None}]) == {
        "a": {"c": 2}
    }


BROKEN = json.loads((CASES / "broken.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("text", "expected"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_wrong_is_told_with_its_place(text, expected):
    assert told(text) == ([expected] if isinstance(expected, str) else expected)


MUTATIONS: list[object] = [None, 3, True, "nowhere", [], [[]], {"x": {"y": 1}}, "{{", -1.5]


def paths(value, path=()):
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*path, key))


FULL = {
    **BASE,
    "images": {"debian-12": {}, "myos": {}},
    "catalogue": {"myos": {"url": "https://a/b", "checksums": "https://a/c", "format": "raw"}},
    "defaults": {"size": "small", "pool": "local"},
    "profiles": {"p": {"memory": "2GiB"}},
    "guest_groups": {"web": {"vars": {"a": 1}}},
    "guests": {
        "web[1:2]": {
            "host": "kvm1",
            "profile": "p",
            "groups": ["web"],
            "network": "lan",
            "image": "debian-12",
            "vars": {"b": 2},
        }
    },
}


def broken(path, value):
    """Return the full fleet with another value at a path, and the lines on which that stands."""
    changed = json.loads(json.dumps(FULL))
    inner = changed
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    text = json.dumps(changed, indent=1)
    node = yaml.compose(text)
    for part in path:
        (node,) = [inside for key, inside in node.value if key.value == part]
    return text, range(node.start_mark.line + 1, node.end_mark.line + 2)


BROKEN = [(path, value) for path in paths(FULL) if path for value in MUTATIONS]


def refusals(text):
    """Return what is wrong with a fleet's file, none where it is read."""
    try:
        declare([("fleet.yml", text.encode())])
    except InputError as error:
        return [str(problem) for problem in error.problems]
    return []


def test_whatever_stands_anywhere_is_read_or_told_with_its_place():
    """Anything in the place of anything: a fleet, or messages that lead to what is wrong."""
    refused = 0
    for path, value in BROKEN:
        text, lines = broken(path, value)
        found = refusals(text)
        refused += bool(found)
        places = [re.match(r"fleet\.yml:(\d+):\d+: ", one) for one in found]
        assert all(places), (path, value, found)
        # What leans on it, by its name or for what it said, is told where that stands.
        told = {int(place[1]) for place in places} & set(lines)
        named = set(path) & set(re.split(r"\W+", " ".join(found)))
        assert not found or told or named or value is None, (path, value, found)
    assert refused >= 200


@pytest.mark.parametrize(
    ("content", "place", "words"),
    [
        (b"plugin: kvm_fleet\nguests: {a\xff: }\n", "fleet.yml:2:1", "UTF-8"),
        (b"\xff\xfep\x00l\x00", "fleet.yml:1:1", "UTF-8"),
        (
            b"a: &a [x, x, x, x, x, x, x, x, x, x]\n"
            + b"".join(
                b"%c: &%c [%s]\n" % (n + 1, n + 1, b", ".join([b"*%c" % n] * 10))
                for n in range(ord("a"), ord("h"))
            ),
            "fleet.yml",
            "by what its aliases unfold to",
        ),
        (b"plugin: kvm_fleet\nguests: " + b"[" * 200 + b"]" * 200, "fleet.yml", "deep"),
        (b"#" * ((64 << 20) + 1), "fleet.yml", "MiB"),
        (b"plugin: kvm_fleet\nguests: !!python/object:os.system {}\n", "fleet.yml:2:9", "tag"),
        (b"plugin: kvm_fleet\nguests: &g {a: *g}\n", "fleet.yml:2", "alias"),
    ],
    ids=["a byte", "UTF-16", "a bomb", "depth", "size", "a tag", "a ring"],
)
def test_a_file_that_cannot_be_read_is_refused(content, place, words):
    with pytest.raises(InputError) as raised:
        declare([("fleet.yml", content)])
    assert raised.value.problems[0].path.startswith(place)
    assert words in str(raised.value)


def test_a_guest_of_the_helper_is_declared_as_briefly_as_any_other():
    text = """\
plugin: kvm_fleet
hypervisors: {kvm1: }
networks: {lan: {mode: bridge, bridge: br0}}
pools: {local: {type: dir, path: /srv/guests}}
images: {debian-13: }
guests:
  a: {engine: ioctl, kernel: host, image: debian-13, disk: 4GiB, network: lan}
"""
    (guest,) = declare([("fleet.yml", text.encode())]).guests
    assert guest.spec["disks"] == [
        {"target": "vda", "file": "/srv/guests/a.qcow2", "size": "4GiB", "image": "debian-13"}
    ]
    assert guest.spec["nics"] == [{"bridge": "br0"}]


def test_a_guest_of_the_helper_boots_images_that_the_fleet_has():
    text = """\
plugin: kvm_fleet
hypervisors: {kvm1: , kvm2: }
images:
  kern: {path: /srv/vmlinuz, format: raw, hypervisors: kvm2}
guests:
  a: {engine: ioctl, memory: 64MiB, kernel: "image:kern", %s}
"""
    (guest,) = declare([("fleet.yml", (text % "cmdline: x").encode())]).guests
    assert guest.spec["kernel"] == "image:kern"
    assert guest.asked["images"] == ["kern"]  # so that it is placed where that is
    (problem,) = told(text % "initrd: 'image:kerm'")
    assert problem.startswith("fleet.yml:6:59: guests.a.initrd: expected an image (kern), found")
    (problem,) = told(text % "host: kvm1")
    assert problem.endswith(" guests.a.kernel: expected an image that kvm1 has, found 'kern'")


def test_a_guest_of_the_helper_is_reached_as_its_network_says():
    text = """\
plugin: kvm_fleet
hypervisors: {kvm1: , kvm2: }
networks:
  lan: {mode: bridge, bridge: br0}
  inner: {mode: nat, bridge: br1, hypervisors: kvm2}
guests:
  a:
    engine: ioctl
    kernel: host
    cloud_init: {user: ops}
    network: {network: %s, ip: {addresses: [192.0.2.7/24]}}
"""
    for name, direct in (("lan", True), ("inner", False)):
        (guest,) = declare([("fleet.yml", (text % name).encode())]).guests
        assert (guest.address, guest.direct) == ("192.0.2.7", direct)
        assert guest.asked["networks"] == [name]  # so that it is placed where that is

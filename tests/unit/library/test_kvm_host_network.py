# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module kvm_host_network, run as Ansible runs it, below a root of the test's own."""

from __future__ import annotations

import json
import runpy

import pytest
from ansible.module_utils.testing import patch_module_args

BR0 = {
    "name": "br0",
    "type": "bridge",
    "ports": ["eth0"],
    "addresses": ["192.0.2.5/24"],
    "gateway": ["192.0.2.1"],
}
LOOPBACK = "auto lo\niface lo inet loopback\nsource /etc/network/interfaces.d/*\n"
FILES = {"etc/network/interfaces": LOOPBACK}
OURS = "etc/network/interfaces.d/virtfleet"


class Host:
    """Runs the module on a root folder and returns its answer."""

    def __init__(self, repository, root, capsys):
        self.module = runpy.run_path(str(repository / "library" / "kvm_host_network.py"))
        self.root = root
        self.capsys = capsys
        for path, content in FILES.items():
            (root / path).parent.mkdir(parents=True)
            (root / path).write_text(content, encoding="utf-8")

    def run(self, *interfaces, check=False, **options):
        arguments = {
            "root": str(self.root),
            "host": "kvm1",
            "interfaces": list(interfaces),
            **options,
            "_ansible_check_mode": check,
        }
        with patch_module_args(arguments), pytest.raises(SystemExit):
            self.module["main"]()
        return json.loads(self.capsys.readouterr().out)

    def tree(self):
        files = [path for path in self.root.rglob("*") if path.is_file()]
        return {str(p.relative_to(self.root)): p.read_text(encoding="utf-8") for p in files}


@pytest.fixture
def host(repository, tmp_path, capsys):
    return Host(repository, tmp_path, capsys)


def test_nothing_asked_for_is_nothing_done(host):
    for options in ({}, {"state": "absent"}):
        answer = host.run(**options)
        assert (answer["changed"], answer["actions"], answer["manager"]) == (False, [], None)
    assert host.tree() == FILES


def test_an_image_there_and_back_and_each_again(host):
    checked = host.run(BR0, check=True, bridge_netfilter=False)
    assert host.tree() == FILES
    made = host.run(BR0, bridge_netfilter=False)
    assert made["actions"] == checked["actions"]
    assert [action["id"] for action in made["actions"]] == ["a1", "a2", "a3"]
    assert (made["manager"], made["change"]) == ("ifupdown", None)
    assert "iface br0 inet static" in host.tree()[OURS]
    assert host.run(BR0, bridge_netfilter=False)["changed"] is False
    gone = host.run(state="absent")
    assert gone["changed"] is True
    left = {k: v for k, v in host.tree().items() if k != "var/lib/virtfleet/lock"}
    assert left == FILES
    assert host.run(state="absent")["changed"] is False


def test_files_are_shown_as_texts_in_the_diff(host):
    diffs = {d["after_header"]: d for d in host.run(BR0, bridge_netfilter=True)["diff"]}
    assert "\nauto br0\n" in diffs[f"file/{OURS}"]["after"]
    assert diffs["file/etc/sysctl.d/90-virtfleet-bridge.conf"]["after"].count("\n") == 4


def test_mistakes_are_told_with_their_paths(host):
    answer = host.run({**BR0, "name": "a b"}, {"name": "v", "type": "vlan", "link": "x", "id": 0})
    assert answer["failed"] is True
    assert [p["path"] for p in answer["problems"]] == ["interfaces[0].name", "interfaces[1].id"]
    assert host.tree() == FILES


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"rollback_timeout": "1s"}, "rollback_timeout: expected 5s to 600s"),
        ({"rollback_timeout": "60"}, "rollback_timeout: expected a duration such as 60s"),
        ({"confirm": "20260101T000000Z-abcdef"}, "there is no network change"),
        ({"manager": "wicked"}, "value of manager must be one of"),
    ],
)
def test_wrong_options_are_named(host, options, part):
    answer = host.run(BR0, **options)
    assert answer["failed"] is True
    assert part in answer["msg"]


def test_without_a_network_manager_it_says_so(host):
    (host.root / "etc/network/interfaces").unlink()
    answer = host.run(BR0)
    assert "name the one that shall be with manager" in answer["msg"]
    assert host.run(BR0, manager="networkd")["manager"] == "networkd"
    assert "etc/systemd/network/10-virtfleet-br0.netdev" in host.tree()


def test_a_disk_that_refuses_is_named(host):
    (host.root / "var").write_text("not a folder", encoding="ascii")
    answer = host.run(BR0)
    assert answer["failed"] is True
    assert "/var" in answer["msg"]

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds of every run: two at once, and check mode where objects would go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible.module_utils.converge.lock import BusyError, exclusive, holder
from ansible.module_utils.kvm.layout import make_folder
from ansible.module_utils.resource.ledger import Ledger
from ansible.module_utils.resource.volumes import Volumes, converge
from ansible.module_utils.virt.connection import Connection

libvirt = pytest.importorskip("libvirt", reason="the binding is built for the controller's Python")

LAN = {"name": "lan", "mode": "nat", "ips": [{"address": "10.9.0.1", "prefix": 24}]}
DATA = {"name": "data", "type": "dir", "path": "/srv/data"}
DISK = {"pool": "data", "name": "disk.qcow2", "size": "1GiB"}
OTHER = "11111111-2222-4333-8444-555555555555"


@pytest.fixture
def run(host):
    """Return what carries out a module, by the plural of its kind."""

    def work(plural, *entries, **how):
        if plural != "volumes":
            return host.run(plural, *entries, **how)
        connection = Connection("test:///default")
        try:
            mine = Volumes(connection, "local", Ledger(host.layout))
            return converge(mine, host.layout, entries, "kvm1", **{"check_mode": False, **how})
        finally:
            connection.close()

    yield work
    for pool in host.handle.listAllStoragePools():
        for one in pool.listAllVolumes() if pool.isActive() else ():
            one.delete()


def everything(host):
    """Return what libvirt has and what is noted of it."""
    volumes = [
        sorted(one.XMLDesc() for one in pool.listAllVolumes())
        for pool in host.handle.listAllStoragePools()
        if pool.isActive()
    ]
    noted = Path(host.layout.state, "adopted.json")
    return host.everything(), volumes, noted.read_text("utf-8") if noted.exists() else ""


@pytest.mark.parametrize(
    ("plural", "entry", "others"),
    [
        ("networks", LAN, [{**LAN, "autostart": False}, {"name": "lan", "state": "absent"}]),
        ("pools", DATA, [{**DATA, "autostart": False}, {"name": "data", "state": "absent"}]),
        ("volumes", DISK, [{**DISK, "name": "more"}, {**DISK, "state": "absent"}]),
    ],
)
def test_a_second_run_at_once_is_refused_if_it_has_something_to_do(
    host, run, plural, entry, others
):
    if plural == "volumes":
        run("pools", DATA)
    make_folder(host.layout.state)
    lock = os.path.join(host.layout.state, "lock")
    before = everything(host)
    with exclusive(lock, holder("another")):
        with pytest.raises(BusyError, match=r"another run is changing this host \(run another"):
            run(plural, entry)
        assert everything(host) == before
        assert run(plural, entry, check_mode=True)["changed"] is True
    run(plural, entry)
    there = everything(host)
    with exclusive(lock, holder("another")):
        assert run(plural, entry)["changed"] is False
        for other in others:
            with pytest.raises(BusyError):
                run(plural, other)
        assert everything(host) == there
    assert run(plural, others[1])["changed"] is True


ENDS = {
    "absent": ([{"state": "absent"}], False, ["stop", "delete"]),
    "pruned": ([], True, ["stop", "delete"]),
    "made anew": ([{"uuid": OTHER, "replace": True}], False, ["stop", "replace", "start"]),
}


@pytest.mark.parametrize(("changes", "prune", "verbs"), ENDS.values(), ids=ENDS)
@pytest.mark.parametrize(("plural", "entry"), [("networks", LAN), ("pools", DATA)])
def test_check_mode_ends_nothing_and_names_what_the_run_does(
    host, run, plural, entry, changes, prune, verbs
):
    run(plural, entry)
    entries = [{**entry, **change} for change in changes]
    before = everything(host)
    planned = run(plural, *entries, prune=prune, check_mode=True)
    assert everything(host) == before
    done = run(plural, *entries, prune=prune)
    assert planned["actions"] == done["actions"]
    assert planned["diff"] == done["diff"]
    assert [action["action"] for action in done["actions"]] == verbs
    assert everything(host) != before
    again = run(plural, *entries, prune=prune)
    assert (again["changed"], again["blocked"]) == (False, [])

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""All facets in order: a survey that refuses, then one after the other, and failures by name."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.converge.action import LIVE, Action, Blocked
from ansible.module_utils.converge.errors import InputError
from ansible.module_utils.system.operation import OperationError, Run, Step, Write
from ansible.module_utils.system.outcome import Outcome
from ansible.module_utils.system.storage import run
from ansible.module_utils.system.storage.facet import System
from ansible.module_utils.system.storage.iscsi_wish import Node
from ansible.module_utils.system.storage.iscsi_wish import Wish as IscsiWish
from ansible.module_utils.system.storage.mount_wish import Wish as MountWish

MOUNT = MountWish("nfs", "192.0.2.5:/x", "/srv/x")
DEVICE = MountWish("ext4", "/dev/sdb1", "/srv/disk")
NODE = Node("iqn.2026-01.org.example:guests", "192.0.2.5", 3260)
STORAGE = run.Storage(mounts=(MOUNT, DEVICE), iscsi=IscsiWish(nodes=(NODE,)))
NOTHING: dict[str, Any] = {
    "directories": [],
    "volume_groups": [],
    "mounts": [],
    "iscsi": None,
    "multipath": None,
    "timeout": "30s",
}


def step(*operations, name="mount/srv/x"):
    return Step(Action(1, name, "create", "kvm1", LIVE, "it is missing"), operations)


def facet(seen, *steps, blocked=()):
    def plan(context):
        seen.append(context)
        return Outcome(tuple(steps), (), tuple(blocked))

    return plan


def refusal(name="disk/x"):
    return Blocked(name, "kvm1", "it holds ext4", "force it")


def test_a_facet_knows_that_an_earlier_one_may_still_bring_disks():
    seen = []
    turns = [facet(seen), facet(seen, step()), facet(seen)]
    found = run.survey(turns, "kvm1", absent=True, remove_data=True)
    assert [context.expecting for context in seen] == [False, False, True]
    assert all(context.absent and context.remove_data for context in seen)
    assert len(found.steps) == 1


def test_all_refusals_are_told_at_once():
    seen = []
    turns = [facet(seen, blocked=[refusal()]), facet(seen, blocked=[refusal("disk/y")])]
    with pytest.raises(run.RefusedError) as refused:
        run.survey(turns, "kvm1")
    assert str(refused.value) == (
        "disk/x: it holds ext4: force it\ndisk/y: it holds ext4: force it"
    )
    assert [item["object"] for item in refused.value.data["blocked"]] == ["disk/x", "disk/y"]


def test_facets_are_carried_out_in_turn_and_each_looks_again(tmp_path):
    seen = []

    def second(context):
        seen.append((tmp_path / "first").exists())
        assert context.expecting is False
        return Outcome((step(Write("/second", "2")),))

    turns = [facet([], step(Write("/first", "1"))), second]
    applier = run.Applier(System(str(tmp_path), lambda _: (1, "", "")), STORAGE)
    found = applier.apply(turns, "kvm1")
    assert seen == [True]
    assert len(found.steps) == 2
    assert (tmp_path / "second").read_text() == "2"


def test_what_is_refused_when_its_turn_comes_is_not_done(tmp_path):
    turns = [facet([], step(Write("/x", "1")), blocked=[refusal()])]
    applier = run.Applier(System(str(tmp_path), lambda _: (1, "", "")), STORAGE)
    with pytest.raises(run.RefusedError, match="it holds ext4"):
        applier.apply(turns, "kvm1")
    assert list(tmp_path.iterdir()) == []


def fail(argv, answers=None, *, answering=True, storage=STORAGE):
    """Return the message of a run whose command fails."""

    def command(given):
        if tuple(given) == argv:
            return 1, "", "Job failed. See systemctl status."
        return 0, (answers or {})[given[0]], ""

    applier = run.Applier(System("/", command), storage, lambda *_: answering)
    with pytest.raises(OperationError) as failed:
        applier.apply([facet([], step(Run(argv)))], "kvm1")
    return str(failed.value)


START = ("systemctl", "start", "srv-x.mount")
AGAIN = "it is in fstab: run again when that is put right"


def test_a_server_that_is_away_is_named_with_the_mount():
    assert fail(START, answering=False) == (
        "192.0.2.5:/x was not mounted at /srv/x: "
        f"192.0.2.5 does not answer on TCP port 2049 within 3s: {AGAIN}"
    )


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"systemctl": "timeout\n"}, "it took longer than 30s"),
        (
            {
                "systemctl": "exit-code\n",
                "journalctl": "Mounting /srv/x...\nmount.nfs: access denied by server\nother\n",
            },
            "mount.nfs: access denied by server",
        ),
        ({"systemctl": "exit-code\n", "journalctl": ""}, "see journalctl --unit srv-x.mount"),
    ],
)
def test_a_mount_that_fails_says_why(answers, why):
    message = fail(START, answers)
    assert message.startswith("192.0.2.5:/x was not mounted at /srv/x: ")
    assert message.endswith(f"{why}: {AGAIN}")


def test_a_device_has_no_server_to_ask():
    argv = ("systemctl", "start", "srv-disk.mount")
    assert "it took longer than 30s" in fail(argv, {"systemctl": "timeout"}, answering=False)


def test_a_mount_in_use_is_named():
    assert fail(("systemctl", "stop", "srv-x.mount")) == (
        "/srv/x cannot be unmounted: stop what uses it (fuser --mount /srv/x), then run again"
    )


def test_a_portal_that_is_away_is_named_with_the_target():
    login = ("timeout", "30", *NODE.argv, "--login")
    assert fail(login, answering=False) == (
        "no login at iqn.2026-01.org.example:guests: 192.0.2.5:3260 does not answer within 3s: "
        "its record is written: run again when the portal is there"
    )
    assert fail(login).startswith("timeout 30 iscsiadm --mode node")


def test_other_failures_stay_as_they_are():
    assert fail(("vgcreate", "vg")) == (
        "vgcreate vg ended with status 1: Job failed. See systemctl status."
    )


def test_a_port_is_probed():
    with run.socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert run.reachable("127.0.0.1", port) is True
    assert run.reachable("127.0.0.1", port) is False


def test_nothing_declared_is_nothing_to_do(tmp_path):
    storage = run.parse(NOTHING)
    assert storage == run.Storage()

    def never(argv):
        raise AssertionError(f"nothing is declared: {argv}")

    system = System(str(tmp_path), never)
    for absent in (False, True):
        turns = run.facets(storage, system, absent=absent)
        assert run.survey(turns, "kvm1", absent=absent) == Outcome()


def test_all_that_is_wrong_is_told_at_once():
    wrong = {
        **NOTHING,
        "timeout": "0s",
        "directories": [{"path": "x"}],
        "iscsi": {"initiator_name": "x"},
    }
    with pytest.raises(InputError) as failed:
        run.parse(wrong)
    assert [problem.path for problem in failed.value.problems] == [
        "timeout",
        "directories[0].path",
        "iscsi.initiator_name",
    ]


@pytest.mark.parametrize("value", ["30", "2h", "0s", None])
def test_a_timeout_is_a_duration_up_to_an_hour(value):
    with pytest.raises(InputError, match=r"^timeout: expected"):
        run.parse({**NOTHING, "timeout": value})


def test_the_way_back_goes_backwards():
    seen = []

    class Named(System):
        pass

    storage = run.Storage()
    forward = run.facets(storage, Named("/", seen.append), absent=False)
    backward = run.facets(storage, Named("/", seen.append), absent=True)
    names = [turn.__code__.co_firstlineno for turn in forward]
    assert [turn.__code__.co_firstlineno for turn in backward] == names[::-1]
    assert sorted(names) == names

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""/dev/kvm: what the rules give it, when one of ours is needed, and how it gets there."""

from __future__ import annotations

import os

import pytest
from ansible.module_utils.system import device_access
from ansible.module_utils.system.device_access import Access, Observed
from ansible.module_utils.system.operation import Run

DEBIAN = 'SUBSYSTEM=="tty", GROUP="tty"\nKERNEL=="kvm", GROUP="kvm", MODE="0660", OPTIONS+="x"\n'
EL = 'KERNEL=="kvm", GROUP="kvm", \\\n  MODE="0666"\n'
WANTED = Access("kvm", "0660")
ROOTS = Access("root", "0600")
TRIGGER = (
    Run(("udevadm", "control", "--reload")),
    Run(("udevadm", "trigger", "--action=add", "--name-match=kvm")),
    Run(("udevadm", "settle", "--timeout=30")),
)


@pytest.mark.parametrize(
    ("files", "access"),
    [
        ({}, Access(None, None)),
        ({"usr/lib/udev/rules.d/50-default.rules": DEBIAN}, WANTED),
        ({"lib/udev/rules.d/50-default.rules": EL}, Access("kvm", "0666")),
        (
            {
                "usr/lib/udev/rules.d/50-default.rules": DEBIAN,
                "etc/udev/rules.d/80-mine.rules": 'KERNEL=="kvm", MODE="666"\n',
            },
            Access("kvm", "0666"),
        ),
        (
            {
                "usr/lib/udev/rules.d/50-default.rules": DEBIAN,
                "etc/udev/rules.d/50-default.rules": "# nothing\n",
            },
            Access(None, None),
        ),
        (
            {
                "usr/lib/udev/rules.d/50-default.rules": '# KERNEL=="kvm", MODE="0666"\n',
                "usr/lib/udev/rules.d/60-x.rules": 'KERNEL=="kvmx", MODE="0666"\n',
                "usr/lib/udev/rules.d/70-x.conf": DEBIAN,
                "etc/udev/rules.d/65-virtfleet-kvm.rules": DEBIAN,
            },
            Access(None, None),
        ),
        (
            {"etc/udev/rules.d/9.rules": 'KERNEL=="kvm", GROUP:="a", MODE:="0640"\n'},
            Access("a", "0640"),
        ),
    ],
)
def test_the_rules_are_read_as_udev_reads_them(tmp_path, files, access):
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    assert device_access.read(str(tmp_path), None).rules == access


def test_the_device_and_the_groups_are_read(tmp_path):
    assert device_access.read(str(tmp_path), None) == Observed()
    for folder in ("dev", "etc", "usr/bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc/group").write_text(f"own:x:{os.getgid()}:\nkvm:x:106:a,b\nbroken\n")
    (tmp_path / "dev/kvm").write_text("")
    (tmp_path / "dev/kvm").chmod(0o640)
    (tmp_path / "usr/bin/udevadm").write_text("")
    assert device_access.read(str(tmp_path), "rule") == Observed(
        Access("own", "0640"), groups=frozenset({"own", "kvm"}), udev=True, rule="rule"
    )


@pytest.mark.parametrize(
    ("wanted", "observed", "ours"),
    [
        (None, Observed(udev=True), False),
        (WANTED, Observed(rules=WANTED, udev=True), False),
        (WANTED, Observed(rules=Access("kvm", "0666"), udev=True), True),
        (WANTED, Observed(udev=True), True),
        (WANTED, Observed(live=WANTED, udev=True), True),
        (WANTED, Observed(live=WANTED), False),
        (WANTED, Observed(rule="x"), True),
    ],
)
def test_our_rule_is_written_where_the_distributions_says_otherwise(wanted, observed, ours):
    rule = 'KERNEL=="kvm", SUBSYSTEM=="misc", GROUP="kvm", MODE="0660"'
    assert device_access.lines(wanted, observed) == ([rule] if ours else [])


GROUP = (Run(("groupadd", "--system", "kvm")),)
THERE = frozenset({"kvm"})


@pytest.mark.parametrize(
    ("wanted", "observed", "operations", "blocked"),
    [
        (WANTED, Observed(udev=True), [GROUP], []),
        (WANTED, Observed(WANTED, groups=THERE, udev=True), [], []),
        (WANTED, Observed(ROOTS, groups=THERE, udev=True), [TRIGGER], []),
        (WANTED, Observed(ROOTS, udev=True), [GROUP, TRIGGER], []),
        (WANTED, Observed(ROOTS, groups=THERE), [], ["device/dev/kvm"]),
        (None, Observed(ROOTS, udev=True), [], []),
        (None, Observed(ROOTS, rules=WANTED, udev=True), [], []),
        (None, Observed(ROOTS, rules=WANTED, udev=True, rule="x"), [TRIGGER], []),
        (None, Observed(WANTED, rules=WANTED, udev=True, rule="x"), [], []),
        (None, Observed(ROOTS, udev=True, rule="x"), [], []),
    ],
)
def test_group_and_device_are_brought_there(wanted, observed, operations, blocked):
    outcome = device_access.plan(wanted, observed, "kvm1", real=True)
    assert [step.operations for step in outcome.steps] == operations
    assert [item.object for item in outcome.blocked] == blocked
    assert all(step.action.changes for step in outcome.steps)


def test_below_another_root_no_group_can_be_made():
    outcome = device_access.plan(WANTED, Observed(), "kvm1", real=False)
    assert (outcome.steps, [item.object for item in outcome.blocked]) == ((), ["group/kvm"])


def test_what_is_changed_is_named_alone():
    live = Access("kvm", "0600")
    (step,) = device_access.plan(
        WANTED, Observed(live, groups=THERE, udev=True), "kvm1", real=True
    ).steps
    assert [(c.path, c.before, c.after) for c in step.action.changes] == [("mode", "0600", "0660")]

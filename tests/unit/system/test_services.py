# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Units of systemd: enabled, started, disabled, and what somebody masked."""

from __future__ import annotations

import pytest
from ansible.module_utils.converge.errors import InputError, VirtfleetError
from ansible.module_utils.system.services import Desired, Unit, desire, missing, parse, plan, read

SHOWN = """\
Id=chrony.service
LoadState=loaded
UnitFileState=enabled
ActiveState=active

Id=tcp.socket
LoadState=not-found
UnitFileState=
ActiveState=inactive

Id=x.service
LoadState=masked
UnitFileState=masked
ActiveState=inactive
"""
RIGHT = Unit(found=True, state="enabled", active=True)
IDLE = Unit(found=True, state="enabled")
OFF = Unit(found=True)
STATIC = Unit(found=True, state="static")
MASKED = Unit(found=True, masked=True, state="masked")
NONE = Unit()


def one(kind, name="a.service"):
    return desire({"enabled": [], "started": [], "disabled": [], kind: [name]})


def test_what_systemd_tells_is_understood():
    assert parse(SHOWN) == [RIGHT, NONE, MASKED]


@pytest.mark.parametrize(
    ("kind", "unit", "commands"),
    [
        ("started", RIGHT, []),
        ("started", IDLE, ["start"]),
        ("started", OFF, ["enable", "start"]),
        ("started", NONE, ["enable", "start"]),
        ("started", STATIC, ["start"]),
        ("enabled", IDLE, []),
        ("enabled", OFF, ["enable"]),
        ("enabled", STATIC, []),
        ("disabled", NONE, []),
        ("disabled", OFF, []),
        ("disabled", STATIC, []),
        ("disabled", MASKED, []),
        ("disabled", IDLE, ["disable"]),
        ("disabled", RIGHT, ["stop", "disable"]),
    ],
)
def test_what_differs_is_done(kind, unit, commands):
    found = plan(one(kind), {"a.service": unit}, "kvm1")
    done = [operation.argv for step in found.steps for operation in step.operations]
    assert done == [("systemctl", verb, "a.service") for verb in commands]
    assert found.blocked == ()
    for step in found.steps:
        assert step.action.object == "unit/a.service"
        assert len(step.action.changes) == len(commands)


@pytest.mark.parametrize("kind", ["enabled", "started"])
def test_a_masked_unit_is_refused(kind):
    found = plan(one(kind), {"a.service": MASKED}, "kvm1")
    assert found.steps == ()
    assert [(b.object, b.remedy) for b in found.blocked] == [
        ("unit/a.service", "systemctl unmask it")
    ]


def test_a_unit_that_is_to_start_and_not_there_is_missing():
    wanted = Desired(("a.service", "b.service"), frozenset(), ("c.service",))
    there = {"a.service": NONE, "b.service": RIGHT, "c.service": NONE}
    assert missing(wanted, there) == ["a.service"]


def test_units_are_asked_for_at_once_and_in_order():
    asked = []

    def run(argv):
        asked.append(argv)
        return 0, SHOWN, ""

    wanted = Desired(("chrony.service",), frozenset(), ("tcp.socket", "x.service"))
    found = read(wanted, run)
    assert found == {"chrony.service": RIGHT, "tcp.socket": NONE, "x.service": MASKED}
    [argv] = asked
    assert argv[-4:] == ("--", "chrony.service", "tcp.socket", "x.service")


def test_nothing_is_asked_when_nothing_is_stated():
    assert read(Desired(), lambda argv: pytest.fail(str(argv))) == {}


@pytest.mark.parametrize("answer", [(1, "", "no bus"), (0, "Id=a.service\n", "")])
def test_a_systemd_that_does_not_answer_is_told(answer):
    wanted = Desired(("a.service", "b.service"))
    with pytest.raises(VirtfleetError, match="systemd tells nothing"):
        read(wanted, lambda argv: answer if argv else None)


def test_a_unit_in_both_lists_is_started_once():
    wanted = desire({"enabled": ["a.service"], "started": ["a.service"], "disabled": []})
    assert wanted == Desired(("a.service",), frozenset({"a.service"}))


@pytest.mark.parametrize(
    ("given", "paths"),
    [
        ({"enabled": ["chrony"]}, ["enabled[0]"]),
        ({"started": ["a.service", "--now.service"]}, ["started[1]"]),
        ({"started": ["a.service"], "disabled": ["a.service"]}, ["disabled[0]"]),
        ({"enabled": [""], "disabled": ["b"]}, ["enabled[0]", "disabled[0]"]),
    ],
)
def test_wrong_input_names_its_path(given, paths):
    with pytest.raises(InputError) as caught:
        desire({"enabled": [], "started": [], "disabled": [], **given})
    assert [problem.path for problem in caught.value.problems] == paths

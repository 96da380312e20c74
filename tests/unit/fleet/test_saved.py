# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A saved plan is carried out as it was read, or not at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.fleet.saved import check, saved

SPECS = {"web": {"name": "web", "memory": "1GiB"}, "db": {"name": "db", "memory": "2GiB"}}


def part(*guests: str, gone: tuple[str, ...] = (), **expect: str) -> dict[str, Any]:
    return {"guests": [*guests], "gone": [*gone], "expect": dict.fromkeys(guests, "") | expect}


PARTS = {"kvm1": part("web", web="d1"), "kvm2": part("db")}


def made(parts: dict[str, Any] = PARTS, specs: dict[str, Any] = SPECS, fleet: str = "test") -> Any:
    return json.loads(json.dumps(saved({"parts": parts}, specs, fleet)))


def test_the_same_plan_is_accepted() -> None:
    check(made(), made())


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (made(specs={**SPECS, "web": {"name": "web"}}), "web is declared otherwise by now"),
        (made(specs={**SPECS, "new": {}}), "new is declared by now"),
        (made(specs={"web": SPECS["web"]}), "db is no longer declared"),
        (made({**PARTS, "kvm1": part("web", web="d2")}), "web changed on kvm1 meanwhile"),
        (made({**PARTS, "kvm2": part()}), "db is part of kvm2 only once"),
        (made({"kvm1": PARTS["kvm1"]}), "kvm2 does not answer now"),
        (made({**PARTS, "kvm3": part()}), "kvm3 did not answer then"),
        (
            made({**PARTS, "kvm2": part("db", gone=("old",))}),
            "old is removal of kvm2 only once",
        ),
    ],
)
def test_another_plan_is_refused_with_what_is_another(now: Any, expected: str) -> None:
    with pytest.raises(VirtfleetError) as raised:
        check(made(), now)
    assert str(raised.value) == f"the plan is stale: {expected}: plan again"


def test_much_that_is_another_is_told_in_short() -> None:
    many: dict[str, Any] = {f"g{number}": {} for number in range(20)}
    with pytest.raises(VirtfleetError, match="and 12 more: plan again"):
        check(made(), made(specs={**SPECS, **many}))


@pytest.mark.parametrize("kept", [None, [], {}, {"format": 3}])
def test_what_is_no_plan_is_refused(kept: Any) -> None:
    with pytest.raises(VirtfleetError, match=r"expected a plan that playbooks/plan\.yml saved"):
        check(kept, made())


def test_a_plan_of_another_fleet_is_refused() -> None:
    with pytest.raises(VirtfleetError, match="one of the fleet 'other', this is 'test'"):
        check(made(fleet="other"), made())

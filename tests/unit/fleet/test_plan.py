# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a fleet: whose part a guest is, and what is refused."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from ansible.module_utils.converge.errors import InputError, VirtfleetError
from ansible.module_utils.fleet.memory import missing, recall
from ansible.module_utils.fleet.plan import FleetPlan, Wish, capacity, plan
from ansible.module_utils.virt.identity import uuid_for

GIB = 1 << 30
ROOM = {"cpus": 8, "memory": 32 * GIB}


def seen(name: str, **more: Any) -> dict[str, Any]:
    """Return a guest as kvm_guests_info shows it."""
    return {
        "name": name,
        "state": "running",
        "owned": True,
        "fleet": "test",
        "digest": f"digest of {name}",
        "vcpus": 1,
        "memory": "1GiB",
        **more,
    }


def host(*guests: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"guests": list(guests), "room": ROOM, **more}


def guest(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "asked": {"memory": "1GiB"}, **more}


def made(
    guests: list[dict[str, Any]],
    observed: dict[str, Any],
    places: dict[str, Any] | None = None,
    **more: Any,
) -> FleetPlan:
    hypervisors = {name: {} for name in ("kvm1", "kvm2", "kvm3")} if places is None else places
    return plan(Wish("test", guests, hypervisors, **more), observed)


def everywhere(**hosts: Any) -> dict[str, Any]:
    return {"kvm1": host(), "kvm2": host(), "kvm3": host(), **hosts}


def told(found: FleetPlan) -> list[str]:
    return [f"{one.object} {one.host}: {one.reason}" for one in found.blocked]


def test_a_guest_that_is_somewhere_is_that_host_s_part() -> None:
    found = made([guest("web")], everywhere(kvm2=host(seen("web"))))
    assert found.parts["kvm2"].to_dict() == {
        "guests": ["web"],
        "gone": [],
        "expect": {"web": "digest of web"},
    }
    assert found.hosts == {"web": "kvm2"}
    assert found.new == []
    assert told(found) == []


def test_a_new_guest_is_placed_and_expected_not_to_be_there() -> None:
    found = made([guest("web"), guest("db", host="kvm3")], everywhere())
    assert found.hosts == {"web": "kvm1", "db": "kvm3"}
    assert found.parts["kvm1"].expect == {"web": ""}
    assert sorted(found.new) == ["db", "web"]
    assert found.reasons["web"].startswith("kvm1: most room")
    assert found.witness == {
        "serial": 1,
        "run": "",
        "hosts": ["kvm1", "kvm2", "kvm3"],
        "guests": {"db": ["kvm3"], "web": ["kvm1"]},
        "coming": {"db": {"kvm3": [1, ""]}, "web": {"kvm1": [1, ""]}},
        "new": ["db", "web"],
    }
    assert found.seen["kvm1"] == {"run": "", "guests": []}


def test_what_others_have_is_not_given_out() -> None:
    stranger = seen("other", owned=False, fleet="", memory="31GiB")
    idle = seen("idle", owned=False, fleet="", memory="31GiB", state="stopped")
    observed = {"kvm1": host(stranger), "kvm2": host(idle)}
    places: dict[str, Any] = {"kvm1": {}, "kvm2": {"reserve": {"memory": "30GiB"}}}
    found = made([guest("web", asked={"memory": "2GiB"})], observed, places)
    assert found.hosts == {"web": "kvm2"}
    found = made([guest("web", asked={"memory": "3GiB"})], observed, places)
    assert told(found) == [
        (
            "guest/web : it fits on no host: kvm1 refused: 3GiB short of memory; "
            "kvm2 refused: 1GiB short of memory"
        )
    ]


@pytest.mark.parametrize(
    ("wanted", "observed", "expected"),
    [
        pytest.param(
            guest("web", host="kvm1"),
            everywhere(kvm2=host(seen("web"))),
            "guest/web kvm2: it is on kvm2, declared for kvm1",
            id="pinned elsewhere",
        ),
        pytest.param(
            guest("web"),
            everywhere(kvm2=host(seen("web", owned=False, fleet=""))),
            "guest/web kvm2: a guest of that name is on kvm2, not ours",
            id="a stranger of that name",
        ),
        pytest.param(
            guest("web"),
            everywhere(kvm2=host(seen("web", fleet="other"))),
            "guest/web kvm2: a guest of that name is on kvm2, not ours",
            id="another fleet's",
        ),
        pytest.param(
            guest("web", host="kvm3"),
            everywhere(kvm3=None),
            "guest/web kvm3: its host was not reached",
            id="the host of a pin is away",
        ),
        pytest.param(
            guest("web"),
            everywhere(kvm3=None),
            "guest/web kvm3: it may be on kvm3, not looked at in this run",
            id="no witness and a host away",
        ),
        pytest.param(
            guest("web", host="kvm1"),
            everywhere(kvm3=None),
            "guest/web kvm3: it may be on kvm3, not looked at in this run",
            id="a pin does not make it safe",
        ),
        pytest.param(
            guest("web", state="absent"),
            everywhere(kvm3=None),
            "guest/web kvm3: it may be on kvm3, not looked at in this run",
            id="what shall go may be where nobody looked",
        ),
        pytest.param(
            guest("web"),
            everywhere(
                kvm1=host(witness={"test": {"serial": 4, "guests": {"web": ["kvm3"]}}}), kvm3=None
            ),
            "guest/web kvm3: it may be on kvm3, not looked at in this run",
            id="the witness saw it there",
        ),
        pytest.param(
            guest("web"),
            everywhere(kvm1=host(witness={"test": {"serial": 4, "guests": {"web": ["kvm9"]}}})),
            "guest/web kvm9: it may be on kvm9, not looked at in this run",
            id="its host left the fleet",
        ),
    ],
)
def test_what_may_not_be_touched_is_told(
    wanted: dict[str, Any], observed: dict[str, Any], expected: str
) -> None:
    found = made([wanted], observed)
    assert told(found) == [expected]
    assert all(not part.guests for part in found.parts.values())


def test_a_new_guest_that_the_newest_witness_does_not_know_is_made() -> None:
    hosts = ["kvm1", "kvm2", "kvm3"]
    old = {"test": {"serial": 3, "hosts": hosts, "guests": {"web": ["kvm3"]}}}
    new = {"test": {"serial": 4, "hosts": hosts, "guests": {"db": ["kvm3"]}}}
    observed = everywhere(kvm1=host(witness=old), kvm2=host(witness=new), kvm3=None)
    found = made([guest("web"), guest("db")], observed)
    # What one host alone took may not have been carried out.
    assert told(found) == [
        "guest/web kvm3: it may be on kvm3, not looked at in this run",
        "guest/db kvm3: it may be on kvm3, not looked at in this run",
    ]
    observed["kvm1"] = host(witness=new)
    found = made([guest("web"), guest("db")], observed)
    assert found.new == ["web"]
    assert told(found) == ["guest/db kvm3: it may be on kvm3, not looked at in this run"]
    # What is remembered of the host that is away stays.
    assert found.witness["guests"] == {"db": ["kvm3"], "web": ["kvm1"]}
    assert found.witness["coming"] == {"web": {"kvm1": [5, ""]}}


def test_of_a_host_that_was_never_looked_at_no_witness_knows_anything() -> None:
    first = made([guest("web")], everywhere(kvm3=None))
    assert told(first) == ["guest/web kvm3: it may be on kvm3, not looked at in this run"]
    witness = {"test": first.witness}
    again = made([guest("web")], everywhere(kvm1=host(witness=witness), kvm3=None))
    assert told(again) == told(first)
    whole = made([], everywhere(kvm1=host(witness=witness)))
    witness = {"test": whole.witness}
    assert made([guest("web")], everywhere(kvm1=host(witness=witness), kvm3=None)).new == ["web"]


def test_a_host_that_is_fenced_holds_nothing_back() -> None:
    places: dict[str, Any] = {"kvm1": {}, "kvm2": {"fenced": True}}
    witness = {"test": {"serial": 1, "guests": {"web": ["kvm2"]}}}
    found = made([guest("web")], {"kvm1": host(witness=witness), "kvm2": None}, places)
    assert found.hosts == {"web": "kvm1"}
    found = made([guest("web", host="kvm2")], {"kvm1": host(), "kvm2": None}, places)
    assert told(found) == ["guest/web kvm2: its host is fenced"]


def test_what_is_on_hosts_that_the_run_is_not_for_is_left_to_another() -> None:
    witness = {"serial": 4, "hosts": ["kvm1", "kvm2"], "guests": {"db": ["kvm2"]}}
    observed = everywhere(kvm1=host(witness={"test": witness}), kvm2=None, kvm3=None)
    wanted = [guest("db"), guest("log", host="kvm2"), guest("new"), guest("old", state="absent")]
    left_out = frozenset({"kvm2", "kvm3"})
    found = made(wanted, observed, left_out=left_out)
    # Of kvm3, where nobody ever looked, nothing is known.
    assert told(found) == [
        "guest/new kvm3: it may be on kvm3, not looked at in this run",
        "guest/old kvm3: it may be on kvm3, not looked at in this run",
    ]
    witness["hosts"] = ["kvm1", "kvm2", "kvm3"]
    found = made(wanted, observed, left_out=left_out)
    assert told(found) == []
    assert found.hosts == {}
    assert [(one.object, one.kind) for one in found.pending] == [("guest/new", "not_placed")]
    observed["kvm3"] = host()
    found = made(wanted, observed, left_out=frozenset({"kvm2"}))
    assert found.hosts == {"new": "kvm1"}
    assert found.witness["guests"] == {"db": ["kvm2"], "new": ["kvm1"]}


def test_a_guest_that_runs_twice_is_told_loudly_and_left_alone() -> None:
    found = made(
        [guest("web"), guest("db")],
        everywhere(
            kvm1=host(seen("web"), seen("db")), kvm3=host(seen("web"), seen("db", state="stopped"))
        ),
    )
    assert [(one.object, one.host) for one in found.blocked] == [
        ("guest/web", "kvm1"),
        ("guest/web", "kvm3"),
        ("guest/db", "kvm1"),
        ("guest/db", "kvm3"),
    ]
    assert found.blocked[0].reason == (
        "it RUNS on several hosts at once, which may destroy its disks: "
        "kvm1 (running) and kvm3 (running)"
    )
    assert found.blocked[2].reason == (
        "it is on several hosts at once: kvm1 (running) and kvm3 (stopped)"
    )
    assert all(not part.guests and not part.gone for part in found.parts.values())


def test_a_stranger_is_adopted_where_it_is() -> None:
    observed = everywhere(kvm2=host(seen("web", owned=False, fleet="")))
    assert made([guest("web", adopt=True)], observed).hosts == {"web": "kvm2"}
    # What its host's own plan refuses, it refuses with its own words.
    assert made([guest("web", host="kvm2")], observed).hosts == {"web": "kvm2"}


def test_what_shall_go_is_its_host_s_part_wherever_it_was_declared() -> None:
    observed = everywhere(kvm2=host(seen("web"), seen("db"), seen("log")))
    wanted = [guest("web", state="absent", host="kvm1"), guest("db"), guest("log")]
    found = made(wanted, observed)
    assert found.parts["kvm2"].guests == ["web", "db", "log"]
    # Until it was seen that it is gone it may be there.
    assert found.witness["guests"] == {"db": ["kvm2"], "log": ["kvm2"], "web": ["kvm2"]}
    after = applied(found, observed, {"web"})
    assert made(wanted, after).witness["guests"] == {"db": ["kvm2"], "log": ["kvm2"]}
    assert told(made([guest("web", state="absent")], everywhere())) == []


def renamed(**more: Any) -> dict[str, Any]:
    return guest("new", was="old", **more)


def test_a_renamed_guest_is_the_part_of_the_host_that_has_it_under_either_name() -> None:
    witness = {"serial": 4, "hosts": ["kvm1", "kvm2", "kvm3"], "guests": {"old": ["kvm2"]}}
    observed = everywhere(kvm2=host(seen("old"), witness={"test": witness}))
    found = made([renamed()], observed, prune=True, most_removals="0%")
    assert found.parts["kvm2"].to_dict() == {
        "guests": ["new"],
        "gone": [],
        "expect": {"new": "", "old": "digest of old"},
    }
    assert (found.hosts, found.new, told(found)) == ({"new": "kvm2"}, [], [])
    # It is remembered by both, until it was seen that it is no longer called as it was.
    assert found.witness["guests"] == {"new": ["kvm2"], "old": ["kvm2"]}
    observed = everywhere(kvm2=host(seen("new"), witness={"test": found.witness}))
    found = made([renamed()], observed)
    assert found.parts["kvm2"].expect == {"new": "digest of new"}
    assert found.witness["guests"] == {"new": ["kvm2"]}


def test_a_host_takes_a_plan_by_the_names_that_its_guests_have() -> None:
    observed = everywhere(kvm2=host(seen("old"), seen("db")))
    found = made([renamed(), guest("db"), guest("web")], observed)
    assert found.new == ["web"]
    assert found.seen["kvm2"] == {"run": "", "guests": ["db", "old"]}


@pytest.mark.parametrize(
    ("wanted", "observed", "expected"),
    [
        pytest.param(
            renamed(),
            everywhere(
                kvm1=host(witness={"test": {"serial": 4, "guests": {"old": ["kvm3"]}}}), kvm3=None
            ),
            ["guest/new kvm3: it may be on kvm3, not looked at in this run"],
            id="the witness knows it by its former name",
        ),
        pytest.param(
            renamed(host="kvm1"),
            everywhere(kvm2=host(seen("old"))),
            ["guest/new kvm2: it is on kvm2, declared for kvm1"],
            id="pinned elsewhere",
        ),
        pytest.param(
            renamed(),
            everywhere(kvm1=host(seen("new")), kvm2=host(seen("old", state="stopped"))),
            [
                f"guest/new {name}: it is there under both of its names:"
                " kvm1 (running) and kvm2 as old (stopped)"
                for name in ("kvm1", "kvm2")
            ],
            id="both names are there",
        ),
        pytest.param(
            renamed(state="absent"),
            everywhere(kvm1=host(seen("new"), seen("old"))),
            [
                f"guest/new {one}: it is there under both of its names:"
                " kvm1 (running) and kvm1 as old (running)"
                for one in ("kvm1",)
            ],
            id="both on one host",
        ),
        pytest.param(
            renamed(),
            everywhere(kvm1=host(seen("old")), kvm2=host(seen("old"))),
            [
                f"guest/new {name}: it RUNS on several hosts at once, which may destroy its disks:"
                " kvm1 as old (running) and kvm2 as old (running)"
                for name in ("kvm1", "kvm2")
            ],
            id="its former name twice",
        ),
        pytest.param(
            renamed(),
            everywhere(kvm2=host(seen("old", fleet="other"))),
            ["guest/new kvm2: a guest of that name is on kvm2 as old, not ours"],
            id="its former name is another fleet's",
        ),
    ],
)
def test_a_renamed_guest_is_never_made_beside_what_it_may_be(
    wanted: dict[str, Any], observed: dict[str, Any], expected: list[str]
) -> None:
    found = made([wanted], observed, prune=True, allow_removals=True)
    assert told(found) == expected
    assert all(not part.guests and not part.gone for part in found.parts.values())


def test_a_renamed_guest_that_is_nowhere_is_new() -> None:
    witness = {"serial": 4, "hosts": ["kvm1", "kvm2", "kvm3"], "guests": {"db": ["kvm3"]}}
    observed = everywhere(kvm1=host(witness={"test": witness}))
    found = made([renamed()], observed)
    assert (found.new, found.parts[found.hosts["new"]].expect) == (["new"], {"new": ""})
    # What the witness left to another run is left there by either name.
    witness["guests"] = {"old": ["kvm3"]}
    observed["kvm3"] = None
    found = made([renamed()], observed, left_out=frozenset({"kvm3"}))
    assert (found.hosts, told(found)) == ({}, [])
    assert found.witness["guests"] == {"old": ["kvm3"]}


def test_a_name_whose_identity_a_renamed_guest_has_is_given_to_no_new_one() -> None:
    there = seen("new", uuid=uuid_for("old", "test"))
    found = made([guest("old"), guest("new")], everywhere(kvm2=host(there)))
    assert found.new == []
    (text,) = told(found)
    assert text.startswith("guest/old kvm2: new on kvm2 was made under this name, and has the UUID")
    assert found.hosts == {"new": "kvm2"}
    # It is not there any more, or was made anew.
    assert made([guest("old")], everywhere()).new == ["old"]


def test_a_renamed_guest_takes_its_room_once() -> None:
    wanted = [renamed(asked={"memory": "20GiB"}), guest("web", asked={"memory": "9GiB"})]
    observed = {"kvm1": host(seen("old", memory="20GiB"))}
    assert made(wanted, observed, {"kvm1": {}}).hosts == {"new": "kvm1", "web": "kvm1"}


def test_a_former_name_that_a_template_made_somebody_else_s_is_told() -> None:
    wanted = [renamed(), guest("old"), guest("a", was="b"), guest("c", was="b")]
    with pytest.raises(InputError) as raised:
        made(wanted, everywhere(kvm1=host(seen("old"))))
    assert [str(problem) for problem in raised.value.problems] == [
        "guests.new.was: expected a name that no other guest has or had, found 'old'",
        "guests.a.was: expected a name that no other guest has or had, found 'b'",
        "guests.c.was: expected a name that no other guest has or had, found 'b'",
    ]


def test_what_is_no_longer_declared_goes_only_where_that_is_asked_for() -> None:
    strangers = [seen("other", owned=False, fleet=""), seen("theirs", fleet="other")]
    observed = everywhere(kvm1=host(seen("web"), *strangers), kvm2=host(*map(seen, "abcd")))
    kept = [guest(name) for name in "abcd"]
    assert all(not part.gone for part in made(kept, observed).parts.values())
    found = made(kept, observed, prune=True)
    assert found.parts["kvm1"].gone == ["web"]
    assert found.parts["kvm1"].expect == {"web": "digest of web"}
    after = applied(found, observed, set())
    assert "web" not in made(kept, after, prune=True).witness["guests"]


def test_a_plan_that_removes_too_much_stops_and_asks() -> None:
    names = [f"web{number}" for number in range(10)]
    observed = everywhere(kvm1=host(*map(seen, names)))
    kept = [guest(name) for name in names[2:]]
    assert made(kept, observed, prune=True).parts["kvm1"].gone == ["web0", "web1"]
    with pytest.raises(VirtfleetError) as raised:
        made(kept[1:], observed, prune=True)
    assert str(raised.value) == (
        "the plan would remove 3 of 10 guests, more than 20%: web0, web1, web2: "
        "look at what it says, and allow it with -e allow_removals=true"
    )
    with pytest.raises(VirtfleetError, match="remove 3 of 10"):
        made([guest(name, state="absent") for name in names[:3]], observed)
    assert made(kept[1:], observed, prune=True, allow_removals=True).parts["kvm1"].gone
    assert made(kept[1:], observed, prune=True, most_removals="30%").parts["kvm1"].gone


def test_a_host_in_maintenance_keeps_what_it_has_and_takes_nothing() -> None:
    places: dict[str, Any] = {"kvm1": {"maintenance": True}, "kvm2": {}}
    found = made([guest("web"), guest("db")], {"kvm1": host(seen("web")), "kvm2": host()}, places)
    assert found.hosts == {"web": "kvm1", "db": "kvm2"}
    assert "kvm1 refused: in maintenance" in found.reasons["db"]


def test_what_no_other_host_has_room_for_is_told() -> None:
    observed = {"kvm1": host(seen("big")), "kvm2": {**host(), "room": {"cpus": 8, "memory": GIB}}}
    wanted = [guest("big", asked={"memory": "20GiB"})]
    found = made(wanted, observed, {"kvm1": {}, "kvm2": {}}, placement={"n_plus_one": True})
    (item,) = found.pending
    assert (item.object, item.kind, item.host) == ("guest/big", "no_room_on_loss", "kvm1")


def test_a_pool_s_room_is_what_volumes_have_not_taken() -> None:
    def with_pool(committed: int) -> dict[str, Any]:
        pool = {"capacity": 100 * GIB, "available": 90 * GIB, "committed": committed * GIB}
        return {**host(), "room": {**ROOM, "pools": {"local": pool}}}

    observed = {"kvm1": with_pool(90), "kvm2": with_pool(20)}
    places = {name: {"offers": ["pool local"]} for name in observed}
    disk = {"memory": "1GiB", "disks": [{"pool": "local", "size": "50GiB"}]}
    pools = {"local": "dir"}
    wanted = [guest("a", asked=disk), guest("b", asked=disk)]
    found = made(wanted, observed, places, pools=pools)
    assert found.hosts == {"a": "kvm2"}
    assert told(found) == [
        (
            "guest/b : it fits on no host: kvm1 refused: 40GiB short of pool local; "
            "kvm2 refused: 20GiB short of pool local"
        )
    ]
    # In the next run its own volume is among those that are counted.
    observed["kvm2"] = {**with_pool(70), "guests": [seen("a")]}
    wanted[1] = guest("b", asked={"memory": "1GiB", "disks": [{"pool": "local", "size": "30GiB"}]})
    assert made(wanted, observed, places, pools=pools).hosts == {"a": "kvm2", "b": "kvm2"}
    shared = {"local": "netfs"}
    observed = {"kvm1": with_pool(20), "kvm2": with_pool(20)}
    found = made([guest("c", asked=disk), guest("d", asked=disk)], observed, places, pools=shared)
    assert [one.reason for one in found.blocked] == [
        "it fits on no host: 20GiB short of pool local on all hosts"
    ]


def test_capacity_is_what_is_left_when_all_that_is_declared_is_there() -> None:
    wish = Wish("test", [guest("web", asked={"memory": "4GiB"})], {"kvm1": {}, "kvm2": {}})
    observed = {"kvm1": host(), "kvm2": host(seen("old", fleet="other", memory="10GiB"))}
    sizes = {"small": {"memory": "2GiB"}, "huge": {"memory": "64GiB"}}
    found = capacity(wish, observed, sizes)
    # A host keeps a twentieth of its 32 GiB: 30 GiB are left, less 4 and 10.
    assert found["small"]["count"] == 13 + 10
    assert "short of memory" in found["small"]["limit"]
    assert found["huge"]["count"] == 0


def test_amounts_that_are_none_are_told_by_guest() -> None:
    wanted = [guest("web", asked={"memory": "a lot", "vcpus": "some"})]
    with pytest.raises(InputError) as raised:
        made(wanted, everywhere())
    assert [str(problem) for problem in raised.value.problems] == [
        "guests.web.vcpus: expected a whole number, found 'some'",
        "guests.web.memory: expected a size such as 2GiB, found 'a lot'",
    ]


def test_the_newest_witness_is_told_by_its_number() -> None:
    def remembering(serial: int, run: str, hosts: str, **guests: str) -> dict[str, Any]:
        homes = {name: at.split() for name, at in guests.items()}
        witness = {"serial": serial, "run": run, "hosts": hosts.split(), "guests": homes}
        return host(witness={"test": witness})

    def known(answers: dict[str, Any], *fenced: str) -> dict[str, list[str]]:
        return {name: sorted(at) for name, at in recall(answers, "test", fenced).guests.items()}

    old = remembering(2, "a", "kvm1 kvm2", web="kvm2")
    new = remembering(7, "b", "kvm1 kvm2 kvm3", db="kvm1")
    answers = {"kvm1": new, "kvm2": old, "kvm3": new, "kvm4": None, "kvm5": host()}
    found = recall(answers, "test")
    assert (found.serial, found.guests) == (7, {"db": {"kvm1": None}})
    assert found.looked_at == frozenset({"kvm1", "kvm2", "kvm3"})
    assert recall({"kvm1": new}, "other").serial == 0
    # One that too few took may not have been carried out, and what was there before still counts.
    found = recall({"kvm1": new, "kvm2": old}, "test")
    assert (found.serial, sorted(found.guests)) == (7, ["db", "web"])
    assert found.looked_at == frozenset({"kvm1", "kvm2"})
    assert [len(some) for some in found.voters] == [3, 2]
    assert known({"kvm1": new, "kvm2": old}, "kvm2", "kvm3") == {"db": ["kvm1"]}
    # Of two runs at once each may have told some, under one number.
    other = remembering(7, "c", "kvm1 kvm2 kvm3", log="kvm3", db="kvm2")
    answers = {"kvm1": new, "kvm3": other, "kvm2": new}
    assert known(answers) == {"db": ["kvm1", "kvm2"], "log": ["kvm3"]}


def test_what_a_run_may_still_make_is_not_forgotten_where_it_is_not_there_yet() -> None:
    first = made([guest("web")], everywhere(), run="a")
    assert first.witness["coming"] == {"web": {"kvm1": [1, "a"]}}
    # Two of three took it when somebody else looks, who does not know of the guest.
    taken = {"test": first.witness}
    observed = everywhere(kvm2=host(witness=taken), kvm3=host(witness=taken))
    second = made([], observed, run="b")
    assert second.witness["coming"] == first.witness["coming"]
    # Its host has taken a newer plan: the first one can no longer be carried out there.
    settled = everywhere(kvm1=host(witness={"test": second.witness}))
    assert made([], settled, run="c").witness["guests"] == {}
    # It is there: nothing is to come.
    observed["kvm1"] = host(seen("web"), witness=taken)
    assert made([], observed, run="b").witness["guests"] == {"web": ["kvm1"]}
    assert made([], observed, run="b").witness["coming"] == {}


@pytest.mark.parametrize(
    ("answered", "voters", "expected"),
    [
        ("a", ["a"], ""),
        ("a", ["ab"], "b"),
        ("ab", ["abc"], ""),
        ("ab", ["abcd"], "cd"),
        ("abc", ["abcd", ""], ""),
        ("cdef", ["abcdef", "abc"], "ab"),
        ("", [""], ""),
    ],
)
def test_more_than_half_of_the_hosts_have_to_answer(
    answered: str, voters: list[str], expected: str
) -> None:
    assert missing(answered, *voters) == list(expected)


def test_guests_are_placed_only_where_more_than_half_of_the_hosts_are_looked_at() -> None:
    witness = {"serial": 4, "hosts": ["kvm1", "kvm2", "kvm3"], "guests": {"db": ["kvm1"]}}
    observed = {
        "kvm1": host(seen("db"), witness={"test": witness}),
        "kvm2": None,
        "kvm3": None,
    }
    wanted = [guest("web"), guest("near", host="kvm1"), guest("db"), guest("old", state="absent")]
    found = made(wanted, observed)
    reason = "more than half of the hosts have to be looked at to place it: kvm2, kvm3 not reached"
    assert told(found) == [f"guest/web : {reason}", f"guest/old : {reason}"]
    assert found.hosts == {"near": "kvm1", "db": "kvm1"}
    assert found.witness == {}, "what others remember may be newer"
    # Asked for one host alone, it is no mistake.
    found = made(wanted, observed, left_out=frozenset({"kvm2", "kvm3"}))
    assert told(found) == []
    assert [(one.object, one.kind) for one in found.pending] == [("guest/web", "not_placed")]
    fenced: dict[str, Any] = {"kvm1": {}, "kvm2": {"fenced": True}, "kvm3": {"fenced": True}}
    found = made(wanted, observed, fenced)
    assert (found.hosts["web"], told(found)) == ("kvm1", [])
    # What is on a host that is off is forgotten, and with it that it was ever looked at.
    assert found.witness["hosts"] == ["kvm1"]
    # More than half has to be of the hosts that there were, too.
    places: dict[str, Any] = {"kvm1": {}}
    assert told(made([guest("web")], {"kvm1": observed["kvm1"]}, places)) == [
        f"guest/web : {reason}"
    ]


# Properties.


def applied(found: FleetPlan, observed: dict[str, Any], absent: set[str]) -> dict[str, Any]:
    """Return the hosts as they are when a plan was carried out."""
    after: dict[str, Any] = {}
    for name, answer in observed.items():
        if answer is None:
            after[name] = None
            continue
        part = found.parts[name]
        there = {one["name"]: one for one in answer["guests"]}
        there.update((one, there.get(one, seen(one))) for one in part.guests)
        kept = [one for key, one in there.items() if key not in {*part.gone, *absent}]
        after[name] = {**answer, "guests": kept}
        if found.witness:
            after[name]["witness"] = {"test": found.witness}
    return after


class Refused(Exception):  # noqa: N818
    """A host did not do what a run asked of it, as kvm_guests would not."""


@dataclass
class Box:
    """A host: what is on it, what it remembers, and the run that holds its lock."""

    there: set[str] = field(default_factory=set)
    witness: dict[str, Any] = field(default_factory=dict)
    holder: str = ""

    def take(self, found: FleetPlan, name: str, run: str) -> None:
        """Remember a plan, as guest.witness does."""
        if not found.witness:
            return
        if self.witness.get("run", "") != run:
            if self.witness.get("run", "") != found.seen[name]["run"]:
                raise Refused
            if set(found.seen[name].get("guests", self.there)) != self.there:
                raise Refused
        self.witness = dict(found.witness)

    @contextmanager
    def held(self, run: str) -> Iterator[None]:
        if self.holder:
            raise Refused
        self.holder = run
        yield
        self.holder = ""


class World:
    """Hosts that come and go, a fleet whose file changes, and runs side by side that end anywhere.

    It moves by single steps of one of its runs, so that they meet in every order. With ``renames``
    guests get other names in the file, h1 for g1, and where they are found to be off.
    """

    NAMES = tuple(f"kvm{number}" for number in range(7))
    GUESTS = tuple(f"g{number}" for number in range(5))

    def declared(self, name: str, state: str) -> dict[str, Any]:
        """Return a guest under the name that the file has for it now."""
        if name not in self.renamed:
            return guest(name, state=state)
        return guest(f"h{name[1:]}", was=name, state=state)

    def __init__(self, seed: int, *, renames: bool = False) -> None:
        self.renames = renames
        self.rng = random.Random(seed)
        self.boxes = {name: Box() for name in self.NAMES}
        self.up = set(self.NAMES)
        self.fleet = set(self.rng.sample(self.NAMES, self.rng.randint(1, 5)))
        self.runs: dict[str, Iterator[None]] = {}
        self.begun = self.placed = 0
        self.renamed: set[str] = set()

    def some(self, names: Iterable[str], most: int) -> set[str]:
        ordered = sorted(names)
        return set(self.rng.sample(ordered, self.rng.randint(0, min(most, len(ordered)))))

    def step(self) -> None:
        kind = self.rng.random()
        if kind < 0.04:
            self.up = set(self.NAMES) - self.some(self.NAMES, 3)
            for name in set(self.NAMES) - self.up:
                self.boxes[name].holder = ""
        elif kind < 0.08:
            other = self.fleet ^ self.some(self.NAMES, 3)
            # A host with guests stays in the file: of one that is out of it nothing can be asked.
            if other and not any(self.boxes[name].there for name in self.fleet - other):
                self.fleet = other
                self.end(self.runs)
        elif kind < 0.1:
            self.end(self.some(self.runs, 1))
        elif self.renames and kind < 0.11:
            done = {f"g{name[1:]}" for box in self.boxes.values() for name in box.there}
            done -= {name for box in self.boxes.values() for name in box.there}
            # It may be thought better of until it is done somewhere.
            self.renamed = done | self.some(self.GUESTS, 5)
            self.end(self.runs)
        elif kind < 0.3 and len(self.runs) < 3:
            self.begun += 1
            run = f"run{self.begun}"
            self.runs[run] = self.run(run)
        elif self.runs:
            run = self.rng.choice(sorted(self.runs))
            if next(self.runs[run], self) is self:
                self.end([run])

    def end(self, runs: Iterable[str]) -> None:
        """End runs wherever they are."""
        for run in list(runs):
            del self.runs[run]
            for box in self.boxes.values():
                box.holder = "" if box.holder == run else box.holder

    def run(self, run: str) -> Iterator[None]:
        """Live through a run, step by step."""
        rng, observed = self.rng, {}
        down = self.fleet - self.up
        fenced = self.some(down, 1) if rng.random() < 0.1 else set()
        for name in sorted(fenced):  # it is off for sure, and comes back as if made anew
            self.boxes[name] = Box()
            self.end([other for other in self.runs if other != run])
        left_out = self.some(self.fleet, 4) if rng.random() < 0.3 else set()
        fleet = set(self.fleet)
        for name in sorted((fleet & self.up) - left_out - self.some(fleet, 1)):
            box = self.boxes[name]
            guests = map(seen, sorted(box.there))
            observed[name] = host(*guests, witness={"test": dict(box.witness)})
            yield
        names = sorted(self.some(self.GUESTS, 5))
        absent = {name for name in names if rng.random() < 0.2}
        wanted = [self.declared(n, "absent" if n in absent else "running") for n in names]
        absent = {str(one["name"]) for one in wanted if one["state"] == "absent"}
        found = made(
            wanted,
            observed,
            {name: {"fenced": name in fenced} for name in fleet},
            left_out=frozenset(left_out),
            prune=rng.random() < 0.3,
            allow_removals=True,
            run=run,
        )
        order = rng.sample(sorted(found.parts), len(found.parts))
        if found.new and found.witness:
            for name in order:
                if name not in self.up:
                    return
                try:
                    with self.boxes[name].held(run):
                        self.boxes[name].take(found, name, run)
                except Refused:
                    return
                yield
        for name in order:
            with suppress(Refused):
                yield from self.apply(run, name, found, absent)

    def apply(self, run: str, name: str, found: FleetPlan, absent: set[str]) -> Iterator[None]:
        """Carry out a host's part, guest by guest."""
        part, box = found.parts[name], self.boxes[name]
        if not found.new and not {*part.gone, *part.guests} and name in self.up:
            box.take(found, name, run)
            return
        with box.held(run):
            box.take(found, name, run)
            for one in (*part.guests, *part.gone):
                yield
                if name not in self.up or box.holder != run:
                    return
                former = f"g{one[1:]}"
                if former in part.expect and former != one and former in box.there:
                    if one in absent or self.rng.random() < 0.5:
                        box.there = box.there - {former} | ({one} - absent)
                elif one in absent or one in part.gone:
                    box.there.discard(one)
                elif part.expect[one] or one not in box.there:
                    self.placed += one in found.new
                    box.there |= {one} if one in found.new else set()


def no_guest_is_doubled(seed: int, *, renames: bool = False) -> int:
    """Live through a world; return how many guests were placed in it."""
    world = World(seed, renames=renames)
    for number in range(400):
        world.step()
        there = {name: box.there for name, box in world.boxes.items() if box.there}
        alike = [[name[1:] for name in names] for names in there.values()]
        twice = [one for one in world.GUESTS if sum(t.count(one[1:]) for t in alike) > 1]
        assert not twice, f"seed {seed}, step {number}: {twice} in {there}"
    return world.placed


def test_no_guest_is_ever_made_a_second_time() -> None:
    """Whatever hosts are lost, left out, added, taken out or fenced, and wherever runs end."""
    assert sum(map(no_guest_is_doubled, range(300))) > 1000


def test_no_guest_is_made_a_second_time_under_another_name() -> None:
    assert sum(no_guest_is_doubled(seed, renames=True) for seed in range(200)) > 600


@pytest.mark.soak
@pytest.mark.parametrize("start", range(0, 10_000, 1000))
def test_no_guest_is_ever_made_a_second_time_in_many_worlds(start: int) -> None:
    assert sum(map(no_guest_is_doubled, range(start, start + 1000))) > 4000


@pytest.mark.parametrize("seed", range(20))
def test_the_order_of_guests_and_hosts_changes_nothing(seed: int) -> None:
    rng = random.Random(seed)
    wanted = [guest(f"g{n}", asked={"memory": f"{rng.randint(1, 9)}GiB"}) for n in range(12)]
    observed: dict[str, Any] = {f"kvm{n}": host(seen(f"g{n}")) for n in range(4)}
    first = made(wanted, observed, {name: {} for name in observed})
    rng.shuffle(wanted)
    turned = dict(reversed(observed.items()))
    second = made(wanted, turned, {name: {} for name in turned})
    assert second.hosts == first.hosts
    assert second.witness == first.witness

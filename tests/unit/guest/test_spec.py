# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest may be: every wrong input has its own message, and all of them come at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible.module_utils.converge.errors import InputError
from ansible.module_utils.guest.engine import Host
from ansible.module_utils.guest.ioctl.dialect import (
    FEW,
    KEYS,
    IoctlDialect,
    Limits,
    complete,
)
from ansible.module_utils.guest.spec import Declared, digest, read

LIMITS = Limits(memory=24 << 30, vcpus=8, programs=("greeter", "host"))
HOST = Host(name="kvm1", kernel="/boot/vmlinuz-2")


def dialects(limits=LIMITS):
    return {"ioctl": IoctlDialect(limits, HOST)}


CASES = Path(__file__).resolve().parents[2] / "cases" / "guest"
BAD_INPUT = json.loads((CASES / "bad_input.json").read_text(encoding="utf-8"))


def guest(**keys):
    return {"name": "a", "engine": "ioctl", "kernel": "greeter", **keys}


def problems(*entries, limits=LIMITS, **more):
    with pytest.raises(InputError) as raised:
        read(entries, dialects(limits), **more)
    return [str(problem) for problem in raised.value.problems]


@pytest.mark.parametrize(("entry", "expected"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input(entry, expected):
    assert problems(entry) == expected


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a/b",
        "..",
        ".",
        "a..b",
        "../../etc/passwd",
        "a\nb",
        "a\n",
        "a" * 64,
        "a" * 300,
        "a;reboot",
        "$(id)",
        "`id`",
        "a b",
        "a'b",
        'a"b',
        "a|b",
        "a&b",
        "a*",
        "-a",
        "a-",
        "A",
        "a_b",
        "a.b",
        "a\x00b",
        "ä",
        "a\u200bb",
        None,
        True,
        1.5,
        ["a"],
    ],
)
def test_no_other_name_becomes_a_path(name):
    found = problems(guest(name=name))
    assert len(found) == 1
    assert found[0].startswith("guests[0].name: expected an RFC 1123 label")
    assert "\n" not in found[0]
    assert len(found[0]) < 250


@pytest.mark.parametrize("name", ["a", "0", "web01", "a-b", "a--b", "1-2-3", "a" * 63])
def test_an_rfc_1123_label_is_a_name(name):
    assert read([guest(name=name)], dialects())[0].name == name


def test_every_problem_of_every_guest_comes_at_once():
    found = problems(guest(memory="1"), guest(name="b"), guest(name="c", vcpus=0), guest(name="/"))
    assert [line.partition(":")[0] for line in found] == [
        "guests[0].memory",
        "guests[2].vcpus",
        "guests[3].name",
    ]


def test_a_name_is_given_once():
    assert problems(guest(), guest(name="b"), guest(), guest()) == [
        "guests[2].name: expected a name of its own, found 'a', which guests[0].name has already",
        "guests[3].name: expected a name of its own, found 'a', which guests[0].name has already",
    ]


def test_a_former_name_is_nobody_else_s():
    label = "an RFC 1123 label (1 to 63 of a-z, 0-9 and -, neither first nor last a hyphen)"
    still = "no guest has any more, found 'b', which is declared still"
    found = problems(
        guest(was="a"),
        guest(name="b", was="A/.."),
        guest(name="c", was="b"),
        guest(name="d", was="old"),
        guest(name="e", was="old", state="absent"),
        guest(name="f", was=7),
        guest(name="g", was=["b"]),
    )
    assert found == [
        "guests[0].was: expected another name, which it had before, found 'a'",
        f"guests[1].was: expected {label}, found 'A/..'",
        f"guests[5].was: expected {label}, found 7: quote it",
        f"guests[6].was: expected {label}, found ['b']",
        f"guests[2].was: expected a name that {still}",
        "guests[4].was: expected a name that no other guest had, found 'old', which d states too",
    ]


def test_a_former_name_tells_that_a_guest_is_there():
    entry = {"name": "a", "engine": "ioctl", "was": "old"}
    (found,) = read([entry], dialects(), existing={"old"})
    assert (found.was, found.stated) == ("old", entry)
    assert found.called("old").stated == {"name": "old", "engine": "ioctl"}
    assert problems(entry)[0].startswith("guests[0].kernel: expected the kernel of a guest that is")
    assert read([guest(was=None)], dialects())[0].was is None


def test_the_root_of_the_paths_can_be_another():
    assert problems("x", root="kvm_guest_specs")[0].startswith("kvm_guest_specs[0]:")


def test_only_what_is_stated_is_declared():
    assert read([guest()], dialects()) == [
        Declared("a", "guests[0]", "running", {"name": "a", "engine": "ioctl", "kernel": "greeter"})
    ]


def test_values_become_canonical():
    stated = read(
        [guest(memory="2048 MiB", log={"max_size": "1024KiB"}, initrd="", vcpus=8)], dialects()
    )[0].stated
    assert stated["memory"] == "2GiB"
    assert stated["log"] == {"max_size": "1MiB"}
    assert stated["initrd"] == ""
    assert stated["vcpus"] == 8


def test_a_guest_that_is_there_needs_no_kernel():
    entry = {"name": "a", "engine": "ioctl", "vcpus": 2}
    assert read([entry], dialects(), existing={"a"})[0].stated["vcpus"] == 2


def test_to_remove_a_guest_its_name_is_enough():
    assert read([{"name": "a", "state": "absent"}], dialects())[0].state == "absent"


def test_a_guest_can_be_removed_from_a_host_too_small_for_it():
    entry = guest(state="absent", memory="64GiB", vcpus=64)
    assert read([entry], dialects())[0].stated["vcpus"] == 64
    found = problems(guest(state="absent", memory="64GB"))
    assert [problem.partition(":")[0] for problem in found] == ["guests[0].memory"]


def test_what_is_not_known_of_the_host_limits_nothing():
    limits = Limits(programs=("greeter",))
    assert read([guest(memory="64GiB", vcpus=4096)], dialects(limits))[0].stated["vcpus"] == 4096
    assert problems(guest(vcpus=0), limits=limits) == [
        "guests[0].vcpus: expected a whole number, 1 or more, found 0"
    ]


def test_a_command_line_has_a_limit():
    assert read([guest(cmdline="x" * 2047)], dialects())
    assert problems(guest(cmdline="é" * 1024))[0].startswith(
        "guests[0].cmdline: expected at most 2047 bytes, found 'é"
    )


def test_keys_that_are_no_text_are_refused():
    assert [p.partition(":")[0] for p in problems({**guest(), 7: 1, None: 2, "a\nb": 3})] == [
        "guests[0].7",
        "guests[0].None",
        r"guests[0].'a\nb'",
    ]


def test_a_whole_spec_has_every_key_in_order():
    spec = complete(guest(memory="1GiB"))
    assert list(spec) == [key for key in KEYS if key in FEW or key in ("name", "engine", "kernel")]
    assert spec == {**FEW, **guest(memory="1GiB")}


def test_what_was_there_is_kept_where_nothing_is_stated():
    base = complete(guest(memory="1GiB", cmdline="quiet", log={"keep": 9}))
    spec = complete({"vcpus": 2, "log": {"max_size": "2MiB"}}, base)
    assert spec == {**base, "vcpus": 2, "log": {"max_size": "2MiB", "keep": 9}}
    assert base["log"] == {"max_size": "1MiB", "keep": 9}


def test_the_digest_knows_no_order():
    spec = complete(guest())
    assert digest(spec) == digest(dict(reversed(list(spec.items()))))
    assert digest(spec) != digest({**spec, "vcpus": 2})
    assert len(digest(spec)) == 64

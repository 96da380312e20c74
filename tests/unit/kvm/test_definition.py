# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Definitions as they lie on a host: what is taken, and what is refused by the name of its key."""

from __future__ import annotations

import copy
import json
import os
from typing import Any

import pytest
from ansible.module_utils.kvm import definition
from ansible.module_utils.kvm.errors import EXIT_CONFIG, EXIT_INPUT, ConfigError, InputFileError
from ansible.module_utils.kvm.layout import Layout

GOOD: dict[str, Any] = {
    "schema": 1,
    "name": "web",
    "digest": "d1",
    "spec": {},
    "machine": {
        "kernel": "greeter",
        "initrd": None,
        "cmdline": "",
        "memory": 4 << 20,
        "vcpus": 1,
        "uid": 0x70000001,
        "log_max_size": 4096,
        "log_keep": 0,
    },
}


@pytest.fixture
def paths(tmp_path):
    guest = Layout(str(tmp_path)).guest("web")
    os.makedirs(guest.folder)
    return guest


def write(paths, content):
    with open(paths.definition, "wb") as file:
        file.write(content)


def changed(**machine):
    """Return the good definition with values of its machine replaced; None removes the key."""
    made = copy.deepcopy(GOOD)
    for key, value in machine.items():
        if value is KeyError:
            del made["machine"][key]
        else:
            made["machine"][key] = value
    return made


def test_a_good_definition(paths):
    write(paths, json.dumps(GOOD).encode())
    assert definition.read_definition(paths) == GOOD
    write(paths, json.dumps(changed(initrd="/boot/initrd", uid=0x77FFFFFF)).encode())
    assert definition.read_definition(paths)["machine"]["initrd"] == "/boot/initrd"


BAD_CONTENT = {
    "empty": b"",
    "cut": json.dumps(GOOD).encode()[:-10],
    "no text": b"\xff\xfe\xfd",
    "a list": b"[]",
    "null": b"null",
    "no machine": b'{"name": "web"}',
    "a machine that is a list": b'{"name": "web", "machine": []}',
    "a machine that is null": b'{"name": "web", "machine": null}',
    "nested without end": b"[" * 200_000,
    "no name": b'{"machine": {}}',
    "another guest's": json.dumps({**GOOD, "name": "app"}).encode(),
}


@pytest.mark.parametrize("case", BAD_CONTENT)
def test_a_corrupt_definition(paths, case):
    write(paths, BAD_CONTENT[case])
    with pytest.raises(ConfigError, match=r"definition\.json") as refused:
        definition.read_definition(paths)
    assert refused.value.status == EXIT_CONFIG


VALUES_THEMSELVES = {"watchdog", "cpu_tuning"}
BAD_VALUES = [
    *[(key, KeyError) for key in GOOD["machine"]],
    *[("memory", value) for value in ("4MiB", 0, -4096, 1.5, True, None)],
    *[("vcpus", value) for value in ("1", 0, True, None)],
    *[("uid", value) for value in (0, 1000, 0x6FFFFFFF, 0x78000000, 0xFFFFFFFF, 2**40, -1, "0")],
    *[("log_max_size", value) for value in (0, 4095, "1MiB", None)],
    *[("log_keep", value) for value in (-1, "1", None)],
    *[("kernel", value) for value in (None, 7, ["greeter"])],
    *[("initrd", value) for value in (7, False, ["x"])],
    *[("cmdline", value) for value in (None, 7, ["x"])],
    *[("on_reboot", value) for value in ("start", 7, ["stop"], True)],
    *[("stop_timeout", value) for value in (-1, "30s", True, 1e9, [1])],
    *[("watchdog", value) for value in (7, ["reset"], "reset", {"time": 5})],
    *[("timeout", {"watchdog": {"timeout": value}}) for value in (-1, 2001, "5s", True)],
    *[("action", {"watchdog": {"action": value}}) for value in ("none", 7, ["reset"])],
    *[("cpu_tuning", value) for value in (7, ["0"], {"shares": 5})],
    *[("vcpu_pins", {"cpu_tuning": {"vcpu_pins": value}}) for value in (7, ["1"], {"1": "0"})],
    *[("nice", {"cpu_tuning": {"nice": value}}) for value in (-21, 20, 1.5, "5", True)],
    *[
        ("expected CPUs", {"cpu_tuning": {"vcpu_pins": {"0": value}}})
        for value in ("", "a", "1-", "-1", "3-1", "8192", "1,,2", "0x1", [0], "\u0661")
    ],
    ("names no CPU", {"cpu_tuning": {"emulator_pin": "1,^1"}}),
]


@pytest.mark.parametrize(("key", "value"), BAD_VALUES)
def test_a_definition_with_a_bad_value_names_its_key(paths, key, value):
    values = value if key not in VALUES_THEMSELVES and isinstance(value, dict) else {key: value}
    write(paths, json.dumps(changed(**values), default=str).encode())
    with pytest.raises(ConfigError, match=key) as refused:
        definition.read_definition(paths)
    assert refused.value.status == EXIT_CONFIG


@pytest.mark.parametrize("kind", ["missing", "link", "folder", "too long"])
def test_no_definition(paths, kind, tmp_path):
    if kind == "link":
        (tmp_path / "elsewhere").write_text(json.dumps(GOOD))
        os.symlink(str(tmp_path / "elsewhere"), paths.definition)
    elif kind == "folder":
        os.mkdir(paths.definition)
    elif kind == "too long":
        write(paths, json.dumps(changed(cmdline="x" * 300_000)).encode())
    with pytest.raises(InputFileError, match="there is no guest web: ") as refused:
        definition.read_definition(paths)
    assert refused.value.status == EXIT_INPUT


def machine(**values):
    return changed(**values)["machine"]


def test_a_definition_without_a_word_about_its_life_lives_as_before():
    lived = definition.life(machine())
    assert lived == (False, 30.0, None, True, ({}, None, 0))
    nothing = {"watchdog": None, "on_reboot": None, "stop_timeout": None, "cpu_tuning": None}
    assert definition.life(machine(**nothing)) == lived
    empty = {"vcpu_pins": None, "emulator_pin": None, "nice": None}
    assert definition.life(machine(cpu_tuning=empty)) == lived


def test_how_a_guest_lives():
    lived = definition.life(
        machine(
            vcpus=4,
            on_reboot="restart",
            stop_timeout=0,
            watchdog={"timeout": 60, "action": "stop"},
            cpu_tuning={"vcpu_pins": {"0": "2", "3": "0-3,^1"}, "emulator_pin": "1", "nice": -5},
        )
    )
    assert (lived.restarts, lived.stop_timeout) == (True, 0.0)
    assert (lived.watch_from_start, lived.watchdog_resets) == (60.0, False)
    assert lived.tuning == ({0: {2}, 3: {0, 2, 3}}, {1}, -5)
    assert definition.life(machine(watchdog={})).watch_from_start == 0.0
    assert definition.life(machine(watchdog={"action": "reset"})).watchdog_resets


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0", {0}),
        (3, {3}),
        ("0-3", {0, 1, 2, 3}),
        ("0-3,^2", {0, 1, 3}),
        (" 1 , 8191 ", {1, 8191}),
        ("5-5", {5}),
        ("2,2,2", {2}),
    ],
)
def test_cpu_lists(text, cpus):
    assert definition.cpu_list(text) == cpus

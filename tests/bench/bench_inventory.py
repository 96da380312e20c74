# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet as an inventory, against Ansible's own YAML plugin with the same hosts and variables."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.fleet.declare import declare
from ansible.module_utils.fleet.schema import problems
from ansible.module_utils.fleet.source import read_file
from comparing import Side, compare, report, say

HOSTS = 500
COUNTS = (1_000, 5_000, 10_000)
ROUNDS = 3
LINEAR = 1.3  # a guest among the most against one among half of them


def _fleet(count: int) -> str:
    lines = [
        "plugin: kvm_fleet",
        "fleet: bench",
        f"hypervisors: {{'kvm[001:{HOSTS}]': {{ansible_user: admin}}}}",
        "networks: {lan: {mode: bridge, bridge: br0}}",
        "pools: {local: {type: dir, path: /srv/images}}",
        "images: {debian-12: {}}",
        "sizes: {small: {vcpus: 1, memory: 1GiB, disk: 10GiB}}",
        "guests:",
    ]
    for number in range(count):
        lines += [
            f"  g{number:05}:",
            f"    host: kvm{number % HOSTS + 1:03}",
            "    size: small",
            "    image: debian-12",
            "    network: lan",
            f"    groups: [role_{number % 20}]",
            f"    vars: {{number: {number}}}",
        ]
    return "\n".join([*lines, ""])


def _listed(repository: Path, source: Path) -> tuple[float, dict[str, Any]]:
    """Return the milliseconds that ansible-inventory takes, and what it says."""
    program = str(Path(sys.executable).parent / "ansible-inventory")
    environment = {**os.environ, "ANSIBLE_CONFIG": str(repository / "ansible.cfg")}
    begin = time.perf_counter()
    done = subprocess.run(
        [program, "-i", str(source), "--list"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    spent = (time.perf_counter() - begin) * 1e3
    found: dict[str, Any] = json.loads(done.stdout)
    return spent, found


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """Return an inventory of the YAML plugin with the hosts, groups and variables of another."""
    hosts = found["_meta"]["hostvars"]
    groups = {
        name: {"hosts": dict.fromkeys(group["hosts"])}
        for name, group in found.items()
        if "hosts" in group and name != "_meta"
    }
    return {"all": {"hosts": hosts, "children": groups}}


def test_a_fleet_against_the_yaml_plugin(repository: Path, tmp_path: Path) -> None:
    ours, plain = tmp_path / "ours" / "fleet.yml", tmp_path / "plain" / "hosts.yml"
    for path in (ours, plain):
        path.parent.mkdir()
    ours.write_text(_fleet(max(COUNTS)))
    _, found = _listed(repository, ours)
    plain.write_text(yaml.dump(_plain(found), Dumper=yaml.CSafeDumper, sort_keys=False))
    _, same = _listed(repository, plain)
    assert same["_meta"]["hostvars"] == found["_meta"]["hostvars"]
    assert len(found["_meta"]["hostvars"]) == HOSTS + max(COUNTS)
    title = f"ansible-inventory --list, {HOSTS} hypervisors and {max(COUNTS)} guests"
    mine = Side("kvm_fleet", lambda: _listed(repository, ours)[0])
    peer = Side(
        "the YAML plugin, the same hosts and variables", lambda: _listed(repository, plain)[0]
    )
    compare(title, "ms", mine, peer, 2.0, rounds=2)


def _spent(work: Any) -> float:
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1e3


@pytest.mark.parametrize("step", ["schema", "all of it"])
def test_reading_a_fleet_is_linear(step: str) -> None:
    samples: dict[int, list[float]] = {count: [] for count in COUNTS}
    contents = {count: _fleet(count).encode() for count in COUNTS}
    values = {count: read_file("f", text, {}, []).value for count, text in contents.items()}
    for _ in range(ROUNDS):
        for count in COUNTS:
            if step == "schema":
                samples[count].append(_spent(lambda n=count: list(problems(values[n]))))
            else:
                samples[count].append(_spent(lambda n=count: declare([("f", contents[n])])))
    say(f"\na fleet's {step} [ms, medians of {ROUNDS}]")
    for count in COUNTS:
        say(f"  {count:>8} guests {statistics.median(samples[count]):10.1f}")
    half, most = COUNTS[1:]
    each = {count: [one / count for one in samples[count]] for count in (half, most)}
    sides = (f"of {most}", each[most]), (f"of {half}", each[half])
    report(f"one guest, {step}", "ms", *sides, LINEAR)

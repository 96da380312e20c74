# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gives the tests a lab, back in its booted state for every module of tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from typing import TYPE_CHECKING

import sampling
import seeded
from asking import lost_guests
from playing import Ansible
from virtlab.lab import DESCRIPTIONS, Lab

if TYPE_CHECKING:
    from virtlab.host import Host

STANDARD = DESCRIPTIONS / "lab.yml"
LAB = os.environ.get("LAB", "test")
SEED = seeded.seed()
_SHOWN = 3  # lines of a console that the summary shows


def pytest_report_header() -> str:
    """Say what the sample is, so that it can be had again."""
    return f"lab: {seeded.VARIABLE}={SEED} chooses what of the long tests is made"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what stands here, skip it where images cannot be built, and take a sample."""
    here = Path(__file__).parent
    ours = [item for item in items if here in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.lab)
        if os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="the lab's images are built as root"))
    left = sampling.of_other_hosts(ours, SEED)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to what failed how its hosts are: an emulated one may have gone down or begun anew."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("standing_lab")
    if report.failed and lab:
        for host in lab.hosts.values():
            asked = host.run("uptime --since; uptime", patience=30, check=False)
            lost = "".join(f"the emulator lost {guest}\n" for guest in lost_guests(host))
            said = host.crashed()
            if said is not None:
                lost += f"the emulator of {host.name} ended by itself: {said}\n"
            told = f"{host.state()}; {asked.stdout}{asked.stderr}\n{lost}{host.console()[-2000:]}"
            report.sections.append((f"the host {host.name}", told))
            since = asked.stdout.partition("\n")[0] or "nobody knows when"
            lines = [f"{host.state()}, up since {since}", *lost.splitlines()]
            lines += host.console().splitlines()[-_SHOWN:]
            report.user_properties.append((f"{item.name}: {host.name}", "\n  ".join(lines)))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say last, and in short, how the hosts were when tests failed."""
    for kind in ("failed", "error"):
        for report in terminalreporter.getreports(kind):
            for name, told in report.user_properties:
                terminalreporter.write_line(f"{name}: {told}")


@pytest.fixture(scope="session")
def standing_lab() -> Iterator[Lab]:
    """Raise the tests' own lab, beside any other, and take it down in the end."""
    lab = Lab(LAB, STANDARD)
    lab.down()  # what an interrupted run left
    try:
        lab.up()
        yield lab
    finally:
        lab.down()


@pytest.fixture(scope="module")
def lab(standing_lab: Lab) -> Iterator[Lab]:
    """Give the lab as it was when its hosts had booted, to each module of tests."""
    standing_lab.up()
    yield standing_lab
    standing_lab.reset()


@pytest.fixture(scope="module")
def hosts(request: pytest.FixtureRequest, lab: Lab) -> list[Host]:
    """Give the hosts that the module works on: both, or one where it is sampled."""
    return [lab[name] for name in sampling.hosts(request.node, SEED)]


@pytest.fixture(scope="module")
def some(hosts: list[Host]) -> Host:
    """Give one of the module's hosts, for what is tried on one alone."""
    return hosts[-1]


@pytest.fixture(scope="module")
def ansible(lab: Lab, hosts: list[Host]) -> Ansible:
    """Give ansible-playbook on the hosts that the module works on."""
    alone = len(hosts) < len(lab.hosts)
    return Ansible(lab.inventory, ",".join(host.name for host in hosts) if alone else "")


@pytest.fixture(scope="module")
def kvm1(lab: Lab) -> Host:
    """Give the host with Debian 12."""
    return lab["kvm1"]


@pytest.fixture(scope="module")
def kvm2(lab: Lab) -> Host:
    """Give the host with Debian 13."""
    return lab["kvm2"]


@pytest.fixture(params=sampling.HOSTS)
def host(request: pytest.FixtureRequest, lab: Lab) -> Host:
    """Give each host in turn."""
    return lab[request.param]

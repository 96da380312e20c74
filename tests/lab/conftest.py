# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gives the tests a lab, back in its booted state for every module of tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from typing import TYPE_CHECKING

from playing import Ansible
from virtlab.lab import DESCRIPTIONS, Lab

if TYPE_CHECKING:
    from virtlab.host import Host

STANDARD = DESCRIPTIONS / "lab.yml"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what stands here, and skip it where images cannot be built."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.lab)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="the lab's images are built as root"))


@pytest.fixture(scope="session")
def standing_lab() -> Iterator[Lab]:
    """Raise the tests' own lab, beside any other, and take it down in the end."""
    lab = Lab("test", STANDARD)
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
def ansible(lab: Lab) -> Ansible:
    """Give ansible-playbook on the lab's hosts."""
    return Ansible(lab.inventory)


@pytest.fixture(scope="module")
def kvm1(lab: Lab) -> Host:
    """Give the host with Debian 12."""
    return lab["kvm1"]


@pytest.fixture(scope="module")
def kvm2(lab: Lab) -> Host:
    """Give the host with Debian 13."""
    return lab["kvm2"]


@pytest.fixture(params=["kvm1", "kvm2"])
def host(request: pytest.FixtureRequest, lab: Lab) -> Host:
    """Give each host in turn."""
    return lab[request.param]

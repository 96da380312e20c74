# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every test relies on: the import path of our modules, a usable KVM, the soak switch."""

from __future__ import annotations

import importlib.util
import os
import random
import runpy
import sys
import types
from pathlib import Path
from typing import Callable

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def _stand_in_for_ansible() -> None:
    """Make empty packages named ansible and ansible.module_utils.

    ansible-core does not install on the oldest Python of a host, and what is tested there knows
    nothing of Ansible but the name of the package it is imported under.
    """
    for name in ("ansible", "ansible.module_utils"):
        package = types.ModuleType(name)
        package.__path__ = []
        sys.modules[name] = package
    sys.modules["ansible"].module_utils = sys.modules["ansible.module_utils"]  # type: ignore[attr-defined]


if importlib.util.find_spec("ansible") is None:
    _stand_in_for_ansible()
runpy.run_path(str(REPOSITORY / "plugins" / "shim.py"))
sys.path.insert(0, str(REPOSITORY / "tests" / "shared"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the long forms of the tests, only")


def _why_no_kvm(device: str = "/dev/kvm") -> str:
    """Say why this machine cannot run the kvm tests, or nothing if it can."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{device}: {error.strerror}"
    return ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine cannot run; keep soak tests to `make soak`.

    What is sampled runs in the soak too, as a whole there.
    """
    from seeded import left_out, seed

    soak = config.getoption("--soak")
    in_soak = {"soak", "sampled", "one_of", "module_of"}
    chosen = [
        item
        for item in items
        if (in_soak & set(item.keywords) if soak else "soak" not in item.keywords)
    ]
    if not soak:
        left = left_out(chosen, seed())
        chosen = [item for item in chosen if item not in left]
    if len(chosen) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen
    reason = _why_no_kvm()
    if reason:
        for item in items:
            if "kvm" in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the folder of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def moments(request: pytest.FixtureRequest) -> Callable[..., list[int]]:
    """Return what chooses at which of so many calls a run is killed: twelve of them, or all."""
    from seeded import seed

    def choose(calls: int, many: int = 12) -> list[int]:
        if request.config.getoption("--soak"):
            return list(range(calls))
        return sorted(random.Random(seed()).sample(range(calls), min(many, calls)))

    return choose


@pytest.fixture
def cases(repository: Path) -> Path:
    """Return the folder with the tests' data."""
    return repository / "tests" / "cases"

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the helper's unit tests share: made images, the tests' guest programs, guest memory."""

from __future__ import annotations

import runpy
from types import SimpleNamespace

import pytest
from ansible.module_utils.kvm.memory import GuestMemory
from driving import Driver


@pytest.fixture(scope="session")
def images(repository):
    """Return the functions of tests/kvm/images.py."""
    return SimpleNamespace(**runpy.run_path(str(repository / "tests" / "kvm" / "images.py")))


@pytest.fixture(scope="session")
def programs(repository):
    """Return LISTINGS, PROGRAMS and `assemble` of tests/kvm/programs.py."""
    return SimpleNamespace(**runpy.run_path(str(repository / "tests" / "kvm" / "programs.py")))


@pytest.fixture
def new_memory():
    """Make guest memory that is given back at the end of the test."""
    made = []

    def make(size):
        made.append(GuestMemory(size))
        return made[-1]

    yield make
    for memory in made:
        memory.close()


@pytest.fixture
def drive(new_memory):
    """Make drivers of devices, over 16 MiB of memory unless one is given; ended with the test."""
    made = []

    def make(device, memory=None, **settings):
        made.append(Driver(device, memory or new_memory(16 << 20), **settings))
        return made[-1]

    yield make
    for driver in made:
        driver.close()

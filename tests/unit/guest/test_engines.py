# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several engines on one host."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.guest.engine import Observed
from ansible.module_utils.guest.engines import Engines
from ansible.module_utils.kvm.layout import Layout


def engine(name: str, *guests: Observed) -> Any:
    return SimpleNamespace(name=name, observe=lambda _names: {seen.name: seen for seen in guests})


@pytest.mark.parametrize("owned_first", [True, False], ids=["ours first", "ours last"])
def test_a_stranger_of_the_same_name_does_not_hide_a_guest_of_ours(owned_first: bool) -> None:
    ours = engine("ioctl", Observed("web", "ioctl"))
    strange = engine("libvirt", Observed("web", "libvirt", owned=False), Observed("db", "libvirt"))
    both = [ours, strange] if owned_first else [strange, ours]
    seen = Engines(both, Layout()).observe()
    assert {name: guest.engine for name, guest in seen.items()} == {"web": "ioctl", "db": "libvirt"}

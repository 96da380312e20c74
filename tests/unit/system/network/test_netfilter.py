# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether bridged frames go through the host's packet filter."""

from __future__ import annotations

import pytest
from ansible.module_utils.system.network import netfilter
from ansible.module_utils.system.operation import Executor, Put

FOLDER = "proc/sys/net/bridge"
KEYS = ("iptables", "ip6tables", "arptables")


@pytest.fixture
def root(tmp_path):
    """Return a root where br_netfilter is loaded, as the kernel sets it."""
    (tmp_path / FOLDER).mkdir(parents=True)
    for key in KEYS:
        (tmp_path / FOLDER / f"bridge-nf-call-{key}").write_text("1\n", encoding="ascii")
    return tmp_path


def carry_out(root, value):
    steps = netfilter.plan(str(root), value, "kvm1")
    Executor(str(root), lambda _: (0, "", "")).apply(steps)
    return [step.action.object for step in steps]


def test_now_at_boot_and_when_the_module_comes(root):
    assert carry_out(root, False) == [
        f"file{netfilter.SYSCTL}",
        f"file{netfilter.RULES}",
        "sysctl/net.bridge",
    ]
    assert (root / FOLDER / "bridge-nf-call-iptables").read_text(encoding="ascii")[0] == "0"
    text = (root / netfilter.SYSCTL[1:]).read_text(encoding="utf-8")
    assert "-net.bridge.bridge-nf-call-arptables = 0\n" in text
    assert 'KERNEL=="br_netfilter"' in (root / netfilter.RULES[1:]).read_text(encoding="utf-8")
    assert carry_out(root, False) == []
    assert "sysctl/net.bridge" in carry_out(root, True)


def test_without_the_module_there_are_files_alone(tmp_path):
    steps = netfilter.plan(str(tmp_path), False, "kvm1")
    assert not [o for step in steps for o in step.operations if isinstance(o, Put)]
    assert len(carry_out(tmp_path, False)) == 2
    assert carry_out(tmp_path, None) == [f"file{netfilter.SYSCTL}", f"file{netfilter.RULES}"]
    assert carry_out(tmp_path, None) == []

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""sysctl: names as sysctl.d(5) reads them, unknown ones, and those that a module brings."""

from __future__ import annotations

import pytest
from ansible.module_utils.system import sysctl


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("vm.swappiness", "/proc/sys/vm/swappiness"),
        ("vm/swappiness", "/proc/sys/vm/swappiness"),
        ("net.ipv4.conf.eth0/100.forwarding", "/proc/sys/net/ipv4/conf/eth0.100/forwarding"),
        ("net/ipv4/conf/eth0.100/forwarding", "/proc/sys/net/ipv4/conf/eth0.100/forwarding"),
    ],
)
def test_the_first_separator_tells_how_a_name_is_written(key, path):
    assert sysctl.path_of(key) == path


@pytest.mark.parametrize(
    ("value", "written"),
    [(True, "1"), (False, "0"), (10, "10"), (-1, "-1"), ("4096\t87380  1", "4096 87380 1")],
)
def test_values_are_written_as_the_kernel_takes_them(value, written):
    (wanted,) = sysctl.settings({"vm.x": value}, ())
    assert wanted.value == written
    assert sysctl.lines([wanted]) == [f"vm.x = {written}"]


BRIDGE = "net.bridge.bridge-nf-call-iptables"


@pytest.mark.parametrize(
    ("key", "modules", "problem"),
    [
        ("vm.swappiness", (), None),
        ("vm.swapiness", (), ("sysctl.vm.swapiness", "did you mean swappiness?")),
        ("nothing.like.it", (), ("sysctl.nothing.like.it", "sysctl -a lists what there is")),
        (BRIDGE, ("br_netfilter",), None),
        (
            BRIDGE,
            ("tun",),
            (f"sysctl.{BRIDGE}", "it comes with br_netfilter: state that under modules"),
        ),
        ("net.nf_conntrack_max", ("nf_conntrack",), None),
    ],
)
def test_a_setting_that_is_not_there_is_an_error_unless_a_stated_module_brings_it(
    tmp_path, key, modules, problem
):
    (tmp_path / "proc/sys/vm").mkdir(parents=True)
    (tmp_path / "proc/sys/vm/swappiness").write_text("60")
    wanted = sysctl.settings({key: 1}, modules)
    live = {item.path: "60" if item.path.endswith("/swappiness") else None for item in wanted}
    beside = sysctl.neighbours(str(tmp_path), wanted)
    found = sysctl.check_known(wanted, live, beside, modules)
    assert [(p.path, p.remedy) for p in found] == ([problem] if problem else [])


def test_what_a_module_of_the_run_brings_comes():
    assert [item.comes for item in sysctl.settings({BRIDGE: 1, "vm.x": 1}, {"br_netfilter"})] == [
        True,
        False,
    ]

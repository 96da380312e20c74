# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether frames that a bridge passes on go through the host's own packet filter.

The values are those of br_netfilter (ip-sysctl.rst, bridge-nf-call-*). They are there only while
the module is loaded, so a udev rule sets them when it comes, as sysctl.d(5) advises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import own_files, setting

if TYPE_CHECKING:
    from ..operation import Step
    from ..outcome import Outcome

_KEYS = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables")
_FOLDER = "/proc/sys/net/bridge"
SYSCTL = "/etc/sysctl.d/90-virtfleet-bridge.conf"
RULES = "/etc/udev/rules.d/90-virtfleet-bridge.rules"
_RULE = (
    'ACTION=="add", SUBSYSTEM=="module", KERNEL=="br_netfilter",'
    ' RUN+="/lib/systemd/systemd-sysctl --prefix=/net/bridge"'
)


def _settings(value: bool) -> list[setting.Setting]:
    return [
        setting.Setting("sysctl/net.bridge", key, f"{_FOLDER}/{key}", str(int(value)))
        for key in _KEYS
    ]


def plan(root: str, value: bool | None, host: str) -> list[Step]:
    """Return the steps that set the values now and at boot; None leaves them to the kernel.

    What is there is read below ``root``. Without br_netfilter nothing is set, and nothing is wrong.
    """
    observed = own_files.read(root, (SYSCTL, RULES))
    lines = [] if value is None else [f"-net.bridge.{key} = {int(value)}" for key in _KEYS]
    desired = {
        SYSCTL: own_files.content(lines),
        RULES: own_files.content([] if value is None else [_RULE]),
    }
    steps = own_files.plan(observed, desired, host)
    if value is None:
        return steps
    wanted = _settings(value)
    found = setting.read(root, wanted)
    present = [item for item in wanted if found[item.path] is not None]
    outcome: Outcome = setting.plan(present, found, {}, host)
    return [*steps, *outcome.steps]

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the kernel below /proc/sys, now and at boot (sysctl(8), sysctl.d(5))."""

from __future__ import annotations

import re
from typing import Any, Collection, Iterable, Mapping, Sequence

from ..converge.errors import Problem, nearest, shown
from ..host.source import names
from .setting import Setting

FILE = "/etc/sysctl.d/60-virtfleet.conf"
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_:-]*(?:[./][A-Za-z0-9_:-]+)+", re.ASCII)
_VALUE = re.compile(r"[\x21-\x7e]+(?:[ \t]+[\x21-\x7e]+)*", re.ASCII)
_LIMIT = 1024
# Settings that are not there before their module is loaded.
_MODULES = {
    "/proc/sys/net/bridge/": "br_netfilter",
    "/proc/sys/net/netfilter/": "nf_conntrack",
    "/proc/sys/net/nf_conntrack_max": "nf_conntrack",
    "/proc/sys/net/ipv4/vs/": "ip_vs",
    "/proc/sys/sunrpc/": "sunrpc",
    "/proc/sys/fs/nfs/nlm_": "lockd",
}


def path_of(key: str) -> str:
    """Return the file of a key.

    The first separator tells how it is written (sysctl.d(5)): after a dot, dots part the folders
    and a slash stands for a dot in a name (net.ipv4.conf.eth0/100.forwarding).
    """
    first = re.search(r"[./]", key)
    if first and first.group() == ".":
        key = key.translate(str.maketrans("./", "/."))
    return f"/proc/sys/{key}"


def written(value: Any) -> str | None:
    """Return a value as the kernel takes it, None for what can be none."""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str) and len(value) <= _LIMIT and _VALUE.fullmatch(value):
        return " ".join(value.split())
    return None


def check(settings: Mapping[Any, Any]) -> list[Problem]:
    """Return what is wrong with the declaration alone."""
    problems = []
    paths: dict[str, str] = {}
    for key, value in settings.items():
        if not isinstance(key, str) or _KEY.fullmatch(key) is None:
            expected = "names such as vm.swappiness or vm/swappiness as keys"
            problems.append(Problem("sysctl", expected, shown(key)))
            continue
        if written(value) is None:
            expected = "true, false, a number or one line of text"
            problems.append(Problem(f"sysctl.{key}", expected, shown(value)))
        earlier = paths.setdefault(path_of(key), key)
        if earlier != key:
            problems.append(
                Problem(f"sysctl.{key}", "a setting that is stated once", f"{earlier} is the same")
            )
    return problems


def settings(stated: Mapping[str, Any], loading: Collection[str]) -> list[Setting]:
    """Return checked settings; ``loading`` are the modules that the same run loads."""
    return [
        Setting(
            object=f"sysctl/{key}",
            key="value",
            path=path_of(key),
            value=written(value) or "",
            comes=_module(path_of(key)) in loading,
        )
        for key, value in stated.items()
    ]


def _module(path: str) -> str | None:
    return next((module for start, module in _MODULES.items() if path.startswith(start)), None)


def neighbours(root: str, wanted: Iterable[Setting]) -> dict[str, list[str]]:
    """Return what stands beside each setting, for the message about one that is not there."""
    folders = {item.path.rpartition("/")[0] for item in wanted}
    return {folder: names(root, folder) or [] for folder in folders}


def check_known(
    wanted: Sequence[Setting],
    live: Mapping[str, str | None],
    beside: Mapping[str, Sequence[str]],
    modules: Collection[str],
) -> list[Problem]:
    """Return which settings this kernel does not have, unless one of the stated modules has."""
    problems = []
    for item in wanted:
        module = _module(item.path)
        if live.get(item.path) is None and module not in modules:
            folder, _, name = item.path.rpartition("/")
            guess = nearest(name, [other for other in beside.get(folder, ()) if other != name])
            if module:
                remedy = f"it comes with {module}: state that under modules"
            else:
                remedy = f"did you mean {guess}?" if guess else "sysctl -a lists what there is"
            problems.append(
                Problem(
                    item.object.replace("/", ".", 1),
                    "a setting of this kernel that can be read",
                    f"no {item.path}",
                    remedy,
                )
            )
    return problems


def lines(wanted: Iterable[Setting]) -> list[str]:
    """Return the lines of the file that systemd-sysctl reads at boot."""
    return [f"{item.object.partition('/')[2]} = {item.value}" for item in wanted]

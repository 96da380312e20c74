# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernel modules that are loaded now and at every boot (modules-load.d(5)).

A module that is built in counts as loaded. ``vendor`` stands for the KVM module of the processor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

from ..converge.action import LIVE, Action, Blocked, Change, Pending
from ..converge.errors import Problem, nearest, shown
from ..host.probes import cpuinfo
from ..host.source import names, text, word
from .operation import Run, Step
from .outcome import LOAD, NOT_AVAILABLE, Outcome

FILE = "/etc/modules-load.d/virtfleet.conf"
VENDOR = "vendor"
# The flag that the processor shows where virtualization is not switched off.
_FLAGS = {"kvm_intel": "vmx", "kvm_amd": "svm"}
_VENDORS = {"GenuineIntel": "kvm_intel", "AuthenticAMD": "kvm_amd", "HygonGenuine": "kvm_amd"}
_OTHER_VENDOR_MODULES = ("kvm_pvm", "kvm_hv", "kvm_pr")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,54}", re.ASCII)  # MODULE_NAME_LEN is 56
_KO = re.compile(r"([^/\s]+)\.ko\b[^\s:]*")


@dataclass(frozen=True)
class Observed:
    """The modules of the machine; None where nothing can be said (an image, no module folder)."""

    release: str | None = None
    loaded: frozenset[str] | None = None
    on_disk: frozenset[str] | None = None
    blacklisted: Mapping[str, str] = field(default_factory=dict)  # module → the file that says so
    vendor: str | None = None
    flags: frozenset[str] = frozenset()

    def missing(self, modules: Sequence[str]) -> list[str]:
        """Return which modules are not loaded; none where there is no running kernel to ask."""
        return [] if self.loaded is None else [m for m in modules if m not in self.loaded]


def canonical(name: str) -> str:
    """Return the name as the kernel has it: kvm-amd and kvm_amd are one module."""
    return name.replace("-", "_")


def is_name(value: Any) -> bool:
    """Return whether the value can be the name of a kernel module."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def check(modules: Sequence[Any]) -> list[Problem]:
    """Return what is wrong with the names alone."""
    return [
        Problem(f"modules[{number}]", "the name of a kernel module", shown(name))
        for number, name in enumerate(modules)
        if not is_name(name)
    ]


def read(root: str) -> Observed:
    """Return the modules of the machine under ``root``."""
    release = word(root, "/proc/sys/kernel/osrelease")
    present = names(root, "/sys/module")
    builtin = text(root, f"/lib/modules/{release}/modules.builtin")
    dep = text(root, f"/lib/modules/{release}/modules.dep")
    inside = _files(builtin or "")
    cpus = cpuinfo.probe(root)
    loaded = None if present is None else frozenset(present) | inside
    return Observed(
        release=release,
        loaded=loaded,
        on_disk=None if dep is None else _files(dep) | inside,
        blacklisted=_blacklisted(root),
        vendor=_vendor(cpus.vendor, loaded or frozenset()),
        flags=cpus.flags,
    )


def _files(listing: str) -> frozenset[str]:
    """Return the modules of modules.dep or modules.builtin (each line begins with a path)."""
    found = (_KO.search(line) for line in listing.splitlines())
    return frozenset(canonical(match.group(1)) for match in found if match)


def _blacklisted(root: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for folder in ("/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"):
        for name in names(root, folder) or []:
            lines = text(root, f"{folder}/{name}") if name.endswith(".conf") else None
            for module in re.findall(r"^[ \t]*blacklist[ \t]+(\S+)", lines or "", re.MULTILINE):
                found.setdefault(canonical(module), f"{folder}/{name}")
    return found


def _vendor(maker: str | None, loaded: frozenset[str]) -> str | None:
    own = _VENDORS.get(maker or "")
    if own in loaded:
        return own
    return next((name for name in _OTHER_VENDOR_MODULES if name in loaded), own)


def resolve(name: str, observed: Observed, path: str, problems: list[Problem]) -> str:
    """Return the module that a name stands for, ``vendor`` resolved."""
    if name != VENDOR:
        return canonical(name)
    if observed.vendor is None:
        problems.append(
            Problem(
                path,
                "a processor by Intel or AMD, for which a module is known",
                "none in /proc/cpuinfo",
                "name the module itself",
            )
        )
    return observed.vendor or name


def check_known(modules: Sequence[str], observed: Observed) -> list[Problem]:
    """Return which modules the running kernel does not have at all."""
    if observed.on_disk is None or observed.loaded is None:
        return []
    problems = []
    for number, name in enumerate(modules):
        if name not in observed.on_disk and name not in observed.loaded and name != VENDOR:
            guess = nearest(name, observed.on_disk)
            problems.append(
                Problem(
                    f"modules[{number}]",
                    f"a module of kernel {observed.release}",
                    shown(name),
                    f"did you mean {guess}?" if guess else "install the package that has it",
                )
            )
    return problems


def lines(modules: Sequence[str]) -> list[str]:
    """Return the lines of the file that systemd reads at boot."""
    return list(dict.fromkeys(modules))


def plan(modules: Sequence[str], observed: Observed, host: str) -> Outcome:
    """Return what loads the modules that are not."""
    steps, blocked = [], []
    pending = [
        _blacklist(name, observed.blacklisted[name], host)
        for name in lines(modules)
        if name in observed.blacklisted
    ]
    for name in lines(observed.missing(modules)):
        flag = _FLAGS.get(name)
        if observed.on_disk is None:
            pending.append(_no_folder(name, observed.release, host))
        elif flag is not None and flag not in observed.flags:
            blocked.append(_no_flag(name, flag, host))
        else:
            steps.append(_load(name, host))
    return Outcome(tuple(steps), tuple(pending), tuple(blocked))


def loading(outcome: Outcome) -> frozenset[str]:
    """Return which modules the steps of this facet load."""
    return frozenset(step.action.name for step in outcome.steps)


def _load(name: str, host: str) -> Step:
    action = Action(
        step=LOAD,
        object=f"module/{name}",
        action="start",
        host=host,
        when=LIVE,
        reason="it is not loaded",
        changes=(Change("loaded", False, True),),
    )
    return Step(action, (Run(("modprobe", name)),))


def _no_folder(name: str, release: str | None, host: str) -> Pending:
    return Pending(
        object=f"module/{name}",
        kind=NOT_AVAILABLE,
        host=host,
        reason=f"the running kernel {release} has no modules on disk, so it cannot be loaded",
        remedy="boot an installed kernel, or install the modules of this one",
        changes=(Change("loaded", False, True),),
    )


def _no_flag(name: str, flag: str, host: str) -> Blocked:
    return Blocked(
        object=f"module/{name}",
        host=host,
        reason=f"the processor does not show the flag {flag}, so the module would not load",
        remedy="enable virtualization in the firmware and power the machine fully off; in a"
        " virtual machine, let its host pass the flag on",
    )


def _blacklist(name: str, path: str, host: str) -> Pending:
    return Pending(
        object=f"module/{name}",
        kind="blacklisted",
        host=host,
        reason=f"{path} has it on the blacklist, so it is not loaded at boot",
        remedy="take the line away there",
    )

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""KVM's kernel modules and their parameters (/sys/module, linux: Documentation/admin-guide).

A module that is built in shows there like a loaded one. Where no vendor module is loaded, the
kernel's own lists say whether it has one to load, and modprobe.d whether loading is forbidden.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..source import exists, names, text, word

VENDOR_MODULES = ("kvm_intel", "kvm_amd", "kvm_pvm", "kvm_hv", "kvm_pr")
_OTHERS = ("vhost_net", "vhost_vsock", "vfio_pci", "vfio_iommu_type1", "tun", "irqbypass")


@dataclass(eq=False, repr=False)
class Modules:
    """What is loaded, with parameters; ``available`` is asked only where no vendor module is."""

    readable: bool = True
    loaded: tuple[str, ...] = ()
    parameters: dict[str, dict[str, str]] = field(default_factory=dict)
    available: dict[str, bool | None] = field(default_factory=dict)
    blacklisted: dict[str, str] = field(default_factory=dict)  # module → file that says so

    @property
    def vendor_module(self) -> str | None:
        """The module that drives the processor, None where none is loaded."""
        return next((name for name in VENDOR_MODULES if name in self.loaded), None)

    def parameter(self, module: str, name: str) -> str | None:
        """Return the value of a parameter, None where the module or the parameter is not there."""
        return self.parameters.get(module, {}).get(name)


def probe(root: str = "/") -> Modules:
    """Read what KVM modules the kernel under ``root`` runs with."""
    present = names(root, "/sys/module")
    if present is None:
        return Modules(readable=False)
    wanted = ("kvm", *VENDOR_MODULES, *_OTHERS)
    modules = Modules(loaded=tuple(name for name in wanted if name in set(present)))
    for name in modules.loaded:
        folder = f"/sys/module/{name}/parameters"
        found = {key: word(root, f"{folder}/{key}") for key in names(root, folder) or []}
        modules.parameters[name] = {key: value for key, value in found.items() if value is not None}
    if modules.vendor_module is None:
        _look_for_files(root, modules)
    return modules


def _look_for_files(root: str, modules: Modules) -> None:
    release = word(root, "/proc/sys/kernel/osrelease")
    folder = f"/lib/modules/{release}"
    if release is None or not exists(root, folder):
        return  # unknown: a kernel without a module folder of its own
    lists = [text(root, f"{folder}/{name}") for name in ("modules.dep", "modules.builtin")]
    known = [content for content in lists if content is not None]
    for name in VENDOR_MODULES:
        file = re.compile(rf"/{name.replace('_', '[-_]')}\.ko\b")
        modules.available[name] = any(file.search(c) for c in known) if known else None
    for name in names(root, "/etc/modprobe.d") or []:
        content = text(root, f"/etc/modprobe.d/{name}") or ""
        for module in re.findall(r"^\s*(?:blacklist|install)\s+(kvm\w*)", content, re.MULTILINE):
            modules.blacklisted.setdefault(module, f"/etc/modprobe.d/{name}")

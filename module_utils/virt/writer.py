# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The XML of a new domain: what was stated, and the little that makes a sound guest of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Mapping

from .document import Document, Element, Fresh, XmlError, illegal, insert
from .identity import LOCAL, uuid_for
from .marking import put_mark
from .patcher import patch_root

if TYPE_CHECKING:
    from .mark import Mark

_SKELETON = "<domain>\n  <name/>\n  <vcpu placement='static'>1</vcpu>\n</domain>\n"
_MERGED = ("features", "cpu", "clock")  # whose defaults hold beside what was stated in them
_X86 = ("x86_64", "i686")
_PC = re.compile(r"pc|q35|pc-(?:q35|i440fx)-.*")
# PCI Express has a port for each device: those that a guest shall take while it runs need one too.
_PCIE = re.compile(r"(?:pc-)?q35(?:-.*)?|virt(?:-[0-9].*)?")
_PORTS = 14

# What a new guest has where nothing else was stated; a stated null is "none of it".
DEFAULTS: dict[str, Any] = {
    "memory": "1GiB",
    "vcpus": 1,
    "channels": [{"name": "org.qemu.guest_agent.0", "type": "unix"}],
    "memballoon": {"model": "virtio"},
    "rng": {"model": "virtio", "backend": "random", "device": "/dev/urandom"},
}


@dataclass(frozen=True)
class Capabilities:
    """What a new domain is made for, where its spec does not say: the host's own, pinned.

    ``machine`` is a versioned type, so that no later host boots it as another; ``families`` gives
    the version that a family (q35) means there.
    """

    machine: str
    arch: str = "x86_64"
    emulator: str | None = None
    accel: str = "kvm"
    families: Mapping[str, str] = field(default_factory=dict)


def _of_the_machine(
    stated: Mapping[str, Any], machine: str, arch: str, accel: str
) -> dict[str, Any]:
    """Return the defaults that depend on the machine, its architecture and the accelerator."""
    found: dict[str, Any] = {}
    if arch in _X86:
        found["features"] = {"acpi": True, "apic": True}
        if _PC.fullmatch(machine):
            # QEMU's HPET goes on ticking after Linux has left it: 250 times a second for nothing.
            found["clock"] = {"timers": {"hpet": {"present": False}}}
    elif (stated.get("firmware") or {}).get("type") == "uefi":
        found["features"] = {"acpi": True}  # elsewhere QEMU has ACPI tables with UEFI alone
    if accel == "tcg":
        found["cpu"] = {"mode": "maximum"}
    else:  # a model that migrates between the hosts of a fleet, where libvirt knows models
        found["cpu"] = {"mode": "host-model" if arch in _X86 else "host-passthrough"}
    if arch == "s390x":
        found["consoles"] = [{"type": "pty", "target": "sclp"}]
    else:
        found["serials"] = [{"type": "pty"}]
    return found


def _over(below: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group with what was stated of it over its defaults."""
    whole = {**below, **stated}
    for key, value in stated.items():
        if isinstance(value, Mapping) and isinstance(below.get(key), Mapping):
            whole[key] = _over(below[key], value)
    return whole


def complete(stated: Mapping[str, Any], host: Capabilities) -> dict[str, Any]:
    """Return the whole spec of a new domain: what was stated, over the defaults."""
    arch = stated.get("arch") or host.arch
    accel = stated.get("accel") or host.accel
    whole: dict[str, Any] = {"arch": arch, "accel": accel, "machine": host.machine, **DEFAULTS}
    if host.emulator is not None:
        whole["emulator"] = host.emulator
    machine = str(stated.get("machine") or host.machine)
    whole.update(_of_the_machine(stated, machine, arch, accel))
    for key, value in stated.items():
        below = whole.get(key)
        if key in _MERGED and isinstance(below, Mapping) and isinstance(value, Mapping):
            whole[key] = _over(below, value)
        else:
            whole[key] = value
    whole["machine"] = host.families.get(whole["machine"], whole["machine"])
    return whole


def _ports(root: Element) -> None:
    devices = root.find("devices")
    if devices is None:
        return
    # libvirt's own first one has to be there before any other.
    insert(devices, Fresh("controller", {"type": "pci", "index": "0", "model": "pcie-root"}))
    for _ in range(_PORTS):
        insert(devices, Fresh("controller", {"type": "pci", "model": "pcie-root-port"}))


def write(
    stated: Mapping[str, Any],
    name: str,
    host: Capabilities,
    *,
    fleet: str = LOCAL,
    mark: Mark | None = None,
) -> str:
    """Return the XML of a new domain of that name.

    ``stated`` is what `check` returned. UUID and MACs follow from fleet and name unless stated.
    """
    if not name or illegal(name) or name != name.strip() or "\n" in name:
        raise XmlError(f"a domain's name: expected one line of text, found {name!r}")
    document = Document(_SKELETON)
    root = document.root
    root[0].text = name
    whole = {"uuid": uuid_for(name, fleet), **complete(stated, host)}
    fragment = whole.pop("xml", None)
    patch_root(root, whole, name=name, fleet=fleet)
    kind = root.find("os/type")
    if kind is not None:
        kind.text = "hvm"
    if _PCIE.fullmatch(str(whole["machine"])):
        _ports(root)
    if mark is not None:
        put_mark(root, mark)
    if fragment:
        patch_root(root, {"xml": fragment}, name=name, fleet=fleet)
    return document.text()

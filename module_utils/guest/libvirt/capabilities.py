# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host can run, as libvirt's capabilities say (https://libvirt.org/formatcaps.html)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Mapping

from ...virt.document import Document, Element, text_of
from ...virt.writer import Capabilities

NATIVE = "x86_64"
_ACCELS = {"qemu": "tcg"}
# The machine of a new guest, by architecture: the one without devices of the past.
_FAMILIES = {
    "x86_64": "q35",
    "i686": "q35",
    "aarch64": "virt",
    "riscv64": "virt",
    "s390x": "s390-ccw-virtio",
    "ppc64": "pseries",
    "ppc64le": "pseries",
}


@dataclass(frozen=True, eq=False, repr=False)
class Arch:
    """An architecture that guests can have: emulator, accelerators, machines.

    ``machines`` maps the names without a version to those with one.
    """

    emulator: str | None = None
    accels: tuple[str, ...] = ()
    machines: Mapping[str, str] = field(default_factory=dict)
    versions: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class HostCapabilities:
    """The host's own architecture and all that guests can have; ``memory`` in bytes."""

    native: str = NATIVE
    archs: Mapping[str, Arch] = field(default_factory=dict)
    memory: int | None = None

    def of(self, stated: Mapping[str, Any]) -> Capabilities:
        """Return what a new guest is made for, by the architecture that it states."""
        name = stated.get("arch") or self.native
        arch = self.archs.get(name, Arch())
        family = _FAMILIES.get(name, "none")
        accel = "kvm" if name == self.native else "tcg"
        if arch.accels and not {"kvm", "tcg"} & set(arch.accels):
            accel = arch.accels[0]
        return Capabilities(
            machine=arch.machines.get(family, family),
            arch=name,
            emulator=arch.emulator,
            accel=accel,
            families=arch.machines,
        )

    def versions(self) -> dict[str, dict[str, list[str]]]:
        """Return the versions of each family of machines that the host's own guests can have."""
        arch = self.archs.get(self.native, Arch())
        known = {*arch.versions, *arch.machines.values()}
        found = {}
        for family, newest in sorted(arch.machines.items()):
            stem = newest.rstrip("0123456789.")
            found[family] = sorted(
                name for name in known if name.rstrip("0123456789.") == stem != name
            )
        return {self.native: found} if found else {}

    def among(self, machines: Mapping[str, Mapping[str, str]]) -> HostCapabilities:
        """Return the same with other versions of families of machines, those that are known here.

        So a new guest gets a machine that each host of a fleet knows, and not the newest of one.
        """
        archs = dict(self.archs)
        for name, chosen in machines.items():
            arch = archs.get(name)
            if arch is not None:
                known = {*arch.versions, *arch.machines.values()}
                own = {family: version for family, version in chosen.items() if version in known}
                archs[name] = replace(arch, machines={**arch.machines, **own})
        return replace(self, archs=archs)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "arch": self.native,
            "memory": self.memory,
            "archs": {
                name: {
                    "emulator": arch.emulator,
                    "accels": list(arch.accels),
                    "machines": dict(arch.machines),
                }
                for name, arch in sorted(self.archs.items())
            },
        }


def _text(element: Element | None) -> str | None:
    return None if element is None else text_of(element).strip() or None


def _arch(element: Element) -> Arch:
    machines, versions = {}, []
    for machine in element.findall("machine"):
        name = text_of(machine).strip()
        canonical = machine.get("canonical")
        if canonical:
            machines[name] = canonical
        else:
            versions.append(name)
    kinds = [domain.get("type", "") for domain in element.findall("domain")]
    accels = tuple(_ACCELS.get(kind, kind) for kind in kinds)
    return Arch(_text(element.find("emulator")), accels, machines, tuple(versions))


def read_capabilities(xml: str, memory: int | None = None) -> HostCapabilities:
    """Return what the capabilities' XML says; XmlError where it is no XML."""
    root = Document(xml, "capabilities").root
    native = _text(root.find("host/cpu/arch")) or NATIVE
    archs: dict[str, Arch] = {}
    for guest in root.findall("guest"):
        arch = guest.find("arch")
        if arch is not None and _text(guest.find("os_type")) == "hvm":
            archs.setdefault(arch.get("name", ""), _arch(arch))
    return HostCapabilities(native, archs, memory)

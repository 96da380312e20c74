# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""/proc/cpuinfo of every CPU and every architecture (linux: arch/*/kernel/cpu/proc.c).

The file's form tells the architecture: x86 has ``flags``, ARM ``CPU implementer``, s390x a heading
with ``features``, POWER a line ``cpu : POWER9``. CPUs that are alike are kept once, as a kind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..source import ranges, text

_NONE: frozenset[str] = frozenset()


@dataclass(eq=False, repr=False)
class CpuKind:
    """CPUs that say the same of themselves; ``cpus`` is a kernel list such as ``0-7``."""

    cpus: str
    count: int
    vendor: str | None
    name: str | None
    family: str | None
    model: str | None
    stepping: str | None
    microcode: str | None
    physical_bits: int | None
    flags: frozenset[str] = _NONE
    vmx_flags: frozenset[str] | None = None  # None: this kernel does not print the line


@dataclass(eq=False, repr=False)
class Cpuinfo:
    """All CPUs of the machine; ``architecture`` is None where the file has no known form."""

    readable: bool
    architecture: str | None = None  # x86, arm, s390x, ppc64, riscv
    count: int = 0
    sockets: int | None = None
    cores: int | None = None
    hypervisor: bool = False
    kinds: list[CpuKind] = field(default_factory=list)
    facilities: frozenset[str] = _NONE  # s390x facility numbers

    @property
    def vendor(self) -> str | None:
        """Who made the first CPU, as it says itself."""
        return self.kinds[0].vendor if self.kinds else None

    @property
    def flags(self) -> frozenset[str]:
        """The flags that every CPU has."""
        return _common([kind.flags for kind in self.kinds])

    @property
    def vmx_flags(self) -> frozenset[str] | None:
        """The VMX flags that every CPU has; None where the kernel does not print them."""
        sets = [kind.vmx_flags for kind in self.kinds if kind.vmx_flags is not None]
        return _common(sets) if sets and len(sets) == len(self.kinds) else None


def probe(root: str = "/") -> Cpuinfo:
    """Read the CPUs of the machine under ``root``."""
    content = text(root, "/proc/cpuinfo")
    return Cpuinfo(readable=False) if content is None else parse(content)


def parse(content: str) -> Cpuinfo:
    """Return what the text of a /proc/cpuinfo says."""
    blocks = [_fields(block) for block in content.split("\n\n") if block.strip()]
    keys = {key for block in blocks for key in block}
    if "flags" in keys or {"vendor_id", "cpuid level"} <= keys:
        return _x86(blocks)
    if "CPU implementer" in keys:
        return _arm(blocks)
    if "# processors" in keys:
        return _s390x(blocks)
    if "isa" in keys:
        return _simple(blocks, "riscv", vendor="mvendorid", name="uarch", flags="isa")
    if any(block.get("cpu", "").startswith("POWER") for block in blocks):
        return _simple(blocks, "ppc64", vendor="vendor", name="cpu", flags="features")
    return Cpuinfo(readable=True, count=sum("processor" in block for block in blocks))


def _common(sets: list[frozenset[str]]) -> frozenset[str]:
    return frozenset.intersection(*sets) if sets else _NONE


def _fields(block: str) -> dict[str, str]:
    fields = {}
    for line in block.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields[key.strip()] = value.strip()
    return fields


def _kinds(alike: dict[tuple[str | None, ...], list[int]]) -> list[CpuKind]:
    """Make kinds of (vendor, name, family, model, stepping, microcode, sizes, flags, vmx flags)."""
    kinds = []
    for (
        vendor,
        name,
        family,
        model,
        stepping,
        microcode,
        sizes,
        flags,
        vmx,
    ), cpus in alike.items():
        bits = re.match(r"(\d+) bits physical", sizes or "")
        kinds.append(
            CpuKind(
                cpus=ranges(cpus),
                count=len(cpus),
                vendor=vendor,
                name=name,
                family=family,
                model=model,
                stepping=stepping,
                microcode=microcode,
                physical_bits=int(bits.group(1)) if bits else None,
                flags=frozenset((flags or "").split()),
                vmx_flags=None if vmx is None else frozenset(vmx.split()),
            )
        )
    return kinds


_X86_KEYS = (
    "vendor_id",
    "model name",
    "cpu family",
    "model",
    "stepping",
    "microcode",
    "address sizes",
    "flags",
    "vmx flags",
)
_ARM_KEYS = (
    "CPU implementer",
    "model name",
    "CPU architecture",
    "CPU part",
    "CPU variant",
    "CPU revision",
    "address sizes",
    "Features",
    "vmx flags",
)


def _group(blocks: list[dict[str, str]], keys: tuple[str, ...]) -> list[CpuKind]:
    alike: dict[tuple[str | None, ...], list[int]] = {}
    for block in blocks:
        if block.get("processor", "").isdigit():
            alike.setdefault(tuple(map(block.get, keys)), []).append(int(block["processor"]))
    return _kinds(alike)


def _x86(blocks: list[dict[str, str]]) -> Cpuinfo:
    kinds = _group(blocks, _X86_KEYS)
    sockets = {block["physical id"] for block in blocks if "physical id" in block}
    cores = {
        (b["physical id"], b["core id"]) for b in blocks if "physical id" in b and "core id" in b
    }
    return Cpuinfo(
        readable=True,
        architecture="x86",
        count=sum(kind.count for kind in kinds),
        sockets=len(sockets) or None,
        cores=len(cores) or None,
        hypervisor=any("hypervisor" in kind.flags for kind in kinds),
        kinds=kinds,
    )


def _arm(blocks: list[dict[str, str]]) -> Cpuinfo:
    kinds = _group(blocks, _ARM_KEYS)
    return Cpuinfo(
        readable=True, architecture="arm", count=sum(kind.count for kind in kinds), kinds=kinds
    )


def _s390x(blocks: list[dict[str, str]]) -> Cpuinfo:
    """One heading for all CPUs; then ``processor 0: version = FF, …, machine = 8561`` lines."""
    fields: dict[str, str] = {}
    for block in blocks:
        fields.update(block)
    lines = {key: value for key, value in fields.items() if re.fullmatch(r"processor \d+", key)}
    alike: dict[tuple[str | None, ...], list[int]] = {}
    for key, value in lines.items():
        machine = re.search(r"machine = (\w+)", value)
        version = re.search(r"version = (\w+)", value)
        kind = (
            fields.get("vendor_id"),
            None,
            None,
            machine and machine.group(1),
            version and version.group(1),
            None,
            None,
            fields.get("features"),
            None,
        )
        alike.setdefault(kind, []).append(int(key.split()[1]))
    return Cpuinfo(
        readable=True,
        architecture="s390x",
        count=len(lines),
        kinds=_kinds(alike),
        facilities=frozenset(fields.get("facilities", "").split()),
    )


def _simple(
    blocks: list[dict[str, str]], architecture: str, vendor: str, name: str, flags: str
) -> Cpuinfo:
    keys = (vendor, name, "family", "model", "revision", "microcode", "sizes", flags, "vmx flags")
    kinds = _group(blocks, keys)
    return Cpuinfo(
        readable=True,
        architecture=architecture,
        count=sum(kind.count for kind in kinds),
        kinds=kinds,
    )

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What QEMU offers to a guest of some machine, as libvirt's domain capabilities say.

https://libvirt.org/formatdomaincaps.html. What an older libvirt does not list there is not judged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Iterator, Mapping

from ...converge.errors import Problem, shown, unknown
from ...virt.disk import bus_of
from ...virt.document import Document, Element, elements, text_of

Spec = Mapping[str, Any]
_NO = "no"

# Keys of a spec whose change may ask for something that is not offered.
KEYS = (
    *("vcpus", "max_vcpus", "machine", "firmware", "cpu", "memory_backing", "hyperv"),
    *("launch_security", "disks", "graphics", "videos", "hostdevs", "rng", "filesystems", "tpm"),
    *("channels", "features"),
)


@dataclass(frozen=True)
class Offer:
    """What there is: words by their place, ``devices/disk/bus``, and what is not supported at all.

    ``models`` tells of each CPU model whether this host can run it.
    """

    machine: str = ""
    vcpus: int | None = None
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lacking: frozenset[str] = frozenset()
    models: Mapping[str, bool] = field(default_factory=dict)

    def without(self, place: str, word: object) -> tuple[str, ...] | None:
        """Return the words there are in a place if this is none of them; None where it is."""
        offered = () if place.rpartition("/")[0] in self.lacking else self.words.get(place)
        return None if offered is None or word is None or word in offered else offered


def _words(element: Element, place: str, found: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """Collect the words below an element, and yield the places of what is not supported."""
    for child in elements(element):
        if child.tag == "enum":
            values = tuple(text_of(value).strip() for value in child.findall("value"))
            found[f"{place}/{child.get('name', '')}"] = values
            continue
        below = f"{place}/{child.tag}" if place else child.tag
        if child.get("supported") == _NO:
            yield below
        yield from _words(child, below, found)


def read_offer(xml: str) -> Offer:
    """Return what the domain capabilities' XML says; XmlError where it is no XML."""
    root = Document(xml, "domainCapabilities").root
    words: dict[str, tuple[str, ...]] = {}
    lacking = frozenset(_words(root, "", words))
    machine, vcpu = root.find("machine"), root.find("vcpu")
    most = "" if vcpu is None else vcpu.get("max", "")
    modes = root.findall("cpu/mode")
    if modes:
        offered = [mode.get("name", "") for mode in modes if mode.get("supported") != _NO]
        words["cpu/mode"] = tuple(offered)
    models = {
        text_of(model).strip(): model.get("usable") != _NO
        for mode in modes
        if mode.get("name") == "custom"
        for model in mode.findall("model")
    }
    return Offer(
        machine="" if machine is None else text_of(machine).strip(),
        vcpus=int(most) if most.isdigit() else None,
        words=words,
        lacking=lacking,
        models=models,
    )


# The key of one thing or of each of a list, the key in it, and where its words are.
_PLACES = (
    ("memory_backing", "source", "memoryBacking/sourceType"),
    ("disks", "device", "devices/disk/diskDevice"),
    ("graphics", "type", "devices/graphics/type"),
    ("videos", "model", "devices/video/modelType"),
    ("rng", "backend", "devices/rng/backendModel"),
    ("tpm", "model", "devices/tpm/model"),
    ("tpm", "type", "devices/tpm/backendModel"),
    ("tpm", "version", "devices/tpm/backendVersion"),
    ("channels", "type", "devices/channel/type"),
    ("filesystems", "driver", "devices/filesystem/driverType"),
    ("cpu", "mode", "cpu/mode"),
)
_XML_WORDS = {"9p": "path"}
_SUBSYSTEMS = {"usb": "usb", "usb_device": "usb", "pci": "pci"}
_HYPERV = (
    *("relaxed", "vapic", "vpindex", "runtime", "synic", "stimer", "reset", "frequencies"),
    *("reenlightenment", "tlbflush", "ipi", "evmcs", "spinlocks", "vendor_id"),
)


def _group(spec: Spec, key: str) -> Spec:
    value = spec.get(key)
    return value if isinstance(value, Mapping) else {}


def _things(spec: Spec, key: str) -> Iterator[tuple[str, Spec]]:
    value = spec.get(key)
    if isinstance(value, Mapping):
        yield key, value
        return
    for number, entry in enumerate(value or ()):
        yield f"{key}[{number}]", entry


def _asked(spec: Spec) -> Iterator[tuple[str, str, object]]:
    """Yield the words that a guest has in its spec: where, in which place, which."""
    for key, inside, place in _PLACES:
        for path, thing in _things(spec, key):
            word = thing.get(inside)
            yield f"{path}.{inside}", place, _XML_WORDS.get(str(word), word)
    for path, disk in _things(spec, "disks"):
        at = "bus" if disk.get("bus") else "target"
        yield f"{path}.{at}", "devices/disk/bus", bus_of(disk)
    for path, device in _things(spec, "hostdevs"):
        for key, kind in _SUBSYSTEMS.items():
            if device.get(key) is not None:
                yield f"{path}.{key}", "devices/hostdev/subsysType", kind
    hyperv = _group(spec, "hyperv")
    for key in _HYPERV:
        if hyperv.get(key):
            yield f"hyperv.{key}", "features/hyperv/features", key


def unoffered(name: str, spec: Spec, offer: Offer) -> Iterator[Problem]:
    """Yield what a guest has in its spec that there is not; paths begin with its name."""
    for path, place, word in _asked(spec):
        offered = offer.without(place, word)
        if offered is not None:
            what = f"what QEMU has for {offer.machine or 'it'}"
            if offered:
                yield unknown(f"{name}.{path}", word, what, offered)
            else:
                yield Problem(f"{name}.{path}", what, f"{shown(word)}, which it has not")
    yield from _firmware(name, _group(spec, "firmware"), offer)
    yield from _processor(name, spec, offer)
    sev = _group(spec, "launch_security").get("type")
    if sev is not None and "features/sev" in offer.lacking:
        yield Problem(f"{name}.launch_security.type", "a host that has it", shown(sev))


def _firmware(name: str, firmware: Spec, offer: Offer) -> Iterator[Problem]:
    """Yield firmware that this host does not have."""
    if firmware.get("loader"):
        return  # a file of its own, whatever libvirt finds by itself
    install = "install it (the role kvm_host does: ovmf, qemu-efi-aarch64)"
    if firmware.get("type") == "uefi" and offer.without("os/firmware", "efi") is not None:
        yield Problem(f"{name}.firmware.type", "UEFI firmware for this machine", "none", install)
    elif firmware.get("secure_boot") and offer.without("os/loader/secure", "yes") is not None:
        expected = "UEFI firmware that can do secure boot"
        yield Problem(f"{name}.firmware.secure_boot", expected, "none", install)


def _processor(name: str, spec: Spec, offer: Offer) -> Iterator[Problem]:
    """Yield more vCPUs than the machine takes, and a CPU model that cannot be."""
    for key in ("max_vcpus", "vcpus"):
        count = spec.get(key)
        if offer.vcpus is not None and isinstance(count, int) and count > offer.vcpus:
            found = shown(count)
            yield Problem(f"{name}.{key}", f"at most the {offer.vcpus} of {offer.machine}", found)
            break
    cpu = _group(spec, "cpu")
    model = cpu.get("model")
    if model is None or not offer.models or cpu.get("mode") not in (None, "custom"):
        return
    if model not in offer.models:
        usable = tuple(sorted(one for one, can in offer.models.items() if can))
        yield unknown(f"{name}.cpu.model", model, "a model that this host can run", usable)
    elif not offer.models[model] and cpu.get("check") != "none":
        expected = "a model that this host can run"
        remedy = "state mode: host-model, or a smaller model"
        yield Problem(f"{name}.cpu.model", expected, f"{model}, whose features it lacks", remedy)

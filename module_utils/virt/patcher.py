# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A domain's own XML, changed where a spec differs from it and nowhere else."""

from __future__ import annotations

from typing import Any, Iterable, Mapping, NamedTuple, Sequence

from ..converge.action import NEXT_BOOT, Edit
from ..converge.secrets import concealed
from .devices import HOSTDEVS
from .disk import DISKS
from .document import Element, Fresh, insert, remove
from .domain import FIELDS, XML
from .fields import WHENS, Edits, patch_fields
from .identity import LOCAL, macs_for
from .nic import NICS
from .reader import domain, domain_tree, name_of

_BOOTED = (DISKS, NICS, HOSTDEVS)


class Patched(NamedTuple):
    """A domain's XML after patching, and what differed before."""

    xml: str
    changes: tuple[Edit, ...]


def nic_macs(
    nics: Sequence[Mapping[str, Any]], there: Sequence[Any], name: str, fleet: str
) -> list[str]:
    """Return the MAC that each stated NIC has or gets, ``there`` being what `NICS` found."""
    known = [
        nic.get("mac") or (entry.name if entry is not None else None)
        for nic, entry in zip(nics, NICS.pair(nics, there))
    ]
    return macs_for(name, known, fleet, {entry.name for entry in there if entry.name})


def with_macs(root: Element, stated: Mapping[str, Any], name: str, fleet: str) -> dict[str, Any]:
    """Return the spec with a MAC for each NIC that is new and states none."""
    nics = stated.get(NICS.key)
    if not nics:
        return dict(stated)
    there = NICS.found(root)
    pairs = NICS.pair(nics, there)
    whole = [
        {"mac": mac, **nic} if known is None and not nic.get("mac") else dict(nic)
        for nic, known, mac in zip(nics, pairs, nic_macs(nics, there, name, fleet))
    ]
    return {**stated, NICS.key: whole}


def _boot_orders(root: Element, stated: Mapping[str, Any], edits: Edits) -> None:
    """Keep one of the two ways to say what is booted: libvirt refuses both together."""
    os = root.find("os")
    kinds = [] if os is None else os.findall("boot")
    if os is None or not kinds:
        return
    ordered = [(items, entry) for items in _BOOTED for entry in items.found(root)]
    ordered = [(items, entry) for items, entry in ordered if "boot" in entry.values]
    if not ordered:
        return
    if stated.get("boot_devices"):
        for items, entry in ordered:
            path = f"{items.key}[{entry.name}].boot"
            edits.add(path, entry.values["boot"], None, NEXT_BOOT)
            boot = entry.element.find("boot")
            if boot is not None:
                remove(entry.element, boot)
        return
    edits.add("boot_devices", [kind.get("dev") for kind in kinds], None, NEXT_BOOT)
    for kind in kinds:
        remove(os, kind)


def _on_scsi(root: Element) -> set[str]:
    """Return the targets of the disks on a SCSI bus."""
    targets = root.findall("devices/disk/target")
    return {target.get("dev", "") for target in targets if target.get("bus") == "scsi"}


def _scsi_controller(root: Element) -> None:
    """Give SCSI disks the controller that guests are made for; libvirt's own choice is older."""
    devices = root.find("devices")
    if devices is not None and not devices.findall("controller[@type='scsi']"):
        attributes = {"type": "scsi", "index": "0", "model": "virtio-scsi"}
        insert(devices, Fresh("controller", attributes))


def patch_root(
    root: Element, stated: Mapping[str, Any], *, name: str, fleet: str = LOCAL
) -> list[Edit]:
    """Patch a domain's tree, and return what differed."""
    keys = {key: value for key, value in stated.items() if key != XML}
    edits = Edits(root, keys)
    before = _on_scsi(root)
    patch_fields(root, FIELDS, with_macs(root, keys, name, fleet), edits, "")
    if edits.found:
        _boot_orders(root, keys, edits)
        if _on_scsi(root) - before:
            _scsi_controller(root)
    if stated.get(XML):
        from .merge import merge  # compiled on the host, so only where there is a fragment

        if merge(root, stated[XML]):
            edits.add(XML, None, concealed(stated[XML]), NEXT_BOOT)
    return edits.found


def patch(xml: str, stated: Mapping[str, Any], *, fleet: str = LOCAL) -> Patched:
    """Return the XML with all that was stated, and the differences that there were.

    ``stated`` is what `check` returned. Where nothing differs, the text is the very same. XmlError
    where the XML is no domain, ValueError for keys that were not checked.
    """
    document = domain(xml)
    found = patch_root(document.root, stated, name=name_of(document.root), fleet=fleet)
    return Patched(document.text() if found else xml, tuple(found))


def differences(xml: str, stated: Mapping[str, Any], *, fleet: str = LOCAL) -> tuple[Edit, ...]:
    """Return what `patch` would change in XML that libvirt wrote."""
    root = domain_tree(xml)
    return tuple(patch_root(root, stated, name=name_of(root), fleet=fleet))


def when_of(changes: Iterable[Edit]) -> dict[str, tuple[Edit, ...]]:
    """Return the differences by when they can take effect: live, next_boot, replace."""
    found = tuple(changes)
    sorted_out = {when: tuple(edit for edit in found if edit.when == when) for when in WHENS}
    return {when: edits for when, edits in sorted_out.items() if edits}

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a volume of a pool lies, as the source of a guest's disk (libvirt: formatstorage.html)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...virt.document import tree

if TYPE_CHECKING:
    from ...virt.document import Element

_OVER_THE_NETWORK = ("rbd",)  # kinds of pools whose name is that of the protocol


def find(libvirt: Any, handle: Any, pool: str, name: str) -> dict[str, Any] | None:
    """Return the source of a disk on a volume; None where only libvirt can tell it, or none is.

    One that is encrypted is opened with the secret that the volume was made with.
    """
    try:
        there = handle.storagePoolLookupByName(pool)
        volume = there.storageVolLookupByName(name)
        kind, path = volume.info()[0], str(volume.path())
        if kind == libvirt.VIR_STORAGE_VOL_NETWORK:
            return over_the_network(tree(there.XMLDesc(0)), name)
        opened = tree(volume.XMLDesc(0)).find("target/encryption/secret")
    except libvirt.libvirtError:
        return None  # an earlier task may make it yet; preflight says what is missing
    keys = {libvirt.VIR_STORAGE_VOL_FILE: "file", libvirt.VIR_STORAGE_VOL_BLOCK: "block"}
    if kind not in keys or not path.startswith("/"):
        return None
    if opened is None:
        return {keys[kind]: path}
    return {keys[kind]: path, "encryption": _named(opened)}


def over_the_network(pool: Element, name: str) -> dict[str, Any] | None:
    """Return the source of a disk that QEMU itself reaches, as which libvirt opens no volume."""
    protocol, source = pool.get("type"), pool.find("source")
    if protocol not in _OVER_THE_NETWORK or source is None:
        return None
    network: dict[str, Any] = {
        "protocol": protocol,
        "name": f"{source.findtext('name')}/{name}",
        "hosts": [_host(host) for host in source.findall("host")],
    }
    auth = source.find("auth")
    secret = None if auth is None else auth.find("secret")
    if auth is not None and secret is not None:
        user = {"username": auth.get("username"), "type": auth.get("type")}
        network["auth"] = {**user, **_named(secret)}
    return {"network": network, "format": "raw"}


def _host(host: Element) -> dict[str, Any]:
    port = host.get("port")
    found: dict[str, Any] = {"name": host.get("name")}
    return found if port is None else {**found, "port": int(port)}


def _named(secret: Element) -> dict[str, str]:
    """Return how a secret is told: by UUID, by usage."""
    found = {"secret": secret.get("uuid"), "usage": secret.get("usage")}
    return {key: text for key, text in found.items() if text is not None}

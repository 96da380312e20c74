# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is stated of a guest's first boot (``cloud_init``, and ``ip`` of a NIC), checked.

The documents are cloud-init's own, which knows best what may stand in them:
https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html and, for ``ip``,
https://docs.cloud-init.io/en/latest/reference/network-config-format-v2.html.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Sequence

from ..converge.errors import Problem, shown, unknown

KEYS = (
    *("hostname", "user", "ssh_keys", "instance_id"),
    *("user_data", "vendor_data", "meta_data", "network_config", "bus"),
)
BUSES = ("virtio", "scsi", "sata", "ide", "usb")
# What cloud-init tells the kind of a document by, in letters of any case.
_BEGINNINGS = (
    *("#cloud-config", "#!", "#include", "#cloud-boothook", "#part-handler", "#upstart-job"),
    *("## template: jinja", "content-type:", "mime-version:", "from "),
)
_IP_KEYS = (
    *("addresses", "dhcp4", "dhcp6", "dhcp4-overrides", "dhcp6-overrides", "accept-ra"),
    *("gateway4", "gateway6", "nameservers", "routes", "routing-policy", "mtu", "optional"),
    *("link-local", "set-name", "wakeonlan"),
)
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_HOSTNAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9-]{1,63}(?<!-))*")
_SSH_KEY = re.compile(
    r"(?:[a-z-]+=?\S* )?(?:ssh-|ecdsa-|sk-)[A-Za-z0-9@.-]+ [A-Za-z0-9+/]+=*(?: .*)?"
)

Document = Any  # a mapping, or text


@dataclass(frozen=True)
class Declaration:
    """What was stated; ``ips`` has an entry for each stated NIC, None where no NICs were stated."""

    hostname: str | None = None
    user: str | None = None
    ssh_keys: tuple[str, ...] = ()
    instance_id: str | None = None
    user_data: Document = None
    vendor_data: Document = None
    meta_data: Mapping[str, Any] | None = None
    network_config: Mapping[str, Any] | None = None
    bus: str = BUSES[0]
    ips: tuple[Mapping[str, Any] | None, ...] | None = None


class _Reader:
    """Reads one guest's part; what may be secret is never shown in a problem."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems

    def refuse(self, path: str, expected: str, value: Any, remedy: str | None = None) -> None:
        self.problems.append(Problem(path, expected, shown(value), remedy))

    def word(self, path: str, value: Any, form: re.Pattern[str], expected: str) -> str | None:
        if value is None:
            return None
        if isinstance(value, str) and form.fullmatch(value):
            return value
        self.refuse(path, expected, value)
        return None

    def keys(self, path: str, value: Any) -> tuple[str, ...]:
        keys = [value] if isinstance(value, str) else value
        if keys is None:
            return ()
        if not isinstance(keys, list):
            expected, found = "a list of SSH public keys", type(value).__name__
            self.problems.append(Problem(path, expected, found))
            return ()
        for number, key in enumerate(keys):
            if not (isinstance(key, str) and _SSH_KEY.fullmatch(key.strip())):
                # Who states a private key by mistake does not want to see it in a log.
                found = "a private key" if "PRIVATE" in str(key) else "something else"
                expected = "an SSH public key in one line, as in authorized_keys"
                self.problems.append(Problem(f"{path}[{number}]", expected, found))
        return tuple(str(key).strip() for key in keys)

    def mapping(self, path: str, value: Any) -> Mapping[str, Any] | None:
        if value is None or (isinstance(value, Mapping) and all(isinstance(k, str) for k in value)):
            return value
        self.problems.append(Problem(path, "a mapping with names as keys", type(value).__name__))
        return None

    def document(self, path: str, value: Any) -> Any:
        """Return user-data or vendor-data: a mapping for cloud-config, or text of any kind."""
        if value is None:
            return None
        from . import cloud_config  # compiled on the host, so only where a document is stated

        if not isinstance(value, str):
            found = self.mapping(path, value)
            self.problems += cloud_config.problems(found or {}, path)
            return found
        if not value.lower().startswith(_BEGINNINGS):
            expected = "text that begins as cloud-init wants it (#cloud-config, #!/bin/sh, …)"
            remedy = "state cloud-config as a mapping"
            self.problems.append(Problem(path, expected, "text that does not", remedy))
        self.problems += cloud_config.problems_of_text(value, path)
        return value

    def network(self, path: str, value: Any) -> Any:
        value = self.mapping(path, value)
        if value is None:
            return None
        from . import network_config  # compiled on the host, as above

        where = path
        if set(value) == {"network"}:
            value, where = value["network"], f"{path}.network"
        if value is None:
            self.refuse(f"{path}.version", "2", None)
        inside = self.mapping(where, value)
        if inside is None:
            return None
        self.problems += network_config.problems(inside, where)
        return {"version": network_config.version(inside), **inside}

    def address(self, path: str, value: Any, read: Callable[[str], Any], expected: str) -> None:
        try:
            read(value if isinstance(value, str) else "")
        except ValueError:
            self.refuse(path, expected, value)

    def ip(self, path: str, value: Any) -> Mapping[str, Any] | None:
        """Return how a NIC gets its addresses: the keys of an ethernet in network-config v2."""
        import ipaddress  # compiled on the host, so only where an address is stated

        from . import network_config

        found = self.mapping(path, value)
        for key in found or {}:
            if key not in _IP_KEYS:
                self.problems.append(unknown(f"{path}.{key[:64]}", key, "a known key", _IP_KEYS))
        if not found:
            return found
        addresses = found.get("addresses") or []
        if not isinstance(addresses, list):
            self.refuse(f"{path}.addresses", "a list of addresses", addresses)
            addresses = []
        for number, address in enumerate(addresses):
            expected = "an address with its prefix, such as 192.0.2.10/24"
            where = f"{path}.addresses[{number}]"
            if isinstance(address, str) and "/" not in address:
                self.refuse(where, expected, address)
            else:
                self.address(where, address, ipaddress.ip_interface, expected)
        gateways = {"gateway4": ipaddress.IPv4Address, "gateway6": ipaddress.IPv6Address}
        for key, read in gateways.items():
            if key in found:
                self.address(f"{path}.{key}", found[key], read, f"an IPv{key[-1]} address")
        looked_at = ("addresses", *gateways)
        rest = {key: found[key] for key in _IP_KEYS if key in found and key not in looked_at}
        self.problems += network_config.ethernet(rest, path)
        return found


def read(
    value: Any, ips: Sequence[Any] | None, path: str, problems: list[Problem]
) -> Declaration | None:
    """Return what was stated of the guest at ``path``, its problems added to the list.

    ``value`` is that of ``cloud_init``, None for "no seed"; ``ips`` are the NICs' own, as stated.
    """
    reader = _Reader(problems)
    where = f"{path}.cloud_init"
    found = None
    if ips is not None:
        found = tuple(
            None if ip is None else reader.ip(f"{path}.nics[{number}].ip", ip)
            for number, ip in enumerate(ips)
        )
    if value is None:
        return None
    if not isinstance(value, Mapping):
        problems.append(Problem(where, "a mapping, {} for defaults alone", type(value).__name__))
        return None
    problems += [
        unknown(f"{where}.{str(key)[:64]}", key, "a known key", KEYS)
        for key in value
        if key not in KEYS
    ]
    bus = value.get("bus", BUSES[0])
    if bus not in BUSES:
        problems.append(unknown(f"{where}.bus", bus, "a bus", BUSES))
        bus = BUSES[0]
    instance = value.get("instance_id")
    if instance is not None and not (isinstance(instance, str) and instance.strip()):
        reader.refuse(f"{where}.instance_id", "text", instance, "quote it")
    label = "lower-case letters, digits and hyphens"
    declared = Declaration(
        hostname=reader.word(f"{where}.hostname", value.get("hostname"), _HOSTNAME, label),
        user=reader.word(f"{where}.user", value.get("user"), _USER, "a user's name"),
        ssh_keys=reader.keys(f"{where}.ssh_keys", value.get("ssh_keys")),
        instance_id=instance,
        user_data=reader.document(f"{where}.user_data", value.get("user_data")),
        vendor_data=reader.document(f"{where}.vendor_data", value.get("vendor_data")),
        meta_data=reader.mapping(f"{where}.meta_data", value.get("meta_data")),
        network_config=reader.network(f"{where}.network_config", value.get("network_config")),
        bus=bus,
        ips=found,
    )
    _contradictions(declared, where, problems)
    return declared


def _contradictions(declared: Declaration, where: str, problems: list[Problem]) -> None:
    """Add what is stated in two places."""
    if isinstance(declared.user_data, str) and (declared.user or declared.ssh_keys):
        key = "user" if declared.user else "ssh_keys"
        remedy = "state them in user_data too, or user_data as a mapping"
        problems.append(Problem(f"{where}.{key}", "none beside a user_data of text", "one", remedy))
    if declared.network_config is not None and any(declared.ips or ()):
        remedy = "state it in one place"
        expected = "none beside the ip of a NIC"
        problems.append(Problem(f"{where}.network_config", expected, "one", remedy))
    meta = declared.meta_data or {}
    for key, name in (("instance_id", "instance-id"), ("hostname", "local-hostname")):
        if getattr(declared, key) is not None and name in meta:
            expected = f"none beside {name} in meta_data"
            problems.append(Problem(f"{where}.{key}", expected, "one", "state it in one place"))

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documents of a seed: made from what was declared, compared, shown and written. Pure.

They are kept as values, by the keys under which they are declared: user_data, vendor_data and
meta_data, and network_config where the guest's own way to find its network will not do.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Iterator, Mapping, Sequence

from ..converge.secrets import HIDDEN

if TYPE_CHECKING:
    from .declaration import Declaration

Documents = Mapping[str, Any]

META, USER, VENDOR, NETWORK = "meta_data", "user_data", "vendor_data", "network_config"
FILES = {META: "meta-data", USER: "user-data", VENDOR: "vendor-data", NETWORK: "network-config"}
_CONFIG = (USER, VENDOR)  # in which anything may be a secret
_CHANGED = f"{HIDDEN} (others)"

# Keys of cloud-config whose values may be shown; everything else is named and hidden.
_OPEN = (
    *("hostname", "fqdn", "prefer_fqdn_over_hostname", "manage_etc_hosts", "preserve_hostname"),
    *("packages", "package_update", "package_upgrade", "package_reboot_if_required"),
    *("timezone", "locale", "keyboard", "ntp", "growpart", "resize_rootfs", "ssh_pwauth"),
    *("ssh_authorized_keys", "disable_root", "groups", "final_message", "merge_how"),
)
_OPEN_OF_A_USER = (
    *("name", "gecos", "groups", "primary_group", "sudo", "shell", "uid", "system", "homedir"),
    *("lock_passwd", "ssh_authorized_keys", "ssh_import_id"),
)
_SECRET = re.compile(
    r"passw|secret|token|private|credential|psk|(?<![a-z])key(?![a-z])", re.IGNORECASE
)
# All but YAML's printable characters, and those that it takes for ends of lines (YAML 1.2, 5.1 and
# YAML 1.1, 4.2); JSON may leave them as they are. Compiled only when it is asked for: a set of so
# many characters takes long.
_UNPRINTABLE = (
    "[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)


def _config(declared: Declaration) -> Any:
    """Return the user-data: what was stated, over the user and the keys that were."""
    if isinstance(declared.user_data, str):
        return declared.user_data
    made: dict[str, Any] = {}
    if declared.user:
        made["users"] = [
            {
                "name": declared.user,
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "shell": "/bin/bash",
                "lock_passwd": True,
                "ssh_authorized_keys": list(declared.ssh_keys),
            }
        ]
    elif declared.ssh_keys:
        made["ssh_authorized_keys"] = list(declared.ssh_keys)
    return {**made, **(declared.user_data or {})}


def _network(declared: Declaration, macs: Sequence[str] | None, former: Documents | None) -> Any:
    if declared.network_config is not None:
        return declared.network_config
    if declared.ips is None:  # what was not stated stays as it is
        return (former or {}).get(NETWORK)
    ethernets = {
        f"nic{number}": {"match": {"macaddress": mac}, **ip}
        for number, (ip, mac) in enumerate(zip(declared.ips, macs or ()))
        if ip is not None
    }
    return {"version": 2, "ethernets": ethernets} if ethernets else None


def documents(
    declared: Declaration,
    name: str,
    uuid: str,
    macs: Sequence[str] | None,
    former: Documents | None = None,
) -> dict[str, Any]:
    """Return the documents of a guest.

    ``macs`` has one for each NIC that was stated, ``former`` the documents that the guest has: its
    instance-id stays unless another one is stated, so that cloud-init does not take it for a new
    guest.
    """
    before = ((former or {}).get(META) or {}).get("instance-id")
    found: dict[str, Any] = {
        META: {
            "instance-id": declared.instance_id or before or uuid,
            "local-hostname": declared.hostname or name,
            **(declared.meta_data or {}),
        },
        USER: _config(declared),
    }
    if declared.vendor_data:
        found[VENDOR] = declared.vendor_data
    network = _network(declared, macs, former)
    if network is not None:
        found[NETWORK] = network
    return found


# --- as they may be shown


def may_be_shown(key: str) -> bool:
    """Return whether the value of a key of cloud-config may be shown."""
    return key in _OPEN


def _shown_user(user: Any) -> Any:
    if not isinstance(user, Mapping):
        return user if user == "default" else HIDDEN
    return {key: value if key in _OPEN_OF_A_USER else HIDDEN for key, value in user.items()}


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if _SECRET.search(str(key)) else _without_secrets(inside)
            for key, inside in value.items()
        }
    return [_without_secrets(inside) for inside in value] if isinstance(value, list) else value


def _shown(kind: str, key: str, value: Any) -> Any:
    """Return the value of a key of a document as it may be shown."""
    if kind not in _CONFIG:
        return HIDDEN if _SECRET.search(key) else _without_secrets(value)
    if key == "users" and isinstance(value, list):
        return [_shown_user(user) for user in value]
    return value if key in _OPEN else HIDDEN


def masked(seed: Documents) -> dict[str, Any]:
    """Return the documents without what may be secret in them."""
    return {
        kind: {key: _shown(kind, str(key), value) for key, value in document.items()}
        if isinstance(document, Mapping)
        else HIDDEN
        for kind, document in seed.items()
    }


def changes(former: Documents, wanted: Documents) -> Iterator[tuple[str, Any, Any]]:
    """Yield each key that differs, with its values before and after as they may be shown."""
    for kind in FILES:
        before, after = former.get(kind), wanted.get(kind)
        if before == after:
            continue
        parts = [
            part if isinstance(part, Mapping) else {"": part} if part is not None else {}
            for part in (before, after)
        ]
        for key in dict.fromkeys([*parts[0], *parts[1]]):
            if key in parts[0] and key in parts[1] and parts[0][key] == parts[1][key]:
                continue
            seen = [
                (_shown(kind, str(key), part[key]) if key else HIDDEN) if key in part else None
                for part in parts
            ]
            if seen[0] == seen[1]:  # the difference is in what is hidden
                seen = [HIDDEN, _CHANGED]
            yield f"cloud_init.{kind}.{key}" if key else f"cloud_init.{kind}", seen[0], seen[1]


# --- as cloud-init reads them


def _yaml(value: Any) -> str:
    """Return a value as YAML, which JSON is but for characters that must not stand there."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return re.sub(_UNPRINTABLE, lambda found: f"\\u{ord(found.group()):04x}", text) + "\n"


def files(seed: Documents) -> dict[str, str]:
    """Return the texts of the files of a seed, by name."""
    found = {}
    for kind, name in FILES.items():
        document = seed.get(kind)
        if isinstance(document, str):
            found[name] = document
        elif document is not None:
            head = "#cloud-config\n" if kind in _CONFIG else ""
            found[name] = head + _yaml(document)
    return found

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet's file for hosts and guests that are there already. Pure."""

from __future__ import annotations

import re
from typing import Any, Mapping

from ..guest.spec import DEFAULT_ENGINE
from ..kvm.layout import valid_name
from .schema import PLUGIN

# How a host is reached.
_CONNECTION = (
    *("ansible_host", "ansible_port", "ansible_user", "ansible_connection", "ansible_become"),
    *("ansible_ssh_", "ansible_control_path", "ansible_python_interpreter"),
)
_UNWRITTEN = re.compile("pass")  # of a password, however it is called
_NOT_DECLARED = ("name", "engine")


def is_connection(name: str) -> bool:
    """Return whether a host's variable says how it is reached. A password is never written."""
    return name.startswith(_CONNECTION) and not _UNWRITTEN.search(name)


def _guest(host: str, guest: Mapping[str, Any], *, adopted: bool) -> dict[str, Any]:
    spec = {k: v for k, v in (guest["spec"] or {}).items() if k not in _NOT_DECLARED}
    entry: dict[str, Any] = {"host": host}
    if guest["engine"] != DEFAULT_ENGINE:
        entry["engine"] = guest["engine"]
    if guest["state"] in ("stopped", "failed", "saved", "paused"):
        entry["state"] = "stopped" if guest["state"] == "failed" else guest["state"]
    if not guest["owned"] and not adopted:
        entry["adopt"] = True
    return {**entry, **spec}


def imported(
    fleet: str, hosts: Mapping[str, Mapping[str, Any]], *, adopted: bool
) -> tuple[dict[str, Any], list[str]]:
    """Return what a fleet's file says of hosts as they are, and what it does not say.

    ``hosts`` have the ``variables`` of their connections, and ``guests`` as kvm_guests_info shows
    them. Where guests were ``adopted`` in the same run, the file need not ask for it.
    """
    guests: dict[str, Any] = {}
    notes: list[str] = []
    for host, found in hosts.items():
        for guest in found["guests"]:
            name = str(guest["name"])
            if guest.get("problem") or guest["spec"] is None:
                notes.append(f"{name} on {host}: {guest.get('problem') or 'it has no definition'}")
            elif not valid_name(name):
                notes.append(f"{name} on {host}: its name is none that a fleet can have")
            elif name in guests:
                notes.append(f"{name} on {host}: {guests[name]['host']} has a guest of that name")
            elif guest["owned"] and guest["fleet"] != fleet:
                notes.append(f"{name} on {host}: it belongs to the fleet {guest['fleet']}")
            else:
                guests[name] = _guest(host, guest, adopted=adopted)
    declared = {name: dict(found["variables"]) or None for name, found in hosts.items()}
    return (
        {"plugin": PLUGIN, "fleet": fleet, "hypervisors": declared, "guests": guests},
        notes,
    )

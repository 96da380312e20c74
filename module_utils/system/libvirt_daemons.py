# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's daemons on a host: which there are, who may connect, what confines their guests.

A distribution runs either the one monolithic libvirtd or a daemon for each driver (virtqemud, …);
https://libvirt.org/daemons.html. systemd opens their sockets, so that it is the units that say who
may connect, and unix_sock_* in the configuration files counts for nothing.
"""

from __future__ import annotations

import grp
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Sequence

from ..host.source import at, text, word

if TYPE_CHECKING:
    from .operation import Runner

MONOLITHIC = "libvirtd"
LOG_DAEMONS = ("virtlogd", "virtlockd")  # they hold what guests need: executed anew, not restarted
DAEMONS = (
    MONOLITHIC,
    "virtqemud",
    "virtinterfaced",
    "virtnetworkd",
    "virtnodedevd",
    "virtnwfilterd",
    "virtproxyd",
    "virtsecretd",
    "virtstoraged",
)
APPARMOR, SELINUX = "apparmor", "selinux"
_PROPERTIES = ("Id", "ActiveState", "KillMode", "ExecMainStartTimestampMonotonic")


@dataclass(frozen=True)
class Service:
    """A daemon's service: whether it runs, whether a restart spares its children, since when.

    ``since`` is in seconds of CLOCK_MONOTONIC.
    """

    active: bool = False
    spares_guests: bool = True
    since: float = 0.0


@dataclass(frozen=True)
class Socket:
    """A socket's file as it is: permission bits, and the group's name."""

    mode: int
    group: str

    def __str__(self) -> str:
        return f"{self.mode:04o} {self.group}"


def _socket_name(daemon: str) -> str:
    # virtproxyd stands in for the monolithic daemon and has its address.
    return "libvirt-sock" if daemon in {MONOLITHIC, "virtproxyd"} else f"{daemon}-sock"


def socket_files(daemon: str) -> dict[str, str]:
    """Return the units of a daemon's sockets for users, and the files that they open."""
    path = f"/run/libvirt/{_socket_name(daemon)}"
    return {f"{daemon}.socket": path, f"{daemon}-ro.socket": f"{path}-ro"}


def read_socket(root: str, path: str) -> Socket | None:
    """Return a socket as it is, None where nobody listens."""
    try:
        found = os.lstat(at(root, path))
    except OSError:
        return None
    group = str(found.st_gid)
    with suppress(KeyError):
        group = grp.getgrgid(found.st_gid).gr_name
    return Socket(stat.S_IMODE(found.st_mode), group)


def parse_services(output: str) -> dict[str, Service]:
    """Return the services that ``systemctl show`` told about, by their daemons' names."""
    found = {}
    for block in output.split("\n\n"):
        values = dict(line.partition("=")[::2] for line in block.splitlines() if "=" in line)
        name = values.get("Id", "").partition(".")[0]
        since = values.get("ExecMainStartTimestampMonotonic", "")
        if name:
            found[name] = Service(
                active=values.get("ActiveState") in {"active", "activating", "reloading"},
                spares_guests=values.get("KillMode") == "process",
                since=int(since) / 1e6 if since.isdigit() else 0.0,
            )
    return found


def read_services(daemons: Sequence[str], run: Runner) -> dict[str, Service]:
    """Return the services of these daemons; without systemd there are none."""
    argv = ("systemctl", "show", f"--property={','.join(_PROPERTIES)}", "--")
    status, out, _ = run([*argv, *(f"{daemon}.service" for daemon in daemons)])
    return parse_services(out) if status == 0 else {}


def confines(root: str, driver: str, daemon: str) -> bool:
    """Return whether the driver confines guests of the daemon: loaded, and enforcing.

    libvirt's AppArmor driver works once the daemon itself is confined by a profile, under its own
    name or that of its program (src/security/security_apparmor.c).
    """
    if driver == SELINUX:
        return word(root, "/sys/fs/selinux/enforce") == "1"
    if word(root, "/sys/module/apparmor/parameters/enabled") != "Y":
        return False
    loaded = (text(root, "/sys/kernel/security/apparmor/profiles") or "").splitlines()
    return f"{daemon} (enforce)" in loaded or f"/usr/sbin/{daemon} (enforce)" in loaded

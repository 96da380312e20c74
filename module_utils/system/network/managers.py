# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which network manager a host has, and the files that matter to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Iterable, Sequence

from ...converge.errors import VirtfleetError
from ...host.source import exists, names, text
from . import ifupdown, networkd, networkmanager
from .backend import IFUPDOWN, NETWORKD, NETWORKMANAGER
from .ifupdown import Ifupdown
from .networkd import Networkd
from .networkmanager import NetworkManager
from .stanzas import claims

if TYPE_CHECKING:
    from ..operation import Runner
    from .backend import Backend
    from .observe import Live

AUTO = "auto"
_UNITS = {NETWORKMANAGER: "NetworkManager.service", NETWORKD: "systemd-networkd.service"}
_NETWORKD_FOLDERS = ("/usr/lib/systemd/network", networkd.RUNTIME, networkd.ETC)
# In an image nothing runs: what is enabled there says what will.
_ENABLED = "/etc/systemd/system/multi-user.target.wants"


def files(root: str) -> dict[str, str]:
    """Return the files that configure interfaces here, by path."""
    paths = [ifupdown.MAIN]
    for folder in (ifupdown.FOLDER, *_NETWORKD_FOLDERS):
        paths += [f"{folder}/{name}" for name in names(root, folder) or ()]
    # Profiles of others may hold secrets, and are none of our business.
    profiles = [
        n for n in names(root, networkmanager.ETC) or () if n.startswith(networkmanager.PREFIX)
    ]
    paths += [f"{networkmanager.ETC}/{name}" for name in profiles]
    found = {path: text(root, path) for path in dict.fromkeys(paths)}
    return {path: content for path, content in found.items() if content is not None}


def make(name: str, which: Callable[[str], str | None]) -> Backend:
    """Return the backend of that name."""
    if name == NETWORKD:
        return Networkd()
    if name == NETWORKMANAGER:
        return NetworkManager()
    client = next((c for c in ("dhclient", "dhcpcd") if which(c)), None)
    return Ifupdown(client)


def detect(root: str, run: Runner, live: Live | None, concerned: Iterable[str]) -> str:
    """Return the manager of the interfaces concerned; VirtfleetError where that is not clear."""
    found = files(root)
    mine = ours(found)
    if len(mine) == 1:
        return mine[0]
    if live is None:
        return _of_image(root)
    running = _running(run)
    claiming = {m for name in concerned for m in _claiming(root, found, running, live, name)}
    candidates = sorted(claiming) or [*running[:1]]
    if not candidates and (exists(root, ifupdown.MAIN) or exists(root, "/usr/sbin/ifup")):
        candidates = [IFUPDOWN]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise VirtfleetError(
            "no network manager found: expected ifupdown, systemd-networkd or NetworkManager",
            remedy="install one of them, or name the one that will be there with manager",
        )
    raise VirtfleetError(
        f"the interfaces are managed by {' and '.join(candidates)}",
        remedy="name the one that shall manage them with manager",
        managers=candidates,
    )


def ours(found: Iterable[str]) -> list[str]:
    """Return the managers that have files of ours."""
    prefixes = {
        IFUPDOWN: ifupdown.OURS,
        NETWORKD: f"{networkd.ETC}/{networkd.PREFIX}",
        NETWORKMANAGER: f"{networkmanager.ETC}/{networkmanager.PREFIX}",
    }
    paths = list(found)
    return [m for m, prefix in prefixes.items() if any(p.startswith(prefix) for p in paths)]


def _of_image(root: str) -> str:
    for name, unit in _UNITS.items():
        if unit in (names(root, _ENABLED) or ()):
            return name
    if exists(root, ifupdown.MAIN):
        return IFUPDOWN
    raise VirtfleetError(
        f"no network manager is enabled below {root}",
        remedy="name the one that shall be with manager",
    )


def _running(run: Runner) -> list[str]:
    """Return the daemons that run; where there is no systemd none is known to."""
    _, out, _ = run(("systemctl", "is-active", *_UNITS.values()))
    return [name for name, state in zip(_UNITS, out.split()) if state == "active"]


def _claiming(
    root: str, found: dict[str, str], running: Sequence[str], live: Live, name: str
) -> Iterable[str]:
    """Yield the managers that have this interface in their hands."""
    link = live.links.get(name)
    if link is None:
        return
    if NETWORKMANAGER in running:
        device = text(root, f"/run/NetworkManager/devices/{link.index}") or ""
        if "managed=true" in device and "connection-uuid=" in device:
            yield NETWORKMANAGER
    if NETWORKD in running:
        state = text(root, f"/run/systemd/netif/links/{link.index}") or ""
        if "NETWORK_FILE=" in state:
            yield NETWORKD
    stanza_files = [p for p in found if p.startswith("/etc/network/")]
    if any(claims(found[path], name) for path in stanza_files):
        yield IFUPDOWN


def resolver(root: str, manager: str) -> bool:
    """Return whether an interface's name servers get into resolv.conf here."""
    hooks = ("/etc/network/if-up.d/000resolvconf", "/usr/sbin/resolvconf", "/sbin/resolvconf")
    return manager != IFUPDOWN or any(exists(root, hook) for hook in hooks)

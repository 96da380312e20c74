# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a change leaves for people to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator, Sequence

from ...converge.action import Change, Pending

if TYPE_CHECKING:
    from .observe import Live
    from .part import Part
    from .spec import Interface

_RENEWED = {"kernel", "ra", "dhcp"}  # routes that come back by themselves


def name_servers(
    interfaces: Sequence[Interface], host: str, *, resolver: bool
) -> Iterator[Pending]:
    """Yield the interfaces whose name servers nobody hands on."""
    for interface in interfaces:
        if interface.dns and not resolver:
            yield Pending(
                object=f"interface/{interface.name}",
                kind="dns_not_applied",
                host=host,
                reason="ifupdown hands name servers to resolvconf, which is not installed",
                remedy="install resolvconf, or keep /etc/resolv.conf by other means",
            )


def routes(parts: Sequence[Part], live: Live, host: str) -> Iterator[Pending]:
    """Yield the routes that go with a port's addresses, and that nobody can state here."""
    for part in parts:
        ports = [change.path.split(".")[1] for change in part.changes if _is_flush(change)]
        lost = [
            f"{route['dst']} via {route['gateway']}"
            for port in ports
            for route in live.routes_of(port)
            if "gateway" in route
            and route["dst"] != "default"
            and route.get("protocol") not in _RENEWED
        ]
        if lost and part.action != "delete":
            yield Pending(
                object=f"interface/{part.name}",
                kind="routes_dropped",
                host=host,
                reason=f"the port loses its static routes: {', '.join(lost)}",
                remedy="add them to the bridge by your own means, or to the router",
            )


def _is_flush(change: Change) -> bool:
    return change.path.startswith("ports.") and change.path.endswith(".addresses")

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is ours on a host's network, and what was there before: ``/var/lib/virtfleet/network.json``.

It is written with the files of a change, and is what the way back is made of.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...converge.errors import VirtfleetError
from ...host.source import text
from .observe import Address
from .spec import Interface

if TYPE_CHECKING:
    from .observe import Live

PATH = "/var/lib/virtfleet/network.json"


@dataclass(frozen=True)
class Former:
    """What an interface was before it became ours; addresses that DHCP gave are left out."""

    mtu: int = 1500
    up: bool = True
    dhcp: bool = False
    addresses: tuple[Address, ...] = ()
    routes: tuple[Mapping[str, Any], ...] = ()

    @property
    def gateways(self) -> tuple[str, ...]:
        """The routers of its default routes."""
        default = [route for route in self.routes if route.get("dst") == "default"]
        return tuple(route["gateway"] for route in default if "gateway" in route)


@dataclass(frozen=True)
class Ledger:
    """Our interfaces as they were stated, in the order of their use, and the former state."""

    interfaces: tuple[Interface, ...] = ()
    former: Mapping[str, Former] = field(default_factory=dict)

    def get(self, name: str) -> Interface | None:
        """Return our interface of that name."""
        return next((i for i in self.interfaces if i.name == name), None)

    def content(self) -> str | None:
        """Return the file's text, None where there is nothing to say."""
        if not self.interfaces and not self.former:
            return None
        data = {
            "interfaces": [interface.to_dict() for interface in self.interfaces],
            "former": {name: asdict(former) for name, former in self.former.items()},
        }
        return json.dumps(data, indent=1, sort_keys=True) + "\n"

    def with_former(self, live: Live, names: Sequence[str]) -> Ledger:
        """Return the ledger with what these interfaces are now, where nothing was noted before."""
        new = {
            name: former_of(live, name)
            for name in names
            if name in live.links and name not in self.former
        }
        return replace(self, former={**self.former, **new})


def former_of(live: Live, name: str) -> Former:
    """Return what is worth keeping of an interface."""
    link = live.links[name]
    return Former(
        mtu=link.mtu,
        up=link.up,
        dhcp=any(address.dynamic and address.family == 4 for address in link.addresses),
        addresses=tuple(a for a in link.addresses if not a.dynamic and not a.generated),
        routes=tuple(
            route
            for route in live.routes_of(name)
            if route.get("protocol") not in {"kernel", "ra", "dhcp"}
        ),
    )


def _former(data: Mapping[str, Any]) -> Former:
    return Former(
        mtu=data["mtu"],
        up=data["up"],
        dhcp=data["dhcp"],
        addresses=tuple(Address(**address) for address in data["addresses"]),
        routes=tuple(data["routes"]),
    )


def parse(content: str | None) -> Ledger:
    """Return the ledger of a file's text; VirtfleetError where it cannot be read."""
    if content is None:
        return Ledger()
    try:
        data = json.loads(content)
        return Ledger(
            tuple(Interface.from_dict(entry) for entry in data["interfaces"]),
            {name: _former(entry) for name, entry in data["former"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise VirtfleetError(
            f"{PATH} cannot be read: {error}",
            remedy="move it away; the way back to the former network is then lost",
        ) from error


def read(root: str) -> Ledger:
    """Return the ledger of the host below ``root``."""
    return parse(text(root, PATH))

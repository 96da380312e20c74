# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is declared of iSCSI: the initiator's name, and the targets to be logged in to."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Mapping

from .facet import HIDDEN

if TYPE_CHECKING:
    from .facet import Checker

DATABASE = "/etc/iscsi"
AUTH = "node.session.auth."
_PORT = 3260
_IQN = re.compile(
    r"iqn\.[0-9]{4}-[0-9]{2}\.[a-z0-9.-]+(?::[a-z0-9.:_-]+)?|(?:eui|naa)\.[0-9A-Fa-f]+"
)
_CHAP_LENGTH = (12, 255)  # characters of a CHAP secret: RFC 7143, 12.1.3, asks for 96 bits


@dataclass(frozen=True)
class Node:
    """A target at a portal, and how one logs in there."""

    target: str
    address: str
    port: int
    chap: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def portal(self) -> str:
        """The portal as iscsiadm(8) takes it."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{address}:{self.port}"

    @property
    def argv(self) -> tuple[str, ...]:
        """The command that acts on this node."""
        node = ("--targetname", self.target, "--portal", self.portal)
        return ("iscsiadm", "--mode", "node", *node)

    @property
    def place(self) -> tuple[str, str, int]:
        """What tells the node from all others."""
        return self.target, self.address, self.port

    @property
    def settings(self) -> dict[str, str]:
        """What its record must say."""
        return {
            "node.name": self.target,
            "node.startup": "automatic",
            "iface.iscsi_ifacename": "default",
            "iface.transport_name": "tcp",
            "node.conn[0].address": self.address,
            "node.conn[0].port": str(self.port),
            **self.chap,
        }


@dataclass(frozen=True)
class Wish:
    """The initiator's name, None to leave the host's own; the nodes to be logged in to."""

    initiator: str | None = None
    nodes: tuple[Node, ...] = ()
    database: str = DATABASE
    service: str = "open-iscsi.service"
    timeout: int = 30  # seconds that a login may take


def _address(text: Any) -> str:
    """Return an IP address as the kernel writes it; a session is known by it, not by a name."""
    try:
        return ipaddress.ip_address(text).compressed
    except ValueError:
        raise ValueError("an IP address") from None


def _chap(item: Mapping[str, Any] | None, path: str, check: Checker) -> dict[str, str]:
    """Return what a record must say for the secrets of a portal."""
    if not item:
        return {}
    settings = {
        "authmethod": "CHAP",
        "username": check.secret(f"{path}.user", item["user"], (1, 255)),
        "password": check.secret(f"{path}.password", item["password"], _CHAP_LENGTH),
    }
    mutual = {"username_in": item.get("mutual_user"), "password_in": item.get("mutual_password")}
    if any(mutual.values()):
        settings["username_in"] = check.secret(
            f"{path}.mutual_user", mutual["username_in"], (1, 255)
        )
        settings["password_in"] = check.secret(
            f"{path}.mutual_password", mutual["password_in"], _CHAP_LENGTH
        )
        if settings["password_in"] == settings["password"]:
            check.say(f"{path}.mutual_password", "another secret than password (RFC 7143)", HIDDEN)
    return {AUTH + key: value for key, value in settings.items()}


def parse(item: Mapping[str, Any] | None, timeout: int, path: str, check: Checker) -> Wish:
    """Return what is declared of iSCSI; ``timeout`` is in seconds."""
    if not item:
        return Wish()
    iqn = "an iSCSI name: iqn.2026-01.org.example:name, eui. or naa."
    initiator = item.get("initiator_name")
    if initiator is not None:
        initiator = check.matches(f"{path}.initiator_name", initiator, _IQN, iqn)
    nodes = []
    for index, portal in enumerate(item.get("portals") or []):
        here = f"{path}.portals[{index}]"
        address = check.parsed(f"{here}.address", portal["address"], _address, "")
        port = _PORT if portal.get("port") is None else portal["port"]
        if not 0 < port < 65536:
            check.say(f"{here}.port", "a port from 1 to 65535", port)
        chap = _chap(portal.get("chap"), f"{here}.chap", check)
        if not portal["targets"]:
            check.say(f"{here}.targets", "at least one target", portal["targets"])
        for number, target in enumerate(portal["targets"]):
            name = check.matches(f"{here}.targets[{number}]", target, _IQN, iqn)
            nodes.append(Node(name, address, port, chap))
    check.unique(f"{path}.portals", [node.place for node in nodes])
    return Wish(
        initiator,
        tuple(nodes),
        check.absolute(f"{path}.database", item.get("database") or DATABASE),
        item.get("service") or Wish.service,
        timeout,
    )

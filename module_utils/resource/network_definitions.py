# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the definitions of virtual networks say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterator

from ..converge.errors import Problem
from ..virt import network, network_rules
from ..virt.fields import Edits, patch_fields
from ..virt.mark import Mark
from ..virt.marking import mark_of, put_mark
from .definitions import Definitions, Stated, present

if TYPE_CHECKING:
    from ..virt.document import Element


class NetworkDefinitions(Definitions):
    """The definitions of networks, which bear a mark."""

    word = "network"
    fields = network.FIELDS

    def contradictions(self, stated: Stated, path: str) -> Iterator[Problem]:
        """Yield what contradicts itself, whatever the host is."""
        return network_rules.contradictions(stated, path)

    def lacking(self, stated: Stated, path: str) -> Iterator[Problem]:
        """Yield what a new one cannot do without."""
        if stated.get("mode") is None:
            expected = f"how it leads out ({', '.join(network.MODES)})"
            yield Problem(f"{path}.mode", expected, "nothing")
        if stated.get("mode") in ("nat", "route") and not stated.get("ips"):
            yield Problem(f"{path}.ips", "an address of the network, as it leads out", "none")

    def write(self, name: str, fleet: str, stated: Stated) -> str:
        """Return the definition of a new network."""
        document = self._begun(name, fleet, stated)
        root, keys = document.root, present(stated)
        if keys["mode"] == "hostdev":
            keys.setdefault("managed", True)  # else no guest starts until the host let go of it
        patch_fields(root, self.fields, keys, Edits(root, keys), "")
        put_mark(root, Mark(fleet, name, kind=self.word))
        return document.text()

    def more(self, root: Element) -> dict[str, Any]:
        """Return the fleet that it is marked with and its bridge, None for neither."""
        mark, bridge = mark_of(root), root.find("bridge")
        return {
            "fleet": None if mark is None else mark.fleet,
            "bridge": None if bridge is None else bridge.get("name") or None,
        }

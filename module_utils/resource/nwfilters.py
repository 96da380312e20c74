# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network filters. They bear no mark: one of ours is told by its UUID, or by the host's ledger.

libvirt brings a change to the guests that run at once, and refuses to let go what one of them has.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping

from ..converge.errors import Problem, nearest, shown
from ..virt.identity import uuid_for
from .kind import Kind, Seen, Specs, Status

if TYPE_CHECKING:
    from ..virt.connection import Connection
    from .ledger import Ledger
    from .nwfilter_definitions import NwfilterDefinitions


_SWITCH = "/proc/sys/net/bridge/bridge-nf-call-{}tables"


def _is_on(path: str) -> bool:
    with suppress(OSError), open(path, encoding="ascii") as file:
        return file.read().strip() == "1"
    return False


class Nwfilters(Kind):
    """The network filters of one host; ``switched`` tells whether a setting of the kernel is on."""

    word = "nwfilter"
    plural = "nwfilters"
    flags = ("adopt", "replace")
    starts = False

    def __init__(
        self,
        connection: Connection,
        fleet: str,
        ledger: Ledger,
        *,
        local: bool = True,
        switched: Callable[[str], bool] = _is_on,
    ) -> None:
        super().__init__(connection, fleet, ledger)
        self.local = local
        self.switched = switched

    @property
    def definitions(self) -> NwfilterDefinitions:
        """What definitions say."""
        from .nwfilter_definitions import NwfilterDefinitions

        return NwfilterDefinitions()

    def clashes(
        self, stated: Specs, seen: Mapping[str, Seen], *, check_mode: bool
    ) -> Iterator[Problem]:
        """Yield filters that are referred to and are not there."""
        del check_mode
        known = {*stated, *seen}
        for name, keys in stated.items():
            for number, one in enumerate(keys.get("filters") or ()):
                if one["filter"] not in known:
                    guess = nearest(one["filter"], known)
                    remedy = f"did you mean {guess}?" if guess else "declare it too"
                    where = f"{name}/filters[{number}].filter"
                    yield Problem(where, "a filter of this host", shown(one["filter"]), remedy)

    def objects(self, flag: int = 0) -> list[Any]:
        """Return libvirt's filters, which have no flags."""
        del flag
        return list(self.connection.handle.listAllNWFilters())

    def look(self, one: Any, status: Status) -> Seen:
        """Return what a filter is now."""
        del status
        xml, name, uuid = one.XMLDesc(0), one.name(), one.UUIDString()
        fleet = self._fleet(name, uuid)
        return Seen(
            name,
            uuid,
            xml,
            owned=fleet is not None,
            fleet=fleet or "",
            new=self.is_new(name),
            spec=self.meaning(xml)["spec"],
        )

    def _fleet(self, name: str, uuid: str) -> str | None:
        # The toolkit's own come and go with guests: they are no fleet's to declare or to prune.
        if uuid == uuid_for(name, self.fleet, self.word):
            return self.fleet
        return self.ledger.fleet_of(self.word, uuid)

    def users(self, seen: Seen) -> list[str]:
        """Return the guests that have a NIC with it, and the filters that refer to it."""
        from ..virt import nwfilter
        from ..virt.document import tree

        handle = self.connection.handle
        found = []
        for domain in handle.listAllDomains():
            with self.connection.passing():
                if nwfilter.refers(tree(domain.XMLDesc(0)), seen.name):
                    found.append(str(domain.name()))
        for other in handle.listAllNWFilters():
            with self.connection.passing():
                if nwfilter.refers(tree(other.XMLDesc(0)), seen.name):
                    found.append(f"nwfilter/{other.name()}")
        return sorted(found)

    def lookup(self, name: str) -> Any:
        """Return libvirt's object."""
        return self.connection.handle.nwfilterLookupByName(name)

    def define(self, xml: str) -> Any:
        """Make the definition the persistent one, and return libvirt's object."""
        from ..virt import nwfilter

        return nwfilter.define(self.connection, xml)

    def adopt(self, seen: Seen) -> None:
        """Note that it is ours; nothing of it changes."""
        self.ledger.note(self.word, seen.uuid, self.fleet)

    def warnings(self, seen: Mapping[str, Seen]) -> list[str]:
        """Return the filters with rules that nothing on a bridge is held to.

        Rules of some protocols become those of iptables, which is not asked on bridges unless the
        kernel is told so (libvirt: nwfilter_ebiptables_driver.c).
        """
        from ..virt import nwfilter

        found = []
        for family, ending in (("ip", ""), ("ip6", "6")):
            switch = _SWITCH.format(family)
            names = [
                name for name, one in seen.items() if nwfilter.needs_iptables(one.spec, ending)
            ]
            if names and self.local and not self.switched(switch):
                what = ", ".join(f"nwfilter/{name}" for name in names)
                found.append(
                    f"{what}: not all rules hold on bridges, as {os.path.basename(switch)} is not"
                    " 1; state kvm_network_bridge_netfilter: true, or rules of ip and ipv6"
                )
        return found

    def gone(self, seen: Seen) -> None:
        """Let go of what was noted of it, and of what it alone referred to of the toolkit's own."""
        from ..virt import nwfilter

        super().gone(seen)
        self.ledger.note(self.word, seen.uuid, None)
        nwfilter.drop_standard(self.connection)

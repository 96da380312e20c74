# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the three network managers have in common: the files that say what comes at boot.

A backend differs in its files and in what its daemon must be told, and in nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Dict, Mapping, Optional, Sequence, Tuple

from ...converge.errors import VirtfleetError

if TYPE_CHECKING:
    from ..operation import Operation
    from .ledger import Former
    from .spec import Interface

IFUPDOWN, NETWORKD, NETWORKMANAGER = "ifupdown", "networkd", "networkmanager"
MANAGERS = (IFUPDOWN, NETWORKD, NETWORKMANAGER)
MARK = "# Made by virtfleet; what is changed here is overwritten.\n"
ANY = tuple(range(256))  # whatever the status: a way back goes on

File = Tuple[str, int]  # content, mode
Edits = Dict[str, Optional[str]]  # path → content, None to remove it
Files = Mapping[str, str]  # path → content, of files that there are


@dataclass(frozen=True)
class Foreign:
    """Files of somebody else that claim our interfaces.

    ``edits`` are what taking them over means (path → content, None to remove it), ``refused`` says
    of those that cannot be taken over why, by interface.
    """

    claims: Mapping[str, str] = field(default_factory=dict)  # interface → path
    edits: Edits = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Telling:
    """What a manager may have to be told about.

    ``files`` are ours; ``started`` get DHCP; ``touched`` were there before and are changed;
    ``leased`` are those of them that DHCP had configured; ``removed`` go, and ``returned`` get back
    what they had; ``grows`` says that it is not a removal alone.
    """

    files: Mapping[str, File] = field(default_factory=dict)
    started: tuple[str, ...] = ()
    touched: tuple[str, ...] = ()
    leased: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    returned: Mapping[str, Former] = field(default_factory=dict)
    grows: bool = True


class Backend:
    """One network manager; what a method does not do here is what nothing need be done for."""

    name: str

    def paths(self, found: Files) -> list[str]:
        """Return those of the files that are ours."""
        raise NotImplementedError

    def render(self, interfaces: Sequence[Interface]) -> dict[str, File]:
        """Return our files for all our interfaces, which come after what they use."""
        raise NotImplementedError

    def foreign(self, found: Files, names: Sequence[str], macs: Mapping[str, str]) -> Foreign:
        """Return what else claims these interfaces; ``macs`` are those of the host's links."""
        del found, names, macs
        return Foreign()

    def disown(self, found: Files, names: Sequence[str], *, last: bool) -> Edits:
        """Return the edits that give back what was taken over; ``last`` when nothing is left."""
        del found, names, last
        return {}

    def before(self, telling: Telling) -> list[Operation]:
        """Return what must be done before links and addresses are changed."""
        del telling
        return []

    def live(self, telling: Telling) -> list[Operation]:
        """Return what makes the manager take part until the next boot."""
        del telling
        return []

    def persist(self, telling: Telling) -> list[Operation]:
        """Return what must be done after the files were written."""
        del telling
        return []

    def forget(self, telling: Telling) -> list[Operation]:
        """Return what must be done when the files are what they were, and links are not yet."""
        del telling
        return []

    def resume(self, telling: Telling) -> list[Operation]:
        """Return what must be done when links are what they were, too."""
        del telling
        return []


def require_ours(path: str, content: str) -> None:
    """Raise VirtfleetError if somebody else wrote a file under a name of ours."""
    if not content.startswith(MARK):
        raise VirtfleetError(
            f"{path} is not virtfleet's: its first line says otherwise", remedy="move it away"
        )

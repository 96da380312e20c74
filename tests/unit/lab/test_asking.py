# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a guest is told that the emulator has lost; the answers were recorded in the lab."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from asking import lost_guests

GOOD = "CR3=0000000002a10000\nMax memory:     196608 KiB\n"
LOST = "CR3=0000000105f44000\nMax memory:     196608 KiB\n"


def host(**guests: str) -> Any:
    def run(command: str, **_: object) -> SimpleNamespace:
        names = [name for name in guests if f"qemu-monitor-command {name} " in command]
        return SimpleNamespace(stdout=guests[names[0]] if names else "\n".join(guests))

    return cast("Any", SimpleNamespace(name="kvm2", run=run))


def test_a_guest_with_page_tables_outside_of_its_memory_is_lost() -> None:
    (found,) = lost_guests(host(web=GOOD, db=LOST))
    assert found == "db of kvm2 (CR3=0000000105f44000, memory 196608 KiB)"


def test_nothing_is_said_of_what_does_not_answer() -> None:
    assert lost_guests(host()) == []
    assert lost_guests(host(arm="Max memory:     65536 KiB\n", away="")) == []

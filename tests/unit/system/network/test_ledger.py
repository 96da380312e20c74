# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is ours, and what was there before, survives its file."""

from __future__ import annotations

import pytest
from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.system.network.ledger import Former, Ledger, parse
from ansible.module_utils.system.network.observe import Address
from ansible.module_utils.system.network.spec import Interface


def test_there_and_back(made):
    live = made.live(
        made.link(
            "eth0",
            mtu=9000,
            addresses=["192.0.2.5/24", Address("192.0.2.9/24", True, 60, 50)],
        ),
        routes=[
            made.route("default", "eth0", "192.0.2.1", protocol="static"),
            made.route("192.0.2.0/24", "eth0", protocol="kernel"),
        ],
    )
    ledger = Ledger((Interface("br0", "bridge", ports=("eth0",)),)).with_former(live, ["eth0", "x"])
    assert ledger.former == {
        "eth0": Former(9000, True, True, (Address("192.0.2.5/24"),), (live.routes[0],))
    }
    assert parse(ledger.content()) == ledger
    later = made.live(made.link("eth0", addresses=[]))
    assert ledger.with_former(later, ["eth0"]) == ledger, "the first state is what is kept"
    assert ledger.get("br0") is ledger.interfaces[0]
    assert ledger.get("br1") is None


def test_nothing_is_no_file():
    assert Ledger().content() is None
    assert parse(None) == Ledger()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"interfaces": [1], "former": {}}', '{"former": 1']
)
def test_a_spoiled_file_is_an_error(content):
    with pytest.raises(VirtfleetError, match="cannot be read"):
        parse(content)

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names make identities: the same ones every time, valid ones, and different ones."""

from __future__ import annotations

import re
import uuid

from ansible.module_utils.virt.identity import mac_for, uuid_for


def test_a_uuid_follows_from_fleet_kind_and_name():
    assert uuid_for("web01") == str(uuid.uuid5(uuid.NAMESPACE_URL, "virtfleet:local/guest/web01"))
    assert uuid_for("web01", "prod", "pool") == "58e910a9-f4e5-5e87-846f-3ebad72936d4"
    assert uuid.UUID(uuid_for("web01")).version == 5
    assert len({uuid_for(name, fleet) for name in "abc" for fleet in "xyz"}) == 9


def test_a_mac_is_local_and_unicast():
    macs = {mac_for(f"guest{number}", nic) for number in range(200) for nic in range(3)}
    assert len(macs) == 600
    assert all(re.fullmatch("02(:[0-9a-f]{2}){5}", mac) for mac in macs)


def test_a_mac_is_the_same_every_time():
    assert mac_for("web01", 0) == mac_for("web01", 0) == "02:0a:2a:dc:87:86"
    assert mac_for("web01", 0, "prod") != mac_for("web01", 0)


def test_a_taken_mac_is_not_given_again():
    first = mac_for("web01", 0)
    second = mac_for("web01", 0, taken={first})
    assert second != first
    assert mac_for("web01", 0, taken={first, second}) not in {first, second}

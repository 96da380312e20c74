# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network filters: what is planned and done, and what is left alone.

SIMULATED. libvirt's test driver keeps no filters: what stands for it here keeps definitions as they
are given, and refuses what src/nwfilter/nwfilter_driver.c refuses. The lab proves the real one.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from ansible.module_utils.converge.errors import InputError
from ansible.module_utils.kvm.layout import Layout
from ansible.module_utils.resource.ledger import Ledger
from ansible.module_utils.resource.nwfilters import Nwfilters
from ansible.module_utils.resource.run import Wish, converge
from ansible.module_utils.virt.connection import Connection
from ansible.module_utils.virt.document import tree
from ansible.module_utils.virt.identity import uuid_for
from ansible.module_utils.virt.nwfilter import drop_standard, ensure_standard
from knife import KilledError, Knife

RULE = {"action": "drop", "direction": "in", "all": {}}
WEB = {"name": "web", "rules": [RULE]}


class SimulatedError(Exception):
    def get_error_code(self):
        return 1


class SimulatedLibvirt:
    libvirtError = SimulatedError  # noqa: N815
    VIR_NWFILTER_DEFINE_VALIDATE = 1


class SimulatedFilter:
    def __init__(self, host, xml):
        self.host, self.xml = host, xml

    def name(self):
        return tree(self.xml).get("name")

    def UUIDString(self):  # noqa: N802
        return tree(self.xml).find("uuid").text

    def XMLDesc(self, _flags):  # noqa: N802
        return self.xml

    def undefine(self):
        del self.host.filters[self.name()]


class SimulatedDomain:
    def __init__(self, name, reference):
        self.called, self.reference = name, reference

    def name(self):
        return self.called

    def XMLDesc(self, _flags):  # noqa: N802
        nic = f"<interface><filterref filter='{self.reference}'/></interface>"
        return f"<domain><devices>{nic}</devices></domain>"


class SimulatedHost:
    """A connection and a host in one."""

    def __init__(self, root):
        self.libvirt, self.handle = SimulatedLibvirt, self
        self.filters, self.domains = {}, []
        self.on = {f"/proc/sys/net/bridge/bridge-nf-call-{one}tables" for one in ("ip", "ip6")}
        self.layout = Layout(str(root))

    def listAllNWFilters(self):  # noqa: N802
        return list(self.filters.values())

    def listAllDomains(self):  # noqa: N802
        return self.domains

    def nwfilterLookupByName(self, name):  # noqa: N802
        return self.filters[name]

    def nwfilterDefineXMLFlags(self, xml, _flags):  # noqa: N802
        made = SimulatedFilter(self, xml)
        former = self.filters.get(made.name())
        if former is not None and former.UUIDString() != made.UUIDString():
            raise SimulatedError("it is there with another UUID")
        self.filters[made.name()] = made
        return made

    def passing(self):
        return nullcontext()

    def is_lost(self):
        return False

    each = Connection.each
    _attempt = Connection._attempt

    def run(self, *entries, check_mode=False, fleet="local", prune=False):
        kind = Nwfilters(self, fleet, Ledger(self.layout), switched=self.on.__contains__)
        wish = Wish(entries, "kvm1", fleet=fleet, prune=prune)
        return converge(kind, self.layout, wish, check_mode=check_mode)


@pytest.fixture
def host(tmp_path):
    return SimulatedHost(tmp_path)


def done(outcome):
    return [(a["object"], a["action"], a["when"]) for a in outcome["actions"]]


def test_a_filter_is_made_once_changed_and_removed(host):
    planned = host.run(WEB, check_mode=True)
    assert host.filters == {}
    made = host.run(WEB)
    assert done(planned) == done(made) == [("nwfilter/web", "create", "now")]
    assert "autostart" not in str(made)
    assert made["nwfilters"][0]["uuid"] == uuid_for("web", kind="nwfilter")
    assert made["nwfilters"][0]["owned"] is True
    assert host.run(WEB)["changed"] is False
    other = {**WEB, "rules": [RULE, {**RULE, "direction": "out"}]}
    assert done(host.run(other, check_mode=True)) == [("nwfilter/web", "update", "now")]
    assert done(host.run(other)) == [("nwfilter/web", "update", "now")]
    assert host.run(other)["changed"] is False
    assert done(host.run({"name": "web", "state": "absent"})) == [("nwfilter/web", "delete", "now")]
    assert host.filters == {}
    assert host.run({"name": "web", "state": "absent"})["changed"] is False


def test_what_a_guest_or_a_filter_has_is_not_removed(host):
    host.run(WEB, {"name": "more", "filters": [{"filter": "web"}]})
    host.domains.append(SimulatedDomain("shop", "more"))
    outcome = host.run({"name": "web", "state": "absent"}, {"name": "more", "state": "absent"})
    assert outcome["changed"] is False
    reasons = [item["reason"] for item in outcome["blocked"]]
    assert "nwfilter/more" in reasons[0]
    assert "shop" in reasons[1]
    assert host.run(prune=True)["blocked"]
    assert set(host.filters) == {"web", "more"}


def test_others_are_left_alone_unless_they_are_taken_over(host):
    uuid = "0b3f0f6c-9a55-4c34-8a62-0d9bb3e4a111"
    xml = f"<filter name='web' chain='root'><uuid>{uuid}</uuid></filter>"
    host.nwfilterDefineXMLFlags(xml, 0)
    assert host.run(WEB)["blocked"][0]["reason"].startswith("it was not made by this toolkit")
    assert host.run(prune=True)["changed"] is False
    taken = host.run({**WEB, "adopt": True})
    assert done(taken) == [("nwfilter/web", "adopt", "now"), ("nwfilter/web", "update", "now")]
    assert taken["nwfilters"][0]["uuid"].startswith("0b3f")
    assert host.run(WEB)["changed"] is False
    assert done(host.run(prune=True)) == [("nwfilter/web", "delete", "now")]
    assert Ledger(host.layout).fleet_of("nwfilter", taken["nwfilters"][0]["uuid"]) is None


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": "web"}, "rules: expected rules, or filters to refer to"),
        ({**WEB, "state": "active"}, "state: expected a state"),
        ({**WEB, "autostart": True}, "autostart"),
        ({"name": "a b", "rules": [RULE]}, "name: expected a name"),
        ({**WEB, "filters": [{"filter": "wbe"}]}, "did you mean web?"),
    ],
)
def test_bad_input_is_told_before_anything_is_touched(host, entry, words):
    with pytest.raises(InputError, match=words.replace("?", r"\?")):
        host.run(entry)
    assert host.filters == {}


@pytest.mark.parametrize(
    ("protocol", "warned"),
    [
        ("ip", None),
        ("ipv6", None),
        ("tcp", "iptables"),
        ("tcp-ipv6", "ip6tables"),
        ("icmpv6", "ip6"),
    ],
)
def test_rules_that_hold_nothing_on_bridges_are_a_warning(host, protocol, warned):
    rule = {"action": "drop", "direction": "in", protocol: {}}
    entry = {"name": "web", "rules": [rule]}
    assert host.run(entry)["warnings"] == []
    host.on.clear()
    found = host.run(entry)["warnings"]
    assert len(found) == bool(warned)
    assert not warned or f"bridge-nf-call-{warned}" in found[0]


def test_a_run_that_is_killed_is_completed_by_the_next(tmp_path, monkeypatch):
    calls = [(SimulatedHost, "nwfilterDefineXMLFlags"), (SimulatedFilter, "undefine")]
    knife = Knife(monkeypatch, [*calls, (Ledger, "note")])
    before = (WEB, {"name": "old", "rules": [RULE]})
    after = (
        {**WEB, "rules": [RULE, RULE]},
        {"name": "more", "filters": [{"filter": "web"}]},
        {"name": "old", "state": "absent"},
    )

    def made(number):
        host = SimulatedHost(tmp_path / str(number))
        knife.left = None
        host.run(*before)
        knife.count = 0
        return host

    whole = made("whole")
    whole.run(*after)
    count, wanted = knife.count, {name: one.xml for name, one in whole.filters.items()}
    assert set(wanted) == {"web", "more"}
    for moment in range(count):
        host = made(moment)
        knife.left = moment
        with pytest.raises(KilledError):
            host.run(*after)
        knife.left = None
        host.run(*after)
        assert {name: one.xml for name, one in host.filters.items()} == wanted, moment
        assert host.run(*after)["changed"] is False


def test_the_toolkits_own_filters_come_and_go_with_guests(host):
    ensure_standard(host, ["virtfleet-antispoof", "clean-traffic", None])
    assert list(host.filters) == ["virtfleet-antispoof"]
    before = host.filters["virtfleet-antispoof"]
    ensure_standard(host, ["virtfleet-antispoof"])
    assert host.filters["virtfleet-antispoof"] is before
    host.domains.append(SimulatedDomain("shop", "virtfleet-antispoof"))
    drop_standard(host)
    assert list(host.filters) == ["virtfleet-antispoof"]
    pruned = host.run(prune=True)
    assert (pruned["changed"], pruned["blocked"]) == (False, [])
    host.domains.clear()
    host.run({"name": "web", "filters": [{"filter": "virtfleet-antispoof"}]})
    drop_standard(host)
    assert set(host.filters) == {"virtfleet-antispoof", "web"}
    host.run({"name": "web", "state": "absent"})
    assert host.filters == {}

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets: what may be stated, what is planned, and what is done whenever a run is killed.

SIMULATED. libvirt's test driver keeps no secrets: what stands for it here answers as its secret
driver does (src/secret/secret_driver.c). The lab proves the real one.
"""

from __future__ import annotations

import json
import os
import uuid
from contextlib import nullcontext

import pytest
from ansible.module_utils.converge.errors import InputError
from ansible.module_utils.converge.lock import BusyError, exclusive, holder
from ansible.module_utils.kvm.layout import Layout, make_folder
from ansible.module_utils.resource.ledger import Ledger
from ansible.module_utils.resource.secrets import Secrets, converge
from ansible.module_utils.virt.connection import Connection
from ansible.module_utils.virt.document import tree
from knife import KilledError, Knife

WORD = "a word that nobody may see"


class SimulatedError(Exception):
    def __init__(self, code):
        super().__init__(f"error {code}")
        self.code = code

    def get_error_code(self):
        return self.code


class SimulatedLibvirt:
    libvirtError = SimulatedError  # noqa: N815
    VIR_ERR_NO_SECRET = 66
    VIR_ERR_INVALID_SECRET = 65
    VIR_DOMAIN_XML_INACTIVE = 2


class SimulatedSecret:
    def __init__(self, host, xml):
        self.host, self.xml, self.kept = host, xml, None

    def UUIDString(self):  # noqa: N802
        return tree(self.xml).find("uuid").text

    def XMLDesc(self, _flags):  # noqa: N802
        return self.xml

    def value(self):
        if tree(self.xml).get("private") == "yes":
            raise SimulatedError(SimulatedLibvirt.VIR_ERR_INVALID_SECRET)
        if self.kept is None:
            raise SimulatedError(SimulatedLibvirt.VIR_ERR_NO_SECRET)
        return self.kept

    def setValue(self, value, _flags):  # noqa: N802
        self.kept = value

    def undefine(self):
        del self.host.secrets[self.UUIDString()]


class SimulatedThing:
    def __init__(self, name, xml):
        self.called, self.xml = name, xml

    def name(self):
        return self.called

    def XMLDesc(self, _flags):  # noqa: N802
        return self.xml


class SimulatedHost:
    """A connection and a host in one."""

    def __init__(self, root):
        self.libvirt, self.handle = SimulatedLibvirt, self
        self.secrets, self.domains = {}, []
        self.layout = Layout(str(root))

    def listAllSecrets(self):  # noqa: N802
        return list(self.secrets.values())

    def listAllDomains(self):  # noqa: N802
        return self.domains

    def listAllStoragePools(self):  # noqa: N802
        return []

    def secretDefineXML(self, xml, _flags):  # noqa: N802
        secret = SimulatedSecret(self, xml)
        former = self.secrets.get(secret.UUIDString())
        if former is not None:
            if tree(former.xml).get("private") == "yes" and tree(xml).get("private") != "yes":
                raise SimulatedError(38)
            secret.kept = former.kept
        self.secrets[secret.UUIDString()] = secret
        return secret

    def secretLookupByUUIDString(self, text):  # noqa: N802
        return self.secrets[text]

    def passing(self):
        return nullcontext()

    def is_lost(self):
        return False

    each = Connection.each
    _attempt = Connection._attempt

    def run(self, *entries, check_mode=False, fleet="local"):
        found = Secrets(self, fleet, Ledger(self.layout))
        return converge(found, self.layout, list(entries), "kvm1", check_mode=check_mode)

    def kept(self):
        return {
            (tree(one.xml).find("usage").get("type"), tree(one.xml).get("private")): one.kept
            for one in self.secrets.values()
        }


@pytest.fixture
def host(tmp_path):
    return SimulatedHost(tmp_path)


def ceph(**more):
    return {"type": "ceph", "name": "client.libvirt secret", "value": WORD, **more}


def verbs(result):
    return [f"{a['action']} {a['object']}" for a in result["actions"]]


def paths(result):
    return [c["path"] for a in result["actions"] for c in a["changes"]]


def test_a_secret_is_made_and_a_second_run_changes_nothing(host):
    planned = host.run(ceph(), check_mode=True)
    assert host.secrets == {}
    done = host.run(ceph(description="for guests"))
    assert verbs(planned) == verbs(done) == ["create secret/ceph/client.libvirt secret"]
    assert host.kept() == {("ceph", "no"): WORD.encode()}
    assert host.run(ceph(description="for guests"))["changed"] is False
    assert host.run(ceph())["changed"] is False
    (told,) = done["secrets"]
    assert (told["owned"], told["has_value"], told["description"]) == (True, True, "for guests")


def test_a_second_run_at_once_is_refused_if_it_has_something_to_do(host):
    make_folder(host.layout.state)
    lock = os.path.join(host.layout.state, "lock")
    with exclusive(lock, holder("another")):
        with pytest.raises(BusyError, match=r"another run is changing this host \(run another"):
            host.run(ceph())
        assert host.secrets == {}
    host.run(ceph())
    with exclusive(lock, holder("another")):
        assert host.run(ceph())["changed"] is False
        for other in (ceph(value="other"), ceph(state="absent")):
            with pytest.raises(BusyError):
                host.run(other)
    assert host.kept() == {("ceph", "no"): WORD.encode()}


def test_no_value_is_told(host):
    results = [
        host.run(ceph(), check_mode=True),
        host.run(ceph()),
        host.run(ceph(value="another word that nobody may see")),
        host.run(ceph(state="absent")),
    ]
    assert all(result["changed"] for result in results)
    assert "nobody may see" not in json.dumps(results)


def test_another_value_is_a_difference_and_a_missing_one_too(host):
    host.run(ceph())
    assert paths(host.run(ceph(value="other"))) == ["value"]
    (secret,) = host.secrets.values()
    assert secret.kept == b"other"
    secret.kept = None  # as of an ephemeral one, when libvirt was started anew
    assert paths(host.run(ceph())) == ["value"]
    assert host.kept() == {("ceph", "no"): WORD.encode()}


def test_a_private_one_is_set_when_it_is_made_and_when_that_is_asked_for(host):
    host.run(ceph(private=True))
    assert host.kept() == {("ceph", "yes"): WORD.encode()}
    assert host.run(ceph(private=True, value="other"))["changed"] is False
    done = host.run(ceph(private=True, value="other", renew=True))
    assert paths(done) == ["value"]
    assert host.kept() == {("ceph", "yes"): b"other"}
    (blocked,) = host.run(ceph(private=False))["blocked"]
    assert "libvirt takes from no secret again" in blocked["reason"]


def test_one_becomes_private_with_its_value(host):
    host.run(ceph())
    assert paths(host.run(ceph(private=True))) == ["private"]
    assert host.kept() == {("ceph", "yes"): WORD.encode()}


def test_base64_is_what_it_stands_for(host):
    host.run({"type": "iscsi", "name": "array", "value_base64": "AP8="})
    assert host.kept() == {("iscsi", "no"): b"\x00\xff"}


def stranger(host):
    xml = "<secret ephemeral='no' private='no'><uuid>{}</uuid><usage type='ceph'>"
    xml += "<name>client.libvirt secret</name></usage></secret>"
    return host.secretDefineXML(xml.format(uuid.uuid4()), 0)


def test_what_is_not_ours_is_left_alone_until_it_is_taken_over(host):
    stranger(host)
    for entry in (ceph(), ceph(state="absent")):
        (blocked,) = host.run(entry)["blocked"]
        assert "not made by this toolkit" in blocked["reason"]
    assert verbs(host.run(ceph(adopt=True)))[0] == "adopt secret/ceph/client.libvirt secret"
    assert host.run(ceph())["changed"] is False
    (blocked,) = host.run(ceph(), fleet="other")["blocked"]
    assert "belongs to the fleet 'local'" in blocked["reason"]
    assert verbs(host.run(ceph(state="absent"))) == ["delete secret/ceph/client.libvirt secret"]
    assert host.secrets == {}


@pytest.mark.parametrize("by", ["uuid", "usage"])
def test_one_that_is_needed_stays(host, by):
    host.run(ceph())
    (key,) = host.secrets
    value = key if by == "uuid" else "client.libvirt secret"
    xml = f"<domain><devices><disk><auth><secret type='ceph' {by}='{value}'/></auth></disk>"
    host.domains = [SimulatedThing("web", xml + "</devices></domain>")]
    (blocked,) = host.run(ceph(state="absent"))["blocked"]
    assert "needed by guest/web" in blocked["reason"]
    host.domains = []
    assert host.run(ceph(state="absent"))["changed"] is True
    assert host.run(ceph(state="absent"))["changed"] is False


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("x", "secrets[0]: expected a mapping that describes a secret, found another"),
        (ceph(type="cephx"), "secrets[0].type: expected a kind of secret"),
        (ceph(name=7), "secrets[0].name: expected text in one line, found 7: quote it"),
        (ceph(value=1234), "secrets[0].value: expected text, 1 to 65536 bytes of it"),
        (ceph(value=""), "secrets[0].value: expected text, 1 to 65536"),
        (
            ceph(value="x" * 65537),
            "secrets[0].value: expected text, 1 to 65536 bytes of it, found 6",
        ),
        (ceph(value=None, value_base64="%"), "secrets[0].value_base64: expected base64"),
        (ceph(value_base64="AA=="), "secrets[0].value_base64: expected none beside value"),
        (ceph(usage="x"), "secrets[0].usage: expected a known key"),
        (ceph(private="yes"), "secrets[0].private: expected true or false"),
        (ceph(state="active"), "secrets[0].state: expected a state"),
        ({"type": "volume", "name": "web"}, "secrets[0].name: expected the path of the volume"),
    ],
)
def test_what_is_wrong_is_told_without_values(host, entry, message):
    with pytest.raises(InputError) as raised:
        host.run(entry)
    assert message in str(raised.value)
    assert WORD not in str(raised.value)
    assert "1234" not in str(raised.value)


def test_no_secret_is_declared_twice(host):
    with pytest.raises(InputError, match=r"secrets\[1\].name: expected a secret of its own"):
        host.run(ceph(), ceph())


def test_whenever_a_run_is_killed_the_next_one_completes_it(host, monkeypatch):
    calls = [
        (SimulatedHost, "secretDefineXML"),
        (SimulatedSecret, "setValue"),
        (SimulatedSecret, "undefine"),
        (Ledger, "note"),
    ]
    knife = Knife(monkeypatch, calls)
    iscsi = {"type": "iscsi", "name": "array", "value": "chap"}
    before = [ceph(), {"type": "tls", "name": "old", "value": "x"}]
    after = [
        ceph(value="other", private=True),
        {**iscsi, "private": True},
        {"type": "tls", "name": "old", "state": "absent"},
    ]
    host.run(*before)
    knife.count = 0
    host.run(*after)
    count, wanted = knife.count, host.kept()
    assert wanted == {("ceph", "yes"): b"other", ("iscsi", "yes"): b"chap"}
    for moment in range(count):
        knife.left = None
        host.secrets.clear()
        host.run(*before)
        knife.left = moment
        with pytest.raises(KilledError):
            host.run(*after)
        knife.left = None
        host.run(*after)
        assert host.kept() == wanted, moment
        assert host.run(*after)["changed"] is False, moment

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""definition.json: made from a spec, read back, and nothing else taken for one."""

from __future__ import annotations

import json
import uuid

import pytest
from ansible.module_utils.guest.ioctl.definition import (
    DefinitionError,
    boot_keys,
    choose_uid,
    decode,
    derive_uuid,
    encode,
    make,
)
from ansible.module_utils.guest.ioctl.dialect import complete
from ansible.module_utils.guest.spec import digest
from ansible.module_utils.kvm.layout import FIRST_UID

SPEC = complete(
    {
        "name": "web01",
        "engine": "ioctl",
        "kernel": "host",
        "memory": "2GiB",
        "log": {"max_size": "64KiB"},
    }
)
MACHINE = {**SPEC, "kernel": "/boot/vmlinuz-6"}
MADE = make(SPEC, MACHINE, "local", "an id", FIRST_UID + 5)


def test_it_has_the_agreed_shape():
    assert {
        "schema": 1,
        "name": "web01",
        "fleet": "local",
        "uuid": "an id",
        "digest": digest(SPEC),
        "spec": SPEC,
        "files": {},
        "machine": {
            "kernel": "/boot/vmlinuz-6",
            "initrd": None,
            "cmdline": "",
            "memory": 2 << 30,
            "vcpus": 1,
            "uid": FIRST_UID + 5,
            "log_max_size": 65536,
            "log_keep": 3,
            "on_reboot": "stop",
            "stop_timeout": 30.0,
        },
    } == MADE


def test_it_comes_back():
    assert decode(encode(MADE), "web01") == MADE
    assert {key: value for key, value in boot_keys(MADE).items() if value} == {
        "memory": "2GiB",
        "vcpus": 1,
        "kernel": "/boot/vmlinuz-6",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 1"),
        ({"name": "other"}, "another guest"),
        ({"spec": []}, "no spec"),
        ({"machine": None}, "no spec or no machine"),
        ({"machine": {**MADE["machine"], "uid": "0"}}, "wrong: uid"),
        ({"machine": {**MADE["machine"], "vcpus": True}}, "wrong: vcpus"),
        ({"machine": {**MADE["machine"], "initrd": 5, "memory": None}}, "wrong: initrd, memory"),
        ({"digest": None}, "wrong: digest"),
        ({"digest": "0" * 64}, "wrong: digest"),
        ({"fleet": 1}, "wrong: fleet"),
        ({"spec": {**SPEC, "vcpus": 2}}, "wrong: digest"),
    ],
)
def test_what_was_changed_by_hand_is_not_believed(change, message):
    with pytest.raises(DefinitionError, match=message):
        decode(json.dumps({**MADE, **change}).encode(), "web01")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b'"text"', b"{}"])
def test_what_is_no_definition_is_refused(content):
    with pytest.raises(DefinitionError):
        decode(content, "web01")


def test_a_cut_file_is_never_taken_for_a_definition():
    content = encode(MADE)
    for length in range(len(content) - 1):
        with pytest.raises(DefinitionError):
            decode(content[:length], "web01")


def test_the_user_is_derived_and_free():
    uid = choose_uid("web01", ())
    assert uid == choose_uid("web01", ())
    assert uid >> 28 == 7
    assert uid != choose_uid("web02", ())
    assert choose_uid("web01", {uid, uid + 1}) == uid + 2


def test_the_range_of_users_has_no_end(monkeypatch):
    top = FIRST_UID | 0x07FFFFFF
    name = next(n for n in (f"g{i}" for i in range(10**6)) if choose_uid(n, ()) > top - 2000)
    taken = range(choose_uid(name, ()), top + 1)
    assert choose_uid(name, taken) == FIRST_UID


def test_the_identity_is_the_documented_one():
    expected = uuid.uuid5(uuid.NAMESPACE_URL, "virtfleet:local/guest/web01")
    assert derive_uuid("local", "web01") == str(expected)
    assert derive_uuid("other", "web01") != str(expected)

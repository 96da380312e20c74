# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documents of a seed: what they say, what differs, what is shown, and how they are written."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils.seed.declaration import read
from ansible.module_utils.seed.documents import changes, documents, files, masked

UUID = "2d1f6c5e-0000-5000-8000-000000000001"
MACS = ["02:00:00:00:00:01", "02:00:00:00:00:02"]


def made(value, ips=None, former=None):
    problems = []
    declared = read(value, ips, "guests[0]", problems)
    assert problems == []
    return documents(declared, "web1", UUID, MACS if ips else None, former)


def test_a_guest_gets_its_name_by_default():
    assert made({}) == {
        "meta_data": {"instance-id": UUID, "local-hostname": "web1"},
        "user_data": {},
    }
    assert files(made({}))["user-data"] == "#cloud-config\n{}\n"


def test_a_user_with_keys_can_become_root_and_has_no_password():
    (user,) = made({"user": "ops", "ssh_keys": ["ssh-rsa AAAA"]})["user_data"]["users"]
    assert user["ssh_authorized_keys"] == ["ssh-rsa AAAA"]
    assert user["lock_passwd"] is True
    assert "NOPASSWD" in user["sudo"]


def test_keys_alone_go_to_the_users_of_the_image():
    seed = made({"ssh_keys": ["ssh-rsa AAAA"], "user_data": {"packages": ["nginx"]}})
    assert seed["user_data"] == {"ssh_authorized_keys": ["ssh-rsa AAAA"], "packages": ["nginx"]}


def test_what_is_stated_goes_over_what_is_made():
    seed = made({"user": "ops", "user_data": {"users": ["default"]}})
    assert seed["user_data"] == {"users": ["default"]}


def test_addresses_are_found_by_the_mac():
    seed = made({}, [None, {"addresses": ["192.0.2.10/24"], "gateway4": "192.0.2.1"}])
    assert seed["network_config"] == {
        "version": 2,
        "ethernets": {
            "nic1": {
                "match": {"macaddress": MACS[1]},
                "addresses": ["192.0.2.10/24"],
                "gateway4": "192.0.2.1",
            }
        },
    }


def test_nics_without_addresses_leave_the_network_to_the_guest():
    assert "network_config" not in made({}, [None])


def test_what_is_not_stated_of_the_network_stays():
    former = made({}, [{"dhcp4": True}])
    assert made({}, None, former) == former
    assert "network_config" not in made({}, [None, None], former)


def test_a_guest_stays_the_same_instance_unless_another_is_asked_for():
    former = made({"instance_id": "second"})
    assert made({"user_data": {"packages": []}}, None, former)["meta_data"]["instance-id"] == (
        "second"
    )
    assert made({"instance_id": "third"}, None, former)["meta_data"]["instance-id"] == "third"


SECRET = "hunter2"  # noqa: S105
SECRETS = [
    {"user_data": {"password": SECRET}},
    {"user_data": {"chpasswd": {"users": [{"name": "root", "password": SECRET}]}}},
    {"user_data": {"users": ["default", {"name": "ops", "passwd": SECRET}]}},
    {"user_data": {"users": [SECRET]}},
    {"user_data": {"write_files": [{"path": "/etc/x", "content": SECRET}]}},
    {"user_data": {"runcmd": [f"curl -H 'Bearer {SECRET}' https://example.org"]}},
    {"user_data": {"random_seed": {"data": SECRET}}},
    {"user_data": f"#!/bin/sh\necho {SECRET}\n"},
    {"vendor_data": {"bootcmd": [SECRET]}},
    {"meta_data": {"api_token": SECRET}},
    {"meta_data": {"client_key": SECRET}},
    {"network_config": {"wifis": {"w": {"psk": SECRET}}}},
    {"network_config": {"wifis": {"w": {"access-points": {"a": {"password": SECRET}}}}}},
    {"network_config": {"ethernets": {"e": {"auth": {"client-key-password": SECRET}}}}},
]


@pytest.mark.parametrize("value", SECRETS)
def test_no_secret_is_shown(value):
    seed, other = made(value), json.loads(json.dumps(made(value)).replace(SECRET, "other"))
    assert SECRET in json.dumps(seed)
    assert SECRET not in json.dumps(masked(seed))
    for pair in ((seed, other), ({}, seed), (seed, {})):
        found = list(changes(*pair))
        assert found
        assert SECRET not in json.dumps(found)
    assert all(before != after for _, before, after in changes(seed, other))


def test_what_differs_is_named_by_its_key():
    former = made({"user_data": {"packages": ["a"], "runcmd": ["x"]}})
    wanted = made({"user_data": {"packages": ["a", "b"], "runcmd": ["y"]}, "hostname": "w"})
    assert [path for path, _, _ in changes(former, wanted)] == [
        "cloud_init.meta_data.local-hostname",
        "cloud_init.user_data.packages",
        "cloud_init.user_data.runcmd",
    ]
    assert ("cloud_init.user_data.packages", ["a"], ["a", "b"]) in changes(former, wanted)
    assert list(changes(wanted, wanted)) == []


def test_a_text_in_place_of_a_mapping_is_a_difference():
    former, wanted = made({"user_data": {"packages": []}}), made({"user_data": "#!/bin/sh\n"})
    assert [path for path, _, _ in changes(former, wanted)] == [
        "cloud_init.user_data.packages",
        "cloud_init.user_data",
    ]


ODD = 'tab\t nul\x00 del\x7f nel\x85 bom\ufeff line\u2028 grin\U0001f600 quote" back\\ yes'


def test_what_is_written_is_yaml_of_the_same_meaning():
    yaml = pytest.importorskip("yaml", reason="hosts need no PyYAML, the controller has it")
    value = {"user_data": {"write_files": [{"content": ODD}], "no": [1, 1.5, True, None, "on"]}}
    texts = files({**made({}), **value})
    assert texts["user-data"].startswith("#cloud-config\n")
    assert yaml.safe_load(texts["user-data"]) == value["user_data"]
    assert yaml.safe_load(texts["meta-data"])["local-hostname"] == "web1"


def test_a_text_is_written_as_it_is():
    assert files(made({"user_data": "#!/bin/sh\necho 1\n"}))["user-data"] == "#!/bin/sh\necho 1\n"

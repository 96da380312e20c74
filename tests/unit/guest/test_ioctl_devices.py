# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Devices of the helper's guests: declared, compared, made on the host, and taken away again."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from ansible.module_utils.converge.errors import ApplyError, InputError
from ansible.module_utils.guest.engine import Host
from ansible.module_utils.guest.ioctl import images, preflight, waiting
from ansible.module_utils.guest.ioctl.dialect import IoctlDialect, Limits
from ansible.module_utils.guest.spec import read
from ansible.module_utils.image import users
from ansible.module_utils.image.store import Store
from ansible.module_utils.seed.store import tool

CASES = Path(__file__).resolve().parents[2] / "cases" / "guest"
BAD = json.loads((CASES / "bad_devices.json").read_text(encoding="utf-8"))
MIB = 1 << 20


def declared(**keys):
    entry = {"name": "a", "engine": "ioctl", "kernel": "greeter", **keys}
    host = Host(name="kvm1", kernel="/boot/vmlinuz-2")
    return read([entry], {"ioctl": IoctlDialect(Limits(programs=("greeter",)), host)})[0]


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_the_place(case):
    keys, expected = BAD[case]
    with pytest.raises(InputError) as raised:
        declared(**keys)
    assert [str(problem) for problem in raised.value.problems] == expected


def test_what_is_read_is_whole():
    found = declared(
        disks=[{"target": "vda", "file": "/srv/a.qcow2", "size": "1024MiB"}],
        nics=[{"bridge": "br0", "mac": "02:00:00:00:00:0A"}],
        pmem=[],
        vsock={"cid": 7},
    ).stated
    assert found["disks"] == [
        {
            "target": "vda",
            "file": "/srv/a.qcow2",
            "format": "qcow2",
            "size": "1GiB",
            "image": None,
            "backing": None,
            "readonly": False,
            "serial": None,
            "queues": 1,
        }
    ]
    nic = {"bridge": "br0", "mac": "02:00:00:00:00:0a", "mtu": None, "queues": 1, "vhost": None}
    assert found["nics"] == [nic]
    assert (found["pmem"], found["vsock"]) == (None, {"cid": 7})


def disk(machine, **more):
    file = os.path.join(machine.layout.root, "a.qcow2")
    return {"target": "vda", "file": file, "size": "16MiB", **more}


def paths_of(result):
    return [change["path"] for action in result["actions"] for change in action["changes"]]


def test_a_guest_gets_its_disk_and_its_mac_once(machine):
    wish = {"name": "a", "disks": [disk(machine)], "nics": [{"bridge": "lo"}], "state": "stopped"}
    with pytest.raises(InputError, match="a bridge of the host"):
        machine.run(wish)
    wish["nics"] = []
    machine.run(wish)
    assert images.capacity(disk(machine)["file"], "qcow2") == 16 * MIB
    assert machine.run(wish)["changed"] is False
    made = machine.definition("a")
    assert list(made["files"]) == [disk(machine)["file"]]
    assert made["machine"]["disks"][0]["format"] == "qcow2"


def test_a_disk_stands_on_its_image_and_says_so_where_no_guest_writes(machine):
    base = os.path.join(machine.layout.root, "base.raw")
    with open(base, "wb") as file:
        file.write(b"base".ljust(8 * MIB, b"\0"))
    small = {"name": "a", "disks": [disk(machine, image=base, size="4MiB")], "state": "stopped"}
    with pytest.raises(InputError, match=r"at least the 8MiB of the image"):
        machine.run(small)
    wish = {"name": "a", "disks": [disk(machine, image=base)], "state": "stopped"}
    machine.run(wish)
    assert machine.definition("a")["machine"]["disks"][0]["backing"] == [os.path.realpath(base)]
    # An image matters when the disk is made, and never again.
    assert machine.run({**wish, "disks": [disk(machine, image="/srv/other")]})["changed"] is False


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_a_disk_only_grows_and_only_while_nothing_runs(machine, monkeypatch, kind):
    monkeypatch.setenv("PATH", "/nowhere")  # a host of the helper alone has no qemu-img
    wish = {"name": "a", "disks": [disk(machine, format=kind)]}
    machine.run(wish)
    larger = {"name": "a", "disks": [disk(machine, format=kind, size="32MiB")]}
    (blocked,) = machine.run(larger)["blocked"]
    assert "can only grow while it does not" in blocked["reason"]
    machine.run({"name": "a", "state": "stopped"})
    result = machine.run({**larger, "state": "stopped"})
    assert paths_of(result) == ["disks[0].size"]
    assert images.capacity(disk(machine)["file"], kind) == 32 * MIB
    (blocked,) = machine.run({**wish, "state": "stopped"})["blocked"]
    assert "would shrink to 16MiB" in blocked["reason"]


def test_a_disk_that_cannot_grow_says_why(machine, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    machine.run({"name": "a", "disks": [disk(machine)], "state": "stopped"})
    with pytest.raises(ApplyError, match=r"no room for a disk of \d+ bytes.*expected qemu-img"):
        machine.run({"name": "a", "disks": [disk(machine, size="8TiB")], "state": "stopped"})


def test_what_was_made_goes_only_if_it_is_asked_for(machine):
    wish = {"name": "a", "disks": [disk(machine)], "state": "stopped"}
    machine.run(wish)
    machine.run({"name": "a", "state": "absent"})
    assert os.path.exists(disk(machine)["file"])
    # One that was there already is nobody's own.
    machine.run(wish)
    machine.run({"name": "a", "state": "absent", "remove_disks": True})
    assert os.path.exists(disk(machine)["file"])
    os.unlink(disk(machine)["file"])
    machine.run(wish)
    machine.run({"name": "a", "state": "absent", "remove_disks": True})
    assert not os.path.exists(disk(machine)["file"])


def test_a_guest_that_could_not_be_made_leaves_nothing(machine, monkeypatch):
    def full(_):
        raise images.ImageError("the disk is full")

    wish = {"name": "a", "disks": [disk(machine)], "state": "stopped"}
    monkeypatch.setattr(images, "make", full)
    with pytest.raises(ApplyError, match="the disk is full"):
        machine.run(wish)
    assert os.listdir(machine.layout.guests) == []
    monkeypatch.undo()


@pytest.mark.skipif(tool() is None, reason="no program here makes ISOs")
def test_a_seed_is_a_disk_of_its_own_and_another_one_waits(machine):
    ip = {"addresses": ["192.0.2.7/24"]}
    file = {"path": "/etc/word", "content": "a secret"}
    cloud = {"user": "ops", "user_data": {"write_files": [file]}}
    wish = {"name": "a", "cloud_init": cloud, "state": "running"}
    machine.run(wish)
    assert machine.run(wish)["changed"] is False
    made = machine.definition("a")
    (seed,) = made["machine"]["disks"]
    assert (seed["read_only"], seed["format"]) == (True, "raw")
    assert os.path.exists(seed["file"])
    assert "a secret" not in json.dumps(made)
    result = machine.run({**wish, "cloud_init": {**cloud, "hostname": "b"}})
    assert paths_of(result) == ["cloud_init.meta_data.local-hostname"]
    (pending,) = machine.run({**wish, "cloud_init": {**cloud, "hostname": "b"}})["pending"]
    assert [change["path"] for change in pending["changes"]] == ["seed"]
    assert "a secret" not in json.dumps(result)
    machine.run({"name": "a", "state": "absent"})
    assert os.listdir(os.path.dirname(os.path.dirname(seed["file"]))) == []
    del ip


def test_addresses_are_those_of_the_seed_and_those_that_were_heard(tmp_path):
    table = tmp_path / "arp"
    table.write_text(
        "IP address       HW type     Flags       HW address            Mask     Device\n"
        "192.0.2.9        0x1         0x2         02:00:00:00:00:0a     *        br0\n"
        "192.0.2.8        0x1         0x0         02:00:00:00:00:0a     *        br0\n"
        "192.0.2.7        0x1         0x2         02:00:00:00:00:0b     *        br0\n"
    )
    assert waiting.heard(["02:00:00:00:00:0a"], str(table)) == ["192.0.2.9"]
    network = {"version": 2, "ethernets": {"nic0": {"addresses": ["192.0.2.5/24"]}}}
    assert waiting.stated({"cloud_init": {"network_config": network}}) == ["192.0.2.5"]
    assert waiting.stated({}) == []


def test_waiting_ends_with_a_reason_for_each():
    asked = {
        "gone": {"wait_for": "ssh", "wait_timeout": 60.0},
        "silent": {"wait_for": "address", "wait_timeout": 0.0},
        "there": {"wait_for": "running"},
    }
    failures = waiting.wait_for(asked, lambda _: {}, lambda name: name != "gone")
    assert failures == {
        "gone": "it has ended while it was waited for",
        "silent": "the host has heard of no address of it (does it ask for one?) after 0us",
    }


def keep(store, name, content):
    """Let the host keep an image."""
    store.prepare()
    blob = f"{hashlib.sha256(content).hexdigest()}.raw"
    Path(store.incoming, "new").write_bytes(content)
    store.put(os.path.join(store.incoming, "new"), blob, {})
    store.link(name, blob)
    return store.path(blob)


def test_a_kernel_may_be_an_image_that_the_host_keeps(machine, monkeypatch, tmp_path):
    store = Store(str(tmp_path / "host"))
    monkeypatch.setattr(images, "Store", lambda: store)
    first, initrd = keep(store, "kern", b"1"), keep(store, "rd", b"2")
    wish = {"name": "a", "kernel": "image:kern", "initrd": "image:rd"}
    machine.run(wish)
    made = machine.definition("a")
    assert (made["spec"]["kernel"], made["spec"]["initrd"]) == ("image:kern", "image:rd")
    assert (made["machine"]["kernel"], made["machine"]["initrd"]) == (first, initrd)
    assert machine.run(wish)["changed"] is False
    # What stands on an image is known: it is not collected.
    found = users.standing_on([first, initrd], users._of_helper(machine.layout))
    assert found == {first: ["guest/a"], initrd: ["guest/a"]}

    second = keep(store, "kern", b"3")
    for check_mode in (True, False):
        result = machine.run(wish, check_mode=check_mode)
        (action,) = result["actions"]
        assert (action["action"], action["when"]) == ("update", "next_boot")
        changes = [{"path": "kernel", "before": first, "after": second}]
        assert action["changes"] == changes
    result = machine.run(wish)
    assert result["changed"] is False
    (pending,) = result["pending"]
    assert (pending["kind"], pending["changes"]) == ("restart_required", changes)
    assert machine.definition("a")["machine"]["kernel"] == second


@pytest.mark.parametrize("key", ["kernel", "initrd"])
def test_an_image_that_is_not_there_is_told_unless_the_same_run_may_bring_it(key):
    boots = {"a": {"kernel": "greeter", "initrd": "", key: "image:none"}}
    assert preflight.check_kernels(boots, check_mode=True) == []
    (problem,) = preflight.check_kernels(boots, check_mode=False)
    assert str(problem).startswith(f"a.{key}: expected an image that is there, found 'none': ")

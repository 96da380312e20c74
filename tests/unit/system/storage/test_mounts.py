# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mounts: fstab, credentials and units."""

from __future__ import annotations

import dataclasses

import pytest
from ansible.module_utils.system.operation import Run, Write
from ansible.module_utils.system.storage import mounting
from ansible.module_utils.system.storage.mount_wish import Wish, parse, unit_name
from ansible.module_utils.system.storage.mounted import Mount, escaped, fstab, unescaped
from ansible.module_utils.system.storage.mounting import Found

NFS = Wish("nfs", "192.0.2.5:/export/guests", "/srv/guests", ("vers=4.2", "hard"))
SMB = Wish("smb", "//192.0.2.5/images", "/srv/images", credentials="username=u\npassword=p w\n")
DISK = Wish("ext4", "UUID=1234-abcd", "/srv/local", timeout=10)
WORD = "hunter2"
ODD = "p,=\"'"
RELOAD = ("systemctl", "daemon-reload")
FSTAB = "# <file system> <mount point>\nUUID=1 / ext4 errors=remount-ro 0 1\n"
NFS_LINE = (
    "192.0.2.5:/export/guests /srv/guests nfs "
    "vers=4.2,hard,nofail,_netdev,x-systemd.mount-timeout=30s,x-virtfleet 0 0"
)


def did(outcome):
    """Return what is done: commands as they are, files as (path, content)."""
    return [
        one.argv if isinstance(one, Run) else (one.path, one.content)
        for step in outcome.steps
        for one in step.operations
    ]


def shape(outcome):
    return [(s.action.action, s.action.object, s.action.when) for s in outcome.steps]


def there(wish=NFS, **more):
    """Return a host where the mount is as declared."""
    text = f"{FSTAB}{wish.line}\n"
    mounted = {wish.path: Mount(wish.path, wish.source, wish.fstype)}
    return dataclasses.replace(Found(text, 0o644, mounted), **more)


def test_a_mount_goes_into_fstab_and_is_started(context):
    outcome = mounting.plan([NFS], Found(FSTAB, 0o600), context)
    assert shape(outcome) == [("create", "mount/srv/guests", "live")]
    assert did(outcome) == [
        ("/etc/fstab", f"{FSTAB}{NFS_LINE}\n"),
        RELOAD,
        ("systemctl", "start", "srv-guests.mount"),
    ]
    assert outcome.steps[0].operations[0].mode == 0o600


def test_nothing_is_done_when_it_is_so(context):
    outcome = mounting.plan([NFS], there(), context)
    assert (outcome.steps, outcome.pending, outcome.blocked) == ((), (), ())


def test_smb_has_its_secret_in_a_file_for_root(context):
    outcome = mounting.plan([SMB], Found(FSTAB), context)
    write = outcome.steps[0].operations[0]
    assert isinstance(write, Write)
    assert (write.path, write.mode) == ("/etc/virtfleet/credentials/srv-images", 0o600)
    assert write.content == "username=u\npassword=p w\n"
    line = fstab(outcome.steps[1].operations[0].content)[-1]
    assert line.type == "cifs"
    assert "credentials=/etc/virtfleet/credentials/srv-images" in line.options.split(",")
    assert "p w" not in repr(outcome)
    assert "p w" not in repr([step.action.to_dict() for step in outcome.steps])
    assert "p w" not in repr(SMB)


@pytest.mark.parametrize(
    ("old", "shapes"),
    [
        ("username=u\npassword=p w\n", []),
        ("username=u\npassword=old\n", [("update", "next_boot")]),
        (None, [("create", "live")]),
    ],
)
def test_credentials_are_compared(context, old, shapes):
    files = {} if old is None else {SMB.credentials_file: old}
    outcome = mounting.plan([SMB], there(SMB, credentials=files), context)
    assert [(action, when) for action, _, when in shape(outcome)] == shapes
    assert "old" not in repr([step.action.to_dict() for step in outcome.steps])


def test_a_device_does_not_hold_up_the_boot_and_is_checked():
    assert DISK.line == (
        "UUID=1234-abcd /srv/local ext4 "
        "nofail,x-systemd.device-timeout=10s,x-systemd.mount-timeout=10s,x-virtfleet 0 2"
    )


def test_a_device_is_known_by_what_its_names_lead_to(context):
    mounted = {DISK.path: Mount(DISK.path, "/dev/mapper/vg-local", "ext4")}
    devices = {"/dev/disk/by-uuid/1234-abcd": "/dev/dm-3", "/dev/mapper/vg-local": "/dev/dm-3"}
    same = there(DISK, mounted=mounted, devices=devices)
    assert mounting.plan([DISK], same, context).steps == ()
    other = there(DISK, mounted=mounted, devices={**devices, "/dev/mapper/vg-local": "/dev/dm-4"})
    assert [item.reason for item in mounting.plan([DISK], other, context).blocked] == [
        "/dev/mapper/vg-local is mounted there"
    ]
    unknown = there(DISK, mounted=mounted, devices={"/dev/disk/by-uuid/1234-abcd": None})
    assert len(mounting.plan([DISK], unknown, context).blocked) == 1


def test_what_is_in_fstab_and_not_mounted_is_mounted(context):
    outcome = mounting.plan([NFS], there(mounted={}), context)
    assert shape(outcome) == [("attach", "mount/srv/guests", "live")]
    assert did(outcome) == [("systemctl", "start", "srv-guests.mount")]


def test_other_options_count_from_the_next_mount_on(context):
    other = dataclasses.replace(NFS, options=("vers=4.1",))
    outcome = mounting.plan([other], there(), context)
    assert shape(outcome) == [("update", "mount/srv/guests", "next_boot")]
    assert did(outcome) == [("/etc/fstab", f"{FSTAB}{other.line}\n"), RELOAD]
    assert [(item.kind, item.remedy) for item in outcome.pending] == [
        ("remount_required", "when nothing uses it: systemctl restart srv-guests.mount")
    ]


def test_a_line_of_somebody_else_with_the_same_source_is_taken_over_in_its_place(context):
    text = "192.0.2.5:/export/guests/ /srv/guests/ nfs defaults 0 0\n# end\n"
    outcome = mounting.plan([NFS], there(fstab=text), context)
    assert did(outcome)[0] == ("/etc/fstab", f"{NFS_LINE}\n# end\n")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (
            {"mounted": {NFS.path: Mount(NFS.path, "192.0.2.6:/other", "nfs4")}},
            "192.0.2.6:/other is mounted there",
        ),
        (
            {"fstab": "/dev/sdb1 /srv/guests ext4 defaults 0 2\n", "mounted": {}},
            "/etc/fstab mounts /dev/sdb1 there, and virtfleet did not write that",
        ),
    ],
)
def test_what_is_there_of_somebody_else_is_left_alone(context, more, reason):
    outcome = mounting.plan([NFS], there(**more), context)
    assert outcome.steps == ()
    assert [item.reason for item in outcome.blocked] == [reason]


def test_each_mount_keeps_the_lines_of_those_before(context):
    outcome = mounting.plan([NFS, SMB], Found(FSTAB), context)
    texts = [one[1] for one in did(outcome) if one[0] == "/etc/fstab"]
    assert texts == [f"{FSTAB}{NFS.line}\n", f"{FSTAB}{NFS.line}\n{SMB.line}\n"]


def test_a_mount_of_ours_that_nothing_declares_is_told(context):
    outcome = mounting.plan([], there(), context)
    assert outcome.steps == ()
    assert [(item.object, item.kind) for item in outcome.pending] == [
        ("mount/srv/guests", "not_declared")
    ]


@pytest.mark.parametrize("whole", [True, False])
def test_a_mount_is_taken_away_with_its_credentials(context, away, whole):
    wish = SMB if whole else dataclasses.replace(SMB, absent=True)
    found = there(SMB, credentials={SMB.credentials_file: SMB.credentials})
    outcome = mounting.plan([wish], found, away if whole else context)
    assert [action for action, _, _ in shape(outcome)] == ["delete"]
    assert did(outcome) == [
        ("systemctl", "stop", "srv-images.mount"),
        ("/etc/fstab", FSTAB),
        RELOAD,
        (SMB.credentials_file, None),
    ]


def test_the_inner_mount_goes_before_the_outer(away):
    inner = dataclasses.replace(NFS, path="/srv/guests/inner")
    text = f"{NFS.line}\n{inner.line}\n"
    mounted = {wish.path: Mount(wish.path, wish.source, "nfs") for wish in (NFS, inner)}
    outcome = mounting.plan([NFS, inner], Found(text, 0o644, mounted), away)
    assert [s.action.object for s in outcome.steps] == [
        "mount/srv/guests/inner",
        "mount/srv/guests",
    ]
    assert did(outcome)[-2] == ("/etc/fstab", "")


def test_the_way_back_leaves_what_is_not_ours(away):
    text = "192.0.2.5:/export/guests /srv/guests nfs defaults 0 0\n"
    assert mounting.plan([NFS], there(fstab=text), away).steps == ()
    assert mounting.plan([NFS], Found(FSTAB), away).steps == ()


def test_the_host_is_read(system):
    files = {
        "/etc/fstab": FSTAB,
        SMB.credentials_file: "username=u\n",
        "/dev/disk/by-uuid/1234-abcd": "",
        "/proc/self/mountinfo": (
            "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
            "30 22 0:40 / /srv/guests rw shared:2 - nfs4 192.0.2.5:/export/guests rw,vers=4.2\n"
            "31 22 0:41 / /srv/local rw - ext4 /dev/sdz9 rw\n"
            "cut off"
        ),
    }
    found = mounting.observe(system(files), [NFS, SMB, DISK])
    assert found.fstab == FSTAB
    assert found.mounted == {
        "/srv/guests": Mount("/srv/guests", "192.0.2.5:/export/guests", "nfs4"),
        "/srv/local": Mount("/srv/local", "/dev/sdz9", "ext4"),
    }
    assert found.credentials == {SMB.credentials_file: "username=u\n"}
    assert found.devices == {
        "/dev/disk/by-uuid/1234-abcd": "/dev/disk/by-uuid/1234-abcd",
        "/dev/sdz9": None,
    }


def test_the_mode_of_fstab_is_kept(system, tmp_path):
    host = system({"/etc/fstab": FSTAB})
    (tmp_path / "etc/fstab").chmod(0o640)
    assert mounting.observe(host, [NFS]).mode == 0o640


@pytest.mark.parametrize("text", ["plain", "a b", "tab\there", "back\\slash", "#1", "\\040"])
def test_fields_go_through_fstab_unharmed(text):
    assert unescaped(escaped(text)) == text
    assert len(escaped(text).split()) == 1


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/srv/guests", "srv-guests"),
        ("/srv/web-01", "srv-web\\x2d01"),
        ("/srv/a b", "srv-a\\x20b"),
        ("/.hidden/.x", "\\x2ehidden-.x"),
        ("/srv/\u00e9", "srv-\\xc3\\xa9"),
        ("/", "-"),
    ],
)
def test_units_are_named_as_systemd_does(path, unit):
    assert unit_name(path) == unit


def item(**more):
    empty = {"options": [], "username": None, "password": None, "domain": None, "state": "present"}
    return {"type": "nfs", "source": "store:/x", "path": "/srv/x", **empty, **more}


def smb(**more):
    return item(**{"type": "smb", "source": "//store.example.org/my share", **more})


def test_mounts_are_read_the_outer_first(check):
    wishes = parse(
        [
            item(path="/srv/x/y", options=["ro"]),
            smb(path="/srv/x", username="u", password=ODD, domain="D"),
            item(type="xfs", source="/dev/vg/lv", path="/a", state="absent"),
            item(source="[2001:db8::5]:/x", path="/v6"),
        ],
        12,
        "m",
        check,
    )
    assert check.problems == []
    assert [wish.path for wish in wishes] == ["/a", "/srv/x", "/srv/x/y", "/v6"]
    assert wishes[0].absent is True
    assert wishes[1].credentials == f"username=u\npassword={ODD}\ndomain=D\n"
    assert wishes[1].line.startswith("//store.example.org/my\\040share /srv/x cifs nofail,_netdev,")
    assert [wish.server for wish in wishes] == [
        None,
        ("store.example.org", 445),
        ("store", 2049),
        ("2001:db8::5", 2049),
    ]
    assert "ro,nofail,_netdev,x-systemd.mount-timeout=12s" in wishes[2].line


@pytest.mark.parametrize(
    ("items", "path"),
    [
        ([item(type="NFS 4", source="/dev/sdb1")], "m[0].type"),
        ([item(source="/export")], "m[0].source"),
        ([item(source="-o:/x")], "m[0].source"),
        ([smb(source="//store")], "m[0].source"),
        ([item(type="ext4", source="sdb1")], "m[0].source"),
        ([item(path="srv")], "m[0].path"),
        ([item(path="/")], "m[0].path"),
        ([item(path="/srv\n/x")], "m[0].path"),
        ([item(options=["ro,rw"])], "m[0].options[0]"),
        ([item(options=["ro", "a b"])], "m[0].options[1]"),
        ([smb(options=[f"password={WORD}"])], "m[0].options[0]"),
        ([smb(options=["credentials=/x"])], "m[0].options[0]"),
        ([smb(username="u")], "m[0].password"),
        ([smb(password=WORD)], "m[0].username"),
        ([smb(username="u", password=f"{WORD}\nuid=0")], "m[0].password"),
        ([smb(username="u", password=WORD, domain="a\nb")], "m[0].domain"),
        ([item(password=WORD)], "m[0].password"),
        ([item(), item()], "m[1]"),
    ],
)
def test_what_is_wrong_is_named_without_the_secret(check, items, path):
    parse(items, 30, "m", check)
    assert [problem.path for problem in check.problems] == [path]
    assert WORD not in str(check.problems[0])

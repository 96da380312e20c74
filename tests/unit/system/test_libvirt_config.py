# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan for libvirt's daemons: files, sockets, confinement, and restarts that spare guests."""

from __future__ import annotations

import pytest
from ansible.module_utils.converge.errors import InputError
from ansible.module_utils.system import own_files
from ansible.module_utils.system.libvirt_conf import compose, parse
from ansible.module_utils.system.libvirt_config import Conf, Observed, plan, read
from ansible.module_utils.system.libvirt_daemons import Service, Socket, socket_files
from ansible.module_utils.system.libvirt_desire import Desired, desire
from ansible.module_utils.system.operation import Run, Write

OPTIONS: dict[str, object] = {
    "state": "present",
    "daemons": ["libvirtd"],
    "files": {},
    "defaults": {},
    "socket_group": None,
    "socket_mode": None,
    "confinement": None,
}
EVERYBODY, GROUP = Socket(0o666, "root"), Socket(0o660, "libvirt")
NOBODYS = dict.fromkeys(
    [f"/etc/systemd/system/{unit}.d/virtfleet.conf" for unit in socket_files("libvirtd")]
)
OURS = dict.fromkeys(
    NOBODYS, own_files.content(["[Socket]", "SocketMode=0660", "SocketGroup=libvirt"])
)
RUNS = Service(active=True, spares_guests=True, since=100.0)
RESTART = Run(("systemctl", "restart", "libvirtd.service"))


def options(**given):
    return {**OPTIONS, **given}


def observed(**given):
    base = {"installed": True, "drop_ins": NOBODYS, "services": {"libvirtd": RUNS}, "now": 1000.0}
    return Observed(**{**base, **given})


def conf(text, *, mode=0o644, age=5000.0):
    return Conf(text, mode, age)


def commands(steps):
    return [list(o.argv) for step in steps for o in step.operations if isinstance(o, Run)]


def writes(steps):
    return {o.path: o for step in steps for o in step.operations if isinstance(o, Write)}


def objects(steps):
    return [(step.action.action, step.action.object) for step in steps]


def test_a_file_is_set_keeps_its_mode_and_the_daemon_reads_it():
    wanted = desire(options(files={"qemu.conf": {"seccomp_sandbox": True}}))
    found = plan(wanted, observed(files={"qemu.conf": conf("# shipped\n", mode=0o600)}), "kvm1")
    assert objects(found.steps) == [
        ("update", "file/etc/libvirt/qemu.conf"),
        ("restart", "service/libvirtd.service"),
    ]
    written = writes(found.steps)["/etc/libvirt/qemu.conf"]
    assert parse(written.content) == {"seccomp_sandbox": 1}
    assert written.mode == 0o600
    [change] = found.steps[0].action.changes
    assert (change.path, change.before, change.after) == ("seccomp_sandbox", None, 1)
    assert found.steps[1].operations == (RESTART,)
    assert {step.action.host for step in found.steps} == {"kvm1"}


def test_nothing_is_done_twice():
    wanted = desire(options(files={"qemu.conf": {"seccomp_sandbox": True}}))
    text = compose("", {"seccomp_sandbox": 1}, {})
    assert plan(wanted, observed(files={"qemu.conf": conf(text)}), "kvm1").steps == ()


@pytest.mark.parametrize(
    ("before", "wanted", "verb", "after"),
    [
        (None, {"a": 1}, "create", {"a": 1}),
        (compose("", {"a": 1}, {}), {}, "delete", None),
        (compose("a = 2\n", {"a": 1}, {}), {}, "update", {"a": 2}),
    ],
)
def test_files_come_and_go(before, wanted, verb, after):
    files = {} if before is None else {"qemu.conf": conf(before)}
    found = plan(Desired(files={"qemu.conf": wanted}), observed(files=files, services={}), "kvm1")
    assert objects(found.steps) == [(verb, "file/etc/libvirt/qemu.conf")]
    content = writes(found.steps)["/etc/libvirt/qemu.conf"].content
    assert content is None if after is None else parse(content) == after


def test_absent_takes_ours_out_of_every_file_and_reopens_the_sockets():
    there = observed(
        files={
            "qemu.conf": conf(compose("x = 1\n", {"x": 2}, {})),
            "other.conf": conf("y = 1\n"),
        },
        drop_ins=OURS,
        sockets={"libvirtd.socket": GROUP, "libvirtd-ro.socket": GROUP},
    )
    found = plan(desire(options(state="absent")), there, "kvm1")
    assert objects(found.steps) == [
        ("update", "file/etc/libvirt/qemu.conf"),
        *(("delete", f"file{path}") for path in OURS),
        ("restart", "socket/libvirtd.socket"),
    ]
    assert writes(found.steps)["/etc/libvirt/qemu.conf"].content == "x = 1\n"


def test_sockets_are_opened_anew_while_the_service_is_down():
    there = observed(sockets={"libvirtd.socket": EVERYBODY, "libvirtd-ro.socket": EVERYBODY})
    found = plan(desire(options(socket_group="libvirt", socket_mode="0660")), there, "kvm1")
    assert commands(found.steps) == [
        ["systemctl", "daemon-reload"],
        ["systemctl", "daemon-reload"],
        ["systemctl", "stop", "libvirtd.service"],
        ["systemctl", "restart", "libvirtd.socket", "libvirtd-ro.socket"],
        ["systemctl", "start", "libvirtd.service"],
    ]
    changes = found.steps[-1].action.changes
    assert [(c.before, c.after) for c in changes] == [("0666 root", "0660 libvirt")] * 2
    assert all("SocketMode=0660\n" in write.content for write in writes(found.steps).values())


def test_a_run_that_ended_before_the_sockets_were_opened_is_completed():
    there = observed(
        drop_ins=OURS,
        sockets={"libvirtd.socket": GROUP, "libvirtd-ro.socket": EVERYBODY},
        services={"libvirtd": Service(active=False)},
    )
    found = plan(Desired(socket=GROUP), there, "kvm1")
    assert commands(found.steps) == [
        ["systemctl", "daemon-reload"],
        ["systemctl", "restart", "libvirtd-ro.socket"],
    ]


def test_sockets_that_nobody_listens_on_are_not_opened():
    there = observed(sockets=dict.fromkeys(socket_files("libvirtd")))
    found = plan(Desired(socket=GROUP), there, "kvm1")
    assert commands(found.steps) == [["systemctl", "daemon-reload"]]


def test_a_daemon_that_would_take_guests_along_is_left_running():
    there = observed(
        sockets={"libvirtd.socket": EVERYBODY, "libvirtd-ro.socket": EVERYBODY},
        services={"libvirtd": Service(active=True, spares_guests=False)},
    )
    found = plan(Desired(socket=GROUP, files={"qemu.conf": {"a": 1}}), there, "kvm1")
    assert commands(found.steps) == [["systemctl", "daemon-reload"]]
    [pending] = found.pending
    assert (pending.object, pending.kind) == ("service/libvirtd.service", "restart_required")
    assert "KillMode=process" in pending.reason


@pytest.mark.parametrize(
    ("name", "services", "expected"),
    [
        ("qemu.conf", {"libvirtd": RUNS}, [["systemctl", "restart", "libvirtd.service"]]),
        ("libvirtd.conf", {"libvirtd": RUNS}, [["systemctl", "restart", "libvirtd.service"]]),
        ("virtlogd.conf", {"virtlogd": RUNS}, [["systemctl", "reload", "virtlogd.service"]]),
        ("qemu.conf", {"libvirtd": Service(active=False)}, []),
        ("qemu.conf", {}, []),
    ],
)
def test_each_file_is_read_by_its_daemon(name, services, expected):
    found = plan(Desired(files={name: {"a": 1}}), observed(services=services), "kvm1")
    assert commands(found.steps) == expected


def test_modular_daemons_read_their_own_files():
    there = observed(services={"virtqemud": RUNS, "virtnetworkd": RUNS})
    wanted = Desired(
        ("virtqemud", "virtnetworkd"), {"qemu.conf": {"a": 1}, "virtnetworkd.conf": {}}
    )
    assert commands(plan(wanted, there, "kvm1").steps) == [
        ["systemctl", "restart", "virtqemud.service"]
    ]


@pytest.mark.parametrize(
    ("age", "since", "stale"),
    [
        (10.0, 100.0, True),  # written 10 s ago, the daemon runs for 900 s
        (950.0, 100.0, False),  # the daemon came later
        (899.0, 100.0, False),  # too close to tell
        (-50.0, 100.0, False),  # the clock was set back
    ],
)
def test_a_run_that_ended_before_the_restart_is_completed(age, since, stale):
    text = compose("", {"a": 1}, {})
    there = observed(
        files={"qemu.conf": conf(text, age=age)},
        services={"libvirtd": Service(active=True, since=since)},
    )
    found = plan(Desired(files={"qemu.conf": {"a": 1}}), there, "kvm1")
    assert bool(found.steps) == stale


def test_a_daemon_that_executes_itself_anew_is_not_taken_for_old():
    text = compose("", {"a": 1}, {})
    there = observed(
        files={"virtlogd.conf": conf(text, age=10.0)},
        services={"virtlogd": RUNS, "libvirtd": RUNS},
    )
    assert plan(Desired(files={"virtlogd.conf": {"a": 1}}), there, "kvm1").steps == ()


def test_a_file_that_is_not_ours_is_never_stale():
    there = observed(files={"qemu.conf": conf("a = 1\n", age=10.0)})
    assert plan(Desired(), there, "kvm1").steps == ()


def test_confinement_is_stated_where_it_is_at_work():
    found = plan(desire(options(confinement="apparmor")), observed(services={}), "kvm1")
    assert parse(writes(found.steps)["/etc/libvirt/qemu.conf"].content) == {
        "security_driver": "apparmor"
    }
    assert found.blocked == ()


@pytest.mark.parametrize(
    ("driver", "words"), [("apparmor", "apparmor=1"), ("selinux", "enforcing")]
)
def test_confinement_that_is_not_at_work_is_refused_and_not_written(driver, words):
    wanted = desire(options(confinement=driver, files={"qemu.conf": {"a": 1}}))
    found = plan(wanted, observed(confined=False, services={}), "kvm1")
    assert parse(writes(found.steps)["/etc/libvirt/qemu.conf"].content) == {"a": 1}
    [blocked] = found.blocked
    assert blocked.object == f"confinement/{driver}"
    assert words in blocked.remedy


def test_a_host_without_libvirt_has_nothing_yet():
    wanted = desire(options(confinement="apparmor", socket_group="libvirt", socket_mode="0660"))
    found = plan(wanted, Observed(installed=False, drop_ins=NOBODYS, group_known=False), "kvm1")
    assert objects(found.steps) == [
        ("create", "file/etc/libvirt/qemu.conf"),
        *(("create", f"file{path}") for path in NOBODYS),
    ]
    assert found.blocked == ()


def test_a_group_that_is_not_there_is_refused_before_anything_is_touched():
    wanted = desire(options(socket_group="virt", socket_mode="0660"))
    with pytest.raises(InputError, match="socket_group: expected a group of this host"):
        plan(wanted, observed(group_known=False), "kvm1")


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"daemons": ["libvirtd", "sshd"]}, "daemons[1]"),
        ({"daemons": []}, "daemons"),
        ({"files": {"../qemu.conf": {}}}, "files.../qemu.conf"),
        ({"files": {"qemu.conf": []}}, "files.qemu.conf"),
        ({"files": {"qemu.conf": {"a b": 1}}}, "files.qemu.conf"),
        ({"files": {"qemu.conf": {"a": None}}}, "files.qemu.conf.a"),
        ({"defaults": {"qemu.conf": {"a": 1.5}}}, "defaults.qemu.conf.a"),
        ({"socket_group": "a b", "socket_mode": "0660"}, "socket_group"),
        ({"socket_group": "libvirt", "socket_mode": "rw"}, "socket_mode"),
        ({"socket_group": "libvirt"}, "socket_mode"),
    ],
)
def test_wrong_input_names_its_path(given, path):
    with pytest.raises(InputError) as caught:
        desire(options(**given))
    assert [problem.path for problem in caught.value.problems] == [path]


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(InputError) as caught:
        desire(options(daemons=["x"], files={"y": {}}, socket_group="-", socket_mode="z"))
    assert len(caught.value.problems) == 4


def never(argv):
    raise AssertionError(f"nothing may be run below another root: {argv}")


def test_a_root_is_read_without_any_command(tmp_path):
    folder = tmp_path / "etc/libvirt"
    folder.mkdir(parents=True)
    (folder / "qemu.conf").write_text("a = 1\n")
    (folder / "qemu.conf").chmod(0o600)
    (folder / "notes.txt").write_text("no settings")
    found = read(Desired(confinement="apparmor", socket=GROUP), str(tmp_path), never)
    assert (found.installed, found.confined, found.group_known) == (True, False, True)
    assert {name: (c.content, c.mode) for name, c in found.files.items()} == {
        "qemu.conf": ("a = 1\n", 0o600)
    }
    assert found.sockets == dict.fromkeys(socket_files("libvirtd"))


def test_an_empty_root_has_no_libvirt(tmp_path):
    found = read(Desired(), str(tmp_path), never)
    assert found == Observed(installed=False, drop_ins=NOBODYS)

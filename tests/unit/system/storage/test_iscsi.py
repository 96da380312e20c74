# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""iSCSI: records, sessions and the secrets that must be nowhere else."""

from __future__ import annotations

import dataclasses

import pytest
from ansible.module_utils.system.operation import Run, Write
from ansible.module_utils.system.storage import iscsi
from ansible.module_utils.system.storage.iscsi_wish import Node, Wish, parse

TARGET = "iqn.2026-01.org.example:guests"
PHRASE = "correct horse battery"
OTHER = "another secret"
CHAP = {
    "node.session.auth.authmethod": "CHAP",
    "node.session.auth.username": "kvm1",
    "node.session.auth.password": PHRASE,
}
NODE = Node(TARGET, "192.0.2.5", 3260, CHAP)
WISH = Wish("iqn.2026-01.org.example:kvm1", (NODE,))
PATH = f"/etc/iscsi/nodes/{TARGET}/192.0.2.5,3260"
IS_ENABLED = ("systemctl", "is-enabled", "--quiet", "open-iscsi.service")
SESSION = ("iscsiadm", "--mode", "session")
LISTING = f"tcp: [3] 192.0.2.5:3260,1 {TARGET} (non-flash)\n"
ARGV = ("iscsiadm", "--mode", "node", "--targetname", TARGET, "--portal", "192.0.2.5:3260")


def operations(outcome, kind):
    return [one for step in outcome.steps for one in step.operations if isinstance(one, kind)]


def shape(outcome):
    return [(s.action.step, s.action.action, s.action.object, s.action.when) for s in outcome.steps]


def complete(**more):
    """Return a host where all of WISH is there."""
    record = (PATH, iscsi.amended("", NODE.settings))
    found = iscsi.Found(WISH.initiator, {NODE.place: record}, {NODE.place: "3"}, {}, enabled=True)
    return dataclasses.replace(found, **more)


def test_a_bare_host_gets_name_record_service_and_session(context):
    outcome = iscsi.plan(WISH, iscsi.Found(), context)
    assert shape(outcome) == [
        (1, "create", "iscsi/initiator", "live"),
        (1, "update", "service/open-iscsi.service", "next_boot"),
        (2, "create", f"iscsi/{TARGET}@192.0.2.5:3260", "live"),
        (3, "attach", f"iscsi/{TARGET}@192.0.2.5:3260", "live"),
    ]
    files = {write.path: write for write in operations(outcome, Write)}
    assert set(files) == {"/etc/iscsi/initiatorname.iscsi", PATH}
    assert {write.mode for write in files.values()} == {0o600}
    assert files["/etc/iscsi/initiatorname.iscsi"].content.endswith(
        "\nInitiatorName=iqn.2026-01.org.example:kvm1\n"
    )
    assert [run.argv for run in operations(outcome, Run)] == [
        ("systemctl", "try-restart", "iscsid.service"),
        ("systemctl", "enable", "open-iscsi.service"),
        ("timeout", "30", *ARGV, "--login"),
        ("udevadm", "settle", "--timeout=30"),
    ]


def test_a_new_record_states_what_iscsiadm_needs(context):
    content = {
        w.path: w.content for w in operations(iscsi.plan(WISH, iscsi.Found(), context), Write)
    }
    assert content[PATH] == (
        "# Made by virtfleet; what is changed here is overwritten.\n"
        "# BEGIN RECORD\n"
        f"node.name = {TARGET}\n"
        "node.startup = automatic\n"
        "iface.iscsi_ifacename = default\n"
        "iface.transport_name = tcp\n"
        "node.conn[0].address = 192.0.2.5\n"
        "node.conn[0].port = 3260\n"
        "node.session.auth.authmethod = CHAP\n"
        "node.session.auth.username = kvm1\n"
        f"node.session.auth.password = {PHRASE}\n"
        "# END RECORD\n"
    )


def test_the_secret_is_in_the_file_alone(context):
    outcome = iscsi.plan(WISH, iscsi.Found(), context)
    assert PHRASE not in repr([step.action.to_dict() for step in outcome.steps])
    assert PHRASE not in repr(operations(outcome, Run))
    assert PHRASE not in repr(outcome)
    assert PHRASE not in repr(WISH)
    assert PHRASE not in repr(complete())


def test_nothing_is_done_when_all_is_there(context):
    outcome = iscsi.plan(WISH, complete(), context)
    assert (outcome.steps, outcome.pending, outcome.blocked) == ((), (), ())


def test_another_secret_changes_the_record_alone(context):
    old = {**NODE.settings, "node.session.auth.password": "an older secret"}
    text = iscsi.amended("# BEGIN RECORD 2.1.8\nnode.tpgt = 1\n# END RECORD\n", old)
    path = f"{PATH},1/default"
    outcome = iscsi.plan(WISH, complete(records={NODE.place: (path, text)}), context)
    assert shape(outcome) == [(2, "update", f"iscsi/{TARGET}@192.0.2.5:3260", "next_boot")]
    changes = [change.to_dict() for change in outcome.steps[0].action.changes]
    assert changes == [
        {
            "path": "node.session.auth.password",
            "before": "(hidden)",
            "after": "(hidden), differs",
        }
    ]
    (write,) = operations(outcome, Write)
    assert write.path == path
    assert write.content.startswith("# BEGIN RECORD 2.1.8\nnode.tpgt = 1\n")
    assert write.content.count("password") == 1
    assert write.content.count("# END RECORD") == 1
    assert "older" not in write.content


def test_only_what_was_stated_is_compared(context):
    node = Node(TARGET, "192.0.2.5", 3260)
    outcome = iscsi.plan(
        Wish(nodes=(node,)), complete(initiator="iqn.2000-01.org.example:x"), context
    )
    assert outcome.steps == ()


def test_a_session_that_ended_is_made_again(context):
    assert shape(iscsi.plan(WISH, complete(sessions={}), context)) == [
        (3, "attach", f"iscsi/{TARGET}@192.0.2.5:3260", "live")
    ]


def test_the_way_back_logs_out_and_takes_the_record_but_not_the_name(away):
    outcome = iscsi.plan(WISH, complete(), away)
    assert [run.argv for run in operations(outcome, Run)] == [
        (*ARGV, "--logout"),
        (*ARGV, "--op", "delete"),
    ]
    assert operations(outcome, Write) == []
    assert [step.action.step for step in outcome.steps] == [6, 7]
    assert iscsi.plan(WISH, complete(sessions={}, records={}), away).steps == ()


def test_no_logout_while_a_disk_is_in_use(away):
    held = complete(holders={NODE.place: ("/dev/sdc is used by dm-0",)})
    outcome = iscsi.plan(WISH, held, away)
    assert outcome.steps == ()
    assert [item.reason for item in outcome.blocked] == ["/dev/sdc is used by dm-0"]
    later = iscsi.plan(WISH, held, dataclasses.replace(away, expecting=True))
    assert (len(later.steps), later.blocked) == (2, ())


@pytest.mark.parametrize("name", ["192.0.2.5,3260", "192.0.2.5,3260,1/default"])
def test_the_host_is_read(system, name):
    files = {
        iscsi.INITIATOR_FILE: "# name\nInitiatorName=iqn.1993-08.org.debian:01:abc\n",
        f"/etc/iscsi/nodes/{TARGET}/{name}": "node.name = x\n",
        f"/etc/iscsi/nodes/{TARGET}/192.0.2.50,3260": "node.name = other\n",
    }
    found = iscsi.observe(system(files, {SESSION: LISTING, IS_ENABLED: ""}), WISH)
    assert found.initiator == "iqn.1993-08.org.debian:01:abc"
    assert found.records == {NODE.place: (f"/etc/iscsi/nodes/{TARGET}/{name}", "node.name = x\n")}
    assert found.sessions == {NODE.place: "3"}
    assert found.enabled is True


def test_a_bare_host_is_read(system):
    answers = {SESSION: (127, "", ""), IS_ENABLED: (4, "", "")}
    assert iscsi.observe(system(answers=answers), WISH) == iscsi.Found()
    assert iscsi.observe(system(), Wish()) == iscsi.Found()


def test_sessions_are_read_by_address_and_port():
    listing = (
        f"tcp: [1] 192.0.2.5:3260,1 {TARGET} (non-flash)\n"
        f"tcp: [12] [2001:db8::5]:3261,4294967295 {TARGET} (non-flash)\n"
        "iscsiadm: something else\n"
    )
    assert iscsi.sessions(lambda _: (0, listing, "")) == {
        (TARGET, "192.0.2.5", 3260): "1",
        (TARGET, "2001:db8::5", 3261): "12",
    }


def test_who_holds_the_disks_of_a_session_is_read(system, tmp_path):
    block = "/sys/class/iscsi_session/session3/device/target2:0:0/2:0:0:1/block/sdc"
    mountinfo = "25 1 8:33 / /srv/a\\040b rw - ext4 /dev/sdc1 rw\n"
    host = system(
        {
            f"{block}/holders/dm-0": "",
            f"{block}/sdc1/partition": "1",
            f"{block}/sdc1/holders/md0": "",
            f"{block}/queue/depth": "1",
            "/proc/self/mountinfo": mountinfo,
        },
        {SESSION: LISTING, IS_ENABLED: ""},
    )
    assert iscsi.observe(host, WISH).holders == {
        NODE.place: (
            "/dev/sdc is used by dm-0",
            "/dev/sdc1 is mounted at /srv/a b",
            "/dev/sdc1 is used by md0",
        )
    }


def portal(**more):
    return {"address": "192.0.2.5", "port": 3260, "targets": [TARGET], "chap": None, **more}


def chap(**more):
    return {"user": "kvm1", "password": PHRASE, **more}


def test_portals_are_read(check):
    wish = parse(
        {
            "initiator_name": "iqn.2026-01.org.example:kvm1",
            "portals": [
                portal(chap=chap(mutual_user="store", mutual_password=OTHER)),
                portal(address="2001:DB8:0::5", targets=["eui.02004567A425678D"]),
            ],
            "database": "/var/lib/iscsi",
            "service": "iscsi.service",
        },
        20,
        "iscsi",
        check,
    )
    assert check.problems == []
    assert (wish.database, wish.service, wish.timeout) == ("/var/lib/iscsi", "iscsi.service", 20)
    first, second = wish.nodes
    assert first.chap == {
        **CHAP,
        "node.session.auth.username_in": "store",
        "node.session.auth.password_in": OTHER,
    }
    assert second.portal == "[2001:db8::5]:3260"
    assert iscsi.new_path(wish, second).endswith("/2001:db8::5,3260")


@pytest.mark.parametrize(
    ("item", "path"),
    [
        ({"initiator_name": "kvm1"}, "i.initiator_name"),
        ({"portals": [portal(address="store.example.org")]}, "i.portals[0].address"),
        ({"portals": [portal(port=0)]}, "i.portals[0].port"),
        ({"portals": [portal(targets=[])]}, "i.portals[0].targets"),
        ({"portals": [portal(targets=["../../etc"])]}, "i.portals[0].targets[0]"),
        ({"portals": [portal(), portal()]}, "i.portals[1]"),
        ({"portals": [portal(chap=chap(password=OTHER[:11]))]}, "i.portals[0].chap.password"),
        ({"portals": [portal(chap=chap(password=f"{PHRASE}\nx"))]}, "i.portals[0].chap.password"),
        (
            {"portals": [portal(chap=chap(mutual_user="s", mutual_password=PHRASE))]},
            "i.portals[0].chap.mutual_password",
        ),
        ({"database": "nodes"}, "i.database"),
    ],
)
def test_what_is_wrong_is_named_without_the_secret(check, item, path):
    parse(item, 30, "i", check)
    assert [problem.path for problem in check.problems] == [path]
    assert PHRASE not in str(check.problems[0])

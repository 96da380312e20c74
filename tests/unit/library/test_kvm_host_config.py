# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module kvm_host_config, run as Ansible runs it, below a root of the test's own."""

from __future__ import annotations

import json
import os
import runpy

import pytest
from ansible.module_utils.converge import lock
from ansible.module_utils.system import own_files
from ansible.module_utils.testing import patch_module_args

ACTION_KEYS = {
    *("id", "step", "object", "action", "host", "target", "when", "changes", "reason"),
    "destructive",
}
# A machine whose settings can be changed without a command.
FILES = {
    "etc/group": "root:x:0:\nkvm:x:106:\n",
    "proc/cmdline": "BOOT_IMAGE=/vmlinuz ro iommu=pt\n",
    "proc/meminfo": "MemTotal: 4194304 kB\n",
    "proc/sys/kernel/osrelease": "6.1\n",
    "proc/sys/vm/swappiness": "60\n",
    "sys/module/kvm/parameters/halt_poll_ns": "200000\n",
    "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "0\n",
    "sys/kernel/mm/ksm/run": "0\n",
}
STATED = {
    "modules": ["kvm"],
    "module_options": {"kvm": {"halt_poll_ns": 0}},
    "sysctl": {"vm.swappiness": 10},
    "hugepages": [{"size": "2MiB", "count": 4}],
    "ksm": {"run": True},
    "device_access": {},
}


class Host:
    """Runs the module on a root folder and returns its answer."""

    def __init__(self, repository, folder, capsys):
        self.module = runpy.run_path(str(repository / "library" / "kvm_host_config.py"))
        self.root = folder / "root"
        for path, content in FILES.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(content)
        self.capsys = capsys

    def run(self, *, check=False, **options):
        arguments = {
            "root": str(self.root),
            "host": "kvm1",
            **options,
            "_ansible_check_mode": check,
        }
        with patch_module_args(arguments), pytest.raises(SystemExit):
            self.module["main"]()
        return json.loads(self.capsys.readouterr().out)

    def files(self):
        return sorted(str(path) for path in self.root.rglob("*"))


@pytest.fixture
def host(repository, tmp_path, capsys):
    return Host(repository, tmp_path, capsys)


def test_check_mode_says_what_a_run_does_and_changes_nothing(host):
    before = host.files()
    answer = host.run(check=True, **STATED)
    assert host.files() == before
    assert answer["changed"] is True
    assert host.run(**STATED)["actions"] == answer["actions"]
    assert [action["object"] for action in answer["actions"]] == [
        "file/etc/modules-load.d/virtfleet.conf",
        "file/etc/modprobe.d/virtfleet-kvm.conf",
        "file/etc/sysctl.d/60-virtfleet.conf",
        "file/etc/tmpfiles.d/virtfleet.conf",
        "module/kvm",
        "sysctl/vm.swappiness",
        "hugepages/2MiB",
        "ksm",
    ]
    for number, action in enumerate(answer["actions"], start=1):
        assert set(action) == ACTION_KEYS
        assert (action["id"], action["host"]) == (f"a{number}", "kvm1")


def test_there_and_back_and_each_again(host):
    assert host.run(**STATED)["changed"] is True
    assert (host.root / "proc/sys/vm/swappiness").read_text().strip() == "10"
    again = host.run(**STATED)
    assert (again["changed"], again["actions"], again["diff"]) == (False, [], [])
    assert host.run(state="absent")["changed"] is True
    # A plain file keeps the end of what was longer; the kernel's do not.
    assert (host.root / "proc/sys/vm/swappiness").read_text().startswith("60")
    assert (host.root / "sys/kernel/mm/ksm/run").read_text().strip() == "0"
    assert host.run(state="absent")["changed"] is False
    left = set(host.files()) - {str(host.root / path) for path in FILES}
    assert [path for path in left if os.path.isfile(path) and not path.endswith("/lock")] == []


def test_files_are_shown_as_text_and_values_as_lines(host):
    diffs = {entry["after_header"]: entry for entry in host.run(check=True, **STATED)["diff"]}
    assert diffs["file/etc/sysctl.d/60-virtfleet.conf"]["after"].endswith("\nvm.swappiness = 10\n")
    assert diffs["file/etc/sysctl.d/60-virtfleet.conf"]["before"] == ""
    assert diffs["sysctl/vm.swappiness"] == {
        "before_header": "sysctl/vm.swappiness",
        "after_header": "sysctl/vm.swappiness",
        "before": "value: 60\n",
        "after": "value: 10\n",
    }


@pytest.mark.parametrize(
    ("arguments", "reboot", "blocked"),
    [(["iommu=pt"], False, 0), (["amd_iommu=on"], True, 0), ([], False, 0)],
)
def test_a_reboot_that_is_needed_is_said_and_is_no_change(host, arguments, reboot, blocked):
    for path, content in {
        "usr/sbin/update-grub": "",
        "boot/grub/grub.cfg": f"linux /vmlinuz ro {' '.join(arguments)}\n",
        "etc/default/grub.d/virtfleet.cfg": f"{own_files.MARK}"
        f'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {" ".join(arguments)}"\n',
    }.items():
        (host.root / path).parent.mkdir(parents=True, exist_ok=True)
        if arguments or "virtfleet" not in path:
            (host.root / path).write_text(content)
    answer = host.run(cmdline=arguments)
    assert (answer["changed"], answer["reboot_required"]) == (False, reboot)
    assert len(answer["blocked"]) == blocked
    assert [item["kind"] for item in answer["pending"]] == ["reboot_required"] * reboot


def test_without_a_known_boot_loader_arguments_are_blocked(host):
    answer = host.run(cmdline=["amd_iommu=on"])
    assert (answer["changed"], answer["reboot_required"], answer["pending"]) == (False, False, [])
    assert [item["object"] for item in answer["blocked"]] == ["kernel/cmdline"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"modules": ["a b"], "cmdline": ["c d"]}, "2 problems in the input"),
        ({"sysctl": {"vm.swapiness": 1}}, "did you mean swappiness?"),
        ({"hugepages": [{"size": "1GiB", "count": 1}]}, "pdpe1gb"),
        ({"hugepages": [{"size": "2MiB"}]}, "missing required arguments: count"),
        ({"hugepages": [{"size": "2MiB", "count": "many"}]}, "cannot be converted to an int"),
        ({"thp": {"enabled": "sometimes"}}, "value of enabled must be one of"),
        ({"ksm": {"runs": True}}, "Unsupported parameters"),
        ({"module_options": {"kvm": {"halt_poll": 1}}}, "did you mean halt_poll_ns?"),
        ({"module_options": "kvm"}, "dictionary requested"),
        ({"state": "gone"}, "value of state must be one of"),
        ({"device_access": {"mode": "0777"}}, "device_access.mode"),
    ],
)
def test_bad_input_fails_before_anything_is_touched(host, options, said):
    before = host.files()
    answer = host.run(**options)
    assert answer["failed"] is True
    assert said in answer["msg"]
    assert host.files() == before


def test_two_runs_at_once_name_each_other(host):
    folder = host.root / "var/lib/virtfleet"
    folder.mkdir(parents=True)
    with lock.exclusive(str(folder / "lock"), lock.holder("the first run")):
        answer = host.run(**STATED)
    assert answer["failed"] is True
    assert "the first run" in answer["msg"]
    assert (host.root / "proc/sys/vm/swappiness").read_text() == "60\n"


def test_a_disk_that_refuses_is_named(host):
    (host.root / "var").write_text("not a folder")
    answer = host.run(**STATED)
    assert answer["failed"] is True
    assert "/var" in answer["msg"]

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""All facets as one, on a made machine whose commands and files act as the kernel's do."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from ansible.module_utils.converge.action import LIVE, NEXT_BOOT
from ansible.module_utils.converge.errors import InputError, VirtfleetError
from ansible.module_utils.system import config, own_files, record
from ansible.module_utils.system.operation import Executor, OperationError
from ansible.module_utils.system.options import Options, parse

CPU = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu svm pdpe1gb\n"
GRUB_CFG = "menuentry 'x' {\n\tlinux\t/vmlinuz-6.1 root=/dev/vda1 ro  quiet\n}\n"
PARAMETERS = {
    "kvm": {"halt_poll_ns": "200000", "ignore_msrs": "N"},
    "kvm_amd": {"nested": "1", "npt": "Y", "avic": "N", "dump_invalid_vmcb": "N"},
    "br_netfilter": {},
}
WRITABLE = {"halt_poll_ns", "ignore_msrs", "dump_invalid_vmcb"}
HUGE = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
HUGE_1G = "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages"
THP = "/sys/kernel/mm/transparent_hugepage/enabled"
FILES = {
    "/proc/cpuinfo": CPU,
    "/proc/cmdline": "BOOT_IMAGE=/vmlinuz-6.1 root=/dev/vda1 ro quiet\n",
    "/proc/meminfo": "MemTotal:        4194304 kB\n",
    "/proc/sys/kernel/osrelease": "6.1.0\n",
    "/proc/sys/vm/swappiness": "60\n",
    "/lib/modules/6.1.0/modules.dep": (
        "kernel/arch/x86/kvm/kvm.ko: \nkernel/arch/x86/kvm/kvm-amd.ko: kernel/arch/x86/kvm/kvm.ko\n"
        "kernel/net/bridge/br_netfilter.ko.xz:\n"
    ),
    "/lib/modules/6.1.0/modules.builtin": "kernel/drivers/tty/serial.ko\n",
    "/sys/module/serial/initstate": "live\n",
    HUGE: "0\n",
    HUGE_1G: "0\n",
    "/sys/kernel/mm/ksm/run": "0\n",
    "/sys/kernel/mm/ksm/pages_to_scan": "100\n",
    "/sys/kernel/mm/ksm/sleep_millisecs": "20\n",
    "/sys/kernel/mm/ksm/merge_across_nodes": "1\n",
    "/sys/kernel/mm/ksm/pages_shared": "0\n",
    THP: "[always] madvise never\n",
    "/etc/group": "root:x:0:\n",
    "/usr/bin/udevadm": "",
    "/usr/sbin/update-grub": "",
    "/boot/grub/grub.cfg": GRUB_CFG,
}
STATED = {
    "modules": ["vendor", "br_netfilter"],
    "module_options": {"vendor": {"nested": False}, "kvm": {"halt_poll_ns": 1}},
    "cmdline": ["iommu=pt", "hugepagesz=1G", "hugepages=1"],
    "sysctl": {"vm.swappiness": 10, "net.bridge.bridge-nf-call-iptables": 0},
    "hugepages": [{"size": "2MiB", "count": 8, "node": None}],
    "ksm": {"run": True, "sleep": "50ms"},
    "thp": {"enabled": "madvise"},
    "governor": "performance",
    "device_access": {"group": "kvm", "mode": "0660"},
}


class Machine(Executor):
    """A folder that acts as a machine: it runs commands, and its files take what a kernel takes."""

    def __init__(self, root):
        super().__init__(str(root), self.command)
        self.commands = []
        self.most = {}  # path → the largest value that the kernel gives
        self.defaults = {name: dict(values) for name, values in PARAMETERS.items()}
        self.lacks = {}  # parameter → what the module makes of it, whatever is asked
        self.fails = ""
        self.steals = False  # the kvm device keeps its access
        for path, content in FILES.items():
            self.write(path, content)

    def path(self, path):
        return self._at(path)

    def write(self, path, content, mode=0o644):
        os.makedirs(os.path.dirname(self.path(path)), exist_ok=True)
        with open(self.path(path), "w", encoding="utf-8") as file:
            file.write(content)
        os.chmod(self.path(path), mode)

    def text(self, path):
        try:
            with open(self.path(path), encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def execute(self, operation):
        if hasattr(operation, "argv"):
            self._command(operation)
        else:
            super().execute(operation)

    def _put(self, path, value):
        shown = path[len(self.root) :]
        if not os.path.exists(path):
            raise FileNotFoundError(2, "No such file or directory")
        if shown == THP:
            value = " ".join(f"[{w}]" if w == value else w for w in ("always", "madvise", "never"))
        if shown in self.most:
            value = str(min(int(value), self.most[shown]))
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"{value}\n")

    def command(self, argv):
        argv = tuple(argv)
        self.commands.append(argv)
        if self.fails and self.fails in argv:
            return 1, "", "it failed"
        name = argv[0]
        if name == "modprobe" and argv[1] == "-r":
            for module in argv[2:]:
                shutil.rmtree(self.path(f"/sys/module/{module}"), ignore_errors=True)
        elif name == "modprobe":
            self.load(argv[1])
        elif name == "groupadd":
            self.write("/etc/group", self.text("/etc/group") + "kvm:x:106:\n")
        elif name == "update-grub":
            found = self.text("/etc/default/grub.d/virtfleet.cfg") or ""
            ours = "".join(found.split("GRUB_CMDLINE_LINUX ")[1:]).strip().rstrip('"')
            self.write("/boot/grub/grub.cfg", GRUB_CFG.replace("ro ", f"ro {ours}"))
        else:
            assert name == "udevadm", f"an unexpected command: {argv}"
        return 0, "", ""

    def load(self, module):
        if module == "kvm_amd":
            self.load("kvm")
            self.write("/sys/module/kvm/holders/kvm_amd", "")
            self.write("/sys/module/kvm/refcnt", "1\n")
            self.write("/dev/kvm", "", 0o600)
            os.chown(self.path("/dev/kvm"), 0, 0 if self.steals else 106)
            os.chmod(self.path("/dev/kvm"), 0o660)
        if os.path.exists(self.path(f"/sys/module/{module}/refcnt")):
            return
        values = dict(self.defaults[module])
        for line in (self.text("/etc/modprobe.d/virtfleet-kvm.conf") or "").splitlines():
            words = line.split()
            if words[:2] == ["options", module]:
                values.update(word.split("=") for word in words[2:])
        values.update({k: v for k, v in self.lacks.items() if k in values})
        for name, value in values.items():
            mode = 0o644 if name in WRITABLE else 0o444
            self.write(f"/sys/module/{module}/parameters/{name}", f"{value}\n", mode)
        self.write(f"/sys/module/{module}/refcnt", "0\n")
        if module == "br_netfilter":
            self.write("/proc/sys/net/bridge/bridge-nf-call-iptables", "1\n")

    def reboot(self):
        shutil.rmtree(self.path("/run"), ignore_errors=True)
        args = self.text("/boot/grub/grub.cfg").split("linux")[1].split("\n")[0].split()
        self.write("/proc/cmdline", f"BOOT_IMAGE={' '.join(args)}\n")


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path / "root")


def host_of(machine):
    host = config.Host(machine.root, "kvm1", machine.command)
    host._executor = machine
    host.real = True
    return host


def bring(machine, stated=None, *, absent=False):
    """Plan and apply; return the plan's actions, all that is pending, and what is blocked."""
    host = host_of(machine)
    planned = host.plan(Options() if stated is None else parse(stated), absent=absent)
    missed = host.apply(planned) if planned.keeps else ()
    plan = planned.plan()
    return plan.actions, (*plan.pending, *missed), plan.blocked


def kinds(pending):
    return sorted((item.object, item.kind) for item in pending)


def test_a_bare_machine_is_planned_without_being_touched(machine):
    before = sorted(os.walk(machine.root))
    planned = host_of(machine).plan(parse(STATED))
    assert sorted(os.walk(machine.root)) == before
    assert machine.commands == []
    assert [(step.action.step, step.action.object) for step in planned.steps] == [
        (1, "group/kvm"),
        (1, "file/etc/modules-load.d/virtfleet.conf"),
        (1, "file/etc/modprobe.d/virtfleet-kvm.conf"),
        (1, "file/etc/sysctl.d/60-virtfleet.conf"),
        (1, "file/etc/tmpfiles.d/virtfleet.conf"),
        (1, "file/etc/udev/rules.d/65-virtfleet-kvm.rules"),
        (2, "module/kvm_amd"),
        (2, "module/br_netfilter"),
        (4, "sysctl/vm.swappiness"),
        (4, "sysctl/net.bridge.bridge-nf-call-iptables"),
        (4, "hugepages/2MiB"),
        (4, "ksm"),
        (4, "thp"),
        (6, "kernel/cmdline"),
    ]
    assert kinds(planned.outcome.pending) == [
        ("governor", "not_available"),
        ("kernel/cmdline", "reboot_required"),
    ]


def test_the_run_does_what_was_planned_and_a_second_one_nothing(machine):
    planned = host_of(machine).plan(parse(STATED)).plan()
    actions, pending, blocked = bring(machine, STATED)
    assert (actions, pending, blocked) == (planned.actions, planned.pending, ())
    assert machine.text("/proc/sys/vm/swappiness") == "10\n"
    assert machine.text("/proc/sys/net/bridge/bridge-nf-call-iptables") == "0\n"
    assert machine.text(HUGE) == "8\n"
    assert machine.text(THP) == "always [madvise] never\n"
    assert machine.text("/sys/module/kvm_amd/parameters/nested") == "0\n"
    assert machine.text("/sys/module/kvm/parameters/halt_poll_ns") == "1\n"
    assert machine.text(config.TMPFILES) == own_files.MARK + (
        f"w {HUGE} - - - - 8\n"
        "w /sys/kernel/mm/ksm/sleep_millisecs - - - - 50\n"
        "w /sys/kernel/mm/ksm/run - - - - 1\n"
        f"w {THP} - - - - madvise\n"
        "w /sys/devices/system/cpu/cpufreq/policy*/scaling_governor - - - - performance\n"
    )
    actions, again, blocked = bring(machine, STATED)
    assert (actions, blocked) == ((), ())
    assert kinds(again) == kinds(pending)


def test_after_the_reboot_nothing_is_outstanding(machine):
    bring(machine, {"cmdline": STATED["cmdline"]})
    machine.reboot()
    assert bring(machine, {"cmdline": STATED["cmdline"]}) == ((), (), ())


def test_a_changed_statement_changes_only_that(machine):
    bring(machine, STATED)
    actions, _, _ = bring(machine, {**STATED, "sysctl": {**STATED["sysctl"], "vm.swappiness": 5}})
    assert [action.object for action in actions] == [
        "file/etc/sysctl.d/60-virtfleet.conf",
        "sysctl/vm.swappiness",
    ]
    assert {action.when for action in actions} == {LIVE}


def test_what_is_not_stated_any_more_leaves_the_files_and_stays_live(machine):
    bring(machine, STATED)
    less = {**STATED, "sysctl": {"vm.swappiness": 10}, "cmdline": ["iommu=pt"], "thp": None}
    actions, pending, _ = bring(machine, less)
    assert [(action.object, action.when) for action in actions] == [
        ("file/etc/sysctl.d/60-virtfleet.conf", NEXT_BOOT),
        ("file/etc/tmpfiles.d/virtfleet.conf", NEXT_BOOT),
        ("kernel/cmdline", NEXT_BOOT),
    ]
    assert machine.text(THP) == "always [madvise] never\n"
    assert "hugepagesz" not in machine.text("/boot/grub/grub.cfg")
    assert bring(machine, less)[:2] == ((), pending)


def test_absent_takes_all_of_it_away_and_puts_values_back(machine):
    bring(machine, STATED)
    machine.write("/proc/sys/vm/swappiness", "33\n")  # somebody else's since
    machine.reboot()
    actions, pending, blocked = bring(machine, absent=True)
    assert blocked == ()
    for path in config._FILES:
        assert machine.text(path) is None, path
    assert machine.text(record.KEPT) is None
    assert machine.text(HUGE) == "0\n"
    assert machine.text(THP) == "[always] madvise never\n"
    assert machine.text("/sys/kernel/mm/ksm/run") == "0\n"
    assert machine.text("/sys/kernel/mm/ksm/sleep_millisecs") == "20\n"
    assert machine.text("/proc/sys/vm/swappiness") == "33\n"
    assert "setting/proc/sys/vm/swappiness" not in {action.object for action in actions}
    assert kinds(pending) == [("kernel/cmdline", "reboot_required")]
    assert [change.before for change in pending[0].changes] == STATED["cmdline"]
    assert bring(machine, absent=True)[:2] == ((), pending)
    machine.reboot()
    assert bring(machine, absent=True) == ((), (), ())


def test_absent_on_a_machine_that_has_nothing_of_it(machine):
    assert bring(machine, absent=True) == ((), (), ())
    assert machine.commands == []


@pytest.mark.parametrize("fails", ["kvm_amd", "br_netfilter", "groupadd", "update-grub"])
def test_a_run_that_failed_is_completed_by_the_next(machine, fails):
    machine.fails = fails
    with pytest.raises(OperationError, match="it failed"):
        bring(machine, STATED)
    machine.fails = ""
    assert bring(machine, STATED)[0]
    assert bring(machine, STATED)[0] == ()
    bring(machine, absent=True)
    assert machine.text("/proc/sys/vm/swappiness") == "60\n"
    assert machine.text(record.KEPT) is None


def test_an_ended_way_back_is_completed(machine):
    bring(machine, STATED)
    machine.fails = "update-grub"
    with pytest.raises(OperationError):
        bring(machine, absent=True)
    machine.fails = ""
    actions, _, _ = bring(machine, absent=True)
    assert [action.object for action in actions] == ["kernel/cmdline"]
    assert "iommu" not in machine.text("/boot/grub/grub.cfg")
    assert machine.text(record.KEPT) is None
    assert bring(machine, absent=True)[0] == ()


def test_a_parameter_that_takes_a_reload_gets_one_when_nothing_uses_the_module(machine):
    machine.load("kvm_amd")
    stated = {"module_options": {"vendor": {"nested": False, "npt": True}}}
    actions, pending, _ = bring(machine, stated)
    assert [action.object for action in actions] == [
        "file/etc/modprobe.d/virtfleet-kvm.conf",
        "module/kvm_amd",
    ]
    assert machine.commands == [("modprobe", "-r", "kvm_amd"), ("modprobe", "kvm_amd")]
    assert machine.text("/sys/module/kvm_amd/parameters/nested") == "0\n"
    assert pending == ()
    assert bring(machine, stated) == ((), (), ())


def test_a_reloaded_parameter_is_left_over_until_the_module_is_loaded_again(machine):
    machine.load("kvm_amd")
    bring(machine, {"module_options": {"kvm_amd": {"nested": 0}}})
    actions, pending, _ = bring(machine, absent=True)
    assert [action.when for action in actions] == [NEXT_BOOT]
    assert kinds(pending) == [("module/kvm_amd", "reload_required")]
    assert bring(machine, absent=True)[:2] == ((), pending)
    machine.write("/sys/module/kvm_amd/parameters/nested", "1\n", 0o444)
    assert bring(machine, absent=True) == ((), (), ())


def test_a_module_in_use_is_not_reloaded_and_its_file_waits_for_that(machine):
    machine.load("kvm_amd")
    machine.write("/sys/module/kvm_amd/refcnt", "3\n")
    stated = {"module_options": {"vendor": {"nested": False}}}
    actions, pending, _ = bring(machine, stated)
    assert [(action.object, action.when) for action in actions] == [
        ("file/etc/modprobe.d/virtfleet-kvm.conf", NEXT_BOOT)
    ]
    assert kinds(pending) == [("module/kvm_amd", "reload_required")]
    assert machine.commands == []
    assert bring(machine, stated)[:2] == ((), pending)


@pytest.mark.parametrize("loaded", [True, False])
def test_a_parameter_that_the_hardware_lacks_is_told_and_not_tried_again(machine, loaded):
    machine.lacks = {"avic": "N"}
    if loaded:
        machine.load("kvm_amd")
    stated = {"modules": ["vendor"], "module_options": {"vendor": {"avic": True}}}
    actions, pending, _ = bring(machine, stated)
    assert actions
    assert kinds(pending) == [("module/kvm_amd", "not_available")]
    assert bring(machine, stated)[:2] == ((), pending)
    machine.reboot()
    assert bring(machine, stated)[:2] == ((), pending)
    machine.write("/proc/sys/kernel/osrelease", "6.2.0\n")
    shutil.move(machine.path("/lib/modules/6.1.0"), machine.path("/lib/modules/6.2.0"))
    assert [action.action for action in bring(machine, stated)[0]] == ["restart"]
    bring(machine, absent=True)
    assert machine.text(record.KEPT) is None


def test_pages_that_the_kernel_does_not_give_are_told_and_asked_for_again_after_a_boot(machine):
    machine.most = {HUGE: 5}
    stated = {"hugepages": [{"size": "2MiB", "count": 8}]}
    actions, pending, _ = bring(machine, stated)
    assert [action.object for action in actions][-1] == "hugepages/2MiB"
    assert kinds(pending) == [("hugepages/2MiB", "hugepages_short")]
    assert "8 pages were asked for and the kernel has 5" in pending[0].reason
    assert bring(machine, stated)[:2] == ((), pending)
    machine.reboot()
    machine.most = {}
    assert bring(machine, stated)[1] == ()
    assert machine.text(HUGE) == "8\n"


def test_pages_that_were_given_in_part_go_back_too(machine):
    machine.most = {HUGE: 5}
    bring(machine, {"hugepages": [{"size": "2MiB", "count": 8}]})
    assert machine.text(HUGE) == "5\n"
    bring(machine, absent=True)
    assert machine.text(HUGE) == "0\n"


def test_arguments_that_are_blocked_do_not_keep_the_device_from_being_proven(machine):
    machine.write("/proc/cmdline", "root=/dev/vda rw\n")
    machine.steals = True
    with pytest.raises(VirtfleetError, match="expected kvm and 0660"):
        bring(machine, STATED)


def test_an_image_gets_its_files_alone(tmp_path):
    def never(argv):
        raise AssertionError(argv)

    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/group").write_text("kvm:x:106:\n")
    host = config.Host(str(tmp_path), "kvm1", never)
    stated = {**STATED, "modules": ["kvm_amd"], "cmdline": []}
    stated["module_options"] = {"kvm_amd": {"nested": True}}
    planned = host.plan(parse(stated))
    assert {step.action.when for step in planned.steps} == {NEXT_BOOT}
    assert (planned.outcome.pending, planned.outcome.blocked) == ((), ())
    assert host.apply(planned) == ()
    assert "governor - - - - performance" in (tmp_path / config.TMPFILES[1:]).read_text()
    assert not host.plan(parse(stated)).keeps


def test_all_that_the_machine_lacks_is_said_at_once_and_nothing_touched(machine):
    machine.load("kvm_amd")
    machine.write("/proc/cpuinfo", CPU.replace("AuthenticAMD", "Unknown"))
    machine.write(
        "/sys/devices/system/cpu/cpufreq/policy0/scaling_available_governors", "powersave"
    )
    stated = {
        "modules": ["br_netfilterr", "vendor"],
        "module_options": {"kvm_amd": {"nestd": True}},
        "sysctl": {"vm.swapiness": 1, "net.bridge.bridge-nf-call-iptables": 0},
        "hugepages": [{"size": "4MiB", "count": 1}, {"size": "2MiB", "count": 9999}],
        "governor": "performance",
    }
    machine.commands.clear()
    with pytest.raises(InputError) as raised:
        host_of(machine).plan(parse(stated))
    found = {problem.path: problem.remedy for problem in raised.value.problems}
    assert found == {
        "modules[0]": "did you mean br_netfilter?",
        "modules[1]": "name the module itself",
        "module_options.kvm_amd.nestd": "did you mean nested?",
        "sysctl.vm.swapiness": "did you mean swappiness?",
        "sysctl.net.bridge.bridge-nf-call-iptables": (
            "it comes with br_netfilter: state that under modules"
        ),
        "hugepages[0].size": None,
        "hugepages": None,
        "governor": None,
    }
    assert machine.commands == []


def test_somebody_elses_file_is_not_overwritten(machine):
    machine.write("/etc/sysctl.d/60-virtfleet.conf", "vm.swappiness = 1\n")
    with pytest.raises(VirtfleetError, match="is not virtfleet's"):
        bring(machine, STATED)
    assert machine.text("/etc/sysctl.d/60-virtfleet.conf") == "vm.swappiness = 1\n"


def test_a_device_that_another_rule_keeps_is_an_error(machine):
    machine.steals = True
    with pytest.raises(VirtfleetError, match="group root with mode 0660, expected kvm and 0660"):
        bring(machine, STATED)


def test_a_spoiled_record_is_no_obstacle(machine):
    bring(machine, STATED)
    for path in (record.KEPT, record.BOOT):
        machine.write(path, '["not", "a record"]')
    assert bring(machine, STATED)[0] == ()
    machine.write(record.KEPT, "{")
    bring(machine, absent=True)
    assert machine.text(record.KEPT) is None


def test_the_record_says_what_was_there_before(machine):
    bring(machine, {"sysctl": {"vm.swappiness": 10}})
    bring(machine, {"sysctl": {"vm.swappiness": 20}})
    kept = json.loads(machine.text(record.KEPT))
    assert kept == {"changed": {"/proc/sys/vm/swappiness": ["60", "20"]}}

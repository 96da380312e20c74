# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernel modules: which are there, which are loaded, and what keeps one from being loaded."""

from __future__ import annotations

import pytest
from ansible.module_utils.system import kernel_modules
from ansible.module_utils.system.kernel_modules import Observed
from ansible.module_utils.system.operation import Run

DEP = "kernel/kvm/kvm.ko.xz:\nkernel/kvm/kvm-amd.ko.zst: kernel/kvm/kvm.ko.xz\nkernel/x.ko:\n"
CPU = "processor\t: 0\nvendor_id\t: {}\nflags\t\t: fpu svm\n"
BARE = Observed(
    "6.1", frozenset({"x"}), frozenset({"x", "kvm_amd", "tun"}), flags=frozenset({"svm"})
)


def make(root, files):
    for path, content in files.items():
        full = root / path.lstrip("/")
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_text(content, encoding="utf-8")
    return str(root)


def test_a_machine_is_read(tmp_path):
    files = {
        "/proc/sys/kernel/osrelease": "6.1\n",
        "/proc/cpuinfo": CPU.format("AuthenticAMD"),
        "/lib/modules/6.1/modules.dep": DEP,
        "/lib/modules/6.1/modules.builtin": "kernel/drivers/tun-b.ko\n",
        "/sys/module/x/refcnt": "0",
        "/etc/modprobe.d/a.conf": "# blacklist no\nblacklist kvm-amd\n  blacklist  floppy # why\n",
        "/etc/modprobe.d/a.conf.bak": "blacklist x\n",
        "/usr/lib/modprobe.d/z.conf": "blacklist kvm_amd\n",
    }
    assert kernel_modules.read(make(tmp_path, files)) == Observed(
        release="6.1",
        loaded=frozenset({"x", "tun_b"}),
        on_disk=frozenset({"x", "kvm", "kvm_amd", "tun_b"}),
        blacklisted={"kvm_amd": "/etc/modprobe.d/a.conf", "floppy": "/etc/modprobe.d/a.conf"},
        vendor="kvm_amd",
        flags=frozenset({"fpu", "svm"}),
    )


def test_where_nothing_is_there_nothing_is_said(tmp_path):
    found = kernel_modules.read(str(tmp_path))
    assert found == Observed()
    assert found.missing(["kvm"]) == []


@pytest.mark.parametrize(
    ("maker", "loaded", "vendor"),
    [
        ("GenuineIntel", (), "kvm_intel"),
        ("AuthenticAMD", (), "kvm_amd"),
        ("HygonGenuine", (), "kvm_amd"),
        ("CentaurHauls", (), None),
        ("AuthenticAMD", ("kvm_pvm",), "kvm_pvm"),
        ("AuthenticAMD", ("kvm_pvm", "kvm_amd"), "kvm_amd"),
        ("GenuineIntel", ("kvm_amd", "kvm_intel"), "kvm_intel"),
    ],
)
def test_vendor_is_the_module_of_the_processor(tmp_path, maker, loaded, vendor):
    files = {f"/sys/module/{name}/x": "" for name in loaded}
    root = make(tmp_path, {**files, "/proc/cpuinfo": CPU.format(maker)})
    assert kernel_modules.read(root).vendor == vendor


@pytest.mark.parametrize(
    ("observed", "modules", "problems"),
    [
        (BARE, ["tun", "kvm_amd", "x"], []),
        (BARE, ["tunn"], [("modules[0]", "did you mean tun?")]),
        (BARE, ["tun", "zzzzzz"], [("modules[1]", "install the package that has it")]),
        (BARE, ["vendor"], []),
        (Observed("6.1", frozenset(), None), ["zzzzzz"], []),
        (Observed("6.1", None, frozenset()), ["zzzzzz"], []),
    ],
)
def test_a_module_that_the_kernel_does_not_have_is_named(observed, modules, problems):
    found = kernel_modules.check_known(modules, observed)
    assert [(problem.path, problem.remedy) for problem in found] == problems


def test_what_is_not_loaded_is_loaded_once():
    outcome = kernel_modules.plan(["x", "kvm_amd", "tun", "tun"], BARE, "kvm1")
    assert [step.operations for step in outcome.steps] == [
        (Run(("modprobe", "kvm_amd")),),
        (Run(("modprobe", "tun")),),
    ]
    assert (outcome.pending, outcome.blocked) == ((), ())
    assert kernel_modules.loading(outcome) == {"kvm_amd", "tun"}


def test_without_the_processors_flag_the_vendor_module_is_blocked():
    observed = Observed("6.1", frozenset(), BARE.on_disk)
    outcome = kernel_modules.plan(["kvm_amd", "tun"], observed, "kvm1")
    assert kernel_modules.loading(outcome) == {"tun"}
    assert [(item.object, "svm" in item.reason) for item in outcome.blocked] == [
        ("module/kvm_amd", True)
    ]


def test_without_modules_on_disk_it_is_told_that_none_can_be_loaded():
    outcome = kernel_modules.plan(["tun", "x"], Observed("6.9", frozenset({"x"})), "kvm1")
    assert (outcome.steps, outcome.blocked) == ((), ())
    assert [(item.object, item.kind) for item in outcome.pending] == [
        ("module/tun", "not_available")
    ]
    assert "6.9" in outcome.pending[0].reason


def test_a_blacklisted_module_is_loaded_now_and_told():
    observed = Observed("6.1", frozenset(), BARE.on_disk, {"tun": "/etc/modprobe.d/a.conf"})
    outcome = kernel_modules.plan(["tun"], observed, "kvm1")
    assert kernel_modules.loading(outcome) == {"tun"}
    assert [(item.kind, item.reason) for item in outcome.pending] == [
        (
            "blacklisted",
            "/etc/modprobe.d/a.conf has it on the blacklist, so it is not loaded at boot",
        )
    ]

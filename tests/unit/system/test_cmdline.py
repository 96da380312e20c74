# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's command line: the loader in use, what it hands over, what waits for a reboot."""

from __future__ import annotations

import pytest
from ansible.module_utils.converge.action import NEXT_BOOT
from ansible.module_utils.system import bootloader, cmdline
from ansible.module_utils.system.bootloader import GRUB, GRUB_FILE, GRUBBY, SYSTEMD_BOOT, Observed
from ansible.module_utils.system.operation import Run, Write
from ansible.module_utils.system.own_files import MARK

GRUB_DEBIAN = {
    "/usr/sbin/update-grub": "",
    "/boot/grub/grub.cfg": "menuentry 'a' {\n\tlinux\t/vmlinuz root=/dev/sda1 ro a=1 quiet\n}\n"
    "menuentry 'b' {\n  linuxefi /vmlinuz root=/dev/sda1 single\n linux_other x\n}\n",
}
BLS = {
    "/boot/loader/entries/one.conf": (
        "title x\nlinux /vmlinuz\noptions root=/dev/sda1 ro\noptions quiet\n"
    ),
    "/boot/loader/entries/windows.conf": "title Windows\nefi /bootmgfw.efi\n",
    "/boot/loader/entries/notes.txt": "linux /no\n",
}
BY_GRUB = {"/proc/cmdline": "BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro\n"}
DIRECT = {"/proc/cmdline": "root=/dev/vda rw console=ttyS0\n"}


def make(root, files):
    for path, content in files.items():
        full = root / path.lstrip("/")
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_text(content, encoding="utf-8")
    return str(root)


@pytest.mark.parametrize(
    ("files", "kind", "entries"),
    [
        (
            {**GRUB_DEBIAN, **BY_GRUB},
            GRUB,
            (("root=/dev/sda1", "ro", "a=1", "quiet"), ("root=/dev/sda1", "single")),
        ),
        (
            GRUB_DEBIAN,
            GRUB,
            (("root=/dev/sda1", "ro", "a=1", "quiet"), ("root=/dev/sda1", "single")),
        ),
        ({**GRUB_DEBIAN, **DIRECT}, None, ()),
        ({**BLS, **BY_GRUB, "/usr/sbin/grubby": ""}, GRUBBY, (("root=/dev/sda1", "ro", "quiet"),)),
        (
            {**BLS, **DIRECT, "/usr/bin/kernel-install": ""},
            SYSTEMD_BOOT,
            (("root=/dev/sda1", "ro", "quiet"),),
        ),
        ({**BLS, **DIRECT}, None, ()),
        ({"/usr/sbin/grubby": "", **DIRECT}, None, ()),
        ({"/usr/sbin/update-grub": "", **BY_GRUB}, None, ()),
        ({}, None, ()),
    ],
    ids=[
        "debian", "debian-image", "grub-not-in-use", "el", "systemd-boot", "entries-alone",
        "grubby-alone", "grub-without-config", "nothing",
    ],
)  # fmt: skip
def test_the_loader_in_use_is_found(tmp_path, files, kind, entries):
    found = bootloader.read(make(tmp_path, files), None)
    assert (found.kind, found.entries) == (kind, entries)
    assert bool(found.why) == (kind is None)


def test_what_systemd_boot_keeps_comes_from_its_file_or_from_the_running_kernel(tmp_path):
    files = {
        **BLS,
        "/bin/kernel-install": "",
        "/proc/cmdline": "initrd=\\x root=/dev/sda1 rw",
        "/lib/modules/6.1/modules.dep": "",
        "/lib/modules/6.2/vmlinuz": "",
        "/lib/modules/6.3/modules.dep": "",
        "/boot/vmlinuz-6.1": "",
    }
    root = make(tmp_path, files)
    found = bootloader.read(root, None)
    assert found.base == ("root=/dev/sda1", "rw")
    assert found.kernels == (("6.1", "/boot/vmlinuz-6.1"), ("6.2", "/lib/modules/6.2/vmlinuz"))
    make(tmp_path, {"/etc/kernel/cmdline": "root=LABEL=x\nquiet\n"})
    assert bootloader.read(root, None).base == ("root=LABEL=x", "quiet")


def test_what_our_snippet_states_is_read_back(tmp_path):
    text = bootloader.snippet(["a=1", "b"])
    assert text == f'{MARK}GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX a=1 b"\n'
    assert bootloader.read(str(tmp_path), text).stated == ("a=1", "b")
    assert bootloader.snippet([]) is None


@pytest.mark.parametrize(
    ("found", "arguments", "held"),
    [
        ("a b c", "a c", True),
        ("a b c", "c a", False),
        ("hugepagesz=1G hugepages=2 x", "hugepagesz=1G hugepages=2", True),
        ("hugepagesz=2M hugepages=4 hugepagesz=1G hugepages=2", "hugepagesz=1G hugepages=4", False),
        ("a", "", True),
        ("a=10", "a=1", False),
    ],
)
def test_order_counts(found, arguments, held):
    assert cmdline.holds(found.split(), arguments.split()) is held


def observed(kind=GRUB, running="BOOT_IMAGE=x ro", entries=("ro",), **more):
    return Observed(
        None if running is None else tuple(running.split()),
        kind,
        entries=tuple(tuple(entry.split()) for entry in entries),
        **more,
    )


GRUB_DONE = {"running": "ro a=1", "entries": ("ro a=1", "ro a=1 single"), "stated": ("a=1",)}


@pytest.mark.parametrize(
    ("found", "arguments", "recorded", "operations"),
    [
        (
            observed(),
            ["a=1"],
            (),
            (Write(GRUB_FILE, bootloader.snippet(["a=1"])), Run(("update-grub",))),
        ),
        (observed(**GRUB_DONE), ["a=1"], ("a=1",), None),
        (
            observed(**{**GRUB_DONE, "entries": ("ro a=1", "ro")}),
            ["a=1"],
            (),
            (Write(GRUB_FILE, bootloader.snippet(["a=1"])), Run(("update-grub",))),
        ),
        (observed(**GRUB_DONE), [], (), (Write(GRUB_FILE, None), Run(("update-grub",)))),
        (observed(), [], (), None),
        (
            observed(GRUBBY),
            ["a=1", "b"],
            ("old=1",),
            (Run(("grubby", "--update-kernel=ALL", "--remove-args=old=1", "--args=a=1 b")),),
        ),
        (observed(GRUBBY, entries=("ro a=1",)), ["a=1"], ("a=1",), None),
        (
            observed(GRUBBY, entries=("ro a=1",)),
            [],
            ("a=1",),
            (Run(("grubby", "--update-kernel=ALL", "--remove-args=a=1")),),
        ),
        (
            observed(SYSTEMD_BOOT, base=("root=x", "old=1"), kernels=(("6.1", "/boot/k"),)),
            ["a=1"],
            ("old=1",),
            (
                Write("/etc/kernel/cmdline", "root=x a=1\n"),
                Run(("kernel-install", "add", "6.1", "/boot/k")),
            ),
        ),
        (observed(SYSTEMD_BOOT, entries=("ro a=1",), base=("ro", "a=1")), ["a=1"], (), None),
    ],
)
def test_the_loaders_entries_are_brought_to_what_is_stated(found, arguments, recorded, operations):
    outcome = cmdline.plan(arguments, found, recorded, (), "kvm1")
    assert outcome.blocked == ()
    if operations is None:
        assert outcome.steps == ()
        return
    (step,) = outcome.steps
    assert step.operations == operations
    assert step.action.when == NEXT_BOOT
    assert step.action.changes


@pytest.mark.parametrize(
    ("running", "arguments", "left", "changes"),
    [
        ("ro", ["a=1"], (), [("a", None, "a=1")]),
        ("ro a=0", ["a=1"], (), [("a", "a=0", "a=1")]),
        ("ro a=1", ["a=1"], (), None),
        ("b a", ["a", "b"], (), [("a", "a", "a"), ("b", "b", "b")]),
        ("ro old", [], ("old",), [("old", "old", None)]),
        ("ro", [], ("old",), None),
        ("ro old", ["old"], ("old",), None),
        (None, ["a=1"], ("old",), None),
    ],
)
def test_what_the_running_kernel_lacks_waits_for_a_reboot(running, arguments, left, changes):
    outcome = cmdline.plan(arguments, observed(running=running), (), left, "kvm1")
    if changes is None:
        assert outcome.pending == ()
        return
    (pending,) = outcome.pending
    assert pending.kind == "reboot_required"
    assert [(c.path, c.before, c.after) for c in pending.changes] == changes


UNKNOWN = {"kind": None, "why": "no boot loader is known here", "running": "ro"}


def test_without_a_known_loader_nothing_is_done_and_the_arguments_are_named():
    outcome = cmdline.plan(["a=1"], observed(**UNKNOWN), (), (), "kvm1")
    assert (outcome.steps, outcome.pending) == ((), ())
    (blocked,) = outcome.blocked
    assert blocked.reason == "no boot loader is known here"
    assert blocked.remedy.endswith(": a=1")


def test_arguments_that_the_kernel_has_already_need_no_loader():
    found = observed(**{**UNKNOWN, "running": "ro a=1"})
    assert cmdline.plan(["a=1"], found, (), (), "kvm1") == cmdline.Outcome()


def test_arguments_that_cannot_be_taken_away_are_blocked():
    outcome = cmdline.plan([], observed(**UNKNOWN), ("a=1",), (), "kvm1")
    assert outcome.blocked[0].remedy.endswith("(without a=1)")


def test_our_snippet_leaves_a_grub_that_is_not_in_use():
    found = observed(**{**UNKNOWN, "running": "ro a=1"}, stated=("a=1",))
    outcome = cmdline.plan([], found, ("a=1",), (), "kvm1")
    assert [step.operations for step in outcome.steps] == [(Write(GRUB_FILE, None),)]
    assert [pending.kind for pending in outcome.pending] == ["reboot_required"]


def test_grubby_is_not_given_one_argument_twice():
    arguments = ["hugepagesz=1G", "hugepages=1", "hugepagesz=2M", "hugepages=8"]
    outcome = cmdline.plan(arguments, observed(GRUBBY), (), (), "kvm1")
    assert outcome.steps == ()
    assert "one is stated twice" in outcome.blocked[0].reason


@pytest.mark.parametrize(
    ("found", "arguments", "recorded", "after"),
    [
        (observed(), ["a"], (), ("a",)),
        (observed(entries=("ro a",)), ["a"], (), ()),
        (observed(entries=("ro a",)), ["a"], ("a",), ("a",)),
        (observed(entries=("ro a",), stated=("a",)), ["a"], (), ("a",)),
        (observed(SYSTEMD_BOOT, base=("a",)), ["a", "b"], ("old",), ("b",)),
        (observed(**UNKNOWN), ["a"], ("old",), ("old",)),
    ],
)
def test_what_somebody_else_stated_is_not_recorded_as_ours(found, arguments, recorded, after):
    assert cmdline.record(arguments, found, recorded) == after

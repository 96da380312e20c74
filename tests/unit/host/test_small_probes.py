# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Control groups, device nodes, modules and software from made trees."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.host import observe
from ansible.module_utils.host.probes import cgroups, devices, modules, software

V1 = "".join(
    f"cgroup /sys/fs/cgroup/{name} cgroup rw,relatime,{name} 0 0\n"
    for name in ("cpu,cpuacct", "cpuset", "memory", "devices", "blkio")
)
V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"
UNIFIED = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
LISTED = {"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids\n"}


@pytest.mark.parametrize(
    ("mounts", "files", "programs", "version", "found"),
    [
        (V1, {}, None, "v1", dict.fromkeys(cgroups.CONTROLLERS, "v1")),
        (V1 + UNIFIED, {}, None, "hybrid", dict.fromkeys(cgroups.CONTROLLERS, "v1")),
        (V2, LISTED, True, "v2", dict.fromkeys(cgroups.CONTROLLERS, "v2")),
        (V2, LISTED, False, "v2", {"devices": "", "cpuacct": "v2"}),
        (V2, LISTED, None, "v2", {"devices": None, "blkio": "v2"}),
        (
            V2,
            {"/sys/fs/cgroup/cgroup.controllers": "pids\n"},
            True,
            "v2",
            {"cpu": "", "memory": ""},
        ),
        ("tmpfs /tmp tmpfs rw 0 0\n", {}, True, "none", dict.fromkeys(cgroups.CONTROLLERS, "")),
    ],
)
def test_cgroups(tree, mounts, files, programs, version, found):
    asked = []

    def device_programs(path):
        asked.append(path)
        return programs

    seen = cgroups.probe(tree({"/proc/mounts": mounts, **files}), device_programs)
    assert seen.version == version
    assert {name: seen.controllers[name] for name in found} == found
    assert asked == [] or asked[0].endswith("/sys/fs/cgroup")


def test_cgroups_of_another_root_are_not_asked(tree):
    seen = cgroups.probe(tree({"/proc/mounts": V2, **LISTED}))
    assert (seen.controllers["devices"], seen.controllers["cpu"]) == (None, "v2")


def test_cgroups_not_readable(tmp_path):
    seen = cgroups.probe(str(tmp_path))
    assert seen.version is None
    assert set(seen.controllers.values()) == {None}


def test_device_programs_of_what_is_no_cgroup(tmp_path):
    assert cgroups.takes_device_programs(str(tmp_path / "none")) is None
    assert cgroups.takes_device_programs(str(tmp_path)) in (False, None)


def test_device_nodes(tree):
    found = devices.probe(
        tree({"/dev/kvm": "", "/dev/net/tun": "", "/dev/vfio/12": "", "/dev/vfio/vfio": ""})
    )
    assert (found.kvm, found.tun, found.vfio, found.vfio_groups) == (True, True, True, 1)
    assert (found.vhost_net, found.vhost_vsock, found.sev) == (False, False, False)


def test_no_device_nodes(tmp_path):
    assert devices.probe(str(tmp_path)).readable is False


def test_secure(tree, tmp_path):
    nothing = devices.probe_secure(str(tmp_path))
    assert nothing.sev is nothing.tdx is None
    amd = "/sys/module/kvm_amd/parameters"
    found = devices.probe_secure(
        tree({f"{amd}/sev": "Y\n", f"{amd}/sev_es": "N\n", "/sys/firmware/uv": None})
    )
    assert (found.sev, found.sev_es, found.sev_snp, found.ultravisor) == (True, False, None, True)


def test_cpus(tree, tmp_path):
    nothing = devices.probe_cpus(str(tmp_path))
    assert nothing.smt is nothing.vulnerabilities is nothing.smt_active is None
    folder = "/sys/devices/system/cpu"
    files = {
        f"{folder}/smt/control": "on\n",
        f"{folder}/smt/active": "1\n",
        f"{folder}/online": "0-19\n",
        f"{folder}/vulnerabilities/mds": "Not affected\n",
        "/sys/devices/cpu_core/cpus": "0-15\n",
    }
    found = devices.probe_cpus(tree(files))
    assert (found.smt, found.smt_active, found.core_types) == ("on", True, "0-15")
    assert found.vulnerabilities == {"mds": "Not affected"}


def test_loaded_modules(tree):
    files = {
        "/sys/module/kvm/parameters/halt_poll_ns": "200000\n",
        "/sys/module/kvm_intel/parameters/ept": "Y\n",
        "/sys/module/ext4": None,
    }
    found = modules.probe(tree(files))
    assert (found.loaded, found.vendor_module) == (("kvm", "kvm_intel"), "kvm_intel")
    assert found.parameter("kvm_intel", "ept") == "Y"
    assert found.parameter("kvm_intel", "none") is found.parameter("kvm_amd", "npt") is None
    assert found.available == {}


def test_modules_that_could_be_loaded(tree):
    files = {
        "/sys/module": None,
        "/proc/sys/kernel/osrelease": "6.1.0\n",
        "/lib/modules/6.1.0/modules.dep": "kernel/arch/x86/kvm/kvm-intel.ko.xz: kernel/x.ko\n",
        "/lib/modules/6.1.0/modules.builtin": "kernel/arch/x86/kvm/kvm.ko\n",
        "/etc/modprobe.d/off.conf": "# blacklist kvm_amd\nblacklist kvm_intel\n",
    }
    found = modules.probe(tree(files))
    assert (found.vendor_module, found.available["kvm_intel"]) == (None, True)
    assert found.available["kvm_amd"] is False
    assert found.blacklisted == {"kvm_intel": "/etc/modprobe.d/off.conf"}


def test_modules_not_told(tree, tmp_path):
    assert modules.probe(str(tmp_path)).readable is False
    assert modules.probe(tree({"/sys/module": None})).available == {}


STATUS = """Package: qemu-system-x86-64
Version: 9:9.9

Package: qemu-system-x86
Status: install ok installed
Version: 1:7.2+dfsg-7+deb12u18

Package: zlib1g
Version: 1.2.13
"""


def test_software_of_debian(tree):
    files = {
        "/usr/bin/qemu-system-x86_64": "",
        "/var/lib/dpkg/info/qemu-system-x86.list": "",
        "/var/lib/dpkg/status": STATUS,
        "/usr/lib/x86_64-linux-gnu/libvirt.so.0": "",
        "/usr/lib/x86_64-linux-gnu/libvirt.so.0.9000.0": "",
        "/usr/sbin/libvirtd": "",
    }
    found = software.probe(tree(files), run=None)
    assert (found.qemu, found.qemu_path) == ("7.2", "/usr/bin/qemu-system-x86_64")
    assert (found.libvirt, found.libvirt_daemon) == ("9.0.0", "monolithic")


@pytest.mark.parametrize(
    ("output", "version"),
    [("QEMU emulator version 9.0.0 (qemu-kvm-9.0.0-10.el9)\n", "9.0.0"), ("?", None), (None, None)],
)
def test_software_of_enterprise_linux(tree, output, version):
    files = {
        "/usr/libexec/qemu-kvm": "",
        "/usr/lib64/libvirt.so.0": "",
        "/usr/lib64/libvirt.so.0.10005.2": "",
        "/usr/sbin/virtqemud": "",
    }
    asked = []

    def run(command):
        asked.append(command)
        return output

    found = software.probe(tree(files), run)
    assert asked == [["/usr/libexec/qemu-kvm", "--version"]]
    assert (found.qemu, found.libvirt, found.libvirt_daemon) == (version, "10.5.2", "modular")


def test_no_software(tmp_path):
    found = software.probe(str(tmp_path))
    assert (found.qemu, found.qemu_path, found.libvirt, found.libvirt_daemon) == ("", None, "", "")


def test_run_command(tmp_path):
    script = tmp_path / "qemu"
    script.write_text("#!/bin/sh\necho version 1.2\n")
    script.chmod(0o755)
    assert software.run_command([str(script)]) == "version 1.2\n"
    assert software.run_command([str(tmp_path / "none")]) is None
    assert software.run_command(["/bin/false"]) is None


@pytest.mark.parametrize(
    ("files", "arrives", "there"),
    [
        ({"/dev/kvm": ""}, False, True),
        ({}, False, False),
        ({"/dev/kvm": "", "/run/udev/queue": ""}, False, True),
        ({"/run/udev/queue": ""}, False, False),
        ({"/run/udev/queue": ""}, True, True),
    ],
)
def test_kvm_is_waited_for_while_udev_works(tree, monkeypatch, files, arrives, there):
    root = tree(files)
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if arrives:
            Path(root, "dev").mkdir()
            Path(root, "dev/kvm").touch()

    now = iter(range(1000))
    monkeypatch.setattr(observe.time, "sleep", sleep)
    monkeypatch.setattr(observe.time, "monotonic", lambda: next(now))
    assert observe.wait_for_kvm(root, patience=5) is there
    # Only a missing device that may still come is waited for.
    assert len(waits) == (0 if "/dev/kvm" in files or not files else 1 if arrives else 5)

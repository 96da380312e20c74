# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Eleven guests unlike each other with devices of many kinds.

A guest that is only to have its devices stands still: QEMU makes all of them before it waits. So do
those with UEFI: the emulator that runs the hosts ends (an assertion of its own) when a guest of KVM
writes to CR8, as UEFI does. What is passed through is in test_odd_machines; mediated devices and
SEV are not in the lab.
"""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Any

import pytest
from asking import BOOT, FOLDER, domains, files, in_guest, journal, verbs, virsh

if TYPE_CHECKING:
    from playing import Ansible, Run
    from virtlab.host import Host

pytestmark = [pytest.mark.sampled, pytest.mark.module_of("the lab")]

LOGS = "/var/log/libvirt"
CD = {"device": "cdrom", "file": f"{FOLDER}/cd.iso"}
UEFI: dict[str, Any] = {
    "name": "uefi",
    "cpu": {"mode": "host-model"},
    "firmware": {"type": "uefi", "secure_boot": False},
    "tpm": {"model": "tpm-crb", "type": "emulator", "version": "2.0"},
    "nics": [{"network": "default", "model": "e1000e"}],
    "watchdogs": [{"model": "i6300esb", "action": "none"}],
    "xml": "<memtune><soft_limit unit='KiB'>524288</soft_limit></memtune>",
}
SECURED: dict[str, Any] = {
    "name": "secured",
    "firmware": {"type": "uefi", "secure_boot": True},
    "features": {"smm": True},
    "disks": [
        {"target": "sda", "bus": "sata", **CD, "boot": 1},
        {"target": "sdb", "bus": "sata", "file": f"{FOLDER}/secured.raw", "boot": 2}
        | {"format": "raw", "size": "8MiB"},
    ],
}
FULL: dict[str, Any] = {
    "name": "full",
    "state": "running",
    "memory": "256MiB",
    "max_memory": "320MiB",
    **BOOT,
    "iothreads": 1,
    "memory_backing": {"source": "memfd", "access": "shared"},
    "disks": [
        {"target": "vda", "file": f"{FOLDER}/full-a.qcow2", "size": "16MiB", "serial": "first"}
        | {"iothread": 1, "cache": "none", "io": "native", "discard": "unmap"}
        | {"throttle": {"total_iops_sec": 1000}},
        {"target": "sda", "bus": "scsi", "file": f"{FOLDER}/full-b.qcow2", "size": "24MiB"}
        | {"wwn": "5000c50015ea71ad"},
        {"target": "sdb", "bus": "scsi", **CD},
        {"target": "sdc", "bus": "sata", "file": f"{FOLDER}/full-c.qcow2", "size": "8MiB"},
    ],
    "nics": [
        {"bridge": "virbr0", "queues": 1, "mtu": 1400, "filter": "clean-traffic"},
        {"network": "default", "link": "down"},
    ],
    "filesystems": [
        {"target": "new", "source": "/srv/share", "driver": "virtiofs"},
        {"target": "old", "source": "/srv/share", "driver": "9p"},
    ],
    "serials": [{"type": "pty", "log": f"{LOGS}/full-console.log"}],
    "inputs": [{"type": "tablet", "bus": "usb"}],
    "vsock": {"model": "virtio", "cid": 77},
    "panics": [{"model": "isa"}],
    "wait_for": "agent",
}
NODES: dict[str, Any] = {
    "name": "nodes",
    "memory": "128MiB",
    "vcpus": 4,
    "cpu": {
        "mode": "host-passthrough",
        "topology": {"sockets": 2, "cores": 2, "threads": 1},
        "features": {"x2apic": "require"},
        "numa": [
            {"id": 0, "cpus": "0-1", "memory": "64MiB"},
            {"id": 1, "cpus": "2-3", "memory": "64MiB"},
        ],
    },
    "cpu_tuning": {"vcpu_pins": {"0": "0", "1": "1"}, "emulator_pin": "0-1", "shares": 2048},
    "memory_tuning": {"hard_limit": "1GiB"},
    "block_weight": 500,
}
DESKTOP: dict[str, Any] = {
    "name": "desktop",
    "graphics": [
        {"type": "spice", "listen": "127.0.0.1", "password": "s3cr3tsp"},
        {"type": "vnc", "listen": "127.0.0.1", "password": "s3cr3tvn"},
    ],
    "videos": [{"model": "virtio", "heads": 1}],
    "sounds": [{"model": "ich9"}],
    "channels": [{"name": "com.redhat.spice.0", "type": "spicevmc"}],
    "inputs": [{"type": "keyboard", "bus": "usb"}],
    "hyperv": {"relaxed": True, "vapic": True, "spinlocks": 8191},
    "clock": {"offset": "localtime", "timers": {"rtc": {"tickpolicy": "catchup"}}},
    "power_management": {"suspend_to_mem": False},
}
LEGACY: dict[str, Any] = {
    "name": "legacy",
    "machine": "pc",
    "disks": [
        {"target": "hda", "bus": "ide", "file": f"{FOLDER}/legacy.qcow2", "size": "8MiB"},
        {"target": "fda", "device": "floppy", "file": f"{FOLDER}/fd.img"},
    ],
    "nics": [{"network": "default", "model": "rtl8139"}],
    "watchdogs": [{"model": "ib700", "action": "reset"}],
    "videos": [{"model": "vga"}],
}
ARM: dict[str, Any] = {
    "name": "arm",
    "state": "running",
    "arch": "aarch64",
    "kernel": f"{FOLDER}/arm.img",
    "serials": [{"type": "pty", "log": f"{LOGS}/arm-console.log"}],
}
OTHERS: list[dict[str, Any]] = [
    {"name": "direct", "nics": [{"direct": "enp0s3", "mode": "bridge"}]},
    {
        "name": "remote",
        "disks": [
            {
                "target": "vda",
                "format": "raw",
                "network": {"protocol": "nbd", "hosts": [{"name": "127.0.0.1", "port": 10809}]},
            }
        ],
    },
    # AppArmor's helper of libvirt knows no volumes: such a guest can be defined, not started.
    {
        "name": "pooled",
        "state": "stopped",
        "disks": [
            {"target": "vda", "volume": {"pool": "extra", "volume": "data.img"}, "format": "raw"}
        ],
    },
    {"name": "emulated", "accel": "tcg", "state": "stopped"},
]
SPECS = [
    {"memory": "64MiB", "state": "paused", **guest}
    for guest in (UEFI, SECURED, FULL, NODES, DESKTOP, LEGACY, ARM, *OTHERS)
]


def arm_kernel() -> bytes:
    """Return a program for an aarch64 guest that says on its serial port that it is up.

    The header is that of a kernel (Linux, Documentation/arch/arm64/booting.rst); the port is a
    PL011 at 0x9000000 (QEMU's machine virt).
    """
    text = b"aarch64: up\r\n\0"
    code = (
        0xD2A12000,  # mov x0, #0x9000000
        0x100000E1,  # adr x1, text
        0x38401422,  # next: ldrb w2, [x1], #1
        0x34000062,  # cbz w2, done
        0xB9000002,  # str w2, [x0]
        0x17FFFFFD,  # b next
        0xD503207F,  # done: wfi
        0x17FFFFFF,  # b done
    )
    branch = 0x14000010  # over the header
    header = struct.pack("<IIQQQQQQII", branch, 0, 0x80000, 4096, 0, 0, 0, 0, 0x644D5241, 0)
    return header + struct.pack("<8I", *code) + text


@pytest.fixture(scope="module")
def stood(hosts: list[Host]) -> list[Host]:
    """Give hosts that have what the guests refer to."""
    for host in hosts:
        virsh(host, "net-start default")
        host.run("sudo mkdir -p /srv/pool /srv/share && echo shared | sudo tee /srv/share/word")
        virsh(host, "pool-create-as extra dir --target /srv/pool")
        virsh(host, "vol-create-as extra data.img 4M --format raw")
        host.run(f"sudo truncate -s 1M {FOLDER}/cd.iso")
        host.run(f"sudo truncate -s 1440K {FOLDER}/fd.img")
        text = base64.b64encode(arm_kernel()).decode()
        host.run(f"echo {text} | base64 -d | sudo tee {FOLDER}/arm.img > /dev/null")
        host.run("truncate -s 4M /tmp/nbd.img")
        host.run("qemu-nbd --fork --persistent --shared=4 -b 127.0.0.1 -f raw /tmp/nbd.img")
    return hosts


@pytest.fixture(scope="module")
def done(ansible: Ansible, stood: list[Host]) -> Run:
    del stood
    return ansible.playbook("guests", "--diff", kvm_guest_specs=SPECS)


def test_every_guest_is_there_as_it_was_declared(done: Run, hosts: list[Host]) -> None:
    names = {guest["name"] for guest in SPECS}
    states = {"pooled": "shut off", "emulated": "shut off", "full": "running", "arm": "running"}
    for host in hosts:
        assert domains(host) == names
        for name in names:
            assert virsh(host, f"domstate {name}") == states.get(name, "paused"), name
        assert len(verbs(done, host)) == 2 * len(names) - 2
        created = set(files(host)) - {"cd.iso", "fd.img", "arm.img"}
        wanted = {"full-a.qcow2", "full-b.qcow2", "full-c.qcow2", "legacy.qcow2", "secured.raw"}
        assert created == wanted


def test_no_password_is_shown(done: Run, host: Host) -> None:
    xml = virsh(host, "dumpxml --security-info desktop")
    for secret in ("s3cr3tsp", "s3cr3tvn"):
        assert secret in xml
        assert secret not in done.output
        assert secret not in journal(host)


def test_a_guest_has_its_devices(done: Run, host: Host) -> None:
    del done
    script = "cat /sys/block/vda/serial; echo; cd /sys/block; cat vda/size sda/size sr0/size"
    script += "; cat /sys/class/net/eth0/mtu; ls -d /sys/bus/usb/devices/*:* | wc -l"
    script += "; mkdir -p /a /b; mount -t virtiofs new /a; mount -t 9p -o trans=virtio old /b"
    script += "; cat /a/word /b/word; ls /dev/vsock"
    said = in_guest(host, "full", script).split()
    assert said[:4] == ["first", str(16 << 11), str(24 << 11), str(1 << 11)]
    assert said[4] == "1400"
    assert int(said[5]) >= 1
    assert said[6:] == ["shared", "shared", "/dev/vsock"]
    assert "virtlab guest: up" in host.out(f"sudo cat {LOGS}/full-console.log")


def test_a_guest_of_another_architecture_runs(done: Run, host: Host) -> None:
    del done
    assert host.out(f"sudo cat {LOGS}/arm-console.log") == "aarch64: up"


def test_uefi_has_its_variables_and_its_tpm(done: Run, host: Host) -> None:
    del done
    xml = virsh(host, "dumpxml uefi")
    assert "<soft_limit unit='KiB'>524288</soft_limit>" in xml
    assert "secure='yes'" in virsh(host, "dumpxml secured")
    nvram = host.out("sudo ls /var/lib/libvirt/qemu/nvram").split()
    assert nvram == ["secured_VARS.fd", "uefi_VARS.fd"]
    uuid = virsh(host, "domuuid uefi")
    assert uuid in host.out("sudo ls /var/lib/libvirt/swtpm")
    assert host.out("pgrep -c swtpm") == "1"


def test_a_second_run_changes_nothing_and_nothing_waits(
    ansible: Ansible, done: Run, hosts: list[Host]
) -> None:
    del done
    run = ansible.playbook("guests", "--diff", kvm_guest_specs=SPECS)
    assert run.changed() == {}, run.output
    for host in hosts:
        assert run.of("kvm_guests", host.name)["pending"] == []
        for guest in run.of("kvm_guests_info", host.name)["guests"]:
            assert guest["restart_required"] is False, guest["name"]
            assert (guest["live"] is None) == (guest["name"] in ("pooled", "emulated"))


def test_all_of_it_goes_again(ansible: Ansible, done: Run, hosts: list[Host]) -> None:
    del done
    going = [{**guest, "remove_disks": True} for guest in SPECS]
    gone = {"kvm_guest_specs": going, "kvm_guest_state": "absent", "kvm_guest_force": True}
    ansible.playbook("guests", kvm_guest_stop_timeout="2s", **gone)
    for host in hosts:
        assert domains(host) == set()
        assert set(files(host)) == {"cd.iso", "fd.img", "arm.img"}
        assert host.out("sudo sh -c 'ls /var/lib/libvirt/qemu/nvram /var/lib/libvirt/swtpm'") == (
            "/var/lib/libvirt/qemu/nvram:\n\n/var/lib/libvirt/swtpm:"
        )

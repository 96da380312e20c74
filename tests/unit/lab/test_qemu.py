# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's command line, its identity and its boot sector: pure functions of what it is."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path

import pytest
from virtlab import build, identity, qemu
from virtlab.description import HostSpec

IMAGE = Path("/images/x")


def line(restore=False, **given):
    who = identity.Identity("h1", 1, "bookworm")
    return qemu.arguments(HostSpec(**given), who, IMAGE, restore=restore)


def after(command, option):
    return [command[at + 1] for at, word in enumerate(command) if word == option]


def test_a_direct_boot_takes_the_kernel_beside_the_image():
    assert after(line(), "-kernel") == ["/images/x/vmlinuz"]
    assert after(line(boot="grub"), "-kernel") == []


def test_only_a_restored_host_goes_on_from_its_snapshot():
    assert after(line(restore=True), "-loadvm") == ["booted"]
    assert after(line(), "-loadvm") == []


def test_the_emulated_cpu_has_svm_with_nested_paging():
    assert after(line(), "-cpu") == ["EPYC,+svm,+npt"]
    assert after(line(svm=False), "-cpu") == ["EPYC,-svm"]
    assert after(line(), "-accel")[0].startswith("tcg")


def test_nothing_but_loopback_and_a_unix_socket_leads_in():
    networks = after(line(), "-netdev")
    assert networks == [
        "user,id=management,hostfwd=tcp:127.0.0.1:0-:22",
        "stream,id=cable,server=off,addr.type=unix,addr.path=../cable.sock",
    ]


def test_the_nics_take_their_slots_before_the_disks():
    devices = after(line(disks=("1GiB",)), "-device")
    kinds = [device.partition(",")[0] for device in devices]
    assert kinds.index("virtio-blk-pci") > kinds.index("virtio-net-pci")
    assert [d.rpartition("=")[2] for d in devices if d.startswith("virtio-blk")] == [
        "disk0",
        "disk1",
    ]


@pytest.mark.parametrize(
    ("given", "device"),
    [
        ({"iommu": "amd"}, "amd-iommu"),
        ({"iommu": "intel"}, "intel-iommu"),
        ({"watchdog": True}, "i6300esb"),
        ({"sriov": 4}, "sriov_max_vfs=4"),
        ({"sriov_nic": True}, "igb,netdev=igb"),
        ({"usb": True}, "usb-storage,bus=usb.0"),
    ],
)
def test_a_device_is_there_when_it_is_asked_for(given, device):
    assert any(device in word for word in after(line(**given), "-device"))
    assert not any(device in word for word in after(line(), "-device"))


def test_numa_nodes_share_memory_and_cpus():
    command = line(numa=2, cpus=4, memory="2GiB")
    assert after(command, "-numa") == [
        "node,nodeid=0,memdev=node0,cpus=0,cpus=2",
        "node,nodeid=1,memdev=node1,cpus=1,cpus=3",
    ]
    assert sum("size=1024M" in word for word in after(command, "-object")) == 2


def test_identities_differ_by_name_and_by_place_in_the_lab():
    hosts = [identity.Identity(name, index, "trixie") for name, index in (("a", 1), ("b", 2))]
    hosts.append(identity.Identity("a", 2, "trixie"))
    assert len({host.uuid for host in hosts}) == 3
    macs = {host.mac(nic) for host in hosts for nic in (0, 1)}
    assert len(macs) == 6
    assert all(mac.startswith("02:") for mac in macs)
    assert [host.cable_address for host in hosts] == ["10.77.0.11", "10.77.0.12", "10.77.0.12"]


@pytest.mark.parametrize(
    ("release", "file"),
    [
        ("bookworm", "etc/network/interfaces"),
        ("trixie", "etc/systemd/network/50-enp0s3.network"),
    ],
)
def test_what_a_host_is_handed_over(tmp_path, release, file):
    key = tmp_path / "key"
    key.write_text("private\n")
    who = identity.Identity("h2", 2, release)
    with tarfile.open(
        fileobj=io.BytesIO(identity.archive(who, key, "ssh-ed25519 AAAA", "ssh-ed25519 BBBB"))
    ) as tar:
        names = tar.getnames()

        def text(name):
            return tar.extractfile(name).read().decode()

        assert text("etc/hostname") == "h2\n"
        assert "10.77.0.12/24" in text(file)
        private = tar.getmember("etc/ssh/ssh_host_ed25519_key")
        assert (private.mode, text(private.name)) == (0o600, "private\n")
        assert text("home/admin/.ssh/authorized_keys") == "ssh-ed25519 BBBB\n"
    assert "etc/machine-id" not in names, "each host makes one of its own"


def test_the_boot_sector_is_grubs_with_one_bootable_partition():
    boot = bytes(range(256)) * 2
    sector = build.boot_sector(boot, 4096)
    assert len(sector) == 512
    assert sector[:440] == boot[:440]
    assert sector[510:] == b"\x55\xaa"
    flag, kind, start, size = struct.unpack("<B3xB3xII", sector[446:462])
    assert (flag, kind, start, size) == (0x80, 0x83, 2048, 4096 - 2048)
    assert sector[462:510] == bytes(48)

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU's arguments for a host: a pure function of what the host is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .recipe import CMDLINE

if TYPE_CHECKING:
    from pathlib import Path

    from .description import HostSpec
    from .identity import Identity

MONITOR, CONSOLE, DISK, IDENTITY = "qmp.sock", "console.log", "disk.qcow2", "identity.tar"
CABLE_SOCKET = "../cable.sock"
SNAPSHOT = "booted"


def extra_disk(number: int) -> str:
    """Return the file of a further disk; they count from 1."""
    return f"disk{number}.qcow2"


def arguments(spec: HostSpec, identity: Identity, image: Path, *, restore: bool) -> list[str]:
    """Return QEMU's arguments that power the host on, to be run in its folder.

    ``restore`` continues from the saved snapshot instead of booting.
    """
    iommu = "kernel-irqchip=split," if spec.iommu == "intel" else ""
    line = ["-name", identity.name, "-nodefaults", "-no-user-config", "-display", "none"]
    line += ["-M", f"q35,{iommu}smm=off,hpet=off", "-accel", "tcg,thread=multi,tb-size=512"]
    line += ["-cpu", "EPYC,+svm,+npt" if spec.svm else "EPYC,-svm"]
    line += ["-smp", str(spec.cpus), "-m", f"{spec.memory_mib}M"]
    line += ["-uuid", identity.uuid, "-rtc", "base=utc", "-device", "virtio-rng-pci,addr=0x4"]
    line += ["-fw_cfg", f"name=opt/virtlab/identity,file={IDENTITY}"]
    line += ["-qmp", f"unix:{MONITOR},server=on,wait=off"]
    line += ["-chardev", f"file,id=console,path={CONSOLE},append=on", "-serial", "chardev:console"]
    # The NICs first: their slots give them their names, the others take what is left.
    line += _numa(spec) + _networks(identity) + _disks(spec) + _devices(spec, identity)
    if spec.boot == "direct":
        line += ["-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.img")]
        line += ["-append", f"root=LABEL=root ro {CMDLINE} quiet"]
    if restore:
        line += ["-loadvm", SNAPSHOT]
    return line


def _numa(spec: HostSpec) -> list[str]:
    if spec.numa == 1:
        return []
    line = []
    for node in range(spec.numa):
        cpus = [cpu for cpu in range(spec.cpus) if cpu % spec.numa == node]
        size = spec.memory_mib // spec.numa
        line += ["-object", f"memory-backend-ram,id=node{node},size={size}M"]
        listing = "".join(f",cpus={cpu}" for cpu in cpus)
        line += ["-numa", f"node,nodeid={node},memdev=node{node}{listing}"]
    return line


def _disks(spec: HostSpec) -> list[str]:
    files = [DISK, *(extra_disk(number + 1) for number in range(len(spec.disks)))]
    line = []
    for number, file in enumerate(files):
        # What a test loses is a disk that the next reset brings back: nothing waits for a flush.
        line += ["-drive", f"file={file},if=none,id=disk{number},cache=unsafe,discard=unmap"]
        line += ["-device", f"virtio-blk-pci,drive=disk{number},serial=disk{number}"]
    return line


def _networks(identity: Identity) -> list[str]:
    return [
        "-netdev",
        "user,id=management,hostfwd=tcp:127.0.0.1:0-:22",
        "-device",
        f"virtio-net-pci,id=management-nic,netdev=management,mac={identity.mac(0)},addr=0x2",
        "-netdev",
        f"stream,id=cable,server=off,addr.type=unix,addr.path={CABLE_SOCKET}",
        "-device",
        f"virtio-net-pci,id=cable-nic,netdev=cable,mac={identity.mac(1)},addr=0x3",
        # Off until a test wants a slow line (QEMU: net/filter-buffer.c).
        "-object",
        "filter-buffer,id=delay,netdev=management,queue=rx,interval=1000,status=off",
    ]


def _devices(spec: HostSpec, identity: Identity) -> list[str]:
    line = []
    if spec.iommu != "none":
        line += ["-device", f"{spec.iommu}-iommu"]
    if spec.sriov:
        functions = spec.sriov
        line += ["-device", "pcie-root-port,id=port0,slot=1", "-device", "nvme-subsys,id=subsys0"]
        drive = f"nvme,serial=sriov0,bus=port0,subsys=subsys0,sriov_max_vfs={functions}"
        drive += f",sriov_vq_flexible={2 * functions},sriov_vi_flexible={functions}"
        drive += f",max_ioqpairs={2 * functions + 2},msix_qsize={functions + 2}"
        line += ["-device", drive]
    if spec.sriov_nic:
        line += ["-netdev", f"stream,id=igb,server=off,addr.type=unix,addr.path={CABLE_SOCKET}"]
        line += ["-device", "pcie-root-port,id=port1,slot=2"]
        line += ["-device", f"igb,netdev=igb,bus=port1,mac={identity.mac(2)}"]
    if spec.usb:
        line += ["-blockdev", "null-co,node-name=stick,size=8388608,read-zeroes=on"]
        line += ["-device", "qemu-xhci,id=usb"]
        line += ["-device", "usb-storage,bus=usb.0,drive=stick,serial=stick0"]
    if spec.watchdog:
        line += ["-device", "i6300esb", "-watchdog-action", "reset"]
    return line

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest of the helper with every device that it can have, each driven by Linux's own driver.

It is the host's own kernel with an initramfs (virtlab/files/make-guest), asked over SSH.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from asking import BOOT, virsh

if TYPE_CHECKING:
    from playing import Ansible, Run
    from virtlab.host import Host

pytestmark = [pytest.mark.sampled, pytest.mark.module_of("the lab")]
FOLDER = "/srv/full"
UNIT = "virtfleet-guest@full.service"
WORD = "from the host"
FULL: dict[str, Any] = {
    "name": "full",
    "engine": "ioctl",
    "memory": "192MiB",
    "vcpus": 2,
    **BOOT,
    "cmdline": f"{BOOT['cmdline']} tsc=reliable",
    "disks": [
        {"target": "vda", "file": f"{FOLDER}/a.qcow2", "size": "64MiB", "serial": "first"},
        {"target": "vdb", "file": f"{FOLDER}/b.raw", "format": "raw", "size": "16MiB"},
        {"target": "vdc", "file": f"{FOLDER}/c.raw", "format": "raw", "readonly": True},
    ],
    "nics": [{"bridge": "virbr0", "mtu": 1400}],
    "pmem": [{"file": f"{FOLDER}/pmem.raw"}],
    "shares": [{"tag": "share", "path": f"{FOLDER}/share"}],
    "console": {"ports": ["org.example.word"]},
    "rng": True,
    "balloon": True,
    "vsock": {"cid": 77},
    "watchdog": {"action": "reset"},
    "memory_backing": {"hugepage_size": "2MiB"},
    "cpu_tuning": {"vcpu_pins": {"0": "1", "1": "1"}, "nice": -5},
    "on_reboot": "restart",
    "stop_timeout": "2min",
    "wait_for": "ssh",
}
# The files of the modules that pmem needs, in the order in which they are put in.
MODULES = """
for name in nd_pmem virtio_pmem; do
  /sbin/modprobe --show-depends $name | sed -n 's/^insmod \\([^ ]*\\).*/\\1/p'
done | awk '!seen[$0]++'
"""
# Sends a line to the control socket, and a further one to what it leads to then; tells what comes.
ASK = """
import json, socket, sys
control = socket.socket(socket.AF_UNIX)
control.connect("/run/virtfleet/full/control.sock")
stream = control.makefile("rb")
for line in {lines!r}:
    control.sendall(line.encode() + b"\\n")
    print(stream.readline().decode().strip())
"""


# Asks the guest's own agent by its context ID.
VSOCK = """
import socket
with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as link:
    link.settimeout(60)
    link.connect((77, 9999))
    link.sendall(b'{"execute": "guest-ping"}')
    print(link.recv(100).decode())
"""


def asked(host: Host, request: dict[str, Any], *more: str) -> list[str]:
    """Return what the helper answers to a request, and to the lines that follow."""
    script = ASK.format(lines=[json.dumps(request), *more])
    first, *rest = host.run("sudo python3 -", stdin=script).stdout.splitlines()
    assert json.loads(first)["ok"], first
    return rest


class Guest:
    """The guest, as it is reached from its host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        (self.address,) = re.findall(
            r" (192\.168\.122\.\d+)/24 ", virsh(host, "net-dhcp-leases default")
        )
        options = "-o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=/tmp/known"
        self.login = f"ssh -q {options} -i /var/lib/virtlab/key root@{self.address}"

    def out(self, script: str) -> str:
        return self.host.run(f"{self.login} sh", stdin=script).stdout.strip()


def status(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.out("sudo kvm-helper status full"))
    return found


@pytest.fixture(scope="module")
def stood(hosts: list[Host]) -> list[Host]:
    """Give hosts that have what the guest stands on."""
    for host in hosts:
        virsh(host, "net-start default")
        host.run(f"sudo mkdir -p {FOLDER}/share && echo {WORD} | sudo tee {FOLDER}/share/word")
        host.run(f"sudo truncate -s 16M {FOLDER}/pmem.raw")
        host.run(f"echo {WORD} | sudo tee {FOLDER}/c.raw && sudo truncate -s 4M {FOLDER}/c.raw")
        host.run("sudo sysctl -q vm.nr_hugepages=110")
    return hosts


@pytest.fixture(scope="module")
def planned(ansible: Ansible, stood: list[Host]) -> Run:
    run = ansible.playbook(
        "site", "--check", "--diff", kvm_host_helper_only=True, kvm_guest_specs=[FULL]
    )
    for host in stood:
        assert host.run("sudo test -e /var/lib/virtfleet/guests", check=False).returncode
        assert host.run(f"sudo test -e {FOLDER}/a.qcow2", check=False).returncode
    return run


@pytest.fixture(scope="module")
def done(planned: Run, ansible: Ansible) -> Run:
    del planned
    return ansible.playbook("site", "--diff", kvm_host_helper_only=True, kvm_guest_specs=[FULL])


@pytest.fixture
def guest(done: Run, host: Host) -> Guest:
    del done
    return Guest(host)


def test_what_was_planned_is_done(planned: Run, done: Run, hosts: list[Host]) -> None:
    for host in hosts:
        told = [run.of("kvm_guests", host.name)["actions"] for run in (planned, done)]
        assert told[0] == told[1]
        assert [one["action"] for one in told[0]] == ["create", "start"]


def test_disks(guest: Guest, host: Host) -> None:
    said = guest.out(
        "cd /sys/block; cat vda/serial; echo; cat vd?/size vd?/ro; head -c 13 /dev/vdc"
    )
    sizes = [str(size << 11) for size in (64, 16, 4)]
    assert said.split("\n", 7) == ["first", *sizes, "0", "0", "1", WORD]
    sums = guest.out(
        "for disk in vda vdb; do"
        " dd if=/dev/urandom of=/dev/$disk bs=1M count=6 seek=3 conv=fsync 2>/dev/null; done;"
        " for disk in vda vdb; do dd if=/dev/$disk bs=1M count=6 skip=3 2>/dev/null | md5sum; done"
    ).split()[::2]
    # What the guest has synced is in its images, which other programs read.
    for file, kind, expected in (("a.qcow2", "qcow2", sums[0]), ("b.raw", "raw", sums[1])):
        copy = f"sudo qemu-img convert -U -f {kind} -O raw {FOLDER}/{file} /tmp/copy"
        host.run(f"{copy} && sudo chmod 0644 /tmp/copy")
        assert host.out("dd if=/tmp/copy bs=1M count=6 skip=3 2>/dev/null | md5sum").split()[0] == (
            expected
        )
    assert guest.out("echo x > /dev/vdc 2>&1 || echo refused").endswith("refused")


def test_the_network(guest: Guest, host: Host) -> None:
    assert guest.out("cat /sys/class/net/eth0/mtu") == "1400"
    assert guest.out("ping -c 3 -W 5 192.168.122.1 > /dev/null && echo answered") == "answered"
    assert host.out("ls /sys/class/net/virbr0/brif | wc -l") == "1"
    assert status(host)["devices"]["net0"] == "vhost"


def test_a_shared_folder(guest: Guest, host: Host) -> None:
    script = "mkdir -p /share; mount -t virtiofs share /share; cat /share/word"
    assert guest.out(f"{script}; echo from the guest > /share/answer; umount /share") == WORD
    assert host.out(f"sudo cat {FOLDER}/share/answer") == "from the guest"


def test_persistent_memory(guest: Guest, host: Host) -> None:
    for file in host.out(MODULES).split():
        host.run(f"{guest.login} 'cat > /tmp/module' < {file}")  # insmod takes a packed one, too
        guest.out("insmod /tmp/module 2>/dev/null || true")  # it may be there already
    assert guest.out("cat /sys/block/pmem0/size") == str(16 << 11)
    guest.out("echo kept | dd of=/dev/pmem0 bs=512 conv=sync,notrunc 2>/dev/null; sync")
    assert host.out(f"sudo head -c 4 {FOLDER}/pmem.raw") == "kept"


def test_a_port_carries_bytes_both_ways(guest: Guest, host: Host) -> None:
    port = "/dev/virtio-ports/org.example.word"
    # As long as nobody is attached to a port, its end is read from it.
    answer = f"exec 3<>{port}; until read -r word <&3; do sleep 1; done; echo $word pong >&3"
    guest.out(f"setsid sh -c '{answer}' > /dev/null 2>&1 &")
    assert asked(host, {"op": "console", "port": "org.example.word"}, "ping") == ["ping pong"]


def test_random_numbers_balloon_vsock_and_watchdog(guest: Guest, host: Host) -> None:
    assert guest.out("cat /sys/class/misc/hw_random/rng_current") == "virtio_rng.0"
    assert guest.out("dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c") == "64"
    answer = "qemu-ga -m vsock-listen -p 77:9999"
    guest.out(f"setsid {answer} > /dev/null 2>&1 & sleep 3")
    assert host.run("python3 -", stdin=VSOCK).stdout.strip() == '{"return": {}}'
    assert guest.out("ls -d /sys/bus/virtio/drivers/virtio_balloon/virtio*") != ""
    assert guest.out("cat /sys/class/watchdog/watchdog0/identity") == "i6300ESB timer"
    free = "sed -n 's/^MemFree: *\\([0-9]*\\).*/\\1/p' /proc/meminfo"
    before = int(guest.out(free))
    asked(host, {"op": "balloon", "target": 128 << 20})
    lent = f"for _ in $(seq 30); do [ $({free}) -lt {before - 40_000} ] && echo lent && break; "
    assert guest.out(f"{lent} sleep 1; done") == "lent"
    asked(host, {"op": "balloon", "target": None})


def test_processors_and_memory_are_as_asked_for(guest: Guest, host: Host) -> None:
    assert guest.out("nproc") == "2"
    pid = host.out(f"systemctl show --value -p MainPID {UNIT}")
    look = "echo $(cat $task/comm) $(sed -n 's/^Cpus_allowed_list:.//p' $task/status)"
    threads = host.run("sudo sh", stdin=f"for task in /proc/{pid}/task/*; do {look}; done").stdout
    # Newer kernels have a thread of KVM's own there too, made by a vCPU's first entry.
    assert threads.splitlines().count("kvm-helper 1") == 2
    assert host.out(f"ps -o ni= -p {pid}").strip() == "-5"
    huge = host.out(f"sudo cat /proc/{pid}/smaps | grep -A 22 memfd:guest | grep KernelPageSize")
    assert "2048 kB" in huge


def test_a_second_run_changes_nothing(ansible: Ansible, done: Run) -> None:
    del done
    run = ansible.playbook("guests", kvm_guest_specs=[FULL])
    assert run.changed() == {}, run.output


def test_it_begins_again_and_turns_itself_off(
    ansible: Ansible, done: Run, hosts: list[Host]
) -> None:
    del done
    for host in hosts:
        guest = Guest(host)
        guest.out("(sleep 1; reboot -f) > /dev/null 2>&1 &")
        host.run("until sudo kvm-helper status full | grep -q '\"boots\": 2'; do sleep 1; done")
        host.run(f"until {guest.login} true; do sleep 1; done")
    ansible.playbook("guests", kvm_guest_specs=[{**FULL, "state": "stopped"}])
    for host in hosts:
        reason = host.out("sudo cat /var/lib/virtfleet/guests/full/state/last-exit.json")
        assert json.loads(reason)["status"] == 0
        assert "did not turn itself off" not in reason
        assert host.out(f"sudo qemu-img check {FOLDER}/a.qcow2 | head -1") == (
            "No errors were found on the image."
        )
        assert host.out("sed -n 's/^HugePages_Free: *//p' /proc/meminfo") == "110"


def test_it_goes_with_what_was_made_for_it(ansible: Ansible, done: Run, hosts: list[Host]) -> None:
    del done
    gone = [{**FULL, "state": "absent", "remove_disks": True}]
    ansible.playbook("guests", kvm_guest_specs=gone)
    for host in hosts:
        assert host.out(f"sudo ls {FOLDER}").split() == ["c.raw", "pmem.raw", "share"]
        assert host.out("ls /sys/class/net/virbr0/brif | wc -l") == "0"
    assert ansible.playbook("guests", kvm_guest_specs=gone).changed() == {}

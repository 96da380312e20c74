# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab itself: its hosts are real and differ, faults are faults, and nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible.module_utils.kvm.process import identity
from virtlab import processes
from virtlab.host import Host, HostError
from virtlab.lab import Lab
from virtlab.recipe import RELEASES

HERE = Path(__file__).parent


def virtlab(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "virtlab", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(HERE)}


def test_a_host_is_a_kvm_host(host: Host) -> None:
    assert int(host.out("grep -cw svm /proc/cpuinfo")) == host.spec.cpus
    assert host.out("cat /sys/module/kvm_amd/parameters/npt") in {"1", "Y"}
    assert host.out("test -c /dev/kvm && echo there") == "there"
    release = host.out(". /etc/os-release; echo $VERSION_ID")
    assert release == RELEASES[host.spec.release]
    assert host.out("cat /proc/1/comm") == "systemd"


def test_hosts_differ_as_real_ones_do(lab: Lab) -> None:
    questions = (
        "hostname",
        "cat /etc/machine-id",
        "sudo cat /sys/class/dmi/id/product_uuid",
        "cat /etc/ssh/ssh_host_ed25519_key.pub",
        "cat /sys/class/net/enp0s2/address",
        "cat /sys/class/net/enp0s3/address",
        "ip -br -4 address show dev enp0s3",
    )
    for question in questions:
        answers = {host.out(question) for host in lab.hosts.values()}
        assert len(answers) == len(lab.hosts), f"{question}: {answers}"
    for host in lab.hosts.values():
        key = host.out("cat /etc/ssh/ssh_host_ed25519_key.pub").split()[:2]
        assert key == host.host_key().split()[:2]


def test_the_description_is_what_there_is(lab: Lab, kvm1: Host, kvm2: Host) -> None:
    for host in lab.hosts.values():
        disks = host.out("ls /dev/disk/by-id")
        assert re.findall(r"^virtio-disk[1-9]$", disks, re.MULTILINE) == [
            "virtio-disk1",
            "virtio-disk2",
        ]
    assert kvm1.out("ls -d /sys/devices/system/node/node?").split()[-1].endswith("node1")
    assert kvm2.out("ls /dev/watchdog") == "/dev/watchdog"
    assert "BOOT_IMAGE=" in kvm1.out("cat /proc/cmdline")  # GRUB says so


def test_the_hosts_reach_each_other_by_the_cable_and_by_it_alone(kvm1: Host, kvm2: Host) -> None:
    address = kvm2.identity.cable_address
    ping = f"sudo ping -c 1 -W 5 {address}"
    # A cable that was plugged in carries something when both ends have noticed.
    answered = f"for _ in $(seq 20); do {ping} && exit 0; sleep 1; done; exit 1"
    kvm1.run(answered)
    kvm2.connect_cable(connected=False)
    assert kvm1.run(ping, check=False).returncode == 1
    kvm2.connect_cable(connected=True)
    kvm1.run(answered)


def test_everything_listens_on_loopback(lab: Lab) -> None:
    for host in lab.hosts.values():
        pid = processes.running(host.folder)
        sockets = {
            os.readlink(link)
            for link in Path(f"/proc/{pid}/fd").iterdir()
            if os.readlink(link).startswith("socket:")
        }
        ports = []
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                ports.append(fields[1])
        assert [f"0100007F:{host.port():04X}"] == ports
        assert not any(
            f"socket:[{line.split()[9]}]" in sockets
            for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]
        )


def test_faults_are_faults_and_end(kvm2: Host) -> None:
    kvm2.freeze()
    assert kvm2.state() == "paused"
    assert kvm2.run("true", patience=3, check=False).returncode == 255
    kvm2.resume()
    assert kvm2.state() == "running"
    kvm2.ssh.forget_connections(kvm2.name)
    assert kvm2.out("hostname") == "kvm2"

    kvm2.close_ssh()
    with pytest.raises(HostError, match="255"):
        kvm2.run("true")
    kvm2.open_ssh()
    assert kvm2.out("hostname") == "kvm2"

    kvm2.connect_management(connected=False)
    assert kvm2.run("true", patience=5, check=False).returncode == 255
    kvm2.connect_management(connected=True)
    kvm2.ssh.forget_connections(kvm2.name)
    assert kvm2.out("hostname") == "kvm2"

    kvm2.delay(0.5)
    begin = time.monotonic()
    kvm2.run("true")
    assert time.monotonic() - begin > 0.25
    kvm2.delay(0)

    kvm2.fill_disk("/var")
    assert int(kvm2.out("df --output=avail -B1 /var | tail -1")) < 4096
    assert kvm2.run("sudo sh -c 'echo x > /var/x && sync /var/x'", check=False).returncode


def test_a_power_cut_and_a_reset(kvm1: Host) -> None:
    kvm1.run("echo before > /tmp/mark; sudo touch /etc/mark; sync")
    kvm1.power_off()
    assert (kvm1.state(), kvm1.crashed()) == ("off", None)
    assert processes.running(kvm1.folder) is None
    kvm1.reset()
    assert kvm1.run("ls /tmp/mark /etc/mark", check=False).returncode
    assert abs(int(kvm1.out("date +%s")) - time.time()) < 30


def test_an_emulator_that_ends_by_itself_is_told(kvm2: Host) -> None:
    assert kvm2.crashed() is None
    pid = processes.running(kvm2.folder)
    assert pid
    os.kill(pid, signal.SIGKILL)
    give_up = time.monotonic() + 10
    while kvm2.state() != "off" and time.monotonic() < give_up:
        time.sleep(0.05)
    assert kvm2.crashed() is not None
    kvm2.reset()
    assert kvm2.crashed() is None


def test_a_reset_in_place_forgets_what_was_done(kvm2: Host) -> None:
    kvm2.run("sudo touch /etc/mark; sudo hostname other")
    kvm2.reset()
    assert kvm2.out("hostname; ls /etc/mark 2>&1 || true").splitlines()[0] == "kvm2"
    assert kvm2.run("test -e /etc/mark", check=False).returncode == 1
    assert abs(int(kvm2.out("date +%s")) - time.time()) < 30


def test_a_lab_killed_while_it_rose_leaves_nothing(standing_lab: Lab, tmp_path: Path) -> None:
    """Another lab beside the tests' own: killed in the middle, taken down, and that alone."""
    lab = Lab("killed", standing_lab.source)
    command = virtlab("--lab", "killed", "--file", str(standing_lab.source), "up")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment(), stdout=log, stderr=log)
        give_up = time.monotonic() + 120
        while not any(processes.running(host.folder) for host in lab.hosts.values()):
            assert time.monotonic() < give_up, (tmp_path / "log").read_text()
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    folders = [lab.folder / "hosts", *(host.folder for host in lab.hosts.values())]
    pids = [pid for folder in folders if (pid := processes.running(folder))]
    assert pids
    subprocess.run(virtlab("--lab", "killed", "down"), env=environment(), check=True)
    assert not lab.folder.exists()
    assert not lab.ssh.sockets.exists()
    assert not [pid for pid in pids if identity(pid)]
    for host in standing_lab.hosts.values():
        assert host.out("hostname") == host.name


def test_a_process_that_took_over_a_recorded_pid_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        stat = Path(f"/proc/{stranger.pid}/stat").read_text()
        head, _, rest = stat.rpartition(")")
        fields = rest.split()
        fields[19] = str(int(fields[19]) - 1)  # it began at another time
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        (tmp_path / "process").write_text(f"{boot}{head}) {' '.join(fields)}\n")
        assert processes.running(tmp_path) is None
        processes.end(tmp_path)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_the_command_line_tells_what_there_is(standing_lab: Lab) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = virtlab("--lab", standing_lab.name, *words)
        return subprocess.run(
            command, env=environment(), capture_output=True, text=True, check=False
        )

    lines = run("status").stdout.splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["kvm1", "running", "bookworm", "ready"],
        ["kvm2", "running", "trixie", "ready"],
    ]
    assert run("ssh", "kvm2", "hostname").stdout.strip() == "kvm2"
    unknown = run("reset", "kvm9")
    assert unknown.returncode == 1
    told = f"no host 'kvm9' in the lab {standing_lab.name}: it has kvm1, kvm2"
    assert told in unknown.stderr

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong on the way: said clearly, nothing lost, and a second run completes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from playing import REPOSITORY, Ansible
from virtlab.identity import make_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from virtlab.host import Host
    from virtlab.lab import Lab

STATED: dict[str, Any] = {
    **yaml.safe_load((REPOSITORY / "molecule" / "guests.yml").read_text()),
    "kvm_host_sysctl": {"vm.swappiness": 10},
    "kvm_preflight_selftest": False,
}
# Results of a whole run on two hosts after which the controller is killed, or one of them loses its
# power.
KILLS = [2, 6, 9, 13, 17, 21, 25, 29, 33, 37]
POWER_CUTS = [4, 8, 12, 16, 20, 24, 28, 32]


@pytest.fixture(scope="module", autouse=True)
def _hosts_made(ansible: Ansible) -> None:
    """Have both hosts made once, so that each fault meets what a second run would meet."""
    ansible.playbook("site", **STATED)


def interrupted(
    ansible: Ansible, scratch: Path, moment: Callable[[int], bool], then: Callable[[], None]
) -> tuple[int, str]:
    """Run the whole way and call ``then`` when so many results came that it is the ``moment``."""
    results, log = scratch / "results", scratch / "log"
    results.touch()
    command = ansible.command(REPOSITORY / "playbooks/site.yml", "-e", json.dumps(STATED))
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=ansible.environment(str(results)),
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                if moment(len(results.read_text().splitlines())):
                    then()
                    break
                time.sleep(0.05)
            process.wait(timeout=900)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return process.returncode, log.read_text()


@pytest.fixture
def other_inventory(lab: Lab, tmp_path: Path) -> Callable[..., Ansible]:
    """Return a way to have the lab's inventory with some of a host's variables changed."""

    def changed(host: str, **variables: Any) -> Ansible:
        content = yaml.safe_load((lab.inventory / "hosts.yml").read_text())
        content["hypervisors"]["hosts"][host].update(variables)
        folder = tmp_path / "inventory"
        folder.mkdir()
        (folder / "hosts.yml").write_text(yaml.safe_dump(content))
        (folder / "group_vars").symlink_to(REPOSITORY / "inventory/lab/group_vars")
        return Ansible(folder)

    return changed


def summary(output: str) -> dict[str, str]:
    """Return the summary's line of each host."""
    lines = output.splitlines()
    return {
        name: line
        for line in lines
        for name in ("kvm1", "kvm2")
        if line.startswith(f"{name} ") and " : ok=" not in line
    }


def test_a_host_that_does_not_answer_is_named_and_stops_alone(ansible: Ansible, kvm2: Host) -> None:
    kvm2.close_ssh()
    try:
        run = ansible.playbook("site", status=4, **STATED)
    finally:
        kvm2.open_ssh()
    assert run.recap["kvm2"]["unreachable"] == 1
    assert run.recap["kvm1"]["failures"] == run.recap["kvm1"]["unreachable"] == 0
    assert "unreachable" in summary(run.output)["kvm2"]
    assert "unreachable" not in summary(run.output)["kvm1"]


def test_a_changed_host_key_is_refused(
    other_inventory: Callable[..., Ansible], lab: Lab, tmp_path: Path
) -> None:
    kvm1, kvm2 = lab["kvm1"], lab["kvm2"]
    known = tmp_path / "known_hosts"
    known.write_text(
        f"[127.0.0.1]:{kvm1.port()} {kvm1.host_key()}\n"
        f"[127.0.0.1]:{kvm2.port()} {kvm1.host_key()}\n"
    )
    options = " ".join(
        f"-o {name}={value}"
        for name, value in {**lab.ssh.options(), "UserKnownHostsFile": str(known)}.items()
    )
    kvm2.ssh.forget_connections("kvm2")
    ansible = other_inventory("kvm2", ansible_ssh_common_args=options)
    run = ansible.playbook("preflight", status=4, **STATED)
    (message,) = run.messages("kvm2")
    assert "Host key verification failed" in message
    assert run.recap["kvm1"]["unreachable"] == 0


def test_a_wrong_key_of_ours_is_said(
    other_inventory: Callable[..., Ansible], kvm2: Host, tmp_path: Path
) -> None:
    make_key(tmp_path / "stranger", "stranger")
    kvm2.ssh.forget_connections("kvm2")
    ansible = other_inventory("kvm2", ansible_ssh_private_key_file=str(tmp_path / "stranger"))
    options = " ".join(
        f"-o {name}={value}" for name, value in kvm2.ssh.options().items() if name != "IdentityFile"
    )
    run = ansible.playbook("preflight", status=4, **STATED, ansible_ssh_common_args=options)
    (message,) = run.messages("kvm2")
    assert "Permission denied" in message
    assert run.recap["kvm1"]["unreachable"] == 0


def test_a_missing_sudo_password_is_said(
    other_inventory: Callable[..., Ansible], kvm2: Host
) -> None:
    kvm2.run(
        "sudo useradd --create-home --groups sudo visitor"
        " && sudo cp -r ~/.ssh ~visitor/ && sudo chown -R visitor: ~visitor/.ssh"
    )
    kvm2.ssh.forget_connections("kvm2")
    run = other_inventory("kvm2", ansible_user="visitor").playbook("preflight", status=2, **STATED)
    (message,) = run.messages("kvm2")
    assert "password" in message.lower()
    assert run.recap["kvm1"]["failures"] == 0
    kvm2.ssh.forget_connections("kvm2")
    kvm2.run("sudo userdel --remove visitor", check=False)


PACKAGES = ("--limit", "kvm1", "--tags", "kvm_host_packages")


def test_packages_that_another_process_locks_are_waited_for_and_named(
    ansible: Ansible, kvm1: Host
) -> None:
    kvm1.run(
        "sudo systemd-run --unit=locker python3 -c 'import fcntl,time;"
        'f=open("/var/lib/dpkg/lock-frontend","w");fcntl.lockf(f,fcntl.LOCK_EX);time.sleep(600)\''
    )
    wanted = {"kvm_host_extra_packages": ["sl"], "kvm_host_package_lock_timeout": 3}
    try:
        run = ansible.playbook("hosts", *PACKAGES, status=2, **STATED, **wanted)
        message = run.messages("kvm1")[-1]
        assert "Unable to acquire the dpkg frontend lock" in message
        assert "kvm1 misses sl" in message
        assert "raise kvm_host_package_lock_timeout" in message
    finally:
        kvm1.run("sudo systemctl stop locker")


def test_a_mirror_that_does_not_answer_is_said(ansible: Ansible, kvm1: Host) -> None:
    wanted = {"kvm_host_extra_packages": ["sl"]}
    proxy = "/etc/apt/apt.conf.d/zz-nowhere"
    kvm1.run(f"echo 'Acquire::http::Proxy \"http://127.0.0.1:9\";' | sudo tee {proxy}")
    kvm1.run(f"echo 'Acquire::Retries \"0\";' | sudo tee -a {proxy}")
    try:
        run = ansible.playbook("hosts", *PACKAGES, status=2, **STATED, **wanted)
        message = run.messages("kvm1")[-1]
        assert "kvm1 misses sl" in message
        assert "If a mirror does not answer, look at the host's sources" in message
    finally:
        kvm1.run(f"sudo rm {proxy}")
    assert ansible.playbook("hosts", *PACKAGES, **STATED).changed() == {}


def test_a_full_disk_is_said_and_a_second_run_completes(ansible: Ansible, kvm2: Host) -> None:
    kvm2.fill_disk("/var")
    changed = {**STATED, "kvm_host_sysctl": {"vm.swappiness": 33}}
    only = ("--limit", "kvm2", "--tags", "kvm_host_config")
    run = ansible.playbook("hosts", *only, status=None, **changed)
    assert run.status in {2, 4}
    assert "No space left on device" in run.output
    kvm2.run("sudo rm /var/.virtlab-full")
    ansible.playbook("hosts", *only, **changed)
    assert kvm2.out("cat /proc/sys/vm/swappiness") == "33"
    assert ansible.playbook("hosts", *only, **changed).changed() == {}


@pytest.mark.one_of("breaking off")
@pytest.mark.parametrize("after", POWER_CUTS)
def test_a_host_powered_off_in_the_middle_stops_alone(
    ansible: Ansible, lab: Lab, tmp_path: Path, after: int
) -> None:
    kvm2 = lab["kvm2"]
    status, output = interrupted(ansible, tmp_path, lambda n: n >= after, kvm2.power_off)
    assert status == 4
    assert "unreachable" in summary(output)["kvm2"]
    assert "unreachable" not in summary(output)["kvm1"]
    kvm2.cold_boot(fresh=False)
    lab.write_inventory()  # it has another port now
    run = ansible.playbook("site", **STATED)
    assert set(run.changed()) <= {"kvm2"}


@pytest.mark.one_of("breaking off")
@pytest.mark.parametrize("after", KILLS)
def test_a_killed_controller_leaves_what_a_second_run_completes(
    ansible: Ansible, lab: Lab, tmp_path: Path, after: int
) -> None:
    lab.reset()

    def kill() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(ansible, tmp_path, lambda n: n >= after, kill)
    ansible.playbook("site", **STATED)
    run = ansible.playbook("site", **STATED)
    assert run.changed() == {}
    for host in lab.hosts.values():
        assert host.out("cat /proc/sys/vm/swappiness") == "10"
        assert host.out(f"systemctl is-active virtfleet-guest@hello-{host.name}") == "active"


@pytest.fixture
def never_back(kvm2: Host) -> Iterator[Host]:
    """Give a host that goes off for good when it reboots."""
    kvm2.run(
        "printf '[Service]\\nType=oneshot\\nRemainAfterExit=yes\\nExecStop=/bin/sleep 300\\n'"
        " | sudo tee /run/systemd/system/stuck.service && sudo systemctl daemon-reload"
        " && sudo systemctl start stuck"
    )
    yield kvm2
    kvm2.reset()


def test_a_reboot_that_does_not_come_back_is_named_and_stops_alone(
    other_inventory: Callable[..., Ansible], never_back: Host
) -> None:
    allowed = {"kvm_host_reboot": True, "kvm_host_reboot_with_guests": True}
    needs_one = {"kvm_host_cmdline": ["iommu=pt"], "kvm_host_reboot_timeout": 15}
    run = other_inventory(never_back.name, **needs_one).playbook(
        "hosts", status=2, **STATED, **allowed
    )
    message = run.messages(never_back.name)[-1]
    assert "kvm2 did not come back within 15 seconds" in message
    assert run.recap["kvm1"]["failures"] == 0
    assert "did not come back" in summary(run.output)["kvm2"]

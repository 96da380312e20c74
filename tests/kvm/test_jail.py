# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The jail of running guests, seen from outside, and that nothing is missing in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.kvm import control
from declared import UID, Guest

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.skipif(os.geteuid() != 0, reason="guests have users of their own: needs root"),
]

EVERYTHING: dict[str, Any] = {
    "on_reboot": "restart",
    "watchdog": {"action": "reset"},
    "rng": [{}],
    "console": {"ports": ["agent"]},
}


def status_of(pid: int) -> dict[str, str]:
    lines = [line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return {key: value.strip() for key, _, value in lines}


@pytest.fixture
def jailed(host, eventually, tmp_path_factory):
    """Return a guest with every device that there is, and its process."""
    disk = tmp_path_factory.mktemp("disk") / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    guest = host.guest(vcpus=2, disks=[{"file": str(disk)}], **EVERYTHING)
    served = guest.start()
    assert served.line == "ready\n"
    found = guest.ask(op="status")["jail"]
    if found["refused"]:
        pytest.skip(f"this machine refuses: {found['refused']}")
    assert found["root"] == "own"
    eventually(lambda: guest.log().endswith(b"> "))
    return guest, served


def test_it_sees_its_own_folder_alone(jailed, host):
    guest, served = jailed
    root = f"/proc/{served.pid}/root"
    inside = [os.path.relpath(folder, root) for folder, _, _ in os.walk(root)]
    parts = guest.paths.state.strip("/").split("/")
    above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    assert sorted(inside) == sorted([".", *above])
    assert os.listdir(root + guest.paths.state) == ["console.log"]
    assert os.readlink(f"/proc/{served.pid}/cwd") == "/"
    mounts = [
        line.split() for line in Path(f"/proc/{served.pid}/mountinfo").read_text().splitlines()
    ]
    assert [mount[4] for mount in mounts] == ["/", guest.paths.state]
    for mount, writable in zip(mounts, ("ro", "rw"), strict=True):
        assert {writable, "nosuid", "nodev", "noexec"} <= set(mount[5].split(","))
        assert mount[6] == "-"  # nothing propagates


def test_it_is_in_namespaces_of_its_own(jailed):
    _, served = jailed
    for name in ("mnt", "ipc", "uts", "net"):
        ours, its = (os.readlink(f"/proc/{pid}/ns/{name}") for pid in ("self", served.pid))
        assert ours != its
    (device,) = Path(f"/proc/{served.pid}/net/dev").read_text().splitlines()[2:]
    assert device.split(":")[0].strip() == "lo"
    tool = shutil.which("nsenter")
    if tool:
        command = [tool, "-t", str(served.pid), "--net", "cat", "/proc/self/net/route"]
        assert len(subprocess.check_output(command, text=True).splitlines()) <= 1


def test_it_has_no_privileges_and_few_calls(jailed):
    _, served = jailed
    tasks = os.listdir(f"/proc/{served.pid}/task")
    assert len(tasks) >= 4
    for task in tasks:
        found = status_of(int(task))
        assert found["Uid"].split() == found["Gid"].split() == [str(UID)] * 4
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(found[name], 16) == 0
        assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    # Not even its own user may look into it: what is in /proc is root's.
    assert os.stat(f"/proc/{served.pid}/mem").st_uid == 0


def test_what_it_holds_open(jailed, host):
    guest, served = jailed
    held: dict[str, int] = {}
    for entry in os.listdir(f"/proc/{served.pid}/fd"):
        target = os.readlink(f"/proc/{served.pid}/fd/{entry}")
        held[target] = held.get(target, 0) + 1
    files = {path for path in held if path.startswith("/")}
    allowed = {"/dev/kvm", "/dev/null", guest.paths.log, f"/proc/{served.pid}/smaps", "/"}
    disks = {path for path in files if path.endswith("/disk.img")}
    assert len(disks) == 1
    assert files - allowed <= disks


def test_a_reset_in_it_works(jailed, eventually):
    guest, served = jailed
    for boots in range(2, 5):
        guest.ask(op="reset")
        eventually(lambda: guest.ask(op="status")["boots"] == boots)  # noqa: B023
        eventually(lambda: guest.log().count(b"Hello") == boots)  # noqa: B023
    guest.ask(op="stop")
    assert served.end() == (0, "")
    assert guest.last_exit()["reason"] == "stopped on request"


# Nothing is opened or loaded in the jail but what is meant to be: an audit hook (PEP 578) tells.

WATCHED = """
import json, os, sys
archive, report, *arguments = sys.argv[1:]
report = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
sys.path.insert(0, archive)
confined = [False]
def watch(event, values):
    if event in ("import", "open", "subprocess.Popen", "os.exec", "os.fork") and confined[0]:
        said = [event, str(values[0])]
        os.write(report, json.dumps(said).encode() + b"\\n")
sys.addaudithook(watch)
from virtfleet.kvm import cli, jail
enter = jail.Jail.enter
def entered(*all):
    found = enter(*all)
    confined[0] = True
    return found
jail.Jail.enter = entered
sys.exit(cli.main(arguments))
"""


@pytest.fixture(params=["host", "oldest"])
def watched(request, host, pythons, archived_helper, tmp_path, image):
    """Start a guest that is watched from inside; return it, its process and what was opened."""
    python = pythons[request.param]
    if python is None:
        pytest.skip("there is no python3.8 here and pyenv has none either")
    script, report = tmp_path / "watched.py", tmp_path / "report"
    script.write_text(WATCHED)

    def start(**machine: Any) -> Any:
        guest: Guest = host.guest(**machine)
        host.helper.command = [python, str(script), str(archived_helper), str(report)]
        served = guest.start()
        assert served.line == "ready\n"

        def events() -> list[list[str]]:
            lines = report.read_text().splitlines() if report.exists() else []
            return [json.loads(line) for line in lines]

        return guest, served, events

    return start


def allowed_in(guest: Guest) -> set[tuple[str, str]]:
    paths = guest.paths
    return {("open", paths.log), ("open", paths.last_exit)}


def test_nothing_is_loaded_or_opened_in_it(watched, eventually, tmp_path):
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    guest, served, events = watched(vcpus=2, disks=[{"file": str(disk)}], **EVERYTHING)
    eventually(lambda: guest.log().endswith(b"> "))
    for message in (
        {"op": "status"},
        {"op": "metrics"},
        {"op": "metrics", "format": "prometheus"},
        {"op": "pause"},
        {"op": "resume"},
        {"op": "resize", "columns": 80, "rows": 25},
        {"op": "shutdown"},
        {"op": "set", "log_max_size": 4096, "log_keep": 1},
        {"op": "reset"},
    ):
        assert guest.ask(**message)["ok"] is True
    for wrong in ({"op": "fly"}, {"op": "set"}, {"op": "metrics", "format": 7}):
        with pytest.raises(control.ControlError):
            guest.ask(**wrong)
    for port in ("hvc0", "agent", "serial"):
        with guest.connect() as client:
            assert control.ask(client, {"op": "console", "port": port}) == {"ok": True}
            client.sendall(b"echo typed\r")
    guest.ask(op="stop")
    assert served.end() == (0, "")
    found = {(event, name) for event, name in events()}
    temporary = f"{guest.paths.last_exit}.{served.pid}"
    descriptors = {(event, name) for event, name in found if event == "open" and name.isdigit()}
    assert found - descriptors == {("open", guest.paths.log), ("open", temporary)}


def test_an_error_in_it_is_reported_whole(watched, image, ring0):
    """A traceback wants to show lines of files that are not there any more."""
    if ring0 != "emulated":
        pytest.skip(f"ring 0 is {ring0} here: the CPU itself carries the instruction out")
    guest, served, events = watched(kernel=image("popcnt"), cmdline="")
    status, complaint = served.end()
    assert status == 70, complaint
    assert "KVM internal error" in complaint
    assert guest.last_exit()["status"] == 70
    assert not [name for event, name in events() if event == "import"]


def test_a_mistake_of_ours_in_it_is_reported_whole(host, pythons, archived_helper, tmp_path):
    """As one on a vCPU's thread, which takes the traceback module."""
    script, report = tmp_path / "watched.py", tmp_path / "report"
    broken = "from virtfleet.kvm.bus import Bus\ndef fail(*_): raise LookupError('planted')\n"
    script.write_text(WATCHED.replace("sys.exit(", f"{broken}Bus.port_io = fail\nsys.exit("))
    guest = host.guest()
    host.helper.command = [pythons["host"], str(script), str(archived_helper), str(report)]
    served = guest.start()
    status, complaint = served.end()
    assert (status, guest.last_exit()["status"]) == (70, 70)
    assert "internal error of the helper: planted" in complaint
    assert "LookupError" in complaint
    assert "LookupError" in guest.last_exit()["detail"]
    assert sys.platform == "linux"

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests on the real /dev/kvm, made by really running the modules, below a root of their own.

What a module says is held against an independent look: /proc, the file system, the socket's bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.kvm import archive, install
from ansible.module_utils.kvm.layout import Layout

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.skipif(os.geteuid() != 0, reason="guests have users of their own: needs root"),
]

MOUNT, UMOUNT, SLEEP = (str(shutil.which(tool)) for tool in ("mount", "umount", "sleep"))
PROMPT = "\n> "
GREETER: dict[str, Any] = {"engine": "ioctl", "kernel": "greeter", "memory": "4MiB"}
# Runs a module as Ansible does, but in one process that can be killed at any moment.
DIRECT = """
import json, runpy, sys
runpy.run_path(sys.argv[1] + "/plugins/shim.py")
from ansible.module_utils.testing import patch_module_args
with patch_module_args(json.loads(sys.argv[3])):
    runpy.run_path(sys.argv[1] + "/library/" + sys.argv[2] + ".py", run_name="__main__")
"""


class Host:
    """A host below a root of its own, with the helper installed."""

    def __init__(self, root: str, repository: Path) -> None:
        self.root = root
        self.repository = repository
        self.layout = Layout(root)
        self.config = Path(root, "ansible.cfg")
        self.config.touch()

    def install_helper(self) -> None:
        content = archive.build()
        wanted = install.desire("present", archive.digest(content), systemd=False)
        steps = install.plan(wanted, install.observe(self.layout))
        install.apply(self.layout, wanted, steps, content, lambda: None)

    # Running the modules.

    def ansible(self, module: str, options: dict[str, Any], *arguments: str) -> dict[str, Any]:
        """Run a module through Ansible, and return what it returned."""
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")},
            "ANSIBLE_CONFIG": str(self.config),
            "ANSIBLE_LIBRARY": str(self.repository / "library"),
            "ANSIBLE_MODULE_UTILS": str(self.repository / "module_utils"),
        }
        command = [sys.executable, "-m", "ansible", "adhoc", "localhost", "-i", "localhost,"]
        command += ["-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"]
        command += ["-m", module, "-a", json.dumps({"root": self.root, **options}), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert " => " in done.stdout, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout.partition(" => ")[2])
        return found

    def command(self, options: dict[str, Any], module: str = "kvm_guests") -> list[str]:
        arguments = json.dumps({"root": self.root, **options})
        return [sys.executable, "-c", DIRECT, str(self.repository), module, arguments]

    def direct(self, options: dict[str, Any], *prefix: str, fails: bool = False) -> dict[str, Any]:
        """Run kvm_guests without Ansible's transport, and return what it returned."""
        command = [*prefix, *self.command(options)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout.strip().startswith("{"), done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        assert bool(found.get("failed")) == fails, found
        return found

    def guests(self, *guests: dict[str, Any], fails: bool = False, **more: Any) -> dict[str, Any]:
        return self.direct({"guests": list(guests), **more}, fails=fails)

    def info(self, name: str, lines: int = 20) -> dict[str, Any]:
        options = {"names": [name], "console_lines": lines, "status": True}
        done = subprocess.run(
            self.command(options, "kvm_guests_info"), capture_output=True, text=True, check=True
        )
        (found,) = json.loads(done.stdout)["guests"]
        assert isinstance(found, dict)
        return found

    # An independent look.

    def digest(self) -> dict[str, str]:
        """Return all that lies below the root, with modes, owners and content.

        Guests that run are greeters, which write no more once they wait for a command.
        """
        for name in self.layout.names():
            if self.processes(name):
                self.wait_for(name, PROMPT)
        found = {}
        for folder, folders, files in os.walk(self.root):
            for name in [*folders, *files]:
                path = os.path.join(folder, name)
                status = os.lstat(path)
                text = f"{status.st_mode:o} {status.st_uid} {status.st_size} {status.st_mtime_ns}"
                if stat.S_ISREG(status.st_mode):
                    text += hashlib.sha256(Path(path).read_bytes()).hexdigest()
                found[path] = text
        return found

    def processes(self, name: str) -> list[int]:
        """Return the processes that run a guest of this root, by their command lines."""
        found = []
        for entry in os.listdir("/proc"):
            with suppress(OSError):
                words = Path("/proc", entry, "cmdline").read_bytes().split(b"\0")
                if {b"serve", name.encode(), self.root.encode()} <= set(words):
                    found.append(int(entry))
        return found

    def pid(self, name: str) -> int:
        (pid,) = self.processes(name)
        return pid

    def connect(self, name: str) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        client.connect(self.layout.guest(name).control)
        return client

    def ask(self, name: str, **message: Any) -> dict[str, Any]:
        with self.connect(name) as client, client.makefile("rw") as stream:
            stream.write(json.dumps(message) + "\n")
            stream.flush()
            found: dict[str, Any] = json.loads(stream.readline())
            return found

    def type(self, name: str, text: str) -> None:
        """Type something on the guest's console."""
        with self.connect(name) as client:
            client.sendall(b'{"op": "console"}\n')
            assert b"true" in client.recv(4096)
            client.sendall(text.encode() + b"\r")
            with suppress(OSError):
                client.recv(4096)

    def wait_until_gone(self, name: str) -> None:
        end = time.monotonic() + 20
        while self.processes(name):
            assert time.monotonic() < end, "it still runs"
            time.sleep(0.02)

    def console(self, name: str) -> str:
        return Path(self.layout.guest(name).log).read_text(encoding="utf-8", errors="replace")

    def wait_for(self, name: str, text: str) -> None:
        end = time.monotonic() + 20
        while text not in self.console(name):
            assert time.monotonic() < end, self.console(name)
            time.sleep(0.02)

    def close(self) -> None:
        for name in self.layout.names():
            for pid in self.processes(name):
                os.kill(pid, signal.SIGKILL)
        for name in self.layout.names():
            self.wait_until_gone(name)
        shutil.rmtree(self.root)


@pytest.fixture(scope="module")
def helper(repository) -> Iterator[str]:
    """Install the helper once, and return the folder that holds it."""
    folder = tempfile.mkdtemp(prefix="virtfleet-")
    Host(folder, repository).install_helper()
    yield os.path.join(folder, "usr")
    shutil.rmtree(folder)


@pytest.fixture
def host(helper, repository) -> Iterator[Host]:
    root = tempfile.mkdtemp(prefix="virtfleet-")
    Path(root).chmod(0o755)  # the guests' users pass through it
    os.symlink(helper, os.path.join(root, "usr"))
    machine = Host(root, repository)
    yield machine
    machine.close()


def verbs(outcome: dict[str, Any]) -> list[str]:
    return [f"{a['action']} {a['object'].partition('/')[2]}" for a in outcome["actions"]]


def kinds(outcome: dict[str, Any]) -> list[str]:
    return [item["kind"] for item in outcome["pending"]]


def state(host: Host, name: str) -> tuple[str, str | None]:
    found = host.info(name)
    return found["state"], (found["exit"] or {}).get("reason")


# The whole life of a guest, through Ansible.


def test_life_cycle(host):
    wish: dict[str, Any] = {
        "guests": [{"name": "web01", **GREETER, "log": {"max_size": "64KiB"}}],
        "host": "kvm1",
    }
    paths = host.layout.guest("web01")

    before = host.digest()
    planned = host.ansible("kvm_guests", wish, "--check")
    assert host.digest() == before, "check mode changed something"
    assert verbs(planned) == ["create web01", "start web01"]

    made = host.ansible("kvm_guests", wish)
    assert made["actions"] == planned["actions"]
    assert made["changed"] is True
    assert {action["host"] for action in made["actions"]} == {"kvm1"}
    look_at_a_running_guest(host)

    pid, before = host.pid("web01"), host.digest()
    for options in ([], ["--check"]):
        again = host.ansible("kvm_guests", wish, *options)
        assert (again["changed"], again["actions"], again["pending"]) == (False, [], [])
    assert host.digest() == before
    assert host.pid("web01") == pid

    info = host.ansible("kvm_guests_info", {"console_lines": 20})
    (found,) = info["guests"]
    assert "Hello from inside a virtfleet guest." in found["console"]
    assert (found["state"], found["pid"]) == ("running", pid)
    assert 0 < found["uptime"] < 600
    assert info["capabilities"]["ioctl"]["vcpus"] >= 1

    change(host, wish, pid)

    wish["guests"][0]["state"] = "stopped"
    assert verbs(host.ansible("kvm_guests", wish, "--check")) == ["stop web01"]
    assert host.processes("web01")
    assert verbs(host.ansible("kvm_guests", wish)) == ["stop web01"]
    assert host.processes("web01") == []
    assert not os.path.exists(paths.run)
    assert state(host, "web01") == ("stopped", "stopped by SIGTERM")
    assert host.ansible("kvm_guests", wish)["changed"] is False

    remove(host, wish)


def look_at_a_running_guest(host: Host) -> None:
    """Look at what is there without any code of the modules."""
    paths = host.layout.guest("web01")
    pid = host.pid("web01")
    definition = json.loads(Path(paths.definition).read_text())
    uid = definition["machine"]["uid"]
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    assert status["Uid"].split() == [str(uid)] * 4
    assert status["Gid"].split() == [str(uid)] * 4
    assert status["CapEff"].strip("\t0") == ""
    assert [os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)] == ["/dev/null"] * 3
    assert os.getsid(pid) == pid
    for path, owner, mode in (
        (paths.folder, 0, 0o755),
        (paths.definition, 0, 0o644),
        (paths.state, uid, 0o700),
        (paths.run, 0, 0o755),
        (paths.pid, 0, 0o644),
    ):
        found = os.stat(path)
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (owner, mode), path
    answer = host.ask("web01", op="status")
    assert (answer["pid"], answer["memory"], answer["vcpus"]) == (pid, 4 << 20, 1)
    assert answer["definition"] == definition["digest"]
    host.wait_for("web01", "Type help")


def change(host: Host, wish: dict[str, Any], pid: int) -> None:
    """Change what can be done live, what cannot, and take it over by a restart."""
    (guest,) = wish["guests"]
    guest["memory"], guest["log"] = "8MiB", {"max_size": "128KiB"}
    before = host.digest()
    planned = host.ansible("kvm_guests", wish, "--check", "--diff")
    assert host.digest() == before, "check mode changed something"
    changed = host.ansible("kvm_guests", wish)
    assert changed["actions"] == planned["actions"]
    assert [action["when"] for action in changed["actions"]] == ["live", "next_boot"]
    assert kinds(changed) == ["restart_required"]
    assert changed["pending"][0]["changes"] == [
        {"path": "memory", "before": "4MiB", "after": "8MiB"}
    ]
    again = host.ansible("kvm_guests", wish)
    assert again["changed"] is False
    assert again["pending"] == changed["pending"]
    assert host.info("web01")["restart_required"] is True
    assert host.pid("web01") == pid
    assert host.ask("web01", op="status")["memory"] == 4 << 20

    guest["state"] = "restarted"
    restarted = host.ansible("kvm_guests", wish)
    assert verbs(restarted) == ["restart web01"]
    assert restarted["pending"] == []
    assert host.pid("web01") != pid
    assert host.ask("web01", op="status")["memory"] == 8 << 20
    guest["state"] = "running"
    assert host.ansible("kvm_guests", wish)["changed"] is False
    assert host.info("web01")["restart_required"] is False


def remove(host: Host, wish: dict[str, Any]) -> None:
    """Remove the guest, and nothing else."""
    paths = host.layout.guest("web01")
    other = Path(host.layout.guests, "somebody-elses")
    other.mkdir()
    other.joinpath("file").touch()
    wish["guests"] = [{"name": "web01", "state": "absent"}]
    before = host.digest()
    assert verbs(host.ansible("kvm_guests", wish, "--check")) == ["delete web01"]
    assert host.digest() == before, "check mode changed something"
    assert verbs(host.ansible("kvm_guests", wish)) == ["delete web01"]
    assert not os.path.exists(paths.folder)
    assert os.listdir(host.layout.guests) == ["somebody-elses"]
    assert other.joinpath("file").exists()
    assert host.ansible("kvm_guests", wish)["changed"] is False


# How guests end.


def test_a_guest_that_died_is_told_and_started_again(host):
    guest = {"name": "a", **GREETER}
    host.guests(guest)
    host.wait_for("a", "Type help")
    host.type("a", "crash")
    host.wait_until_gone("a")
    found, reason = state(host, "a")
    assert found == "failed"
    assert "triple fault" in str(reason)
    assert host.info("a")["exit"]["status"] == 72
    assert host.guests({**guest, "state": "present"})["changed"] is False
    again = host.guests(guest)
    assert verbs(again) == ["start a"]
    assert "triple fault" in again["actions"][0]["reason"]
    assert host.processes("a")
    assert host.guests(guest)["changed"] is False


def test_a_guest_that_exits_by_itself(host):
    guest = {"name": "a", **GREETER}
    for command, status, found in (("exit 3", 7, "failed"), ("reset", 0, "stopped")):
        host.guests(guest)
        host.wait_for("a", "Type help")
        host.type("a", command)
        host.wait_until_gone("a")
        info = host.info("a")
        assert (info["state"], info["exit"]["status"]) == (found, status)


def test_an_endless_writer_fills_no_disk(host):
    guest = {"name": "a", **GREETER, "log": {"max_size": "16KiB", "keep": 2}}
    host.guests(guest)
    host.wait_for("a", "Type help")
    host.type("a", "flood")
    paths = host.layout.guest("a")
    end = time.monotonic() + 20
    while not os.path.exists(f"{paths.log}.2"):
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.2)
    sizes = {
        name: os.path.getsize(os.path.join(paths.state, name)) for name in os.listdir(paths.state)
    }
    logs = {name: size for name, size in sizes.items() if name.startswith("console")}
    assert set(logs) == {"console.log", "console.log.1", "console.log.2"}
    assert all(size <= 16 * 1024 for size in logs.values()), logs
    assert host.guests(guest)["changed"] is False
    info = host.info("a", lines=5)
    assert len(info["console"]) == 5
    assert "quick brown fox" in info["console"][1]
    live = host.guests({**guest, "log": {"max_size": "8KiB", "keep": 1}})
    assert [action["when"] for action in live["actions"]] == ["live"]
    assert verbs(host.guests({**guest, "state": "absent"})) == ["stop a", "delete a"]
    assert host.processes("a") == []


def test_a_killed_guest_leaves_nothing_that_trips_over(host):
    guest = {"name": "a", **GREETER}
    host.guests(guest)
    os.kill(host.pid("a"), signal.SIGKILL)
    host.wait_until_gone("a")
    paths = host.layout.guest("a")
    assert os.path.exists(paths.control), "this test is about a socket that is left over"
    found, reason = state(host, "a")
    assert found == "failed"
    assert "without a word" in str(reason)
    assert verbs(host.guests(guest)) == ["start a"]
    assert host.ask("a", op="status")["pid"] == host.pid("a")
    os.kill(host.pid("a"), signal.SIGKILL)
    host.wait_until_gone("a")
    assert verbs(host.guests({**guest, "state": "absent"})) == ["delete a"]
    assert not os.path.exists(paths.run)


def test_the_pid_of_somebody_else_is_nobodys(host):
    guest = {"name": "a", **GREETER}
    host.guests({**guest, "state": "stopped"})
    paths = host.layout.guest("a")
    bystander = subprocess.Popen([SLEEP, "600"])
    try:
        fields = Path(f"/proc/{bystander.pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        os.makedirs(paths.run)
        for start in (int(fields[19]) - 1, int(fields[19]) + 1):
            note = {"pid": bystander.pid, "start": start, "boot_id": boot}
            Path(paths.pid).write_text(json.dumps(note))
            assert host.info("a")["state"] != "running"
            assert host.guests({**guest, "state": "stopped"})["changed"] is False
        for spoilt in ("", "{", "[]", '{"pid": 1}', '{"pid": "1", "start": 1, "boot_id": ""}'):
            Path(paths.pid).write_text(spoilt)
            assert host.info("a")["state"] == "stopped"
        assert verbs(host.guests(guest)) == ["start a"]
        assert verbs(host.guests({**guest, "state": "absent"})) == ["stop a", "delete a"]
        assert bystander.poll() is None, "a process that is no guest was ended"
    finally:
        bystander.kill()
        bystander.wait()


def test_a_guest_that_does_not_answer_is_killed_only_on_request(host):
    guest = {"name": "a", **GREETER}
    host.guests(guest)
    pid = host.pid("a")
    os.kill(pid, signal.SIGSTOP)
    refused = host.guests({**guest, "state": "stopped"}, stop_timeout="300ms", fails=True)
    assert "did not stop within 0.3 seconds" in refused["msg"]
    assert refused["changed"] is False
    assert host.pid("a") == pid
    done = host.guests({**guest, "state": "stopped"}, stop_timeout="300ms", force=True)
    assert verbs(done) == ["stop a"]
    assert host.processes("a") == []
    assert state(host, "a")[0] == "stopped"


# What is refused, with nothing changed.


def broken_images(folder: str) -> dict[str, bytes | None]:
    from ansible.module_utils.kvm.programs import PROGRAMS  # only this test's

    image = PROGRAMS["greeter"]
    return {
        "missing": None,
        "truncated": image[:40],
        "cut": image[: len(image) // 2],
        "no-magic": image.replace(bytes.fromhex("02b0ad1b"), bytes(4)),
        "empty": b"",
        "gzip": b"\x1f\x8b" + bytes(100),
        "arm": image[:18] + b"\xb7\x00" + image[20:],
    }


def test_bad_input_changes_nothing(host):
    host.guests({"name": "there", **GREETER})
    before = host.digest()
    images = []
    folder = tempfile.mkdtemp()
    for name, content in broken_images(folder).items():
        if content is not None:
            Path(folder, name).write_bytes(content)
        images.append({"name": name, **GREETER, "kernel": os.path.join(folder, name)})
    cases: list[tuple[list[dict[str, Any]], list[str]]] = [
        (images, [f"guests[{number}].kernel: expected a kernel that" for number in range(7)]),
        (
            [
                {"name": "there", **GREETER, "vcpus": 0},
                {"name": "new", **GREETER},
                {"name": "../x", **GREETER},
                {"name": "new", **GREETER, "memory": "9999GiB", "memroy": 1},
            ],
            [
                "guests[0].vcpus: expected a whole number",
                "guests[2].name: expected an RFC 1123 label",
                "did you mean memory?",
                "of memory that this host has",
                "guests[3].name: expected a name of its own",
            ],
        ),
        (
            [{"name": "there", **GREETER, "memory": "1MiB"}],
            [
                "guests[0].kernel: expected a kernel that starts with 1MiB of memory",
                "needs at least",
            ],
        ),
        (
            [{"name": "new", **GREETER, "initrd": "/nowhere/initrd"}],
            ["guests[0].kernel", "/nowhere/initrd"],
        ),
    ]
    try:
        for guests, messages in cases:
            for options in ({}, {"_ansible_check_mode": True}):
                refused = host.direct({"guests": guests, **options}, fails=True)
                for message in messages:
                    assert message in refused["msg"]
                assert len(refused["problems"]) >= len(messages) - 1
    finally:
        shutil.rmtree(folder)
    assert host.digest() == before
    assert host.processes("there")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("mount -t tmpfs tmpfs /dev && mknod /dev/null c 1 3", "/dev/kvm is missing"),
        ("mount --bind /dev/null /dev/kvm", "/dev/kvm is not a KVM device"),
    ],
)
def test_without_a_usable_kvm_nothing_is_made(host, script, message):
    before = host.digest()
    options = {"guests": [{"name": "a", **GREETER}]}
    enter = ["unshare", "--mount", "sh", "-ec", script + '; exec "$@"', "sh"]
    probe = subprocess.run([*enter, "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("namespaces cannot be made here")
    for mode in ({}, {"_ansible_check_mode": True}):
        assert message in host.direct({**options, **mode}, *enter, fails=True)["msg"]
    assert host.digest() == before


def test_without_the_helper_nothing_is_made(host):
    os.unlink(os.path.join(host.root, "usr"))
    before = host.digest()
    options = {"guests": [{"name": "a", **GREETER}]}
    assert "kvm_helper" in host.direct(options, fails=True)["msg"]
    assert host.digest() == before
    planned = host.direct({**options, "_ansible_check_mode": True})
    assert verbs(planned) == ["create a", "start a"]
    assert host.digest() == before


def test_without_root_nothing_is_made(host):
    before = host.digest()
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    probe = [*nobody, "test", "-r", str(host.repository / "plugins" / "shim.py")]
    if subprocess.run(probe, check=False).returncode != 0:
        pytest.skip("nobody cannot read this checkout: a folder above it is closed to others")
    refused = host.direct(
        {"guests": [{"name": "a", **GREETER, "state": "stopped"}]}, *nobody, fails=True
    )
    assert "become: true" in refused["msg"]
    assert host.digest() == before


def test_a_protected_guest_stays(host):
    guest = {"name": "a", **GREETER, "protected": True}
    host.guests(guest)
    pid = host.pid("a")
    for outcome in (
        host.guests({"name": "a", "state": "absent"}),
        host.guests(prune=True),
    ):
        assert outcome["changed"] is False
        assert [item["object"] for item in outcome["blocked"]] == ["guest/a"]
        assert "guest/a is blocked" in str(outcome["warnings"])
    assert host.pid("a") == pid
    done = host.guests({"name": "a", "state": "absent", "protected": False})
    assert verbs(done) == ["stop a", "delete a"]


def test_pruning_takes_only_the_fleets_own(host):
    host.guests({"name": "a", **GREETER}, {"name": "b", **GREETER})
    host.guests({"name": "c", **GREETER}, fleet="other")
    Path(host.layout.guests, "d").mkdir()
    outcome = host.guests({"name": "a", **GREETER}, prune=True)
    assert verbs(outcome) == ["stop b", "delete b"]
    assert sorted(os.listdir(host.layout.guests)) == ["a", "c", "d"]
    assert host.processes("a")
    assert host.processes("c")


# Two runs, interrupted runs, full disks.


def test_the_second_run_names_the_first(host):
    guest = {"name": "a", **GREETER}
    host.guests(guest)
    lock = Path(host.layout.state, "lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps({"run": "kvm_guests", "pid": 4711, "user": "kim"}))
        file.flush()
        assert host.guests(guest)["changed"] is False, "who changes nothing waits for nobody"
        planned = host.direct({"guests": [{"name": "b", **GREETER}], "_ansible_check_mode": True})
        assert planned["changed"] is True
        refused = host.guests({"name": "b", **GREETER}, fails=True)
        assert "pid 4711, user kim" in refused["msg"]
    assert verbs(host.guests({"name": "b", **GREETER})) == ["create b", "start b"]


def interrupt(host: Host, chance: random.Random, rounds: int) -> None:
    """Kill the module at random moments, and let a second run finish what it left."""
    up = [{"name": name, **GREETER} for name in ("a", "b", "c")]
    steps = [
        (up, "running"),
        ([{**guest, "vcpus": 2, "state": "restarted"} for guest in up], "running"),
        ([{**guest, "state": "stopped"} for guest in up], "stopped"),
        ([{**guest, "state": "absent"} for guest in up], None),
    ]
    started = time.monotonic()
    host.guests(*up)
    whole = time.monotonic() - started
    host.guests(*steps[-1][0])
    for _ in range(rounds):
        for wish, wanted in steps:
            module = subprocess.Popen(
                host.command({"guests": wish}), stdout=subprocess.DEVNULL, start_new_session=True
            )
            with suppress(subprocess.TimeoutExpired):
                module.wait(chance.uniform(0.3 * whole, whole))
            module.kill()
            module.wait()
            host.guests(*wish)
            settled = [{**guest, "state": wanted or "absent"} for guest in wish]
            assert host.guests(*settled)["changed"] is False
            check_state(host, wanted)


def check_state(host: Host, wanted: str | None) -> None:
    entries = os.listdir(host.layout.guests)
    assert sorted(entries) == ([] if wanted is None else ["a", "b", "c"]), "something was left"
    for name in entries:
        running = host.processes(name)
        assert len(running) == (wanted == "running")
        if running:
            assert host.ask(name, op="status")["pid"] == running[0]


def test_an_interrupted_run_is_completed_by_the_next(host):
    interrupt(host, random.Random(20), rounds=2)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
def test_many_interrupted_runs(host, seed):
    interrupt(host, random.Random(seed), rounds=5)


@pytest.fixture
def small_disk(host) -> Iterator[Host]:
    os.makedirs(host.layout.state)
    mounted = subprocess.run(
        [MOUNT, "-t", "tmpfs", "-o", "size=64k,mode=0755", "tmpfs", host.layout.state],
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    yield host
    for name in host.layout.names():
        for pid in host.processes(name):
            os.kill(pid, signal.SIGKILL)
        host.wait_until_gone(name)
    subprocess.run([UMOUNT, "--lazy", host.layout.state], check=True)


def fill(folder: str) -> Path:
    path = Path(folder, "filler")
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


def test_a_full_disk(small_disk):
    host, guest = small_disk, {"name": "a", **GREETER}
    Path(host.layout.state, "lock").touch()
    filler = fill(host.layout.state)
    refused = host.guests(guest, fails=True)
    assert "No space left on device" in refused["msg"]
    assert refused["changed"] is False
    assert os.listdir(host.layout.guests) == []
    filler.unlink()

    host.guests({**guest, "log": {"max_size": "1MiB"}})
    host.wait_for("a", "Type help")
    host.type("a", "flood")
    end = time.monotonic() + 30
    while not host.ask("a", op="status")["log"]["dropped"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    running = host.info("a")
    assert running["state"] == "running"
    assert running["status"]["log"]["error"] == "No space left on device"
    refused = host.guests({**guest, "memory": "8MiB"}, fails=True)
    assert "No space left on device" in refused["msg"]
    assert host.guests({**guest, "state": "stopped"})["changed"] is True
    os.unlink(host.layout.guest("a").log)
    done = host.guests({**guest, "memory": "8MiB"})
    assert verbs(done) == ["update a", "start a"]
    assert host.ask("a", op="status")["memory"] == 8 << 20


# Many guests.


def test_many_guests_in_one_call(host):
    guests = [{"name": f"g{number}", **GREETER} for number in range(12)]
    assert len(host.guests(*guests)["actions"]) == 24
    definitions = [
        json.loads(Path(host.layout.guest(guest["name"]).definition).read_text())
        for guest in guests
    ]
    assert len({definition["machine"]["uid"] for definition in definitions}) == 12
    assert len({definition["uuid"] for definition in definitions}) == 12
    assert host.guests(*guests)["changed"] is False
    gone = host.guests(*({**guest, "state": "absent"} for guest in guests))
    assert len(gone["actions"]) == 24
    assert os.listdir(host.layout.guests) == []
    assert os.listdir(host.layout.run) == []

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real processes that are started, watched and stopped; what they run is a simulated helper."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
from contextlib import suppress

import pytest
from ansible.module_utils.guest.ioctl import spawn
from ansible.module_utils.guest.ioctl.detached import Detached, wait_for_end
from ansible.module_utils.guest.ioctl.observe import running_process
from ansible.module_utils.kvm import process
from ansible.module_utils.kvm.layout import Layout
from ansible.module_utils.kvm.process import Identity, identity

# SIMULATED: behaves as its guest's name says, and knows of KVM nothing at all.
HELPER = """#!{python} -S
import json, os, signal, socket, sys, time
words = sys.argv[1:]
name, root = words[1], words[words.index("--root") + 1]
notify = int(words[words.index("--notify-fd") + 1])
run = os.path.join(root, "run/virtfleet", name)

def tell(text):
    os.write(notify, text)
    os.close(notify)

def record():
    os.makedirs(run, exist_ok=True)
    with open("/proc/self/stat") as file:
        start = int(file.read().rpartition(")")[2].split()[19])
    with open("/proc/sys/kernel/random/boot_id") as file:
        note = {{"pid": os.getpid(), "start": start, "boot_id": file.read().strip()}}
    with open(os.path.join(run, "pid.json"), "w") as file:
        json.dump(note, file)

if name == "silent":
    sys.exit(3)
if name == "error":
    tell(b"error: the kernel is no good\\n")
    sys.exit(66)
if name == "hangs":
    time.sleep(600)
if name == "late-error":
    record()
    tell(b"error: KVM does not want\\n")
    time.sleep(5)
    sys.exit(70)
record()
if name == "tells":
    facts = {{"session": os.getsid(0) == os.getpid(), "words": words}}
    facts["environment"] = dict(os.environ)
    facts["descriptors"] = {{
        number: os.readlink("/proc/self/fd/" + number)
        for number in os.listdir("/proc/self/fd")
        if os.path.lexists("/proc/self/fd/" + number)
    }}
    facts["ignored"] = [n for n in (1, 2, 15) if signal.getsignal(n) == signal.SIG_IGN]
    with open(os.path.join(root, "facts"), "w") as file:
        json.dump(facts, file)
if name == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if name.startswith("polite"):
    path = os.path.join(run, "control.sock")
    if os.path.exists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
tell(b"ready\\n")
time.sleep(600)
"""


@pytest.fixture
def host(tmp_path):
    layout = Layout(str(tmp_path))
    os.makedirs(os.path.dirname(layout.command))
    with open(layout.command, "w", encoding="ascii") as file:
        file.write(HELPER.format(python=sys.executable))
    os.chmod(layout.command, stat.S_IRWXU)
    os.makedirs(layout.guests)
    yield layout
    for name in os.listdir(layout.run) if os.path.isdir(layout.run) else ():
        found = running_process(layout.guest(name))
        if found is not None:
            os.kill(found.who.pid, signal.SIGKILL)
    reap()


def who_runs(host, name):
    found = running_process(host.guest(name))
    assert found is not None
    return found.who


def who_is(pid):
    found = identity(pid)
    assert found is not None
    return found


def reap():
    """Let go of processes that ended: in a module they become init's."""
    end = time.monotonic() + 10
    with suppress(ChildProcessError):
        while time.monotonic() < end:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)


def test_it_starts_and_stops_several_at_once(host):
    names = [f"polite{number}" for number in range(10)]
    detached = Detached(host)
    assert detached.start(names) == {}
    pids = {who_runs(host, name).pid for name in names}
    assert len(pids) == 10
    assert detached.stop(names, 10.0, force=False) == {}
    assert os.listdir(host.run) == []


def test_a_process_is_detached_from_this_one(host):
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    assert Detached(host).start(["tells"]) == {}
    with open(os.path.join(host.root, "facts"), encoding="ascii") as file:
        facts = json.load(file)
    assert facts["session"] is True
    assert facts["words"][:2] == ["serve", "tells"]
    assert facts["ignored"] == []
    assert set(facts["environment"]) <= {"PATH", "LC_CTYPE"}
    assert [facts["descriptors"][number] for number in "012"] == ["/dev/null"] * 3
    others = [name for number, name in facts["descriptors"].items() if int(number) > 3]
    assert all(name.startswith("/proc/") for name in others), "it got descriptors of ours"
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("error", "the kernel is no good"),
        ("late-error", "KVM does not want"),
        ("silent", "it ended before it was ready, without a word"),
        ("hangs", "it was not ready after 4 seconds and was ended"),
    ],
)
def test_why_it_did_not_start(host, name, why):
    assert Detached(host, start_timeout=4.0).start([name, "other"]) == {name: why}
    assert running_process(host.guest("other")) is not None


def test_the_last_words_of_a_silent_end(host):
    paths = host.guest("silent")
    os.makedirs(paths.state)
    with open(paths.last_exit, "w", encoding="ascii") as file:
        json.dump({"status": 70, "reason": "no memory"}, file)
    assert Detached(host).start(["silent"]) == {"silent": "no memory"}


def test_no_helper_at_all(host):
    os.unlink(host.command)
    assert Detached(host).start(["a"]) == {"a": f"{host.command}: No such file or directory"}


def test_who_started_first_is_as_good(host):
    assert Detached(host).start(["other"]) == {}
    who = who_runs(host, "other")

    def too_late(_):
        return spawn.launch([host.command, "serve", "error", "--root", host.root])

    assert Detached(host, start=too_late).start(["other"]) == {}
    assert who_runs(host, "other") == who


def test_who_does_not_stop_is_killed_only_on_request(host):
    detached = Detached(host)
    detached.start(["stubborn", "plain"])
    started = time.monotonic()
    failures = detached.stop(["stubborn", "plain"], 0.3, force=False)
    assert failures == {"stubborn": "it did not stop within 0.3 seconds; force: true kills it"}
    assert time.monotonic() - started < 5
    assert running_process(host.guest("stubborn")) is not None
    assert detached.stop(["stubborn"], 0.3, force=True) == {}
    assert os.listdir(host.run) == []


def test_a_restart_is_both_and_starts_nobody_twice(host):
    detached = Detached(host)
    detached.start(["plain", "stubborn"])
    before = {name: who_runs(host, name) for name in ("plain", "stubborn")}
    failures = detached.restart(["plain", "stubborn"], 0.3, force=False)
    assert list(failures) == ["stubborn"]
    assert who_runs(host, "plain") != before["plain"]
    assert who_runs(host, "stubborn") == before["stubborn"]


def test_stopping_what_does_not_run_touches_nobody(host):
    me = who_is(os.getpid())
    stale = Identity(me.pid, me.start + 1, me.boot_id)
    paths = host.guest("stale")
    os.makedirs(paths.run)
    with open(paths.pid, "w", encoding="ascii") as file:
        json.dump(stale.to_dict(), file)
    assert Detached(host).stop(["stale", "never"], 5.0, force=True) == {}
    assert os.listdir(host.run) == []


def test_nothing_starts_a_guest_at_boot(host):
    detached = Detached(host)
    assert detached.supervised is False
    assert detached.autostart(["a"], enable=True) == {}
    detached.forget(["a"])
    assert os.listdir(host.guests) == []


@pytest.mark.parametrize("pidfd", [True, False])
def test_waiting_ends_with_the_process_or_the_time(pidfd, monkeypatch):
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    child = os.fork()
    if child == 0:
        time.sleep(0.2)
        os._exit(0)
    who = {"child": who_is(child), "me": who_is(os.getpid())}
    assert wait_for_end({"child": who["child"]}, 10.0) == set()
    assert wait_for_end(who, 0.1) == {"me"}
    assert wait_for_end({}, 10.0) == set()
    os.waitpid(child, 0)
    assert not process.alive(who["child"])

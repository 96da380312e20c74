# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was found out before is not worked out again, and never stands for what has changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.converge.errors import InputError
from ansible.module_utils.guest.local import converge_guests, look_at_guests
from ansible.module_utils.virt import check, patcher, reader

libvirt = pytest.importorskip("libvirt", reason="the binding is built for the controller's Python")

from testdriver import GUEST, URI, Driver  # noqa: E402  (it needs the binding)

GUEST = {**GUEST, "memory": "2048MiB"}  # which is 2GiB
WORD = "Xy7-rare"
SHOWN = {"graphics": [{"type": "vnc", "listen": "127.0.0.1", "password": WORD}]}


@pytest.fixture
def host(tmp_path):
    found = Driver(tmp_path)
    yield found
    found.close()


@pytest.fixture
def worked_out(monkeypatch):
    """Return a list of what was read, checked and compared."""
    calls = []

    def counted(module, name):
        real = getattr(module, name)

        def call(*given, **named):
            calls.append(name)
            return real(*given, **named)

        monkeypatch.setattr(module, name, call)

    counted(check, "check")
    counted(reader, "read_root")
    counted(patcher, "differences")
    return calls


def answers(host):
    return Path(host.layout.cache, "answers")


def test_what_is_unchanged_is_not_worked_out_again(host, worked_out):
    host.run(GUEST)
    host.run(GUEST)
    worked_out.clear()
    again = host.run(GUEST)
    assert worked_out == []
    assert (again["changed"], again["actions"], again["guests"][0]["memory"]) == (False, [], "2GiB")


@pytest.mark.parametrize(
    ("edit", "path"),
    [({"memory": "1GiB"}, "memory"), ({"vcpus": 1}, "vcpus"), ({"title": "front"}, "title")],
)
def test_another_declaration_is(host, edit, path):
    host.run(GUEST)
    host.run(GUEST)
    planned = host.run({**GUEST, **edit}, check_mode=True)
    assert [c["path"] for a in planned["actions"] for c in a["changes"]] == [path]
    assert host.run({**GUEST, **edit})["changed"]
    assert not host.run({**GUEST, **edit})["changed"]


def test_what_somebody_else_changed_is_seen(host):
    stopped = {**GUEST, "state": "stopped"}
    host.run(stopped)
    host.run(stopped)
    host.handle.defineXML(host.xml("web").replace(">2</vcpu>", ">1</vcpu>"))
    found = host.run(stopped, check_mode=True)
    assert [c["path"] for a in found["actions"] for c in a["changes"]] == ["vcpus"]
    host.run(stopped)
    assert ">2</vcpu>" in host.xml("web")


def test_a_running_guest_that_differs_is_seen(host):
    host.run({**GUEST, "state": "stopped"})
    host.run(GUEST)
    host.run(GUEST)
    domain = host.handle.lookupByName("web")
    domain.setMemoryFlags(1 << 20, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    found = host.run(GUEST, check_mode=True)
    assert (found["actions"], [item["kind"] for item in found["pending"]]) != ([], [])


def test_a_password_is_not_written_down(host):
    guest = {**GUEST, **SHOWN}
    host.run(guest)
    assert not host.run(guest)["changed"]
    assert WORD in host.handle.lookupByName("web").XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
    assert b"vnc" in answers(host).read_bytes()
    assert WORD.encode() not in answers(host).read_bytes()


def test_what_is_wrong_is_told_every_time(host):
    wrong = {**GUEST, "memory": "much"}
    for _ in range(2):
        with pytest.raises(InputError, match=r"guests\[0\]\.memory: expected"):
            host.run(wrong)


def _options(host, **more):
    ours = {"guests": [GUEST], "root": str(host.layout.root), "uri": URI, "host": "kvm1", **more}
    defaults = {"fleet": "local", "stop_timeout": "2s", "force": False, "prune": False}
    return {
        **defaults,
        "expect": {},
        "witness": None,
        "machines": None,
        "antispoofing": True,
        **ours,
    }


def test_check_mode_asks_and_writes_nothing(host, worked_out):
    def converge(*, check_mode):
        return converge_guests(_options(host), lambda *_: None, check_mode)

    converge(check_mode=True)
    assert not os.path.exists(host.layout.cache)
    converge(check_mode=False)
    converge(check_mode=False)
    before = answers(host).stat()
    worked_out.clear()
    assert not converge(check_mode=True)["changed"]
    assert worked_out == []
    assert answers(host).stat() == before


def test_a_look_asks_what_a_run_found_out(host, worked_out):
    converge_guests(_options(host), lambda *_: None, False)
    look = {"engines": ["libvirt"], "uri": URI, "names": [], "console_lines": 0, "brief": True}
    worked_out.clear()
    found = look_at_guests({**look, "root": str(host.layout.root)}, lambda *_: None)
    (guest,) = [one for one in found["guests"] if one["name"] == "web"]
    assert (guest["vcpus"], guest["memory"], guest["owned"]) == (2, "2GiB", True)
    assert worked_out == []


UNCHANGED = """
import runpy, sys
runpy.run_path(sys.argv[1] + "/plugins/shim.py")
sys.path.insert(0, sys.argv[1] + "/tests/shared")
from pathlib import Path
from testdriver import Driver
guest = {"name": "web", "memory": "512MiB", "vcpus": 1, "state": "present"}
host = Driver(Path(sys.argv[2]))
found = host.run(guest, uri=f"test://{sys.argv[3]}")
print(len(found["actions"]), *(name for name in sys.modules if ".virt." in name))
"""


def test_the_table_is_not_even_loaded(host, repository, tmp_path):
    host.run({"name": "web", "memory": "512MiB", "vcpus": 1, "state": "stopped"})
    node = tmp_path / "node.xml"
    node.write_text(f"<node>{host.xml('web')}</node>")

    def run():
        command = [sys.executable, "-c", UNCHANGED, str(repository), str(tmp_path), str(node)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        actions, *modules = done.stdout.split()
        return actions, {name.rpartition(".")[2] for name in modules}

    actions, loaded = run()
    assert actions == "0"
    assert {"fields", "domain", "check", "patcher"} <= loaded
    actions, loaded = run()
    assert actions == "0"
    assert "connection" in loaded
    assert not {"fields", "domain", "check", "patcher"} & loaded

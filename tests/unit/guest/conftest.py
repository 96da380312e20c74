# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host below a temporary root, without KVM: processes and the lock of the CPU are simulated."""

from __future__ import annotations

import json
import os
import time

import pytest
from ansible.module_utils.guest.engines import Engines
from ansible.module_utils.guest.ioctl import engine as engine_module
from ansible.module_utils.guest.ioctl import preflight
from ansible.module_utils.guest.ioctl.dialect import Limits
from ansible.module_utils.guest.ioctl.engine import IoctlEngine
from ansible.module_utils.guest.run import Wish, run
from ansible.module_utils.kvm.layout import Layout
from ansible.module_utils.kvm.process import identity


class SimulatedSupervisor:
    """Starts nothing: a running guest is a pid file that names this very process.

    SIMULATED. Real processes are started in test_detached.py and on the real thing in tests/kvm.
    """

    def __init__(self, layout, supervised=False):
        self.layout = layout
        self.supervised = supervised
        self.links = layout.root + "/autostart"
        self.calls = []
        self.broken = {}
        self.ended = {}

    def autostarted(self):
        if not self.supervised:
            return None
        return set(os.listdir(self.links)) if os.path.isdir(self.links) else set()

    def autostart(self, names, *, enable):
        if names:
            self.calls.append(("enable" if enable else "disable", *names))
        if self.supervised:
            os.makedirs(self.links, exist_ok=True)
            for name in names:
                path = os.path.join(self.links, name)
                if enable:
                    with open(path, "w", encoding="ascii"):
                        pass
                elif os.path.exists(path):
                    os.unlink(path)
        return {}

    def ends(self, names):
        return {name: why for name, why in self.ended.items() if name in names}

    def forget(self, names):
        if names:
            self.calls.append(("forget", *names))

    def start(self, names):
        self.calls.append(("start", *names))
        for name in names:
            if name not in self.broken:
                self.write_pid(name)
        return {name: why for name, why in self.broken.items() if name in names}

    def write_pid(self, name, who=None, **more):
        paths = self.layout.guest(name)
        os.makedirs(paths.run, exist_ok=True)
        who = who or identity(os.getpid())
        with open(paths.definition, encoding="ascii") as file:
            digest = json.load(file)["digest"]
        note = {"helper": None, "definition": digest, **who.to_dict(), **more}
        with open(paths.pid + ".new", "w", encoding="ascii") as file:
            json.dump(note, file)
        os.rename(paths.pid + ".new", paths.pid)

    def stop(self, names, timeout, *, force):
        self.calls.append(("stop", *names))
        for name in names:
            if name not in self.broken:
                os.unlink(self.layout.guest(name).pid)
        return {name: why for name, why in self.broken.items() if name in names}

    def restart(self, names, timeout, *, force):
        self.calls.append(("restart", *names))
        for name in names:
            os.unlink(self.layout.guest(name).pid)
            self.write_pid(name)
        return {}


class SimulatedEngine(IoctlEngine):
    """The engine with nothing simulated but what it asks the machine about."""

    def limits(self):
        return Limits(memory=8 << 30, vcpus=8, programs=("greeter", "host"))


class Machine:
    """A host below a root of its own."""

    def __init__(self, root, supervised=False):
        self.layout = Layout(root)
        self.supervisor = SimulatedSupervisor(self.layout, supervised)

    def engine(self, **more):
        return SimulatedEngine(self.layout, self.supervisor, **more)

    def run(self, *guests, check_mode=False, fleet="local", **more):
        entries = [{"engine": "ioctl", "kernel": "greeter", **guest} for guest in guests]
        engine = self.engine(fleet=fleet)
        engines = Engines([engine], self.layout)
        wish = Wish(entries, fleet=fleet, **more)
        return run(engines, wish, engine.host("kvm1"), check_mode=check_mode)

    def definition(self, name):
        with open(self.layout.guest(name).definition, encoding="ascii") as file:
            return json.load(file)

    def write_exit(self, name, content, later=1.0):
        """Write the record of an exit, as the guest's own user would."""
        paths = self.layout.guest(name)
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        with open(paths.last_exit, "wb") as file:
            file.write(text)
        moment = time.time() + later
        os.utime(paths.last_exit, (moment, moment))


@pytest.fixture
def without_kvm(monkeypatch):
    """Let every preflight pass that asks the machine and not the guest."""
    monkeypatch.setattr(engine_module, "check_device", lambda _: [])
    monkeypatch.setattr(engine_module, "check_helper", lambda _: [])
    monkeypatch.setattr(engine_module, "check_kernels", lambda _, **__: [])
    # Only root may give files to the guests' users.
    monkeypatch.setattr(os, "chown", lambda *_: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return preflight


@pytest.fixture
def machine(tmp_path, without_kvm):
    return Machine(str(tmp_path))


@pytest.fixture
def supervised_machine(tmp_path, without_kvm):
    return Machine(str(tmp_path), supervised=True)

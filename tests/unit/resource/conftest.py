# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks and pools of libvirt's test driver, which keeps them while one connection is open."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible.module_utils.converge.answers import Answers
from ansible.module_utils.kvm.layout import Layout
from ansible.module_utils.resource import network_live
from ansible.module_utils.resource import networks as networks_module
from ansible.module_utils.resource.ledger import Ledger
from ansible.module_utils.resource.networks import Networks
from ansible.module_utils.resource.pools import Pools
from ansible.module_utils.resource.run import Wish, converge
from ansible.module_utils.virt.connection import Connection

try:
    import libvirt
except ImportError:  # the binding is built for the controller's Python: these tests are left out
    libvirt = None

URI = "test:///default"
OWN = {"default", "default-pool"}  # what the driver has by itself


class Host:
    """A host with nothing but what the driver has, and the modules' work on it."""

    def __init__(self, root):
        self.layout = Layout(str(root))
        self.handle = libvirt.open(URI)
        self.commands = []
        self.local = False
        self.clear()

    def kind(self, plural, fleet="local"):
        connection = Connection(URI)
        ledger = Ledger(self.layout)
        if plural == "networks":
            kind = Networks(connection, fleet, ledger, self.command, local=self.local)
        else:
            kind = Pools(connection, fleet, ledger, local=self.local)
        kind.answers = Answers(f"{self.layout.cache}/answers-{plural}")
        return kind

    def command(self, words):
        self.commands.append(words)
        return 0, "", ""

    def run(self, plural, *entries, check_mode=False, fleet="local", prune=False):
        kind = self.kind(plural, fleet)
        wish = Wish(entries, "kvm1", fleet=fleet, prune=prune)
        try:
            return converge(kind, self.layout, wish, check_mode=check_mode)
        finally:
            kind.answers.save()
            kind.connection.close()

    def everything(self):
        objects = [*self.handle.listAllNetworks(), *self.handle.listAllStoragePools()]
        return sorted(
            (one.name(), one.isActive(), one.autostart(), one.XMLDesc()) for one in objects
        )

    def clear(self):
        """Take all away, and what was found out about it."""
        for file in Path(self.layout.cache).glob("answers-*"):
            file.unlink()
        for one in [*self.handle.listAllNetworks(), *self.handle.listAllStoragePools()]:
            if one.name() not in OWN:
                if one.isActive():
                    one.destroy()
                one.undefine()

    def close(self):
        self.clear()
        self.handle.close()


@pytest.fixture
def host(tmp_path):
    found = Host(tmp_path)
    yield found
    found.close()


def verbs(outcome):
    return [f"{a['object']} {a['action']} {a['when']}" for a in outcome["actions"]]


class Taps:
    """SIMULATED. What a local host's kernel shows of the devices of guests, and their bridge.

    Devices lose the bridge with the network that has it.
    """

    def __init__(self, host, monkeypatch, folder, *devices):
        self.folder = Path(folder)
        self.devices = devices
        self.commands = []
        host.local, host.command = True, self.command
        monkeypatch.setattr(networks_module, "_CLASS", str(self.folder))
        monkeypatch.setattr(network_live, "plugs", self.plugs)
        network = libvirt.virNetwork
        destroy, create = network.destroy, network.create

        def ends(one):
            (self.folder / _bridge(one)).rmdir()
            for device in self.devices:
                (self.folder / device / "master").unlink(missing_ok=True)
            return destroy(one)

        def starts(one):
            (self.folder / _bridge(one)).mkdir(parents=True)
            return create(one)

        monkeypatch.setattr(network, "destroy", ends)
        monkeypatch.setattr(network, "create", starts)

    def plug(self, bridge):
        """Have guests started."""
        for device in self.devices:
            (self.folder / device).mkdir(parents=True, exist_ok=True)
            self.command(["ip", "link", "set", "dev", device, "master", bridge])
        self.commands.clear()

    def unplug(self, device):
        """Have a guest end."""
        (self.folder / device / "master").unlink(missing_ok=True)
        (self.folder / device).rmdir()

    def plugs(self, _connection, _name):
        return [("web", one) for one in self.devices if (self.folder / one).exists()]

    def command(self, words):
        self.commands.append(words)
        assert words[:4] == ["ip", "link", "set", "dev"]
        device, (word, bridge) = self.folder / words[4], words[5:]
        assert word == "master"
        if not device.exists() or not (self.folder / bridge).exists():
            return 1, "", "no such device"
        (device / "master").unlink(missing_ok=True)
        (device / "master").symlink_to(self.folder / bridge)
        return 0, "", ""

    def masters(self):
        links = [self.folder / device / "master" for device in self.devices]
        return [link.readlink().name if link.is_symlink() else None for link in links]


def _bridge(network):
    return re.search("bridge name='([^']+)'", network.XMLDesc(0))[1]


class Waiting:
    """SIMULATED. What is defined while a network is active is its definition as it ends.

    The driver has it so too, and shows nothing of it.
    """

    def __init__(self, monkeypatch, folder):
        self.stored = {}
        scratch = Path(folder, "scratch.xml")
        scratch.write_text("<node/>", encoding="utf-8")
        self.scratch = f"test://{scratch}"
        connection, network = libvirt.virConnect, libvirt.virNetwork
        define, describe = connection.networkDefineXMLFlags, network.XMLDesc
        destroy = network.destroy
        inactive = libvirt.VIR_NETWORK_XML_INACTIVE

        def defines(handle, xml, flags=0):
            name = re.search("<name>([^<]+)</name>", xml)[1]
            if name in handle.listNetworks():
                self.stored[name] = self.canonical(define, describe, xml)
                return handle.networkLookupByName(name)
            return define(handle, xml, flags)

        def describes(one, flags=0):
            if flags & inactive and one.isActive() and one.name() in self.stored:
                return self.stored[one.name()]
            return describe(one, flags & ~inactive)

        def ends(one):
            destroy(one)
            waiting = self.stored.pop(one.name(), None)
            if waiting is not None:
                define(one.connect(), waiting, 0)
            return 0

        monkeypatch.setattr(connection, "networkDefineXMLFlags", defines)
        monkeypatch.setattr(network, "XMLDesc", describes)
        monkeypatch.setattr(network, "destroy", ends)

    def canonical(self, define, describe, xml):
        handle = libvirt.open(self.scratch)
        text = describe(define(handle, xml, 0), 0)
        handle.close()
        return text


@pytest.fixture
def taps(host, monkeypatch, tmp_path):
    """Let the host be the local one, on which two devices of guests are."""
    return Taps(host, monkeypatch, tmp_path / "net", "vnet0", "vnet3")


@pytest.fixture
def waiting(monkeypatch, tmp_path):
    """Have libvirt show what waits for a network's next start."""
    return Waiting(monkeypatch, tmp_path)

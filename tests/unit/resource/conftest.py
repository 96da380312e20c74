# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks and pools of libvirt's test driver, which keeps them while one connection is open."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.converge.answers import Answers
from ansible.module_utils.kvm.layout import Layout
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
        self.clear()

    def kind(self, plural, fleet="local"):
        connection = Connection(URI)
        ledger = Ledger(self.layout)
        if plural == "networks":
            kind = Networks(connection, fleet, ledger, self.command, local=False)
        else:
            kind = Pools(connection, fleet, ledger, local=False)
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

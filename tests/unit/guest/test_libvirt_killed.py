# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run that is killed at any of its calls is completed by the next, with no orphan and no double.

The domains are those of libvirt's test driver, which keeps them when the run ends; the images are
real ones. A run is killed before and after each of the calls that change something.
"""

from __future__ import annotations

import os

import pytest
from ansible.module_utils.guest.libvirt import images
from ansible.module_utils.guest.libvirt.renewals import Renewals
from knife import KilledError, Knife

libvirt = pytest.importorskip("libvirt", reason="the binding is built for the controller's Python")

from testdriver import Driver  # noqa: E402  (it needs the binding)

CALLS = (
    (libvirt.virConnect, "defineXML"),
    (libvirt.virConnect, "defineXMLFlags"),
    (libvirt.virDomain, "create"),
    (libvirt.virDomain, "managedSave"),
    (libvirt.virDomain, "destroy"),
    (libvirt.virDomain, "setAutostart"),
    (libvirt.virDomain, "setMetadata"),
    (libvirt.virDomain, "setMemoryFlags"),
    (libvirt.virDomain, "shutdown"),
    (libvirt.virDomain, "suspend"),
    (libvirt.virDomain, "undefineFlags"),
    (images, "_qemu_img"),
    (Renewals, "begin"),
    (Renewals, "end"),
    (os, "link"),
    (os, "unlink"),
)

OTHER = "6e1d1e7c-9a1c-4c5e-8a7f-0d3f0c6b7a10"


class Host(Driver):
    """Guests of the test driver, their images, and what there is of both."""

    def __init__(self, root):
        super().__init__(root / "host")
        self.folder = root / "images"
        self.folder.mkdir()

    def run(self, guests):
        return super().run(*guests, force=True, local=True)

    def disk(self, target, name, size):
        return {"target": target, "file": str(self.folder / f"{name}.img"), "size": size}

    def seen(self):
        domains = {
            domain.name(): (domain.state()[0], domain.autostart(), self.xml(domain.name()))
            for domain in self.domains()
        }
        sizes = {name: images.capacity(str(self.folder / name), "qcow2") for name in self.files()}
        return domains, sizes

    def files(self):
        return sorted(os.listdir(self.folder))

    def clear(self):
        super().clear()
        for name in self.files():
            (self.folder / name).unlink()


@pytest.fixture
def host(tmp_path):
    found = Host(tmp_path)
    yield found
    found.close()


def before(host):
    return [
        {"name": "old", "memory": "64MiB", "disks": [host.disk("vda", "old", "1MiB")]},
        {"name": "web", "memory": "64MiB", "state": "stopped", "autostart": True}
        | {"disks": [host.disk("vda", "web", "1MiB")]},
        {"name": "live", "memory": "64MiB", "max_memory": "128MiB"},
        {"name": "same", "memory": "64MiB", "title": "nobody states it later"}
        | {"disks": [host.disk("vda", "same", "1MiB")]},
        {"name": "kept", "memory": "64MiB"},
        {"name": "held", "memory": "64MiB"},
    ]


def after(host):
    return [
        {"name": "old", "state": "absent", "remove_disks": True},
        {"name": "web", "state": "stopped", "autostart": False, "protected": True}
        | {"disks": [host.disk("vda", "web", "2MiB"), host.disk("vdb", "more", "1MiB")]},
        {"name": "live", "memory": "96MiB"},
        {"name": "fresh", "memory": "64MiB", "disks": [host.disk("vda", "fresh", "1MiB")]},
        {"name": "anew", "memory": "64MiB", "state": "stopped"},
        {"name": "same", "uuid": OTHER, "replace": True},
        {"name": "kept", "state": "saved"},
        {"name": "held", "state": "paused"},
    ]


@pytest.mark.sampled
def test_whenever_a_run_is_killed_the_next_one_completes_it(host, monkeypatch, moments):
    knife = Knife(monkeypatch, CALLS)
    host.run(before(host))
    knife.count = 0
    host.run(after(host))
    calls, wanted = knife.count, host.seen()
    assert set(wanted[0]) == {"web", "live", "fresh", "anew", "same", "kept", "held"}
    assert sorted(wanted[1]) == ["fresh.img", "more.img", "same.img", "web.img"]
    assert OTHER in wanted[0]["same"][2]
    assert "nobody states it later" in wanted[0]["same"][2]
    assert calls > 60
    for moment in moments(calls):
        knife.left = None
        host.clear()
        host.run(before(host))
        knife.left = moment
        with pytest.raises(KilledError):
            host.run(after(host))
        knife.left = None
        host.run(after(host))
        assert host.seen() == wanted, moment
        assert host.run(after(host))["changed"] is False, moment

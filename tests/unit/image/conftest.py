# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A publisher on loopback, images of any size, and a host to bring them to."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from ansible.module_utils.image import fetch
from ansible.module_utils.image.run import converge
from publisher import Publisher


@pytest.fixture
def publisher(monkeypatch):
    monkeypatch.setattr(fetch, "PAUSE", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    found = Publisher()
    yield found
    found.close()


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    """Return the bytes of an image, made for the size and format that are asked for."""
    program = shutil.which("qemu-img")
    if program is None:
        pytest.skip("qemu-img is not installed")
    folder = tmp_path_factory.mktemp("images")
    known = {}

    def made(size="8M", kind="qcow2", *options):
        key = (size, kind, options)
        if key not in known:
            path = folder / f"{len(known)}.img"
            command = [program, "create", "-q", "-f", kind, *options, str(path), size]
            subprocess.run(command, check=True)
            known[key] = path.read_bytes()
        return known[key]

    return made


@pytest.fixture
def images(tmp_path):
    """Return what the module does on a host."""

    def run(*entries, users=lambda _files: {}, **how):
        return converge(entries, "kvm1", users, root=str(tmp_path / "host"), **how)

    return run


@pytest.fixture
def store(tmp_path):
    return tmp_path / "host/var/lib/libvirt/images/virtfleet"

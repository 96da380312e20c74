# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A publisher on loopback, images of any size, and a host to bring them to."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess

import pytest
from ansible.module_utils.image import fetch
from ansible.module_utils.image.run import converge
from publisher import Publisher


@pytest.fixture
def publisher(monkeypatch):
    monkeypatch.setattr(fetch, "PAUSE", 0.01)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    found = Publisher()
    yield found
    found.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """Return the file of a certificate that is signed by itself, with its key in it."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    command = [
        *(program, "req", "-x509", "-nodes", "-days", "2", "-newkey", "rsa:2048"),
        *("-subj", "/CN=publisher", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", str(path), "-out", f"{path}.crt"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    with path.open("a") as file, open(f"{path}.crt", encoding="ascii") as other:
        file.write(other.read())
    return path


@pytest.fixture
def secure(publisher, certificate):
    """Return a publisher beside the other one, which speaks https."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    found = Publisher(context)
    yield found
    found.close()


@pytest.fixture
def trusted(certificate, monkeypatch):
    """Let this machine trust the publisher that speaks https."""
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(certificate))


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

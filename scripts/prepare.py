# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Install what a make target needs: `prepare.py run|lab|test|bench`.

`run` is what ansible-playbook needs, `lab` adds what raises the lab, `test`
adds the linters and pytest, `bench` adds what this project is measured against. Python packages go
into .venv, by the ranges in pyproject.toml, but what is only measured goes into build/peers; Debian
packages are installed when something is missing, and only then. Run again, it only compares.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OLDEST_PYTHON = (3, 11)
REPOSITORY = Path(__file__).resolve().parents[1]
VENV = REPOSITORY / ".venv"
GROUPS: dict[str, list[str]] = {
    "run": [],
    "lab": [],
    "test": ["test", "lint", "libvirt"],
    "bench": ["test", "lint", "libvirt"],
}
PEERS = REPOSITORY / "build" / "peers"
# What is taken out of the packages that this project is measured against: one holds a hundred
# collections, of which one is measured.
_PEER_PARTS = ("ansible_collections/community/libvirt/", "lxml/")
# A command or a file, and the Debian packages that bring it. What stays missing is skipped by the
# tests, with the reason.
_LAB = {
    "mmdebstrap": ["mmdebstrap"],
    "/usr/share/keyrings/debian-archive-keyring.gpg": ["debian-archive-keyring"],
    "qemu-img": ["qemu-utils"],
    "mke2fs": ["e2fsprogs"],
    "ssh": ["openssh-client"],
}
_TEST = {
    **_LAB,
    "mount": ["mount"],
    "gpg": ["gnupg"],
    "gpgv": ["gpgv"],
    "xorriso": ["xorriso"],
    "as": ["binutils"],
    "/usr/include/linux/kvm.h": ["linux-libc-dev"],
    "virt-host-validate": ["libvirt-clients"],
    "/usr/include/libvirt/libvirt.h": ["libvirt-dev"],
    "pkg-config": ["pkg-config"],
    "gcc": ["gcc", "libc6-dev"],
    f"{sysconfig.get_path('include')}/Python.h": ["python3-dev"],
    "systemd-analyze": ["systemd"],
    "ip": ["iproute2"],
    "unshare": ["util-linux"],
    "pgrep": ["procps"],
    "iasl": ["acpica-tools"],
}
# Nobody's machine begins to serve SSH because of a test: only where nothing would start it.
if not Path("/run/systemd/system").exists():
    _TEST["/usr/sbin/sshd"] = ["openssh-server"]
_BENCH = {
    "qemu-system-x86_64": ["qemu-system-x86"],
    "hspace": ["ganeti-htools"],
}
WANTED: dict[str, dict[str, list[str]]] = {
    "run": {},
    "lab": _LAB,
    "test": _TEST,
    "bench": {**_TEST, **_BENCH},
}


class PrepareError(Exception):
    """Something that is needed cannot be had; the message says what to do."""


def say(message: str) -> None:
    """Tell the user at once, even when the output is a file."""
    print(f"prepare: {message}", flush=True)


def run(*command: str) -> None:
    """Run a command; show what it printed, and raise PrepareError, if it fails."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        print(done.stdout, end="", flush=True)
        raise PrepareError(f"{' '.join(command[:4])} … ended with status {done.returncode}")


def check_python() -> None:
    """Raise PrepareError if this Python is too old for Ansible."""
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        raise PrepareError(
            f"this is Python {sys.version.split()[0]}, Ansible needs {wanted} or newer on the"
            f" machine it runs on: name one with make PYTHON=python{wanted}"
        )


def is_here(name: str) -> bool:
    """Tell whether a command, or the file of an absolute path, is on this machine."""
    return Path(name).exists() if name.startswith("/") else shutil.which(name) is not None


def needed_packages() -> list[str]:
    """Return the Debian packages without which nothing goes on here."""
    # Debian leaves pip's bootstrap, and with it a working venv, to a package of its own.
    return [] if importlib.util.find_spec("ensurepip") else ["python3-venv"]


def wanted_packages(level: str) -> list[str]:
    """Return the Debian packages without which some of the level is skipped."""
    return [
        package
        for name, packages in WANTED[level].items()
        if not is_here(name)
        for package in packages
    ]


def install_packages(packages: list[str]) -> None:
    """Install Debian packages with apt-get, as root or through sudo."""
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise PrepareError(f"no apt-get on this system: install what Debian calls {names}")
    prefix = ["env", "DEBIAN_FRONTEND=noninteractive"]
    if os.geteuid() != 0:
        if shutil.which("sudo") is None:
            raise PrepareError(f"neither root nor sudo: as root, run apt-get install {names}")
        prefix = ["sudo", *prefix]
    say(f"installing Debian packages: {names}")
    run(*prefix, "apt-get", "-qq", "update")
    run(*prefix, "apt-get", "-qq", "install", "--yes", "--no-install-recommends", *packages)


def project() -> dict[str, Any]:
    """Return what pyproject.toml says."""
    import tomllib  # an older Python gets a sentence from main(), not a traceback

    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def requirements(level: str) -> list[str]:
    """Return the requirements of the level, as pyproject.toml states them."""
    said = project()
    found: list[str] = list(said["project"]["dependencies"])
    for group in GROUPS[level]:
        found += said["dependency-groups"][group]
    return found


def is_built(requirement: str) -> bool:
    """Tell whether a package is compiled when it is installed: what that needs may be missing."""
    return requirement.startswith("libvirt-python")


def fingerprint(wanted: list[str]) -> str:
    """Return what a stamp holds: it differs as soon as the packages could."""
    content = [sys.version, sys.base_prefix, str(VENV), wanted]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def stamp(level: str) -> Path:
    """Return the file that says for which requirements the level was last installed."""
    return VENV / f"virtfleet-{'all' if GROUPS[level] else 'run'}"


def is_installed(level: str) -> bool:
    """Tell whether .venv holds the level's packages already."""
    try:
        return stamp(level).read_text() == fingerprint(requirements(level))
    except OSError:
        return False


def venv_is_ours() -> bool:
    """Tell whether .venv was made here and by this Python; one that was copied does not work."""
    made_for = VENV / "virtfleet-python"
    return made_for.is_file() and made_for.read_text() == fingerprint([])


def install(level: str) -> None:
    """Make .venv, if there is none that works, and install the level's packages into it."""
    if not venv_is_ours():
        say(f"making {VENV.name} with Python {sys.version.split()[0]}")
        if VENV.is_symlink():  # what it leads to belongs to another checkout
            VENV.unlink()
        run(sys.executable, "-m", "venv", "--clear", str(VENV))
        (VENV / "virtfleet-python").write_text(fingerprint([]))
    wanted = requirements(level)
    say(f"installing {len(wanted)} Python packages and what they need into {VENV.name}")
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "install", "--quiet", "--no-input", *(name for name in wanted if not is_built(name)))
    for name in filter(is_built, wanted):
        try:
            run(*pip, "install", "--quiet", "--no-input", name)
        except PrepareError as error:
            say(f"{error}; what needs it is skipped")
    stamp("run").write_text(fingerprint(requirements("run")))
    stamp(level).write_text(fingerprint(wanted))


def install_peers() -> None:
    """Unpack what this project is measured against, away from what it runs with."""
    wanted: list[str] = project()["dependency-groups"]["peers"]
    ready = PEERS / "ready"
    if ready.is_file() and ready.read_text() == fingerprint(wanted):
        return
    say(f"unpacking {len(wanted)} Python packages to measure against into build/{PEERS.name}")
    shutil.rmtree(PEERS, ignore_errors=True)
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "download"]
    options = ["--quiet", "--no-input", "--no-deps", "--only-binary=:all:"]
    with tempfile.TemporaryDirectory() as scratch:
        run(*pip, *options, "--dest", scratch, *wanted)
        for wheel in Path(scratch).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                parts = [name for name in archive.namelist() if name.startswith(_PEER_PARTS)]
                archive.extractall(PEERS, parts)
    ready.write_text(fingerprint(wanted))


def prepare(level: str) -> None:
    """Install what is missing for the level."""
    needed, wanted = needed_packages(), wanted_packages(level)
    try:
        if needed or wanted:
            install_packages([*needed, *wanted])
    except PrepareError as error:
        if needed:
            raise
        say(f"{error}; what needs them is skipped")
    if not is_installed(level):
        install(level)
    if level == "bench":
        try:
            install_peers()
        except PrepareError as error:
            say(f"{error}; what needs it is skipped")


@contextmanager
def alone() -> Iterator[None]:
    """Hold off a second prepare of this folder."""
    lock = REPOSITORY / "build" / "prepare.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(arguments: list[str]) -> int:
    """Prepare for the level named; return the exit status."""
    if len(arguments) != 1 or arguments[0] not in GROUPS:
        print(f"usage: prepare.py {'|'.join(GROUPS)}", file=sys.stderr)
        return 64
    level = arguments[0]
    try:
        check_python()
        with alone():
            prepare(level)
    except PrepareError as failure:
        print(f"prepare: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

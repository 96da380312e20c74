# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab: its hosts, the cable between them, and the inventory that Ansible reads."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import yaml

from . import description as descriptions
from . import emulator, images, processes
from .host import Host
from .identity import make_key
from .recipe import GUEST, REPOSITORY, USER, golden, recipe
from .ssh import Ssh

DESCRIPTIONS = Path(__file__).resolve().parents[1] / "labs"
LABS = REPOSITORY / "build" / "lab"
# Where the default lab's hosts stand in the repository's own inventory.
INVENTORY_LINK = REPOSITORY / "inventory" / "lab" / "hosts.yml"
GUESTS = "10.50.0.*"  # the addresses of the guests that the repository's inventory declares
DEFAULT = "lab"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
_AT_ONCE = 2  # hosts that start at the same time


class LabError(Exception):
    """The lab cannot do what it was told; the message says why."""


def _folder(name: str) -> Path:
    """Return the folder of the lab ``name``."""
    if not _NAME.fullmatch(name):
        raise LabError(f"expected a short lower-case name for a lab, found {name!r}")
    return LABS / name


def take_down(name: str) -> None:
    """End what runs in a lab's folder, and remove the folder, whatever it was described as."""
    folder = _folder(name)
    ssh = Ssh(folder)
    ssh.forget_all_connections()
    hosts = folder / "hosts"
    with suppress(FileNotFoundError):
        for path in [*hosts.iterdir(), hosts]:
            processes.end(path)
    if name == DEFAULT and INVENTORY_LINK.is_symlink():
        INVENTORY_LINK.unlink()
    shutil.rmtree(ssh.sockets, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def build_images() -> None:
    """Build what is missing of the images that the described labs and their guests start from."""
    found = [descriptions.load(path) for path in sorted(DESCRIPTIONS.glob("*.yml"))]
    specs = [spec for description in found for spec in description.hosts.values()]
    emulator.ensure()
    # The large ones first: two are built at a time.
    recipes = [recipe(spec.release, spec.image) for spec in specs] + [golden(*GUEST)]
    images.ensure(sorted(recipes, key=lambda one: len(one.packages), reverse=True))


class Lab:
    """The lab ``name``; its folder below build/lab holds all that it is."""

    def __init__(self, name: str = DEFAULT, source: Path | None = None) -> None:
        self.name = name
        self.folder = _folder(name)
        self.ssh = Ssh(self.folder)
        kept = self.folder / "description.yml"
        self.source = source or (kept if kept.exists() else DESCRIPTIONS / f"{name}.yml")
        self.description = descriptions.load(self.source)
        self.hosts = {
            host: Host(self.folder / "hosts" / host, spec, host, index, self.ssh)
            for index, (host, spec) in enumerate(self.description.hosts.items(), start=1)
        }

    def __getitem__(self, name: str) -> Host:
        """Return the host of that name; LabError where there is none."""
        try:
            return self.hosts[name]
        except KeyError:
            known = ", ".join(self.hosts)
            raise LabError(f"no host {name!r} in the lab {self.name}: it has {known}") from None

    def up(self) -> None:
        """Build what is missing and raise every host; a host that runs is left alone."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = self.source.read_text()
        (self.folder / "description.yml").write_text(text)
        emulator.ensure()
        wanted = [host.recipe for host in self.hosts.values()]
        images.ensure([*wanted, golden(*GUEST)] if self.name == DEFAULT else wanted)
        self.lay_cable()
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            list(pool.map(Host.up, self.hosts.values()))
        self.write_inventory()

    def reset(self) -> None:
        """Take every host back to its booted state."""
        self.lay_cable()
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            list(pool.map(Host.reset, self.hosts.values()))
        self.write_inventory()

    def down(self) -> None:
        """End what runs in this lab's folder, and remove the folder."""
        take_down(self.name)

    def lay_cable(self) -> None:
        """Start the hub that the hosts' second NICs are plugged into."""
        folder = self.folder / "hosts"
        if processes.running(folder) is not None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cable.sock").unlink(missing_ok=True)
        here = str(Path(__file__).resolve().parents[1])
        command = ["env", f"PYTHONPATH={here}", sys.executable, "-m", "virtlab.switch"]
        processes.start(folder, [*command, "cable.sock"], folder / "cable.log")
        give_up = time.monotonic() + 20
        while not (folder / "cable.sock").exists():
            if time.monotonic() > give_up:
                raise LabError(f"no cable: {(folder / 'cable.log').read_text()}")
            time.sleep(0.02)

    # --- what Ansible reads

    @property
    def inventory(self) -> Path:
        """The folder to give to ansible-playbook -i."""
        return self.folder / "inventory"

    def variables(self, host: Host) -> dict[str, object]:
        """Return how Ansible reaches a host."""
        options = " ".join(f"-o {option}={value}" for option, value in self.ssh.options().items())
        return {
            "ansible_host": "127.0.0.1",
            "ansible_port": host.port(),
            "ansible_user": USER,
            "ansible_ssh_private_key_file": str(self.ssh.key),
            "ansible_host_key_checking": True,
            # An emulated host may stand still for longer than a connection lives.
            "ansible_ssh_retries": 2,
            "ansible_ssh_common_args": options,
            "ansible_control_path": str(self.ssh.control_path(host.name)),
            "ansible_python_interpreter": "/usr/bin/python3",
            "lab_address": host.identity.cable_address,
            "lab_release": host.spec.release,
        }

    def guest_variables(self) -> dict[str, str]:
        """Return what the guests of the repository's inventory are made of and reached with.

        Their SSH host key is made here, so that it is known before they are.
        """
        key, known = self.folder / "guests", self.folder / "guests_known_hosts"
        known.write_text(f"{GUESTS} {make_key(key, 'guests')}\n")
        return {
            "lab_guest_image": str(images.place(golden(*GUEST))),
            "lab_guest_key": str(self.ssh.key),
            "lab_guest_host_key": str(key),
            "lab_guest_known_hosts": str(known),
        }

    def write_inventory(self) -> None:
        """Write the inventory of the hosts that run, with the repository's own group variables."""
        running = [host for host in self.hosts.values() if host.state() == "running"]
        content = {
            "all": {"vars": self.guest_variables()},
            "hypervisors": {"hosts": {host.name: self.variables(host) for host in running}},
        }
        self.inventory.mkdir(exist_ok=True)
        (self.inventory / "hosts.yml").write_text(
            "---\n# Written by the lab.\n" + yaml.safe_dump(content, sort_keys=False)
        )
        variables = self.inventory / "group_vars"
        if not variables.is_symlink():
            variables.symlink_to(INVENTORY_LINK.parent / "group_vars")
        if self.name == DEFAULT:
            link = INVENTORY_LINK
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(self.inventory / "hosts.yml", link.parent))

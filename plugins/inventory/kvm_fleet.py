# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A fleet's files as an inventory: hypervisors, guests, and what the roles make of them."""

from __future__ import annotations

import runpy
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleParserError
from ansible.module_utils.common.text.converters import to_text
from ansible.parsing.vault import EncryptedString, VaultHelper, is_encrypted
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.template import trust_as_template

runpy.run_path(str(Path(__file__).parents[1] / "shim.py"))

from ansible.module_utils.converge.errors import InputError
from ansible.module_utils.fleet.cache import UnfitError, digest, plain, whole
from ansible.module_utils.fleet.declare import Fleet, Guest, declare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ansible.inventory.data import InventoryData

DOCUMENTATION = r"""
name: kvm_fleet
short_description: A fleet of KVM hosts and their guests, declared in one file
version_added: "0.1.0"
description:
  - Reads C(fleet.yml), and C(*.yml) of a folder C(fleet.d) beside it, which say hypervisors,
    networks, pools, images, sizes and guests. The keys are described in C(docs/fleet.md).
  - Hypervisors are in the group C(hypervisors), with the variables that the roles take. Guests are
    in the group C(guests) and in their own groups, and are reached through their hypervisor where
    their network leads nowhere else.
  - All that is wrong is told at once, with file, line, column and the path of the key.
  - A cache of inventories, which Ansible's settings turn on, keeps what the files mean for as long
    as they are the same, byte by byte, and so is this toolkit. What is in a vault stays there, and
    a file that is encrypted as a whole is not kept.
extends_documentation_fragment:
  - constructed
  - inventory_cache
options:
  plugin:
    description: Says that a file is a fleet's.
    type: str
    required: true
    choices: [kvm_fleet]
author:
  - virtfleet contributors (@virtfleet)
"""

EXAMPLES = r"""
plugin: kvm_fleet
fleet: example
hypervisors:
  kvm1: {ansible_host: 192.0.2.11}
networks:
  lan: {mode: bridge, bridge: br0}
pools:
  local: {type: dir, path: /var/lib/libvirt/images}
images:
  debian-12: {}
sizes:
  small: {vcpus: 2, memory: 2GiB, disk: 20GiB}
guests:
  web[01:03]:
    size: small
    image: debian-12
    network: lan
    groups: [webservers]
"""

NAMES = ("fleet.yml", "fleet.yaml", "kvm_fleet.yml", "kvm_fleet.yaml")
FOLDER = "fleet.d"
_TOLD: set[str] = set()
# How a guest is reached through its hypervisor, with what the inventory says of that one.
_THROUGH = (
    "-o ProxyCommand='ssh"
    " {{ hostvars[kvm_guest_host].ansible_ssh_common_args | default('') }}"
    " {{ '-i ' ~ hostvars[kvm_guest_host].ansible_ssh_private_key_file"
    " if hostvars[kvm_guest_host].ansible_ssh_private_key_file is defined else '' }}"
    " -p {{ hostvars[kvm_guest_host].ansible_port | default(22) }}"
    " -W %h:%p"
    " {{ hostvars[kvm_guest_host].ansible_user ~ '@'"
    " if hostvars[kvm_guest_host].ansible_user is defined else '' }}"
    "{{ hostvars[kvm_guest_host].ansible_host | default(kvm_guest_host) }}'"
)


# What a hypervisor's guests are: those of the fleet's plan, and before there is one those that are
# pinned, if no other ones are declared. Each is filled in with its own variables.
_SPECS = (
    "{{ (kvm_fleet_parts[inventory_hostname].guests if kvm_fleet_parts is defined else %s)"
    " | map('extract', hostvars, 'kvm_guest_spec') | list }}"
)
_PINNED = "kvm_guest_pinned"
_UNPLANNED = (
    "undef(hint='the fleet has guests without a host, so it has to be planned first:"
    " import playbooks/plan.yml, which playbooks/guests.yml begins with')"
)
# Where a guest without a host is: known when the fleet was planned in the same run.
_PLACED = (
    "{{ (groups.hypervisors | map('extract', hostvars)"
    " | map(attribute='kvm_fleet_hosts', default={}) | select | list"
    " | first | default({}))[inventory_hostname]"
    " | default(undef(hint='it has no host: the plan of this run gave it none, or there was no plan"
    " yet: import playbooks/plan.yml')) }}"
)


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """The inventory of a fleet."""

    NAME = "kvm_fleet"
    trusted_by_default = True  # templates in a fleet's files are the user's own

    def verify_file(self, path: str) -> bool:
        """Return whether a file may be a fleet's: by its name, as `plugin:` says the rest."""
        return Path(path).name in NAMES and Path(path).is_file()

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Read the fleet, and make it hosts and groups; AnsibleParserError for all problems."""
        super().parse(inventory, loader, path, cache)
        main = Path(path)
        self.made: InventoryData = inventory
        files = [main, *sorted((main.parent / FOLDER).glob("*.y*ml"))]
        try:
            content = [
                (_name(file), loader.get_text_file_contents(str(file)).encode()) for file in files
            ]
            sealed = any(is_encrypted(file.read_bytes()) for file in files)
            fleet = self._declared(path, content, keep=not sealed, fresh=not cache)
        except (InputError, OSError) as error:
            # The cause says nothing that the message does not.
            raise AnsibleParserError(self._told(path, to_text(error))) from None
        self.options = _trusted(dict(fleet.options))
        self._hypervisors(fleet)
        self._guests(fleet)

    def _declared(
        self, path: str, content: Sequence[tuple[str, bytes]], *, keep: bool, fresh: bool
    ) -> Fleet:
        """Return what files declare, from the cache where that has the same ones."""
        self.set_options(direct={"plugin": self.NAME})
        if not (keep and self.get_option("cache")):
            return declare(content, {"!vault": _encrypted})
        self.load_cache_plugin()
        key, now = self.get_cache_key(path), digest(content, _code())
        kept = None if fresh else self.cache.get(key)
        if isinstance(kept, dict) and kept.get("digest") == now:
            return whole(kept["fleet"], _encrypted)
        fleet = declare(content, {"!vault": _encrypted})
        try:
            self.cache[key] = {"digest": now, "fleet": plain(fleet, _ciphertext)}
        except UnfitError as error:
            self.display.warning(f"{path} is not kept in the cache: it has {error}")
        return fleet

    @staticmethod
    def _told(path: str, message: str) -> str:
        """Return a message the first time; Ansible asks the plugin `auto` for the same again."""
        if path in _TOLD:
            return "see above"
        _TOLD.add(path)
        return message

    def _hypervisors(self, fleet: Fleet) -> None:
        self.made.add_group("hypervisors")
        whole = {
            "name": fleet.name,
            "pools": fleet.pools,
            "sizes": fleet.sizes,
            "placement": fleet.placement,
            "prune": fleet.prune,
            "most_removals": fleet.most_removals,
        }
        self.made.set_variable("hypervisors", "kvm_fleet", whole)
        pinned: dict[str, list[str]] = {host.name: [] for host in fleet.hypervisors}
        for guest in fleet.guests:
            if guest.host is not None:
                pinned[guest.host].append(guest.name)
        placed = any(guest.host is None for guest in fleet.guests)
        for host in fleet.hypervisors:
            self.made.add_host(host.name, "hypervisors")
            own = {
                "kvm_fleet_place": host.place,
                "kvm_guest_pinned": pinned[host.name],
                "kvm_guest_specs": _SPECS % (_UNPLANNED if placed else _PINNED),
            }
            self._described(host.name, host.groups, {**host.variables, **own})

    def _guests(self, fleet: Fleet) -> None:
        self.made.add_group("guests")
        for guest in fleet.guests:
            self.made.add_host(guest.name, "guests")
            self._described(guest.name, guest.groups, _variables(guest))

    def _described(self, name: str, groups: Any, variables: Any) -> None:
        for group in groups:
            self.made.add_group(group)
            self.made.add_host(name, group)
        for key, value in variables.items():
            self.made.set_variable(name, key, value)
        options = self.options
        host = self.made.get_host(name) if options else None
        if host is not None:
            variables = host.get_vars()
            strict = bool(options.get("strict", False))
            self._set_composite_vars(options.get("compose"), variables, name, strict=strict)
            self._add_host_to_composed_groups(options.get("groups"), variables, name, strict=strict)
            keyed = options.get("keyed_groups")
            self._add_host_to_keyed_groups(keyed, variables, name, strict=strict)


def _name(file: Path) -> str:
    """Return a file's name for messages: from where the user is, if it is below that."""
    try:
        return str(file.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(file)


def _trusted(value: Any) -> Any:
    """Return expressions as ones that may be carried out: they are the user's own."""
    if isinstance(value, dict):
        return {key: _trusted(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_trusted(one) for one in value]
    return trust_as_template(value) if isinstance(value, str) else value


def _code() -> str:
    """Return what is another one when the toolkit reads files in another way."""
    found = sha256()
    for file in sorted((Path(__file__).parents[2] / "module_utils").rglob("*.py")):
        found.update(file.read_bytes())
    found.update(Path(__file__).read_bytes())
    return found.hexdigest()


def _ciphertext(value: Any) -> str | None:
    """Return the ciphertext of a value of a vault, None for another one."""
    if isinstance(value, EncryptedString):
        return str(VaultHelper.get_ciphertext(value, with_tags=False))
    return None


def _encrypted(ciphertext: str) -> Any:
    """Return a value of a vault, which is opened when it is used."""
    return EncryptedString(ciphertext=ciphertext)


def _variables(guest: Guest) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kvm_guest_host": guest.host if guest.host is not None else _PLACED,
        "kvm_guest_spec": guest.spec,
        "kvm_guest_asked": {"host": guest.host, "asked": guest.asked},
    }
    if guest.address is not None:
        found["ansible_host"] = guest.address
        if not guest.direct:
            found["ansible_ssh_common_args"] = _THROUGH
    cloud = guest.spec.get("cloud_init")
    if isinstance(cloud, dict) and isinstance(cloud.get("user"), str):
        found["ansible_user"] = cloud["user"]
    return {**found, **guest.variables}

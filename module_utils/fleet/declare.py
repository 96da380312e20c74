# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet's files, made into what each of its hosts and guests is. Pure.

All that is wrong is told at once, each with file, line, column and the path of its key. What is
checked is what can be known without a host: the engines' own readers judge every guest, and those
of the modules every network, pool and image. What a template or a vault makes is left to the hosts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Mapping, Sequence

from ..converge.errors import InputError, Problem, shown, unknown
from ..guest.engine import Host
from ..guest.ioctl.dialect import BOOT_FILES, IoctlDialect, Limits, image_named
from ..guest.ioctl.dialect import KEYS as IOCTL_KEYS
from ..guest.ioctl.engine import kernels
from ..guest.libvirt.capabilities import HostCapabilities
from ..guest.libvirt.dialect import LibvirtDialect
from ..guest.spec import ABSENT, DEFAULT_ENGINE, WAS
from ..guest.spec import read as read_guests
from ..image.spec import read as read_images
from ..resource.networks import Networks
from ..resource.pools import Pools
from ..resource.spec import read as read_objects
from ..units import UnitError, parse_size
from .collisions import collisions
from .merge import as_list, merged
from .needs import asked_of, wants_of
from .ranges import RangeError, expanded
from .schema import LABEL, SIZE, SUGAR, problems, short
from .source import Path, Sources, Tags, read_file

if TYPE_CHECKING:
    from ..resource.kind import Kind

MOST_REMOVALS = "20%"
IMPLICIT = "all", "ungrouped", "hypervisors", "guests"
_NONE = ""  # the name of no host
_GROUP = re.compile("[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)
_FOLDERS = ("dir", "fs", "netfs")  # pools in which a disk is a file
_DIRECT = ("bridge", "private", "vepa", "passthrough", "hostdev")  # modes on the host's own network


_PLACE = ("zone", "maintenance", "fenced", "resources", "overcommit", "reserve")


@dataclass(frozen=True)
class Hypervisor:
    """A host of guests: its groups, its own variables, and what the roles make of it.

    ``place`` is what it is to guests: its zone, what it offers, and how much may be given out.
    """

    name: str
    groups: tuple[str, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    place: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Guest:
    """A guest: its host, its groups and variables, and its spec as kvm_guests takes it.

    ``host`` is None where it is to be placed, which ``asked`` says by what (fleet.needs).
    ``address`` is one that it has for sure, ``direct`` whether that is on its host's own network.
    """

    name: str
    host: str | None
    path: Path
    groups: tuple[str, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)
    address: str | None = None
    direct: bool = False
    short: frozenset[str] = frozenset()  # of its spec, what was said in short words
    asked: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fleet:
    """A whole fleet."""

    name: str
    hypervisors: Sequence[Hypervisor]
    guests: Sequence[Guest]
    options: Mapping[str, Any] = field(default_factory=dict)  # of constructed groups
    pools: Mapping[str, str] = field(default_factory=dict)  # their types
    sizes: Mapping[str, Any] = field(default_factory=dict)  # what a guest of each asks for
    placement: Mapping[str, Any] = field(default_factory=dict)
    prune: bool = False
    most_removals: str = MOST_REMOVALS


def declare(files: Iterable[tuple[str, bytes]], tags: Tags | None = None) -> Fleet:
    """Return the fleet that files (name, content) declare; InputError with all that is wrong.

    The first file is the fleet's own, the others belong to it. ``tags`` give YAML's tags a meaning.
    """
    found: list[Problem] = []
    sources = Sources(found)
    for number, (name, content) in enumerate(files):
        sources.add(read_file(name, content, tags or {}, found), main=number == 0)
    if not found:
        for path, problem in problems(sources.data):
            found.append(_at(sources, path, problem))
    if found:
        raise InputError(_sorted(found))
    fleet = _Maker(sources).fleet()
    if found:
        raise InputError(_sorted(found))
    return fleet


def _at(sources: Sources, path: Path, problem: Problem) -> Problem:
    return Problem(sources.where(path), problem.expected, problem.found, problem.remedy)


def _sorted(found: Sequence[Problem]) -> list[Problem]:
    def key(problem: Problem) -> tuple[Any, ...]:
        parts = problem.path.split(":")
        numbers = [int(part) for part in parts[1:3] if part.isdigit()]
        return (parts[0], *numbers)

    return sorted(dict.fromkeys(found), key=lambda one: tuple(map(_pad, key(one))))


def _pad(part: Any) -> str:
    return f"{part:09}" if isinstance(part, int) else str(part)


def lazy(value: Any) -> bool:
    """Return whether a value, or one in it, is only known later: a template's, or a vault's."""
    if isinstance(value, Mapping):
        return any(lazy(one) for one in value.values())
    if isinstance(value, (list, tuple)):
        return any(lazy(one) for one in value)
    if type(value) is str:
        return "{{" in value or "{%" in value
    return not isinstance(value, (int, float, type(None)))


class _Maker:
    """Makes hosts and guests of what passed the schema."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.data = sources.data
        self.name = str(self.data.get("fleet", "local"))
        self.hosts: dict[str, Path] = {}

    def say(self, path: Path, expected: str, found: Any, remedy: str | None = None) -> None:
        text = found if isinstance(found, str) else shown(found)
        self.sources.problems.append(Problem(self.sources.where(path), expected, text, remedy))

    def strange(self, path: Path, word: Any, kind: str, known: Iterable[str]) -> None:
        """Say that a word is none of those that are known, and which it may have been."""
        problem = short(unknown("", word, kind, tuple(known)), kind)
        self.say(path, problem.expected, problem.found, problem.remedy)

    def fleet(self) -> Fleet:
        self.hosts = self._expanded("hypervisors", _HOST, "a host name")
        self._profiles_end()
        guests = self._guests()
        common = {host: self._common(host) for host in self.hosts}
        self._size(
            ("placement", "reserve", "memory"),
            ((self.data.get("placement") or {}).get("reserve") or {}).get("memory"),
        )
        self._check_guests(guests)
        hypervisors = [
            self._hypervisor(name, path, common[name]) for name, path in self.hosts.items()
        ]
        keys = ("compose", "groups", "keyed_groups", "strict")
        options = {key: self.data[key] for key in keys if key in self.data}
        return Fleet(
            self.name,
            hypervisors,
            guests,
            options,
            {n: str((p or {}).get("type")) for n, p in (self.data.get("pools") or {}).items()},
            {name: self._of_size(size) for name, size in (self.data.get("sizes") or {}).items()},
            self.data.get("placement") or {},
            bool(self.data.get("prune", False)),
            self.data.get("most_removals", MOST_REMOVALS),
        )

    # Names.

    def _expanded(self, section: str, form: re.Pattern[str], expected: str) -> dict[str, Path]:
        """Return the names of a section with where each is declared."""
        found: dict[str, Path] = {}
        for written in self.data.get(section) or {}:
            path = (section, written)
            try:
                several = expanded(written)
            except RangeError as error:
                self.say(path, str(error), written)
                continue
            for name in several:
                if not form.fullmatch(name):
                    self.say(path, expected, name)
                elif name in found:
                    place = self.sources.where(found[name])
                    self.say(path, "a name of its own", f"{name}, which {place} is already")
                else:
                    found[name] = path
        return found

    def _in_groups(self, path: Path, value: Any) -> tuple[str, ...]:
        found = []
        for name in as_list(value):
            if not isinstance(name, str) or not _GROUP.fullmatch(name):
                self.say(path, "a group's name (letters, digits and _)", shown(name))
            elif name in IMPLICIT or name in self.hosts:
                self.say(path, "a group of its own", f"{name}, which is there anyway")
            else:
                found.append(name)
        return tuple(dict.fromkeys(found))

    def _of_size(self, size: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return what a guest of a size asks for; its disk is in the pool that is the default."""
        values = dict(size or {})
        pools = self.data.get("pools") or {}
        pool = (self.data.get("defaults") or {}).get("pool")
        if pool is None and len(pools) == 1:
            pool = next(iter(pools))
        asked = asked_of(values, {}, self.data)
        if "disk" in values and pool in pools:
            asked["disks"] = [{"pool": pool, "size": values["disk"]}]
        return asked

    # Hosts.

    def _hypervisor(self, name: str, path: Path, made: Mapping[str, Any]) -> Hypervisor:
        entry = dict(self.data["hypervisors"][path[1]] or {})
        groups = self._in_groups((*path, "groups"), entry.pop("groups", None))
        place = {key: entry.pop(key) for key in _PLACE if entry.get(key) is not None}
        self._size((*path, "reserve", "memory"), (place.get("reserve") or {}).get("memory"))
        place["offers"] = sorted(self._offers(name))
        own = {**(entry.pop("vars", None) or {}), **entry}
        for key in (*made, "kvm_guest_specs"):
            if key in own:
                remedy = f"leave {key} to an inventory that is not a fleet's"
                self.say((*path, key), "what the fleet itself makes", "it stated as well", remedy)
        return Hypervisor(name, groups, {**own, **made}, place)

    def _size(self, path: Path, value: Any) -> None:
        """Refuse a size that is none."""
        if isinstance(value, str) and not lazy(value):
            try:
                parse_size(value)
            except UnitError:
                self.say(path, "a size such as 2GiB", shown(value))

    def _offers(self, host: str) -> set[str]:
        """Return the networks, pools and images that a host has, as guests want them."""
        words = {"networks": "network", "pools": "pool", "images": "image"}
        return {
            f"{word} {name}"
            for section, word in words.items()
            for name in self.data.get(section) or {}
            if self._reaches(section, name, host)
        }

    def _common(self, host: str) -> dict[str, Any]:
        """Return what the roles make of networks, pools and images that a host has."""
        variables: dict[str, Any] = {"kvm_guest_fleet": self.name}
        roles = {
            "networks": "kvm_network_networks",
            "pools": "kvm_storage_pools",
            "images": "kvm_image_images",
        }
        for section, variable in roles.items():
            entries = [
                {"name": name, **{k: v for k, v in (entry or {}).items() if k != "hypervisors"}}
                for name, entry in (self.data.get(section) or {}).items()
                if self._reaches(section, name, host)
            ]
            if entries:
                variables[variable] = entries
        if self.data.get("catalogue"):
            variables["kvm_image_catalogue"] = self.data["catalogue"]
        return variables

    def _reaches(self, section: str, name: str, host: str) -> bool:
        """Return whether a host has a network, pool or image."""
        entry = self.data[section][name] or {}
        patterns = entry.get("hypervisors")
        return patterns is None or any(fnmatchcase(host, one) for one in as_list(patterns))

    def _scopes(self) -> Iterator[tuple[Path, str]]:
        for section in ("networks", "pools", "images"):
            for name, entry in (self.data.get(section) or {}).items():
                for pattern in as_list((entry or {}).get("hypervisors")):
                    yield (section, name, "hypervisors"), pattern

    def _profiles_end(self) -> None:
        """Refuse profiles that lead back to themselves, and scopes that no host is in."""
        for name in self.data.get("profiles") or {}:
            circle = self._circle((name,), set())
            if circle:
                self.say(("profiles", name, "profile"), "profiles that end", " → ".join(circle))
        for path, pattern in self._scopes():
            if not any(fnmatchcase(host, pattern) for host in self.hosts):
                self.strange(path, pattern, "a hypervisor, or a pattern of some", self.hosts)

    def _circle(self, chain: tuple[str, ...], ended: set[str]) -> tuple[str, ...]:
        """Return the way on which a chain of profiles comes back to its first, () for none.

        Those that ``ended`` are not followed again.
        """
        profiles = self.data.get("profiles") or {}
        for above in as_list((profiles.get(chain[-1]) or {}).get("profile")):
            if above == chain[0]:
                return (*chain, above)
            if above in profiles and above not in ended:
                ended.add(above)
                found = self._circle((*chain, above), ended)
                if found:
                    return found
        return ()

    # Guests.

    def _guests(self) -> list[Guest]:
        guests = []
        expected = "an RFC 1123 label (1 to 63 of a-z, 0-9 and -, neither first nor last a hyphen)"
        layers: dict[Path, dict[str, Any] | None] = {}
        former: dict[Path, Mapping[str, Any]] = {}
        for name, path in self._expanded("guests", re.compile(LABEL), expected).items():
            if name in self.hosts:
                self.say(path, "a name of its own", f"{name}, which is a hypervisor")
                continue
            if path not in layers:
                layers[path] = self._merged(path)
                former[path] = self._former(path, layers[path] or {})
            values = layers[path]
            if values is not None:
                values = {**values, **({WAS: former[path][name]} if former[path] else {})}
                guest = self._guest(name, path, values)
                guests += [guest] if guest is not None else []
        return guests

    def _former(self, path: Path, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return by name the names that guests had before; those of a range are a range too.

        Empty where they had none; None for each where they cannot be told.
        """
        was = values.get(WAS)
        if was is None:
            return {}
        names = expanded(str(path[1]))
        if not isinstance(was, str) or lazy(was):
            return dict.fromkeys(names, was)
        try:
            found = expanded(was)
        except RangeError as error:
            self.say((*path, WAS), str(error), was)
            return dict.fromkeys(names)
        if len(found) == len(names):
            return dict(zip(names, found))
        self.say((*path, WAS), f"as many names as it has ({len(names)})", was)
        return dict.fromkeys(names)

    def _named(self, path: Path, section: str, names: Sequence[Any], word: str) -> list[Any]:
        """Return entries of a section by their names; one that is not there is a problem."""
        known = self.data.get(section) or {}
        found = []
        for name in names:
            if name in known:
                found.append(known[name])
            else:
                self.strange(path, name, word, known)
        return found

    def _profiles(self, path: Path, names: Sequence[Any], found: dict[str, Any]) -> list[Any]:
        """Return profiles, each once and after those that it stands on; ``found`` gathers them."""
        for name in names:
            if name in found:
                continue
            for one in self._named(path, "profiles", [name], "a profile"):
                found[name] = None  # on the way: one that leads back to itself is told by itself
                self._profiles(path, as_list((one or {}).get("profile")), found)
                del found[name]
                found[name] = one
        return list(found.values())

    def _merged(self, path: Path) -> dict[str, Any] | None:
        """Return what a guest is by all layers, None where they do not fit together."""
        before = len(self.sources.problems)
        own, defaults = self.data["guests"][path[1]], self.data.get("defaults")
        first = merged([defaults, own])
        engine = first.get("engine", DEFAULT_ENGINE)
        if engine != DEFAULT_ENGINE:
            # What most guests are by default need not be what this engine knows.
            placing = ("host", "hosts", "avoid", "spread", "together", "resources")
            known = (*IOCTL_KEYS, *placing, "profile", "groups", "vars")
            defaults = {k: v for k, v in (defaults or {}).items() if k in known}
            first = merged([defaults, own])
        profiles = self._profiles((*path, "profile"), as_list(first.get("profile")), {})
        groups = as_list(merged([defaults, *profiles, own]).get("groups"))
        shared = self.data.get("guest_groups") or {}
        layers = [defaults, *profiles, *(shared[one] for one in groups if one in shared), own]
        values = merged(layers)
        size = values.pop("size", None)
        if isinstance(size, str):
            sizes = self._named((*path, "size"), "sizes", [size], "a size")
            size = sizes[0] if sizes else {}
        values.pop("profile", None)
        whole = merged([defaults, size, *layers[1:]])
        whole = {key: value for key, value in whole.items() if key not in ("size", "profile")}
        return whole if len(self.sources.problems) == before else None

    def _guest(self, name: str, path: Path, values: Mapping[str, Any]) -> Guest | None:
        host = self._host(path, values)
        spec = {key: value for key, value in values.items() if key not in (*SUGAR, *SIZE)}
        spec.update((key, values[key]) for key in ("vcpus", "memory") if key in values)
        groups = self._in_groups((*path, "groups"), values.get("groups"))
        if host is _NONE:
            return None
        there = spec.get("state") != ABSENT
        if there:
            self._disks(name, host, path, values, spec)
            self._nics(host, path, values, spec)
        # While a NIC still says which network it is on.
        address, direct = self._address(spec)
        asked = asked_of(spec, values, self.data)
        if there and spec.get("engine", DEFAULT_ENGINE) != DEFAULT_ENGINE:
            self._bridged(path, spec)
            self._boots(host, path, spec)
        variables = values.get("vars") or {}
        made = frozenset({"disks", "nics"} & (set(spec) - set(values)))
        spec = {"name": name, **spec}
        if host is None:
            self._placeable(path, asked)
        return Guest(name, host, path, groups, variables, spec, address, direct, made, asked)

    def _host(self, path: Path, values: Mapping[str, Any]) -> str | None:
        """Return the host that a guest is pinned to, None for one to be placed; _NONE, a problem.

        Where a fleet has one host, there is nothing to choose.
        """
        host = values.get("host")
        if host is None:
            return next(iter(self.hosts)) if len(self.hosts) == 1 else None
        for key in ("hosts", "avoid"):
            if key in values and key in (self.data["guests"][path[1]] or {}):
                self.say((*path, key), f"nothing beside host: {host}", shown(values[key]))
        if host not in self.hosts:
            self.strange((*path, "host"), host, "a hypervisor", self.hosts)
            return _NONE
        return str(host)

    def _placeable(self, path: Path, asked: Mapping[str, Any]) -> None:
        """Refuse what no host can ever satisfy."""
        hosts: dict[str, list[str]] = {}
        for key in ("hosts", "avoid"):
            for pattern in asked.get(key) or ():
                hosts[pattern] = [one for one in self.hosts if fnmatchcase(one, pattern)]
                if not hosts[pattern]:
                    word = "a hypervisor, or a pattern of some"
                    self.strange((*path, key), pattern, word, self.hosts)
        allowed = [
            host
            for host in self.hosts
            if ("hosts" not in asked or any(host in hosts[one] for one in asked["hosts"]))
            and not any(host in hosts[one] for one in asked.get("avoid", ()))
        ]
        if not allowed:
            if all(hosts.values()):
                self.say((*path, "avoid"), "a hypervisor that is left", "none")
            return
        wants = wants_of(asked)
        if not any(wants <= self._offers(host) for host in allowed):
            found = f"none that has {', '.join(sorted(wants))}"
            self.say(path, f"a hypervisor for it among {', '.join(allowed[:8])}", found)

    def _known(self, path: Path, section: str, word: str, name: Any, host: str | None) -> bool:
        known = self.data.get(section) or {}
        if name not in known:
            self.strange(path, name, word, known)
            return False
        if host is not None and not self._reaches(section, name, host):
            self.say(path, f"{word} that {host} has", shown(name))
            return False
        return True

    def _disks(
        self,
        name: str,
        host: str | None,
        path: Path,
        values: Mapping[str, Any],
        spec: dict[str, Any],
    ) -> None:
        """Make the first disk of what is said of it in short."""
        short = {key: values[key] for key in ("image", "disk", "pool") if key in values}
        if not short or "disks" in spec:
            own = set(self.data["guests"][path[1]] or {})
            for key in sorted(set(short) & own):
                self.say((*path, key), "nothing beside disks", shown(short[key]))
            return
        image = short.get("image")
        if image is None and "disk" not in short:
            return
        if image is not None and not self._known(
            (*path, "image"), "images", "an image", image, host
        ):
            return
        pool = self._pool(host, path, short.get("pool"))
        if pool is None:
            return
        # The disk of a guest that was renamed keeps its name.
        disk = {"target": "vda", "file": f"{pool.rstrip('/')}/{spec.get(WAS) or name}.qcow2"}
        if "disk" in short:
            disk["size"] = short["disk"]
        if image is not None:
            disk["image"] = image
        spec["disks"] = [disk]

    def _pool(self, host: str | None, path: Path, pool: Any) -> str | None:
        """Return the folder of the pool that a guest's first disk is in, None for a problem."""
        path = (*path, "pool")
        if pool is None:
            known = self.data.get("pools") or {}
            pools = [one for one in known if host is None or self._reaches("pools", one, host)]
            if len(pools) != 1:
                owner = "the fleet" if host is None else host
                expected = f"one of the pools of {owner} ({', '.join(pools) or 'it has none'})"
                self.say(path, expected, "nothing")
                return None
            pool = pools[0]
        elif not self._known(path, "pools", "a pool", pool, host):
            return None
        entry = self.data["pools"][pool] or {}
        if entry.get("type") in _FOLDERS and isinstance(entry.get("path"), str):
            return str(entry["path"])
        expected = f"a pool whose volumes are files ({', '.join(_FOLDERS)}, with a path)"
        self.say(path, expected, shown(pool), "declare the disk under disks, with its volume")
        return None

    def _boots(self, host: str | None, path: Path, spec: Mapping[str, Any]) -> None:
        """Refuse to boot an image that the fleet does not have."""
        for key in BOOT_FILES:
            name = image_named(spec.get(key))
            if name is not None and not lazy(name):
                self._known((*path, key), "images", "an image", name, host)

    def _nics(
        self, host: str | None, path: Path, values: Mapping[str, Any], spec: dict[str, Any]
    ) -> None:
        """Make NICs of the networks that are named."""
        if "network" not in values:
            return
        if "nics" in spec:
            if "network" in (self.data["guests"][path[1]] or {}):
                self.say((*path, "network"), "nothing beside nics", shown(values["network"]))
            return
        nics = []
        for one in as_list(values["network"]):
            nic = dict(one) if isinstance(one, Mapping) else {"network": one}
            if self._known((*path, "network"), "networks", "a network", nic.get("network"), host):
                nics.append(nic)
        spec["nics"] = nics

    def _bridged(self, path: Path, spec: dict[str, Any]) -> None:
        """Put NICs on the bridges of their networks, for an engine that knows bridges alone."""
        nics = spec.get("nics")
        if not isinstance(nics, list):
            return
        networks = self.data.get("networks") or {}
        found = []
        for nic in nics:
            name = nic.get("network") if isinstance(nic, Mapping) else None
            if name is None:
                found.append(nic)
                continue
            bridge = (networks.get(name) or {}).get("bridge")
            if not isinstance(bridge, str):
                expected = f"a network that states its bridge, for the engine {spec['engine']}"
                self.say((*path, "network"), expected, shown(name))
                continue
            rest = {key: value for key, value in nic.items() if key != "network"}
            found.append({"bridge": bridge, **rest})
        spec["nics"] = found

    def _address(self, spec: Mapping[str, Any]) -> tuple[str | None, bool]:
        """Return an address that a guest is stated to have, and whether it is reached directly."""
        for nic in spec.get("nics") or ():
            if not isinstance(nic, Mapping):
                continue
            stated = (nic.get("ip") or {}) if isinstance(nic.get("ip") or {}, Mapping) else {}
            plain = [str(one).partition("/")[0] for one in as_list(stated.get("addresses"))]
            plain += [nic["lease"]] if isinstance(nic.get("lease"), str) else []
            if plain and not lazy(plain):
                network = (self.data.get("networks") or {}).get(nic.get("network")) or {}
                on_host = "bridge" in nic or network.get("mode") in _DIRECT
                return plain[0], on_host
        return None, False

    # What the engines' own readers say.

    def _check_guests(self, guests: Sequence[Guest]) -> None:
        # Nothing is made here, so no seed is looked at.
        dialects: dict[str, Any] = {
            "libvirt": LibvirtDialect(HostCapabilities, lambda: None, None, local=True),  # type: ignore[arg-type]
            "ioctl": IoctlDialect(Limits(programs=kernels()), Host("", "", supervised=True)),
        }
        try:
            read_guests([guest.spec for guest in guests], dialects)
        except InputError as error:
            for problem in error.problems:
                self._told_of_guest(guests, problem)
        numbers = {guest.name: number for number, guest in enumerate(guests)}
        for one, other in collisions(guests, self.data.get("networks") or {}):
            path = f"guests[{numbers[one.guest.name]}]{_dotted(one.path)}"
            found = f"{one.value}, which {other.guest.name} has"
            self._told_of_guest(guests, Problem(path, one.what, found))
        nowhere: Any = SimpleNamespace(libvirt=None)  # no host is asked
        self._check_objects("networks", Networks(nowhere, self.name, nowhere))
        self._check_objects("pools", Pools(nowhere, self.name, nowhere))
        self._check_images()

    def _check_images(self) -> None:
        images = self.data.get("images") or {}
        entries = [_as_the_host_reads(name, entry or {}) for name, entry in images.items()]
        catalogue = self.data.get("catalogue") or {}
        if lazy(entries) or lazy(catalogue):
            return
        try:
            read_images(entries, catalogue)
        except InputError as error:
            for problem in error.problems:
                section, _, rest = problem.path.partition(".")
                if section != "catalogue":
                    self._told(problem, ("images",), list(images))
                    continue
                # A name may have dots in it, and no key has.
                name, _, key = (rest, "", "") if rest in catalogue else rest.rpartition(".")
                path = ("catalogue", name, key) if key else ("catalogue", rest)
                self.say(path, problem.expected, problem.found, problem.remedy)

    def _check_objects(self, section: str, kind: Kind) -> None:
        """Judge networks or pools as their hosts do."""
        entries = {
            name: {k: v for k, v in (entry or {}).items() if k != "hypervisors"}
            for name, entry in (self.data.get(section) or {}).items()
        }
        names = list(entries)
        try:
            # One that is there already may lack what a new one needs.
            declared = read_objects(
                [{"name": name, **entry} for name, entry in entries.items()], kind, names
            )
        except InputError as error:
            for problem in error.problems:
                path = _parts(problem.path)[1:]
                values = list(entries.values())
                # What is missing may come with what is not known yet beside it.
                value = _value(values, path)
                if not lazy(_value(values, path[:-1]) if value is None else value):
                    self._told(problem, (section,), names)
            return
        stated = {one.name: one.stated for one in declared if not lazy(one.stated)}
        together = {
            frozenset(name for name in stated if self._reaches(section, name, host))
            for host in self.hosts
        }
        met: dict[str, Problem] = {}
        for some in sorted(together, key=sorted):
            of_host = {name: one for name, one in stated.items() if name in some}
            for problem in kind.clashes(of_host, {}, check_mode=True):
                met.setdefault(problem.path, problem)
        for problem in met.values():
            name, _, key = problem.path.partition("/")
            self.say((section, name, *_parts(key)), problem.expected, problem.found, problem.remedy)

    def _told_of_guest(self, guests: Sequence[Guest], problem: Problem) -> None:
        match = re.match(r"guests\[(\d+)\](?:\.(.*))?$", problem.path, re.DOTALL)
        if match is None:
            self.say((), problem.expected, problem.found, problem.remedy)
            return
        guest = guests[int(match.group(1))]
        inner = _parts(match.group(2) or "")
        if lazy(_value(guest.spec, inner)):
            return
        if inner and inner[0] in guest.short:
            word = {"nics": "network", "disks": "disk" if inner[2:] == ("size",) else "image"}
            inner = (word[str(inner[0])], *inner[3:])
        told = short(problem)
        self.say((*guest.path, *inner), told.expected, told.found, told.remedy)

    def _told(self, problem: Problem, above: Path, names: Sequence[str]) -> None:
        parts = _parts(problem.path)
        if len(parts) > 1 and isinstance(parts[1], int):
            self.say(
                (*above, names[parts[1]], *parts[2:]),
                problem.expected,
                problem.found,
                problem.remedy,
            )
        else:
            self.say(above, problem.expected, problem.found, problem.remedy)


def _as_the_host_reads(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an image as its host has to do with it: a file of the controller is one there."""
    rest = {k: v for k, v in entry.items() if k not in ("hypervisors", "via", "file")}
    sent = {"path": f"/{name}"} if "file" in entry and "path" not in entry else {}
    return {"name": name, **rest, **sent}


def _dotted(path: Path) -> str:
    """Return the parts of a path as it is written behind what it begins in."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def _parts(text: str) -> Path:
    """Return the parts of a dotted path, in which a name with dots is quoted."""
    words = re.findall(r'\["([^"]*)"\]|\[(\d+)\]|([^.\[\]]+)', text)
    return tuple(int(number) if number else quoted or word for quoted, number, word in words)


def _value(spec: Any, path: Path) -> Any:
    """Return what a path leads to, or the last value on the way that is there."""
    for part in path:
        if isinstance(spec, Mapping):
            spec = spec.get(part)
        elif isinstance(spec, (list, tuple)):
            spec = spec[part] if isinstance(part, int) and part < len(spec) else None
    return spec

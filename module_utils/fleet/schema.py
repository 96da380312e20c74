# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The JSON Schema of a fleet's files (https://json-schema.org/draft/2020-12), and its messages.

It knows every key, so that an editor can offer them. What values the engines take for theirs is
said by the engines' own readers, which `fleet.declare` asks.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Iterator, Mapping, Sequence

from ..converge.errors import Problem, shown, unknown
from ..guest.ioctl.dialect import KEYS as IOCTL_KEYS
from ..guest.libvirt.dialect import guest_keys as libvirt_keys
from ..guest.spec import WAS
from ..image.catalogue import KEYS as CATALOGUE_KEYS
from ..image.spec import KEYS as IMAGE_KEYS
from ..resource.networks import Networks
from ..resource.pools import Pools
from ..virt.network import KEYS as NETWORK_KEYS
from ..virt.pool import KEYS as POOL_KEYS
from .demand import HOST, STRATEGIES, ZONE

if TYPE_CHECKING:
    from .source import Path

DRAFT = "https://json-schema.org/draft/2020-12/schema"
PLUGIN = "kvm_fleet"
LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_GROUP = "[A-Za-z_][A-Za-z0-9_]*"
_NAMES = "a name, or a list of names"

Schema = Mapping[str, Any]


def _text(description: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": description, **more}


def _names(description: str) -> dict[str, Any]:
    name = {"type": "string", "description": "a name"}
    return {
        "description": description,
        "x-expected": _NAMES,
        "anyOf": [name, {"type": "array", "items": name}],
    }


def _mapping(properties: Schema, description: str, required: Sequence[str] = ()) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "additionalProperties": False,
        "properties": dict(properties),
        **({"required": list(required)} if required else {}),
    }


def _section(entry: Schema, description: str) -> dict[str, Any]:
    return {"type": "object", "description": description, "additionalProperties": dict(entry)}


_VARS = {
    "type": "object",
    "description": "a mapping of variables",
    "propertyNames": {"pattern": f"^{_GROUP}$"},
}
_SCOPE = _names("the hypervisors that have it, by their names or patterns of them; all by default")
SIZE: dict[str, Any] = {
    "vcpus": {
        "type": ["integer", "string"],
        "description": "how many vCPUs",
        "x-expected": "a number",
    },
    "memory": _text("how much memory, as a size such as 2GiB"),
    "disk": _text("how large the first disk is, as a size such as 20GiB"),
}
_FLAG = {"type": "boolean", "x-expected": "true or false"}
_COUNTS = {
    "type": "object",
    "description": "a mapping of whole numbers, such as {gpu: 1}",
    "additionalProperties": {"type": "integer", "minimum": 0, "description": "a whole number"},
    "propertyNames": {"pattern": f"^{LABEL}$"},
}
_RULE = _mapping(
    {
        "group": _text("the name of the rule's group"),
        "over": {"enum": [HOST, ZONE], "description": f"{HOST} or {ZONE}"},
        "soft": {**_FLAG, "description": "whether it gives way to room"},
    },
    "a mapping (group, over, soft)",
    ["group"],
)
_RULE_TEXT = "a group's name, a mapping (group, over, soft), or a list of these"
_PLACING: dict[str, Any] = {
    "overcommit": _mapping(
        {
            word: {
                "type": "number",
                "exclusiveMinimum": 0,
                "description": f"how often {word} may be given out, such as 1.5",
                "x-expected": "a number above 0",
            }
            for word in ("vcpus", "memory", "disk")
        },
        "a mapping (vcpus, memory, disk)",
    ),
    "reserve": _mapping(
        {
            "vcpus": {"type": "integer", "minimum": 0, "description": "a whole number"},
            "memory": _text(
                "what the host keeps for itself, as a size such as 2GiB",
                **{"x-expected": "a size such as 2GiB"},
            ),
        },
        "a mapping (vcpus, memory)",
    ),
}


def _rules(description: str) -> dict[str, Any]:
    name = {"type": "string", "description": "a group's name"}
    return {
        "description": description,
        "x-expected": _RULE_TEXT,
        "anyOf": [name, _RULE, {"type": "array", "items": {"anyOf": [name, _RULE]}}],
    }


SUGAR: dict[str, Any] = {
    "host": _text(
        "the hypervisor that it runs on; without one it is placed",
        **{"x-expected": "a hypervisor's name"},
    ),
    "hosts": _names("the hypervisors that it may be placed on, by names or patterns"),
    "avoid": _names("the hypervisors that it is not placed on, by names or patterns"),
    "spread": _rules("never two guests of the group on one host, or in one zone"),
    "together": _rules("all guests of the group on one host, or in one zone"),
    "resources": {**_COUNTS, "description": "how much it needs of what its host has counted"},
    "one_numa_node": {**_FLAG, "description": "whether one NUMA node has to have room for it"},
    "size": {
        "description": "a size of the fleet, or one of its own",
        "x-expected": "the name of a size, or a mapping (vcpus, memory, disk)",
        "anyOf": [{"type": "string"}, _mapping(SIZE, "a size of its own")],
    },
    "profile": _names("profiles of the fleet, the later ones over the earlier"),
    "groups": _names("the groups of the inventory that it is in"),
    "image": _text("the image that its first disk is made from"),
    "disk": SIZE["disk"],
    "pool": _text("the pool that its first disk is in"),
    "network": {
        "description": "the networks that it is on: names, or mappings of `network` and further"
        " keys of a NIC",
        "x-expected": "a name, a mapping (network, …), or a list of these",
        "anyOf": [
            {"type": "string"},
            {"type": "object"},
            {"type": "array", "items": {"type": ["string", "object"]}},
        ],
    },
    "vars": _VARS,
}
_WAS = _text(
    "the name that it had before; of a range of guests, a range of names",
    **{"x-expected": "a name, or a range of names"},
)
# What a guest is besides, as kvm_guests takes it.
GUEST_KEYS = tuple(dict.fromkeys(key for key in (*libvirt_keys(), *IOCTL_KEYS) if key != "name"))


def _or_null(schema: Schema) -> dict[str, Any]:
    """Return a schema that takes nothing too, which takes away what stands below."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    kinds = schema["type"]
    return {**schema, "type": [kinds, "null"] if isinstance(kinds, str) else [*kinds, "null"]}


def _guest() -> dict[str, Any]:
    rest = {key: {"description": "as docs/libvirt-guests.md has it"} for key in GUEST_KEYS}
    short = {key: _or_null(one) for key, one in SUGAR.items()}
    own = {**rest, WAS: _or_null(_WAS), **short}
    return _or_null(_mapping(own, "a mapping that describes a guest"))


def _of(keys: Sequence[str], flags: Sequence[str], where: str, word: str) -> dict[str, Any]:
    known = dict.fromkeys(("state", *flags, *keys))
    rest = {key: {"description": f"as docs/{where}.md has it"} for key in known if key != "name"}
    entry = _mapping({**rest, "hypervisors": _SCOPE}, f"a mapping that describes {word}")
    return _or_null(entry)


def _hypervisor() -> dict[str, Any]:
    keys = {
        "groups": SUGAR["groups"],
        "vars": _VARS,
        "zone": _text("where it stands: what fails together, such as a rack"),
        "maintenance": {**_FLAG, "description": "whether it takes no further guests"},
        "fenced": {**_FLAG, "description": "whether it is off for sure, with all that was on it"},
        "resources": {**_COUNTS, "description": "what it has, counted, such as {gpu: 2}"},
        **_PLACING,
    }
    entry = _mapping(keys, "a mapping of a host's variables")
    entry["patternProperties"] = {"^(ansible|kvm)_[a-z0-9_]+$": {"description": "a variable"}}
    return _or_null(entry)


@lru_cache(maxsize=1)
def fleet_schema() -> dict[str, Any]:
    """Return the schema of a whole fleet."""
    guest = {"$ref": "#/$defs/guest"}
    composed = {"type": "object", "description": "a mapping of expressions"}
    return {
        "$schema": DRAFT,
        "title": "A fleet of KVM hosts and their guests",
        "description": "a mapping that describes a fleet",
        "type": "object",
        "additionalProperties": False,
        "required": ["plugin", "hypervisors"],
        "$defs": {"guest": _guest()},
        "properties": {
            "plugin": {"const": PLUGIN, "description": PLUGIN},
            "fleet": _text(
                "the fleet's name, in the mark of all that it has (letters, digits and -)",
                pattern=f"^{LABEL}$",
            ),
            "hypervisors": {
                **_section(_hypervisor(), "a mapping of hypervisors by name"),
                "minProperties": 1,
            },
            "networks": _section(
                _of(NETWORK_KEYS, Networks.flags, "networks", "a network"),
                "a mapping of networks by name",
            ),
            "pools": _section(
                _of(POOL_KEYS, Pools.flags, "pools", "a pool"),
                "a mapping of pools by name",
            ),
            "images": _section(
                _of((*IMAGE_KEYS, "via"), (), "images", "an image"), "a mapping of images by name"
            ),
            "catalogue": _section(
                _mapping(
                    {key: {"description": "as docs/images.md has it"} for key in CATALOGUE_KEYS},
                    "a mapping that describes an image",
                ),
                "short names of images beside the built-in ones",
            ),
            "sizes": _section(_mapping(SIZE, "a mapping (vcpus, memory, disk)"), "sizes by name"),
            "profiles": _section(guest, "a mapping of profiles by name"),
            "guest_groups": _section(guest, "what the guests of a group have, by the group's name"),
            "defaults": guest,
            "guests": _section(guest, "a mapping of guests by name, or by a range of names"),
            "placement": _mapping(
                {
                    "strategy": {"enum": list(STRATEGIES), "description": " or ".join(STRATEGIES)},
                    "n_plus_one": {
                        **_FLAG,
                        "description": "whether the others have room for all that is on any one",
                    },
                    **_PLACING,
                },
                "a mapping (strategy, n_plus_one, overcommit, reserve)",
            ),
            "prune": {**_FLAG, "description": "whether guests go that are no longer declared"},
            "most_removals": {
                "type": "string",
                "pattern": "^([0-9]{1,2}|100)%$",
                "description": "the share of guests that a run may remove, such as 20%",
                "x-expected": "a share such as 20%",
            },
            "compose": composed,
            "groups": composed,
            "keyed_groups": {"type": "array", "description": "a list of mappings"},
            "strict": {**_FLAG, "description": "whether a wrong expression ends the run"},
        },
    }


_MANY = 200  # characters of a list of words that nobody reads


def short(problem: Problem, kind: str = "a known key") -> Problem:
    """Return a problem without a list of all words that are too many to be read."""
    words = problem.expected.replace(" ()", " of the fleet, which has none")
    if len(words) > _MANY and words.startswith(f"{kind} ("):
        words = kind
    return Problem(problem.path, words, problem.found, problem.remedy)


def problems(data: Any) -> Iterator[tuple[Path, Problem]]:
    """Yield what the schema has against a fleet, each with the path that it is at."""
    from jsonschema import Draft202012Validator  # on controllers alone

    validator = Draft202012Validator(fleet_schema())
    for error in sorted(validator.iter_errors(data), key=lambda one: list(map(str, one.path))):
        yield from _told(error)


_WORDS = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "nothing",
}


def _expected(schema: Schema) -> str:
    found = schema.get("x-expected") or schema.get("description")
    kinds = schema.get("type", "a value")
    words = [kinds] if isinstance(kinds, str) else list(kinds)
    return str(found or " or ".join(_WORDS.get(word, word) for word in words))


def _told(error: Any) -> Iterator[tuple[Path, Problem]]:
    path: Path = tuple(error.absolute_path)
    schema, value = error.schema, error.instance
    if error.validator == "additionalProperties" and isinstance(value, dict):
        known = tuple(schema.get("properties", ()))
        patterns = tuple(schema.get("patternProperties", ()))
        for key in value:
            if key in known or any(re.search(one, key) for one in patterns):
                continue
            problem = short(unknown("", key, "a known key", known))
            if patterns:
                words = f"{', '.join(known)}, ansible_… or kvm_…"
                remedy = problem.remedy or "put other variables under vars"
                problem = Problem("", words, shown(key), remedy)
            yield (*path, key), problem
    elif error.validator == "required":
        for key in schema["required"]:
            if key not in value:
                yield (*path, key), Problem("", "a value", "nothing")
    elif error.validator == "pattern" and error.schema.get("type") != "string":
        yield path, Problem("", "a name of letters, digits and _", shown(value))
    else:
        yield path, Problem("", _expected(schema), shown(value))

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""definition.json: what a guest is, written by root and read by `kvm-helper serve`.

``spec`` is the canonical spec, ``machine`` what the helper makes of it: bytes instead of sizes,
files instead of words, and the numeric user that the guest runs as.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any, Collection, Mapping, Sequence

from ...kvm.layout import FIRST_UID, UID_MASK
from ...units import UnitError, parse_duration, parse_size
from ..engine import BOOT_KEYS
from ..spec import digest
from . import devices, seeding
from .dialect import DEFAULTS

SCHEMA = 1
LIMIT = 256 * 1024  # bytes of a definition


class DefinitionError(ValueError):
    """A file that is no definition of ours; the message says why."""


def choose_uid(name: str, taken: Collection[int]) -> int:
    """Return the guest's own user: derived from its name, the next free one where that is taken."""
    uid = int.from_bytes(sha256(name.encode()).digest()[:4], "big") & UID_MASK
    while FIRST_UID | uid in taken:
        uid = (uid + 1) & UID_MASK
    return FIRST_UID | uid


def derive_uuid(fleet: str, name: str) -> str:
    """Return the identity of a new guest, the same wherever and whenever it is made."""
    import uuid  # only a new guest needs it

    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"virtfleet:{fleet}/guest/{name}"))


def follows(spec: Mapping[str, Any]) -> str:
    """Return what follows when a guest resets itself: a system on a disk begins again."""
    return str(spec.get("on_reboot") or ("restart" if spec.get("disks") else "stop"))


def make(
    spec: Mapping[str, Any],
    machine: Mapping[str, Any],
    fleet: str,
    identity: str,
    uid: int,
    files: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Return the definition of a spec; ``machine`` is it by `BOOT_KEYS`, with its files.

    ``files`` are the images that were made for the guest, each with the files that it stands on. A
    helper that a guest has taken over could write others into an image, but not here.
    """
    # Everybody may read a definition: the documents of a seed are kept elsewhere.
    spec = {key: value for key, value in spec.items() if key != seeding.KEY}
    return {
        "schema": SCHEMA,
        "name": spec["name"],
        "fleet": fleet,
        "uuid": identity,
        "digest": digest(spec),
        "spec": spec,
        "files": {file: list(below) for file, below in sorted((files or {}).items())},
        "machine": {
            "kernel": machine["kernel"],
            "initrd": machine["initrd"] or None,
            "cmdline": machine["cmdline"],
            "memory": parse_size(machine["memory"]),
            "vcpus": machine["vcpus"],
            "uid": uid,
            "log_max_size": parse_size(spec["log"]["max_size"]),
            "log_keep": spec["log"]["keep"],
            "on_reboot": follows(spec),
            "stop_timeout": parse_duration(spec.get("stop_timeout", DEFAULTS["stop_timeout"])),
            **devices.for_helper(spec, spec.get("seed"), files or {}),
        },
    }


def boot_keys(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a definition boots, by `BOOT_KEYS`: as its spec, kernel and initrd as files."""
    spec = definition["spec"]
    # What no earlier version of a definition could say is as its default.
    found = {key: spec.get(key, DEFAULTS.get(key)) for key in BOOT_KEYS}
    machine = definition["machine"]
    return {**found, "kernel": machine["kernel"], "initrd": machine["initrd"] or ""}


def encode(definition: Mapping[str, Any]) -> bytes:
    """Return the file's bytes."""
    return (json.dumps(definition, indent=1, sort_keys=True) + "\n").encode()


_MACHINE: Mapping[str, tuple[type, ...]] = {
    "kernel": (str,),
    "initrd": (str, type(None)),
    "cmdline": (str,),
    "memory": (int,),
    "vcpus": (int,),
    "uid": (int,),
    "log_max_size": (int,),
    "log_keep": (int,),
}


def decode(content: bytes, name: str) -> dict[str, Any]:
    """Return the definition in a file's bytes; DefinitionError if it is none of this guest."""
    try:
        data = json.loads(content.decode())
    except ValueError:
        raise DefinitionError("it is not JSON") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise DefinitionError(f"it is not of schema {SCHEMA}")
    if data.get("name") != name:
        raise DefinitionError("it is the definition of another guest")
    machine, spec = data.get("machine"), data.get("spec")
    if not isinstance(spec, dict) or not isinstance(machine, dict):
        raise DefinitionError("it holds no spec or no machine")
    wrong = [key for key, types in _MACHINE.items() if type(machine.get(key)) not in types]
    wrong += [key for key in ("fleet", "uuid", "digest") if not isinstance(data.get(key), str)]
    if not isinstance(data.get("files", {}), dict):
        wrong.append("files")
    if not wrong:
        try:
            wrong = [] if data["digest"] == digest(spec) else ["digest"]
        except (TypeError, UnitError):
            wrong = ["spec"]
    if wrong:
        raise DefinitionError(f"these of its values are wrong: {', '.join(wrong)}")
    return data

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan that was saved, to be carried out later exactly as it was read, or not at all. Pure."""

from __future__ import annotations

from hashlib import sha256
from json import dumps
from typing import Any, Mapping, Sequence

from ..converge.errors import VirtfleetError
from ..seed.documents import may_be_shown

FORMAT = 2
SEED = "cloud_init"
_FREE = ("user_data", "vendor_data")  # in which anything may be a secret
_SECRETS = {"password", "xml"}
_NAMED = 8  # differences that a message shows


def is_open(path: Sequence[str]) -> bool:
    """Return whether what a template makes at the keys of a declaration is held to a saved plan.

    It is but where it may be a secret, which nobody shall be able to guess from its digest.
    """
    if _SECRETS.intersection(path):
        return False
    inside = tuple(path[path.index(SEED) + 1 :]) if SEED in path else ()
    return len(inside) < 2 or inside[0] not in _FREE or may_be_shown(inside[1])


def digest(spec: Any) -> str:
    """Return the SHA-256 of a guest's declaration, what is in vaults as it stands in git."""
    text = dumps(spec, sort_keys=True, default=str, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def saved(plan: Mapping[str, Any], specs: Mapping[str, Any], fleet: str) -> dict[str, Any]:
    """Return what is kept of a plan: every host's part, and what its guests were declared as."""
    return {
        "format": FORMAT,
        "fleet": fleet,
        "parts": plan["parts"],
        "declared": {name: digest(spec) for name, spec in specs.items()},
    }


def check(kept: Any, now: Mapping[str, Any]) -> None:
    """Refuse a plan that is no longer the plan; VirtfleetError with what is another now."""
    if not isinstance(kept, Mapping) or kept.get("format") != FORMAT:
        raise VirtfleetError("expected a plan that playbooks/plan.yml saved, found something else")
    if kept["fleet"] != now["fleet"]:
        raise VirtfleetError(
            f"the plan is one of the fleet {kept['fleet']!r}, this is {now['fleet']!r}"
        )
    found = [*_declared(kept["declared"], now["declared"]), *_parts(kept["parts"], now["parts"])]
    if found:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise VirtfleetError(
            f"the plan is stale: {'; '.join(found[:_NAMED])}{more}", remedy="plan again"
        )


def _declared(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    found = [f"{name} is declared by now" for name in sorted(set(after) - set(before))]
    found += [f"{name} is no longer declared" for name in sorted(set(before) - set(after))]
    both = sorted(set(before) & set(after))
    return found + [f"{n} is declared otherwise by now" for n in both if before[n] != after[n]]


def _parts(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    found = [f"{host} does not answer now" for host in sorted(set(before) - set(after))]
    found += [f"{host} did not answer then" for host in sorted(set(after) - set(before))]
    for host in sorted(set(before) & set(after)):
        old, new = before[host], after[host]
        for key, word in (("guests", "part"), ("gone", "removal")):
            moved = sorted(set(old[key]) ^ set(new[key]))
            found += [f"{name} is {word} of {host} only once" for name in moved]
        seen = sorted(set(old["expect"]) & set(new["expect"]))
        found += [
            f"{name} changed on {host} meanwhile"
            for name in seen
            if old["expect"][name] != new["expect"][name]
        ]
    return found

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be remembered: live values as they were, and what only a boot will change.

``/var/lib/virtfleet/config.json`` holds what is needed for the way back. What is true until the
next boot only lies below /run, which the boot empties. A module parameter that was not taken is
kept for as long as the kernel is the same: the next boot loads the module with the same option.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Mapping

from ..host.source import text, word
from .operation import Write
from .setting import PARAMETER, form_of

FOLDER = "/var/lib/virtfleet"
KEPT = f"{FOLDER}/config.json"
BOOT = "/run/virtfleet/config.json"


@dataclass(frozen=True)
class Record:
    """What earlier runs left to know.

    ``changed``: path → (value before the first change, value that was written last).
    ``cmdline``: kernel arguments that are ours. ``refused``: path → value that the kernel did not
    take. ``leftover``: kernel arguments taken away that the running kernel has still.
    ``parameters``: path → value of module parameters taken away that the module has still.
    """

    changed: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    cmdline: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    leftover: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    release: str | None = None  # the running kernel


def _load(content: str | None) -> dict[str, Any]:
    """Return what a record's file says; a spoiled one says nothing."""
    try:
        found = json.loads(content or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _words(value: Any) -> tuple[str, ...]:
    return tuple(v for v in value if isinstance(v, str)) if isinstance(value, list) else ()


def _texts(value: Any) -> dict[str, str]:
    items = value.items() if isinstance(value, dict) else ()
    return {key: text for key, text in items if isinstance(text, str)}


def _pairs(value: Any) -> dict[str, tuple[str, str]]:
    items = value.items() if isinstance(value, dict) else ()
    return {key: (pair[0], pair[1]) for key, pair in items if len(_words(pair)) == 2}


def read(root: str) -> Record:
    """Return what earlier runs left below ``root``."""
    kept, boot = _load(text(root, KEPT)), _load(text(root, BOOT))
    release = word(root, "/proc/sys/kernel/osrelease")
    lacking = _texts(kept.get("lacking")) if kept.get("release") == release else {}
    return Record(
        changed=_pairs(kept.get("changed")),
        cmdline=_words(kept.get("cmdline")),
        refused={**lacking, **_texts(boot.get("refused"))},
        leftover=_words(boot.get("leftover")),
        parameters=_texts(boot.get("parameters")),
        release=release,
    )


def _content(values: dict[str, Any]) -> str | None:
    stated = {key: value for key, value in values.items() if value}
    return json.dumps(stated, indent=1, sort_keys=True) + "\n" if stated else None


def write(record: Record) -> tuple[Write, Write]:
    """Return the operations that keep the record; what is empty is no file."""
    changed = {path: list(pair) for path, pair in record.changed.items()}
    lacking = {p: v for p, v in record.refused.items() if form_of(p) == PARAMETER}
    kept = {
        "changed": changed,
        "cmdline": list(record.cmdline),
        "lacking": lacking,
        "release": record.release if lacking else None,
    }
    return (
        Write(KEPT, _content(kept)),
        Write(
            BOOT,
            _content(
                {
                    "refused": {p: v for p, v in record.refused.items() if p not in lacking},
                    "leftover": list(record.leftover),
                    "parameters": dict(record.parameters),
                }
            ),
        ),
    )

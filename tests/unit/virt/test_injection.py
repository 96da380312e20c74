# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever text stands anywhere in a spec, as a key too, never becomes markup."""

from __future__ import annotations

import copy
import xml.etree.ElementTree as ET
from typing import Any, Iterator, Tuple

import pytest
from ansible.module_utils.virt.check import check
from ansible.module_utils.virt.domain import FIELDS, XML
from ansible.module_utils.virt.fields import Aside
from ansible.module_utils.virt.reader import read
from ansible.module_utils.virt.writer import write

MARK = "evil"
NASTY = (
    f'"/><{MARK}/>',
    f"'/><{MARK}/>",
    f"<{MARK}/>",
    f"</x><{MARK}/>",
    f"]]><{MARK}/>",
    f"--><{MARK}/>",
    f'" {MARK}="1',
    f"' {MARK}='1",
    f"/x' {MARK}='1",
    f'/x"/><{MARK}/>',
    f"a&{MARK};",
    f"a\n<{MARK}/>",
    f"?><{MARK}/>",
    f"x\x00<{MARK}/>",
)
ROUNDS = 40
Path = Tuple[Any, ...]  # of keys and numbers; a key that is itself the place stands in a tuple


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield where texts stand in a spec: values, and keys as (…, (key,))."""
    if isinstance(value, dict):
        for key, inside in value.items():
            yield (*path, (key,))
            yield from places(inside, (*path, key))
    elif isinstance(value, list):
        for number, inside in enumerate(value):
            yield from places(inside, (*path, number))
    elif isinstance(value, str):
        yield path


def put(spec: Any, path: Path, text: str) -> Any:
    """Return a spec with another text at a place."""
    changed = copy.deepcopy(spec)
    inner = changed
    for part in path[:-1]:
        inner = inner[part]
    if isinstance(path[-1], tuple):
        inner[text] = inner.pop(path[-1][0])
    else:
        inner[path[-1]] = text
    return changed


def general(path: Path) -> Path:
    """Return a place without the numbers in it: one of each is enough."""
    return tuple("*" if isinstance(part, int) else part for part in path)


def judged(spec: dict[str, Any]) -> dict[str, Any] | None:
    """Return a spec in canonical form, None where it is refused."""
    problems: list[Any] = []
    stated = check(spec, "guests[0]", problems)
    return None if problems else stated


@pytest.fixture(scope="module")
def corpus(specs: Any) -> dict[Path, dict[str, Any]]:
    """Return by place a spec in which a text stands there, one for each key at any depth."""
    where: dict[Path, Path] = {}
    found: dict[Path, dict[str, Any]] = {}
    for seed in range(ROUNDS):
        for one in FIELDS:
            if one.key in (XML, "uuid") or isinstance(one, Aside):
                continue
            spec = {one.key: specs(seed).field(one)}
            new = [path for path in places(spec) if general(path) not in where]
            if new and judged(spec) is not None:
                where.update((general(path), path) for path in new)
                found.update((path, spec) for path in where.values() if path not in found)
    return found


def test_no_text_anywhere_becomes_markup(corpus: dict[Path, dict[str, Any]], host: Any) -> None:
    taken = set()
    for path, spec in corpus.items():
        for text in NASTY:
            stated = judged(put(spec, path, text))
            if stated is None:
                continue
            taken.add(path)
            made = write(stated, "web01", host)
            root = ET.fromstring(made)  # noqa: S314 (what we made ourselves)
            names = [name for one in root.iter() for name in (one.tag, *one.attrib)]
            assert not [name for name in names if MARK in name], (path, text)
            assert MARK in made, (path, text, "it is written nowhere")
            if path[-1] != "password":  # which nothing shows
                assert MARK in repr(read(made)), (path, text, "it is not read again")
    # Some have a form that keeps all of it out, and in some anything may stand.
    assert len(corpus) >= 500
    assert len(taken) >= 50
    assert {("disks", "network", "hosts", "socket"), ("fw_cfg", "opt/x")} <= {
        tuple(part for part in path if isinstance(part, str)) for path in taken
    }

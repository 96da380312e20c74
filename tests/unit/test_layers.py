# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A room knows only the rooms below it, and what is shipped to hosts can be shipped."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Iterator

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = REPOSITORY / "module_utils"

# What each room of module_utils may know (docs/design.md); a room knows itself, and all know units.
BELOW: dict[str, set[str]] = {
    "units": set(),
    "quiet": set(),
    "converge": set(),
    "kvm": set(),
    "host": {"kvm", "converge"},
    "system": {"host", "converge"},
    "virt": {"converge"},
    "seed": {"converge"},
    "guest": {"image", "seed", "kvm", "virt", "converge"},
    "resource": {"image", "kvm", "virt", "converge"},
    "image": {"kvm", "virt", "converge"},
    "fleet": {"guest", "resource", "image", "seed", "host", "system", "kvm", "virt", "converge"},
}
# Tools that work on the sources, where the sources are.
NOT_SHIPPED = {"module_utils/kvm/archive.py", "module_utils/kvm/programs/build.py"}
# The first asks for the name of the folder that it was installed in, and reads nothing there; the
# second asks which code came along with it, whatever that is.
KNOWS_ITS_PLACE = {"module_utils/kvm/serve.py", "module_utils/converge/answers.py"}
ENGINES = {"ioctl", "libvirt"}


def sources(folder: str) -> list[Path]:
    return sorted((REPOSITORY / folder).rglob("*.py"))


def identity(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield what a file imports, wherever in it, as (relative level, dotted name)."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.level, f"{node.module}.{alias.name}" if node.module else alias.name


def absolute(path: Path, level: int, name: str) -> list[str]:
    """Return the parts of an import's full name; ours begin with ansible.module_utils."""
    if level == 0:
        return name.split(".")
    inside = path.relative_to(ROOMS).with_suffix("").parts
    package = ["ansible", "module_utils", *inside][: -level or None]
    return [*package, *name.split(".")]


def room_of(path: Path) -> str:
    return path.relative_to(ROOMS).with_suffix("").parts[0]


def known_rooms(path: Path) -> Iterator[str]:
    for level, name in imports(path):
        parts = absolute(path, level, name)
        if parts[:2] == ["ansible", "module_utils"] and len(parts) > 2 and parts[2] in BELOW:
            yield parts[2]


@pytest.mark.parametrize("path", sources("module_utils"), ids=identity)
def test_a_room_knows_only_the_rooms_below_it(path):
    room = room_of(path)
    assert room in BELOW, "a new room: say in BELOW what it may know"
    assert set(known_rooms(path)) <= BELOW[room] | {room, "units"}


@pytest.mark.parametrize("path", sources("module_utils"), ids=identity)
def test_rooms_know_no_ansible(path):
    if identity(path) == "module_utils/quiet.py":  # a base of modules
        return
    for level, name in imports(path):
        assert level > 0 or name.split(".")[0] != "ansible", f"import ours relatively: {name}"


def test_engines_do_not_know_each_other():
    for path in sources("module_utils/guest"):
        own = ENGINES & set(path.relative_to(ROOMS / "guest").parts)
        if own:
            for level, name in imports(path):
                assert not (ENGINES - own) & set(absolute(path, level, name)), path


@pytest.mark.parametrize("path", sources("library"), ids=identity)
def test_modules_import_ours_by_the_one_name(path):
    for level, name in imports(path):
        assert level == 0
        assert name.split(".")[0] not in {*BELOW, "module_utils", "plugins", "library"}


@pytest.mark.parametrize(
    "path",
    [path for path in sources("module_utils") if identity(path) not in NOT_SHIPPED],
    ids=identity,
)
def test_what_is_shipped_imports_statically_and_has_no_data_files(path):
    """Ansible ships what is imported by a statement, as a .py, and nothing else."""
    tree = ast.parse(path.read_bytes())
    modules = {name.split(".")[0] for level, name in imports(path) if level == 0}
    assert not modules & {"importlib", "pkgutil", "runpy", "imp", "pkg_resources"}
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert "__import__" not in names
    if identity(path) not in KNOWS_ITS_PLACE:
        assert "__file__" not in names, "what lies beside this file does not travel with it"


def test_plugins_run_the_shim_before_they_import_ours():
    for path in sources("plugins"):
        if path.name == "shim.py":
            continue
        text = path.read_text(encoding="utf-8")
        ours = [
            text.index(f"ansible.module_utils.{room}")
            for room in BELOW
            if f"import ansible.module_utils.{room}" in text
            or f"from ansible.module_utils.{room}" in text
            or f"from ansible.module_utils import {room}" in text
        ]
        if ours:
            assert 0 <= text.find("runpy.run_path(") < min(ours), path

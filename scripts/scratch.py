# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scratch trees under build/ in which foreign tools see our modules where Ansible puts them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BUILD = REPOSITORY / "build"
OURS = REPOSITORY / "module_utils"
_COLLECTION = "ansible_collections/local/kvm"
_GALAXY = "{namespace: local, name: kvm, version: 0.0.0, readme: README.md, authors: [virtfleet]}\n"


def rooms() -> list[Path]:
    """Return the packages and modules that stand directly in module_utils/."""
    entries = (path for path in OURS.iterdir() if path.name != "__pycache__")
    return sorted(path for path in entries if path.suffix == ".py" or path.is_dir())


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def typed_tree(installed: Path) -> Path:
    """Make a folder in which `ansible.module_utils.<room>` is ours and the rest is Ansible's own.

    `installed` is the folder of the installed ansible package. mypy resolves imports from there,
    instead of taking what it cannot find for Any.
    """
    top = _fresh(BUILD / "typed")
    package = _fresh(top / "ansible")
    utilities = _fresh(package / "module_utils")
    for path in installed.iterdir():
        if path.name not in {"module_utils", "__pycache__"}:
            (package / path.name).symlink_to(path)
    for path in (installed / "module_utils").iterdir():
        if path.name != "__pycache__":
            (utilities / path.name).symlink_to(path)
    for path in rooms():
        (utilities / path.name).symlink_to(path)
    return top


def collection_tree() -> Path:
    """Make a collection out of library/ and module_utils/, for ansible-test's validate-modules."""
    top = _fresh(BUILD / "collection")
    plugins = _fresh(top / _COLLECTION / "plugins")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "library", plugins / "modules", ignore=ignore)
    shutil.copytree(OURS, plugins / "module_utils", ignore=ignore)
    shutil.copytree(REPOSITORY / "plugins" / "action", plugins / "action", ignore=ignore)
    (top / _COLLECTION / "galaxy.yml").write_text(_GALAXY)
    for path in plugins.rglob("*.py"):
        path.write_text(_as_in_a_collection(path.read_text()))
    return top


def _as_in_a_collection(text: str) -> str:
    """Return a source with the names that its imports and its documents have in the collection."""
    names = "|".join(re.escape(path.stem) for path in rooms())
    prefix = _COLLECTION.replace("/", ".")
    text = re.sub(
        rf"\bansible\.module_utils\.({names})\b", rf"{prefix}.plugins.module_utils.\1", text
    )
    return re.sub(r"(\bM\(|- module: )(kvm_\w+)", r"\1local.kvm.\2", text)

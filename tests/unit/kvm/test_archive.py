# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The helper's archive: what is in it, that it runs, and that it is always the same."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ansible.module_utils.kvm import archive

MAIN = """\
from ..units import UNIT


def main(argv):
    print(UNIT, *argv)
    return 7
"""
SOURCES = {
    "units.py": "UNIT = 'MiB'\n",
    "kvm/__init__.py": "",
    "kvm/cli.py": MAIN,
    "kvm/archive.py": "builds\n",
    "kvm/install.py": "installs\n",
    "kvm/programs/__init__.py": "",
    "kvm/programs/build.py": "assembles\n",
    "kvm/programs/greeter.py": "IMAGE = b''\n",
    "kvm/programs/greeter.S": "hlt\n",
    "kvm/__pycache__/cli.cpython-38.pyc": "bytecode",
    "host/probe.py": "another room\n",
}


def write_sources(folder: Path, names: list[str]) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SOURCES[name], encoding="ascii")


@pytest.fixture
def sources(tmp_path):
    write_sources(tmp_path / "sources", list(SOURCES))
    return str(tmp_path / "sources")


def entries(content: bytes) -> list[zipfile.ZipInfo]:
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        return opened.infolist()


def test_holds_the_helper_and_nothing_else(sources):
    assert [entry.filename for entry in entries(archive.build(sources))] == [
        "__main__.py",
        "virtfleet/__init__.py",
        "virtfleet/kvm/__init__.py",
        "virtfleet/kvm/cli.py",
        "virtfleet/kvm/programs/__init__.py",
        "virtfleet/kvm/programs/greeter.py",
        "virtfleet/units.py",
    ]


def test_is_the_same_whatever_the_clock_the_order_and_the_modes(sources, tmp_path):
    other = tmp_path / "other"
    write_sources(other, sorted(SOURCES, reverse=True))
    for path in other.rglob("*.py"):
        os.utime(str(path), (10**9, 10**9))
        path.chmod(0o600)
    first, second = archive.build(sources), archive.build(str(other))
    assert first == second
    assert archive.digest(first) == archive.digest(second)


def test_differs_when_a_source_does(sources):
    before = archive.build(sources)
    (Path(sources) / "units.py").write_text("UNIT = 'GiB'\n", encoding="ascii")
    assert archive.digest(archive.build(sources)) != archive.digest(before)


def test_depends_on_no_compression_and_no_date(sources):
    for entry in entries(archive.build(sources)):
        assert entry.compress_type == zipfile.ZIP_STORED
        assert entry.date_time == (1980, 1, 1, 0, 0, 0)
        assert entry.external_attr >> 16 == 0o100644


def test_runs_by_itself(sources, tmp_path):
    path = tmp_path / "helper.pyz"
    path.write_bytes(archive.build(sources))
    done = subprocess.run(
        [sys.executable, "-I", str(path), "one", "two"], stdout=subprocess.PIPE, check=False
    )
    assert (done.returncode, done.stdout) == (7, b"MiB one two\n")


def test_starts_with_a_line_for_the_kernel(sources):
    assert archive.build(sources).startswith(b"#!/usr/bin/env python3\nPK")


def test_carries_the_rooms_that_it_is_made_of():
    """The real sources: every module in it finds what it imports in it."""
    names = {entry.filename for entry in entries(archive.build())}
    assert {"__main__.py", "virtfleet/units.py", "virtfleet/kvm/layout.py"} <= names
    assert not {name for name in names if name.endswith(("archive.py", "install.py", "build.py"))}


def test_write_is_executable_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "made" / "helper.pyz"
    digest = archive.write(str(path))
    assert digest == archive.digest(path.read_bytes()) == archive.digest(archive.build())
    assert os.access(str(path), os.X_OK)
    assert os.listdir(str(path.parent)) == ["helper.pyz"]
    archive.write(str(path))
    assert os.listdir(str(path.parent)) == ["helper.pyz"]

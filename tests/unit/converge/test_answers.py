# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers are found again for the same question and the same code, and for nothing else."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
from ansible.module_utils.converge import answers
from ansible.module_utils.converge.answers import Answers

ANSWER = {"vcpus": 2, "disks": [{"target": "vda"}], "title": "Grüße \u2028 \x85"}


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "cache" / "answers")


def _kept(path: str, *question: Any, answer: Any = ANSWER) -> None:
    there = Answers(path)
    there.keep(answer, *question)
    there.save()


def test_an_answer_is_found_by_the_next_run(path: str) -> None:
    assert Answers(path).find("entry", {"memory": "1GiB"}) is None
    _kept(path, "entry", {"memory": "1GiB"})
    assert Answers(path).find("entry", {"memory": "1GiB"}) == ANSWER


@pytest.mark.parametrize(
    "question",
    [
        ("entry", {"memory": "2GiB"}),
        ("entries", {"memory": "1GiB"}),
        ("entry", "memory", "1GiB"),
        ("entry", {"memory": 1}),
        ("entry",),
    ],
)
def test_another_question_is_unknown(path: str, question: tuple[Any, ...]) -> None:
    _kept(path, "entry", {"memory": "1GiB"})
    assert Answers(path).find(*question) is None


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (1, 1.0), (1, "1"), (None, "null"), ([], {})]
)
def test_values_of_different_kinds_are_different_questions(path: str, one: Any, other: Any) -> None:
    _kept(path, one)
    assert Answers(path).find(one) == ANSWER
    assert Answers(path).find(other) is None


def test_what_is_found_is_the_askers_own(path: str) -> None:
    _kept(path, "q")
    there = Answers(path)
    there.find("q")["disks"].clear()
    assert there.find("q") == ANSWER


def test_other_code_has_no_answers(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _kept(path, "q")
    monkeypatch.setattr(answers, "code", lambda rooms: f"another {rooms}")
    assert Answers(path).find("q") is None


def test_without_a_file_nothing_is_kept() -> None:
    there = Answers()
    there.keep(ANSWER, "q")
    there.save()
    assert there.find("q") is None


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe", b"no code\nx y\n", b"\0" * 4096])
def test_a_damaged_file_counts_as_none(path: str, content: bytes) -> None:
    os.makedirs(os.path.dirname(path))
    Path(path).write_bytes(content)
    assert Answers(path).find("q") is None
    _kept(path, "q")
    assert Answers(path).find("q") == ANSWER


def test_an_answer_that_is_cut_off_counts_as_unknown(path: str) -> None:
    _kept(path, "q")
    _kept(path, "r")
    os.truncate(path, os.path.getsize(path) - 10)
    there = Answers(path)
    assert sorted(str(there.find(question)) for question in "qr") == ["None", str(ANSWER)]


def test_nothing_new_leaves_the_file_alone(path: str) -> None:
    _kept(path, "q")
    before = os.stat(path)
    there = Answers(path)
    there.find("q")
    there.save()
    assert (before.st_ino, before.st_mtime_ns) == (os.stat(path).st_ino, os.stat(path).st_mtime_ns)


def test_the_file_is_roots_alone_and_nothing_is_left_beside_it(path: str) -> None:
    _kept(path, "q")
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.listdir(os.path.dirname(path)) == ["answers"]


def test_what_was_not_asked_for_goes_first(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "LIMIT", 3000)
    for number in range(20):  # each takes some 170 bytes
        there = Answers(path)
        there.find(0)
        there.keep("x" * 100, number)
        there.save()
    assert os.path.getsize(path) < 3200
    there = Answers(path)
    found = [number for number in range(20) if there.find(number)]
    assert {0, 19} <= set(found)
    assert 10 < len(found) < 20


def test_where_it_cannot_be_written_nothing_happens(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    _kept(str(tmp_path / "cache" / "answers"), "q")
    assert (tmp_path / "cache").read_text().startswith("a file")


ASK = """
import sys
sys.path.insert(0, sys.argv[1])
from rooms.converge.answers import code
print(code({"converge", "virt", "units"}))
"""


def _code(place: Path) -> str:
    done = run([sys.executable, "-c", ASK, str(place)], capture_output=True, text=True, check=True)
    return done.stdout


def _packed(folder: Path, archive: Path) -> Path:
    """Return a zip file as Ansible makes one, with what names the place of this very run in it."""
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("sitecustomize.py", f"# {archive}")
        for file in sorted(folder.rglob("*.py")):
            packed.write(file, str(file.relative_to(folder)))
    return archive


@pytest.mark.parametrize("zipped", [True, False])
def test_any_changed_file_is_other_code(tmp_path: Path, zipped: bool) -> None:
    rooms = tmp_path / "tree" / "rooms"
    (rooms / "converge").mkdir(parents=True)
    (rooms / "virt").mkdir()
    for file in ("__init__.py", "converge/__init__.py", "virt/disk.py", "units.py", "quiet.py"):
        (rooms / file).write_text("")
    shutil.copy(answers.__file__, rooms / "converge" / "answers.py")

    def code(number: int) -> str:
        tree = rooms.parent
        return _code(_packed(tree, tmp_path / f"{number}.zip") if zipped else tree)

    first = code(1)
    assert first.count("disk.py") == 1
    assert code(2) == first
    (rooms / "quiet.py").write_text("LOUD = 1\n")  # what the answers do not depend on
    assert code(3) == first
    (rooms / "units.py").write_text("MIB = 1\n")
    second = code(4)
    (rooms / "virt" / "disk.py").write_text("BUS = 1\n")
    assert len({first, second, code(5)}) == 3

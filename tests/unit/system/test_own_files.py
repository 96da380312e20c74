# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Our own files: marked, exactly what is stated, and never somebody else's."""

from __future__ import annotations

import pytest
from ansible.module_utils.converge.action import LIVE, NEXT_BOOT
from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.system import own_files
from ansible.module_utils.system.operation import Write
from ansible.module_utils.system.own_files import MARK


def test_files_are_read_and_what_is_missing_is_none(tmp_path):
    (tmp_path / "a").write_text(f"{MARK}x\n# comment\n\ny\n")
    found = own_files.read(str(tmp_path), ["/a", "/b"])
    assert own_files.lines(found["/a"]) == ["x", "y"]
    assert (found["/b"], own_files.lines(found["/b"])) == (None, [])


def test_what_somebody_else_wrote_is_refused(tmp_path):
    (tmp_path / "a").write_text("vm.swappiness = 1\n")
    with pytest.raises(VirtfleetError, match="/a is not virtfleet's") as raised:
        own_files.read(str(tmp_path), ["/a"])
    assert raised.value.remedy == "move it away"
    (tmp_path / "b").mkdir()
    with pytest.raises(VirtfleetError, match="/b cannot be read"):
        own_files.read(str(tmp_path), ["/b"])


def test_no_lines_are_no_file():
    assert own_files.content([]) is None
    assert own_files.content(["a", "b"]) == f"{MARK}a\nb\n"


A, AB, B = (own_files.content(lines) for lines in (["a"], ["a", "b"], ["b"]))


@pytest.mark.parametrize(
    ("before", "after", "later", "expected"),
    [
        (A, A, (), None),
        (None, None, (), None),
        (None, A, (), ("create", LIVE)),
        (A, B, (), ("update", LIVE)),
        (A, B, ("/f",), ("update", NEXT_BOOT)),
        (AB, A, (), ("update", NEXT_BOOT)),
        (A, AB, (), ("update", LIVE)),
        (A, None, (), ("delete", NEXT_BOOT)),
    ],
)
def test_a_file_that_differs_is_one_step(before, after, later, expected):
    steps = own_files.plan({"/f": before}, {"/f": after}, "kvm1", later)
    assert [(step.action.action, step.action.when) for step in steps] == [expected] * bool(expected)
    for step in steps:
        assert step.operations == (Write("/f", after),)
        assert step.action.object == "file/f"

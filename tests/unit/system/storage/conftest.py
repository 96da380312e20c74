# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host made of files below a folder, and of commands that answer as a test says."""

from __future__ import annotations

import pytest
from ansible.module_utils.system.storage.facet import Checker, Context, System


class FakeRun:
    """Answers the commands that a test expects; any other one fails the test."""

    def __init__(self, answers):
        self.answers = {tuple(argv): answer for argv, answer in answers.items()}
        self.seen = []

    def __call__(self, argv):
        self.seen.append(tuple(argv))
        assert tuple(argv) in self.answers, f"unexpected command: {' '.join(argv)}"
        answer = self.answers[tuple(argv)]
        return answer if isinstance(answer, tuple) else (0, answer, "")


@pytest.fixture
def system(tmp_path):
    """Return a function that makes a host of files and of answers to commands."""

    def make(files=None, answers=None):
        for path, text in (files or {}).items():
            place = tmp_path / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
        return System(str(tmp_path), FakeRun(answers or {}))

    return make


@pytest.fixture
def check():
    return Checker()


@pytest.fixture
def context():
    return Context("kvm1")


@pytest.fixture
def away():
    return Context("kvm1", absent=True)

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Makefile and what calls it, as far as that can be told without installing anything."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

TARGETS = {
    *("help", "up", "down", "preflight", "test", "lint", "bench", "soak", "helper"),
    *("lab", "lab-down", "venv", "clean"),
}


def make(repository, *arguments, **environment):
    tool = shutil.which("make")
    if tool is None:
        pytest.skip("make is not here")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        [tool, "--no-print-directory", *arguments],
        cwd=repository,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_without_a_target_it_lists_them(repository):
    listed = re.findall(r"^  make (\S+) +\S", make(repository), re.MULTILINE)
    assert set(listed) == TARGETS
    assert make(repository) == make(repository, "help")


def test_the_helper_is_written_by_the_systems_python(repository, tmp_path):
    script = repository / "module_utils" / "kvm" / "archive.py"
    path = tmp_path / "helper.pyz"
    subprocess.run(["/usr/bin/python3", "-IS", str(script), str(path)], check=True)
    assert path.stat().st_size > 0
    assert "archive.py build/kvm-helper.pyz" in make(repository, "--dry-run", "helper")


def test_the_users_ansible_settings_do_not_reach_a_run(repository):
    database = make(
        repository, "-pn", "help", ANSIBLE_CONFIG="/elsewhere.cfg", ANSIBLE_LIBRARY="/elsewhere"
    )
    assert f"ANSIBLE_CONFIG := {repository}/ansible.cfg" in database
    assert "unexport" in (repository / "Makefile").read_text()


def test_ci_runs_the_tests_and_tells(repository, tmp_path):
    script = repository / ".ci" / "run"
    assert os.access(script, os.X_OK)
    fake = tmp_path / "make"
    fake.write_text('#!/bin/sh\necho "make $1, CI=$CI"\n! read line\n')
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "make test, CI=true\nci: passed\n"
    fake.write_text("#!/bin/sh\nexit 3\n")
    done = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "FAILED" in done.stdout

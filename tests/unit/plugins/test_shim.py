# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shim: our modules under Ansible's name, once."""

from __future__ import annotations

import runpy
import subprocess
import sys

import ansible.module_utils


def test_running_it_again_changes_nothing(repository):
    before = list(ansible.module_utils.__path__)
    runpy.run_path(str(repository / "plugins" / "shim.py"))
    runpy.run_path(str(repository / "plugins" / "callback" / ".." / "shim.py"))
    assert list(ansible.module_utils.__path__) == before
    assert before.count(str(repository / "module_utils")) == 1


def test_ansibles_own_come_first(repository):
    assert ansible.module_utils.__path__[-1] == str(repository / "module_utils")


def test_it_works_from_any_folder(repository, tmp_path):
    code = (
        f"import runpy; runpy.run_path({str(repository / 'plugins' / 'shim.py')!r});"
        "import ansible.module_utils.basic, ansible.module_utils.units as u; print(u.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(repository / "module_utils" / "units.py")

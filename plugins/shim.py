# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make the repository's module_utils importable as ansible.module_utils on the controller.

Ansible ships module_utils to hosts by itself, but its controller plugins cannot import them. Each
plugin, and tests/conftest.py, runs this file before its own imports, in one line:

    runpy.run_path(str(Path(__file__).parents[1] / "shim.py"))

Everything is then imported as ansible.module_utils.<room>, here as on the hosts: two ways to import
a module would make two classes of one name. Running the file again changes nothing.
"""

from __future__ import annotations

import os

import ansible.module_utils

_FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "module_utils")

if _FOLDER not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_FOLDER)

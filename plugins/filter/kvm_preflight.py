# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter that joins what a preflight found on a host."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

runpy.run_path(str(Path(__file__).parents[1] / "shim.py"))

from ansible.module_utils.host import report

DOCUMENTATION = r"""
name: kvm_preflight_result
short_description: Joins what a preflight found on a host
version_added: "0.1.0"
description:
  - Joins the result of M(kvm_host_info) and, where it ran, that of M(kvm_selftest) into one list of
    checks and one verdict.
positional: selftest
options:
  _input:
    description: What M(kvm_host_info) returned.
    type: dict
    required: true
  selftest:
    description: What M(kvm_selftest) returned. A skipped or missing one is left out.
    type: dict
    default: {}
"""

EXAMPLES = r"""
result: "{{ info | kvm_preflight_result(selftest) }}"
"""

RETURN = r"""
_value:
  description:
    - C(checks), C(verdict) and C(host), and where the self-test ran C(measurements) and C(facts).
  type: dict
"""


def join(info: Mapping[str, Any], selftest: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what both modules found on one host."""
    if not isinstance(info, Mapping) or "verdict" not in info:
        raise AnsibleFilterError("kvm_preflight_result: expected the result of kvm_host_info")
    ran = selftest if selftest and "verdict" in selftest else None
    found = report.combine("", info, ran)
    result = {"checks": list(found.checks), "verdict": found.verdict, "host": info["host"]}
    if ran is not None:
        result.update(measurements=ran["measurements"], facts=ran["facts"])
    return result


class FilterModule:
    """Offers the filter under its name."""

    def filters(self) -> dict[str, Callable[..., dict[str, Any]]]:
        """Return the filter."""
        return {"kvm_preflight_result": join}

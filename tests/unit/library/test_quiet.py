# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What modules with secrets in free mappings note in the journal: nothing."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils import basic
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.quiet import QuietModule
from ansible.module_utils.testing import patch_module_args


@pytest.mark.parametrize(("kind", "told"), [(AnsibleModule, True), (QuietModule, False)])
def test_the_arguments_of_a_quiet_module_are_not_noted(kind, told, monkeypatch):
    """Ansible's own tells, even one with no_log: that is why there is a quiet one."""
    noted = []
    monkeypatch.setattr(basic.AnsibleModule, "log", lambda _self, msg, **_: noted.append(str(msg)))
    with patch_module_args({"guests": [{"word": "s3cr3t"}], "_ansible_no_log": False}):
        kind({"guests": {"type": "list", "elements": "dict"}}, no_log=True)
    assert ("s3cr3t" in json.dumps(noted)) is told

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A module whose arguments nobody finds in the host's journal."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule


class QuietModule(AnsibleModule):
    """A module that takes secrets in free mappings, whose keys an argument spec cannot name.

    Ansible notes the arguments of every call in the journal. Its own ``no_log`` for a whole module
    does not last: what the task says of it, which by default is no, takes its place.
    """

    def _log_invocation(self) -> None:
        """Note nothing."""

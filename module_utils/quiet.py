# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A module whose arguments nobody finds in the host's journal."""

from __future__ import annotations

from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule

_VERBOSE = 3  # -vvv, from where on Ansible shows the arguments of a call


class QuietModule(AnsibleModule):
    """A module that takes secrets in free mappings, whose keys an argument spec cannot name.

    Ansible notes the arguments of every call in the journal. Its own ``no_log`` for a whole module
    does not last: what the task says of it, which by default is no, takes its place.
    """

    def _log_invocation(self) -> None:
        """Note nothing."""

    def take(self, key: str, echoed: Callable[[Any], Any]) -> dict[str, Any]:
        """Return the arguments, and leave of the list under a key what may be ``echoed`` of it.

        Without -vvv that is how long it is: an answer with all of hundreds of entries takes longer
        than the work, and what is shown holds none of it.
        """
        options = dict(self.params)
        entries = options[key]
        if self._verbosity >= _VERBOSE:
            self.params[key] = echoed(entries)
        else:
            self.params[key] = f"a list of {len(entries)}, shown with -vvv"
        return options

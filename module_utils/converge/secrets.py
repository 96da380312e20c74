# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user gave, as it may be shown: without the passwords in it."""

from __future__ import annotations

import re
from typing import Any, Mapping

HIDDEN = "********"  # what stands for a password wherever one is shown
ECHOED = "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"  # the same in Ansible's own words

# In a domain's XML: an attribute of libvirt's own, and what is handed on to QEMU as it is
# (`-object secret,data=…`, `-vnc :1,password=…`, an environment variable). Few runs need them, so
# they are compiled when they are first used.
_ATTRIBUTE = r"""(?i)(\bpassw(?:or)?d\s*=\s*)(?:'[^']*'|"[^"]*")"""
_OPTION = r"""(?i)((?:password|passwd|\bsecret,(?:[^'",]*,)*data)=)[^'",<>\s]+"""
_VARIABLE = (
    r"""(?i)(\bname\s*=\s*(['"])\w*(?:PASSW|SECRET|TOKEN|KEY)\w*\2\s+value\s*=\s*)"""
    r"""(?:'[^']*'|"[^"]*")"""
)


def concealed(xml: str) -> str:
    """Return a fragment of XML with the passwords in it replaced."""
    xml = re.sub(_VARIABLE, rf"\1'{HIDDEN}'", xml)
    xml = re.sub(_ATTRIBUTE, rf"\1'{HIDDEN}'", xml)
    return re.sub(_OPTION, rf"\1{HIDDEN}", xml)


def echoed(value: Any) -> Any:
    """Return what a user gave with every password in it replaced, for a module's own echo."""
    if isinstance(value, Mapping):
        return {key: _echoed(key, inside) for key, inside in value.items()}
    return [echoed(inside) for inside in value] if isinstance(value, list) else value


def _echoed(key: object, value: Any) -> Any:
    if key in ("password", "cloud_init", "value", "value_base64"):
        return ECHOED if value else value
    if key == "xml" and isinstance(value, str):
        return concealed(value)
    return echoed(value)

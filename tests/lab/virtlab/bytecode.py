# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sources that Ansible will send to a host, for it to compile once, before it is saved."""

from __future__ import annotations

import base64
import io
import zipfile
from pathlib import Path

import ansible

from .recipe import REPOSITORY

COMMAND = "base64 -d | sudo python3 -c 'import virtlab_code; virtlab_code.fill()'"


def sources() -> str:
    """Return modules and module_utils, Ansible's and ours, as an archive in base64."""
    theirs = Path(ansible.__file__).parent
    roots = [theirs / "module_utils", theirs / "modules"]
    roots += [REPOSITORY / "module_utils", REPOSITORY / "library"]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for root in roots:
            for path in sorted(root.rglob("*.py")):
                archive.write(path, path.relative_to(root.parent))
    return base64.b64encode(content.getvalue()).decode()

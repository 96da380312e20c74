# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host whose libvirt is the test driver: it keeps domains as the real ones do and runs nothing.

Import it behind ``pytest.importorskip("libvirt")``.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import libvirt
from ansible.module_utils.converge.answers import Answers
from ansible.module_utils.guest.engines import Engines
from ansible.module_utils.guest.libvirt.engine import LibvirtEngine
from ansible.module_utils.guest.run import Wish, run
from ansible.module_utils.kvm.layout import Layout

if TYPE_CHECKING:
    from pathlib import Path

URI = "test:///default"
OWN = "test"  # the domain that the driver brings along
GUEST: dict[str, Any] = {
    "name": "web",
    "memory": "512MiB",
    "vcpus": 2,
    "disks": [{"target": "vda", "file": "/images/web.qcow2", "format": "qcow2"}],
    "nics": [{"network": "default"}],
}


class Driver:
    """The driver, alive as long as its connection is held, and the module's work on it."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(str(root))
        self.handle = libvirt.open(URI)

    def run(
        self,
        *guests: dict[str, Any],
        check_mode: bool = False,
        fleet: str = "local",
        uri: str = URI,
        force: bool = False,
        local: bool | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Do what the module does; ``more`` is what a Wish has besides."""
        ways: dict[str, Any] = {"optional": check_mode, "stop_timeout": 2.0, "force": force}
        ways["state"] = self.layout.state
        engine = LibvirtEngine(uri, fleet=fleet, local=local, **ways)
        answers = Answers(os.path.join(self.layout.cache, "answers"))
        engine.remember(answers)
        engines = Engines([engine], self.layout)
        wish = Wish(list(guests), fleet=fleet, **more)
        try:
            outcome = run(engines, wish, engine.host("kvm1"), check_mode=check_mode)
        finally:
            engines.close()
        answers.save()
        return outcome

    def xml(self, name: str) -> str:
        """Return a domain's persistent XML."""
        return str(self.handle.lookupByName(name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))

    def domains(self) -> list[Any]:
        """Return all domains but the driver's own."""
        return [domain for domain in self.handle.listAllDomains() if domain.name() != OWN]

    def names(self) -> list[str]:
        """Return the names of all domains, sorted."""
        return sorted(domain.name() for domain in self.handle.listAllDomains())

    def forget(self) -> None:
        """Let what was found out about domains be unknown."""
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(self.layout.cache, "answers"))

    def clear(self) -> None:
        """Take all domains away but the driver's own."""
        self.forget()
        for domain in self.domains():
            if domain.isActive():
                domain.destroy()
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)

    def close(self) -> None:
        """Take the domains away and let the driver go."""
        self.clear()
        self.handle.close()

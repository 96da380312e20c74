# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks, filters, pools, volumes, secrets as their modules want them: options in, values out."""

from __future__ import annotations

import os
from typing import Any, Callable, Mapping

from ..converge.answers import Answers
from ..converge.errors import VirtfleetError, system_says
from ..kvm.layout import Layout
from ..virt.connection import ConnectError, Connection
from .kind import ABSENT, Kind
from .run import Wish, converge

Run = Callable[..., Any]
_ROOMS = ("converge", "resource", "units", "virt")


class _Nothing:
    """Stands for libvirt where there is none yet: it has no object, and every constant is 0.

    A plan in check mode is made on a host on which an earlier task of the same run would have
    installed libvirt.
    """

    class libvirtError(Exception):  # noqa: N801 (libvirt's own name)
        """Never raised."""

    def __getattr__(self, name: str) -> int:
        return 0


class _Unconnected:
    """Lists nothing."""

    def __init__(self) -> None:
        self.libvirt: Any = _Nothing()
        self.handle: Any = self

    def listAllNetworks(self, _flags: int = 0) -> list[Any]:  # noqa: N802 (libvirt's own name)
        """Return no network."""
        return []

    def listAllStoragePools(self, _flags: int = 0) -> list[Any]:  # noqa: N802
        """Return no pool."""
        return []

    def listAllNWFilters(self) -> list[Any]:  # noqa: N802
        """Return no filter."""
        return []

    def listAllSecrets(self) -> list[Any]:  # noqa: N802
        """Return no secret."""
        return []

    def is_lost(self) -> bool:
        """Return False: there was none."""
        return False

    def close(self) -> None:
        """Do nothing."""


def _networks(connection: Any, options: Mapping[str, Any], run: Run, layout: Layout) -> Kind:
    from .ledger import Ledger  # compiled on the host, so only what the kind asked for takes
    from .networks import Networks

    local = options["uri"].startswith("qemu:///")
    return Networks(connection, options["fleet"], Ledger(layout), run, local=local)


def _pools(connection: Any, options: Mapping[str, Any], run: Run, layout: Layout) -> Kind:
    from .ledger import Ledger
    from .pools import Pools

    del run
    local = options["uri"].startswith("qemu:///")
    return Pools(connection, options["fleet"], Ledger(layout), local=local)


def _nwfilters(connection: Any, options: Mapping[str, Any], run: Run, layout: Layout) -> Kind:
    from .ledger import Ledger
    from .nwfilters import Nwfilters

    del run
    local = options["uri"].startswith("qemu:///")
    return Nwfilters(connection, options["fleet"], Ledger(layout), local=local)


_KINDS = {"networks": _networks, "nwfilters": _nwfilters, "pools": _pools}


def _connect(options: Mapping[str, Any], *, optional: bool) -> Any:
    try:
        return Connection(options["uri"])
    except ConnectError as error:
        if not (optional and error.missing):
            raise
        return _Unconnected()


def converge_resources(
    plural: str,
    options: Mapping[str, Any],
    run: Run,
    check_mode: bool,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Carry out the module of one kind with its options; see `run.converge` for what it raises.

    ``say`` takes lines that tell how far long work is.
    """
    entries = options[plural]
    gone = all(isinstance(one, Mapping) and one.get("state") == ABSENT for one in entries)
    connection = _connect(options, optional=check_mode or gone)
    layout = Layout(options["root"])
    host = options["host"] or os.uname().nodename
    try:
        if plural == "secrets":
            return _secrets(connection, options, layout, host, check_mode=check_mode)
        if plural == "volumes":
            local = options["uri"].startswith("qemu:///")
            given = (run if local else None, say)
            return _volumes(connection, options, given, layout, host, check_mode=check_mode)
        kind = _KINDS[plural](connection, options, run, layout)
        wish = Wish(entries, host, fleet=options["fleet"], prune=options["prune"])
        return _remembering(kind, layout, wish, check_mode=check_mode)
    except OSError as error:
        raise VirtfleetError(system_says(error)) from error
    finally:
        connection.close()


def _remembering(kind: Kind, layout: Layout, wish: Wish, *, check_mode: bool) -> dict[str, Any]:
    """Do the work of one kind with what was found out about its definitions before."""
    kind.answers = Answers(os.path.join(layout.cache, f"answers-{kind.plural}"), _ROOMS)
    outcome = converge(kind, layout, wish, check_mode=check_mode)
    if not check_mode:
        kind.answers.save()
    return outcome


def _secrets(
    connection: Any, options: Mapping[str, Any], layout: Layout, host: str, *, check_mode: bool
) -> dict[str, Any]:
    from .ledger import Ledger
    from .run import told
    from .secrets import Secrets
    from .secrets import converge as converge_secrets

    secrets = Secrets(connection, options["fleet"], Ledger(layout))
    with told(connection):
        return converge_secrets(secrets, layout, options["secrets"], host, check_mode=check_mode)


def _volumes(
    connection: Any,
    options: Mapping[str, Any],
    given: tuple[Run | None, Callable[[str], None] | None],
    layout: Layout,
    host: str,
    *,
    check_mode: bool,
) -> dict[str, Any]:
    from .ledger import Ledger
    from .run import told
    from .volumes import Volumes
    from .volumes import converge as converge_volumes

    volumes = Volumes(connection, options["fleet"], Ledger(layout), *given)
    with told(connection):
        return converge_volumes(volumes, layout, options["volumes"], host, check_mode=check_mode)

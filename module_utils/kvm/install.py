# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The helper on a host: which versions are there, who uses them, and what is to be done.

A version is a folder named by the digest of its archive, unpacked and byte-compiled, because
Python caches no bytecode for a zip. It is made under another name and then renamed, the command is
a symbolic link that is replaced in one step, and a version stays as long as a guest runs on it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable

from .errors import ConfigError, InputFileError
from .process import Identity, alive

if TYPE_CHECKING:
    from .layout import Layout

PRESENT = "present"
ABSENT = "absent"
UNIT = "virtfleet-guest@.service"
_UNIT_FOLDER = "etc/systemd/system"
_SCRIPT = "kvm-helper"
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PID_LIMIT = 64 * 1024
_READABLE = 0o666  # less what the umask takes
_EXECUTABLE = 0o777
_UMASK = 0o022  # everybody may run the helper, whatever the umask of the run
# The mark by which a unit file is known to be ours.
_MARK = "# Made by virtfleet; what is changed here is overwritten.\n"
UNIT_TEXT = (
    _MARK
    + """\
[Unit]
Description=virtfleet guest %i
After=local-fs.target systemd-modules-load.service
# At boot nothing else waits for KVM's module; the one of the other vendor is passed over.
Wants=modprobe@kvm_intel.service modprobe@kvm_amd.service
After=modprobe@kvm_intel.service modprobe@kvm_amd.service
AssertPathExists=/var/lib/virtfleet/guests/%i/definition.json

[Service]
Type=notify
ExecStart=/usr/local/bin/kvm-helper serve %i
# A guest that ended is reported with its reason, and started again by whoever decides so.
Restart=no
# The helper alone is asked to end: what a guest's devices stand on lives as long as the guest.
KillMode=mixed
KillSignal=SIGTERM
TimeoutStartSec=60
# It asks for more where the guest may take longer to turn itself off.
TimeoutStopSec=45
RuntimeDirectory=virtfleet/%i
RuntimeDirectoryMode=0755
UMask=0022

# It starts as root and opens what the guest's devices stand on, wherever that lies. Then it leaves
# the host's root and namespaces, becomes the guest's own user and keeps no capability: that jail it
# builds itself, before it looks at anything of the guest. What stands here is for the time before.
CapabilityBoundingSet=CAP_SYS_ADMIN CAP_SYS_CHROOT CAP_SETUID CAP_SETGID CAP_SETPCAP
# For images of any owner, taps, priorities; the second line is for the daemon of a shared folder.
CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_CHOWN CAP_NET_ADMIN CAP_SYS_NICE
CapabilityBoundingSet=CAP_FOWNER CAP_FSETID CAP_SETFCAP CAP_MKNOD
NoNewPrivileges=yes
DevicePolicy=closed
DeviceAllow=/dev/kvm rw
DeviceAllow=/dev/net/tun rw
DeviceAllow=/dev/vhost-net rw
DeviceAllow=/dev/vhost-vsock rw
DeviceAllow=block-* rw
# Kernels, disks and shared folders may lie anywhere else.
ProtectSystem=full
PrivateMounts=yes
IPAddressDeny=any
RestrictAddressFamilies=AF_UNIX AF_INET
ProtectProc=invisible
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictNamespaces=mnt net ipc uts pid
RestrictRealtime=yes
RestrictSUIDSGID=yes
KeyringMode=private
LimitCORE=0
SystemCallArchitectures=native
SystemCallFilter=@system-service @mount seccomp
SystemCallFilter=~@keyring @memlock
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""
)


@dataclass(frozen=True)
class Observed:
    """What is on the host; ``usable`` versions are those that this Python need not compile."""

    versions: frozenset[str]
    usable: frozenset[str]
    command: str | None
    unit: str | None
    running: dict[str, tuple[str, ...]] = field(default_factory=dict)
    guests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Desired:
    """What shall be there: one version, or none, and the unit where systemd supervises."""

    version: str | None
    unit: str | None


@dataclass(frozen=True)
class Step:
    """One thing to do, in the words of an action; ``changes`` are (path, before, after)."""

    order: int
    action: str
    object: str
    reason: str
    changes: tuple[tuple[str, str | None, str | None], ...] = ()

    @property
    def name(self) -> str:
        """The object without its kind."""
        return self.object.partition("/")[2]


def interpreter(executable: str = sys.executable) -> str:
    """Return the Python that runs the helper: this one, under the name that outlives upgrades."""
    stable = "/usr/bin/python3"
    return stable if os.path.realpath(stable) == os.path.realpath(executable) else executable


def supervised(root: str) -> bool:
    """Return whether systemd supervises here: it is the init, or an image has it.

    Below "/" the folder is the one that sd_booted(3) looks for.
    """
    where = "run/systemd/system" if root == "/" else "usr/lib/systemd/system"
    return os.path.isdir(os.path.join(root, where))


def _unit_path(layout: Layout) -> str:
    return os.path.join(layout.root, _UNIT_FOLDER, UNIT)


def _versions(layout: Layout) -> frozenset[str]:
    try:
        entries = os.listdir(layout.helpers)
    except FileNotFoundError:
        return frozenset()
    return frozenset(entry for entry in entries if _DIGEST.fullmatch(entry))


def _is_usable(layout: Layout, version: str) -> bool:
    """Return whether the version is compiled for this Python and started by it."""
    folder = os.path.join(layout.helpers, version)
    tag = sys.implementation.cache_tag
    if not os.path.exists(os.path.join(folder, "virtfleet", "__pycache__", f"__init__.{tag}.pyc")):
        return False
    try:
        with open(os.path.join(folder, _SCRIPT), "rb") as file:
            return file.readline() == _shebang()
    except OSError:
        return False


def _command(layout: Layout) -> str | None:
    """Return the version that the command points at; ConfigError if it is somebody else's."""
    if not os.path.lexists(layout.command):
        return None
    version = None
    if os.path.islink(layout.command):
        target = os.path.join(os.path.dirname(layout.command), os.readlink(layout.command))
        folder = os.path.dirname(target)
        if os.path.realpath(os.path.dirname(folder)) == os.path.realpath(layout.helpers):
            version = os.path.basename(folder)
    if version is None:
        raise ConfigError(
            f"{layout.command} is not virtfleet's: expected nothing or a link into"
            f" {layout.helpers}",
            "move it away",
        )
    return version


def _unit(layout: Layout) -> str | None:
    """Return the unit's text; ConfigError if somebody else wrote it."""
    path = _unit_path(layout)
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        return None
    if not text.startswith(_MARK):
        raise ConfigError(f"{path} is not virtfleet's: its first line says otherwise", "rename it")
    return text


def _running_version(path: str) -> str | None:
    """Return the version that the process named in a pid file runs on, None if it is gone."""
    try:
        with open(path, "rb") as file:
            note = json.loads(file.read(_PID_LIMIT).decode())
    except (OSError, ValueError):
        return None
    who = Identity.from_dict(note)
    if who is None or not alive(who):
        return None
    version = note.get("helper")
    return version if isinstance(version, str) else None


def running(layout: Layout) -> dict[str, tuple[str, ...]]:
    """Return the versions that guests run on, each with the guests' names."""
    found: dict[str, list[str]] = {}
    for name in layout.names():
        version = _running_version(layout.guest(name).pid)
        if version is not None:
            found.setdefault(version, []).append(name)
    return {version: tuple(names) for version, names in found.items()}


def observe(layout: Layout) -> Observed:
    """Read what is there; ConfigError where something of another owner stands in our place."""
    versions = _versions(layout)
    return Observed(
        versions=versions,
        usable=frozenset(version for version in versions if _is_usable(layout, version)),
        command=_command(layout),
        unit=_unit(layout),
        running=running(layout),
        guests=tuple(layout.names()),
    )


def desire(state: str, version: str | None, *, systemd: bool) -> Desired:
    """Return what ``state`` asks for; the unit is wanted where systemd supervises."""
    if state == ABSENT:
        return Desired(None, None)
    if version is None or not _DIGEST.fullmatch(version):
        raise ConfigError(f"expected the SHA-256 of the helper's archive, found {version!r}")
    return Desired(version, UNIT_TEXT if systemd else None)


def _step(order: int, kind: str, path: str, before: str | None, after: str | None) -> list[Step]:
    """Return the step that brings one value from ``before`` to ``after``, if it takes one."""
    if before == after:
        return []
    action = "create" if before is None else "delete" if after is None else "update"
    reason = {
        "create": "it is not there",
        "update": f"its {path} differs",
        "delete": "the helper is to be absent",
    }[action]
    return [Step(order, action, kind, reason, ((path, before, after),))]


def plan(desired: Desired, observed: Observed) -> list[Step]:
    """Return the steps from one to the other; ConfigError if guests need what is to go."""
    wanted = desired.version
    if wanted is None and observed.guests:
        names = ", ".join(observed.guests)
        raise ConfigError(
            f"guests need the helper, it cannot be taken away: {names}",
            "remove them first (kvm_guests with state: absent)",
        )
    steps: list[Step] = []
    if wanted is not None and wanted not in observed.usable:
        if wanted in observed.versions:
            reason = f"it is not compiled for {sys.implementation.cache_tag}"
            steps.append(Step(1, "update", f"helper/{wanted}", reason))
        else:
            steps.append(Step(1, "create", f"helper/{wanted}", "it is not there"))
    # Going up, the version comes before what points at it; going away it is the other way round.
    steps += _step(2, f"command/{_SCRIPT}", "version", observed.command, wanted)
    if wanted is None or desired.unit is not None:
        steps += _step(2, f"unit/{UNIT}", "content", observed.unit, desired.unit)
    for version in sorted(observed.versions - {wanted} - set(observed.running)):
        reason = "the helper is to be absent" if wanted is None else "no guest runs on it"
        steps.append(Step(3, "delete", f"helper/{version}", reason))
    return steps


def outdated(desired: Desired, observed: Observed) -> dict[str, tuple[str, ...]]:
    """Return the older versions that stay because guests run on them, with the guests' names."""
    return {
        version: names for version, names in observed.running.items() if version != desired.version
    }


def needs_archive(steps: list[Step]) -> bool:
    """Return whether a step unpacks the archive."""
    return any(step.order == 1 for step in steps)


def _shebang() -> bytes:
    # -E -s -S: neither the caller's environment nor installed packages have a say, and it starts
    # sooner without looking for them.
    return f"#!{interpreter()} -EsS\n".encode()


def _write(path: str, content: bytes, mode: int = _READABLE) -> None:
    """Write a file, on the disk when this returns."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(path, flags, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _compile(folder: str, name: str, final: str) -> None:
    """Compile a source file; its bytecode is never checked against it, as neither ever changes."""
    import py_compile  # only an installation needs it

    py_compile.compile(
        os.path.join(folder, name),
        dfile=os.path.join(final, name),
        doraise=True,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


def _unpack(layout: Layout, version: str, archive: bytes) -> None:
    """Make the version's folder out of the archive, whole or not at all."""
    import zipfile  # only an installation needs it

    found = hashlib.sha256(archive).hexdigest()
    if found != version:
        raise InputFileError(f"the archive was damaged on its way: expected {version}, has {found}")
    os.makedirs(layout.helpers, exist_ok=True)
    final = os.path.join(layout.helpers, version)
    unfinished = os.path.join(layout.helpers, f".{version}.new")
    os.mkdir(unfinished)
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        for name in source.namelist():
            content = source.read(name)
            if name == "__main__.py":
                path = os.path.join(unfinished, _SCRIPT)
                _write(path, _shebang() + content, _EXECUTABLE)
            else:
                path = os.path.join(unfinished, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                _write(path, content)
                _compile(unfinished, name, final)
    if os.path.isdir(final):
        os.rename(final, os.path.join(layout.helpers, f".{version}.old"))
    os.rename(unfinished, final)
    shutil.rmtree(os.path.join(layout.helpers, f".{version}.old"), ignore_errors=True)


def _point(layout: Layout, version: str) -> None:
    """Let the command be this version, without a moment in which there is none."""
    folder = os.path.dirname(layout.command)
    os.makedirs(folder, exist_ok=True)
    # A relative link holds in an image that is built below another root, too.
    target = os.path.join(os.path.realpath(layout.helpers), version, _SCRIPT)
    unfinished = f"{layout.command}.new"
    if os.path.lexists(unfinished):
        os.unlink(unfinished)
    os.symlink(os.path.relpath(target, os.path.realpath(folder)), unfinished)
    os.rename(unfinished, layout.command)


def _write_unit(layout: Layout, text: str | None) -> None:
    path = _unit_path(layout)
    if text is None:
        os.unlink(path)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    _write(f"{path}.new", text.encode())
    os.rename(f"{path}.new", path)


def _sweep(layout: Layout) -> None:
    """Remove what a run that was interrupted left behind."""
    if os.path.isdir(layout.helpers):
        for entry in os.listdir(layout.helpers):
            if entry.startswith("."):
                shutil.rmtree(os.path.join(layout.helpers, entry))


def _remove(layout: Layout, version: str) -> None:
    """Remove a version unless a guest was started on it meanwhile; last, the empty folders."""
    if version in running(layout):
        return
    hidden = os.path.join(layout.helpers, f".{version}.old")
    os.rename(os.path.join(layout.helpers, version), hidden)
    shutil.rmtree(hidden)
    _prune(layout.helpers, ("helper", "virtfleet"))


def _prune(folder: str, names: tuple[str, ...]) -> None:
    """Remove the folder, and those above it of these names, as long as they are empty."""
    while os.path.basename(folder) in names and not os.listdir(folder):
        try:
            os.rmdir(folder)
        except OSError:  # what is mounted stays
            return
        folder = os.path.dirname(folder)


def _carry_out(layout: Layout, desired: Desired, step: Step, archive: bytes | None) -> None:
    kind = step.object.partition("/")[0]
    if kind == "unit":
        _write_unit(layout, desired.unit)
    elif kind == "command" and desired.version is None:
        os.unlink(layout.command)
    elif kind == "command":
        _point(layout, str(desired.version))
    elif step.action == "delete":
        _remove(layout, step.name)
    elif archive is None:
        raise InputFileError(f"version {step.name} is not here and no archive was given")
    else:
        _unpack(layout, step.name, archive)


def apply(
    layout: Layout,
    desired: Desired,
    steps: list[Step],
    archive: bytes | None,
    reload: Callable[[], Any],
) -> None:
    """Carry out the steps; ``reload`` makes systemd read its units again.

    One run at a time: it begins by removing what an interrupted one left unfinished.
    """
    before = os.umask(_UMASK)
    try:
        _sweep(layout)
        for step in sorted(steps, key=lambda step: step.order):
            _carry_out(layout, desired, step, archive)
            if step.name == UNIT:
                reload()
    finally:
        os.umask(before)

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a guest that is declared on this host: ``kvm-helper serve NAME``.

As root it reads the definition, records who runs the guest, makes the control socket and opens
/dev/kvm and the images. Then it becomes the guest's own unprivileged user, and only after that is
anything of the guest looked at.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from contextlib import ExitStack, suppress
from typing import Any, Callable

from . import privileges, process, records
from .builder import Machine, MachineConfig
from .console import Console, Log
from .cpu import host_brand
from .device import DEVICE, Kvm
from .errors import EXIT_INTERNAL, EXIT_OK, ConfigError, HostError, InputFileError, KvmError
from .layout import FIRST_UID, UID_MASK, GuestPaths, Layout, read_untrusted
from .loader import open_kernel, read_image
from .runner import Outcome, Runner
from .server import ControlServer

_DEFINITION_LIMIT = 256 * 1024  # bytes
_MINIMUM_LOG = 4096  # bytes
_LEAST_VALUES = (("memory", 1), ("vcpus", 1), ("log_max_size", _MINIMUM_LOG), ("log_keep", 0))
_LAST_UID = FIRST_UID | UID_MASK


def running_version() -> str | None:
    """Return the digest of the installed helper that this code belongs to, None outside of one."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    folder, name = os.path.split(os.path.dirname(package))
    return name if os.path.basename(folder) == "helper" else None


def _integer(message: dict[str, Any], key: str, least: int) -> int:
    value = message[key]
    if type(value) is not int or value < least:
        raise ValueError(f"{key} must be a whole number of at least {least}")
    return value


def _check(definition: dict[str, Any], name: str) -> None:
    """Raise ValueError, or KeyError for what is missing, unless the guest can be built."""
    if definition["name"] != name:
        raise ValueError(f"it is of the guest {definition['name']!r}")
    machine = definition["machine"]
    for key, least in _LEAST_VALUES:
        _integer(machine, key, least)
    if not FIRST_UID <= _integer(machine, "uid", 0) <= _LAST_UID:
        raise ValueError(f"uid {machine['uid']} is not a guest's")
    for key in ("kernel", "cmdline", "initrd"):
        may_be_null = key == "initrd" and machine[key] is None
        if not may_be_null and not isinstance(machine[key], str):
            raise TypeError(f"{key} must be text")


def read_definition(paths: GuestPaths) -> dict[str, Any]:
    """Return the guest's definition; InputFileError if there is none, ConfigError if it is bad."""
    try:
        definition = json.loads(read_untrusted(paths.definition, _DEFINITION_LIMIT).decode())
        _check(definition, paths.name)
    except OSError as error:
        raise InputFileError(
            f"there is no guest {paths.name}: {error.strerror or error}"
        ) from error
    except KeyError as error:
        raise ConfigError(f"{paths.definition} lacks {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{paths.definition} is not a guest's definition: {error}") from error
    return definition  # type: ignore[no-any-return]


class Readiness:
    """Tells whoever started this process that the guest runs, or why it does not."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def ready(self) -> None:
        """Say that the first vCPU has been entered."""
        self._tell(b"ready\n")
        address = os.environ.get("NOTIFY_SOCKET", "")
        if address:
            # sd_notify(3): a datagram; an address that begins with @ is an abstract one.
            # Where nobody receives it, the guest runs all the same.
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
                notifier.sendto(b"READY=1", address.replace("@", "\0", 1))

    def failed(self, reason: str) -> None:
        """Say why the guest does not run."""
        self._tell(b"error: " + reason.replace("\n", " ").encode() + b"\n")

    def _tell(self, line: bytes) -> None:
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, line)
            os.close(self._descriptor)
        except OSError:
            pass  # whoever started us is gone; the guest runs all the same
        self._descriptor = None


def _lock(paths: GuestPaths) -> int:
    """Hold the guest's folder for as long as this process lives; ConfigError if another does."""
    descriptor = os.open(paths.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ConfigError(f"guest {paths.name} is already running") from error
    return descriptor


def _listen(paths: GuestPaths) -> socket.socket:
    """Return the listening control socket, for root alone; one left over is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(paths.run, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = os.umask(0o177)
    try:
        if os.path.lexists(paths.control):
            os.unlink(paths.control)
        # Through the folder's descriptor, because an address holds only 107 bytes (unix(7)).
        listener.bind(f"/proc/self/fd/{folder}/{os.path.basename(paths.control)}")
        listener.listen(8)
    except OSError as error:
        listener.close()
        raise HostError(f"cannot listen at {paths.control}: {error.strerror}") from error
    finally:
        os.umask(mask)
        os.close(folder)
    listener.setblocking(False)
    return listener


def _handlers(
    runner: Runner, log: Log, definition: dict[str, Any]
) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
    machine = runner.machine

    def status(_: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": definition["name"],
            "state": "running",
            "pid": os.getpid(),
            "uptime": time.monotonic() - runner.started,
            "vcpus": machine.config.vcpus,
            "memory": machine.config.memory,
            "exits": runner.counts(),
            "log": {"size": log.size, "dropped": log.dropped, "error": log.error},
            "helper": running_version(),
            "definition": definition.get("digest"),
        }

    def stop(_: dict[str, Any]) -> dict[str, Any]:
        runner.finish(Outcome(EXIT_OK, "stopped on request"))
        return {}

    def change(message: dict[str, Any]) -> dict[str, Any]:
        max_size = _integer(message, "log_max_size", _MINIMUM_LOG)
        log.max_size, log.keep = max_size, _integer(message, "log_keep", 0)
        return {}

    return {"status": status, "stop": stop, "set": change}


def _open_as_root(
    paths: GuestPaths, stack: ExitStack, machine: dict[str, Any], device: str
) -> tuple[socket.socket, Kvm, MachineConfig]:
    """Open what only root may open."""
    listener = stack.enter_context(_listen(paths))
    kvm = stack.enter_context(Kvm(device))
    initrd = machine["initrd"]
    config = MachineConfig(
        kernel=open_kernel(machine["kernel"]),
        memory=machine["memory"],
        vcpus=machine["vcpus"],
        cmdline=machine["cmdline"],
        initrd=read_image(initrd) if initrd else None,
        brand=host_brand(),
    )
    return listener, kvm, config


def serve(name: str, root: str = "/", notify: int | None = None, device: str = DEVICE) -> Outcome:
    """Run the guest ``name`` until it ends and return the outcome, which is kept in last-exit.json.

    Raises KvmError, after telling whoever waits at ``notify``, if it cannot be started.
    """
    paths = Layout(root).guest(name)
    readiness = Readiness(notify)
    started = time.time()
    dropped = False
    with ExitStack() as stack:
        try:
            definition = read_definition(paths)
            machine = definition["machine"]
            stack.callback(os.close, _lock(paths))
            _record_process(paths, definition)
            try:
                opened = _open_as_root(paths, stack, machine, device)
            finally:
                privileges.drop(machine["uid"])
                dropped = True
            return _run(paths, definition, opened, readiness, started)
        except Exception as error:
            if dropped:  # before that, the guest's folder is not ours to write in
                status = error.status if isinstance(error, KvmError) else EXIT_INTERNAL
                outcome = Outcome(status, str(error))
                records.write_exit(paths, outcome, started, running_version())
            readiness.failed(str(error))
            raise


def _record_process(paths: GuestPaths, definition: dict[str, Any]) -> None:
    who = process.identity(os.getpid())
    assert who is not None  # noqa: S101 - this process exists
    record = {**who.to_dict(), "helper": running_version(), "definition": definition.get("digest")}
    try:
        os.makedirs(paths.run, mode=0o755, exist_ok=True)
        records.write_atomically(paths.pid, record)
    except OSError as error:
        raise HostError(f"cannot write {paths.pid}: {error.strerror}") from error


def _run(
    paths: GuestPaths,
    definition: dict[str, Any],
    opened: tuple[socket.socket, Kvm, MachineConfig],
    readiness: Readiness,
    started: float,
) -> Outcome:
    listener, kvm, config = opened
    machine = definition["machine"]
    log = Log(paths.log, machine["log_max_size"], machine["log_keep"])
    console = Console(log)
    try:
        with Machine(kvm, config, console.write) as built:
            runner = Runner(built)
            handlers = _handlers(runner, log, definition)
            ControlServer(listener, runner, console, built.serial, handlers)
            outcome = runner.run(on_start=readiness.ready)
    finally:
        log.close()
    records.write_exit(paths, outcome, started, running_version())
    return outcome

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a guest that is declared on this host: ``kvm-helper serve NAME``.

As root it reads the definition, records who runs the guest, makes the control socket and opens
/dev/kvm, the images and what the devices stand on. Then it shuts itself into the guest's jail
(jail.py), and only after that is anything of the guest looked at. A guest that is reset gets a new
machine in the same process, over what was opened once.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Sequence

from . import attach, process, records
from .builder import Machine, MachineConfig, runs_natively
from .console import Channel, Console, Log, Nowhere
from .cpu import host_brand
from .definition import Life, life, read_definition
from .device import DEVICE, Kvm
from .errors import EXIT_INTERNAL, EXIT_TIMEOUT, ConfigError, HostError, KvmError
from .jail import Jail, open_folder
from .layout import GuestPaths, Layout
from .loader import open_kernel, read_image
from .memory import check_pages
from .metrics import Footprint, Milestones
from .notify import Readiness
from .operations import RESET, Operations
from .runner import Outcome, Runner
from .server import ControlServer

if TYPE_CHECKING:
    from .attach import Attachment
    from .definition import Tuning
    from .ports import Ports
    from .watchdog import Watchdog

_SERIAL = "serial"  # the name under which the serial port is attached to
_BY_WATCHDOG = Outcome(EXIT_TIMEOUT, "the watchdog ran out")
_RESET_BY_WATCHDOG = _BY_WATCHDOG._replace(reset=True)


def running_version() -> str | None:
    """Return the digest of the installed helper that this code belongs to, None outside of one."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    folder, name = os.path.split(os.path.dirname(package))
    return name if os.path.basename(folder) == "helper" else None


def _lock(paths: GuestPaths) -> int:
    """Hold the guest's folder for as long as this process lives; ConfigError if another does."""
    descriptor = open_folder(paths.folder)
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


class _Opened(NamedTuple):
    """What only root may open, and what has to be loaded by then."""

    listener: socket.socket
    kvm: Kvm
    config: MachineConfig
    attachments: Sequence[Attachment]
    footprint: Footprint
    life: Life
    watchdog: type[Watchdog] | None


def _open_as_root(
    paths: GuestPaths, stack: ExitStack, machine: dict[str, Any], device: str
) -> _Opened:
    """Open what only root may open."""
    listener = stack.enter_context(_listen(paths))
    kvm = stack.enter_context(Kvm(device))
    initrd = machine["initrd"]
    kernel = open_kernel(machine["kernel"])
    attachments = attach.open_all(machine)
    stack.callback(attach.close_all, attachments)
    config = MachineConfig(
        kernel=kernel,
        memory=machine["memory"],
        vcpus=machine["vcpus"],
        cmdline=machine["cmdline"],
        initrd=read_image(initrd) if initrd else None,
        brand=host_brand(),
        native=runs_natively(kvm),
    )
    config = attach.equip(config, machine, attachments)
    check_pages(config.memory, config.backing)
    footprint = Footprint()
    stack.callback(footprint.close)
    lived = life(machine)
    dog: type[Watchdog] | None = None
    if lived.watch_from_start is not None:
        from . import watchdog  # most guests have none

        dog = watchdog.Watchdog
    return _Opened(listener, kvm, config, attachments, footprint, lived, dog)


def _tune(tuning: Tuning, vcpus: int) -> dict[int, frozenset[int]]:
    """Set where this process runs and how nice it is; return where its vCPUs run.

    ConfigError where the host has not the CPUs.
    """
    here = os.sched_getaffinity(0)
    pins = dict(tuning.vcpu_pins)
    for cpus in (*pins.values(), tuning.emulator_pin or ()):
        missing = sorted(set(cpus) - here)
        if missing:
            raise ConfigError(
                f"cpu_tuning asks for the CPUs {', '.join(map(str, missing))}, this process may use"
                f" {', '.join(map(str, sorted(here)))}"
            )
    if tuning.emulator_pin:
        pins = {index: pins.get(index, frozenset(here)) for index in range(vcpus)}
        os.sched_setaffinity(0, tuning.emulator_pin)
    if tuning.nice:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, tuning.nice)
        except OSError as error:
            raise HostError(f"cannot set nice {tuning.nice}: {error.strerror}") from error
    return pins


def serve(name: str, root: str = "/", notify: int | None = None, device: str = DEVICE) -> Outcome:
    """Run the guest ``name`` until it ends and return the outcome, which is kept in last-exit.json.

    Raises KvmError, after telling whoever waits at ``notify``, if it cannot be started.
    """
    paths = Layout(os.path.abspath(root)).guest(name)
    version = running_version()
    started = time.time()
    confined: dict[str, Any] | None = None
    with ExitStack() as stack:
        readiness = Readiness(notify)
        stack.callback(readiness.close)
        try:
            definition = read_definition(paths)
            machine = definition["machine"]
            stack.callback(os.close, _lock(paths))
            milestones = Milestones(_record_process(paths, definition, version))
            jail = Jail(machine["uid"], paths.state, paths.run)
            devices = 0
            try:
                opened = _open_as_root(paths, stack, machine, device)
                devices = len(opened.attachments)
                pins = _tune(opened.life.tuning, machine["vcpus"])
                milestones.reach("opened")
            finally:
                confined = jail.enter(machine["vcpus"], devices)
            milestones.reach("confined")
            about = {
                "name": definition["name"],
                "helper": version,
                "definition": definition.get("digest"),
                "jail": confined,
            }
            guest = _Guest(paths, machine, opened, milestones)
            outcome = guest.run(about, pins, readiness)
        except Exception as error:
            if confined is not None:  # before that, the guest's folder is not ours to write in
                status = error.status if isinstance(error, KvmError) else EXIT_INTERNAL
                records.write_exit(paths, Outcome(status, str(error)), started, version)
            readiness.failed(str(error))
            raise
        records.write_exit(paths, outcome, started, version)
        return outcome


def _record_process(paths: GuestPaths, definition: dict[str, Any], version: str | None) -> int:
    """Record who runs the guest; return when this process was started, in ticks since boot."""
    who = process.identity(os.getpid())
    assert who is not None  # noqa: S101 - this process exists
    record = {**who.to_dict(), "helper": version, "definition": definition.get("digest")}
    try:
        os.makedirs(paths.run, mode=0o755, exist_ok=True)
        records.write_atomically(paths.pid, record)
    except OSError as error:
        raise HostError(f"cannot write {paths.pid}: {error.strerror}") from error
    return who.start


class _Guest:
    """The guest in its jail: its machines, one after the other, and what outlives them."""

    def __init__(
        self,
        paths: GuestPaths,
        machine: dict[str, Any],
        opened: _Opened,
        milestones: Milestones,
    ) -> None:
        self._opened = opened
        self._life = opened.life
        self._milestones = milestones
        self._watchdog: Watchdog | None = None
        self._runner: Runner | None = None
        self._operations: Operations | None = None
        self._config = opened.config
        if opened.watchdog is not None and self._life.watch_from_start is not None:
            self._watchdog = opened.watchdog(self._life.watch_from_start, self._fire)
            self._config = self._config._replace(functions=[self._watchdog.make])
        self._log = Log(paths.log, machine["log_max_size"], machine["log_keep"])
        self._console = Console(self._log)
        self._ports: Ports | None = None
        for attachment in opened.attachments:
            self._ports = attachment.ports or self._ports
        self._serial = Channel(_SERIAL, self._console)
        self._channels = [self._serial]
        if self._ports:
            self._channels += self._ports.channels
            if self._ports.leads:
                # The log and whoever attaches without naming a port get the virtio console.
                first = self._ports.channels[0]
                self._serial.console, first.console = Console(Nowhere()), self._console
                self._channels[:2] = [first, self._serial]

    def _build(self) -> Machine:
        return Machine(self._opened.kvm, self._config, self._serial.console.write)

    def run(
        self, about: dict[str, Any], pins: dict[int, frozenset[int]], readiness: Readiness
    ) -> Outcome:
        """Run the guest to its end."""
        try:
            runner = self._runner = Runner(self._build())
            self._milestones.reach("built")
            runner.grace, runner.pins = self._life.stop_timeout, pins
            runner.again, runner.on_stopping = self._again, readiness.stopping
            operations = self._operations = Operations(runner, self._log, about)
            operations.watchdog, operations.ports = self._watchdog, self._ports
            operations.footprint = self._opened.footprint
            operations.milestones = partial(self._milestones.tell, runner, self._console)
            self._serial.receive = self._type
            ControlServer(self._opened.listener, runner, self._channels, operations.all())
            if self._watchdog:
                self._watchdog.watch(runner)
            try:
                return runner.run(on_start=readiness.ready)
            finally:
                if not runner.stuck:  # nothing may be taken from under a thread that still runs
                    runner.machine.close()
        finally:
            self._log.close()

    def _type(self, data: bytes) -> int:
        """Give input to the serial port of the present machine."""
        return self._runner.machine.serial.receive(data) if self._runner else 0

    def _fire(self) -> None:
        """End the machine, whose guest has not been heard of in time."""
        if self._runner:
            if self._life.watchdog_resets:
                self._runner.finish(_RESET_BY_WATCHDOG)
            else:
                self._runner.finish(_BY_WATCHDOG, for_good=True)

    def _again(self, outcome: Outcome) -> Machine | None:
        """Return the machine that follows one that was reset, None where none shall.

        Who asked for the reset at the host gets it, whatever the guest's own resets mean.
        """
        if not self._life.restarts and outcome not in {RESET, _RESET_BY_WATCHDOG}:
            return None
        assert self._runner is not None  # noqa: S101 - it is the one that asks
        assert self._operations is not None  # noqa: S101 - and what it runs for
        self._operations.past.add(self._runner.machine)
        self._runner.machine.close()
        self._console.began = None
        return self._build()

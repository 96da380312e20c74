# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One host of a lab: power, reset, faults, and what runs on it over SSH."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from . import build, bytecode, emulator, images, processes, qemu, qmp
from . import identity as identities
from .log import say, step
from .recipe import recipe

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from .description import HostSpec
    from .ssh import Ssh

BOOT_PATIENCE = 600.0  # seconds; a loaded machine takes several times what an idle one does
RESTORE_PATIENCE = 120.0
_SNAPSHOT_FORMAT = 1  # of what a saved host consists of
_ON_THE_WAY = {"off", "starting", "inmigrate", "prelaunch", "restore-vm"}
_BOOTS = 3  # how often a host is booted that panics
_PANIC = "Kernel panic - not syncing"
_TAIL = 20  # lines of the console that a message shows


class HostError(Exception):
    """A host does not do what it shall; the message names it and shows the end of its console."""


class PanicError(HostError):
    """A host's kernel has panicked."""


class Host:
    """A host in its folder. Its state is asked, never remembered."""

    def __init__(self, folder: Path, spec: HostSpec, name: str, index: int, ssh: Ssh) -> None:
        self.folder = folder
        self.spec = spec
        self.name = name
        self.identity = identities.Identity(name, index, spec.release)
        self.recipe = recipe(spec.release, spec.image)
        self.ssh = ssh
        self.image = images.cache() / "images" / self.recipe.name

    # --- state

    @property
    def monitor(self) -> Path:
        """QEMU's monitor socket."""
        return self.folder / qemu.MONITOR

    def state(self) -> str:
        """Return "absent", "off", "running", "paused" or what else QEMU calls it."""
        if not (self.folder / qemu.DISK).exists():
            return "absent"
        if processes.running(self.folder) is None:
            return "off"
        try:
            return str(qmp.call(self.monitor, "query-status", 5.0)["status"])
        except qmp.QmpError:
            return "starting"

    def port(self) -> int:
        """Return the port on loopback that leads to the host's SSH."""
        text = qmp.human(self.monitor, "info usernet")
        found = re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", text)
        if not found:
            raise HostError(f"{self.name}: nothing leads to its SSH:\n{text}")
        return int(found.group(1))

    def console(self) -> str:
        """Return what the host printed on its serial console."""
        with suppress(OSError):
            return (self.folder / qemu.CONSOLE).read_text(errors="replace")
        return ""

    def host_key(self) -> str:
        """Return the public host key that the lab itself put there."""
        return (self.folder / "host_key.pub").read_text().strip()

    def _failure(self, message: str) -> HostError:
        tail = "\n".join(self.console().splitlines()[-_TAIL:])
        output = self._emulator_said()
        return HostError(f"{self.name}: {message}\n{output}\nthe end of its console:\n{tail}")

    def _emulator_said(self) -> str:
        with suppress(OSError):
            lines = (self.folder / "qemu.log").read_text(errors="replace").splitlines()
            return "\n".join(line for line in lines[-_TAIL:] if "TCG doesn't" not in line)
        return ""

    def crashed(self) -> str | None:
        """Return what the emulator said where it has ended by itself, None where it has not."""
        ended = processes.recorded(self.folder) and processes.running(self.folder) is None
        return self._emulator_said() if ended else None

    # --- power

    def up(self) -> None:
        """Bring the host to its booted state: from its snapshot where it has one."""
        if self.state() == "running" and self._answers():
            return
        self.power_off()
        if self._restore_copy():
            return
        if not self.spec.can_snapshot:
            self.cold_boot(fresh=True)
            return
        # Another lab may be about to keep the same host: this one waits, and then finds it.
        with images.alone(self._saved().name):
            if self._restore_copy():
                return
            self.cold_boot(fresh=True)
            if self.spec.image == "ready":
                self._compile()
            self._save()
            if not self._restore_copy():
                raise self._failure("its snapshot is gone again")

    def cold_boot(self, *, fresh: bool) -> None:
        """Power on and wait until the host answers; ``fresh`` from its base image."""
        if fresh:
            self.lay_out()
        with step(f"{self.name}: booting ({self.recipe.release}, {self.spec.image})"):
            for left in range(_BOOTS - 1, -1, -1):
                self._start(restore=False)
                try:
                    self.wait(BOOT_PATIENCE)
                except PanicError:
                    # Where the machine is busy, the kernel finds that ten ticks of its timer are
                    # late, and behind an IOMMU it panics of that before it has done anything.
                    if not left:
                        raise
                    self.power_off()
                else:
                    return

    def lay_out(self) -> None:
        """Make the host's folder anew: its disks, its keys, what makes it itself."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        public = identities.make_key(self.folder / "host_key", self.name)
        (self.folder / qemu.IDENTITY).write_bytes(
            identities.archive(
                self.identity, self.folder / "host_key", public, self.ssh.public_key()
            )
        )
        create = ["qemu-img", "create", "-q", "-f", "qcow2"]
        backing = ["-F", "qcow2", "-b", str(self.image / "disk.qcow2")]
        build.run(*create, *backing, str(self.folder / qemu.DISK))
        for number, size in enumerate(self.spec.disks, start=1):
            size_iec = size.removesuffix("iB")
            build.run(*create, str(self.folder / qemu.extra_disk(number)), size_iec)

    def _start(self, *, restore: bool) -> None:
        for name in (qemu.MONITOR, "qemu.log"):
            (self.folder / name).unlink(missing_ok=True)
        line = qemu.arguments(self.spec, self.identity, self.image, restore=restore)
        processes.start(self.folder, [*emulator.program(), *line], self.folder / "qemu.log")
        give_up = time.monotonic() + RESTORE_PATIENCE
        while (state := self.state()) in {
            "off",
            "starting",
            "inmigrate",
            "prelaunch",
            "restore-vm",
        }:
            if state == "off":
                raise self._failure("QEMU has ended")
            if time.monotonic() > give_up:
                raise self._failure("QEMU does not answer")
            time.sleep(0.05)
        self.ssh.know(self.name, self.port(), self.host_key())

    def power_off(self) -> None:
        """Take the power away, as a broken supply does."""
        self.ssh.forget_connections(self.name)
        processes.end(self.folder)

    def wait(self, patience: float) -> None:
        """Wait until the host answers over SSH and has come up; HostError if it does not."""
        give_up = time.monotonic() + patience
        while not self._answers():
            if processes.running(self.folder) is None:
                raise self._failure("it went off while it was waited for")
            if _PANIC in self.console():
                raise PanicError(str(self._failure("its kernel panicked")))
            if time.monotonic() > give_up:
                raise self._failure(f"no answer over SSH within {patience:.0f} s")
            time.sleep(0.5)
        left = max(give_up - time.monotonic(), 10)
        done = self.run("systemctl is-system-running --wait", patience=left, check=False)
        if done.stdout.strip() not in {"running", "degraded"}:
            raise self._failure(f"systemd says it is {done.stdout.strip() or 'away'}")
        # systemd does not count the devices that udev has still to bring up.
        self.run("udevadm settle", patience=150, check=False)

    def _answers(self) -> bool:
        """Say whether SSH greets; a full login follows only then."""
        try:
            with socket.create_connection(("127.0.0.1", self.port()), timeout=5) as link:
                link.settimeout(5)
                if not link.recv(64).startswith(b"SSH-"):
                    return False
        except (OSError, qmp.QmpError, HostError):
            return False
        return self.run("true", patience=60, check=False).returncode == 0

    # --- snapshots

    def _saved(self) -> Path:
        """Return where this very host is kept, booted, for all labs."""
        version = build.run(*emulator.program(), "--version").splitlines()[0]
        line = qemu.arguments(self.spec, self.identity, self.image, restore=False)
        parts = [_SNAPSHOT_FORMAT, self.recipe.digest, asdict(self.spec), version, line]
        parts.append(self.ssh.public_key())
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        return images.cache() / "snapshots" / f"{self.name}-{digest}"

    def _compile(self) -> None:
        """Let the host compile beforehand what Ansible will send it, for every run to come."""
        with step(f"{self.name}: compiling what Ansible sends"):
            self.run(bytecode.COMMAND, stdin=bytecode.sources())

    def _save(self) -> None:
        """Keep the booted host, disks and memory, and power it off."""
        with step(f"{self.name}: saving it as it is now"):
            self.ssh.forget_connections(self.name)
            self.run("sync")
            self.ssh.forget_connections(self.name)
            qmp.human(self.monitor, f"savevm {qemu.SNAPSHOT}")
            qmp.call(self.monitor, "quit")
            processes.end(self.folder, grace=60)
            place = self._saved()
            place.parent.mkdir(parents=True, exist_ok=True)
            part = place.with_name(f"{place.name}.{time.time_ns()}.part")
            shutil.copytree(self.folder, part, ignore=_transient)
            shutil.rmtree(place, ignore_errors=True)
            part.rename(place)
            images.forget_unused(place.parent)

    def _restore_copy(self) -> bool:
        """Continue from the kept snapshot; False where there is none."""
        place = self._saved()
        if not self.spec.can_snapshot or not (place / qemu.DISK).exists():
            return False
        with step(f"{self.name}: continuing from its snapshot"):
            shutil.rmtree(self.folder, ignore_errors=True)
            os.utime(place)
            shutil.copytree(place, self.folder)
            self._start(restore=True)
            self._wake()
        return True

    def _wake(self) -> None:
        """Wait for a restored host and set its clock, which stood still."""
        self.wait(RESTORE_PATIENCE)
        self.run(f"sudo date -u -s @{time.time():.0f} >/dev/null")

    def reset(self) -> None:
        """Take the host back to its booted state, whatever became of it."""
        self.ssh.forget_connections(self.name)
        if self.spec.can_snapshot and self.state() in {"running", "paused"}:
            with step(f"{self.name}: back to its snapshot"):
                self.connect_cable(connected=True)
                self.connect_management(connected=True)
                qmp.human(self.monitor, f"loadvm {qemu.SNAPSHOT}")
                with suppress(qmp.QmpError):
                    qmp.call(self.monitor, "cont")
                self._wake()
            return
        self.power_off()
        self.up()

    # --- faults

    def freeze(self) -> None:
        """Let the host stand still, as one that hangs."""
        qmp.call(self.monitor, "stop")

    def resume(self) -> None:
        """Let a frozen host go on."""
        qmp.call(self.monitor, "cont")

    def connect_cable(self, *, connected: bool) -> None:
        """Plug the network between the hosts in or out."""
        qmp.call(self.monitor, "set_link", name="cable-nic", up=connected)

    def connect_management(self, *, connected: bool) -> None:
        """Plug the network that SSH comes by in or out."""
        qmp.call(self.monitor, "set_link", name="management-nic", up=connected)

    def delay(self, seconds: float) -> None:
        """Hold what comes in on the management network back for up to so long; 0 ends it."""
        path = "/objects/delay"
        if seconds:
            interval = int(seconds * 1e6)
            qmp.call(self.monitor, "qom-set", path=path, property="interval", value=interval)
        status = "on" if seconds else "off"
        qmp.call(self.monitor, "qom-set", path=path, property="status", value=status)

    def fill_disk(self, path: str = "/") -> None:
        """Fill the file system at ``path`` (file .virtlab-full there), what root has kept too."""
        target = f"{path.rstrip('/')}/.virtlab-full"
        # The most of it only by name, as an emulated machine writes gigabytes slowly; the rest
        # byte by byte, as the file system needs some of it to note where the file lies.
        self.run(
            f"sudo sh -c 'free=$(( $(stat -f -c %f*%S {path}) )); rest=$((64 << 20));"
            f" [ $free -le $rest ] || fallocate -l $((free - rest)) {target};"
            f" cat /dev/zero >> {target}'",
            check=False,
        )

    def close_ssh(self) -> None:
        """Close the port that leads to the host's SSH, and what came through it."""
        self.ssh.forget_connections(self.name)
        qmp.human(self.monitor, f"hostfwd_remove management tcp:127.0.0.1:{self.port()}")

    def open_ssh(self) -> None:
        """Open the port again, the one that it was."""
        port = self.ssh.ports()[self.name]
        qmp.human(self.monitor, f"hostfwd_add management tcp:127.0.0.1:{port}-:22")

    # --- work on it

    def run(
        self, command: str, *, patience: float = 300.0, check: bool = True, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command as the lab's user; HostError if it fails and ``check`` is set."""
        done = self.ssh.run(self.name, command, patience=patience, stdin=stdin)
        if check and done.returncode:
            said = (done.stderr.strip() or done.stdout.strip())[-2000:]
            raise HostError(f"{self.name}: {command!r} ended with {done.returncode}: {said}")
        return done

    def out(self, command: str, *, patience: float = 300.0) -> str:
        """Return what a shell command prints, without the white space around it."""
        return self.run(command, patience=patience).stdout.strip()

    def reboot(self, patience: float = BOOT_PATIENCE) -> None:
        """Reboot the host by its own means and wait until it is back."""
        before = self.out("cat /proc/sys/kernel/random/boot_id")
        self.run("sudo systemctl reboot", check=False)
        self.ssh.forget_connections(self.name)
        give_up = time.monotonic() + patience
        while time.monotonic() < give_up:
            done = self.run("cat /proc/sys/kernel/random/boot_id", patience=30, check=False)
            if done.returncode == 0 and done.stdout.strip() != before:
                self.wait(max(give_up - time.monotonic(), 10))
                return
            time.sleep(1.0)
        raise self._failure(f"it did not come back within {patience:.0f} s")


def _transient(folder: str, names: Sequence[str]) -> list[str]:
    del folder
    return [name for name in names if name.endswith((".sock", ".log")) or name == "process"]


def tell(host: Host) -> str:
    """Return a line about the host for people."""
    state = host.state()
    address = f"127.0.0.1:{host.port()}" if state == "running" else "-"
    say(f"{host.name}: {state}")
    return f"{host.name:<16} {state:<10} {host.spec.release:<9} {host.spec.image:<6} {address}"

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The watchdog of a change: applies it, waits for its confirmation, undoes it otherwise.

This file is written into the change's folder and run there as a program of its own, so it imports
nothing of ours. The folder holds ``change.json`` (what to do), ``state.json`` (how far it is, which
only the watchdog writes while it lives) and the requests ``persist`` and ``confirm``, empty files:

    starting → applying → applied → (persist) → persisting → persisted → (confirm) → confirmed
                       any of them but the last → rolling_back → rolled_back

``applied`` and ``persisted`` each last for the change's timeout at most. Files are written in
``persist`` only, so that a reboot before that brings the former network back. Times are seconds of
CLOCK_MONOTONIC and count for one boot.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import Any, Iterator

STARTING, APPLYING, APPLIED = "starting", "applying", "applied"
PERSISTING, PERSISTED, CONFIRMED = "persisting", "persisted", "confirmed"
ROLLING_BACK, ROLLED_BACK = "rolling_back", "rolled_back"
FINAL = (CONFIRMED, ROLLED_BACK)
PERSIST, CONFIRM = "persist", "confirm"  # the requests
_INTERVAL = 0.1
_COMMAND_TIMEOUT = 30.0
_ANSWER_TIMEOUT = 30.0  # until the process that started the change must have answered
_SHOWN = 400

Operation = Any  # {"run": argv, "ok": statuses} or {"write": path, "content": text, "mode": mode}


class FailedError(Exception):
    """An operation failed; the text says which and why."""


def boot_id() -> str:
    """Return this boot's identity."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def start_time(pid: int) -> int | None:
    """Return when a process started, in ticks (proc(5)); None where it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {b"Z", b"X"} else int(fields[19])


def write_file(path: str, content: str, mode: int = 0o600) -> None:
    """Replace a file, making its folder, so that no reader ever sees a part of it."""
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{os.path.basename(path)}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def execute(operation: Operation) -> None:
    """Carry out one operation; FailedError if that cannot be."""
    if "run" in operation:
        _run(operation["run"], operation.get("ok", [0]))
        return
    path = operation["write"]
    try:
        if operation["content"] is not None:
            if _holds(path, operation["content"]):
                return  # a daemon would take a new file for a new configuration
            write_file(path, operation["content"], operation["mode"])
        else:
            with suppress(FileNotFoundError):
                os.unlink(path)
    except OSError as error:
        raise FailedError(f"cannot write {path}: {error.strerror}") from error


def _holds(path: str, content: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read() == content
    except (OSError, ValueError):
        return False


def _run(argv: list[str], accepted: list[int]) -> None:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_COMMAND_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FailedError(f"{' '.join(argv)}: {error}") from error
    if done.returncode not in accepted:
        said = done.stdout.decode("utf-8", "replace").strip()[-_SHOWN:] or "no message"
        raise FailedError(f"{' '.join(argv)} ended with status {done.returncode}: {said}")


@contextmanager
def _noted(errors: list[str]) -> Iterator[None]:
    """Go on after a failure, with a note of it."""
    try:
        yield
    except FailedError as error:
        errors.append(str(error))


class Watch:
    """One change and its folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        with open(self._at("change.json"), encoding="utf-8") as file:
            self.change: dict[str, Any] = json.load(file)
        self._note: dict[str, Any] | None = None

    def _at(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def state(self) -> dict[str, Any]:
        """Return how far the change is: state, since, boot_id, reason, errors."""
        if self._note is not None:
            return self._note
        try:
            with open(self._at("state.json"), encoding="utf-8") as file:
                found = json.load(file)
        except (OSError, ValueError):
            return {"state": STARTING, "since": 0.0, "boot_id": boot_id()}
        return found if isinstance(found, dict) else {}

    def enter(self, state: str, **more: Any) -> None:
        """Note that the change is in another state now."""
        self._note = {"state": state, "since": time.monotonic(), "boot_id": boot_id(), **more}
        with suppress(OSError):  # the network matters more than the note: a full disk stops nothing
            write_file(self._at("state.json"), json.dumps(self._note))

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Yield whether this process is the change's watchdog now; the kernel ends that with it."""
        descriptor = os.open(self._at("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def request(self, name: str) -> None:
        """Ask the watchdog for something."""
        write_file(self._at(name), "")

    def _requested(self, name: str) -> bool:
        return os.path.exists(self._at(name))

    def _operations(self, part: str) -> None:
        for operation in self.change[part]:
            execute(operation)

    def roll_back(self, reason: str) -> None:
        """Bring the former network back: what fails is noted, the rest is done all the same."""
        self.enter(ROLLING_BACK, reason=reason)
        errors: list[str] = []
        for operation in self.change["rollback"]:
            with _noted(errors):
                execute(operation)
        self.enter(ROLLED_BACK, reason=reason, errors=errors)

    def _await_answer(self) -> None:
        """Wait until the process that started the change has answered and ended."""
        starter, end = self.change["starter"], time.monotonic() + _ANSWER_TIMEOUT
        while start_time(starter["pid"]) == starter["start"] and time.monotonic() < end:
            time.sleep(_INTERVAL)
        time.sleep(self.change["delay"])

    def _await(self, name: str, since: float) -> bool:
        """Return whether the request came in time."""
        end = since + self.change["timeout"]
        while not self._requested(name):
            if time.monotonic() >= end:
                return False
            time.sleep(_INTERVAL)
        return True

    def step(self) -> None:
        """Go from the present state to the next one."""
        found = self.state()
        state, since = found["state"], found["since"]
        late = f"it was not confirmed within {self.change['timeout']:g} seconds"
        if state == STARTING:
            self._await_answer()
            self.enter(APPLYING)
            self._operations("apply")
            self.enter(APPLIED)
        elif state == APPLIED:
            if not self._await(PERSIST, since):
                self.roll_back(late)
                return
            self.enter(PERSISTING)
            self._operations("persist")
            self.enter(PERSISTED)
        elif state == PERSISTED:
            if self._await(CONFIRM, since):
                self.enter(CONFIRMED)
            else:
                self.roll_back(late)
        else:
            self.roll_back("the watchdog was interrupted while it worked")

    def run(self) -> None:
        """Watch the change until it is confirmed or undone."""
        while self.state()["state"] not in FINAL:
            errors: list[str] = []
            with _noted(errors):
                self.step()
            if errors:
                self.roll_back(errors[0])


def main(folder: str) -> None:
    """Watch the change in ``folder``, unless somebody does or it began in another boot."""
    watch = Watch(folder)
    with watch.held() as mine:
        if mine and watch.state()["boot_id"] == boot_id():
            watch.run()


if __name__ == "__main__":
    main(sys.argv[1])

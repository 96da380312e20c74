# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change on its way: written down, watched, asked after, and what earlier runs left of one."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Callable, Sequence

from ...converge.errors import VirtfleetError
from ..operation import Run, Write
from . import watch

if TYPE_CHECKING:
    from ..operation import Operation, Runner
    from .plan import ChangePlan

FOLDER = "/var/lib/virtfleet/network"
KEPT = 5  # changes that are over, with what was there before
_DELAY = 0.5  # seconds between the answer's end and the change, for the answer to get away
_ANSWER = 40.0  # seconds that a request may take: applying and writing, with a daemon's reload
_INTERVAL = 0.1
_SCRIPT = "watch.py"

Start = Callable[[str, str], None]  # change id, folder


class UnconfirmedError(VirtfleetError):
    """Another change waits for its confirmation; ``data["busy"]`` says for how many seconds."""


def to_dict(operation: Operation) -> dict[str, Any]:
    """Return an operation as the watchdog reads it."""
    if isinstance(operation, Run):
        return {"run": list(operation.argv), "ok": list(operation.ok)}
    if isinstance(operation, Write):
        return {"write": operation.path, "content": operation.content, "mode": operation.mode}
    raise TypeError(f"no operation of a network change: {operation!r}")


def source() -> str:
    """Return the watchdog's program, wherever Ansible has put it."""
    loader = watch.__spec__.loader if watch.__spec__ else None
    text = loader.get_source(watch.__name__) if loader is not None else None  # type: ignore[attr-defined]
    if not isinstance(text, str):
        raise VirtfleetError("the source of the watchdog did not come with the module")
    return text


def prepare(plan: ChangePlan, timeout: float, folder: str = FOLDER) -> str:
    """Write the change down and return its id; nothing is applied yet."""
    name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"
    own = os.path.join(folder, name)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    os.mkdir(own, 0o700)
    content = {
        "id": name,
        "timeout": timeout,
        "delay": _DELAY,
        "starter": {"pid": os.getpid(), "start": watch.start_time(os.getpid())},
        "actions": [action.to_dict() for action in plan.actions],
        "apply": [to_dict(operation) for operation in plan.apply],
        "persist": [to_dict(operation) for operation in plan.persist],
        "rollback": [to_dict(operation) for operation in plan.rollback],
    }
    watch.write_file(os.path.join(own, _SCRIPT), source())
    watch.write_file(os.path.join(own, "change.json"), json.dumps(content, indent=1))
    watch.Watch(own).enter(watch.STARTING)
    return name


def unit(name: str) -> str:
    """Return the name of the watchdog's unit."""
    return f"virtfleet-network-{name}"


def starter(run: Runner, *, systemd: bool) -> Start:
    """Return what starts a watchdog: as a unit where systemd is the init, else by itself."""

    def with_systemd(name: str, folder: str) -> None:
        argv = ["systemd-run", "--quiet", "--collect", f"--unit={unit(name)}"]
        argv += ["--property=Restart=on-failure", "--property=RestartSec=1"]
        argv += [f"--description=Watches over network change {name}"]
        status, _, error = run([*argv, *_command(folder)])
        if status != 0:
            raise VirtfleetError(f"the watchdog did not start: {error.strip()}")

    def detached(name: str, folder: str) -> None:
        del name
        # setsid(1) forks, so that the watchdog is the child of nobody who waits for it.
        argv = ["setsid", "--fork", *_command(folder)]
        with open(os.path.join(folder, "log"), "wb") as log:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", check=False
            )
        if done.returncode != 0:
            raise VirtfleetError(f"the watchdog did not start: setsid ended with {done.returncode}")

    return with_systemd if systemd else detached


def _command(folder: str) -> list[str]:
    stable = "/usr/bin/python3"  # the name that outlives the session
    return [
        stable if os.path.exists(stable) else sys.executable,
        os.path.join(folder, _SCRIPT),
        folder,
    ]


def _path(name: str, folder: str) -> str:
    path = os.path.join(folder, name)
    if os.path.basename(name) != name or not os.path.isfile(os.path.join(path, "change.json")):
        raise VirtfleetError(f"there is no network change {name} on this host")
    return path


def confirm(
    name: str, *, final: bool, folder: str = FOLDER, timeout: float = _ANSWER
) -> dict[str, Any]:
    """Ask for a change's next state and return the state it is in then.

    Not ``final``, the files are written; final, the watchdog is dismissed. A change that is not
    applied yet is left alone: whoever asks has not come over the new network.
    """
    change = watch.Watch(_path(name, folder))
    request, reached = (watch.CONFIRM, ()) if final else (watch.PERSIST, (watch.PERSISTED,))
    _revive(change)
    found = change.state()
    waiting = watch.PERSISTED if final else watch.APPLIED
    if found["state"] != waiting:
        return found
    change.request(request)
    end = time.monotonic() + timeout
    while found["state"] not in (*watch.FINAL, *reached) and time.monotonic() < end:
        time.sleep(_INTERVAL)
        found = change.state()
    return found


def _revive(change: watch.Watch) -> bool:
    """Undo a change of this boot whose watchdog has gone; return whether it is over."""
    found = change.state()
    if found["state"] in watch.FINAL or found["boot_id"] != watch.boot_id():
        return True
    with change.held() as mine:
        if not mine:
            return False
        # Between starting and its first breath a watchdog holds nothing yet.
        if found["state"] == watch.STARTING and time.monotonic() - found["since"] < _ANSWER:
            return False
        change.roll_back("its watchdog was gone")
    return True


def settle(folder: str = FOLDER) -> None:
    """Finish with what earlier runs left; UnconfirmedError where a watchdog is still at work."""
    for name in sorted(_names(folder)):
        try:
            change = watch.Watch(os.path.join(folder, name))
        except (OSError, ValueError):
            continue  # killed while it was written: nothing had begun
        if not _revive(change):
            seconds = _left(change)
            raise UnconfirmedError(
                f"the network change {name} is not confirmed: it will be undone in about"
                f" {seconds:.0f} seconds",
                remedy="wait for that, then run again",
                busy=seconds,
            )


def _left(change: watch.Watch) -> float:
    since: float = change.state()["since"]
    passed = time.monotonic() - since
    timeout: float = change.change["timeout"]
    return max(1.0, timeout - passed)


def _names(folder: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if os.path.isdir(os.path.join(folder, name))]
    except FileNotFoundError:
        return []


def prune(folder: str = FOLDER) -> None:
    """Remove old changes, but for the last ones."""
    names: Sequence[str] = sorted(_names(folder))
    for name in names[: max(0, len(names) - KEPT)]:
        shutil.rmtree(os.path.join(folder, name), ignore_errors=True)

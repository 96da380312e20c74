# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ioctl engine: reads guests from their folders, and carries out what was planned.

All that touches the host is passed in: the layout below a root, who starts and stops processes, the
KVM device. Nothing is written but a guest's own folder and the lock of the host.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Protocol,
    Sequence,
)

from ...converge.action import NEXT_BOOT
from ...converge.errors import Problem, system_says
from ...kvm.control import request
from ...kvm.errors import ControlError, KvmError
from ...kvm.process import Identity
from ...seed.store import SeedError, Seeds
from ...units import parse_size
from ..engine import FAILED, STOPPED, Failure, Host, Observed, former_name
from ..spec import WAS
from . import definition, images, seeding, store, waiting
from .detached import ANSWER_TIMEOUT, Failures
from .dialect import ENGINE, OWN_KERNEL, IoctlDialect, Limits, machine, moment
from .observe import observe, read_console, read_definition, renamed_from, running_process
from .preflight import check_device, check_devices, check_helper, check_kernels

if TYPE_CHECKING:
    from ...converge.action import Action
    from ...kvm.layout import GuestPaths, Layout
    from ..spec import Declared

Specs = Mapping[str, Mapping[str, Any]]
_BOOTING = ("create", "start", "restart")


class Supervisor(Protocol):
    """Who starts and stops the processes of guests."""

    supervised: bool

    def autostarted(self) -> Collection[str] | None:
        """Return who is started at boot, None where nobody can be."""

    def autostart(self, names: Sequence[str], *, enable: bool) -> Failures:
        """Have guests started at boot, or not."""

    def ends(self, names: Sequence[str]) -> Failures:
        """Return the reasons of ends that are known of nowhere else."""

    def forget(self, names: Sequence[str]) -> None:
        """Drop what is remembered of removed guests."""

    def start(self, names: Sequence[str]) -> Failures:
        """Start guests; return the reason for each that did not start."""

    def stop(self, names: Sequence[str], timeout: float, *, force: bool) -> Failures:
        """Stop guests within ``timeout`` seconds; return the reason for each that still runs."""

    def restart(self, names: Sequence[str], timeout: float, *, force: bool) -> Failures:
        """Stop and start guests."""


def host_memory(path: str = "/proc/meminfo") -> int | None:
    """Return the host's memory in bytes, None where it is not known."""
    with suppress(OSError, ValueError), open(path, "rb") as file:
        for line in file:
            if line.startswith(b"MemTotal:"):
                return int(line.split()[1]) * 1024
    return None


def installed_helper(layout: Layout) -> str | None:
    """Return the digest of the installed helper: the name of the folder its command points into."""
    try:
        target = os.readlink(layout.command)
    except OSError:
        return None
    return os.path.basename(os.path.dirname(target)) or None


def kernels() -> tuple[str, ...]:
    """Return the kernels that are meant by a bare word."""
    from ...kvm.programs import PROGRAMS

    return (*sorted(PROGRAMS), OWN_KERNEL)


class IoctlEngine:
    """Guests that the bundled helper runs."""

    name = ENGINE

    def __init__(
        self,
        layout: Layout,
        supervisor: Supervisor,
        *,
        fleet: str = "local",
        stop_timeout: float = 30.0,
        force: bool = False,
        device: str = "/dev/kvm",
    ) -> None:
        self.layout = layout
        self.supervisor = supervisor
        self.fleet = fleet
        self.warnings: list[str] = []
        self.stop_timeout = stop_timeout
        self.force = force
        self.device = device
        self._host = self.host("")
        self.seeds = Seeds(os.path.join(layout.state, "seeds-ioctl"))

    def host(self, name: str) -> Host:
        """Return the facts of this host, under its inventory name."""
        return Host(
            name=name,
            kernel=f"/boot/vmlinuz-{os.uname().release}",
            helper=installed_helper(self.layout),
            supervised=self.supervisor.supervised,
            image=images.base_of,
        )

    def limits(self) -> Limits:
        """Return what this host allows; without a usable KVM nobody knows how many vCPUs."""
        from ...kvm.device import Kvm  # ctypes, which a look at guests can do without

        vcpus = None
        with suppress(KvmError), Kvm(self.device) as kvm:
            vcpus = kvm.max_vcpus()
        return Limits(host_memory(), vcpus, kernels())

    def dialect(self) -> IoctlDialect:
        """Return how guests are declared on this host."""
        return IoctlDialect(self.limits(), self._host, self.seeds, self.fleet)

    def capabilities(self) -> dict[str, Any]:
        """Return what the helper can do here, as plain values."""
        limits = self.limits()
        return {
            "memory": limits.memory,
            "vcpus": limits.vcpus,
            "kernels": list(limits.programs),
            "helper": self._host.helper,
            "supervised": self._host.supervised,
        }

    def room(self) -> dict[str, Any]:
        """Return what this host has for guests."""
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        return {"cpus": os.cpu_count() or 1, "memory": pages * size}

    def observe(self, names: Collection[str] | None = None) -> dict[str, Observed]:
        """Return every guest of this host by name."""
        del names  # a small file each
        found = observe(self.layout, self.supervisor.autostarted(), self.seeds)
        silent = [name for name, seen in found.items() if _left_no_word(seen)]
        for name, reason in self.supervisor.ends(silent).items():
            record = {"status": None, "reason": reason}
            found[name] = found[name]._replace(state=FAILED, exit=record)
        return found

    def console(self, name: str, limit: int) -> bytes:
        """Return the last bytes of a guest's console."""
        return read_console(self.layout.guest(name), limit)

    def status(self, name: str) -> dict[str, Any] | None:
        """Return what a running guest says of itself, None where it does not answer."""
        try:
            answer = request(self.layout.guest(name).control, {"op": "status"}, ANSWER_TIMEOUT)
        except ControlError:
            return None
        return {key: value for key, value in answer.items() if key != "ok"}

    def running(self, seen: Observed) -> tuple[dict[str, Any] | None, bool]:
        """Return what the guest's process was started with, and whether that is another by now."""
        return seen.booted, seen.booted is not None and seen.booted != seen.machine

    def addresses(self, name: str) -> list[str]:
        """Return where a guest may be reached: as its seed says, and as the host has heard."""
        return waiting.addresses(self._spec(name))

    def _spec(self, name: str) -> dict[str, Any]:
        """Return a guest's spec with the documents of its seed; empty where there is none."""
        seen = observe(self.layout, (), self.seeds, [name]).get(name)
        return (None if seen is None else seen.spec) or {}

    # What could not work.

    def preflight(
        self, actions: Sequence[Action], specs: Specs, *, check_mode: bool
    ) -> list[Problem]:
        """Return why actions of the plan could not work."""
        kinds = {action.action for action in actions}
        changed = {action.name for action in actions if _boots_anew(action)}
        problems = check_device(self.device) if kinds & set(_BOOTING) else []
        if not check_mode and kinds & {"start", "restart"}:
            problems += check_helper(self.layout.command)
        if not check_mode and actions and os.geteuid() != 0:
            found = f"user id {os.geteuid()}"
            problems.append(Problem("become", "root, who owns the guests", found, "become: true"))
        boots = {name: machine(specs[name], self._host) for name in changed}
        made = {name: specs[name] for name in changed}
        problems += check_devices(made, check_mode=check_mode)
        return problems + check_kernels(boots, check_mode=check_mode)

    # What an interrupted run left.

    def unfinished(self) -> bool:
        """Return whether an interrupted run left something, or a guest between two names."""
        left = store.leftovers(self.layout) or store.laid_ready(self.layout)
        return bool(left) or any(self._loose_seeds())

    def sweep(self) -> None:
        """Remove what an interrupted run left; what cannot be done stands in nobody's way."""
        store.sweep(self.layout)
        for name in store.laid_ready(self.layout):
            with suppress(OSError):
                self._complete(self.layout.guest(name))
        for name, used in self._loose_seeds():
            self.seeds.tidy(name, used)

    def _loose_seeds(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the guests that have seeds of which not all are used, and those that are."""
        guests = self.seeds.guests()
        # A guest that got another name may yet have a seed of the former.
        names = self.layout.names() if guests else []
        used = [file for name in names for file in self._seeds_of(self.layout.guest(name))]
        for name in guests:
            if self.seeds.unused(name, used):
                yield name, used

    @staticmethod
    def _seeds_of(paths: GuestPaths) -> list[str]:
        """Return the seeds that a guest has, and was started with."""
        kept = []
        with suppress(OSError, ValueError, KeyError):
            kept.append(read_definition(paths))
            with open(store.booted_path(paths), "rb") as file:
                kept.append(json.loads(file.read().decode())["definition"])
        found = (one["spec"].get(seeding.FILE) for one in kept)
        return [file for file in found if file]

    # What is done.

    def apply(self, actions: Sequence[Action], specs: Specs) -> list[Failure]:
        """Carry out the actions of one step and return those that failed."""
        failed: dict[tuple[str, str], str] = {}

        def note(kind: str, failures: Failures) -> None:
            failed.update({(kind, name): why for name, why in failures.items()})

        def names(kind: str) -> list[str]:
            return sorted({action.name for action in actions if action.action == kind})

        note("stop", self._stop(names("stop")))
        note("create", self._create(names("create"), specs))
        note("update", self._update(actions, specs))
        note("delete", self._delete([a for a in actions if a.action == "delete"]))
        note("restart", self._restart(names("restart")))
        note("start", self._start(names("start")))
        return [
            Failure(action, failed[action.action, action.name])
            for action in actions
            if (action.action, action.name) in failed
        ]

    def close(self) -> None:
        """Let go of nothing: nothing stays open."""

    def settle(self, guests: Sequence[Declared]) -> Failures:
        """Wait until guests are where they shall be; return the reason for each that is not."""
        asked = {guest.name: guest.asked for guest in guests if guest.asked.get("wait_for")}

        def runs(name: str) -> bool:
            return running_process(self.layout.guest(name)) is not None

        return waiting.wait_for(asked, self._spec, runs)

    def _stop(self, names: Sequence[str]) -> Failures:
        if not names:
            return {}
        return self.supervisor.stop(names, self.stop_timeout, force=self.force)

    def _start(self, names: Sequence[str]) -> Failures:
        for name in names:
            # The reason of an earlier end must not pass for that of the next.
            with suppress(OSError):
                os.unlink(self.layout.guest(name).last_exit)
        return self._begun(names, self.supervisor.start(names)) if names else {}

    def _restart(self, names: Sequence[str]) -> Failures:
        if not names:
            return {}
        timeout, force = self.stop_timeout, self.force
        return self._begun(names, self.supervisor.restart(names, timeout, force=force))

    def _begun(self, names: Sequence[str], failures: Failures) -> Failures:
        """Forget what the guests that were started ran before."""
        for name in names:
            if name not in failures:
                with suppress(FileNotFoundError):
                    os.unlink(store.booted_path(self.layout.guest(name)))
        return failures

    def _taken(self) -> set[int]:
        """Return the users that guests have already."""
        taken = set()
        for name in self.layout.names():
            with suppress(OSError, ValueError):
                taken.add(read_definition(self.layout.guest(name))["machine"]["uid"])
        return taken

    def _definition(
        self, spec: Mapping[str, Any], identity: str, uid: int, files: Mapping[str, Sequence[str]]
    ) -> dict[str, Any]:
        boots = machine(spec, self._host)
        return definition.make(spec, boots, self.fleet, identity, uid, files)

    def _make_seed(self, spec: Mapping[str, Any]) -> None:
        """Make the seed of a spec, unless it is there already."""
        file = spec.get(seeding.FILE)
        if file is not None and self.seeds.documents(file) != spec[seeding.KEY]:
            self.seeds.make(file, spec[seeding.KEY])

    def _make_images(self, spec: Mapping[str, Any]) -> None:
        """Make the images that are not there, and grow those that are too small."""
        for disk in spec.get("disks") or ():
            if disk["size"] is None:
                continue
            have = images.capacity(disk["file"], disk["format"])
            if have is None:
                images.make(disk)
            elif have < parse_size(disk["size"]):
                images.grow(disk)

    def _create(self, names: Sequence[str], specs: Specs) -> Failures:
        failures: dict[str, str] = {}
        taken = self._taken() if names else set()
        for name in names:
            uid = definition.choose_uid(name, taken)
            why = _attempt(self._create_one, name, specs[name], uid)
            if why is None:
                taken.add(uid)
            else:
                failures[name] = why
        return {**failures, **self._autostart(set(names) - set(failures), specs, also_off=False)}

    def _create_one(self, name: str, spec: Mapping[str, Any], uid: int) -> None:
        """Make a guest: what it will have made for it is written down before it is made."""
        own = _to_make(spec)
        identity = definition.derive_uuid(self.fleet, str(spec.get(WAS, name)))
        spec = {key: value for key, value in spec.items() if key != WAS}
        content = definition.encode(self._definition(spec, identity, uid, own))

        def fill() -> None:
            self._make_seed(spec)
            self._make_images(spec)

        store.create(self.layout.guest(name), content, uid, fill)

    def _update(self, actions: Sequence[Action], specs: Specs) -> Failures:
        """Put new definitions in place, each once however many actions it takes part in."""
        updates: dict[str, list[Action]] = {}
        for action in actions:
            if action.action == "update":
                updates.setdefault(action.name, []).append(action)
        failures: dict[str, str] = {}
        switched = set()
        for name, parts in updates.items():
            former = former_name(parts)
            if former is None:
                why = _attempt(self._update_one, name, specs[name], parts)
            else:
                why = _attempt(self._rename, former, name, specs[name])
            if why is not None:
                failures[name] = why
            elif any(change.path == "autostart" for part in parts for change in part.changes):
                switched.add(name)
        return {**failures, **self._autostart(switched, specs, also_off=True)}

    def _made_for(
        self, paths: GuestPaths, before: Mapping[str, Any], spec: Mapping[str, Any]
    ) -> dict[str, Sequence[str]]:
        """Make what a guest will have, and return the images that were made for it so far.

        They are written down before they are made.
        """
        there = before.get("files", {})
        files = {**there, **_to_make(spec)}
        if files != there:
            store.replace(paths.definition, definition.encode({**before, "files": files}))
        self._make_seed(spec)
        self._make_images(spec)
        return files

    def _update_one(self, name: str, spec: Mapping[str, Any], parts: Sequence[Action]) -> None:
        """Put one new definition in place, last: until then the next run sees what is to do."""
        paths = self.layout.guest(name)
        before = read_definition(paths)
        files = self._made_for(paths, before, spec)
        made = self._definition(spec, before["uuid"], before["machine"]["uid"], files)
        process = running_process(paths)
        if process is not None:
            _keep_booted(paths, before, process.who)
            if any(c.path.startswith("log.") for part in parts for c in part.changes):
                limits = {key: made["machine"][key] for key in ("log_max_size", "log_keep")}
                self._tell(paths, {"op": "set", **limits})
        store.replace(paths.definition, definition.encode(made))

    def _rename(self, former: str, name: str, spec: Mapping[str, Any]) -> None:
        """Give a guest another name, with all that its definition is to have."""
        there, paths = self.layout.guest(former), self.layout.guest(name)
        if running_process(there) is not None:
            raise OSError("it runs again")
        before = read_definition(there)
        files = self._made_for(there, before, spec)
        made = self._definition(spec, before["uuid"], before["machine"]["uid"], files)
        store.lay_ready(paths, definition.encode(made))
        # The host starts one of the two at boot, whenever this ends.
        if self._starts(former):
            self._switch(name, enable=True)
        store.move(there, paths)
        self._put_in(former, paths)

    def _put_in(self, former: str, paths: GuestPaths) -> None:
        if self._starts(former):
            self._switch(former, enable=False)
        self.supervisor.forget([former])
        store.put_in(paths)
        self.seeds.tidy(former, self._seeds_of(paths))

    def _complete(self, paths: GuestPaths) -> None:
        """Complete a rename that was interrupted, or take it back if the folder was not moved."""
        former = renamed_from(paths)
        if former is not None:
            self._put_in(former, paths)
            return
        if self._starts(paths.name) and not os.path.lexists(paths.folder):
            self._switch(paths.name, enable=False)
        os.unlink(store.ready_path(paths))

    def _starts(self, name: str) -> bool:
        """Return whether the host starts a guest at boot."""
        return name in (self.supervisor.autostarted() or ())

    def _switch(self, name: str, *, enable: bool) -> None:
        """Have the host start a guest at boot, or not; OSError where that fails."""
        why = self.supervisor.autostart([name], enable=enable).get(name)
        if why is not None:
            raise OSError(why)

    def _tell(self, paths: GuestPaths, message: dict[str, Any]) -> None:
        """Tell a running guest; one that ended meanwhile need not know."""
        try:
            request(paths.control, message, ANSWER_TIMEOUT)
        except ControlError:
            if running_process(paths) is not None:
                raise

    def _autostart(self, names: Collection[str], specs: Specs, *, also_off: bool) -> Failures:
        """Have the host start the guests at boot, as their specs say."""
        on = sorted(name for name in names if specs[name]["autostart"])
        failures = dict(self.supervisor.autostart(on, enable=True))
        if also_off:
            off = sorted(set(names) - set(on))
            failures.update(self.supervisor.autostart(off, enable=False))
        return failures

    def _delete(self, actions: Sequence[Action]) -> Failures:
        failures: dict[str, str] = {}
        autostarted = self.supervisor.autostarted() or ()
        names = [action.name for action in actions]
        for name in names:
            if running_process(self.layout.guest(name)) is not None:
                failures[name] = "it still runs"
        gone = [name for name in names if name not in failures]
        # Whatever starts it at boot goes first: a definition that is left is found again.
        enabled = [name for name in gone if name in autostarted]
        failures.update(self.supervisor.autostart(enabled, enable=False))
        with_files = {a.name for a in actions if any(c.path == "files" for c in a.changes)}
        for name in gone:
            paths = self.layout.guest(name)
            why = failures.get(name) or _attempt(store.remove, paths, name in with_files)
            if why is not None:
                failures[name] = why
            else:
                self.seeds.tidy(name, ())
        self.supervisor.forget([name for name in gone if name not in failures])
        return failures


def _to_make(spec: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the images that are to be made for a guest, each with the files that it will stand on.

    ImageError where what one is made from is not there.
    """
    found: dict[str, list[str]] = {}
    for disk in spec.get("disks") or ():
        if disk["size"] is None or os.path.lexists(disk["file"]):
            continue
        base = images.base_of(disk["image"]) if disk["image"] else None
        found[disk["file"]] = images.below(base) if base else []
    return found


def _boots_anew(action: Action) -> bool:
    """Return whether an action comes to what a guest boots; its console's log does not."""
    if action.action == "update":
        return any(moment(change.path) == NEXT_BOOT for change in action.changes)
    return action.action in _BOOTING


def _left_no_word(seen: Observed) -> bool:
    return seen.state == STOPPED and seen.exit is None and seen.spec is not None


def _keep_booted(paths: GuestPaths, before: Mapping[str, Any], who: Identity) -> None:
    """Keep what the running process was started with, unless an earlier update did already."""
    path = store.booted_path(paths)
    with suppress(OSError, ValueError, AttributeError), open(path, "rb") as file:
        kept = json.loads(file.read().decode())
        if Identity.from_dict(kept.get("process")) == who:
            return
    content = {"process": who.to_dict(), "definition": before}
    store.replace(path, json.dumps(content, sort_keys=True).encode())


def _attempt(work: Callable[..., None], *arguments: Any) -> str | None:
    """Do it, and return why that failed, None if it did not."""
    try:
        work(*arguments)
    except OSError as error:
        return system_says(error)
    except (ControlError, definition.DefinitionError, images.ImageError, SeedError) as error:
        return str(error)
    return None

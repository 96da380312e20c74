# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything kernel-side that makes a machine a KVM host, read, planned and applied as one.

The facets know nothing of each other; here their reads, plans and files come together, and what
each run has to remember is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Mapping, Sequence

from ..converge.action import Pending, Plan
from ..converge.errors import InputError, Problem, VirtfleetError
from ..host.source import exists
from . import (
    bootloader,
    cmdline,
    device_access,
    hugepages,
    kernel_modules,
    module_options,
    own_files,
    record,
    remember,
    setting,
    sysctl,
    tuning,
    virtual_functions,
)
from .operation import Executor, Run, Runner, Step
from .options import Options, resolve
from .outcome import LOAD, NOT_AVAILABLE, OPTIONS, Outcome, join

if TYPE_CHECKING:
    from .record import Record
    from .setting import Setting

TMPFILES = "/etc/tmpfiles.d/virtfleet.conf"
_FILES = (
    kernel_modules.FILE,
    module_options.FILE,
    sysctl.FILE,
    TMPFILES,
    device_access.FILE,
    virtual_functions.FILE,
    bootloader.GRUB_FILE,
)


@dataclass(frozen=True)
class Observed:
    """The host as all facets see it; ``running`` is false for an image."""

    running: bool
    files: Mapping[str, str | None]
    record: Record
    modules: kernel_modules.Observed
    options: module_options.Observed
    boot: bootloader.Observed
    huge: hugepages.Observed
    tuning: tuning.Observed
    device: device_access.Observed
    functions: virtual_functions.Observed


@dataclass(frozen=True)
class Planned:
    """A plan and what is remembered for it: ``before`` it is carried out, and ``after``."""

    outcome: Outcome
    options: Options
    observed: Observed
    settings: tuple[Setting, ...]
    before: Record
    after: Record

    @property
    def steps(self) -> tuple[Step, ...]:
        """What is to be carried out."""
        return self.outcome.steps

    @property
    def keeps(self) -> bool:
        """Whether there is something to do or to remember."""
        return bool(self.steps) or self.after != self.observed.record

    def plan(self) -> Plan:
        """Return the plan as people see it."""
        actions = (step.action for step in self.steps)
        return Plan.of(actions, self.outcome.pending, self.outcome.blocked)


class Host:
    """One host below a root, known to actions by its name."""

    def __init__(self, root: str, name: str, run: Runner) -> None:
        self.root = root
        self.name = name
        self._run = run
        self._executor = Executor(root, run)
        self.real = root == "/"  # below another root no command is run

    def plan(self, stated: Options, *, absent: bool = False) -> Planned:
        """Return what is to be done; InputError where this host lacks what is stated.

        ``absent`` takes away what was put there and ignores what is stated.
        """
        problems: list[Problem] = []
        modules = kernel_modules.read(self.root)
        options = resolve(Options() if absent else stated, modules, problems)
        observed = self._observe(options, modules)
        functions = virtual_functions.resolve(
            options.virtual_functions, observed.functions, problems
        )
        options = replace(options, virtual_functions=tuple(functions))
        loads = kernel_modules.plan(options.modules, modules, self.name)
        if absent:
            wanted = remember.restored(observed.record, observed.options)
            live = setting.read(self.root, wanted)
            wanted = remember.still_ours(wanted, observed.record, live)
        else:
            wanted = self._settings(options, observed, loads)
            live = setting.read(self.root, wanted)
        problems += self._check(options, observed, wanted, live)
        if problems:
            raise InputError(problems)
        return self._planned(options, observed, loads, wanted, live, absent=absent)

    def _observe(self, options: Options, modules: kernel_modules.Observed) -> Observed:
        files = own_files.read(self.root, _FILES)
        known = record.read(self.root)
        # Parameters of earlier runs are looked at too: they may be left over.
        stated = {**remember.parameters_by_module(known), **options.module_options}
        return Observed(
            running=modules.loaded is not None and exists(self.root, "/proc/sys"),
            files=files,
            record=known,
            modules=modules,
            options=module_options.read(self.root, stated, self._run),
            boot=bootloader.read(self.root, files[bootloader.GRUB_FILE]),
            huge=hugepages.read(self.root),
            tuning=tuning.read(self.root),
            device=device_access.read(self.root, files[device_access.FILE]),
            functions=virtual_functions.read(self.root)
            if options.virtual_functions or virtual_functions.in_record(known)
            else virtual_functions.Observed(),
        )

    @staticmethod
    def _settings(options: Options, observed: Observed, loads: Outcome) -> list[Setting]:
        return [
            *sysctl.settings(options.sysctl, kernel_modules.loading(loads)),
            *hugepages.settings(options.hugepages),
            *tuning.settings(options.ksm, options.thp, options.governor, observed.tuning),
            *virtual_functions.settings(options.virtual_functions),
        ]

    def _check(
        self,
        options: Options,
        observed: Observed,
        wanted: Sequence[Setting],
        live: Mapping[str, str | None],
    ) -> list[Problem]:
        problems = kernel_modules.check_known(options.modules, observed.modules)
        problems += module_options.check_known(options.module_options, observed.options)
        problems += hugepages.check_known(options.hugepages, observed.huge)
        problems += tuning.check_known(options.governor, observed.tuning)
        if observed.running:
            keys = [item for item in wanted if item.object.startswith("sysctl/")]
            beside = sysctl.neighbours(self.root, keys)
            problems += sysctl.check_known(keys, live, beside, options.modules)
        return problems

    def _planned(
        self,
        options: Options,
        observed: Observed,
        loads: Outcome,
        wanted: Sequence[Setting],
        live: Mapping[str, str | None],
        *,
        absent: bool,
    ) -> Planned:
        known = observed.record
        stated = options.module_options
        loaded, now = Outcome(), Outcome()
        if observed.running:
            loaded = module_options.plan(stated, observed.options, known.refused, self.name)
            now = self._live(options, observed, wanted, live)
        left = remember.left_parameters(known, stated, observed.options)
        files = self._files(options, observed, () if absent else wanted)
        later = _later(observed, loads, loaded, now)
        steps = own_files.plan(observed.files, files, self.name, later)
        outcome = join(
            (
                # First of all the group: udev looks it up when it reads a rule that names it.
                device_access.plan(options.device, observed.device, self.name, real=self.real),
                Outcome(tuple(_with_reload(steps, udev=observed.device.udev))),
                *(loads, loaded, now),
                cmdline.plan(
                    options.cmdline, observed.boot, known.cmdline, known.leftover, self.name
                ),
                Outcome(pending=remember.left_pending(left, self.name)),
            )
        )
        parameters = module_options.settings(stated, observed.options)
        settings = (*wanted, *parameters)
        before, after = remember.records(
            known,
            options,
            observed.boot,
            settings,
            {**live, **setting.read(self.root, parameters)},
            [step.action.object for step in outcome.steps],
        )
        if absent:
            after = replace(after, changed={})
        after = replace(after, parameters=left)
        return Planned(outcome, options, observed, settings, before, after)

    def _live(
        self,
        options: Options,
        observed: Observed,
        wanted: Sequence[Setting],
        live: Mapping[str, str | None],
    ) -> Outcome:
        can, told = tuning.withhold(
            list(wanted), live, options.governor, observed.tuning, self.name
        )
        can, held = virtual_functions.withhold(can, live, observed.functions, self.name)
        planned = setting.plan(can, live, observed.record.refused, self.name)
        return join((planned, told, held))

    @staticmethod
    def _files(
        options: Options, observed: Observed, wanted: Sequence[Setting]
    ) -> dict[str, str | None]:
        keys = [item for item in wanted if item.object.startswith("sysctl/")]
        # Functions come with their device's driver, at whatever time that is.
        elsewhere = ("sysctl/", f"{virtual_functions.OBJECT}/")
        others = [item for item in wanted if not item.object.startswith(elsewhere)]
        others += tuning.at_boot(options.governor)
        rule = device_access.lines(options.device, observed.device)
        return {
            kernel_modules.FILE: own_files.content(kernel_modules.lines(options.modules)),
            module_options.FILE: own_files.content(module_options.lines(options.module_options)),
            sysctl.FILE: own_files.content(sysctl.lines(keys)),
            TMPFILES: own_files.content(setting.boot_lines(others)),
            device_access.FILE: own_files.content(rule),
            virtual_functions.FILE: own_files.content(
                virtual_functions.lines(options.virtual_functions)
            ),
        }

    def apply(self, planned: Planned) -> tuple[Pending, ...]:
        """Carry a plan out; return what the kernel did not take.

        OperationError at the first operation that fails, and VirtfleetError where /dev/kvm is not
        what was asked for afterwards.
        """
        executor = self._executor
        if planned.steps:
            for operation in record.write(planned.before):
                executor.execute(operation)
        executor.apply(planned.steps)
        missed = self._missed(planned)
        for operation in record.write(remember.with_missed(planned.after, missed)):
            executor.execute(operation)
        if planned.steps and self.real:
            self._prove_device(planned)
        return tuple(setting.not_taken(item, live, self.name) for item, live in missed)

    def _missed(self, planned: Planned) -> list[tuple[Setting, str | None]]:
        """Return what was put and is not there, with what is there instead."""
        touched = {name for step in planned.steps for name in remember.objects(step.action.object)}
        settings = [item for item in planned.settings if item.form != setting.PARAMETER]
        if any(step.action.step in {LOAD, OPTIONS} for step in planned.steps):
            stated = planned.options.module_options
            found = module_options.read(self.root, stated, self._run)
            settings += module_options.settings(stated, found)
        asked = [item for item in settings if item.object in touched]
        live = setting.read(self.root, asked)
        told = {(p.object, c.path) for p in planned.outcome.pending for c in p.changes}
        return [
            (item, live[item.path])
            for item in asked
            if not setting.same(item, live[item.path]) and (item.object, item.key) not in told
        ]

    def _prove_device(self, planned: Planned) -> None:
        wanted = planned.options.device
        refused = {item.object.partition("/")[0] for item in planned.outcome.blocked}
        if wanted is None or refused & {"device", "group"}:
            return
        if planned.observed.device.udev:
            self._executor.execute(Run(("udevadm", "settle", "--timeout=30")))
        live = device_access.read(self.root, None).live
        if live not in (None, wanted):
            raise VirtfleetError(
                f"/dev/kvm belongs to group {live.group} with mode {live.mode}, expected"
                f" {wanted.group} and {wanted.mode}",
                remedy="udevadm test /sys/class/misc/kvm says which rule gives it",
            )


def _with_reload(steps: list[Step], *, udev: bool) -> list[Step]:
    """Let udev read its rules again as soon as ours differs: the module may be loaded next."""
    reload = (Run(("udevadm", "control", "--reload")),) if udev else ()
    rules = [f"file{path}" for path in (device_access.FILE, virtual_functions.FILE)]
    return [
        replace(step, operations=step.operations + reload) if step.action.object in rules else step
        for step in steps
    ]


def _later(observed: Observed, loads: Outcome, loaded: Outcome, now: Outcome) -> list[str]:
    """Return the files whose content counts only at the next boot."""
    if not observed.running:
        return list(_FILES)
    held = [p for p in now.pending if p.object.startswith(f"{virtual_functions.OBJECT}/")]
    waiting = (
        (kernel_modules.FILE, loads.pending or loads.blocked),
        (module_options.FILE, loaded.pending),
        (virtual_functions.FILE, held),
        (TMPFILES, [p for p in now.pending if p not in held and p.kind != NOT_AVAILABLE]),
    )
    return [path for path, why in waiting if why]

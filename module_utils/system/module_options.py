# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of kernel modules: for the next load (modprobe.d(5)), and live where that is possible.

A parameter that can be written is set at once. Another one takes a reload of the module, which is
done only while nothing uses it: every reference that /sys/module counts is one of its holders.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

from ..converge.action import LIVE, Action, Change, Pending
from ..converge.errors import Problem, nearest
from ..converge.errors import shown as quoted
from ..host.source import at, names, number, text
from . import setting
from .kernel_modules import is_name
from .operation import Run, Runner, Step
from .outcome import OPTIONS, RELOAD, Outcome, join
from .setting import Setting

FILE = "/etc/modprobe.d/virtfleet-kvm.conf"
Options = Mapping[str, Mapping[str, str]]  # module → parameter → value as it is written
_PARAMETER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_VALUE = re.compile(r"[A-Za-z0-9_.,:/+@=-]{1,255}", re.ASCII)  # nothing that modprobe.d quotes
_WORDS = {"true": "1", "yes": "1", "false": "0", "no": "0"}


@dataclass(frozen=True)
class Module:
    """A loaded module: its parameters, who leans on it, and how often it is in use."""

    parameters: Mapping[str, str | None]
    writable: frozenset[str] = frozenset()
    holders: tuple[str, ...] = ()
    references: int | None = None  # None: it is built in, or the kernel unloads nothing


@dataclass(frozen=True)
class Observed:
    """Modules by their name; what is not loaded has at most a list of its parameters."""

    loaded: Mapping[str, Module] = field(default_factory=dict)
    listed: Mapping[str, frozenset[str]] = field(default_factory=dict)


def written(value: Any) -> str | None:
    """Return a value as a module takes it, None for what can be none."""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str) and _VALUE.fullmatch(value):
        return _WORDS.get(value.lower(), value)
    return None


def check(options: Mapping[Any, Any]) -> list[Problem]:
    """Return what is wrong with the declaration alone."""
    problems = []
    for module, parameters in options.items():
        path = f"module_options.{module}"
        if not is_name(module):
            problems.append(
                Problem("module_options", "names of kernel modules as keys", quoted(module))
            )
        elif not isinstance(parameters, dict) or not parameters:
            problems.append(Problem(path, "a mapping of parameters to values", quoted(parameters)))
        else:
            problems += _check_parameters(path, parameters)
    return problems


def _check_parameters(path: str, parameters: Mapping[Any, Any]) -> list[Problem]:
    problems = []
    for name, value in parameters.items():
        if not isinstance(name, str) or _PARAMETER.fullmatch(name) is None:
            problems.append(Problem(path, "names of parameters as keys", quoted(name)))
        elif written(value) is None:
            expected = "true, false, a number or a word without blanks and quotes"
            problems.append(Problem(f"{path}.{name}", expected, quoted(value)))
    return problems


def canonical(options: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return checked options with their values as they are written."""
    return {
        module: {name: written(value) or "" for name, value in parameters.items()}
        for module, parameters in options.items()
    }


def lines(options: Options) -> list[str]:
    """Return the lines of the file that modprobe reads."""
    return [
        f"options {module} {' '.join(f'{name}={value}' for name, value in parameters.items())}"
        for module, parameters in options.items()
    ]


def path_of(module: str, parameter: str) -> str:
    """Return where the kernel shows a parameter."""
    return f"/sys/module/{module}/parameters/{parameter}"


def read(root: str, options: Options, run: Runner) -> Observed:
    """Return the modules that options are stated for, with all that lean on them.

    modinfo(8) is asked only where the kernel does not show a parameter itself.
    """
    loaded: dict[str, Module] = {}
    queue = list(options)
    while queue:
        name = queue.pop()
        module = None if name in loaded else _module(root, name)
        if module is not None:
            loaded[name] = module
            queue += module.holders
    listed = {}
    for name, parameters in options.items():
        if not (name in loaded and set(parameters) <= set(loaded[name].parameters)):
            found = _listed(root, name, run)
            if found is not None:
                listed[name] = found
    return Observed(loaded, listed)


def _module(root: str, name: str) -> Module | None:
    folder = f"/sys/module/{name}"
    if names(root, folder) is None:
        return None
    parameters = names(root, f"{folder}/parameters") or []
    return Module(
        parameters={p: setting.shown(text(root, path_of(name, p))) for p in parameters},
        writable=frozenset(p for p in parameters if _is_writable(root, path_of(name, p))),
        holders=tuple(names(root, f"{folder}/holders") or ()),
        references=number(root, f"{folder}/refcnt"),
    )


def _is_writable(root: str, path: str) -> bool:
    """Return whether the file's mode lets it be written; root could open any."""
    try:
        return bool(os.stat(at(root, path)).st_mode & 0o222)
    except OSError:
        return False


def _listed(root: str, name: str, run: Runner) -> frozenset[str] | None:
    if root != "/":
        return None
    status, out, _ = run(("modinfo", "-F", "parm", name))
    if status != 0:
        return None
    return frozenset(line.partition(":")[0] for line in out.splitlines() if line)


def check_known(options: Options, observed: Observed) -> list[Problem]:
    """Return which parameters the modules do not have."""
    problems = []
    for module, parameters in options.items():
        loaded = observed.loaded.get(module)
        listed = observed.listed.get(module)
        if loaded is None and listed is None:
            continue  # neither loaded nor on disk: the other vendor's, or brought later
        known = frozenset(loaded.parameters if loaded else ()) | (listed or frozenset())
        for name in parameters:
            if name not in known:
                guess = nearest(name, known)
                problems.append(
                    Problem(
                        f"module_options.{module}.{name}",
                        f"a parameter of {module}",
                        quoted(name),
                        f"did you mean {guess}?" if guess else f"modinfo -p {module} lists them",
                    )
                )
    return problems


def settings(options: Options, observed: Observed) -> list[Setting]:
    """Return the parameters that loaded modules show, each with where it stands."""
    return [
        Setting(f"module/{module}", name, path_of(module, name), value)
        for module, parameters in options.items()
        for name, value in parameters.items()
        if module in observed.loaded and name in observed.loaded[module].parameters
    ]


def plan(options: Options, observed: Observed, refused: Mapping[str, str], host: str) -> Outcome:
    """Return what brings the live parameters to what is stated."""
    writable: list[Setting] = []
    fixed: list[Setting] = []
    live: dict[str, str | None] = {}
    for item in settings(options, observed):
        module = observed.loaded[item.object.partition("/")[2]]
        live[item.path] = module.parameters[item.key]
        (writable if item.key in module.writable else fixed).append(item)
    outcomes = [setting.plan(writable, live, refused, host, OPTIONS)]
    differing = [item for item in fixed if not setting.same(item, live[item.path])]
    tried = [item for item in differing if refused.get(item.path) == item.value]
    outcomes.append(Outcome(pending=tuple(setting.not_taken(i, live[i.path], host) for i in tried)))
    wanted = [item for item in differing if item not in tried]
    if wanted:
        outcomes.append(_reload(wanted, live, observed, host))
    return join(outcomes)


def _with_holders(modules: Sequence[str], observed: Observed) -> list[str]:
    """Return the modules and all that lean on them, those that lean first."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        module = observed.loaded.get(name)
        for holder in module.holders if module else ():
            visit(holder)
        order.append(name)

    for name in modules:
        visit(name)
    return order


def _in_the_way(order: Sequence[str], observed: Observed) -> tuple[str, str] | None:
    """Return why the modules cannot be reloaded, and what to do; None if they can."""
    for name in order:
        module = observed.loaded.get(name)
        if module is None or module.references is None:
            return (
                f"{name} is built into the kernel or cannot be unloaded",
                f"state its options under cmdline ({name}.<parameter>=<value>) and reboot",
            )
        if module.references > len(module.holders):
            uses = module.references - len(module.holders)
            return (
                f"{name} is in use ({uses} times; a running guest is one)",
                "stop or move the guests of this host and run again, or reboot it",
            )
    return None


def _reload(
    wanted: Sequence[Setting],
    live: Mapping[str, str | None],
    observed: Observed,
    host: str,
) -> Outcome:
    modules = list(dict.fromkeys(item.object.partition("/")[2] for item in wanted))
    order = _with_holders(modules, observed)
    obstacle = _in_the_way(order, observed)
    if obstacle is not None:
        return Outcome(pending=tuple(_in_use(m, wanted, live, obstacle, host) for m in modules))
    changes = tuple(Change(_key(item, modules), live[item.path], item.value) for item in wanted)
    action = Action(
        step=OPTIONS,
        object="module/" + ",".join(modules),
        action="restart",
        host=host,
        when=LIVE,
        reason=f"its options differ and nothing uses it: {', '.join(order)} loaded again",
        changes=changes,
    )
    # modprobe(8) -r takes what nothing leans on any more along; each is asked for again by name.
    loads = tuple(Run(("modprobe", module)) for module in reversed(order))
    return Outcome((Step(action, (Run(("modprobe", "-r", *order)), *loads)),))


def _in_use(
    module: str,
    wanted: Sequence[Setting],
    live: Mapping[str, str | None],
    obstacle: tuple[str, str],
    host: str,
) -> Pending:
    reason, remedy = obstacle
    return Pending(
        object=f"module/{module}",
        kind=RELOAD,
        host=host,
        reason=f"its options differ, and {reason}",
        remedy=remedy,
        changes=tuple(
            Change(item.key, live[item.path], item.value)
            for item in wanted
            if item.object == f"module/{module}"
        ),
    )


def _key(item: Setting, modules: Sequence[str]) -> str:
    """Return a parameter's name, with its module where there are several."""
    return item.key if len(modules) == 1 else f"{item.object.partition('/')[2]}.{item.key}"

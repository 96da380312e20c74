# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is declared for a host's kernel side, checked and in one canonical form."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Mapping

from ..converge.errors import InputError, Problem
from . import (
    cmdline,
    device_access,
    hugepages,
    kernel_modules,
    module_options,
    sysctl,
    tuning,
    virtual_functions,
)

if TYPE_CHECKING:
    from .device_access import Access
    from .hugepages import Pool
    from .virtual_functions import Functions


@dataclass(frozen=True)
class Options:
    """All facets; what is not stated is empty."""

    modules: tuple[str, ...] = ()
    module_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    cmdline: tuple[str, ...] = ()
    sysctl: Mapping[str, Any] = field(default_factory=dict)
    hugepages: tuple[Pool, ...] = ()
    virtual_functions: tuple[Functions, ...] = ()
    ksm: Mapping[str, Any] = field(default_factory=dict)
    thp: Mapping[str, Any] = field(default_factory=dict)
    governor: str | None = None
    device: Access | None = None


def parse(stated: Mapping[str, Any]) -> Options:
    """Return the options of the module's parameters; InputError with all that is wrong."""
    modules = stated.get("modules") or []
    options = stated.get("module_options") or {}
    arguments = stated.get("cmdline") or []
    settings = stated.get("sysctl") or {}
    ksm, thp = stated.get("ksm") or {}, stated.get("thp") or {}
    governor, device = stated.get("governor"), stated.get("device_access")
    problems = kernel_modules.check(modules)
    problems += module_options.check(options)
    problems += cmdline.check(arguments)
    problems += sysctl.check(settings)
    pools = hugepages.parse(stated.get("hugepages") or [], problems)
    functions = virtual_functions.parse(stated.get("virtual_functions") or [], problems)
    problems += tuning.check(ksm, thp, governor)
    problems += [] if device is None else device_access.check(device)
    if problems:
        raise InputError(problems)
    return Options(
        modules=tuple(modules),
        module_options=module_options.canonical(options),
        cmdline=tuple(arguments),
        sysctl=settings,
        hugepages=tuple(pools),
        virtual_functions=tuple(functions),
        ksm=ksm,
        thp=thp,
        governor=governor,
        device=device_access.desire(device),
    )


def resolve(
    options: Options, observed: kernel_modules.Observed, problems: list[Problem]
) -> Options:
    """Return the options with the names of modules as this machine has them."""
    modules = [
        kernel_modules.resolve(name, observed, f"modules[{number}]", problems)
        for number, name in enumerate(options.modules)
    ]
    merged: dict[str, dict[str, str]] = {}
    for name, parameters in options.module_options.items():
        path = f"module_options.{name}"
        known = merged.setdefault(kernel_modules.resolve(name, observed, path, problems), {})
        for key, value in parameters.items():
            if known.setdefault(key, value) != value:
                expected = f"one value for {key} of a module ({known[key]})"
                problems.append(Problem(f"{path}.{key}", expected, value))
    return replace(options, modules=tuple(dict.fromkeys(modules)), module_options=merged)

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the checks of this project: `check.py lint|test|soak|bench [pytest arguments]`.

`test` is lint, the unit tests, those of the code that runs on hosts under the oldest Python that
hosts may have, the tests on the real /dev/kvm and in network namespaces, and those on the lab.
Every step runs, whatever failed before it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ansible
import ansible_test
from scratch import BUILD, REPOSITORY, collection_tree, rooms, typed_tree

BIN = Path(sys.executable).parent
ON_CONTROLLER_ONLY = tuple(
    f"tests/unit/{part}" for part in ("lab", "library", "plugins", "scripts")
)
OLDEST = "3.8"
PATIENCE = 1800  # seconds for a step, many times what the slowest takes
LAB_PATIENCE = 3600
LONG_PATIENCE = 6 * 3600  # for what is meant to take long
# Newer calls of the standard library that are made only where they exist.
GUARDED = ("os.pidfd_open", "signal.pidfd_send_signal")


@dataclass(frozen=True)
class Step:
    """One command to run; a quiet one shows its output only if it fails."""

    title: str
    command: Sequence[str]
    quiet: bool = True
    folder: Path = REPOSITORY
    environment: tuple[tuple[str, str], ...] = ()
    patience: int = PATIENCE


def tool(name: str) -> str:
    """Return the path of a tool in the virtual environment."""
    return str(BIN / name)


def existing(*names: str) -> list[str]:
    """Return those of the names that exist in the repository."""
    return [name for name in names if (REPOSITORY / name).exists()]


def mypy_step() -> Step:
    """Check types with our modules where Ansible puts them, so that no import is taken for Any."""
    tree = typed_tree(Path(ansible.__file__).parent)
    ours = [str(tree / "ansible" / "module_utils" / path.name) for path in rooms()]
    rest = existing("library", "plugins", "scripts", "tests")
    # The folders of scripts, whose files import their neighbours by name.
    folders = ("scripts", "tests/shared", "tests/lab")
    roots = [tree, REPOSITORY, *(REPOSITORY / folder for folder in folders)]
    environment = (("MYPYPATH", os.pathsep.join(map(str, roots))),)
    return Step("mypy", [tool("mypy"), *ours, *rest], environment=environment)


def validate_modules_step() -> Step:
    """Run ansible-test's own check of modules, without ansible-test's wish for the internet."""
    tree = collection_tree()
    collection = "ansible_collections/local/kvm"
    script = Path(ansible_test.__file__).parent.joinpath(
        "_util", "controller", "sanity", "validate-modules", "validate.py"
    )
    modules = sorted(path.name for path in (tree / collection / "plugins" / "modules").glob("*.py"))
    command = [sys.executable, str(script), "--arg-spec", "--collection", collection]
    command += [f"plugins/modules/{name}" for name in modules]
    environment = (("PYTHONPATH", str(tree)),)
    return Step("validate-modules", command, folder=tree / collection, environment=environment)


def lint_steps() -> list[Step]:
    """Return the linters, the quick ones first."""
    oldest = [tool("vermin"), f"-t={OLDEST}", "--no-tips", "--violations"]
    for name in GUARDED:
        oldest += ["--exclude", name]
    return [
        Step("ruff check", [tool("ruff"), "check", "."]),
        Step("ruff format", [tool("ruff"), "format", "--check", "."]),
        Step("yamllint", [tool("yamllint"), "--strict", "."]),
        Step(f"vermin: Python {OLDEST} will do on hosts", [*oldest, "module_utils", "library"]),
        mypy_step(),
        validate_modules_step(),
        Step("ansible-lint", [tool("ansible-lint"), "--strict", "--offline", "-q"]),
    ]


def pytest_step(title: str, *arguments: str) -> Step:
    """Return a run of pytest in sight of the user."""
    return Step(title, [tool("pytest"), "-q", *arguments], quiet=False)


def oldest_python() -> str | None:
    """Return an interpreter of the oldest Python that hosts may have, if one can be had here."""
    candidates = [f"python{OLDEST}"]
    pyenv = shutil.which("pyenv")
    if pyenv:
        answer = subprocess.run(
            [pyenv, "prefix", OLDEST], capture_output=True, text=True, check=False
        )
        candidates.append(f"{answer.stdout.strip()}/bin/python{OLDEST}")
    for candidate in candidates:
        path = shutil.which(candidate)
        # pyenv's shims are there even when the version they stand for is not chosen.
        if path and subprocess.run([path, "-V"], capture_output=True, check=False).returncode == 0:
            return path
    return None


def prepare_oldest(python: str) -> Path:
    """Return the python of a virtual environment with pytest for the oldest Python."""
    folder = BUILD / f"python{OLDEST}"
    ready = folder / "ready"
    if not ready.exists():
        subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "pip"), "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "pytest>=8.3,<9"], check=True)
        ready.touch()
    return folder / "bin" / "python"


def host_side_step(arguments: Sequence[str]) -> Step | None:
    """Return the unit tests of what runs on hosts, under the oldest Python that hosts may have."""
    title = f"unit tests of the host side under Python {OLDEST}"
    python = oldest_python()
    if python is None:
        print(f"== {title}: left out, there is no python{OLDEST} here and pyenv has none either")
        return None
    ignore = [f"--ignore={folder}" for folder in ON_CONTROLLER_ONLY]
    command = [str(prepare_oldest(python)), "-m", "pytest", "-q", "tests/unit", *ignore, *arguments]
    return Step(title, command, quiet=False)


def execute(step: Step) -> tuple[str, str]:
    """Run a step; return what it did wrong, empty if nothing, and the output of a quiet one."""
    environment = {**os.environ, **dict(step.environment)}
    environment["PATH"] = f"{BIN}:{environment['PATH']}"
    if step.quiet:
        environment["NO_COLOR"] = "1"
    with subprocess.Popen(
        step.command,
        cwd=step.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if step.quiet else None,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=step.patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return f"no end after {step.patience} s", process.communicate()[0] or ""
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return f"status {process.returncode}" if process.returncode else "", output or ""


def run(step: Step) -> bool:
    """Run a step under a heading with its time; return whether it passed."""
    print(f"== {step.title}", flush=True)
    started = time.monotonic()
    wrong, output = execute(step)
    if wrong:
        print(output, end="")
    word = f"FAILED with {wrong}" if wrong else "ok"
    print(f"   {word}, {time.monotonic() - started:.1f} s", flush=True)
    return not wrong


def lint(_: Sequence[str]) -> list[Step | None]:
    """Return the steps of `make lint`."""
    return [*lint_steps()]


def test(arguments: Sequence[str]) -> list[Step | None]:
    """Return the steps of `make test`."""
    return [
        *lint_steps(),
        pytest_step("unit tests", "tests/unit", *arguments),
        host_side_step(arguments),
        pytest_step("tests on the real /dev/kvm", "tests/kvm", *arguments),
        pytest_step("tests in network namespaces", "tests/net", *arguments),
        replace(pytest_step("tests on the lab", "tests/lab", *arguments), patience=LAB_PATIENCE),
    ]


def molecule_step(scenario: str) -> Step:
    """Return a scenario of molecule, which raises a lab of its own and takes it away."""
    command = [tool("molecule"), "test", "--scenario-name", scenario]
    return Step(f"molecule: {scenario}", command, patience=LAB_PATIENCE)


def soak(arguments: Sequence[str]) -> list[Step | None]:
    """Return the steps of `make soak`."""
    step = pytest_step("soak", "--soak", "tests", *arguments)
    molecule = [molecule_step("default"), molecule_step("bare")]
    return [replace(step, patience=LONG_PATIENCE), *molecule]


def bench(arguments: Sequence[str]) -> list[Step | None]:
    """Return the steps of `make bench`; nothing else runs its files, by their name."""
    files = ["-o", "python_files=bench_*.py", "--capture=no", "tests/bench"]
    return [pytest_step("bench", *files, *arguments)]


ORDERS: dict[str, Callable[[Sequence[str]], list[Step | None]]] = {
    "lint": lint,
    "test": test,
    "soak": soak,
    "bench": bench,
}


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; return 0 if all of it passed."""
    if not arguments or arguments[0] not in ORDERS:
        print(f"usage: check.py {'|'.join(ORDERS)} [pytest arguments]", file=sys.stderr)
        return 64
    started = time.monotonic()
    steps = [step for step in ORDERS[arguments[0]](arguments[1:]) if step is not None]
    failed = [step.title for step in steps if not run(step)]
    seconds = time.monotonic() - started
    if failed:
        print(f"== FAILED after {seconds:.0f} s: {', '.join(failed)}")
        return 1
    print(f"== all {len(steps)} steps passed in {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

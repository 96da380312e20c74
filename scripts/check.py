# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the checks of this project: `check.py lint|test|soak|bench [pytest arguments]`.

`test` is lint, the unit tests, those of the code that runs on hosts under the oldest Python that
hosts may have, the tests on the real /dev/kvm and in network namespaces, those on the lab, and
molecule's scenarios. Every step runs, whatever failed before it; what failed on the lab is made
once more. Two steps run side by side, as each keeps about one processor busy.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import ansible
import ansible_test
from scratch import BUILD, REPOSITORY, collection_tree, rooms, typed_tree

BIN = Path(sys.executable).parent
ON_CONTROLLER_ONLY = tuple(
    f"tests/unit/{part}" for part in ("fleet", "lab", "library", "plugins", "scripts")
)
OLDEST = "3.8"
PATIENCE = 1800  # seconds for a step, many times what the slowest takes
LAB_PATIENCE = 5400
LONG_PATIENCE = 6 * 3600  # for what is meant to take long
GRACE = 120  # seconds in which an interrupted step may clean up
# Newer calls of the standard library that are made only where they exist.
GUARDED = ("os.pidfd_open", "signal.pidfd_send_signal")


@dataclass(frozen=True)
class Step:
    """One command to run; a quiet one shows its output only if it fails.

    Labs that it raises are taken down if it does not end by itself. Where it failed, ``again``
    returns the command that repeats what failed, None where the failure stands. Of a test that
    passed the last lines are shown: how long its parts took, and what it counted.
    """

    title: str
    command: Sequence[str]
    quiet: bool = True
    folder: Path = REPOSITORY
    environment: tuple[tuple[str, str], ...] = ()
    patience: int = PATIENCE
    labs: tuple[str, ...] = ()
    again: Callable[[], list[str] | None] | None = None


AT_ONCE = 2  # steps of `make test`


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
    """Return a run of pytest in sight of the user, with what took longest."""
    durations = ["--durations=10", "--durations-min=3"]
    return Step(title, [tool("pytest"), "-q", *durations, *arguments], quiet=False)


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


class Runner:
    """Runs steps, and ends what it began when it is interrupted."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self._running: set[subprocess.Popen[str]] = set()
        self._interrupted = threading.Event()

    def run(self, steps: Sequence[Step], at_once: int = 1) -> None:
        """Run the steps, begun in their order, so many side by side."""
        with ThreadPoolExecutor(max_workers=at_once) as pool:
            try:
                for done in [pool.submit(self._run_step, step) for step in steps]:
                    done.result()
            except KeyboardInterrupt:
                self._interrupted.set()
                for process in list(self._running):
                    _end(process)
                raise

    def _run_step(self, step: Step) -> None:
        if self._interrupted.is_set():
            return
        print(f"== {step.title}", flush=True)
        started = time.monotonic()
        wrong, output = self._execute(step)
        repeated = step.again() if wrong and step.again else None
        if repeated:
            print(output, end="")
            wrong, output = self._execute(replace(step, command=repeated))
        if wrong:
            self.failed.append(step.title)
            print(output, end="")
        elif step.quiet and Path(step.command[0]).name == "pytest":
            print(output[output.find("= slowest") :].partition("\n")[2], end="")
        word = f"FAILED with {wrong}" if wrong else "ok"
        print(f"   {step.title}: {word}, {time.monotonic() - started:.1f} s", flush=True)

    def _execute(self, step: Step) -> tuple[str, str]:
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
            self._running.add(process)
            try:
                output, _ = process.communicate(timeout=step.patience)
                wrong = f"status {process.returncode}" if process.returncode else ""
            except subprocess.TimeoutExpired:
                _end(process)
                output, wrong = process.communicate()[0], f"no end after {step.patience} s"
            finally:
                self._running.discard(process)
        if wrong:
            for lab in step.labs:
                subprocess.run(lab_command("--lab", lab, "down"), env=environment, check=False)
        return wrong, output or ""


def _end(process: subprocess.Popen[str]) -> None:
    """Interrupt a step as Ctrl-C does, and kill it if that does not end it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        os.killpg(process.pid, signal.SIGKILL)


def lab_command(*words: str) -> list[str]:
    """Return the command line of the lab's own tool."""
    return [
        "env",
        f"PYTHONPATH={REPOSITORY / 'tests/lab'}",
        sys.executable,
        "-m",
        "virtlab",
        *words,
    ]


def images_step() -> Step:
    """Build the images that the labs start from."""
    return Step("images of the lab", lab_command("build"), patience=LAB_PATIENCE)


ODD = "odd"  # the lab that a module raises for itself
# What every run makes; of the other modules it is one (their mark `module_of`).
HOSTS = [f"tests/lab/test_{topic}.py" for topic in ("lab", "preflight", "faults")]


def lab_cache(lab: str) -> Path:
    """Return where pytest notes what failed on a lab."""
    return BUILD / f"pytest-{lab}"


def lab_again(lab: str) -> list[str] | None:
    """Return the command that repeats the files that failed, as the emulator errs now and then."""
    noted = lab_cache(lab) / "v" / "cache" / "lastfailed"
    if not noted.exists():
        return None
    files = sorted({name.partition("::")[0] for name in json.loads(noted.read_text())})
    print(f"   FAILED, and once more: {' '.join(files)}", flush=True)
    return [tool("pytest"), "-q", *files, "-o", f"cache_dir={lab_cache(lab)}"]


def lab_step(title: str, lab: str, *arguments: str) -> Step:
    """Return tests that raise a lab of this name; others may have theirs beside it."""
    shutil.rmtree(lab_cache(lab), ignore_errors=True)
    options = ["--durations=40", "--durations-min=10", "-o", f"cache_dir={lab_cache(lab)}"]
    return replace(
        pytest_step(title, *arguments, *options),
        quiet=True,
        environment=(("LAB", lab),),
        patience=LAB_PATIENCE,
        labs=(lab,),
        again=partial(lab_again, lab),
    )


def lab_steps(arguments: Sequence[str]) -> tuple[Step, Step]:
    """Return the tests on the lab: the sampled module, and what every run makes."""
    others = [f"--ignore={path}" for path in HOSTS]
    sample = lab_step("one module of the lab", "test", "tests/lab", *others, *arguments)
    sample = replace(sample, labs=("test", ODD))
    return sample, lab_step("hosts, and faults", "hosts", *HOSTS, *arguments)


def molecule_step(scenario: str) -> Step:
    """Return a scenario of molecule, which raises a lab of its own and takes it away."""
    command = [tool("molecule"), "test", "--scenario-name", scenario]
    labs = (f"molecule-{scenario}",)
    title = f"molecule: {scenario}"

    def again() -> list[str]:
        print(f"   {title}: FAILED, and once more", flush=True)
        return command

    return Step(title, command, patience=LAB_PATIENCE, labs=labs, again=again)


def lint(_: Sequence[str]) -> list[Step | None]:
    """Return the steps of `make lint`."""
    return [*lint_steps()]


def test(arguments: Sequence[str]) -> list[Step | None]:
    """Return the steps of `make test`, in the order in which they begin."""
    sample, hosts = lab_steps(arguments)
    unit = pytest_step("unit tests", "tests/unit", *arguments)
    kvm = pytest_step("tests on the real /dev/kvm", "tests/kvm", *arguments)
    net = pytest_step("tests in network namespaces", "tests/net", *arguments)
    oldest = host_side_step(arguments)
    if os.geteuid() != 0:
        print("== molecule's scenarios: left out, the lab's images are built as root")
        return [*lint_steps(), unit, kvm, net, oldest, sample, hosts]
    bare, default = molecule_step("bare"), molecule_step("default")
    # What needs no host runs beside what has one: two hosts take more than a processor.
    beside = [bare, unit, kvm, net]
    return [images_step(), *lint_steps(), *beside, sample, hosts, default, oldest]


def soak(arguments: Sequence[str]) -> list[Step | None]:
    """Return the steps of `make soak`."""
    step = pytest_step("soak", "--soak", "tests", *arguments)
    return [replace(step, patience=LONG_PATIENCE, labs=("test", ODD))]


def bench(arguments: Sequence[str]) -> list[Step | None]:
    """Return the steps of `make bench`; nothing else runs its files, by their name."""
    files = ["-o", "python_files=bench_*.py", "--capture=no", "tests/bench"]
    step = pytest_step("bench", *files, *arguments)
    return [replace(step, patience=LAB_PATIENCE, labs=("bench", "bench-hand"))]


# A step that this machine cannot run is None.
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
    # A shell that starts this in the background has SIGINT ignored, by all that follows too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    started = time.monotonic()
    runner = Runner()
    steps = [step for step in ORDERS[arguments[0]](arguments[1:]) if step]
    runner.run(steps, AT_ONCE if arguments[0] == "test" else 1)
    seconds = time.monotonic() - started
    if runner.failed:
        print(f"== FAILED after {seconds:.0f} s: {', '.join(runner.failed)}")
        return 1
    print(f"== all {len(steps)} steps passed in {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

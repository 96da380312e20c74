# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests on the real /dev/kvm share: images, the built helper, and processes that end."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.kvm import archive, probe
from ansible.module_utils.kvm.programs import PROGRAMS
from declared import Host

HERE = Path(__file__).parent
LONG = 20.0  # seconds that nothing here takes, even on a busy machine


@pytest.fixture(scope="session")
def images() -> SimpleNamespace:
    """Return the functions of images.py."""
    return SimpleNamespace(**runpy.run_path(str(HERE / "images.py")))


@pytest.fixture(scope="session")
def program(images: SimpleNamespace) -> Callable[[str], bytes]:
    """Return the guest image of a program by its name: shipped, or one of programs.py."""
    codes: dict[str, bytes] = runpy.run_path(str(HERE / "programs.py"))["PROGRAMS"]
    # 32-bit code, entered behind a header; and what is entered as a kernel is.
    protected = {"multiboot", "mmio", "triple_fault", "virtio_polled", "virtio_msix"}
    kernels = {"pvh": images.pvh, "power_off": images.pvh, "linux64": images.program64}

    def image(name: str) -> bytes:
        if name in PROGRAMS:
            return PROGRAMS[name]
        if name in kernels:
            return bytes(kernels[name](codes[name]))
        return bytes(images.multiboot(codes[name])) if name in protected else codes[name]

    return image


@pytest.fixture(scope="session")
def ring0() -> str:
    """Return whether ring 0 is native or emulated on this machine."""
    return str(probe.probe()["ring0"])


@pytest.fixture(scope="session")
def public_folder() -> Iterator[Path]:
    """Return a folder that every user may enter: those of pytest are for its own user alone."""
    with tempfile.TemporaryDirectory(prefix="virtfleet-tests-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def archived_helper(public_folder: Path) -> Path:
    """Return the helper's archive, built for these tests."""
    path = public_folder / "kvm-helper.pyz"
    archive.write(str(path))
    return path


def _oldest_python() -> str | None:
    candidates = ["python3.8"]
    pyenv = shutil.which("pyenv")
    if pyenv:
        found = subprocess.run(
            [pyenv, "prefix", "3.8"], capture_output=True, text=True, check=False
        )
        candidates.append(f"{found.stdout.strip()}/bin/python3.8")
    for candidate in candidates:
        path = shutil.which(candidate)
        # pyenv's shims are there even when the version that they stand for is not chosen.
        if path and subprocess.run([path, "-V"], capture_output=True, check=False).returncode == 0:
            return path
    return None


@pytest.fixture(scope="session")
def pythons() -> dict[str, str | None]:
    """Return the interpreters that the helper is run with: the host's own and the oldest."""
    system = "/usr/bin/python3"
    host = system if os.access(system, os.X_OK) else sys.executable
    return {"host": host, "oldest": _oldest_python()}


@dataclass(frozen=True)
class Done:
    """What a command left: exit status, standard output and standard error."""

    status: int
    out: str
    err: str


class Helper:
    """Runs the built helper and ends all that it started."""

    def __init__(self, python: str, archived: Path) -> None:
        self.command = [python, str(archived)]
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str, **settings: Any) -> subprocess.Popen[bytes]:
        """Start the helper in a session of its own, its three streams as pipes unless told."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process: subprocess.Popen[bytes] = subprocess.Popen(
            [*self.command, *arguments], start_new_session=True, **{**pipes, **settings}
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, stdin: bytes = b"", **settings: Any) -> Done:
        """Run the helper to its end, which must come, and leave no process behind."""
        process = self.start(*arguments, **settings)
        out, err = process.communicate(stdin, timeout=LONG)
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
        return Done(
            process.returncode,
            (out or b"").decode("utf-8", "replace"),
            (err or b"").decode("utf-8", "replace"),
        )

    def close(self) -> None:
        """End what still runs, by its process id."""
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream and not stream.closed:
                    stream.close()


@pytest.fixture
def helper(pythons: dict[str, str | None], archived_helper: Path) -> Iterator[Helper]:
    """Return the built helper, run by the host's own Python."""
    made = Helper(str(pythons["host"]), archived_helper)
    yield made
    made.close()


@pytest.fixture(params=["host", "oldest"])
def any_helper(
    request: pytest.FixtureRequest, pythons: dict[str, str | None], archived_helper: Path
) -> Iterator[Helper]:
    """Return the built helper, run by the host's own Python and by the oldest in turn."""
    python = pythons[request.param]
    if python is None:
        pytest.skip("there is no python3.8 here and pyenv has none either")
    made = Helper(python, archived_helper)
    yield made
    made.close()


@pytest.fixture
def image(tmp_path: Path, program: Callable[[str], bytes]) -> Callable[[str | bytes], str]:
    """Write a program, or bytes, to a file and return its path."""

    def write(what: str | bytes) -> str:
        content = program(what) if isinstance(what, str) else what
        path = tmp_path / f"image-{what if isinstance(what, str) else len(what)}"
        path.write_bytes(content)
        return str(path)

    return write


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Wait until a function returns something true, and return that."""

    def wait(condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + LONG
        while True:
            found = condition()
            if found:
                return found
            assert time.monotonic() < deadline, "it did not come about"
            time.sleep(0.005)

    return wait


@pytest.fixture
def host(helper) -> Iterator[Host]:
    root = tempfile.mkdtemp(prefix="virtfleet-serve-")
    Path(root).chmod(0o755)
    yield Host(root, helper)
    helper.close()  # before what it writes to goes away
    shutil.rmtree(root)

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan of the host's settings is made of: operations as data, and the one who does them.

A plan stays pure because it only names what shall be written and run. Files are written whole or
not at all, and an operation that was done already can be done again.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Callable, Iterable, Sequence, Tuple, Union

from ..converge.errors import VirtfleetError

if TYPE_CHECKING:
    from ..converge.action import Action

Runner = Callable[[Sequence[str]], Tuple[int, str, str]]  # a command → its status, stdout, stderr
_SHOWN = 400  # characters of what a failed command said


class OperationError(VirtfleetError):
    """An operation failed; the message says which, the data what the system said."""


@dataclass(frozen=True)
class Write:
    """Make the file at ``path`` (absolute, on the host) hold ``content``; None removes it."""

    path: str
    content: str | None
    mode: int = 0o644


@dataclass(frozen=True)
class Put:
    """Write ``value`` into a file that the kernel offers below /proc or /sys."""

    path: str
    value: str


@dataclass(frozen=True)
class Run:
    """Run a command; any other status than ``ok`` is a failure."""

    argv: tuple[str, ...]
    ok: tuple[int, ...] = (0,)


Operation = Union[Write, Put, Run]


@dataclass(frozen=True)
class Step:
    """An action as people see it, and the operations that carry it out, in order."""

    action: Action
    operations: tuple[Operation, ...] = field(default=(), repr=False)


def write_file(path: str, content: str, mode: int) -> None:
    """Replace the file at ``path``, making its folder, so that no reader ever sees a part of it."""
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{os.path.basename(path)}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask is
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


class Executor:
    """Carries operations out under ``root``; commands run only where that is the real root."""

    def __init__(self, root: str, run: Runner) -> None:
        self.root = root
        self._run = run

    def _at(self, path: str) -> str:
        return path if self.root == "/" else self.root.rstrip("/") + path

    def apply(self, steps: Iterable[Step]) -> None:
        """Carry out all steps in order; OperationError at the first that fails."""
        for step in steps:
            for operation in step.operations:
                self.execute(operation)

    def execute(self, operation: Operation) -> None:
        """Carry out one operation."""
        if isinstance(operation, Run):
            if self.root == "/":
                self._command(operation)
            return
        path = self._at(operation.path)
        try:
            if isinstance(operation, Put):
                self._put(path, operation.value)
            elif operation.content is not None:
                write_file(path, operation.content, operation.mode)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(path)
        except OSError as error:
            raise OperationError(
                f"cannot write {operation.path}: {error.strerror}", path=operation.path
            ) from error

    @staticmethod
    def _put(path: str, value: str) -> None:
        # One write(2): the kernel takes a value as a whole.
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)

    def _command(self, operation: Run) -> None:
        status, out, error = self._run(operation.argv)
        if status not in operation.ok:
            said = (error.strip() or out.strip())[-_SHOWN:]
            raise OperationError(
                f"{' '.join(operation.argv)} ended with status {status}: {said or 'no message'}",
                argv=list(operation.argv),
                status=status,
            )

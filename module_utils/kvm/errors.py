# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong in the helper, each with the exit status that the command line gives for it.

A guest's own status, ``((v << 1) | 1) & 0xff``, is always odd; the helper's are all even. The
numbers follow sysexits.h where it has the case.
"""

from __future__ import annotations

EXIT_OK = 0  # clean shutdown or reset
EXIT_USAGE = 64
EXIT_INPUT = 66  # an input file is missing, unreadable or not what it should be
EXIT_INTERNAL = 70  # an internal error of KVM or of ours
EXIT_TRIPLE_FAULT = 72
EXIT_IO = 74
EXIT_CONFIG = 78
EXIT_TIMEOUT = 124


class KvmError(Exception):
    """A failure with the helper's exit status and, where one is known, the remedy."""

    status = EXIT_INTERNAL

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy


def trace(error: BaseException) -> str:
    """Return where an error came from, as lines.

    The module traceback costs milliseconds at every start, and cannot be loaded in a guest's jail.
    """
    lines = ["Traceback (most recent call last):"]
    at = error.__traceback__
    while at is not None:
        code = at.tb_frame.f_code
        lines.append(f'  File "{code.co_filename}", line {at.tb_lineno}, in {code.co_name}')
        at = at.tb_next
    lines.append(f"{type(error).__name__}: {error}\n")
    cause = error.__cause__ or error.__context__
    before = f"{trace(cause)}\nwhich led to:\n\n" if cause else ""
    return before + "\n".join(lines)


class UsageError(KvmError):
    """The command line is wrong."""

    status = EXIT_USAGE


class InputFileError(KvmError):
    """A file that was given cannot be used."""

    status = EXIT_INPUT


class HostError(KvmError):
    """The host refuses: /dev/kvm is missing, forbidden, busy or of another API version."""

    status = EXIT_CONFIG


class ConfigError(KvmError):
    """The guest as described cannot be made."""

    status = EXIT_CONFIG


class OutputError(KvmError):
    """Input or output failed on the host's side."""

    status = EXIT_IO


class ControlError(KvmError):
    """A running guest's control socket does not answer, or refuses."""

    status = EXIT_IO

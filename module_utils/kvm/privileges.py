# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Giving up root: an unprivileged user without a name, no groups, no way back."""

from __future__ import annotations

import ctypes
import os
import resource

from .errors import KvmError
from .layout import FIRST_UID, UID_MASK

# include/uapi/linux/prctl.h, capability.h
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _CLEAR_ALL = 24, 38, 47, 4
_SYS_CAPSET = 126
_CAPABILITY_VERSION_3 = 0x2008_0522
_MOST_CAPABILITIES = 64


def drop(uid: int) -> None:
    """Become ``uid`` for good, with the group of the same number, if this process is root.

    No capability is left, nor one that could be regained. No core dump will hold the guest's
    memory, and no program that is started gains privileges. Raises KvmError if the kernel did not
    take all of it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise KvmError(f"cannot set no_new_privs: {os.strerror(ctypes.get_errno())}")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.geteuid() != 0:
        return
    for number in range(_MOST_CAPABILITIES):
        # Refused without CAP_SETPCAP, and for numbers that the kernel does not know.
        libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    libc.prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)
    try:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise KvmError(f"cannot become user {uid}: {error.strerror}") from error
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (uid, uid, uid):
        raise KvmError(f"cannot become user {uid}")
    # The other user has lost the effective ones; the inheritable ones are kept until they are told.
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    if libc.syscall(_SYS_CAPSET, header, (ctypes.c_uint32 * 6)()) != 0:
        raise KvmError(f"cannot drop capabilities: {os.strerror(ctypes.get_errno())}")


def passing_uid() -> int:
    """Return a user for a guest without a definition: of this process alone."""
    return FIRST_UID | os.getpid() & UID_MASK

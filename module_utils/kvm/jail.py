# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The jail of a declared guest's process: after everything is open, before the guest is looked at.

What is left is what was opened, the folder ``state/`` at its own path, and the system calls that a
running guest takes. Each wall stands alone: a host (a container, say) that refuses one is told in
the guest's status, and the others stand all the same. Sources: mount_namespaces(7), pivot_root(2),
open_tree(2), capabilities(7).
"""

from __future__ import annotations

import ctypes
import os
import resource
from contextlib import suppress
from typing import Any

from . import privileges, seccomp

_NAMESPACES = {"mnt": 0x0002_0000, "ipc": 0x0800_0000, "uts": 0x0400_0000, "net": 0x4000_0000}
# include/uapi/linux/mount.h
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_PROGRAMS = 1, 2, 4, 8
_REMOUNT, _BIND, _MOVE, _RECURSIVE, _PRIVATE = 1 << 5, 1 << 12, 1 << 13, 1 << 14, 1 << 18
_HARMLESS = _NO_SUID | _NO_DEVICES | _NO_PROGRAMS
_DETACH = 2  # MNT_DETACH
_SYS_PIVOT_ROOT, _SYS_OPEN_TREE = 155, 428
_OPEN_TREE_CLONE = 1
_AT_FDCWD = -100
_DESCRIPTORS = 8192  # all that the devices of a guest can have
_THREADS = 64  # beside those of vCPUs and devices
_THREADS_OF_A_DEVICE = 16


def open_folder(path: str) -> int:
    """Return a descriptor of a folder from which no way leads to those above it.

    It is of a mount of its own that nothing else is in. Where that is refused it is an ordinary
    one, which the system call filter keeps from being used for more than a lock.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    libc = ctypes.CDLL(None, use_errno=True)
    how = _OPEN_TREE_CLONE | os.O_CLOEXEC
    tree = libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), how)
    if tree < 0:
        return os.open(path, flags)
    try:
        return os.open(".", flags, dir_fd=tree)
    finally:
        os.close(tree)


class Jail:
    """Builds the jail of one guest around this process. To be called while it has one thread.

    ``folder`` stays reachable; on ``stage``, a folder of root's, the new root is built. Both are
    absolute paths.
    """

    def __init__(self, uid: int, folder: str, stage: str) -> None:
        self._uid = uid
        self._folder = folder
        self._stage = stage
        self._refused: list[str] = []
        self._namespaces: list[str] = []
        self._root = self._seccomp = False

    def enter(self, vcpus: int, devices: int) -> dict[str, Any]:
        """Enter it for good and return what is in force: the ``jail`` of the guest's status.

        Raises KvmError if not even the privileges can be given up.
        """
        load_all()
        if os.geteuid() == 0:
            self._leave()
        _limit(vcpus + _THREADS_OF_A_DEVICE * devices + _THREADS)
        privileges.drop(self._uid)
        try:
            seccomp.install()
            self._seccomp = True
        except OSError as error:
            self._refused.append(f"seccomp: {error.strerror}")
        return {
            "namespaces": sorted(self._namespaces),
            "root": "own" if self._root else "host",
            "seccomp": self._seccomp,
            "refused": self._refused,
        }

    def _leave(self) -> None:
        """Leave the host's namespaces and its root."""
        libc = ctypes.CDLL(None, use_errno=True)
        for name, flag in _NAMESPACES.items():
            if libc.unshare(flag) == 0:
                self._namespaces.append(name)
            else:
                self._refused.append(f"{name} namespace: {os.strerror(ctypes.get_errno())}")
        if "mnt" not in self._namespaces:
            return
        try:
            self._change_root(libc)
            self._root = True
        except OSError as error:
            self._refused.append(f"root: {error.strerror}")

    def _change_root(self, libc: ctypes.CDLL) -> None:
        """Make a root with nothing in it but the folder, and let go of the old one."""

        def mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
            names = [None if name is None else os.fsencode(name) for name in (source, target, kind)]
            options = b"size=64k,mode=0755" if kind else None
            if libc.mount(*names, ctypes.c_ulong(flags), options) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))

        mount(None, "/", None, _RECURSIVE | _PRIVATE)
        mount("tmpfs", self._stage, "tmpfs", _HARMLESS)
        inside = self._stage + self._folder
        mask = os.umask(0o022)  # the guest's user has to get through
        os.makedirs(inside)
        os.umask(mask)
        mount(self._folder, inside, None, _BIND)
        mount(None, inside, None, _REMOUNT | _BIND | _HARMLESS)
        mount(None, self._stage, None, _REMOUNT | _READ_ONLY | _HARMLESS)
        os.chdir(self._stage)
        # The old root comes to lie upon the new one, from where it is taken (pivot_root(2)).
        if libc.syscall(_SYS_PIVOT_ROOT, b".", b".") == 0:
            if libc.umount2(b".", _DETACH) != 0:
                raise OSError(ctypes.get_errno(), "the old one cannot be taken away")
        else:  # a root in the initial RAM disk cannot be exchanged
            mount(".", "/", None, _MOVE)
            os.chroot(".")
        os.chdir("/")


def _limit(threads: int) -> None:
    """Bound what this process can take of the host; the user is the guest's own."""
    for limit, value in (
        (resource.RLIMIT_NOFILE, _DESCRIPTORS),
        (resource.RLIMIT_NPROC, threads),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        _, most = resource.getrlimit(limit)
        least = value if most == resource.RLIM_INFINITY else min(value, most)
        with suppress(OSError, ValueError):
            resource.setrlimit(limit, (least, least))


def load_all() -> None:
    """Load what is otherwise loaded when it is needed: in the jail there are no files to load.

    What a guest's devices stand on was loaded when it was opened.
    """
    from . import acpi, events, linux, pci  # noqa: F401
    from .virtio import pci as _  # noqa: F401

    with suppress(OSError):
        ctypes.CDLL("libgcc_s.so.1")  # the C library loads it when the first thread ends

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The system calls that a running guest's process may make, as a filter for the kernel.

Sources: Documentation/userspace-api/seccomp_filter.rst, arch/x86/entry/syscalls/syscall_64.tbl. The
filter is a list of short blocks, each of which ends in an answer, so nothing in it jumps far. What
stands on no list fails with EPERM; what only an intruder would try ends the process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Iterable, Mapping, NamedTuple

_SYS_SECCOMP, _SET_MODE_FILTER = 317, 1
_ALL_THREADS, _LOG = 1, 2  # SECCOMP_FILTER_FLAG_TSYNC, _LOG
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_ARCH_X86_64 = 0xC000_003E  # AUDIT_ARCH_X86_64
_X32 = 0x4000_0000  # from here on the numbers are of another ABI

# include/uapi/linux/seccomp.h
KILL, ALLOW, _ERRNO = 0x8000_0000, 0x7FFF_0000, 0x0005_0000
# include/uapi/linux/bpf_common.h: load a word, compare with a constant, and, return
_LOAD, _EQUAL, _AT_LEAST, _ANY_OF, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
# struct seccomp_data
_NUMBER, _ARCH = 0, 4


def refuse(number: int) -> int:
    """Return the answer that lets a call fail with an error's number."""
    return _ERRNO | number


def _argument(index: int) -> int:
    """Return where the low half of an argument stands."""
    return 16 + 8 * index


class Instruction(NamedTuple):
    """struct sock_filter: what to do, how far to jump if true and if false, and a constant."""

    code: int
    true: int
    false: int
    value: int


Block = Iterable[Instruction]

_FREE = {
    "read": 0,
    "write": 1,
    "close": 3,
    "stat": 4,
    "fstat": 5,
    "lstat": 6,
    "poll": 7,
    "lseek": 8,
    "munmap": 11,
    "brk": 12,
    "rt_sigaction": 13,
    "rt_sigprocmask": 14,
    "rt_sigreturn": 15,
    "pread64": 17,
    "pwrite64": 18,
    "readv": 19,
    "writev": 20,
    "access": 21,
    "select": 23,
    "sched_yield": 24,
    "mremap": 25,
    "msync": 26,
    "madvise": 28,
    "dup": 32,
    "nanosleep": 35,
    "getpid": 39,
    "accept": 43,
    "sendto": 44,
    "recvfrom": 45,
    "sendmsg": 46,
    "recvmsg": 47,
    "shutdown": 48,
    "getsockname": 51,
    "getpeername": 52,
    "setsockopt": 54,
    "getsockopt": 55,
    "exit": 60,
    "wait4": 61,
    "uname": 63,
    "fcntl": 72,
    "flock": 73,
    "fsync": 74,
    "fdatasync": 75,
    "ftruncate": 77,
    "getcwd": 79,
    "rename": 82,
    "unlink": 87,
    "umask": 95,
    "gettimeofday": 96,
    "getrlimit": 97,
    "getrusage": 98,
    "sysinfo": 99,
    "getuid": 102,
    "getgid": 104,
    "geteuid": 107,
    "getegid": 108,
    "sigaltstack": 131,
    "gettid": 186,
    "time": 201,
    "futex": 202,
    "sched_setaffinity": 203,
    "sched_getaffinity": 204,
    "set_tid_address": 218,
    "restart_syscall": 219,
    "clock_gettime": 228,
    "clock_getres": 229,
    "clock_nanosleep": 230,
    "exit_group": 231,
    "epoll_wait": 232,
    "epoll_ctl": 233,
    "tgkill": 234,
    "fadvise64": 221,
    "newfstatat": 262,
    "pselect6": 270,
    "ppoll": 271,
    "set_robust_list": 273,
    "sync_file_range": 277,
    "epoll_pwait": 281,
    "fallocate": 285,
    "accept4": 288,
    "eventfd2": 290,
    "epoll_create1": 291,
    "pipe2": 293,
    "preadv": 295,
    "pwritev": 296,
    "prlimit64": 302,
    "getrandom": 318,
    "memfd_create": 319,
    "membarrier": 324,
    "preadv2": 327,
    "pwritev2": 328,
    "statx": 332,
    "rseq": 334,
    "close_range": 436,
    "futex_waitv": 449,
}

# Other programs, other privileges, the kernel itself: a helper that tries this is not the helper.
_HOSTILE = {
    "execve": 59,
    "ptrace": 101,
    "modify_ldt": 154,
    "pivot_root": 155,
    "chroot": 161,
    "acct": 163,
    "settimeofday": 164,
    "mount": 165,
    "umount2": 166,
    "swapon": 167,
    "swapoff": 168,
    "reboot": 169,
    "sethostname": 170,
    "setdomainname": 171,
    "iopl": 172,
    "ioperm": 173,
    "init_module": 175,
    "delete_module": 176,
    "quotactl": 179,
    "clock_settime": 227,
    "kexec_load": 246,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "unshare": 272,
    "perf_event_open": 298,
    "open_by_handle_at": 304,
    "setns": 308,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "finit_module": 313,
    "kexec_file_load": 320,
    "bpf": 321,
    "execveat": 322,
    "userfaultfd": 323,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
}

_IOCTL, _MMAP, _MPROTECT, _CLONE, _PRCTL, _OPENAT, _CLONE3 = 16, 9, 10, 56, 157, 257, 435
_PROT_EXEC = 4
_CLONE_THREAD = 0x1_0000
_AT_FDCWD = 0xFFFF_FF9C
_PR_SET_NAME = 15
# By the letter of the request: KVM's, vhost's, a block device's; and of the letter T, under which
# terminals keep what would type for whoever sits there, a tap's and what a stream is asked for.
_LETTERS = (0xAE, 0xAF, 0x12)
_STREAM = (0x5401, 0x5421, 0x5450, 0x5451)  # TCGETS (isatty), FIONBIO, FIONCLEX, FIOCLEX
_TAP = (208, 216, 217)  # TUNSETOFFLOAD, TUNSETVNETHDRSZ, TUNSETQUEUE


def _answer(value: int) -> Instruction:
    return Instruction(_RETURN, 0, 0, value)


def _load(offset: int) -> Instruction:
    return Instruction(_LOAD, 0, 0, offset)


def _is(value: int) -> list[Instruction]:
    """Allow the call if what was loaded is the value."""
    return [Instruction(_EQUAL, 0, 1, value), _answer(ALLOW)]


def _ioctl() -> list[Instruction]:
    """Allow the requests that the devices take. KVM's come first: every exit is one."""
    block = [_load(_argument(1)), Instruction(_AND, 0, 0, 0xFF00)]
    for letter in _LETTERS:
        block += _is(letter << 8)
    block.append(_load(_argument(1)))
    for request in _STREAM:
        block += _is(request)
    block.append(Instruction(_AND, 0, 0, 0xFFFF))
    for number in _TAP:
        block += _is(0x5400 | number)
    return [*block, _answer(refuse(errno.EPERM))]


def _unless_any(argument: int, bits: int) -> list[Instruction]:
    """Allow the call unless the argument has one of the bits."""
    return [
        _load(_argument(argument)),
        Instruction(_ANY_OF, 0, 1, bits),
        _answer(refuse(errno.EPERM)),
        _answer(ALLOW),
    ]


def _if_equal(argument: int, value: int) -> list[Instruction]:
    return [_load(_argument(argument)), *_is(value), _answer(refuse(errno.EPERM))]


def _thread() -> list[Instruction]:
    """Allow a thread, but no process."""
    return [
        _load(_argument(0)),
        Instruction(_ANY_OF, 0, 1, _CLONE_THREAD),
        _answer(ALLOW),
        _answer(refuse(errno.EPERM)),
    ]


def _program(
    blocks: Mapping[int, Block], free: Iterable[int], hostile: Iterable[int], rest: int
) -> list[Instruction]:
    """Return the filter: by number a block, or allowed, or the end; ``rest`` for all others."""
    made = [
        _load(_ARCH),
        Instruction(_EQUAL, 1, 0, _ARCH_X86_64),
        _answer(KILL),
        _load(_NUMBER),
        Instruction(_AT_LEAST, 0, 1, _X32),
        _answer(KILL),
    ]
    for number, block in blocks.items():
        body = list(block)
        made += [Instruction(_EQUAL, 0, len(body), number), *body]
    for numbers, value in ((free, ALLOW), (hostile, KILL)):
        for number in numbers:
            made += [Instruction(_EQUAL, 0, 1, number), _answer(value)]
    return [*made, _answer(rest)]


def programs() -> list[tuple[list[Instruction], int]]:
    """Return the filters in the order in which they are set, each with its flags.

    clone3 hides its flags in memory: it is not there, and the C library takes clone instead. That
    is a filter of its own, as what the other one refuses is logged.
    """
    blocks = {
        _IOCTL: _ioctl(),
        _MMAP: _unless_any(2, _PROT_EXEC),
        _MPROTECT: _unless_any(2, _PROT_EXEC),
        _CLONE: _thread(),
        _OPENAT: _if_equal(0, _AT_FDCWD),  # below no folder that a descriptor leads to
        _PRCTL: _if_equal(0, _PR_SET_NAME),
        _CLONE3: [_answer(ALLOW)],
    }
    missing = {_CLONE3: [_answer(refuse(errno.ENOSYS))]}
    main = _program(blocks, _FREE.values(), _HOSTILE.values(), refuse(errno.EPERM))
    return [(_program(missing, (), (), ALLOW), 0), (main, _LOG)]


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def _set(libc: ctypes.CDLL, program: list[Instruction], flags: int) -> None:
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    argument = ctypes.byref(_Program(len(program), code))
    if libc.syscall(_SYS_SECCOMP, _SET_MODE_FILTER, _ALL_THREADS | flags, argument) == 0:
        return
    # A kernel or a sandbox without that call has the older one, for this thread and its children.
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, argument, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def install() -> None:
    """Hold this process to the filters for good; OSError if the kernel does not take them.

    ``no_new_privs`` must be set (seccomp(2)).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for program, flags in programs():
        _set(libc, program, flags)

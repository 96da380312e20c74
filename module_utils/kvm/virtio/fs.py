# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A shared folder (Virtio 1.2, section 5.11), served by the host's virtiofsd over vhost-user.

The daemon is started as root before the guest is looked at, and puts itself into a sandbox in which
there is nothing but the folder. Its only tie to this process is a socket: when that closes, however
this process ends, the daemon ends.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, HostError, InputFileError, KvmError
from ..events import Event
from .device import EVENT_INDEX, INDIRECT, VirtioDevice
from .queue import BrokenDriver
from .vhost_user import MOST_REGIONS, FrontEnd, PeerError

if TYPE_CHECKING:
    from ..memory import Region

TAG_SIZE = 36  # bytes
# Where distributions have it, and what it needs to be quiet: the older one is QEMU's own.
DAEMONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("/usr/libexec/virtiofsd", ()),
    ("/usr/lib/virtiofsd", ()),
    ("/usr/lib/qemu/virtiofsd", ("-o", "log_level=err")),
)
_DEPTH = 1024  # the most that both daemons take
_PRIORITY, _REQUESTS = 0, 1
_END_GRACE = 2.0  # seconds in which a daemon has to end by itself
# include/uapi/linux/sched.h and mount.h
_CLONE_NEWNS = 0x20000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18


def find_daemon(binary: str | None = None) -> tuple[str, tuple[str, ...]]:
    """Return the daemon and its own arguments; HostError where there is none."""
    for path, arguments in DAEMONS:
        if binary in {None, path} and os.access(path, os.X_OK):
            return path, arguments
    if binary is not None and os.access(binary, os.X_OK):
        return binary, ()
    places = binary or ", ".join(path for path, _ in DAEMONS)
    raise HostError(
        f"a shared folder needs virtiofsd, which is not there ({places})",
        "install virtiofsd; on Debian 12 it is part of qemu-system-common",
    )


def _mount(source: str | None, target: str, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    from_where = os.fsencode(source) if source is not None else None
    if libc.mount(from_where, os.fsencode(target), None, ctypes.c_ulong(flags), None):
        number = ctypes.get_errno()
        raise OSError(number, f"cannot mount {target}: {os.strerror(number)}")


def _see_read_only(folder: str) -> None:
    """Give this process its own view of the file system, in which ``folder`` is read-only."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        number = ctypes.get_errno()
        raise OSError(number, f"cannot have a mount namespace: {os.strerror(number)}")
    _mount(None, "/", _MS_REC | _MS_PRIVATE)
    _mount(folder, folder, _MS_BIND)
    _mount(None, folder, _MS_REMOUNT | _MS_BIND | _MS_RDONLY)


def _become(arguments: list[str], listener: int, read_only: str | None) -> None:
    """Become the daemon, in a process of its own; comes back never."""
    try:
        os.setsid()  # what a terminal sends to the guest's process is not for the daemon
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.set_inheritable(listener, True)
        if read_only is not None:
            _see_read_only(read_only)
        os.execv(arguments[0], arguments)  # noqa: S606 - a list of arguments, no shell
    except OSError as error:
        os.write(2, f"kvm-helper: {arguments[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def _meet(listener: socket.socket, connection: socket.socket) -> None:
    """Let ``connection`` wait for whoever will accept at ``listener``; HostError if it cannot.

    They meet in a folder for nobody else, which is gone afterwards: whoever could connect would
    read and write what is shared.
    """
    base = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - a name that nobody can guess
    place = os.path.join(base, f"virtfleet-{os.urandom(8).hex()}")
    name = os.path.join(place, "fs")
    try:
        os.mkdir(place, 0o700)
        try:
            listener.bind(name)
            listener.listen(1)
            connection.connect(name)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)
            os.rmdir(place)
    except OSError as error:
        raise HostError(f"cannot make a socket in {place}: {error.strerror or error}") from error


class Share:
    """A folder of the host with the daemon that serves it. ``tag`` is what the guest mounts."""

    def __init__(
        self, path: str, tag: str, *, read_only: bool = False, binary: str | None = None
    ) -> None:
        self.tag = tag
        self.path = os.path.realpath(path)
        if not 0 < len(tag.encode()) <= TAG_SIZE or "\0" in tag:
            raise ConfigError(f"a tag has 1 to {TAG_SIZE} bytes, found {tag!r}")
        if not os.path.isdir(self.path):
            raise InputFileError(f"the folder to share, {path}, is not there or is no folder")
        if "," in self.path:
            raise ConfigError(f"virtiofsd takes no folder with a comma in its name, found {path}")
        daemon, own = find_daemon(binary)
        self.daemon = daemon
        arguments = [daemon, *own, "-o", f"source={self.path}"]
        self.front_end, self._pid = self._start(arguments, self.path if read_only else None)

    @staticmethod
    def _start(arguments: list[str], read_only: str | None) -> tuple[FrontEnd, int]:
        """Start the daemon with a connection that waits for it already."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with ExitStack() as undo:
            undo.callback(connection.close)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                _meet(listener, connection)
                pid = os.fork()
                if not pid:
                    _become([*arguments, f"--fd={listener.fileno()}"], listener.fileno(), read_only)
            undo.pop_all()
        return FrontEnd(connection), pid

    def negotiate(self) -> int:
        """Return the daemon's features; HostError if it does not come up."""
        try:
            return self.front_end.negotiate()
        except PeerError as error:
            raise HostError(f"{self.daemon} does not serve {self.path}: {error}") from error

    def close(self) -> None:
        """Let the daemon end."""
        self.front_end.close()
        deadline = time.monotonic() + _END_GRACE
        with suppress(ChildProcessError):
            while os.waitpid(self._pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
                time.sleep(0.005)


class FileSystem(VirtioDevice):
    """The device of a share. The guest's memory must be shared (memory.Backing)."""

    kind = 26
    name = "fs"
    class_code = 0x01_80_00
    limits = (_DEPTH, _DEPTH)  # for what has priority, and for all else
    in_kernel = (_PRIORITY, _REQUESTS)  # rather: in the daemon

    def __init__(self, share: Share) -> None:
        super().__init__()
        found = share.negotiate()
        self.ring_features = found & (INDIRECT | EVENT_INDEX)
        self.config = bytearray(struct.pack(f"<{TAG_SIZE}sI", share.tag.encode(), 1))
        self._front_end = share.front_end
        self._served: list[int] = []
        self._unheard = Event()  # takes the interrupts that the driver wants none of

    def attach(self, transport: Any) -> None:
        """Take the transport, once. ConfigError if the daemon cannot map the guest's memory."""
        super().attach(transport)
        if len(self._mappable()) > MOST_REGIONS or any(
            region.fd < 0 for region in transport.memory.regions
        ):
            raise ConfigError("a shared folder needs memory that is shared, in 8 regions at most")

    def _mappable(self) -> list[Region]:
        # A file that is open for reading alone cannot be mapped as the daemon does it.
        regions: list[Region] = self.transport.memory.regions
        return [region for region in regions if not region.read_only]

    def start(self) -> None:
        """Hand the queues over."""
        transport = self.transport
        queues = []
        for index, queue in enumerate(self.queues):
            if queue.enabled:
                call = transport.vector_event(queue) or self._unheard
                queues.append((index, queue, self.kicks[index].fd, call.fd))
        self._served = [index for index, *_ in queues]
        try:
            self._front_end.start(self.accepted, self._mappable(), queues)
        except (PeerError, KvmError) as error:
            raise BrokenDriver(f"the share's daemon cannot begin: {error}") from error
        self.counts["sessions"] += 1
        for index in self._served:
            self.kicks[index].signal()  # buffers that were there before need no notification

    def vector_changed(self, index: int) -> None:
        """Let the daemon raise another interrupt."""
        if index in self._served and not self._front_end.closed:
            call = self.transport.vector_event(self.queues[index]) or self._unheard
            with suppress(PeerError):
                self._front_end.set_call(index, call.fd)

    @property
    def note(self) -> str:  # type: ignore[override]  # it changes here
        """What people are told of the daemon."""
        return "virtiofsd" if self._front_end.alive() else "virtiofsd has ended"

    def stop(self) -> None:
        """Take the queues back."""
        served, self._served = self._served, []
        if not self._front_end.closed:
            with suppress(PeerError):  # closed then, so that the daemon ends
                self._front_end.stop(served)

    def close(self) -> None:
        """Close what is of this device alone."""
        # Memory that the daemon still has is not free for the machine that follows.
        if self.counts["sessions"] and not self._front_end.closed:
            with suppress(PeerError):  # closed then, so that the daemon ends
                self._front_end.let_go(self._mappable())
        self._unheard.close()

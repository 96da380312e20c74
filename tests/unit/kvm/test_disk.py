# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Raw disks over files and block devices: who may have one, what is read, written, given back."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from ansible.module_utils.kvm import disk as module
from ansible.module_utils.kvm.disk import SECTOR, Raw
from ansible.module_utils.kvm.errors import EXIT_CONFIG, EXIT_INPUT, ConfigError, InputFileError
from ansible.module_utils.kvm.virtio.block import Block

MIB = 1 << 20
SOON = 10.0  # seconds in which everything here must have come about


@pytest.fixture
def opened():
    """Open disks that are closed with the test."""
    disks = []

    def open_disk(path, *, read_only=False):
        disks.append(Raw(str(path), read_only=read_only))
        return disks[-1]

    yield open_disk
    for disk in disks:
        disk.close()


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(range(256)) * 4096)
    return path


@pytest.fixture
def disk(opened, image):
    return opened(image)


def test_a_flush_goes_to_the_medium_and_an_error_of_it_is_told(disk, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    disk.write([memoryview(b"x" * SECTOR)], 0)
    assert synced == []
    disk.flush()
    assert synced == [disk.fd]

    def failing(_fd):
        raise OSError(errno.EIO, "the medium is gone")

    monkeypatch.setattr(os, "fdatasync", failing)
    with pytest.raises(OSError, match="the medium is gone"):
        disk.flush()


def buffers(*lengths):
    return [memoryview(bytearray(b"\xee" * length)) for length in lengths]


def read(disk, offset, *lengths, wait=True):
    pieces = buffers(*lengths)
    done = disk.read(pieces, offset, wait=wait)
    return b"".join(pieces) if done else None


# What can be a disk.


@pytest.mark.parametrize(
    ("size", "found"), [(512, 512), (513, 512), (1023, 512), (4096, 4096), (MIB + 1, MIB)]
)
def test_a_disk_has_whole_sectors(tmp_path, opened, size, found):
    path = tmp_path / "disk"
    path.write_bytes(b"x" * size)
    assert opened(path).size == found


@pytest.mark.parametrize("size", [0, 1, 511])
def test_a_disk_without_a_sector(tmp_path, size):
    path = tmp_path / "disk"
    path.write_bytes(b"x" * size)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(InputFileError, match=f"has {size} bytes: expected a disk image"):
        Raw(str(path), read_only=False)
    assert len(os.listdir("/proc/self/fd")) == before


NONE = {
    "missing": (lambda _: None, "cannot open .* for reading and writing: No such file"),
    "a folder": (lambda path: path.mkdir(), "cannot open .*: Is a directory"),
    "a named pipe": (lambda path: os.mkfifo(str(path)), "neither a regular file nor a block"),
    "a character device": (lambda path: path.symlink_to("/dev/null"), "neither a regular file"),
    "a link to nowhere": (lambda path: path.symlink_to("nowhere"), "No such file"),
    "a link to itself": (lambda path: path.symlink_to(path), "symbolic links"),
}


@pytest.mark.parametrize("case", NONE)
def test_what_is_no_disk(tmp_path, case):
    make, words = NONE[case]
    make(tmp_path / "disk")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(InputFileError, match=words) as refused:
        Raw(str(tmp_path / "disk"), read_only=False)
    assert refused.value.status == EXIT_INPUT
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
def test_a_disk_that_may_not_be_written(image, opened):
    image.chmod(0o444)
    with pytest.raises(InputFileError, match="for reading and writing: Permission denied"):
        opened(image)
    assert opened(image, read_only=True).size == MIB


def test_a_read_only_disk_is_opened_for_reading(image, opened):
    disk = opened(image, read_only=True)
    assert fcntl.fcntl(disk.fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    with pytest.raises(OSError, match="Bad file descriptor"):
        disk.write([memoryview(bytes(512))], 0)
    disk.flush()


# Reading and writing.


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize(
    ("offset", "lengths"),
    [(0, [512]), (512, [512, 1024]), (MIB - 512, [512]), (0, [1, 2, 509]), (4096, []), (0, [MIB])],
)
def test_reading(disk, image, offset, lengths, wait):
    image.read_bytes()  # the host has it in memory now
    wanted = (bytes(range(256)) * 4096)[offset : offset + sum(lengths)]
    assert read(disk, offset, *lengths, wait=wait) == wanted


@pytest.mark.parametrize(
    ("offset", "lengths"),
    [(0, [512]), (512, [512, 1024]), (MIB - 512, [512]), (0, [1, 511]), (0, [])],
)
def test_writing(disk, image, offset, lengths):
    pieces = [memoryview(os.urandom(length)) for length in lengths]
    before, data = image.read_bytes(), b"".join(pieces)
    disk.write(pieces, offset)
    disk.flush()
    assert image.read_bytes() == before[:offset] + data + before[offset + len(data) :]


def test_what_lies_beyond_a_file_that_became_shorter(disk, image):
    """Somebody cut the file under a guest: zeros, and never an endless wait."""
    os.truncate(str(image), 1000)
    data = read(disk, 512, 100, 400, 1000)
    assert data == (bytes(range(256)) * 4)[512:1000] + bytes(1012)
    assert read(disk, 512, 100, 400, 1000, wait=False) is None
    assert read(disk, 4096, 512, 512) == bytes(1024)


def test_a_read_that_ends_early_goes_on(monkeypatch, disk):
    """As one that a signal interrupts; here a file that gives a little at a time."""
    real = os.preadv

    def preadv(descriptor, pieces, offset, *flags):
        first = next(piece for piece in pieces if len(piece))
        return real(descriptor, [first[:7]], offset, *flags)

    monkeypatch.setattr(module.os, "preadv", preadv)
    assert read(disk, 512, 100, 412) == (bytes(range(256)) * 4)[512:1024]
    assert read(disk, 512, 100, 412, wait=False) is None


def test_a_write_that_ends_early_goes_on(monkeypatch, disk, image):
    real = os.pwritev
    monkeypatch.setattr(module.os, "pwritev", lambda fd, some, at: real(fd, [some[0][:7]], at))
    real_write = os.pwrite
    monkeypatch.setattr(module.os, "pwrite", lambda fd, data, at: real_write(fd, data[:100], at))
    data = os.urandom(512)
    disk.write([memoryview(data[:50]), memoryview(data[50:])], 1024)
    assert image.read_bytes()[1024:1536] == data


def test_a_disk_that_takes_no_more(monkeypatch, disk):
    monkeypatch.setattr(module.os, "pwritev", lambda *_: 100)
    monkeypatch.setattr(module.os, "pwrite", lambda *_: 0)
    with pytest.raises(OSError, match="No space left") as failed:
        disk.write([memoryview(bytes(512))], 0)
    assert failed.value.errno == errno.ENOSPC


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_cannot_say_what_it_has(monkeypatch, disk, number):
    """It is asked once: after that everything goes to the threads."""
    real, asked = os.preadv, []

    def preadv(descriptor, pieces, offset, flags=0):
        if flags:
            asked.append(flags)
            raise OSError(number, os.strerror(number))
        return real(descriptor, pieces, offset)

    monkeypatch.setattr(module.os, "preadv", preadv)
    assert read(disk, 0, 512, wait=False) is None
    assert read(disk, 0, 512, wait=False) is None
    assert len(asked) == 1
    assert read(disk, 0, 512) == (bytes(range(256)) * 2)


def test_what_would_wait_is_not_waited_for(monkeypatch, disk):
    def preadv(*_):
        raise BlockingIOError

    real = os.preadv
    monkeypatch.setattr(module.os, "preadv", preadv)
    assert read(disk, 0, 512, wait=False) is None
    monkeypatch.setattr(module.os, "preadv", real)
    assert read(disk, 0, 512, wait=False) is not None


@pytest.mark.parametrize("wait", [False, True])
def test_an_error_while_reading(monkeypatch, disk, wait):
    def preadv(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module.os, "preadv", preadv)
    with pytest.raises(OSError, match="Input/output error"):
        read(disk, 0, 512, wait=wait)


# Giving back.


def blocks(path):
    return path.stat().st_blocks * 512


def test_discarding_gives_space_back(disk, image):
    before = blocks(image)
    disk.discard(64 * 1024, 512 * 1024)
    assert blocks(image) <= before - 400 * 1024
    assert image.stat().st_size == MIB
    assert image.read_bytes()[: 64 * 1024] == bytes(range(256)) * 256


@pytest.mark.parametrize("unmap", [False, True])
@pytest.mark.parametrize(
    ("offset", "length"), [(0, 4096), (512, 512), (4096 - 512, 1024), (0, MIB)]
)
def test_zeroing(disk, image, offset, length, unmap):
    before = image.read_bytes()
    disk.zero(offset, length, unmap=unmap)
    assert image.read_bytes() == before[:offset] + bytes(length) + before[offset + length :]
    assert image.stat().st_size == MIB


class NoFallocate:
    """A C library over a file system that can neither punch holes nor zero ranges."""

    def __init__(self, number):
        self.number = number
        self.modes = []

    def fallocate64(self, descriptor, mode, offset, length):
        self.modes.append(mode)
        module.ctypes.set_errno(self.number)
        return -1


@pytest.mark.parametrize("unmap", [False, True])
@pytest.mark.parametrize("length", [512, MIB - 512])
def test_zeroing_by_writing(monkeypatch, disk, image, length, unmap):
    disk._libc = NoFallocate(errno.EOPNOTSUPP)
    before = image.read_bytes()
    disk.zero(512, length, unmap=unmap)
    assert image.read_bytes() == before[:512] + bytes(length) + before[512 + length :]
    # FALLOC_FL_KEEP_SIZE with PUNCH_HOLE, then with ZERO_RANGE.
    assert disk._libc.modes == ([0x03] if unmap else []) + [0x11]


def test_discarding_where_nothing_can_be_given_back(disk, image):
    disk._libc = NoFallocate(errno.EOPNOTSUPP)
    before = image.read_bytes()
    disk.discard(0, 4096)
    assert image.read_bytes() == before


@pytest.mark.parametrize("call", ["discard", "zero"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_giving_back_that_fails(disk, call, number):
    disk._libc = NoFallocate(number)
    settings = {"unmap": True} if call == "zero" else {}
    with pytest.raises(OSError, match=os.strerror(number)):
        getattr(disk, call)(0, 4096, **settings)


# Locks: two guests never write to one disk.


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [(False, False, False), (False, True, False), (True, False, False), (True, True, True)],
)
def test_who_may_have_a_disk_besides(opened, image, first, second, both):
    """True stands for one who only reads."""
    before = opened(image, read_only=first)
    descriptors = len(os.listdir("/proc/self/fd"))
    if both:
        assert opened(image, read_only=second).size == before.size
        return
    with pytest.raises(ConfigError, match="is in use by another guest or program") as refused:
        opened(image, read_only=second)
    assert refused.value.status == EXIT_CONFIG
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_disk_is_free_again_when_it_is_closed(image):
    for _ in range(3):
        disk = Raw(str(image), read_only=False)
        disk.close()


def test_the_same_disk_under_another_name(opened, image, tmp_path):
    opened(image)
    (tmp_path / "link").symlink_to(image)
    os.link(str(image), str(tmp_path / "hard"))
    for name in ("link", "hard"):
        with pytest.raises(ConfigError, match=f"{name} is in use"):
            opened(tmp_path / name)


def test_a_lock_outlives_a_second_descriptor(opened, image):
    """Locks of POSIX would be lost when the file is looked at and closed by anything here."""
    opened(image)
    image.read_bytes()
    with pytest.raises(ConfigError, match="is in use"):
        opened(image)


HOLDER = """
import runpy, sys, time
runpy.run_path(sys.argv[1])
from ansible.module_utils.kvm.disk import Raw
Raw(sys.argv[2], read_only=False)
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_ends_with_its_holder_however_that_ends(repository, opened, image):
    pytest.importorskip("ansible.module_utils.basic", reason="there is no Ansible for this Python")
    command = [sys.executable, "-c", HOLDER, str(repository / "plugins" / "shim.py"), str(image)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="is in use"):
            opened(image)
        holder.kill()
        holder.wait()
    assert opened(image).size == MIB


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (errno.EINVAL, None, ""),
        (errno.ENOLCK, None, ""),
        (errno.EAGAIN, ConfigError, "is in use"),
        (errno.EACCES, ConfigError, "is in use"),
        (errno.EIO, InputFileError, "cannot lock .*Input/output error"),
    ],
)
def test_locks_that_fail(monkeypatch, image, opened, number, error, words):
    """A file system that has no locks is used without; anything else is said."""

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module.fcntl, "fcntl", fail)
    if error is None:
        assert opened(image).size == MIB
        return
    with pytest.raises(error, match=words):
        opened(image)


# The same with QEMU's tools, in both directions.

needs_qemu = pytest.mark.skipif(
    not all(map(shutil.which, ("qemu-io", "qemu-img"))), reason="qemu-utils are not installed"
)


def qemu(tool, *arguments):
    return subprocess.run(
        [tool, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@contextmanager
def qemu_has(image, *options):
    """Keep the image open in qemu-io."""
    command = [str(shutil.which("qemu-io")), "-f", "raw", *options, str(image)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as holder:
        holder.stdin.write(b"length\n")
        holder.stdin.flush()
        seen = b""
        while b"MiB" not in seen:
            piece = os.read(holder.stdout.fileno(), 4096)
            assert piece, seen
            seen += piece
        yield
        holder.stdin.close()
        holder.stdout.read()


@needs_qemu
@pytest.mark.parametrize("read_only", [False, True])
def test_qemu_does_not_write_to_a_disk_of_ours(opened, image, read_only):
    opened(image, read_only=read_only)
    before = image.read_bytes()
    done = qemu("qemu-io", "-f", "raw", "-c", "write -P 0x55 0 4k", image)
    assert "lock" in done.stdout
    assert done.returncode != 0
    assert image.read_bytes() == before


@needs_qemu
@pytest.mark.parametrize("read_only", [False, True])
def test_qemu_copies_only_what_nobody_writes(opened, image, tmp_path, read_only):
    opened(image, read_only=read_only)
    done = qemu("qemu-img", "convert", image, tmp_path / "copy")
    assert ("lock" in done.stdout) == (not read_only), done.stdout
    assert (done.returncode == 0) == read_only


@needs_qemu
@pytest.mark.parametrize("read_only", [False, True])
def test_qemu_does_not_resize_a_disk_of_ours(opened, image, read_only):
    opened(image, read_only=read_only)
    assert "lock" in qemu("qemu-img", "resize", "-f", "raw", image, "2M").stdout
    assert image.stat().st_size == MIB


@needs_qemu
def test_qemu_reads_what_we_only_read(opened, image):
    opened(image, read_only=True)
    done = qemu("qemu-io", "-r", "-f", "raw", "-c", "read 0 4k", image)
    assert done.returncode == 0, done.stdout


@needs_qemu
@pytest.mark.parametrize("read_only", [False, True])
def test_what_qemu_writes_is_not_ours(opened, image, read_only):
    with qemu_has(image), pytest.raises(ConfigError, match="is in use"):
        opened(image, read_only=read_only)
    assert opened(image, read_only=read_only).size == MIB


@needs_qemu
def test_what_qemu_reads_we_may_read(opened, image):
    with qemu_has(image, "-r"):
        assert opened(image, read_only=True).size == MIB


# What another program does with the image or does not bear, by the byte that it has locked, and
# whether that goes with reading and with writing it (QEMU's block/file-posix.c and BLK_PERM_*).
CLAIMS = {
    "reads": (100, True, True),
    "writes": (101, False, False),
    "writes what is there already": (102, True, True),
    "resizes": (103, False, False),
    "bears no reader": (200, False, False),
    "bears no writer": (201, True, False),
    "bears none who writes what is there already": (202, True, True),
    "bears none who resizes": (203, True, True),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_what_others_claim(opened, image, case):
    place, reading, writing = CLAIMS[case]
    with image.open("rb") as file:
        module._lock_bytes(file.fileno(), module._SETLK, fcntl.F_RDLCK, place)
        for read_only, may in ((True, reading), (False, writing)):
            if may:
                Raw(str(image), read_only=read_only).close()
                continue
            with pytest.raises(ConfigError, match="is in use"):
                opened(image, read_only=read_only)


# Block devices and full disks, as root.


@contextmanager
def loop_device(path):
    """Stand a block device on a file."""
    if os.geteuid() != 0 or shutil.which("losetup") is None:
        pytest.skip("loop devices need root and losetup")
    done = subprocess.run(
        [str(shutil.which("losetup")), "--find", "--show", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    device = done.stdout.strip()
    if done.returncode or not os.path.exists(device):
        pytest.skip(f"there are no loop devices here: {done.stderr.strip()}")
    try:
        yield device
    finally:
        subprocess.run([str(shutil.which("losetup")), "--detach", device], check=True)


def test_a_block_device(opened, image):
    with loop_device(image) as device:
        disk = Raw(device, read_only=False)
        assert stat.S_ISBLK(os.fstat(disk.fd).st_mode)
        assert disk.size == MIB
        assert read(disk, 512, 512) == bytes(range(256)) * 2
        disk.write([memoryview(b"\x55" * 4096)], 4096)
        disk.zero(8192, 4096, unmap=True)
        disk.zero(16384, 4096, unmap=False)
        disk.discard(32768, 4096)
        disk.flush()
        with pytest.raises(ConfigError, match="is in use"):
            opened(device)
        disk.close()
    content = image.read_bytes()
    assert content[4096:8192] == b"\x55" * 4096
    assert content[8192:12288] == content[16384:20480] == bytes(4096)
    assert content[20480:32768] == bytes(range(256)) * 48


def test_a_host_that_is_full(drive, tmp_path):
    """The guest sees an error of its request; what was written before stays."""
    room = tmp_path / "room"
    room.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mounted = qemu("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", room)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stdout.strip()}")
    try:
        path = room / "disk"
        with path.open("wb") as file:
            file.truncate(8 * MIB)
        disk = Raw(str(path), read_only=False)
        driver = drive(Block(disk))
        driver.start()
        states = []
        for number in range(4):
            header = driver.buffer(
                bytes([1, 0, 0, 0, 0, 0, 0, 0]) + (number * 1024).to_bytes(8, "little")
            )
            status = driver.buffer(b"\xee")
            driver.ask(0, [header, driver.buffer(b"\x77" * 512 * 1024)], [status])
            deadline = time.monotonic() + SOON
            while not driver.rings[0].collect():
                assert time.monotonic() < deadline
                time.sleep(0.001)
            states.append(driver.content(status)[0])
        driver.close()
        assert states[0] == 0
        assert states[-1] == 1
        assert not driver.broken
        assert read(disk, 0, SECTOR) == b"\x77" * SECTOR
        disk.close()
    finally:
        subprocess.run([str(shutil.which("umount")), str(room)], check=True)

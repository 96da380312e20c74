# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2 images after a process that was killed and after a loss of power, at every write there is.

All that is done to the file is recorded. What a crash leaves is what was synced before, and of the
rest all (the process was killed) or any sectors (the power was lost). In that nothing may be wrong
but leaks, and every sector has what was flushed last or what was written later.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import threading
from contextlib import suppress

import pytest
from ansible.module_utils.kvm import disk as disk_module
from ansible.module_utils.kvm import qcow2, qcow2_image
from qcow2_images import Reader

SEED = 20261128
SECTOR = 512

# Bytes of a cluster, of the disk and of the base; the version.
SHAPES = {
    "512": (512, 600 << 10, 100 << 10, 3),
    "512, no base": (512, 600 << 10, 0, 3),
    "512, version 2": (512, 96 << 10, 50 << 10, 2),
    "4096": (4096, 1 << 20, 700 << 10, 3),
    "65536": (65536, (1 << 20) + 1536, 1 << 20, 3),
}


class Recorder(disk_module.Raw):
    """Keeps what is done to the file, in the order in which it is done."""

    log = None
    fail = None
    lock = threading.Lock()

    def write(self, buffers, offset):
        with self.lock:
            self.refuse("write")
            self.log.append(("write", offset, b"".join(buffers)))
            super().write(buffers, offset)

    def flush(self):
        with self.lock:
            self.refuse("sync")
            super().flush()
            self.log.append(("sync",))

    def discard(self, offset, length):
        with self.lock:
            self.log.append(("punch", offset, length))
            super().discard(offset, length)

    def refuse(self, what):
        if self.fail is not None:
            type(self).fail(what)


@pytest.fixture
def recorded(monkeypatch):
    """Record what is done to images, from here on; return the list."""
    log = []
    monkeypatch.setattr(Recorder, "log", log)
    monkeypatch.setattr(qcow2_image, "Raw", Recorder)
    monkeypatch.setattr(Recorder, "flush", without_waiting)
    return log


def without_waiting(self):
    """Stand in for Recorder.flush: what is synced is decided in the replay."""
    with self.lock:
        self.refuse("sync")
        self.log.append(("sync",))


def pattern(number):
    return number.to_bytes(8, "little") * (SECTOR // 8)


def make(folder, shape):
    """Make an image over a base; return its path and the base's content."""
    cluster, size, below, version = SHAPES[shape]
    base = b"".join(pattern(1 << 32 | at) for at in range(below // SECTOR))
    (folder / "base").write_bytes(base)
    path = folder / "image"
    options = f"cluster_size={cluster},compat={'1.1' if version == 3 else '0.10'}"
    below_it = ["-b", "base", "-F", "raw"] if below else []
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, *below_it]
    subprocess.run([*command, str(path), str(size)], check=True)
    return path, base


def read(disk, offset, length):
    data = bytearray(length)
    assert disk.read([memoryview(data)], offset, wait=True)
    return bytes(data)


class Guest:
    """Does things to a disk that leave marks in the log: what sectors become, and what is flushed.

    Only sectors whose number is ``mine`` modulo ``of`` are touched; every write has its pattern.
    """

    def __init__(self, disk, log, seed, mine=0, of=1):
        self.disk = disk
        self.log = log
        self.generator = random.Random(seed)
        self.mine, self.of = mine, of
        self.sectors = disk.size // SECTOR
        self.next = mine + of

    def act(self):
        choice = self.generator.random()
        if choice < 0.12:
            self.disk.flush()
            self.log.append(("flushed", self.mine))
        elif choice < 0.75 or self.of > 1:
            self.write()
        else:
            self.forget(choice < 0.9)

    def span(self, most):
        count = self.generator.randrange(1, most)
        first = self.generator.randrange(self.sectors)
        return first, min(count, self.sectors - first)

    def write(self):
        if self.of > 1:
            first = self.generator.randrange(self.mine, self.sectors, self.of)
            count = 1
        else:
            first, count = self.span(self.generator.choice((2, 9, 300)))
        self.next += self.of
        data = pattern(self.next)
        self.log.append(("op", self.mine, dict.fromkeys(range(first, first + count), data)))
        whole = memoryview(data * count)
        cut = self.generator.randrange(len(whole))
        self.disk.write([whole[:cut], whole[cut:]], first * SECTOR)

    def forget(self, zero):
        first, count = self.span(300)
        changes = dict.fromkeys(range(first, first + count), bytes(SECTOR))
        self.log.append(("op", self.mine, changes))
        if zero:
            self.disk.zero(first * SECTOR, count * SECTOR, unmap=self.generator.random() < 0.5)
        else:
            self.disk.discard(first * SECTOR, count * SECTOR)
            data = read(self.disk, first * SECTOR, count * SECTOR)
            now = {first + at: data[at * SECTOR :][:SECTOR] for at in range(count)}
            self.log.append(("now", self.mine, now))


def apply(image, action, keep=lambda: True):
    """Do to the image what an action did, as far as ``keep`` says so for each sector."""
    if action[0] == "punch":
        _, offset, length = action
        length = min(length, len(image) - offset)
        if keep() and length > 0:
            image[offset : offset + length] = bytes(length)
        return
    _, offset, data = action
    at = 0
    while at < len(data):
        length = min(SECTOR - (offset + at) % SECTOR, len(data) - at)
        if keep():
            if len(image) < offset + at:
                image.extend(bytes(offset + at - len(image)))
            image[offset + at : offset + at + length] = data[at : at + length]
        at += length


class Permitted:
    """What each sector may have after a crash, by the marks in a log."""

    def __init__(self, base, size):
        below = base.ljust(size, b"\0")
        self.current = [below[at : at + SECTOR] for at in range(0, size, SECTOR)]
        self.allowed = [{one} for one in self.current]
        self.owner = [None] * len(self.current)

    def mark(self, kind, who, changes=None):
        if kind == "flushed":
            for sector, data in enumerate(self.current):
                if self.owner[sector] == who:
                    self.allowed[sector] = {data}
            return
        for sector, data in changes.items():
            self.current[sector] = data
            if kind == "op":
                self.allowed[sector].add(data)
                self.owner[sector] = who


def crashes(log, image, base, size, seed, places):
    """Yield what a crash at these places in the log leaves, or at that share of all places.

    Each is said where, with the image and what each sector may have.
    """
    generator = random.Random(seed)
    if isinstance(places, float):
        places = [one for one in range(len(log)) if generator.random() < places]
    durable, pending = bytearray(image), []
    permitted = Permitted(base, size)
    for number, entry in enumerate(log):
        if entry[0] in {"op", "now", "flushed"}:
            permitted.mark(*entry)
        elif entry[0] == "sync":
            for action in pending:
                apply(durable, action)
            pending = []
        else:
            pending.append(entry)
        for part in (1.0, generator.choice((0.1, 0.5, 0.9))) if number in places else ():
            left = bytearray(durable)
            for action in pending:
                apply(left, action, lambda: generator.random() < part)  # noqa: B023
            yield f"{number} of {len(log)}, {part}", bytes(left), permitted.allowed


def verify(where, image, allowed, base):
    reader = Reader(image)
    wrong, _ = reader.check()
    assert not wrong, f"crash at {where}: {wrong[:5]}"
    content = reader.content(base)
    for sector, may in enumerate(allowed):
        found = content[sector * SECTOR : (sector + 1) * SECTOR]
        assert found in may, f"crash at {where}: sector {sector} has {found[:8].hex()}"


def small_caches(monkeypatch):
    """Let tables be written in between, too, and pieces be loaded again."""
    monkeypatch.setattr(qcow2_image, "_CACHE", 4096)
    monkeypatch.setattr(qcow2_image, "_LEAST_CACHE", 4096)
    monkeypatch.setattr(qcow2, "_REFCOUNT_CACHE", 4096)
    monkeypatch.setattr(qcow2, "_MOST_FREED", 40)


def crash_everywhere(path, base, log, actions, seed, share):
    start = path.read_bytes()
    disk = qcow2.Qcow2(str(path), read_only=False)
    guest = Guest(disk, log, seed)
    for _ in range(actions):
        guest.act()
    disk.close()
    size = disk.size
    final = path.read_bytes()
    assert Reader(final).check() == ([], 0)
    count = 0
    for where, image, allowed in crashes(log, start, base, size, seed, share):
        verify(f"seed {seed}, {where}", image, allowed, base)
        count += 1
    return count


@pytest.mark.parametrize("shape", SHAPES)
def test_a_crash_leaves_what_was_flushed(tmp_path, monkeypatch, recorded, shape):
    small_caches(monkeypatch)
    path, base = make(tmp_path, shape)
    assert crash_everywhere(path, base, recorded, 60, SEED, 1.0) > 200


@pytest.mark.soak
@pytest.mark.parametrize("shape", SHAPES)
def test_very_many_crashes(tmp_path, monkeypatch, recorded, shape):
    for number in range(40):
        with monkeypatch.context() as patch:
            if number % 3:
                small_caches(patch)
            folder = tmp_path / str(number)
            folder.mkdir()
            path, base = make(folder, shape)
            recorded.clear()
            crash_everywhere(path, base, recorded, 100, SEED + number, 0.5)
            shutil.rmtree(folder)


def test_qemu_agrees(tmp_path, monkeypatch, recorded):
    small_caches(monkeypatch)
    path, base = make(tmp_path, "4096")
    start = path.read_bytes()
    disk = qcow2.Qcow2(str(path), read_only=False)
    guest = Guest(disk, recorded, SEED)
    for _ in range(80):
        guest.act()
    disk.close()
    left = tmp_path / "left"
    for where, image, _ in crashes(recorded, start, base, disk.size, SEED, 0.03):
        left.write_bytes(image)
        command = ["qemu-img", "check", "-q", left]
        found = subprocess.run(command, check=False, capture_output=True)
        assert found.returncode in {0, 3}, f"{where}: {found.stderr}"  # 3: leaks
        raw = tmp_path / "raw"
        command = ["qemu-img", "convert", "-O", "raw", left, raw]
        subprocess.run(command, check=True)
        assert raw.read_bytes() == Reader(image).content(base), where


def test_a_table_of_refcounts_that_grows(tmp_path, recorded):
    """8 MiB are what one cluster of 512 bytes can count: more takes a new table."""
    path = tmp_path / "image"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, "20M"]
    subprocess.run(command, check=True)
    begin = path.stat().st_size
    disk = qcow2.Qcow2(str(path), read_only=False)
    data = memoryview(pattern(1) * 2048)
    before = Reader(path.read_bytes())
    at = 0
    while path.stat().st_size < (before.table_clusters * 64 * 256 * 512) - (2 << 20):
        disk.write([data], at)
        at += len(data)
    disk.flush()
    assert path.stat().st_size > begin
    start = path.read_bytes()
    recorded.clear()
    reader = Reader(start)
    assert reader.table_clusters == before.table_clusters
    for _ in range(6):
        recorded.append(
            ("op", 0, dict.fromkeys(range(at // SECTOR, at // SECTOR + 2048), pattern(1)))
        )
        disk.write([data], at)
        at += len(data)
    disk.flush()
    recorded.append(("flushed", 0))
    disk.close()
    final = Reader(path.read_bytes())
    assert final.table_clusters > reader.table_clusters
    assert final.check() == ([], 0)
    base = reader.content()
    (moved,) = (
        at for at, (kind, *rest) in enumerate(recorded) if kind == "write" and rest[0] == 48
    )
    places = [*range(moved - 3, moved + 4), moved + 40, moved + 100]
    for where, image, allowed in crashes(recorded, start, base, disk.size, SEED, places):
        verify(where, image, allowed, b"")


def test_threads_that_write_and_flush(tmp_path, monkeypatch, recorded):
    """Four guests write sectors of the same clusters; each relies on its own flushes."""
    small_caches(monkeypatch)
    path, base = make(tmp_path, "4096")
    start = path.read_bytes()
    disk = qcow2.Qcow2(str(path), read_only=False)
    guests = [Guest(disk, recorded, SEED + mine, mine, 4) for mine in range(4)]
    failed = []

    def run(guest):
        try:
            for _ in range(100):
                guest.act()
        except Exception as error:  # noqa: BLE001 - said by the test
            failed.append(error)

    threads = [threading.Thread(target=run, args=[guest]) for guest in guests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    disk.close()
    assert Reader(path.read_bytes()).check() == ([], 0)
    for where, image, allowed in crashes(recorded, start, base, disk.size, SEED, 0.1):
        verify(where, image, allowed, base)


@pytest.mark.parametrize("shape", ["512", "4096", "512, no base"])
def test_a_full_file_system(tmp_path, monkeypatch, recorded, shape):
    """Writes fail now and then: those requests fail, everything else is as if nothing was."""
    small_caches(monkeypatch)
    path, base = make(tmp_path, shape)
    generator = random.Random(SEED)

    def fail(what):
        if what == "write" and generator.random() < 0.1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    disk = qcow2.Qcow2(str(path), read_only=False)
    guest = Guest(disk, recorded, SEED)
    failures = 0
    monkeypatch.setattr(Recorder, "fail", fail)
    for _ in range(150):
        with suppress(OSError):
            guest.act()
            failures -= 1
        failures += 1
    assert failures > 10
    monkeypatch.setattr(Recorder, "fail", None)
    disk.flush()
    before = read(disk, 0, disk.size)
    disk.close()
    reader = Reader(path.read_bytes())
    assert reader.check()[0] == []
    assert reader.content(base) == before
    # Each sector has what was there once: of requests that failed, any part.
    below = base.ljust(disk.size, b"\0")
    may = [{below[at : at + SECTOR], bytes(SECTOR)} for at in range(0, disk.size, SECTOR)]
    for kind, *rest in recorded:
        if kind == "op":
            for sector, data in rest[1].items():
                may[sector].add(data)
    for sector, one in enumerate(may):
        assert before[sector * SECTOR : (sector + 1) * SECTOR] in one


def test_a_file_that_lost_data(tmp_path, monkeypatch, recorded):
    """After a sync that failed nothing is known of the file: no flush succeeds any more."""
    path, base = make(tmp_path, "4096")
    disk = qcow2.Qcow2(str(path), read_only=False)
    disk.write([memoryview(pattern(1))], 0)
    disk.flush()

    def fail(what):
        if what == "sync":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    disk.write([memoryview(pattern(2))], 8192)
    monkeypatch.setattr(Recorder, "fail", fail)
    with pytest.raises(OSError, match="Input/output error"):
        disk.flush()
    monkeypatch.setattr(Recorder, "fail", None)
    with pytest.raises(OSError, match="lost"):
        disk.flush()
    with pytest.raises(OSError, match="lost"):
        disk.write([memoryview(pattern(3))], 65536)
    disk.close()
    reader = Reader(path.read_bytes())
    assert reader.check()[0] == []
    assert reader.content(base)[:SECTOR] == pattern(1)
    assert reader.content(base)[8192:8704] == base[8192:8704]


@pytest.mark.parametrize("shape", ["512", "4096", "65536", "512, version 2"])
def test_a_disk_that_grows(tmp_path, recorded, shape):
    """It has its former size or the new one, and then all of it, over a base that is longer."""
    path, base = make(tmp_path, shape)
    longer = base + b"".join(pattern(2 << 32 | at) for at in range(SHAPES[shape][1] // SECTOR))
    (tmp_path / "base").write_bytes(longer)
    disk = qcow2.Qcow2(str(path), read_only=False)
    disk.write([memoryview(pattern(1))], disk.size - SECTOR)
    disk.close()
    start, before = path.read_bytes(), disk.size
    content = Reader(start).content(longer)
    after = before + len(base) // SECTOR * SECTOR // 2
    recorded.clear()
    qcow2.grow(str(path), after)
    sizes = set()
    for where, image, _ in crashes(recorded, start, longer, before, SEED, range(len(recorded))):
        reader = Reader(image)
        wrong, _ = reader.check()
        assert not wrong, f"crash at {where}: {wrong[:5]}"
        sizes.add(reader.size)
        expected = content.ljust(reader.size, b"\0")
        assert reader.content(longer) == expected, f"crash at {where}"
    assert sizes == {before, after}

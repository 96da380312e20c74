# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run that is killed at any of its calls is completed by the next: whole images, and no other."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from ansible.module_utils.image import run as run_module
from ansible.module_utils.image import store as store_module
from knife import KilledError, Knife

CALLS = (
    (os, "replace"),
    (os, "symlink"),
    (os, "unlink"),
    (os, "fsync"),
    (os, "chmod"),
    (store_module, "qemu_img"),
    (run_module, "copy"),
)


@pytest.mark.sampled
def test_whenever_a_run_is_killed_the_next_one_completes_it(
    images, publisher, image, tmp_path, store, monkeypatch, moments
):
    served = image("4M")
    publisher.files["/served.qcow2"] = served
    local = tmp_path / "local.vmdk"
    checksum = f"sha256:{store_module_digest(served)}"

    def before():
        local.write_bytes(image("8M", "vmdk"))
        os.utime(local, (1, 1))
        images({"name": "local", "path": str(local)}, {"name": "old", "path": str(local)})

    def after():
        local.write_bytes(image("16M", "vmdk"))
        os.utime(local, (2, 2))
        return images(
            {"name": "local", "path": str(local)},
            {"name": "old", "state": "absent"},
            {"name": "served", "url": f"{publisher.url}/served.qcow2", "checksum": checksum},
        )

    def seen():
        return sorted(os.listdir(store)), {
            name: os.readlink(store / name) for name in ("local", "served")
        }

    def clear():
        for folder in (store / ".incoming", store):
            for path in folder.iterdir():
                if not path.is_dir():
                    path.unlink()

    knife = Knife(monkeypatch, CALLS)
    before()
    knife.count = 0
    after()
    calls, wanted = knife.count, seen()
    assert calls >= 40
    for moment in moments(calls):
        knife.left = None
        clear()
        before()
        knife.left = moment
        with pytest.raises(KilledError):
            after()
        knife.left = None
        after()
        assert seen() == wanted, moment
        assert os.listdir(store / ".incoming") == [], moment
        assert after()["changed"] is False, moment


def store_module_digest(content):
    return store_module.sha256(content).hexdigest()


# --- a process that is killed, and what it left to others


CHILD = """
import json, sys
sys.path.insert(0, sys.argv[1])
import conftest
from ansible.module_utils.image.run import converge
converge(json.loads(sys.argv[2]), "kvm1", lambda files: {}, root=sys.argv[3])
"""
TESTS = Path(__file__).resolve().parents[2]


@pytest.fixture
def child(tmp_path):
    """Return what starts a run of its own, which is left alone with a folder of programs."""
    started = []

    def run(*entries, programs=""):
        path = os.pathsep.join([str(programs), os.environ["PATH"]])
        made = subprocess.Popen(
            [sys.executable, "-c", CHILD, TESTS, json.dumps(entries), tmp_path / "host"],
            env={**os.environ, "PATH": path},
            start_new_session=True,  # a program that it started survives it, and goes with this
        )
        started.append(made)
        return made

    yield run
    for one in started:
        with suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)
        one.wait()


def killed_once(process, path, size):
    """Kill a process when a file has got so large; return how large it is then."""
    end = time.monotonic() + 30
    while not (path.exists() and path.stat().st_size >= size):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < end, f"{path} does not grow"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    return path.stat().st_size


def part_of(store, source):
    return store / ".incoming" / f"{store_module_digest(source.encode())}.part"


def test_a_download_whose_process_is_killed_is_continued(images, child, publisher, image, store):
    content = image("8M", "qcow2", "-o", "preallocation=full")
    publisher.files["/a.qcow2"] = content
    publisher.holds["/a.qcow2"] = 5 << 19
    checksum = f"sha256:{store_module_digest(content)}"
    entry = {"name": "a", "url": f"{publisher.url}/a.qcow2", "checksum": checksum}
    have = killed_once(child(entry), part_of(store, entry["url"]), 1 << 20)
    assert os.listdir(store) == [".incoming"]
    assert [a["action"] for a in images(entry, check_mode=True)["actions"]] == ["create"]
    images(entry)
    assert publisher.asked == [("/a.qcow2", None), ("/a.qcow2", f"bytes={have}-")]
    assert (store / "a").read_bytes() == content
    assert os.listdir(store / ".incoming") == []
    assert images(entry)["changed"] is False


@pytest.mark.parametrize(("program", "half"), [("cp", ".part"), ("qemu-img", ".part.made")])
def test_what_a_killed_process_left_half_made_is_cleared_away(
    images, child, image, tmp_path, store, program, half
):
    programs = tmp_path / "programs"
    programs.mkdir()
    slow = programs / program
    # It writes what it is to write in part, and outlives the one that started it.
    slow.write_text(
        f'#!/bin/sh\n[ {program} = cp ] || [ $1 = convert ] || exec {shutil.which(program)} "$@"\n'
        'for target; do :; done\nhead -c 1000 /dev/zero > "$target"\nexec sleep 60\n',
        encoding="ascii",
    )
    slow.chmod(0o755)
    sent, again = tmp_path / "sent.vmdk", tmp_path / "again.vmdk"
    for file in (sent, again):
        file.write_bytes(image("8M", "vmdk"))
    part = part_of(store, str(sent))
    process = child({"name": "a", "path": str(sent)}, programs=programs)
    killed_once(process, part.with_name(part.name.replace(".part", half)), 1000)
    assert os.listdir(store) == [".incoming"]
    # The next run has it from elsewhere, as each that the controller sends it to.
    (told,) = images({"name": "a", "path": str(again)})["images"]
    assert store_module.look(told["path"]) == {"format": "qcow2", "size": 8 << 20}
    assert os.listdir(store / ".incoming") == []

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run at a time; the second one names the first."""

from __future__ import annotations

import json
import os
import signal

import pytest
from ansible.module_utils.converge.lock import BusyError, exclusive, holder


def take(path, who=None):
    with exclusive(path, who or {}):
        return


def test_the_second_run_names_the_holder(tmp_path):
    path = str(tmp_path / "lock")
    with exclusive(path, {"run": "kvm_guests", "pid": 4711}):
        with pytest.raises(BusyError, match=r"run kvm_guests, pid 4711.*wait") as raised:
            take(path)
        assert raised.value.data == {"holder": {"run": "kvm_guests", "pid": 4711}}
    with exclusive(path, {"run": "next"}):
        assert json.loads((tmp_path / "lock").read_text()) == {"run": "next"}


def test_it_is_free_after_an_error(tmp_path):
    path = str(tmp_path / "lock")
    with pytest.raises(KeyError), exclusive(path, {"run": "one"}):
        raise KeyError
    take(path)


@pytest.mark.parametrize("note", [b"", b"[]", b"{", b"\xff\xfe", b"9" * 9000])
def test_a_spoilt_note_does_not_hide_that_it_is_held(tmp_path, note):
    path = tmp_path / "lock"
    with exclusive(str(path), {"run": "one"}):
        path.write_bytes(note)
        with pytest.raises(BusyError, match="unknown"):
            take(str(path))


def test_it_ends_with_its_holder_however_that_ends(tmp_path):
    path = str(tmp_path / "lock")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with exclusive(path, holder("killed")):
            os.write(writing, b"x")
            signal.pause()
    os.read(reading, 1)
    with pytest.raises(BusyError, match=f"pid {child}"):
        take(path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    take(path)
    os.close(reading)
    os.close(writing)


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic"):
        take(str(tmp_path / "lock"))
    assert not (tmp_path / "precious").exists()


def test_the_holder_is_this_process(monkeypatch):
    monkeypatch.setenv("SUDO_USER", "kim")
    who = holder("kvm_guests")
    assert (who["run"], who["pid"], who["user"]) == ("kvm_guests", os.getpid(), "kim")

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where seeds lie: real ISOs, read again with another program than the one that made them."""

from __future__ import annotations

import os
import stat
import subprocess

import pytest
from ansible.module_utils.seed import store
from ansible.module_utils.seed.store import SeedError, Seeds

SEED = {
    "meta_data": {"instance-id": "i-1", "local-hostname": "web"},
    "user_data": {"password": "hunter2"},
}
needs_iso = pytest.mark.skipif(store.tool() is None, reason="no program here makes ISOs")


@pytest.fixture
def seeds(tmp_path):
    return Seeds(str(tmp_path / "seeds"))


def content(file, folder):
    command = ["xorriso", "-osirrox", "on", "-indev", file, "-extract", "/", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {path.name: path.read_text() for path in folder.iterdir()}, done.stderr


@needs_iso
def test_a_seed_is_what_cloud_init_looks_for(seeds, tmp_path):
    file = seeds.next("web")
    seeds.make(file, SEED)
    found, said = content(file, tmp_path / "out")
    assert set(found) == {"meta-data", "user-data"}
    assert "hunter2" in found["user-data"]
    assert "Volume id    : 'cidata'" in said
    assert seeds.documents(file) == SEED


@needs_iso
def test_nobody_else_reads_it(seeds):
    file = seeds.next("web")
    seeds.make(file, SEED)
    for entry in os.listdir(os.path.dirname(file)):
        mode = os.stat(os.path.join(os.path.dirname(file), entry)).st_mode
        assert stat.S_IMODE(mode) == 0o600, entry
    for folder in (seeds.folder, os.path.dirname(file)):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o711
    assert sorted(os.listdir(os.path.dirname(file))) == ["1.iso", "1.json"]


@needs_iso
def test_another_seed_gets_the_next_number_and_what_is_unused_goes(seeds):
    first = seeds.next("web")
    seeds.make(first, SEED)
    second = seeds.next("web")
    seeds.make(second, SEED)
    assert [os.path.basename(file) for file in (first, second)] == ["1.iso", "2.iso"]
    seeds.tidy("web", {first, second, "/elsewhere/3.iso"})
    assert os.path.exists(first)
    seeds.tidy("web", {second})
    assert not os.path.exists(first)
    assert seeds.next("web").endswith("/3.iso")
    seeds.tidy("web", ())
    assert os.listdir(seeds.folder) == []


def test_a_half_made_seed_is_none(seeds):
    file = seeds.next("web")
    os.makedirs(os.path.dirname(file))
    with open(file.replace(".iso", ".json"), "w", encoding="utf-8") as text:
        text.write("{}")
    os.mkdir(os.path.join(os.path.dirname(file), ".new-x"))
    assert seeds.documents(file) is None
    assert seeds.next("web").endswith("/2.iso")
    seeds.tidy("web", ())
    assert os.listdir(seeds.folder) == []


def test_the_missing_program_is_named(seeds, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SeedError, match=r"expected one of xorrisofs, .*: install xorriso"):
        seeds.make(seeds.next("web"), SEED)
    assert os.listdir(os.path.join(seeds.folder, "web")) == []


def test_other_files_are_none_of_ours(seeds):
    assert not seeds.holds(f"{seeds.folder}-2/web/1.iso")
    assert not seeds.holds(None)
    assert seeds.holds(seeds.next("web"))

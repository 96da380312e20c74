# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run that is killed at any of its calls is completed by the next: whole images, and no other."""

from __future__ import annotations

import os

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

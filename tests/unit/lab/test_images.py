# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a build that was killed leaves behind."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from virtlab import images

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """Give a folder with another one mounted in it twice, one in the other."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts; the images are built as root too")
    ours, built = tmp_path / "ours", tmp_path / "with a space.part"
    ours.mkdir()
    (ours / "precious").touch()
    (ours / "inner").mkdir()
    targets = (built / "root/proc", built / "root/proc/inner")
    for target in targets:
        target.mkdir(parents=True, exist_ok=True)
        command = ["mount", "--bind", str(ours), str(target)]
        subprocess.run(command, check=True)
    yield built
    for target in reversed(targets):
        command = ["umount", str(target)]
        subprocess.run(command, capture_output=True, check=False)


def test_what_is_mounted_there_is_left_as_it_is(mounted: Path) -> None:
    images.remove(mounted)
    assert not mounted.exists()
    assert (mounted.parent / "ours/precious").exists()


def test_a_mount_in_use_stops_the_removal(mounted: Path) -> None:
    with (mounted / "root/proc/precious").open(), pytest.raises(subprocess.CalledProcessError):
        images.remove(mounted)
    assert (mounted.parent / "ours/precious").exists()
    assert mounted.exists()


def test_a_folder_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    images.remove(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []

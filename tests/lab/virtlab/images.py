# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The images that labs start from: built once, kept by the digest of their recipe."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .build import build
from .log import say, step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .recipe import Recipe

_KEPT = 7 * 86400  # seconds


def cache() -> Path:
    """Return the folder of the built images; it outlives checkouts."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("VIRTLAB_CACHE") or f"{base}/virtfleet-lab")


def place(recipe: Recipe) -> Path:
    """Return where a recipe's image is, once it is built."""
    return cache() / "images" / recipe.name


def ensure(recipes: Iterable[Recipe]) -> dict[Recipe, Path]:
    """Return the image of each recipe, building what is missing, two at a time."""
    wanted = list(dict.fromkeys(recipes))
    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(wanted, pool.map(_ensure, wanted), strict=True))


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Wait until no other lab makes what bears this name."""
    path = cache() / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _ensure(recipe: Recipe) -> Path:
    folder = place(recipe)
    if folder.exists():
        os.utime(folder)  # used again
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Another lab may want the same image: it waits, and then finds it.
    with alone(f"{recipe.release}-{recipe.kind}"):
        if not folder.exists():
            with step(f"building the image {recipe.name} ({len(recipe.packages)} packages)"):
                remove(folder.with_name(f"{folder.name}.part"))
                build(recipe, folder)
            forget_unused(folder.parent)
    return folder


def remove(folder: Path) -> None:
    """Remove a folder, and first what a build that was killed left mounted in it.

    Raises CalledProcessError where a mount stays: through it this machine's own would be removed.
    """
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        # Spaces and the like stand there as octal numbers, proc_pid_mounts(5) and getmntent(3).
        target = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), line.split()[1]))
        if folder.resolve() in target.parents:
            command = ["umount", str(target)]
            subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


def forget_unused(folder: Path) -> None:
    """Remove images and snapshots that no lab has used for a week."""
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.is_dir() and time.time() - path.stat().st_mtime > _KEPT:
                say(f"removing {path.name}, which nothing has used for long")
                remove(path)

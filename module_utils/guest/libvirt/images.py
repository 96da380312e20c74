# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The images of disks that state a size: how large they are here, made and grown by qemu-img(1).

An image is never made over another one, and never made smaller.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Iterable, Iterator, Mapping

from ...converge.errors import Problem, VirtfleetError, shown
from ...units import format_size, parse_size
from ...virt.disk import IMAGE_FORMAT, SOURCES
from .references import FOLDER

# https://www.qemu.org/docs/master/interop/qcow2.html: magic, and the size at byte 24.
_QCOW2 = b"QFI\xfb"
_HEADER = 32
_BRING = "kvm_images brings it (the role kvm_image), or name another one"
_SOURCES = tuple(one.key for one in SOURCES)


class ImageError(VirtfleetError):
    """An image that could not be read, made or grown."""


@dataclass(frozen=True)
class Image:
    """The image that a disk with a stated size has: ``size`` in bytes.

    ``base`` is what a new one is made from: an image's name, or a path.
    """

    target: str
    file: str
    format: str
    size: int
    base: str | None = None

    @property
    def path(self) -> str:
        """Where in the guest its size is stated."""
        return f"disks[{self.target}].size"


def images(
    stated: Mapping[str, Any], there: Iterable[Mapping[str, Any]] = ()
) -> tuple[list[Image], list[str]]:
    """Return the images of the disks that state a size, and the targets without a file.

    ``there`` are the disks that the guest has; what is not stated is as it is there.
    """
    known = {disk.get("target"): disk for disk in there}
    found, without = [], []
    for disk in stated.get("disks") or ():
        if disk.get("size") is None:
            continue
        before = known.get(disk["target"])
        restated = any(disk.get(key) is not None for key in _SOURCES)
        file = disk.get("file") if restated or before is None else before.get("file")
        if file is None:
            without.append(str(disk["target"]))
            continue
        default = IMAGE_FORMAT if before is None else before.get("format", "raw")
        kind = disk.get("format") or default
        size = parse_size(disk["size"])
        found.append(Image(str(disk["target"]), str(file), str(kind), size, disk.get("image")))
    return found, without


def capacity(file: str, kind: str) -> int | None:
    """Return how many bytes a guest sees of an image, None where there is none.

    ``kind`` is believed, not guessed: a guest may write whatever it likes into a raw image.
    ImageError where it cannot be one.
    """
    if not os.path.exists(file):
        return None
    if kind not in ("raw", "qcow2"):
        told = json.loads(_qemu_img("info", "-U", "--output=json", "-f", kind, file))
        return int(told["virtual-size"])
    with open(file, "rb") as image:
        if kind == "raw":
            return image.seek(0, os.SEEK_END)
        header = image.read(_HEADER)
    if len(header) < _HEADER or not header.startswith(_QCOW2):
        raise ImageError(f"{file}: expected an image in the format qcow2, found another")
    return int.from_bytes(header[24:32], "big")


def backing(file: str, kind: str) -> tuple[str, str] | None:
    """Return the file that an image stands on and its format; None where it stands alone.

    So it is where the image is not there.
    """
    if kind == "raw" or not os.path.exists(file):
        return None
    told = json.loads(_qemu_img("info", "-U", "--output=json", "-f", kind, file))
    below = told.get("full-backing-filename")
    # Older images do not say the format: one that is taken for another is an error, not the end.
    return None if below is None else (below, told.get("backing-filename-format") or kind)


def chain(file: str, kind: str) -> Iterator[str]:
    """Yield the files that an image stands on, from the one next below it on."""
    seen = {file}
    found = backing(file, kind)
    while found is not None and found[0] not in seen:
        seen.add(found[0])
        yield found[0]
        found = backing(*found)


def unfinished(file: str) -> str:
    """Return where an image is made before it gets its name: a run that is killed leaves it."""
    folder, name = os.path.split(file)
    return os.path.join(folder, f".{name}.new")


def create(image: Image) -> None:
    """Make an image, empty or from its base; ImageError where there is one, or where that fails.

    One in a format that can stand on another stands on its base, any other one is a copy of it.
    """
    half = unfinished(image.file)
    with suppress(FileNotFoundError):
        os.unlink(half)
    try:
        _make(image, half)
        os.chmod(half, 0o600)
        os.link(half, image.file)  # unlike a renamed one it replaces nothing
    except FileExistsError:
        raise ImageError(f"{image.file}: expected no such file yet, found one") from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(half)


def _make(image: Image, half: str) -> None:
    if image.base is None:
        _qemu_img("create", "-q", "-f", image.format, half, str(image.size))
        return
    base = base_of(image.base)
    if base is None:
        raise ImageError(f"expected the image {image.base}, found none", remedy=_BRING)
    kind = _kind(base)
    if image.format == "qcow2":
        below = ("-b", base, "-F", kind)
        _qemu_img("create", "-q", "-f", image.format, *below, half, str(image.size))
    else:
        _qemu_img("convert", "-f", kind, "-O", image.format, base, half)
        _qemu_img("resize", "-q", "-f", image.format, half, str(image.size))


def base_of(name: str) -> str | None:
    """Return the file of an image that disks are made from, None where it is not there.

    A guest's disk stands on the file and not on the name, which may lead to another one later.
    """
    if name.startswith("/"):
        return os.path.realpath(name) if os.path.isfile(name) else None
    from ...image.store import Store  # compiled on the host, so only where an image is named

    store = Store()
    kept = store.names().get(name)
    return None if kept is None else store.path(kept.blob)


def _kind(base: str) -> str:
    """Return the format of an image that whoever runs this host has put there."""
    with open(base, "rb") as file:
        return "qcow2" if file.read(4) == _QCOW2 else "raw"


def grow(image: Image) -> None:
    """Make an image larger that no guest runs on."""
    _qemu_img("resize", "-q", "-f", image.format, image.file, str(image.size))


def _qemu_img(*arguments: str) -> str:
    program = shutil.which("qemu-img")
    if program is None:
        remedy = "install it (the role kvm_host does), or make the image by other means"
        raise ImageError("expected qemu-img, found none", remedy=remedy)
    done = subprocess.run(
        [program, *arguments], check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise ImageError(done.stderr.strip() or f"qemu-img ended with {done.returncode}")
    return done.stdout


def _unfounded(where: str, image: Image, *, check_mode: bool) -> Iterable[Problem]:
    """Yield why a new image cannot be made from its base; in check mode that may come yet."""
    base = None if image.base is None else base_of(image.base)
    if image.base is None or (base is None and check_mode):
        return
    if base is None:
        yield Problem(f"{where}.image", "an image that is there", shown(image.base), _BRING)
        return
    least = capacity(base, _kind(base)) or 0
    if least > image.size:
        expected = f"at least the {format_size(least)} of the image {image.base}"
        yield Problem(f"{where}.size", expected, format_size(image.size))


def unfit(name: str, wanted: Iterable[Image], *, check_mode: bool = False) -> Iterable[Problem]:
    """Yield why images of a guest cannot be made, or be taken as they are.

    The path of a problem begins with the guest's name.
    """
    for image in wanted:
        folder = os.path.dirname(image.file)
        where = f"{name}.disks[{image.target}]"
        if not os.path.isdir(folder):
            yield Problem(f"{where}.file", FOLDER, shown(folder))
            continue
        try:
            have = capacity(image.file, image.format)
        except (ImageError, OSError) as error:
            yield Problem(f"{where}.format", f"that of {image.file}", f"{image.format} ({error})")
            continue
        if have is None:
            yield from _unfounded(where, image, check_mode=check_mode)
        elif have > image.size:
            yield Problem(
                f"{where}.size",
                f"at least the {format_size(have)} that {image.file} has",
                format_size(image.size),
                "an image is never made smaller",
            )

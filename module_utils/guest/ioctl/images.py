# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The images of disks that state a size: made empty or over an image, grown, and never shrunk.

The helper's own code does it: a host needs no QEMU for its guests. A new disk with an ``image``
is a qcow2 overlay of it.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from typing import Any, Iterator, Mapping

from ...converge.errors import Problem, VirtfleetError, shown
from ...image.store import Store, qemu_img
from ...kvm.errors import InputFileError, KvmError
from ...units import format_size, parse_size

_QCOW2 = b"QFI\xfb"
_FOLDER = "a folder that is there"
_DEEPEST = 16  # images that stand on each other
IS_THERE = "an image that is there"
BRING = "kvm_images brings it (the role kvm_image), or name another one"


class ImageError(VirtfleetError):
    """An image that cannot be read, made or grown."""


def base_of(name: str) -> str | None:
    """Return the file of an image, by its name on this host or by its path; None for none."""
    if name.startswith("/"):
        return os.path.realpath(name) if os.path.isfile(name) else None
    store = Store()
    blob = store.blob(name)
    return None if blob is None else store.path(blob)


def kind_of(file: str) -> str:
    """Return the format of an image that whoever runs this host has put there."""
    with open(file, "rb") as image:
        return "qcow2" if image.read(4) == _QCOW2 else "raw"


def capacity(file: str, kind: str) -> int | None:
    """Return how many bytes a guest sees of an image, None where there is none.

    ``kind`` is believed, not guessed. ImageError where it cannot be one.
    """
    try:
        with open(file, "rb") as image:
            if kind == "raw":
                return image.seek(0, os.SEEK_END)
            header = image.read(32)
    except FileNotFoundError:
        return None
    if len(header) < 32 or not header.startswith(_QCOW2):
        raise ImageError(f"{file}: expected an image in the format qcow2, found another")
    return int.from_bytes(header[24:32], "big")


def make(disk: Mapping[str, Any]) -> None:
    """Make the image of a disk, whole or not at all, for root alone; ImageError if that fails."""
    file, size = str(disk["file"]), parse_size(disk["size"])
    folder, name = os.path.split(file)
    half = os.path.join(folder, f".{name}.new")
    with suppress(FileNotFoundError):
        os.unlink(half)
    try:
        if disk["format"] == "raw":
            descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.truncate(descriptor, size)
            finally:
                os.close(descriptor)
        else:
            _make_qcow2(half, size, disk["image"])
        os.link(half, file)  # unlike a renamed one it replaces nothing
    except FileExistsError:
        raise ImageError(f"{file}: expected no such file yet, found one") from None
    except (OSError, KvmError) as error:
        raise ImageError(f"{file}: {error}") from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(half)


def _make_qcow2(half: str, size: int, image: str | None) -> None:
    from ...kvm.qcow2 import create  # compiled on the host, so only where an image is made

    if image is None:
        create(half, size)
        return
    base = base_of(image)
    if base is None:
        raise ImageError(f"expected the image {image}, found none", remedy=BRING)
    create(half, size, base, kind_of(base))


def below(file: str) -> list[str]:
    """Return an image and all that it stands on, as the images' own headers say."""
    found: list[str] = []
    while file not in found and len(found) < _DEEPEST:
        found.append(file)
        if kind_of(file) != "qcow2":
            break
        with open(file, "rb") as image:
            offset, size = struct.unpack(">8xQI", image.read(20))
            image.seek(offset)
            name = image.read(min(size, 1023)).decode("utf-8", "surrogateescape")
        if not name:
            break
        file = os.path.realpath(os.path.join(os.path.dirname(file), name))
    return found


def grow(disk: Mapping[str, Any]) -> None:
    """Make the image of a disk larger, which no guest runs on."""
    file, size = str(disk["file"]), parse_size(disk["size"])
    try:
        if disk["format"] == "raw":
            os.truncate(file, size)
        else:
            _grow_qcow2(file, size)
    except (OSError, KvmError, VirtfleetError) as error:
        raise ImageError(f"{file}: {error}") from error


def _grow_qcow2(file: str, size: int) -> None:
    from ...kvm.qcow2 import grow

    try:
        grow(file, size, below(file)[1:])
    except InputFileError as error:
        # Its table has no room, or it is of a kind that is not written here: QEMU's tools may.
        try:
            qemu_img("resize", "-q", "-f", "qcow2", file, str(size))
        except VirtfleetError as other:
            raise ImageError(f"{error} ({other})") from error


def unfit(name: str, disks: Any, *, check_mode: bool) -> Iterator[Problem]:
    """Yield why the disks of a guest cannot be made, or taken as they are.

    The path of a problem begins with the guest's name.
    """
    for disk in disks or ():
        where = f"{name}.disks[{disk['target']}]"
        file = str(disk["file"])
        try:
            have = capacity(file, disk["format"])
        except (ImageError, OSError) as error:
            yield Problem(f"{where}.format", f"that of {file}", f"{disk['format']} ({error})")
            continue
        if have is None and disk["size"] is None:
            if not check_mode:
                yield Problem(f"{where}.file", IS_THERE, shown(file))
        elif have is None:
            yield from _unfounded(where, disk, check_mode=check_mode)
        elif disk["size"] is not None and have > parse_size(disk["size"]):
            yield Problem(
                f"{where}.size",
                f"at least the {format_size(have)} that {file} has",
                disk["size"],
                "an image is never made smaller",
            )


def _unfounded(where: str, disk: Mapping[str, Any], *, check_mode: bool) -> Iterator[Problem]:
    """Yield why a new image cannot be made."""
    folder = os.path.dirname(disk["file"])
    if not os.path.isdir(folder) and not check_mode:
        yield Problem(f"{where}.file", _FOLDER, shown(folder))
    if disk["image"] is None:
        return
    base = base_of(disk["image"])
    if base is None:
        if not check_mode:
            yield Problem(f"{where}.image", IS_THERE, shown(disk["image"]), BRING)
        return
    least = capacity(base, kind_of(base)) or 0
    if least > parse_size(disk["size"]):
        expected = f"at least the {format_size(least)} of the image {disk['image']}"
        yield Problem(f"{where}.size", expected, disk["size"])

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a host keeps images: a file by its content, a record beside it, and names that lead there.

    <sha256 of what was fetched>.qcow2    the image, which nobody writes to
    <the same>.qcow2.json                 what it is and where it came from
    debian-12                             a link to the first
    .incoming/                            what is on its way; a run that is killed leaves it

A name is changed by renaming a new link over it, so that it leads to a whole image at every moment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Iterator, Mapping

from ..converge.errors import VirtfleetError
from ..kvm.layout import make_folder

# AppArmor's helper of libvirt and SELinux' file contexts both let guests read below this folder.
FOLDER = "var/lib/libvirt/images/virtfleet"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)  # what an image may be called
_KEPT = 7 * 24 * 3600.0  # seconds
_BLOB = re.compile(r"[0-9a-f]{64}\.(qcow2|raw)", re.ASCII)


class ImageError(VirtfleetError):
    """An image that cannot be used."""


@dataclass(frozen=True, eq=False, repr=False)
class Kept:
    """An image under its name: the file that it leads to, and what the record says of it."""

    name: str
    blob: str
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def format(self) -> str:
        """What a guest's disk has to call it."""
        return self.blob.rpartition(".")[2]


class Store:
    """The images of one host, below ``root``."""

    def __init__(self, root: str = "/") -> None:
        self.folder = os.path.join(root, FOLDER)
        self.incoming = os.path.join(self.folder, ".incoming")

    def path(self, name: str) -> str:
        """Return where a name or a file of the store is."""
        return os.path.join(self.folder, name)

    def _entries(self) -> list[str]:
        try:
            return sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return []

    def blob(self, name: str) -> str | None:
        """Return the image that a name leads to, None where it leads nowhere."""
        try:
            blob = os.readlink(self.path(name))
        except OSError:
            return None
        return blob if _BLOB.fullmatch(blob) and os.path.exists(self.path(blob)) else None

    def names(self) -> dict[str, Kept]:
        """Return what every name leads to; one that leads nowhere is left out."""
        blobs = {name: self.blob(name) for name in self._entries()}
        return {name: Kept(name, b, self.record(b)) for name, b in blobs.items() if b is not None}

    def blobs(self) -> list[str]:
        """Return the images that are kept."""
        return [name for name in self._entries() if _BLOB.fullmatch(name)]

    def loose(self) -> list[str]:
        """Return the images that no name leads to."""
        named = {kept.blob for kept in self.names().values()}
        return [blob for blob in self.blobs() if blob not in named]

    def record(self, blob: str) -> dict[str, Any]:
        """Return what is known of an image, nothing where its record is lost."""
        try:
            with open(self.path(f"{blob}.json"), encoding="utf-8") as file:
                found = json.load(file)
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    # What changes it.

    def prepare(self) -> None:
        """Make the folders."""
        make_folder(self.folder)
        with suppress(FileExistsError):
            os.mkdir(self.incoming, 0o700)

    def sweep(self) -> None:
        """Clear away what runs that were killed left, but what may be continued for a week."""
        for name in os.listdir(self.incoming):
            path = os.path.join(self.incoming, name)
            continued = name.endswith(".version") or os.path.exists(f"{path}.version")
            with suppress(FileNotFoundError):
                if not continued or time.time() - os.stat(path).st_mtime > _KEPT:
                    os.unlink(path)
        # A record without its image is left where a run was killed between the two.
        for name in self._entries():
            blob = name[: -len(".json")]
            if name.endswith(".json") and not os.path.exists(self.path(blob)):
                self.unlink(name)

    def part(self, source: str) -> str:
        """Return where what comes from a source waits to be verified."""
        return os.path.join(self.incoming, f"{sha256(source.encode()).hexdigest()}.part")

    def put(self, file: str, blob: str, record: Mapping[str, Any]) -> None:
        """Take a verified file under its final name; it is there in whole or not at all."""
        note = os.path.join(self.incoming, f"{blob}.json")
        with open(note, "w", encoding="utf-8") as out:
            json.dump(record, out, indent=1, sort_keys=True)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(note, 0o644)
        os.chmod(file, 0o444)
        os.replace(note, self.path(f"{blob}.json"))
        os.replace(file, self.path(blob))
        self._sync()

    def link(self, name: str, blob: str) -> None:
        """Let a name lead to an image; what it led to before stays."""
        half = os.path.join(self.incoming, f"{name}.link")
        with suppress(FileNotFoundError):
            os.unlink(half)
        os.symlink(blob, half)
        os.replace(half, self.path(name))
        self._sync()

    def unlink(self, name: str) -> None:
        """Forget a name."""
        with suppress(FileNotFoundError):
            os.unlink(self.path(name))

    def remove(self, blob: str) -> None:
        """Remove an image after its record: what is left of a killed run is an image to remove."""
        for path in (self.path(f"{blob}.json"), self.path(blob)):
            with suppress(FileNotFoundError):
                os.unlink(path)

    def _sync(self) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# What an image is, by qemu-img.


def qemu_img(*arguments: str) -> str:
    """Run qemu-img and return what it prints; ImageError where it fails."""
    program = shutil.which("qemu-img")
    if program is None:
        raise ImageError("expected qemu-img, found none", remedy="the role kvm_host installs it")
    done = subprocess.run(
        [program, *arguments], check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        raise ImageError(done.stderr.strip() or f"qemu-img ended with {done.returncode}")
    return done.stdout


def look(file: str) -> dict[str, Any]:
    """Return an image's format and virtual size in bytes.

    ImageError where it is none that may be used: it must stand alone, as another file that it
    names would be read on this host.
    """
    found = json.loads(qemu_img("info", "--output=json", file))
    outside = found.get("backing-filename")
    specific = found.get("format-specific", {}).get("data", {})
    outside = outside or specific.get("data-file")
    if outside:
        raise ImageError(f"expected an image that stands alone, found one that names {outside!r}")
    return {"format": str(found["format"]), "size": int(found["virtual-size"])}


def convert(source: str, source_format: str, target: str, wanted: str) -> None:
    """Write an image in another format."""
    qemu_img("convert", "-f", source_format, "-O", wanted, source, target)


def copy(source: str, target: str) -> None:
    """Copy a file of this host, sharing its blocks where the file system can."""
    if not stat.S_ISREG(os.stat(source).st_mode):
        raise ImageError(f"{source}: expected a regular file")
    program = shutil.which("cp") or "/bin/cp"
    done = subprocess.run(
        [program, "--reflink=auto", "--sparse=always", "--", source, target],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ImageError(done.stderr.strip())


# What stands on an image.

_QCOW2 = b"QFI\xfb"


def _named_below(file: str) -> str | None:
    """Return the file that a qcow2 image names as the one below it (QEMU's docs, qcow2.txt)."""
    try:
        with open(file, "rb") as image:
            header = image.read(20)
            if not header.startswith(_QCOW2) or len(header) < 20:
                return None
            offset = int.from_bytes(header[8:16], "big")
            length = int.from_bytes(header[16:20], "big")
            if not offset or not 0 < length <= 1023:
                return None
            image.seek(offset)
            name = image.read(length).decode("utf-8", "surrogateescape")
    except OSError:
        return None
    return os.path.join(os.path.dirname(file), name)


def below(file: str) -> Iterator[str]:
    """Yield the files that an image stands on, one below the other."""
    seen = {file}
    found = _named_below(file)
    while found is not None and found not in seen:
        yield os.path.realpath(found)
        seen.add(found)
        found = _named_below(found)

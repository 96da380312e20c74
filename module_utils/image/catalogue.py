# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Short names of the cloud images that distributions publish, with where they publish them.

Each is one architecture's, amd64; the checksums are the publisher's own file, fetched with it. A
site lays a catalogue of its own over this one.
"""

from __future__ import annotations

from typing import Any, Mapping

KEYS = ("url", "checksum", "checksums", "signature", "keyring", "format")
SOURCES = ("path", "url")
_VOUCHING = ("checksum", "checksums", "signature", "keyring")
_DEBIAN = "https://cloud.debian.org/images/cloud"
_UBUNTU = "https://cloud-images.ubuntu.com"
_ALMA = "https://repo.almalinux.org/almalinux"
_ROCKY = "https://download.rockylinux.org/pub/rocky"


def _debian(number: int, name: str) -> dict[str, str]:
    folder = f"{_DEBIAN}/{name}/latest"
    return {
        "url": f"{folder}/debian-{number}-genericcloud-amd64.qcow2",
        "checksums": f"{folder}/SHA512SUMS",
    }


def _ubuntu(name: str) -> dict[str, str]:
    folder = f"{_UBUNTU}/{name}/current"
    return {
        "url": f"{folder}/{name}-server-cloudimg-amd64.img",
        "checksums": f"{folder}/SHA256SUMS",
    }


def _alma(number: int) -> dict[str, str]:
    folder = f"{_ALMA}/{number}/cloud/x86_64/images"
    return {
        "url": f"{folder}/AlmaLinux-{number}-GenericCloud-latest.x86_64.qcow2",
        "checksums": f"{folder}/CHECKSUM",
    }


def _rocky(number: int) -> dict[str, str]:
    url = f"{_ROCKY}/{number}/images/x86_64/Rocky-{number}-GenericCloud.latest.x86_64.qcow2"
    return {"url": url, "checksums": f"{url}.CHECKSUM"}


CATALOGUE: Mapping[str, Mapping[str, str]] = {
    "debian-12": _debian(12, "bookworm"),
    "debian-13": _debian(13, "trixie"),
    "ubuntu-22.04": _ubuntu("jammy"),
    "ubuntu-24.04": _ubuntu("noble"),
    "alma-9": _alma(9),
    "alma-10": _alma(10),
    "rocky-9": _rocky(9),
}


def completed(
    entry: Mapping[Any, Any], catalogue: Mapping[str, Mapping[str, Any]]
) -> dict[Any, Any]:
    """Return an image's entry with what a catalogue says of its name.

    One that states where it comes from owes it nothing; one that states a checksum, or whose
    checksums, is vouched for by these alone.
    """
    name = entry.get("name")
    if not isinstance(name, str) or any(entry.get(key) for key in SOURCES):
        return dict(entry)
    known = catalogue.get(name, {})
    if any(entry.get(key) is not None for key in ("checksum", "checksums")):
        known = {key: value for key, value in known.items() if key not in _VOUCHING}
    return {**known, **entry}

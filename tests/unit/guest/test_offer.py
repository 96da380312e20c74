# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host's QEMU does not have, by the domain capabilities of Debian 12 and 13 as recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.guest.libvirt.offer import Offer, read_offer, unoffered

OFFERS = Path(__file__).resolve().parents[2] / "cases" / "virt" / "offers"
SOUND = {
    "vcpus": 2,
    "max_vcpus": 8,
    "cpu": {"mode": "host-model"},
    "firmware": {"type": "uefi", "secure_boot": True},
    "memory_backing": {"source": "memfd"},
    "disks": [{"target": "vda"}, {"target": "sda", "bus": "sata", "device": "cdrom"}],
    "graphics": [{"type": "vnc"}],
    "videos": [{"model": "virtio"}],
    "hostdevs": [{"usb": "1d6b:0002"}],
    "rng": {"backend": "builtin"},
    "filesystems": [{"driver": "virtiofs"}, {"driver": "9p"}, {}],
    "tpm": {"model": "tpm-crb", "type": "emulator", "version": "2.0"},
    "channels": [{"type": "unix"}],
    "hyperv": {"relaxed": True, "spinlocks": 8191, "evmcs": False},
}


def offer(name):
    return read_offer((OFFERS / f"{name}.xml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(path.stem for path in OFFERS.glob("*.xml")))
def test_what_every_host_has_is_no_problem(name):
    found = offer(name)
    assert found.machine.startswith("pc-q35-")
    spec = SOUND if "tcg" not in name else {**SOUND, "cpu": {"mode": "maximum"}}
    assert list(unoffered("web", spec, found)) == []
    assert list(unoffered("web", {}, found)) == []


@pytest.mark.parametrize(
    ("name", "spec", "path", "expected", "remedy"),
    [
        (
            "trixie-q35-kvm",
            {"graphics": [{"type": "vnc"}, {"type": "spice"}]},
            "graphics[1].type",
            "what QEMU has for pc-q35-10.0 (sdl, vnc, egl-headless, dbus)",
            None,
        ),
        (
            "bookworm-q35-kvm",
            {"disks": [{"target": "hda"}]},
            "disks[0].target",
            "what QEMU has for pc-q35-7.2 (fdc, scsi, virtio, usb, sata)",
            None,
        ),
        (
            "bookworm-q35-kvm",
            {"disks": [{"target": "vda", "bus": "ide"}]},
            "disks[0].bus",
            "what QEMU has for pc-q35-7.2 (fdc, scsi, virtio, usb, sata)",
            None,
        ),
        (
            "bookworm-q35-kvm",
            {"max_vcpus": 289},
            "max_vcpus",
            "at most the 288 of pc-q35-7.2",
            None,
        ),
        (
            "bookworm-q35-kvm",
            {"cpu": {"model": "Skylake-Server"}},
            "cpu.model",
            "a model that this host can run",
            "state mode: host-model, or a smaller model",
        ),
        (
            "bookworm-q35-kvm",
            {"cpu": {"model": "qemu46"}},
            "cpu.model",
            None,
            "did you mean qemu64?",
        ),
        ("bookworm-q35-kvm", {"hyperv": {"evmcs": True}}, "hyperv.evmcs", None, None),
        (
            "bookworm-q35-kvm",
            {"launch_security": {"type": "sev"}},
            "launch_security.type",
            "a host that has it",
            None,
        ),
    ],
)
def test_what_a_host_lacks_is_named(name, spec, path, expected, remedy):
    (problem,) = unoffered("web", spec, offer(name))
    assert problem.path == f"web.{path}"
    assert expected in (None, problem.expected)
    assert problem.remedy == remedy


@pytest.mark.parametrize(
    ("words", "firmware", "keys"),
    [
        ({"os/firmware": ()}, {"type": "uefi"}, ["type"]),
        ({"os/firmware": ()}, {"type": "uefi", "secure_boot": True}, ["type"]),
        ({"os/firmware": ()}, {"type": "uefi", "loader": "/x"}, []),
        ({"os/firmware": ()}, {"type": "bios"}, []),
        ({"os/firmware": ("efi",), "os/loader/secure": ("no",)}, {"type": "uefi"}, []),
        (
            {"os/firmware": ("efi",), "os/loader/secure": ("no",)},
            {"type": "uefi", "secure_boot": True},
            ["secure_boot"],
        ),
        ({}, {"type": "uefi", "secure_boot": True}, []),
    ],
)
def test_firmware_that_is_not_installed_is_named(words, firmware, keys):
    found = list(unoffered("web", {"firmware": firmware}, Offer("q35", words=words)))
    assert [problem.path for problem in found] == [f"web.firmware.{key}" for key in keys]
    assert all("the role kvm_host" in str(problem.remedy) for problem in found)


def test_a_device_that_is_not_supported_at_all_offers_nothing():
    xml = """<domainCapabilities><devices><tpm supported='no'/></devices></domainCapabilities>"""
    (problem,) = unoffered("web", {"tpm": {"model": "tpm-crb"}}, read_offer(xml))
    assert (problem.path, problem.found) == ("web.tpm.model", "'tpm-crb', which it has not")

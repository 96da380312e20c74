# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a file is taken for, flat images, the command line, and reading files."""

from __future__ import annotations

import os
import struct

import pytest
from ansible.module_utils.kvm import loader
from ansible.module_utils.kvm.errors import EXIT_CONFIG, EXIT_INPUT, ConfigError, InputFileError
from ansible.module_utils.kvm.loader import FLAT_LIMIT, Flat, Image, Multiboot, loader_for
from ansible.module_utils.kvm.programs import PROGRAMS

MIB = 1 << 20


def elf_start(machine, wide=False, big=False):
    """Return the first 64 bytes of an ELF file as far as they say what it is for."""
    head = b"\x7fELF" + bytes((2 if wide else 1, 2 if big else 1, 1)) + bytes(9)
    return (head + struct.pack(">HH" if big else "<HH", 2, machine)).ljust(64, b"\0")


def at(offset, magic, size=4096):
    return bytes(offset) + magic.ljust(size - offset, b"\0")


FOREIGN = {
    "gzip": (b"\x1f\x8b\x08", "a gzip archive"),
    "xz": (b"\xfd7zXZ\0", "an xz archive"),
    "zstd": (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    "lz4": (b"\x04\x22\x4d\x18", "an lz4 archive"),
    "lz4, as kernels have it": (b"\x02\x21\x4c\x18", "an lz4 archive"),
    "bzip2": (b"BZh9", "a bzip2 archive"),
    "zip": (b"PK\x03\x04", "a zip archive"),
    "cpio": (b"070701", "a cpio archive"),
    "qcow2": (b"QFI\xfb\0\0\0\3", "a qcow2 disk image"),
    "VMDK": (b"KDMV", "a VMDK disk image"),
    "VHD": (b"conectix", "a VHD disk image"),
    "VHDX": (b"vhdxfile", "a VHDX disk image"),
    "VDI": (b"<<< Oracle VM VirtualBox Disk Image >>>", "a VDI disk image"),
    "squashfs": (b"hsqs", "a squashfs image"),
    "script": (b"#!/bin/sh\n", "a script"),
    "Debian package": (b"!<arch>\ndebian-binary", "an ar archive or a Debian package"),
    "tar": (at(257, b"ustar\x0000"), "a tar archive"),
    "ISO 9660": (at(0x8001, b"CD001", 0x9000), "an ISO 9660 image"),
    "EFI program": (b"MZ\x90\0", "an EFI or DOS program"),
    "kernel for arm64": (at(0, b"MZ", 0x38) + b"ARM\x64", "a Linux kernel for arm64"),
    "ELF of a few bytes": (b"\x7fELF\x01\x01", "a truncated ELF file of 6 bytes"),
    "ELF64 for x86-64, big-endian": (elf_start(62, wide=True, big=True), "ELF64 image for x86-64"),
    "ELF64 for i386": (elf_start(3, wide=True), "an ELF64 image for i386"),
    "ELF32 for x86-64 (x32)": (elf_start(62), "an ELF32 image for x86-64"),
    "ELF for ARM": (elf_start(40), "for ARM, not for a PC"),
    "ELF for AArch64": (elf_start(183, wide=True), "for AArch64, not for a PC"),
    "ELF for RISC-V": (elf_start(243, wide=True), "for RISC-V, not for a PC"),
    "ELF for s390x": (elf_start(22, wide=True, big=True), "for s390, not for a PC"),
    "ELF for ppc64le": (elf_start(21, wide=True), "for PowerPC 64, not for a PC"),
    "ELF for ppc": (elf_start(20, big=True), "for PowerPC, not for a PC"),
    "ELF for MIPS": (elf_start(8, big=True), "for MIPS, not for a PC"),
    "ELF for SPARC": (elf_start(2, big=True), "for SPARC, not for a PC"),
    "ELF for LoongArch": (elf_start(258, wide=True), "for LoongArch, not for a PC"),
    "ELF for something else": (elf_start(0x7777), "for machine 30583, not for a PC"),
    "ELF32 for i386, big-endian": (elf_start(3, big=True), "an ELF32 image for i386: expected"),
    "ELF32 without a multiboot header": (elf_start(3), "no valid multiboot header"),
    "nothing": (b"", "is empty"),
    "too large to be flat": (b"\xeb\xfe".ljust(FLAT_LIMIT + 1), "no header of a known format"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_is_no_guest_image_is_refused_by_name(case):
    content, words = FOREIGN[case]
    with pytest.raises(InputFileError, match=words) as refused:
        loader_for(Image("/srv/image", content))
    assert refused.value.status == EXIT_INPUT
    assert str(refused.value).startswith("/srv/image ")


def test_every_magic_and_machine_of_the_loader_is_in_the_table():
    messages = " ".join(words for _, words in FOREIGN.values())
    for _, _, name in loader._FOREIGN:
        assert name.partition(",")[0] in messages
    for number, name in loader._MACHINES.items():
        assert number in {3, 62} or f"for {name}, not" in messages


@pytest.mark.parametrize(
    "content",
    [
        b"\xf4",
        b"\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa",
        b"\xfa".ljust(FLAT_LIMIT, b"\x90"),
        b"\x7fEL",
        b"QFI",
        b"MX",
    ],
)
def test_anything_else_is_a_flat_image(new_memory, content):
    memory = new_memory(MIB)
    flat = loader_for(Image("boot", content))
    assert isinstance(flat, Flat)
    assert flat.load(memory, b"", None) == ("real", 0x7C00, 0x7C00, 0, 0, 0, 0)
    assert memory.read(0x7C00, len(content)) == content
    assert not memory.read(0, 0x7C00).strip(b"\0")
    assert not memory.read(0x7C00 + len(content), MIB - 0x7C00 - len(content)).strip(b"\0")


@pytest.mark.parametrize(
    ("length", "memory", "fits"),
    [
        (1, 0x8000, True),
        (0x400, 0x8000, True),
        (0x401, 0x8000, False),
        (1, 0x7000, False),
        (FLAT_LIMIT, 0x7C00 + FLAT_LIMIT + 0x400, True),
        (FLAT_LIMIT, 0x7C00 + FLAT_LIMIT - 0xC00, False),
    ],
)
def test_a_flat_image_must_fit_the_memory(length, memory, fits):
    flat = Flat(Image("boot", b"\xf4" * length))
    if fits:
        flat.check(memory, b"", None)
        return
    with pytest.raises(ConfigError, match=r"boot needs at least 1MiB of memory") as refused:
        flat.check(memory, b"", None)
    assert refused.value.status == EXIT_CONFIG


@pytest.mark.parametrize(
    ("cmdline", "initrd", "words"),
    [(b"quiet", None, "a command line"), (b"", Image("i", b"x"), "an initrd")],
)
def test_a_flat_image_takes_nothing_along(new_memory, cmdline, initrd, words):
    memory = new_memory(MIB)
    with pytest.raises(ConfigError, match=f"it cannot take {words}"):
        Flat(Image("boot", b"\xf4")).load(memory, cmdline, initrd)
    assert not memory.read(0, MIB).strip(b"\0")


def test_the_shipped_program_is_multiboot():
    assert isinstance(loader_for(Image("greeter", PROGRAMS["greeter"])), Multiboot)


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("", b""),
        ("console=ttyS0 quiet", b"console=ttyS0 quiet"),
        ("name=Grüße", b"name=Gr\xc3\xbc\xc3\x9fe"),
        (os.fsdecode(b"raw=\xff"), b"raw=\xff"),
        ("x" * 4095, b"x" * 4095),
    ],
)
def test_command_line(text, encoded):
    assert loader.encode_cmdline(text) == encoded


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x" * 4096, "at most 4095 bytes, found 4096"),
        ("ü" * 2048, "at most 4095 bytes, found 4096"),
        ("a\nb", "control characters"),
        ("a\0b", "control characters"),
        ("a\tb", "control characters"),
        ("a\x1bb", "control characters"),
        ("a\x7fb", "control characters"),
        ("a\ud800b", "is no text"),
    ],
)
def test_command_line_refused(text, words):
    with pytest.raises(ConfigError, match=words) as refused:
        loader.encode_cmdline(text)
    assert refused.value.status == EXIT_CONFIG


def test_read_image(tmp_path):
    path = tmp_path / "kernel"
    path.write_bytes(b"\xf4" * 5000)
    image = loader.read_image(str(path))
    assert (image.name, image.content[:]) == (str(path), b"\xf4" * 5000)
    image.forget()
    assert image.content[:] == b"\xf4" * 5000


def test_an_empty_file_is_read_too(tmp_path):
    path = tmp_path / "kernel"
    path.touch()
    image = loader.read_image(str(path))
    assert image == Image(str(path), b"")
    image.forget()


def make_fifo(path):
    os.mkfifo(str(path))


def make_sparse(path):
    with path.open("wb") as file:
        file.truncate(loader.IMAGE_LIMIT + 1)


UNREADABLE = {
    "missing": (lambda _: None, "cannot open .*No such file"),
    "folder": (lambda path: path.mkdir(), "is not a regular file"),
    "named pipe, which must not block": (make_fifo, "is not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
    "link to itself": (lambda path: path.symlink_to(path), "cannot open .*symbolic"),
    "link to nowhere": (lambda path: path.symlink_to("nowhere"), "cannot open .*No such file"),
    "too large": (make_sparse, "has 1073741825 bytes: expected an image of at most 1GiB"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_that_cannot_be_read(tmp_path, case):
    make, words = UNREADABLE[case]
    path = tmp_path / "kernel"
    make(path)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(InputFileError, match=words) as refused:
        loader.read_image(str(path))
    assert refused.value.status == EXIT_INPUT
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_file_that_fails_to_read(monkeypatch, tmp_path):
    """No file system that fails is at hand: the one call that reads is replaced."""
    path = tmp_path / "kernel"
    path.write_bytes(b"\xf4")

    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(loader.mmap, "mmap", fail)
    with pytest.raises(InputFileError, match=r"cannot read .*Input/output error"):
        loader.read_image(str(path))


def test_a_kernel_is_a_programs_name_or_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "greeter").write_bytes(b"a file of that name")
    assert loader.open_kernel("greeter").content == PROGRAMS["greeter"]
    assert loader.open_kernel("./greeter").content[:] == b"a file of that name"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("greeter", 4 * MIB), None, ""),
        (("greeter", 4 * MIB, None, "quiet"), None, ""),
        (
            ("greeter", MIB),
            ConfigError,
            "greeter needs at least 2MiB of memory, the guest has 1MiB",
        ),
        (("greeter", 4 * MIB, None, "a\nb"), ConfigError, "control characters"),
        (("/nowhere", 4 * MIB), InputFileError, "cannot open /nowhere"),
        (("greeter", 4 * MIB, "/nowhere"), InputFileError, "cannot open /nowhere"),
    ],
)
def test_check_image(arguments, error, words):
    if error is None:
        loader.check_image(*arguments)
        return
    with pytest.raises(error, match=words):
        loader.check_image(*arguments)

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machine code is what its assembly says, and what runs on a host needs nothing but Python."""

from __future__ import annotations

import ast
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.kvm import selftest
from ansible.module_utils.kvm.programs import PROGRAMS

KVM = Path(__file__).resolve().parents[3] / "module_utils" / "kvm"
TOOLS = [tool for tool in ("as", "ld", "nm", "objcopy", "strip") if shutil.which(tool) is None]
needs_binutils = pytest.mark.skipif(bool(TOOLS), reason=f"binutils: no {' '.join(TOOLS)} here")

# How the CPU reads each listing of selftest.py when it starts there.
SELFTEST = {
    "PIO_LOOP": 32,
    "MMIO_LOOP": 32,
    "HALT_LOOP": 16,
    "HANDLER": 16,
    "INTEGER_LOOP": 64,
    "MEMORY_LOOP": 64,
}


def run(*command, cwd):
    subprocess.run([str(part) for part in command], check=True, cwd=str(cwd))


def machine_code(folder, assembly, bits, load_address):
    """Return what binutils make of the assembly when it is loaded at the address."""
    source = f".intel_syntax noprefix\n.code{bits}\n{assembly}\n"
    (folder / "source.s").write_text(source, encoding="ascii")
    kind, emulation = ("--64", "elf_x86_64") if bits == 64 else ("--32", "elf_i386")
    run("as", kind, "-o", "object.o", "source.s", cwd=folder)
    place = ["-N", "--no-warn-rwx-segments", f"-Ttext={load_address:#x}", "-e", "0"]
    run("ld", "-m", emulation, *place, "-o", "image.elf", "object.o", cwd=folder)
    run("objcopy", "-O", "binary", "-j", ".text", "image.elf", "image.bin", cwd=folder)
    return (folder / "image.bin").read_bytes()


def assembly_of(listing):
    return "\n".join(line[32:].strip() for line in listing.strip("\n").split("\n"))


def test_every_listing_of_the_selftest_is_in_the_table():
    listings = {
        name
        for name, value in vars(selftest).items()
        if name.isupper() and isinstance(value, str) and value.startswith("\n")
    }
    assert listings == set(SELFTEST)


@needs_binutils
@pytest.mark.parametrize("name", SELFTEST)
def test_listing_of_the_selftest(tmp_path, name):
    listing = getattr(selftest, name)
    code = machine_code(tmp_path, assembly_of(listing), SELFTEST[name], 0x1000)
    assert selftest.assemble(listing) == code


@needs_binutils
def test_the_probes_instruction(tmp_path):
    from ansible.module_utils.kvm import probe  # the only test that needs it

    code = machine_code(tmp_path, "popcnt eax, eax\nout 0xf4, al", 32, 0)
    assert code == probe._POPCNT


@needs_binutils
def test_listings_of_the_tests(tmp_path, programs):
    """All of them in one test: their names are not known before the fixture has read them."""
    for name, listing in programs.LISTINGS.items():
        code = machine_code(tmp_path, assembly_of(listing), 16, 0x7C00)
        assert programs.PROGRAMS[name] == code, name


@needs_binutils
def test_the_greeter_is_what_its_source_assembles_to():
    build = KVM / "programs" / "build.py"
    done = subprocess.run(
        [sys.executable, str(build), "--check"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


@needs_binutils
def test_a_greeter_that_is_out_of_date_is_noticed(tmp_path):
    for name in ("build.py", "greeter.S", "greeter.py"):
        shutil.copy(str(KVM / "programs" / name), str(tmp_path))
    source = tmp_path / "greeter.S"
    source.write_text(source.read_text().replace("Hello", "Hullo"))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "build.py"), "--check"], stderr=subprocess.PIPE, check=False
    )
    assert done.returncode == 1
    assert b"does not match its source" in done.stderr


def test_every_shipped_program_has_its_source_beside_it():
    for name in PROGRAMS:
        assert (KVM / "programs" / f"{name}.S").is_file()


def test_the_greeter_asks_only_for_what_every_loader_gives():
    image = PROGRAMS["greeter"]
    at = image.index(struct.pack("<I", 0x1BADB002))
    magic, flags, checksum = struct.unpack_from("<3I", image, at)
    assert (at % 4, flags, (magic + flags + checksum) & 0xFFFFFFFF) == (0, 0x2, 0)


@pytest.mark.parametrize("source", sorted(KVM.rglob("*.py")), ids=lambda path: path.name)
def test_only_the_standard_library_and_units_are_imported(source):
    known = standard_library()
    for node in ast.walk(ast.parse(source.read_bytes())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        elif isinstance(node, ast.ImportFrom):
            package = source.relative_to(KVM.parent).parent.parts
            above = package[: len(package) - (node.level - 1)]
            assert above[:1] == ("kvm",) or (above == () and node.module == "units"), source
        for name in names:
            assert name.partition(".")[0] in known, f"{source} imports {name}"


def standard_library():
    """Return the names of the standard library's modules; Python 3.8 has to look for them."""
    if hasattr(sys, "stdlib_module_names"):
        return set(sys.stdlib_module_names)
    folder = Path(os.__file__).parent
    found = {path.stem for path in folder.iterdir()} | set(sys.builtin_module_names)
    return found | {path.name.partition(".")[0] for path in folder.glob("lib-dynload/*.so")}


def test_a_start_is_not_held_up_by_what_is_not_needed(repository):
    """The modules that take long to load are left to the commands that need them."""
    code = f"""\
import runpy, sys
runpy.run_path({str(repository / "plugins" / "shim.py")!r})
before = set(sys.modules)
import ansible.module_utils.kvm.cli, ansible.module_utils.kvm.serve
print(*sorted(set(sys.modules) - before))
"""
    pytest.importorskip("ansible.module_utils.basic", reason="there is no Ansible for this Python")
    found = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    slow = {"asyncio", "subprocess", "tempfile", "inspect", "dataclasses", "logging", "shutil"}
    slow |= {"platform", "pathlib", "email", "http", "urllib", "unittest", "traceback"}
    assert not slow & {re.sub(r"\..*", "", name) for name in found}

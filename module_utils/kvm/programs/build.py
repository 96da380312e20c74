# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Assembles the guest programs beside this file into Python literals (GNU binutils).

Ansible ships nothing but Python to a host, so ``greeter.S`` travels as ``greeter.py``: the image's
bytes beside the source lines that they come from. ``build.py --check`` fails if one is out of date.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAMS = ("greeter",)
LOAD_ADDRESS = 0x100000
WIDTH = 24  # bytes a line of the literal

_HEAD = '''\
# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guest program ``{name}``, assembled from {name}.S by build.py: change it there.

A multiboot ELF32 image of {size} bytes, loaded at {load:#x}. Its symbols:

{symbols}
"""

from __future__ import annotations

IMAGE = bytes.fromhex(
'''


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def assemble(name: str) -> str:
    """Return the text of the Python file for the program ``name``."""
    source = os.path.join(HERE, f"{name}.S")
    with tempfile.TemporaryDirectory() as folder:
        item, image = os.path.join(folder, "program.o"), os.path.join(folder, "program.elf")
        _run("as", "--32", "-o", item, source)
        layout = (
            "-N",
            "--no-warn-rwx-segments",
            "-Ttext",
            hex(LOAD_ADDRESS),
            "-e",
            "start",
            "--build-id=none",
        )
        _run("ld", "-m", "elf_i386", *layout, "-o", image, item)
        symbols = _run("nm", "-n", image)
        _run("strip", image)
        with open(image, "rb") as file:
            content = file.read()
    named = re.findall(r"^([0-9a-f]{8}) [tTbB] (\w+)$", symbols, re.MULTILINE)
    listing = "\n".join(f"    {address}  {symbol}" for address, symbol in named)
    head = _HEAD.format(name=name, size=len(content), load=LOAD_ADDRESS, symbols=listing)
    rows = [content[at : at + WIDTH].hex() for at in range(0, len(content), WIDTH)]
    return head + "".join(f'    "{row}"\n' for row in rows) + ")\n"


def main(arguments: list[str] | None = None) -> int:
    """Write every program, or with --check say whether each is up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    options = parser.parse_args(arguments)
    stale = []
    for name in PROGRAMS:
        path = os.path.join(HERE, f"{name}.py")
        text = assemble(name)
        if options.check:
            with open(path, encoding="ascii") as file:
                if file.read() != text:
                    stale.append(path)
            continue
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    for path in stale:
        sys.stderr.write(f"{path} does not match its source: run build.py\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())

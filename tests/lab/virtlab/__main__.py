# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's command line: up, down, status, ssh, console, reset."""

from __future__ import annotations

import argparse
import os
import runpy
import shutil
import sys
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[3] / "plugins" / "shim.py"))

from . import images
from .build import ImageError
from .description import DescriptionError
from .host import HostError, tell
from .lab import DEFAULT, Lab, LabError, build_images, take_down
from .qmp import QmpError
from .recipe import RELEASES, golden


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="virtlab", description="Real KVM hosts for the tests.")
    parser.add_argument("--lab", default=DEFAULT, help="its name; several can run side by side")
    parser.add_argument("--file", type=Path, help="its description, where it is not labs/NAME.yml")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="build what is missing and raise the hosts")
    commands.add_parser("build", help="only build the images, all that the labs here start from")
    command = commands.add_parser("golden", help="build an image for guests, with cloud-init")
    command.add_argument("release", choices=sorted(RELEASES))
    command.add_argument("target", type=Path, help="the qcow2 file that it is copied to")
    commands.add_parser("down", help="end the lab's hosts and remove its folder")
    commands.add_parser("status", help="show the hosts")
    for name, text in (
        ("reset", "take the hosts, or those named, back to their booted state"),
        ("ssh", "log in, or run a command"),
        ("console", "show the serial console and follow it"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("host", nargs="*" if name == "reset" else None)
        if name == "ssh":
            command.add_argument("words", nargs=argparse.REMAINDER, metavar="command")
    return parser


def _needs_no_hosts(options: argparse.Namespace) -> bool:
    """Carry out what concerns no host; return False for all else."""
    if options.command == "down":
        take_down(options.lab)
    elif options.command == "build":
        build_images()
    elif options.command == "golden":
        made = golden(options.release)
        shutil.copy(images.ensure([made])[made] / "disk.qcow2", options.target)
    else:
        return False
    return True


def _run(options: argparse.Namespace) -> int:
    if _needs_no_hosts(options):
        return 0
    lab = Lab(options.lab, options.file)
    if options.command == "up":
        lab.up()
    elif options.command == "reset":
        for name in options.host:
            lab[name].reset()
        if not options.host:
            lab.reset()
        lab.write_inventory()
    elif options.command == "ssh":
        host = lab[options.host]
        os.execvp("ssh", ["ssh", "-F", str(lab.ssh.config), host.name, *options.words])
    elif options.command == "console":
        path = lab[options.host].folder / "console.log"
        os.execvp("tail", ["tail", "-n", "50", "-F", str(path)])
    for host in lab.hosts.values():
        sys.stdout.write(f"{tell(host)}\n")
    return 0


def main() -> int:
    """Run the command line; return the exit status."""
    try:
        return _run(_parser().parse_args())
    except (LabError, HostError, ImageError, DescriptionError, QmpError) as error:
        sys.stderr.write(f"lab: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("lab: interrupted; what was begun is taken away by down\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())

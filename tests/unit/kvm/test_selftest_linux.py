# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the self-test boots: the host's kernel, and an initramfs with one process."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from ansible.module_utils.kvm.errors import HostError
from ansible.module_utils.kvm.selftest_linux import initramfs, kernel_of

NOBODY = 65534


def entries(archive):
    """Return the entries of a newc archive by name: mode, device and data."""
    found, at = {}, 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        size, length = fields[6], fields[11]
        name = archive[at + 110 : at + 110 + length - 1].decode()
        assert archive[at + 110 + length - 1] == 0
        at += -(-(110 + length) // 4) * 4
        found[name] = (fields[1], tuple(fields[9:11]), archive[at : at + size])
        at += -(-size // 4) * 4
        if name == "TRAILER!!!":
            assert at == len(archive)
            return found


def test_the_initramfs_is_a_console_and_a_process():
    found = entries(initramfs())
    assert list(found) == ["dev", "dev/console", "init", "TRAILER!!!"]
    assert found["dev"][0] == 0o040755
    assert found["dev/console"][:2] == (0o020600, (5, 1))
    assert found["init"][0] == 0o100755


def become_nobody():
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def test_the_process_says_that_it_runs(tmp_path):
    """Here it may not turn the machine off, and ends at the instruction behind that."""
    process = tmp_path / "init"
    process.write_bytes(entries(initramfs())["init"][2])
    process.chmod(0o755)
    descriptor = os.open(str(process), os.O_RDONLY)
    try:
        # By its descriptor: the folders above it are root's alone.
        done = subprocess.run(
            ["/bin/sh", "-c", f"exec /proc/self/fd/{descriptor}"],
            pass_fds=[descriptor],
            stdout=subprocess.PIPE,
            check=False,
            preexec_fn=become_nobody,
        )
    finally:
        os.close(descriptor)
    assert done.stdout == b"virtfleet: Linux is up\n"
    assert done.returncode == -signal.SIGSEGV


@pytest.mark.parametrize("place", ["boot/vmlinuz-6.1.0", "lib/modules/6.1.0/vmlinuz"])
def test_where_distributions_keep_a_kernel(tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.touch()
    assert kernel_of("6.1.0", str(tmp_path)) == str(path)


def test_a_host_without_its_kernel_says_so(tmp_path):
    with pytest.raises(HostError) as raised:
        kernel_of("6.1.0", str(tmp_path))
    words = "the kernel 6.1.0 has no image here: no /boot/vmlinuz-6.1.0 and no /lib/modules/"
    assert str(raised.value).startswith(words)

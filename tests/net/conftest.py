# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts of network and mount namespaces: nothing done there reaches this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# As Ansible runs it: options on stdin, the answer on stdout.
_RUN = """
import json, runpy, sys
runpy.run_path(sys.argv[1] + "/plugins/shim.py")
from ansible.module_utils.testing import patch_module_args
main = runpy.run_path(sys.argv[1] + "/library/kvm_host_network.py")["main"]
with patch_module_args(json.load(sys.stdin)):
    main()
"""
# Its own folders, so that neither files nor locks are those of the machine.
_HOLD = """
set -e
copy=$(mktemp -d)
cp -a /etc "$copy/etc"
for folder in /etc /run /var/lib; do mount -t tmpfs tmpfs "$folder"; done
cp -a "$copy/etc/." /etc/
rm -rf "$copy"
mkdir -p /etc/network/interfaces.d /var/lib/virtfleet
ip link set lo up
ip link add name up0 type veth peer name peer0
ip link add name up1 type veth peer name peer1
for name in up0 peer0 up1 peer1; do ip link set "$name" up; done
ip address add 192.0.2.5/24 dev up0
ip address add 2001:db8::5/64 dev up0 nodad
ip route add default via 192.0.2.1
ip -6 route add default via 2001:db8::1
echo ready
exec sleep infinity
"""
INTERFACES = """\
auto lo
iface lo inet loopback

auto up0
iface up0 inet static
  address 192.0.2.5/24
  gateway 192.0.2.1

source /etc/network/interfaces.d/*
"""


class Host:
    """One host; what runs on it runs in its namespaces."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        argv = ["unshare", "--net", "--mount", "sh", "-c", _HOLD]
        self._holder = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"
        self.write("/etc/network/interfaces", INTERFACES)

    def _enter(self, argv: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
        inside = ["nsenter", f"--target={self._holder.pid}", "--net", "--mount", "--", *argv]
        return subprocess.run(inside, capture_output=True, text=True, check=False, **more)

    def out(self, *argv: str) -> str:
        done = self._enter(list(argv))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def write(self, path: str, content: str) -> None:
        self._enter(["sh", "-c", 'cat > "$1"', "sh", path], input=content)

    def read(self, path: str) -> str | None:
        done = self._enter(["cat", path])
        return done.stdout if done.returncode == 0 else None

    def module(self, **options: Any) -> dict[str, Any]:
        check = options.pop("check", False)
        given = json.dumps({**options, "_ansible_check_mode": check})
        done = self._enter([sys.executable, "-c", _RUN, str(self.repository)], input=given)
        assert done.stdout, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def addresses(self, name: str) -> list[str]:
        """Return the addresses that are not the link's own."""
        found = json.loads(self.out("ip", "-json", "address", "show", "dev", name))
        local = [a for a in found[0]["addr_info"] if a["scope"] == "global"]
        return [f"{a['local']}/{a['prefixlen']}" for a in local]

    def link(self, name: str) -> dict[str, Any] | None:
        done = self._enter(["ip", "-json", "-details", "link", "show", "dev", name])
        return json.loads(done.stdout)[0] if done.returncode == 0 else None

    def snapshot(self) -> dict[str, Any]:
        """Return what must be the same before a change and after its way back."""
        links = json.loads(self.out("ip", "-json", "-details", "address", "show"))
        return {
            "links": {
                link["ifname"]: (link["mtu"], link.get("master"), "UP" in link["flags"])
                for link in links
            },
            "addresses": {name: self.addresses(name) for name in ("up0", "up1")},
            "routes": sorted(self.out("ip", "route").splitlines()),
            "routes6": sorted(self.out("ip", "-6", "route", "show", "dev", "up0").splitlines()),
            "interfaces": self.read("/etc/network/interfaces"),
            "ours": self.read("/etc/network/interfaces.d/virtfleet"),
        }

    def state(self, change: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.read(f"/var/lib/virtfleet/network/{change}/state.json") or "{}"
        )
        return found

    def wait(self, change: str, *states: str) -> dict[str, Any]:
        """Wait until the change is in one of the states."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            found = self.state(change)
            if found.get("state") in states:
                return found
            time.sleep(0.1)
        raise AssertionError(f"{self.state(change)} is none of {states}")

    def carry_out(self, **options: Any) -> dict[str, Any]:
        """Run the module and confirm what it did, as its action plugin does."""
        answer = self.module(**options)
        assert not answer.get("failed"), answer["msg"]
        if answer["change"]:
            self.wait(answer["change"], "applied", "rolled_back")
            first = self.module(confirm=answer["change"])
            assert first["state"] == "persisted", first
            assert self.module(confirm=answer["change"], final=True)["state"] == "confirmed"
        return answer

    def kill_watchdog(self, change: str) -> None:
        """Kill the watchdog of a change, and nothing else."""
        argv = [f"/var/lib/virtfleet/network/{change}/watch.py"]
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                words = (folder / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if words[1:2] == argv:
                os.kill(int(folder.name), signal.SIGKILL)

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()


def _why_not() -> str:
    """Say why this machine cannot have such hosts, or nothing if it can."""
    if os.geteuid() != 0:
        return "namespaces of network and mounts need root"
    if missing := [
        name for name in ("ip", "unshare", "nsenter", "setsid") if not shutil.which(name)
    ]:
        return f"not installed: {', '.join(missing)}"
    made = "ip link add name up0 type veth peer name up1 && ip link add name br0 type bridge"
    argv = ["unshare", "--net", "--mount", "sh", "-c", made]
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else f"this kernel refuses: {done.stderr.strip()}"


@pytest.fixture(scope="session")
def usable() -> None:
    reason = _why_not()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def host(usable: None, repository: Path) -> Iterator[Host]:
    made = Host(repository)
    yield made
    made.close()


@pytest.fixture
def needs(host: Host) -> Any:
    """Return a function that skips the test where the kernel lacks a kind of link."""

    def check(*argv: str) -> None:
        done = host._enter(["ip", "link", "add", *argv])
        if done.returncode != 0:
            pytest.skip(f"this kernel refuses ip link add {' '.join(argv)}: {done.stderr.strip()}")
        name = argv[argv.index("name") + 1]
        host.out("ip", "link", "delete", "dev", name)

    return check

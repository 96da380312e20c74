# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet of three hosts, in runs of ansible-playbook over SSH, with guests that really run.

The hosts are namespaces of this machine and their guests the helper's; tests/lab has real machines.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from namespaces import Host, Namespaces, why_not
from playing import REPOSITORY, Ansible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playing import Run

_REASON = why_not(apart=True)
pytestmark = [pytest.mark.kvm, pytest.mark.skipif(bool(_REASON), reason=_REASON)]

fault = pytest.mark.one_of("a fault of a fleet")
COUNT = 3
ROUND_TRIPS = 3
DEFAULTS = {"engine": "ioctl", "kernel": "greeter", "memory": "16MiB"}
GUESTS: dict[str, Any] = {"web[1:3]": {"spread": "web"}, "db": {}, "near": {"host": "host001"}}


class Site:
    """A fleet's file over the hosts, and runs on it."""

    def __init__(self, folder: Path, hosts: Namespaces) -> None:
        self.folder = folder
        self.lab = hosts
        self.hosts = {host.name: host for host in hosts.hosts}
        self.writes = 0

    def write(self, guests: dict[str, Any], **more: Any) -> Ansible:
        """Write a file of its own and return what runs on it."""
        self.writes += 1
        folder = self.folder / str(self.writes)
        folder.mkdir()
        places: dict[str, Any] = more.pop("places", {})
        variables = self.lab.variables()
        # No connection is kept from one run to the next: a host that vanished is gone.
        variables["ansible_ssh_args"] = "-o ControlMaster=auto -o ControlPersist=2s"
        variables["ansible_control_path_dir"] = str(folder / "ssh")
        fleet = {
            "plugin": "kvm_fleet",
            "fleet": "space",
            "hypervisors": {
                name: {"ansible_host": host.address, **variables, **places.get(name, {})}
                for name, host in self.hosts.items()
            },
            "defaults": DEFAULTS,
            "guests": guests,
            **more,
        }
        (folder / "fleet.yml").write_text(yaml.safe_dump(fleet, sort_keys=False))
        return Ansible(folder, prefix=self.lab.prefix)

    def run(self, guests: dict[str, Any], *words: str, **settings: Any) -> Run:
        """Bring the guests to their state."""
        more = {key: settings.pop(key) for key in ("places", "prune") if key in settings}
        settings = {"kvm_guest_stop_timeout": "2s", "kvm_guest_force": True, **settings}
        return self.write(guests, **more).playbook("guests", *words, **settings)

    def start(self, guests: dict[str, Any]) -> subprocess.Popen[str]:
        """Begin such a run beside this process."""
        ansible = self.write(guests)
        command = ansible.command(REPOSITORY / "playbooks" / "guests.yml")
        return subprocess.Popen(
            command,
            env=ansible.environment(str(ansible.inventory / "results")),
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for_modules(self) -> None:
        """Wait until nothing runs on the hosts that a run which ended began.

        What it kept of its connections ends with the last command on them.
        """
        for host in self.hosts.values():
            host.out("while pgrep -f '[s]shd: root@' > /dev/null; do sleep 0.2; done")

    def clean(self) -> None:
        """End the guests, and take away all that is remembered; SSH answers everywhere."""
        for host in self.hosts.values():
            host.out(
                "pkill -KILL -f [k]vm-helper || true; rm -rf /var/lib/virtfleet /run/virtfleet"
            )
            if not host.out("pgrep -x sshd || true"):
                host.appear()

    def there(self, host: Host) -> set[str]:
        """Return the guests that a host has, by what is in its folder."""
        return set(host.out("ls /var/lib/virtfleet/guests 2>/dev/null || true").split())

    def everywhere(self) -> dict[str, list[str]]:
        """Return by guest the hosts that have it, which is never more than one."""
        found: dict[str, list[str]] = {}
        for name, host in self.hosts.items():
            for guest in self.there(host):
                found.setdefault(guest, []).append(name)
        return found


def planned(run: Run) -> dict[str, Any]:
    (found,) = [e["result"] for e in run.results if e["module"] == "kvm_fleet_plan"]
    result: dict[str, Any] = found
    return result


def blocked(run: Run) -> set[str]:
    return {one["object"].partition("/")[2] for one in planned(run)["blocked"]}


def one_each(found: dict[str, list[str]]) -> dict[str, str]:
    """Return by guest its host; AssertionError where a guest is on several."""
    assert all(len(hosts) == 1 for hosts in found.values()), found
    return {name: hosts[0] for name, hosts in found.items()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Give three hosts that have the helper and nothing else of ours."""
    folder = tmp_path_factory.mktemp("hosts")
    lab = Namespaces(folder, COUNT, apart=True)
    try:
        made = Site(folder, lab)
        helper: dict[str, Any] = {"hosts": "hypervisors", "gather_facts": False}
        made.write({}).plays([{**helper, "tasks": [{"kvm_helper": {}}]}])
        yield made
    finally:
        lab.close()


@pytest.fixture
def bare(site: Site) -> Site:
    """Give the hosts without guests, and nothing remembered."""
    site.clean()
    return site


def test_guests_are_placed_once_and_found_again_with_few_calls(
    bare: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = bare.run(GUESTS, "--check")
    assert bare.everywhere() == {}
    hosts = planned(seen)["hosts"]
    assert planned(bare.run(GUESTS))["hosts"] == hosts
    assert one_each(bare.everywhere()) == hosts
    assert {hosts[f"web{n}"] for n in (1, 2, 3)} == set(bare.hosts)
    # Where nothing changes: to look, to converge and to look, each once on a host over one
    # connection.
    calls = tmp_path / "calls"
    counting = tmp_path / "ssh"
    counting.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexec ssh "$@"\n')
    counting.chmod(0o755)
    monkeypatch.setenv("ANSIBLE_SSH_EXECUTABLE", str(counting))
    assert bare.run(GUESTS).changed() == {}
    made = calls.read_text().splitlines()
    for host in bare.lab.hosts:
        assert sum(f" {host.address} " in f"{line} " for line in made) == ROUND_TRIPS, made


@fault
def test_what_is_placed_without_a_host_is_not_doubled_when_another_is_lost(bare: Site) -> None:
    hosts = planned(bare.run(GUESTS))["hosts"]
    before = bare.everywhere()
    lost = bare.hosts["host003"]
    lost.vanish()
    run = bare.run({**GUESTS, "late": {}}, status=None)
    assert run.recap["host003"]["unreachable"]
    assert blocked(run) == {name for name, host in hosts.items() if host == "host003"}
    late = planned(run)["hosts"]["late"]
    assert bare.everywhere() == {**before, "late": [late]}
    # Its host goes, and one comes back that was not there when it was placed.
    bare.hosts[late].vanish()
    lost.appear()
    run = bare.run({**GUESTS, "late": {}}, status=None)
    assert "late" in blocked(run)
    assert bare.everywhere() == {**before, "late": [late]}
    bare.hosts[late].appear()
    run = bare.run({**GUESTS, "late": {}})
    assert (run.changed(), blocked(run)) == ({}, set())


@fault
def test_one_host_of_three_places_nothing(bare: Site) -> None:
    hosts = planned(bare.run(GUESTS))["hosts"]
    for name in ("host002", "host003"):
        bare.hosts[name].vanish()
    guests = {**GUESTS, "late": {}, "pinned": {"host": "host001"}}
    run = bare.run(guests, status=None)
    assert blocked(run) == {"late", *(name for name, host in hosts.items() if host != "host001")}
    assert "more than half of the hosts have to be looked at" in " ".join(run.output.split())
    assert "late" not in bare.everywhere()
    assert bare.everywhere()["pinned"] == ["host001"]
    for name in ("host002", "host003"):
        bare.hosts[name].appear()
    # The same by --limit is no mistake: it is left to a run over more of them.
    run = bare.run(guests, "--limit", "host001")
    assert [one["kind"] for one in planned(run)["pending"]] == ["not_placed"]
    assert bare.run(guests).changed()
    assert set(one_each(bare.everywhere())) == {*hosts, "late", "pinned"}


@fault
def test_a_fenced_host_that_comes_back_with_its_guests_is_told_and_nothing_is_stopped(
    bare: Site,
) -> None:
    hosts = planned(bare.run(GUESTS))["hosts"]
    lost = bare.hosts["host003"]
    lost.vanish()
    moved = {name for name, host in hosts.items() if host == "host003"}
    assert moved
    loose = {**GUESTS, "web[1:3]": {"spread": {"group": "web", "soft": True}}}
    run = bare.run(loose, status=None, places={"host003": {"fenced": True}})
    assert blocked(run) == set()
    assert {planned(run)["hosts"][name] for name in moved} <= {"host001", "host002"}
    lost.appear()
    running = {name: host.out("pgrep -fc [k]vm-helper") for name, host in bare.hosts.items()}
    run = bare.run(loose, status=2)
    assert blocked(run) == moved
    assert "it RUNS on several hosts at once" in run.output
    assert run.changed() == {}
    assert running == {name: h.out("pgrep -fc [k]vm-helper") for name, h in bare.hosts.items()}


@fault
def test_a_guest_with_another_name_is_the_same_one_wherever_it_is(bare: Site) -> None:
    hosts = planned(bare.run(GUESTS))["hosts"]
    before = bare.everywhere()
    shop: dict[str, Any] = {"was": "db"}
    rest = {name: entry for name, entry in GUESTS.items() if name != "db"}
    home = bare.hosts[hosts["db"]]
    home.vanish()
    run = bare.run({**rest, "shop": shop}, status=None)
    assert "shop" in blocked(run)
    home.appear()
    # It runs, and waits.
    run = bare.run({**rest, "shop": shop}, prune=True)
    assert (run.changed(), planned(run)["new"], bare.everywhere()) == ({}, [], before)
    assert planned(run)["hosts"]["shop"] == home.name
    (waits,) = run.of("kvm_guests", home.name)["pending"]
    assert (waits["object"], waits["kind"]) == ("guest/shop", "rename_waits")
    assert "it is db still" in run.output
    run = bare.run({**rest, "shop": {**shop, "state": "restarted"}}, prune=True)
    assert "name: db → shop" in run.output
    renamed = {"shop" if name == "db" else name: at for name, at in before.items()}
    assert bare.everywhere() == renamed
    assert "serve shop" in home.out("pgrep -af [k]vm-helper")
    run = bare.run({**rest, "shop": shop}, prune=True)
    assert (run.changed(), blocked(run), bare.everywhere()) == ({}, set(), renamed)
    assert planned(run)["witness"]["guests"] == renamed
    # What it was called is nobody's: another guest of that name would have its identity.
    run = bare.run({**GUESTS, "shop": {}}, status=2)
    assert (blocked(run), bare.everywhere()) == ({"db"}, renamed)


def meant(output: str) -> bool:
    """Return whether a run that was refused says why."""
    reasons = (
        "was planned by another run meanwhile",
        "came or went here meanwhile",
        "another run is changing this host",
    )
    return any(reason in " ".join(output.split()) for reason in reasons)


FLOATING: dict[str, Any] = {f"g{number}": {} for number in range(6)}


@fault
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.soak) for n in range(1, 12))]
)
def test_of_two_controllers_at_once_none_doubles_what_the_other_makes(
    bare: Site, seed: int
) -> None:
    rng = random.Random(seed)
    assert not bare.run({}).changed()
    # Each would place the same guests, in another order of wishes, and so on other hosts.
    one, two = (
        bare.start(
            {**FLOATING, **{name: {"avoid": [avoided]} for name in rng.sample(sorted(FLOATING), 3)}}
        )
        for avoided in ("host001", "host002")
    )
    assert one.poll() is None, "the first was over before the second began"
    outputs = [process.communicate(timeout=300)[0] for process in (one, two)]
    for process, output in zip((one, two), outputs, strict=True):
        assert process.returncode == 0 or meant(output), output
    one_each(bare.everywhere())
    bare.run(FLOATING)
    assert set(one_each(bare.everywhere())) == set(FLOATING)
    assert bare.run(FLOATING).changed() == {}


@fault
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.soak) for n in range(1, 12))]
)
@pytest.mark.parametrize("what", ["controller", "host"])
def test_what_breaks_off_between_hosts_is_completed_by_the_next_run(
    bare: Site, what: str, seed: int
) -> None:
    rng = random.Random(seed)
    begin = time.monotonic()
    assert not bare.run({}).changed()
    whole = time.monotonic() - begin  # a run takes about that, and longer with guests to make
    process = bare.start(FLOATING)
    time.sleep(rng.uniform(0.2, 1.0) * whole)
    assert process.poll() is None, "it was over before anything broke off"
    if what == "controller":
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    else:
        bare.hosts["host002"].vanish()
        process.communicate(timeout=300)
        made = set(one_each(bare.everywhere()))
        assert process.returncode != 0 or made == set(FLOATING), "nobody says that a host is away"
        bare.hosts["host002"].appear()
    one_each(bare.everywhere())
    bare.wait_for_modules()
    bare.run(FLOATING)
    assert set(one_each(bare.everywhere())) == set(FLOATING)
    assert bare.run(FLOATING).changed() == {}

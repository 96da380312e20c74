# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Libvirt's guests: made and checked, against bare libvirt, a task a guest, and a ping.

Libvirt's test driver forgets all with its process. Guests that a run of the module shall find are
therefore in a file that the driver reads when it is opened.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import unittest.mock
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from ansible.module_utils.converge.answers import Answers
from ansible.module_utils.guest.engines import Engines
from ansible.module_utils.guest.libvirt import apply
from ansible.module_utils.guest.libvirt.apply import Applier
from ansible.module_utils.guest.libvirt.engine import LibvirtEngine
from ansible.module_utils.guest.run import Wish, run
from ansible.module_utils.kvm.layout import Layout
from comparing import Playbook, Side, compare, report, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from virtlab.lab import Lab

libvirt = pytest.importorskip("libvirt", reason="the binding is built for the controller's Python")

COUNT = 200
MANY = 1000
COUNTS = (10, 100, MANY)
ROUNDS = 7
LAB_ROUNDS = 3
PEER_ROUNDS = 3
PEER_TASKS = 10  # of COUNT; each is a process of its own and takes as long as any other
LINEAR = 1.25  # a guest among MANY against one among a tenth of them

URI = "test:///default"
SYSTEM = "qemu:///system"
PLACE = "/srv/bench"  # on a host of the lab
in_the_lab = pytest.mark.skipif(os.geteuid() != 0, reason="the lab's images are built as root")
STORED = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE

# The bare loop, in a process of its own: it appends the milliseconds from its connection on.
BARE = """
import json, sys, time
import libvirt
uri, xmls, times, state = sys.argv[1:]
with open(xmls) as file:
    xmls = json.load(file)
begin = time.perf_counter()
handle = libvirt.open(uri)
for xml in xmls:
    domain = handle.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    if state == "running":
        domain.create()
handle.close()
spent = (time.perf_counter() - begin) * 1e3
with open(times, "a") as file:
    print(spent, file=file)
"""
# Takes stopped domains away with what was found out about them, and keeps what they were.
TAKE = """
import json, pathlib, sys
import libvirt
uri, xmls = sys.argv[1:]
handle = libvirt.open(uri)
domains = handle.listAllDomains()
flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
with open(xmls, "w") as file:
    json.dump([domain.XMLDesc(flags) for domain in domains], file)
for domain in domains:
    domain.undefine()
pathlib.Path("/var/cache/virtfleet/answers").unlink(missing_ok=True)
"""


def _guests(count: int, state: str = "running") -> list[dict[str, Any]]:
    return [
        {
            "name": f"g{number}",
            "memory": "512MiB",
            "vcpus": 2,
            "disks": [{"target": "vda", "file": f"/images/g{number}.qcow2", "format": "qcow2"}],
            "nics": [{"network": "default"}],
            "state": state,
        }
        for number in range(count)
    ]


def _one_changed(count: int) -> list[dict[str, Any]]:
    guests = _guests(count)
    guests[count // 2]["memory"] = "1GiB"
    return guests


class Recorder(Applier):
    """Carries out what it shall, and keeps what it gave libvirt to define."""

    written: ClassVar[list[str]] = []

    def _define(self, xml: str) -> Any:
        self.written.append(xml)
        return super()._define(xml)


class Place:
    """Libvirt's test driver in this process, which keeps its domains until `clear`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.handle = libvirt.open(URI)

    def converge(self, guests: list[dict[str, Any]], actions: int, uri: str = URI) -> float:
        """Do what the module does; return the milliseconds."""
        begin = time.perf_counter()
        answers = Answers(str(self.root / "answers"))
        engine = LibvirtEngine(uri)
        engine.remember(answers)
        engines = Engines([engine], Layout(str(self.root)))
        outcome = run(engines, Wish(guests), engine.host("kvm1"), check_mode=False)
        engines.close()
        answers.save()
        spent = (time.perf_counter() - begin) * 1e3
        assert len(outcome["guests"]) == len(guests)
        assert (len(outcome["actions"]), outcome["changed"]) == (actions, actions > 0)
        return spent

    def written(self, guests: list[dict[str, Any]], actions: int) -> list[str]:
        """Make the guests, and return what libvirt was given to define."""
        Recorder.written.clear()
        with unittest.mock.patch.object(apply, "Applier", Recorder):
            self.converge(guests, actions)
        written = list(Recorder.written)
        assert len(written) == len(guests)
        return written

    def bare(self, xmls: list[str]) -> float:
        """Return the milliseconds in which libvirt defines and starts the same."""
        begin = time.perf_counter()
        handle = libvirt.open(URI)
        for xml in xmls:
            handle.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE).create()
        handle.close()
        return (time.perf_counter() - begin) * 1e3

    def clear(self) -> None:
        """Take all domains away, and what was found out about them."""
        (self.root / "answers").unlink(missing_ok=True)
        for domain in self.handle.listAllDomains():
            if domain.isActive():
                domain.destroy()
            domain.undefine()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    found.clear()
    found.handle.close()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], str]:
    """Return what gives the URI of a test driver in which so many guests run."""
    folder = tmp_path_factory.mktemp("nodes")
    place = Place(folder)
    place.clear()
    most = max(COUNT, MANY)
    place.converge(_guests(most), 2 * most)
    network = place.handle.networkLookupByName("default").XMLDesc()
    xmls = [place.handle.lookupByName(f"g{n}").XMLDesc(STORED) for n in range(most)]
    place.clear()
    place.handle.close()

    def uri(count: int) -> str:
        path = folder / f"{count}.xml"
        path.write_text("\n".join(["<node>", network, *xmls[:count], "</node>"]))
        return f"test:///{path}"

    return uri


def _task(guests: list[dict[str, Any]], root: Path, uri: str = URI) -> dict[str, Any]:
    options = {"guests": guests, "uri": uri, "root": str(root)}
    return {"kvm_guests": options, "register": "found", **_here()}


def _here() -> dict[str, Any]:
    """Return what lets a task run with the Python that has libvirt's binding."""
    return {"vars": {"ansible_python_interpreter": sys.executable}}


def _start(uri: str, root: Path) -> dict[str, Any]:
    """Return the module's task with nothing to do: its start and its connection."""
    return _task([{"name": "none", "state": "absent"}], root, uri)


def _found(count: int, actions: int) -> dict[str, Any]:
    """Return a task that fails if the one before had not so many guests or did something else."""
    said = [
        f"found.guests | length == {count}",
        f"found.actions | length == {actions}",
        "found is changed" if actions else "found is not changed",
        "found.blocked == []",
    ]
    return {"ansible.builtin.assert": {"that": said, "quiet": True}, **_here()}


def _ping() -> dict[str, Any]:
    return {"ansible.builtin.ping": {}, **_here()}


def _floats(text: str) -> list[float]:
    return [float(line) for line in text.split()]


def _report_made(title: str, ours: list[float], loops: list[float], starts: list[float]) -> None:
    """Hold whole tasks that make guests to 1.3 times the bare loop and one start."""
    allowed = [1.3 * loop + start for loop, start in zip(loops, starts, strict=True)]
    mine = ("kvm_guests, one task", ours)
    say(f"\n{title}, what is allowed [ms]")
    say(f"  {'the bare loop':<44} {statistics.median(loops):10.2f}")
    say(f"  {'the start, a task with nothing to do':<44} {statistics.median(starts):10.2f}")
    report(title, "ms", mine, ("1.3 bare loops and one module start", allowed), 1.0)


def test_guests_defined_against_a_bare_loop(place: Place) -> None:
    """In this process; the start that the module may take besides is not on either side."""
    place.clear()
    xmls = place.written(_guests(COUNT), 2 * COUNT)

    def ours() -> float:
        place.clear()
        return place.converge(_guests(COUNT), 2 * COUNT)

    def peer() -> float:
        place.clear()
        return place.bare(xmls)

    title = f"{COUNT} guests defined and started, without the module's start"
    mine, theirs = Side("the engine", ours), Side("a bare loop, the same XML", peer)
    compare(title, "ms", mine, theirs, 1.3, rounds=ROUNDS)


def test_guests_defined_by_a_task_against_a_bare_loop(
    place: Place, playbook: Playbook, tmp_path: Path
) -> None:
    xmls, times = tmp_path / "xmls.json", tmp_path / "bare"
    xmls.write_text(json.dumps(place.written(_guests(COUNT), 2 * COUNT)))
    loop = [sys.executable, "-c", BARE, URI, str(xmls), str(times), "running"]
    tasks = []
    for number in range(ROUNDS + 1):
        root = tmp_path / str(number)  # where nothing was found out before
        tasks += [_start(URI, root), _task(_guests(COUNT), root), _found(COUNT, 2 * COUNT)]
        tasks.append({"ansible.builtin.command": {"argv": loop}, **_here()})
    spent = playbook.times(tasks)
    title = f"{COUNT} guests defined and started, whole tasks"
    _report_made(title, spent[5::4], _floats(times.read_text())[1:], spent[4::4])


@pytest.fixture
def peers(repository: Path) -> Path:
    """Return the folder with what `make bench` installed to measure against."""
    folder = repository / "build" / "peers"
    if not (folder / "ansible_collections" / "community" / "libvirt").is_dir():
        pytest.skip("community.libvirt is not there: make bench installs it")
    return folder


def test_guests_defined_against_a_task_each(
    place: Place,
    playbook: Playbook,
    peers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANSIBLE_COLLECTIONS_PATH", str(peers))
    guests = _guests(COUNT, "stopped")
    xmls = place.written(guests, COUNT)[:PEER_TASKS]
    each = {
        "community.libvirt.virt": {"command": "define", "uri": URI, "xml": "{{ item }}"},
        "loop": xmls,
        "environment": {"PYTHONPATH": str(peers)},
        **_here(),
    }
    tasks = []
    for number in range(PEER_ROUNDS):
        tasks += [each, _task(guests, tmp_path / str(number)), _found(COUNT, COUNT)]
    spent = playbook.times(tasks)
    peer = [one * COUNT / len(xmls) for one in spent[0::3]]
    title = f"{COUNT} guests defined"
    name = f"community.libvirt.virt, {len(xmls)} scaled to {COUNT}"
    faster = statistics.median(b / a for a, b in zip(spent[1::3], peer, strict=True))
    say(f"\n{title}: one task is {faster:.1f} times as fast as {COUNT}")
    report(title, "ms", ("kvm_guests, one task", spent[1::3]), (name, peer), 1 / 30)


def test_unchanged_guests_against_a_ping(
    node: Callable[[int], str], playbook: Playbook, tmp_path: Path
) -> None:
    ours = _task(_guests(COUNT), tmp_path, node(COUNT))
    spent = playbook.times([_ping(), ours, _found(COUNT, 0)] * (ROUNDS + 1))
    title = f"{COUNT} guests, running and unchanged"
    report(title, "ms", ("kvm_guests", spent[4::3]), ("ansible.builtin.ping", spent[3::3]), 2.0)


def test_unchanged_guests_are_linear(
    node: Callable[[int], str], place: Place, playbook: Playbook, tmp_path: Path
) -> None:
    uris = {count: node(count) for count in COUNTS}
    tasks = [_ping()]
    for count, uri in uris.items():
        tasks += [_task(_guests(count), tmp_path, uri), _found(count, 0)]
    spent = playbook.times(tasks * (ROUNDS + 1))
    whole = {c: spent[len(tasks) + 1 + 2 * n :: len(tasks)] for n, c in enumerate(COUNTS)}
    alone: dict[int, list[float]] = {count: [] for count in COUNTS}
    opened: dict[int, list[float]] = {count: [] for count in COUNTS}
    for _ in range(ROUNDS):
        for count, uri in uris.items():
            opened[count].append(_open(uri))
            alone[count].append(place.converge(_guests(count), 0, uri))
    say(f"\nguests, running and unchanged [ms, medians of {ROUNDS}]")
    heads = ("guests", "whole task", "in process", "driver opens", "a guest")
    say("".join(f"{head:>14}" for head in heads))
    for count in COUNTS:
        row = [statistics.median(samples[count]) for samples in (whole, alone, opened)]
        added = (row[1] - row[2]) / count
        say(f"{count:14}{row[0]:14.2f}{row[1]:14.2f}{row[2]:14.2f}{added:14.3f}")
    fewest, most = COUNTS[0], COUNTS[-1]
    slope = statistics.median(
        (b - a) / (most - fewest) for a, b in zip(whole[fewest], whole[most], strict=True)
    )
    say(
        f"  {'ansible.builtin.ping':<44} {statistics.median(spent[len(tasks) :: len(tasks)]):10.2f}"
    )
    say(f"  {f'each more of the whole task, {fewest} to {most}':<44} {slope:10.3f}")
    each = {c: [a / c for a in alone[c]] for c in COUNTS[1:]}
    (few, some), (many, all_of_them) = each.items()
    title = "one of the guests, in process"
    report(title, "ms", (f"of {many}", all_of_them), (f"of {few}", some), LINEAR)


def _open(uri: str) -> float:
    """Return the milliseconds in which the test driver reads its file."""
    begin = time.perf_counter()
    libvirt.open(uri).close()
    return (time.perf_counter() - begin) * 1e3


def test_one_change_against_none(
    node: Callable[[int], str], place: Place, playbook: Playbook, tmp_path: Path
) -> None:
    uri = node(MANY)
    one, none = _one_changed(MANY), _guests(MANY)
    tasks = [
        _task(none, tmp_path, uri),
        _found(MANY, 0),
        _task(one, tmp_path, uri),
        _found(MANY, 1),
    ]
    pairs = [(place.converge(one, 1, uri), place.converge(none, 0, uri)) for _ in range(ROUNDS)]
    ours, peer = ([pair[side] for pair in pairs] for side in (0, 1))
    title = f"{MANY} guests"
    report(f"{title}, in process", "ms", ("one changes", ours), ("none changes", peer), None)
    spent = playbook.times(tasks * (ROUNDS + 1))
    sides = ("one changes", spent[6::4]), ("none changes", spent[4::4])
    report(f"{title}, whole tasks", "ms", *sides, 1.2)


@pytest.fixture(scope="module")
def disks(lab: Lab) -> Lab:
    """Have the disks of the guests on a host of the lab."""
    lab["kvm2"].run(
        f"sudo mkdir -p {PLACE} && for n in $(seq 0 {COUNT - 1});"
        f" do sudo truncate -s 1M {PLACE}/g$n.img || exit; done"
    )
    return lab


def _there(task: dict[str, Any]) -> dict[str, Any]:
    """Return a task as it runs on a host of the lab."""
    return {**task, "become": True, "vars": {}}


def _script(script: str, *arguments: str) -> dict[str, Any]:
    argv = ["/usr/bin/python3", "-c", script, SYSTEM, *arguments]
    return _there({"ansible.builtin.command": {"argv": argv}})


def _stopped() -> dict[str, Any]:
    """Return the task that asks for stopped guests on a host of the lab."""
    guests = [
        {
            "name": f"g{number}",
            "memory": "512MiB",
            "vcpus": 2,
            "disks": [{"target": "vda", "file": f"{PLACE}/g{number}.img", "format": "raw"}],
            "state": "stopped",
        }
        for number in range(COUNT)
    ]
    return _there(_task(guests, Path("/"), SYSTEM))


@pytest.mark.lab
@in_the_lab
def test_guests_of_qemu_defined_against_a_bare_loop(disks: Lab, playbook: Playbook) -> None:
    """On an emulated host, which SSH leads to; the loop runs there and defines what we made."""
    xmls, times = f"{PLACE}/xmls.json", f"{PLACE}/times"
    tasks = [
        _there(_start(SYSTEM, Path("/"))),
        _stopped(),
        _there(_found(COUNT, COUNT)),
        _script(TAKE, xmls),
        _script(BARE, xmls, times, "stopped"),
        _script(TAKE, xmls),
    ]
    spent = playbook.times(tasks * (LAB_ROUNDS + 1), disks.inventory)
    loops = _floats(disks["kvm2"].out(f"sudo cat {times}"))
    title = f"{COUNT} guests of QEMU defined over SSH, whole tasks"
    _report_made(title, spent[7::6], loops[1:], spent[6::6])


@pytest.mark.lab
@in_the_lab
def test_unchanged_guests_of_qemu_against_a_ping(disks: Lab, playbook: Playbook) -> None:
    ours = _stopped()
    tasks = [_there(_ping()), ours, _there(_found(COUNT, 0))]
    spent = playbook.times([ours, *tasks * (LAB_ROUNDS + 1)], disks.inventory)
    title = f"{COUNT} guests of QEMU, stopped and unchanged, over SSH"
    report(title, "ms", ("kvm_guests", spent[5::3]), ("ansible.builtin.ping", spent[4::3]), 2.0)

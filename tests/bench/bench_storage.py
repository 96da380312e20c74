# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What guests stand on, on an emulated host: against bare libvirt, virsh, a ping, and a boot."""

from __future__ import annotations

import json
import os
import statistics
from typing import TYPE_CHECKING, Any

import pytest
from comparing import Playbook, report, say
from virtlab import images
from virtlab.recipe import GUEST, golden

if TYPE_CHECKING:
    from virtlab.lab import Lab

COUNT = 50
ROUNDS = 3
PLACE = "/srv/bench"
SYSTEM = "qemu:///system"
pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab's images are built as root"),
]

# Overlays and domains, as a loop over libvirt's binding makes them; it appends its milliseconds.
LOOP = """
import json, sys, time
import libvirt
base, xmls, times = sys.argv[1:]
with open(xmls) as file:
    xmls = json.load(file)
begin = time.perf_counter()
handle = libvirt.open("qemu:///system")
pool = handle.storagePoolLookupByName("bench")
for number, xml in enumerate(xmls):
    pool.createXML(
        f"<volume><name>g{number}.qcow2</name><capacity>16777216</capacity>"
        "<target><format type='qcow2'/></target><backingStore>"
        f"<path>{base}</path><format type='raw'/></backingStore></volume>"
    )
    handle.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
handle.close()
spent = (time.perf_counter() - begin) * 1e3
with open(times, "a") as file:
    print(spent, file=file)
"""
# Takes domains and overlays away, and keeps what the former were.
TAKE = """
import json, sys
import libvirt
handle = libvirt.open("qemu:///system")
domains = handle.listAllDomains()
with open(sys.argv[1], "w") as file:
    json.dump([domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) for domain in domains], file)
for domain in domains:
    domain.undefine()
pool = handle.storagePoolLookupByName("bench")
pool.refresh()
for volume in pool.listAllVolumes():
    volume.delete()
"""


def _there(task: dict[str, Any]) -> dict[str, Any]:
    return {**task, "become": True}


def _script(script: str, *arguments: str) -> dict[str, Any]:
    argv = ["/usr/bin/python3", "-c", script, *arguments]
    return _there({"ansible.builtin.command": {"argv": argv}})


def _module(name: str, **options: Any) -> dict[str, Any]:
    return _there({name: options, "register": "found"})


def _made(word: str, count: int) -> dict[str, Any]:
    """Return a task that fails if the one before did anything else."""
    said = [f"found.{word} | length == {COUNT}", f"found.actions | length == {count}"]
    return {"ansible.builtin.assert": {"that": said, "quiet": True}}


def _ping() -> dict[str, Any]:
    return _there({"ansible.builtin.ping": {}})


@pytest.fixture(scope="module")
def base(lab: Lab, repository: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Have a pool and an image on the host; return the image's file."""
    host = lab["kvm2"]
    host.run("sudo truncate -s 4M /srv/tiny.img")
    tasks = [
        _module("kvm_pools", pools=[{"name": "bench", "type": "dir", "path": PLACE}]),
        _module("kvm_images", images=[{"name": "tiny", "path": "/srv/tiny.img"}]),
    ]
    Playbook(repository, tmp_path_factory.mktemp("base")).times(tasks, lab.inventory)
    return host.out("sudo readlink -f /var/lib/libvirt/images/virtfleet/tiny")


def test_guests_on_an_image_against_a_bare_loop(base: str, lab: Lab, playbook: Playbook) -> None:
    """Overlays made and domains defined; the module may take its own start besides."""
    guests = [
        {
            "name": f"g{number}",
            "memory": "64MiB",
            "disks": [
                {
                    "target": "vda",
                    "file": f"{PLACE}/g{number}.qcow2",
                    "size": "16MiB",
                    "image": "tiny",
                }
            ],
            "state": "stopped",
        }
        for number in range(COUNT)
    ]
    xmls, times = "/root/xmls.json", "/root/times"
    tasks = [
        _module("kvm_guests", guests=[{"name": "none", "state": "absent"}]),
        _module("kvm_guests", guests=guests),
        _made("guests", COUNT),
        _script(TAKE, xmls),
        _script(LOOP, base, xmls, times),
        _script(TAKE, "/dev/null"),
    ]
    spent = playbook.times(tasks * (ROUNDS + 1), lab.inventory)
    loops = [float(line) for line in lab["kvm2"].out(f"sudo cat {times}").split()][1:]
    starts, ours = spent[6::6], spent[7::6]
    say(f"\n{COUNT} guests on one image [ms]: the loop {statistics.median(loops):.0f},")
    say(f"a task with nothing to do {statistics.median(starts):.0f}")
    allowed = [1.3 * loop + start for loop, start in zip(loops, starts, strict=True)]
    mine = ("kvm_guests, one task", ours)
    title = f"{COUNT} guests on one image"
    report(title, "ms", mine, ("1.3 bare loops and one module start", allowed), 1.0)


def test_a_sparse_image_uploaded_against_virsh(base: str, lab: Lab, playbook: Playbook) -> None:
    """10 GiB with 1 GiB of data: a volume made and filled."""
    del base
    lab["kvm2"].run(
        "sudo truncate -s 10G /srv/sparse.img && for n in 0 3 6 9; do"
        " sudo dd if=/dev/urandom of=/srv/sparse.img bs=1M count=256 seek=${n}000 conv=notrunc;"
        " done"
    )
    volume = {
        "pool": "bench",
        "name": "sparse.img",
        "format": "raw",
        "upload": {"path": "/srv/sparse.img"},
    }
    virsh = (
        f"virsh -c {SYSTEM} 'vol-create-as bench sparse.img 10G --allocation 0 --format raw;"
        " vol-upload sparse.img /srv/sparse.img --pool bench --sparse'"
    )
    gone = _there({"ansible.builtin.command": f"virsh -c {SYSTEM} vol-delete sparse.img bench"})
    nothing = {"pool": "bench", "name": "none", "state": "absent"}
    tasks = [
        _module("kvm_volumes", volumes=[nothing]),
        _module("kvm_volumes", volumes=[volume]),
        gone,
        _ping(),
        _there({"ansible.builtin.shell": virsh}),
        gone,
    ]
    spent = playbook.times(tasks * (ROUNDS + 1), lab.inventory)
    starts, ours, pings, theirs = spent[6::6], spent[7::6], spent[9::6], spent[10::6]
    mine = [one - start for one, start in zip(ours, starts, strict=True)]
    peer = [one - ping for one, ping in zip(theirs, pings, strict=True)]
    title = "10 GiB uploaded, 1 GiB of it data, without the tasks' own start"
    sides = ("kvm_volumes", mine), ("virsh vol-upload --sparse", peer)
    report(title, "ms", *sides, 1.2)
    sides = ("kvm_volumes, whole task", ours), ("virsh, whole task", theirs)
    report("10 GiB uploaded, whole tasks", "ms", *sides, None)


def _unchanged() -> list[tuple[str, str, list[dict[str, Any]]]]:
    numbers = range(COUNT)
    return [
        (
            "kvm_networks",
            "networks",
            [{"name": f"n{n}", "mode": "isolated", "bridge": f"vb{n}"} for n in numbers],
        ),
        (
            "kvm_pools",
            "pools",
            [{"name": f"p{n}", "type": "dir", "path": f"/srv/p{n}"} for n in numbers],
        ),
        (
            "kvm_volumes",
            "volumes",
            [{"pool": "bench", "name": f"v{n}", "size": "1MiB"} for n in numbers],
        ),
        ("kvm_images", "images", [{"name": f"i{n}", "path": "/srv/tiny.img"} for n in numbers]),
    ]


@pytest.mark.parametrize(
    ("module", "word", "entries"), _unchanged(), ids=[case[0] for case in _unchanged()]
)
def test_unchanged_against_a_ping(
    base: str,
    lab: Lab,
    playbook: Playbook,
    module: str,
    word: str,
    entries: list[dict[str, Any]],
) -> None:
    del base
    ours = _module(module, **{word: entries})
    spent = playbook.times([ours, *[_ping(), ours, _made(word, 0)] * (ROUNDS + 1)], lab.inventory)
    title = f"{COUNT} {word}, unchanged"
    report(title, "ms", (module, spent[5::3]), ("ansible.builtin.ping", spent[4::3]), 2.0)


def test_a_guest_from_a_cached_image_to_ssh(base: str, lab: Lab, playbook: Playbook) -> None:
    """Where the time goes; what is not ours is libvirt's start of QEMU, and the guest's boot.

    The start is the one of virsh, of the same guest as soon as it has been stopped.
    """
    del base
    image = images.ensure([golden(*GUEST)])[golden(*GUEST)] / "disk.qcow2"
    address = "10.40.0.9"
    network = {"name": "first", "mode": "isolated"}
    network["ips"] = json.loads('[{"address": "10.40.0.1", "prefix": 24}]')
    guest = {
        "name": "first",
        "memory": "384MiB",
        "disks": [{"target": "vda", "file": f"{PLACE}/f.qcow2", "size": "4GiB", "image": "golden"}],
        "nics": [{"network": "first", "ip": {"addresses": [f"{address}/24"]}}],
        "cloud_init": {"user": "ops"},
    }
    ways = {"force": True, "stop_timeout": "2s"}
    answers = {"host": address, "port": 22, "search_regex": "OpenSSH", "timeout": 600}
    tasks = [
        _ping(),
        _module("kvm_guests", guests=[guest]),
        {"ansible.builtin.wait_for": answers},
        _module("kvm_guests", guests=[{**guest, "state": "stopped"}], **ways),
        _there({"ansible.builtin.command": f"virsh -c {SYSTEM} start first"}),
        _module("kvm_guests", guests=[{**guest, "state": "absent", "remove_disks": True}], **ways),
    ]
    before = [
        _module("kvm_networks", networks=[network]),
        _module("kvm_images", images=[{"name": "golden", "file": str(image)}]),
    ]
    spent = playbook.times([*before, *tasks * ROUNDS], lab.inventory)[len(before) :]
    pings, made, booted, starts = (spent[n :: len(tasks)] for n in (0, 1, 2, 4))
    started = [start - ping for start, ping in zip(starts, pings, strict=True)]
    mine = [task - start for task, start in zip(made, started, strict=True)]
    whole = [task + boot for task, boot in zip(made, booted, strict=True)]
    say("\na guest from a cached image to answering SSH, medians [ms]")
    for name, part in (
        ("kvm_guests, the whole task", made),
        ("  of it Ansible's own, as a ping", pings),
        ("  of it libvirt's start of QEMU, as virsh start", started),
        ("the guest's boot after that", booted),
    ):
        say(f"  {name:<48} {statistics.median(part):10.0f}")
    title = "a guest from a cached image to answering SSH, without the start of QEMU"
    report(title, "ms", ("kvm_guests", mine), ("all of it", whole), 0.1)

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's own schema, domains of many shapes, and specs made at random from the table."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import pytest
from ansible.module_utils.virt import codecs, compound, disk, nic
from ansible.module_utils.virt.check import check
from ansible.module_utils.virt.display import ONLY
from ansible.module_utils.virt.domain import FIELDS
from ansible.module_utils.virt.fields import Aside, Group, Leaf, Selected
from ansible.module_utils.virt.lists import Items, Lists, Map
from ansible.module_utils.virt.writer import Capabilities
from schema import Schema, schema_of

if TYPE_CHECKING:
    from ansible.module_utils.converge.errors import Problem

CASES = Path(__file__).resolve().parents[2] / "cases" / "virt"


@pytest.fixture(scope="session")
def schema() -> Schema:
    """Return libvirt's schema of domains."""
    return schema_of("domain")


@pytest.fixture
def valid(schema: Schema) -> Callable[[str], None]:
    """Return a check that libvirt's schema has nothing against a document."""

    def judge(text: str) -> None:
        assert schema.problems(text) == []

    return judge


@pytest.fixture
def host() -> Capabilities:
    """Return what new domains are made for."""
    return Capabilities(
        "pc-q35-7.2",
        emulator="/usr/bin/qemu-system-x86_64",
        families={"q35": "pc-q35-7.2", "pc": "pc-i440fx-7.2"},
    )


@pytest.fixture(params=sorted(path.name for path in CASES.glob("*.xml")))
def case(request: pytest.FixtureRequest) -> str:
    """Return each of the domains that lie in tests/cases/virt."""
    text: str = (CASES / request.param).read_text(encoding="utf-8")
    return text


# Texts that matched a pattern of the table, by what it says is expected.
SAMPLES = {
    "an absolute path": ("/var/lib/a b/ä&<>'\"]]>.img", "/x"),
    "a device's name": ("eth0", "br-0.1:x"),
    "a name of letters, digits, _, + and -": ("lan_1", "a+b"),
    "a name without a slash": ("volume 1.qcow2", "a&b"),
    "a host's name or address": ("storage.example.com", "192.0.2.1", "::"),
    "a UUID": ("3b1a9c4e-0000-4000-8000-0123456789ab", "00000000-0000-4000-8000-000000000001"),
    "a unicast MAC address such as 02:00:00:00:00:01": ("02:00:00:00:00:01", "52:54:00:ab:cd:ef"),
    "a number": ("0", "1"),
    "at most 12 characters without a comma": ("KVMKVMKVM", "a&b<c"),
    "a time zone": ("Europe/Berlin", "Etc/GMT+3"),
    "seconds, or reset": ("+3600", "-1"),
    "a machine type": ("pc-q35-7.2",),
    "a CPU model": ("Skylake-Server-IBRS", "qemu64"),
    "a vendor": ("Intel", "AMD"),
    "a feature's name": ("vmx", "sse4.1"),
    "a target such as vda": ("vda", "vdb"),
    "a serial number": ("WD-1234 5", "a.b+c"),
    "a WWN of 16 hexadecimal digits": ("5000c50015ea71ad",),
    "at most 8 printable characters": ("a&<>b", "ACME"),
    "at most 16 printable characters": ("Disk 'one'", "x"),
    "a bridge's name": ("br0", "br:1"),
    "a profile": ("profile & more",),
    "a NIC model": ("virtio", "e1000e"),
    "a filter's name": ("clean-traffic", "no.spoof_1"),
    "a parameter's name": ("IP", "MAC_1"),
    "a parameter's value": ("192.0.2.7",),
    "a host": ("192.0.2.9", "log.example.com"),
    "a port or service": ("5555", "telnet"),
    "a port": ("5901", "6000"),
    "a keymap": ("de", "en-us"),
    "a name such as opt/com.coreos/config": ("opt/com.coreos/config", "opt/x"),
}
TEXTS = ("plain", "a & b", "<x/>", "]]>", "'\"", "ä€😀", "a  b")


class Specs:
    """Makes specs at random; the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def value(self, codec: codecs.Codec) -> Any:  # noqa: C901, PLR0911 (a case for each codec)
        """Return something that the codec takes."""
        pick = self.random.choice
        if isinstance(codec, codecs.Pattern):
            return pick(SAMPLES[codec.expected])
        if isinstance(codec, codecs.Words):
            return pick(codec.words)
        if isinstance(codec, (codecs.Flag, codecs.Present)):
            return pick((True, False))
        if isinstance(codec, codecs.Whole):
            return self.random.randint(codec.low, min(codec.high, codec.low + 300))
        if isinstance(codec, codecs.Size):
            unit = {"B": "B", "KiB": "KiB"}[codec.unit]
            scale = 1 if unit == "B" else 1024
            low = max(1, codec.low // scale)
            return f"{self.random.randint(low, low + 5000)}{unit}"
        if isinstance(codec, codecs.CpuSet):
            return pick(("0", "0-3", "0-7,^2,11", 5))
        if isinstance(codec, compound.Pci):
            return pick(("0000:03:00.0", "1:2.3", "ABCD:ff:1f.7"))
        if isinstance(codec, compound.Pair):
            return pick(("1234:abcd", "05ac:12a8") if codec.hexadecimal else ("1.4", "2.10"))
        if isinstance(codec, compound.Tags):
            return pick(([10], [20, 30], 7))
        if isinstance(codec, compound.Several):
            return self.random.sample(codec.words, 2)
        if isinstance(codec, compound.Chosen):
            return pick(("auto", codec.low, codec.low + 1))
        if isinstance(codec, codecs.Lines):
            return pick((*TEXTS, "two\nlines\tand a tab"))
        return pick(TEXTS)

    def some(self, fields: Any, must: Any = (), share: float = 0.4) -> dict[str, Any]:
        """Return values for some of the fields, and for those that must be stated."""
        return {
            one.key: self.field(one)
            for one in fields
            if not isinstance(one, Aside)  # what the XML does not have
            and (one.key in must or self.random.random() < share)
        }

    def field(self, one: Any) -> Any:
        """Return a value for a field."""
        if isinstance(one, Selected):
            return True
        if isinstance(one, Leaf):
            return self.value(one.codec)
        if isinstance(one, Lists):
            return {"IP": self.random.choice(["192.0.2.7", ["192.0.2.7", "192.0.2.8"]])}
        if isinstance(one, Map):
            count = self.random.randint(1, 2)
            return {self.value(one.names): self.value(one.values) for _ in range(count)}
        if isinstance(one, Items):
            most = 1 if one.key == "watchdogs" else 2  # the schema of older libvirts has one
            return [self.entry(one, number) for number in range(self.random.randint(1, most))]
        assert isinstance(one, Group)
        needed = [leaf.key for leaf in one.fields if getattr(leaf, "required", False)]
        change: Any = getattr(self, f"_{one.key}", None)
        stated = self.some(one.fields, needed)
        return change(stated) if change else stated

    def entry(self, items: Items, number: int) -> dict[str, Any]:
        """Return an entry of a list, unlike the others in what tells it."""
        fields = items.fields
        stated = self.some(fields, items.needs, 0.3)
        change: Any = getattr(self, f"_{items.key}_entry", None)
        found: dict[str, Any] = change(stated, number) if change else stated
        return found

    def one_source(self, stated: dict[str, Any], keys: Any, fields: Any) -> dict[str, Any]:
        """Return what is stated with exactly one of several sources."""
        for key in keys:
            stated.pop(key, None)
        one = self.random.choice([one for one in fields if one.key in keys])
        return {**stated, one.key: self.field(one)}

    def _disks_entry(self, stated: dict[str, Any], number: int) -> dict[str, Any]:
        stated = self.one_source(stated, [one.key for one in disk.SOURCES], disk.FIELDS)
        stated.pop("bus", None)
        stated["target"] = f"vd{'abc'[number]}"
        if stated.get("device") != "disk":
            stated.pop("device", None)
        if "boot" in stated:
            stated["boot"] = number + 1
        if stated.get("shareable"):
            stated.pop("format", None)
        if stated.get("io") == "native":
            stated["cache"] = "none"
        if "file" not in stated and "block" not in stated and "volume" not in stated:
            stated.pop("startup_policy", None)
        if "encryption" in stated:
            stated["encryption"] = {"format": "luks", "usage": "disk"}
        return stated

    def _cpu(self, stated: dict[str, Any]) -> dict[str, Any]:
        if "model" in stated and self.random.random() < 0.7:
            stated["mode"] = "custom"
        return stated

    def _throttle(self, stated: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in stated.items() if not key.startswith("total_")}

    def _network(self, _stated: dict[str, Any]) -> dict[str, Any]:
        sources: tuple[dict[str, Any], ...] = (
            {
                "protocol": "rbd",
                "name": "pool/image",
                "hosts": [{"name": "192.0.2.1", "port": 6789}, {"name": "192.0.2.2"}],
                "auth": {
                    "username": "libvirt",
                    "type": "ceph",
                    "secret": "3b1a9c4e-0000-4000-8000-0123456789ab",
                },
                "snapshot": "before",
                "config": "/etc/ceph/ceph.conf",
            },
            {
                "protocol": "iscsi",
                "name": "iqn.2013-07.com.example:iscsi/1",
                "hosts": [{"name": "storage.example.com", "port": 3260}],
                "initiator": "iqn.2013-07.com.example:client",
            },
            {"protocol": "nbd", "name": "export", "hosts": [{"socket": "/run/nbd.sock"}]},
            {"protocol": "nbd", "tls": True, "hosts": [{"name": "192.0.2.1"}]},
            {
                "protocol": "https",
                "name": "/images/a.iso",
                "query": "a=1&b=2",
                "hosts": [{"name": "www.example.com", "port": 443}],
                "verify": False,
            },
        )
        found: dict[str, Any] = self.random.choice(sources)
        return found

    def _nics_entry(self, stated: dict[str, Any], number: int) -> dict[str, Any]:
        keys = [key for key in nic.SOURCES if key != "hostdev"]
        stated = self.one_source(stated, [*keys, "hostdev", "mode"], nic.FIELDS)
        if "mode" in stated:
            stated["direct"] = "eth0"
        for key in ("managed", "portgroup", "virtualport"):
            stated.pop(key, None)
        if "hostdev" in stated:
            for key in ("driver", "queues", "rx_queue_size", "tx_queue_size"):
                stated.pop(key, None)
        if "filter_parameters" in stated:
            stated["filter"] = "clean-traffic"
        if "network" in stated:
            stated["network"] = "lan & more"
        if "queues" in stated:
            stated["model"] = "virtio"
        if "mac" in stated or number:
            stated["mac"] = f"02:00:00:00:00:{number:02x}"
        if "boot" in stated:
            stated["boot"] = 10 + number
        return stated

    def _hostdevs_entry(self, stated: dict[str, Any], number: int) -> dict[str, Any]:
        kind = self.random.choice(("pci", "usb", "usb_device", "mdev"))
        kept = {"pci": ("managed", "rom", "rom_bar", "rom_file"), "mdev": ("display",)}.get(
            kind, ()
        )
        found: dict[str, Any] = {key: stated[key] for key in kept if key in stated}
        found[kind] = {
            "pci": f"0000:0{number}:00.0",
            "usb": f"1234:000{number}",
            "usb_device": f"1.{number + 1}",
            "mdev": f"00000000-0000-4000-8000-00000000000{number}",
        }[kind]
        return found

    def _graphics_entry(self, stated: dict[str, Any], number: int) -> dict[str, Any]:
        kind = ("vnc", "spice")[number]
        return {
            **{key: value for key, value in stated.items() if kind in ONLY.get(key, (kind,))},
            "type": kind,
        }

    def _serials_entry(self, stated: dict[str, Any], _number: int) -> dict[str, Any]:
        path = stated.pop("path", None)
        stated["type"] = self.random.choice(("pty", "unix", "file", "null"))
        if stated["type"] in ("unix", "file"):
            stated["path"] = path or "/run/x"
        return stated

    _consoles_entry = _serials_entry

    def _channels_entry(self, stated: dict[str, Any], number: int) -> dict[str, Any]:
        return {**self._serials_entry(stated, number), "name": f"org.example.{number}"}

    def _filesystems_entry(self, stated: dict[str, Any], number: int) -> dict[str, Any]:
        return {**stated, "target": f"share {number}", "driver": "9p"}

    def _sounds_entry(self, _stated: dict[str, Any], number: int) -> dict[str, Any]:
        return {"model": ("ich9", "ac97")[number]}

    def _inputs_entry(self, _stated: dict[str, Any], number: int) -> dict[str, Any]:
        return {"type": ("tablet", "keyboard")[number]}

    def _watchdogs_entry(self, stated: dict[str, Any], number: int) -> dict[str, Any]:
        return {**stated, "model": "i6300esb"}

    def _panics_entry(self, _stated: dict[str, Any], number: int) -> dict[str, Any]:
        return {"model": ("isa", "hyperv")[number]}

    def _numa_entry(self, stated: dict[str, Any], number: int) -> dict[str, Any]:
        return {**stated, "id": number, "cpus": str(number), "memory": "512MiB"}

    def spec(self) -> dict[str, Any]:
        """Return what a user could state of a guest, in canonical form."""
        stated = self.some(FIELDS, (), 0.3)
        for key in ("arch", "max_memory", "max_vcpus", "memory", "vcpus", "accel"):
            stated.pop(key, None)
        return self.sound(stated)

    def sound(self, stated: dict[str, Any]) -> dict[str, Any]:
        """Return a spec without what does not go together in it, in canonical form."""
        while True:
            problems: list[Problem] = []
            canonical = check(stated, "", problems)
            if not problems:
                return canonical
            for problem in problems:
                drop(stated, problem.path)


def drop(tree: Any, path: str) -> None:
    """Remove what stands at a problem's path, or the whole key where it is something missing."""
    steps: list[Any] = [
        int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]]+", path)
    ]
    inside = tree
    try:
        for step in steps[:-1]:
            inside = inside[step]
        del inside[steps[-1]]
    except (KeyError, IndexError, TypeError):
        tree.pop(steps[0], None)


@pytest.fixture(scope="session")
def specs() -> Callable[[int], Specs]:
    """Return a maker of random specs for a seed."""
    return Specs

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which calls of libvirt a change of a running guest becomes, and with what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible.module_utils.converge.action import LIVE, Change
from ansible.module_utils.guest.libvirt import live
from ansible.module_utils.guest.libvirt.live import (
    CONFIRM,
    DEVICES,
    STOP,
    WAYS,
    LiveError,
    apply_live,
    calls,
    changed,
    cpu_map,
    look,
    part,
)
from ansible.module_utils.virt.check import check
from ansible.module_utils.virt.document import Document, to_text
from ansible.module_utils.virt.domain import FIELDS
from ansible.module_utils.virt.fields import Group, Leaf, Selected, live_if_set
from ansible.module_utils.virt.lists import Items, Map
from ansible.module_utils.virt.patcher import patch

CASES = Path(__file__).resolve().parents[2] / "cases" / "virt"
PATCHES = json.loads((CASES / "patches.json").read_text(encoding="utf-8"))
NOW = "VIR_DOMAIN_AFFECT_LIVE"


def domain_xml(name="running", *replaced):
    text = (CASES / f"{name}.xml").read_text(encoding="utf-8")
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    return text


class Refusal(Exception):  # noqa: N818 (it stands for libvirt.libvirtError)
    """What libvirt raises."""

    def __init__(self, message, code="VIR_ERR_INTERNAL_ERROR"):
        super().__init__(message)
        self.code = code

    def get_error_code(self):
        return self.code

    def get_error_message(self):
        return str(self)


class Binding:
    """Stands for the module libvirt: each of its constants is its own name."""

    libvirtError = Refusal  # noqa: N815 (the binding's name)

    def __getattr__(self, name):
        if not name.startswith("VIR_"):
            raise AttributeError(name)
        return name


class RecordingDomain:
    """Stands for a running guest, and notes what is called; what QEMU does is the lab's to prove.

    SIMULATED: a device is gone as soon as it was asked to go, or never where it is ``stuck``.
    """

    def __init__(self, xml, *, cpus=8, refuses=None, stuck=False):
        self.xml = xml
        self.cpus = cpus
        self.refuses = refuses or {}
        self.stuck = stuck
        self.calls = []

    def XMLDesc(self, flags):  # noqa: N802 (the binding's name)
        return self.xml

    def connect(self):
        return self

    def getCPUMap(self, flags):  # noqa: N802 (the binding's name)
        return self.cpus, [True] * self.cpus, self.cpus

    def __getattr__(self, name):
        def call(*arguments):
            if name in self.refuses:
                raise self.refuses[name]
            assert arguments[-1] == NOW
            self.calls.append((name, *arguments[:-1]))
            if name == "detachDeviceFlags" and not self.stuck:
                assert self.xml.count(arguments[0]) == 1
                self.xml = self.xml.replace(arguments[0], "")

        return call


def canonical(stated):
    problems = []
    found = check(stated, "guest", problems)
    assert problems == []
    return found


def apply(domain, stated, changes=None, **more):
    """Apply the live changes that the patch of a domain finds, or those given."""
    keys = canonical(stated)
    if changes is None:
        changes = [edit for edit in patch(domain.xml, keys).changes if edit.when == LIVE]
    apply_live(domain, Binding(), domain.xml, keys, changes, fleet="local", **more)
    return domain.calls


def made(stated, xml=None):
    """Return the calls that a spec becomes."""
    return apply(RecordingDomain(xml or domain_xml()), stated)


# The whole table.


def can_be_live(one):
    if isinstance(one, Items):
        return one.attach is not None
    when = getattr(one, "when", None)
    special = isinstance(one, Leaf) and type(one).liveness is not Leaf.liveness
    return when == LIVE or callable(when) or special


def may_go(one):
    """Return whether a key can be taken away in a running guest."""
    if isinstance(one, Group) and not (one.thing or one.make or one.variant):
        return any(may_go(inside) for inside in one.fields)
    return can_be_live(one) and getattr(one, "when", None) is not live_if_set


def live_changes(fields, path=""):
    """Yield a change for each key whose change can be live."""
    for one in fields:
        here = f"{path}.{one.key}" if path else one.key
        if isinstance(one, Items):
            if can_be_live(one):
                yield Change(f"{here}[x.y]", None, {})
                yield Change(f"{here}[x.y]", {}, None)
            yield from live_changes(one.fields, f"{here}[x]")
        elif isinstance(one, Group):
            if may_go(one):
                yield Change(here, {"hard_limit": "1GiB"}, None)
            if can_be_live(one) and one.thing:
                yield Change(here, None, {})
            yield from live_changes(one.fields, here)
        elif can_be_live(one):
            assert isinstance(one, (Leaf, Map, Selected)), "a new kind: say how it can be live"
            yield Change(f"{here}.0" if isinstance(one, Map) else here, "1GiB", "2GiB")


def test_every_live_key_of_the_table_has_a_way():
    found = list(live_changes(FIELDS))
    assert {change.path for change in found} > {
        "memory",
        "vcpus",
        "title",
        "cpu_tuning.vcpu_pins.0",
        "disks[x.y]",
        "disks[x].file",
        "disks[x].network",
        "disks[x].throttle.group",
        "disks[x].throttle",
        "disks[x].format",
        "nics[x].bandwidth",
        "nics[x].bandwidth.inbound",
        "memory_tuning",
        "nics[x].bandwidth.inbound.average",
        "nics[x].filter_parameters.0",
        "rng",
        "memballoon.stats_period",
    }
    for change in found:
        (call,) = calls([change])
        assert call.changes == (change,)


def test_every_way_is_one_of_the_table():
    found = {change.path.replace("[x]", "") for change in live_changes(FIELDS)}
    for known in WAYS:
        assert any(path == known or path.startswith(f"{known}.") for path in found), known
    assert set(DEVICES) <= {one.key for one in FIELDS}


def test_what_cannot_be_live_has_no_way():
    for path in ("uuid", "cpu_tuning", "cpu_tuning.cpus", "rng.model", "memballoon.model", "?"):
        with pytest.raises(LiveError) as caught:
            calls([Change(path, 1, 2)])
        assert caught.value.message == f"{path}: cannot be changed in a running guest"
        assert caught.value.remedy == STOP


@pytest.mark.parametrize("case", PATCHES.values(), ids=PATCHES.keys())
def test_the_live_part_of_every_patch_can_be_called(case):
    domain = RecordingDomain(domain_xml(case["domain"]), cpus=16)
    apply(domain, case["stated"])
    assert bool(domain.calls) == any(when == LIVE for *_, when in case["changes"])


# Which changes are made at once, and in which order.


def described(changes):
    return [(call.path, len(call.changes)) for call in calls(changes)]


def test_changes_of_one_thing_are_made_at_once():
    changes = [
        Change("cpu_tuning.shares", None, 5),
        Change("nics[02:00:00:00:00:01].link", "up", "down"),
        Change("cpu_tuning.quota", 1, 2),
        Change("cpu_tuning.vcpu_pins.0", None, "1"),
        Change("cpu_tuning.vcpu_pins.1", None, "2"),
        Change("disks[vda].throttle.total_iops_sec", 1, 2),
        Change("nics[02:00:00:00:00:01].filter", None, "clean-traffic"),
        Change("nics[02:00:00:00:00:02].link", "up", "down"),
        Change("disks[vda].throttle.group", None, "g"),
    ]
    assert described(changes) == [
        ("cpu_tuning", 2),
        ("nics[02:00:00:00:00:01]", 2),
        ("cpu_tuning.vcpu_pins.0", 1),
        ("cpu_tuning.vcpu_pins.1", 1),
        ("disks[vda]", 2),
        ("nics[02:00:00:00:00:02].link", 1),
    ]


def test_what_comes_is_first_and_what_goes_is_last():
    changes = [
        Change("title", None, "a"),
        Change("disks[vdb]", {}, None),
        Change("rng", {}, None),
        Change("channels[a].b]", None, {}),
        Change("vsock", None, {}),
    ]
    assert [path for path, _ in described(changes)] == [
        "channels[a].b]",
        "vsock",
        "title",
        "disks[vdb]",
        "rng",
    ]


def test_a_list_in_a_device_is_no_device():
    for path in ("disks[sda].network.hosts[0].port", "disks[sda].network.hosts[1]"):
        (call,) = calls([Change(path, None, {})])
        assert (call.way, call.thing) == (WAYS["disks"], "disks[sda]")


@pytest.mark.parametrize(
    ("memory", "order"),
    [("3GiB", ["memory_tuning", "memory"]), ("1GiB", ["memory", "memory_tuning"])],
)
def test_memory_grows_after_its_limit(memory, order):
    changes = [
        Change("memory", "2GiB", memory),
        Change("memory_tuning.hard_limit", "1GiB", "4GiB"),
    ]
    assert [call.path.partition(".")[0] for call in calls(changes)] == order


def test_what_is_the_callers_is_left_to_it():
    changes = [Change("autostart", False, True), Change("protected", False, True)]
    assert calls(changes) == []
    domain = RecordingDomain("no XML")
    apply_live(domain, Binding(), domain.xml, {}, changes, fleet="local")
    assert domain.calls == []


# Values.


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"memory": "3GiB"}, [("setMemoryFlags", 3 << 20)]),
        ({"vcpus": 4}, [("setVcpusFlags", 4)]),
        ({"title": "x"}, [("setMetadata", "VIR_DOMAIN_METADATA_TITLE", "x", None, None)]),
        ({"title": None}, [("setMetadata", "VIR_DOMAIN_METADATA_TITLE", None, None, None)]),
        (
            {"description": "x\ny"},
            [("setMetadata", "VIR_DOMAIN_METADATA_DESCRIPTION", "x\ny", None, None)],
        ),
        (
            {"on_crash": "coredump-restart", "on_reboot": "rename-restart"},
            [
                (
                    "setLifecycleAction",
                    "VIR_DOMAIN_LIFECYCLE_REBOOT",
                    "VIR_DOMAIN_LIFECYCLE_ACTION_RESTART_RENAME",
                ),
                (
                    "setLifecycleAction",
                    "VIR_DOMAIN_LIFECYCLE_CRASH",
                    "VIR_DOMAIN_LIFECYCLE_ACTION_COREDUMP_RESTART",
                ),
            ],
        ),
        (
            {"memory_tuning": {"hard_limit": "8GiB", "soft_limit": "4GiB"}},
            [("setMemoryParameters", {"hard_limit": 8 << 20, "soft_limit": 4 << 20})],
        ),
        ({"block_weight": 300}, [("setBlkioParameters", {"weight": 300})]),
        ({"memballoon": {"stats_period": 9}}, [("setMemoryStatsPeriod", 9)]),
        ({"memballoon": {"stats_period": None}}, [("setMemoryStatsPeriod", 0)]),
        (
            {"cpu_tuning": {"shares": 512, "period": 50000, "emulator_quota": -1}},
            [
                (
                    "setSchedulerParametersFlags",
                    {"cpu_shares": 512, "vcpu_period": 50000, "emulator_quota": -1},
                )
            ],
        ),
    ],
)
def test_a_value(stated, expected):
    assert made(stated) == expected


def taken(*paths):
    """Return the calls that take values away from a running guest."""
    domain = RecordingDomain(domain_xml())
    apply(domain, {}, [Change(path, "1", None) for path in paths])
    return domain.calls


def test_a_value_taken_away_is_what_it_is_where_nobody_states_it():
    assert taken("memory_tuning.hard_limit") == [
        ("setMemoryParameters", {"hard_limit": (1 << 53) - 1})
    ]
    for event, action in (("poweroff", "DESTROY"), ("reboot", "RESTART"), ("crash", "DESTROY")):
        assert taken(f"on_{event}") == [
            (
                "setLifecycleAction",
                f"VIR_DOMAIN_LIFECYCLE_{event.upper()}",
                f"VIR_DOMAIN_LIFECYCLE_ACTION_{action}",
            )
        ]


def test_limits_of_memory_taken_away_as_a_whole():
    unlimited = {"hard_limit": (1 << 53) - 1, "soft_limit": (1 << 53) - 1}
    assert made({"memory_tuning": None}, domain_xml("tuned")) == [
        ("setMemoryParameters", unlimited)
    ]


def test_what_keeps_a_neutral_value_is_not_taken_away_live():
    gone = {
        **dict.fromkeys(("shares", "period", "quota", "emulator_pin"), None),
        "vcpu_pins": None,
        "iothread_pins": {"1": None},
    }
    xml = domain_xml("tuned")
    assert made({"cpu_tuning": gone, "block_weight": None}, xml) == []
    assert made({"cpu_tuning": None}, xml) == []


# Pins.


def ones(text):
    return tuple(digit == "1" for digit in text)


def test_the_cpus_of_a_list():
    assert cpu_map("0-2,^1,4", 6) == ones("101010")
    with pytest.raises(ValueError, match=r"^4, 6$"):
        cpu_map("0,4,6", 4)


def test_pins():
    pins = {"vcpu_pins": {"0": "1-2", "3": "7"}, "emulator_pin": "0", "iothread_pins": {"1": "4"}}
    assert made({"cpu_tuning": pins}) == [
        ("pinVcpuFlags", 0, ones("01100000")),
        ("pinVcpuFlags", 3, ones("00000001")),
        ("pinEmulator", ones("10000000")),
        ("pinIOThread", 1, ones("00001000")),
    ]


def test_a_pin_to_a_cpu_that_the_host_lacks():
    domain = RecordingDomain(domain_xml(), cpus=4)
    with pytest.raises(LiveError) as caught:
        apply(domain, {"cpu_tuning": {"vcpu_pins": {"1": "3-4"}}})
    assert str(caught.value) == (
        "cpu_tuning.vcpu_pins.1: expected CPUs from 0 to 3, as this host has them, found 4"
    )
    assert domain.calls == []


# Disks.

NO_LIMIT = {
    f"{what}_{unit}_sec{burst}": 0
    for what in ("total", "read", "write")
    for unit in ("bytes", "iops")
    for burst in ("", "_max")
}


def throttled(throttle, xml=None):
    return made({"disks": [{"target": "vda", "throttle": throttle}, {"target": "sda"}]}, xml)


def test_the_limits_of_a_disk_are_set_all_at_once():
    limits = {**NO_LIMIT, "total_iops_sec": 500, "read_bytes_sec": 10 << 20}
    assert throttled({"total_iops_sec": 500}) == [("setBlockIoTune", "vda", limits)]
    assert throttled({"total_iops_sec": 500, "group": "slow"}) == [
        ("setBlockIoTune", "vda", {**limits, "group_name": "slow"})
    ]


def test_limits_taken_away():
    limits = {**NO_LIMIT, "read_bytes_sec": 10 << 20}
    assert throttled({"total_iops_sec": None}) == [("setBlockIoTune", "vda", limits)]
    assert throttled(None) == [("setBlockIoTune", "vda", NO_LIMIT)]


def test_a_disk_leaves_a_group_with_its_limits_alone():
    xml = domain_xml("running", ("</iotune>", "<group_name>slow</group_name></iotune>"))
    assert throttled({"group": None, "total_iops_sec": 500}, xml) == []
    nothing = {"group": None, "total_iops_sec": None, "read_bytes_sec": None}
    assert throttled(nothing, xml) == [("setBlockIoTune", "vda", NO_LIMIT)]
    assert throttled(None, xml) == [("setBlockIoTune", "vda", NO_LIMIT)]


def one_call(found, name):
    ((called, xml),) = found
    assert called == name
    return Document(xml, "a device").root


def test_another_medium():
    (call,) = made({"disks": [{"target": "vda"}, {"target": "sda", "file": "/srv/a.iso"}]})
    assert call[0] == "updateDeviceFlags"
    element = one_call([call], "updateDeviceFlags")
    assert element.find("source").attrib == {"file": "/srv/a.iso"}
    assert element.find("target").attrib == {"dev": "sda", "bus": "sata"}
    assert element.find("alias").attrib == {"name": "sata0-0-0"}


FULL = ("<target dev='sda'", "<source file='/srv/a.iso' index='1'/><target dev='sda'")
VOLUME = {"pool": "isos", "volume": "b.iso"}
NETWORK = {
    "protocol": "https",
    "name": "/c.iso",
    "hosts": [{"name": "www.example.com", "port": 443}],
}


@pytest.mark.parametrize(
    ("medium", "kind", "source", "inside"),
    [
        ({"volume": VOLUME}, "volume", VOLUME, []),
        (
            {"network": NETWORK, "format": "raw"},
            "network",
            {"protocol": "https", "name": "/c.iso"},
            [{"name": "www.example.com", "port": "443"}],
        ),
    ],
)
def test_a_medium_of_another_kind_is_one_update(medium, kind, source, inside):
    disks = [{"target": "vda"}, {"target": "sda", **medium}]
    found = made({"disks": disks}, domain_xml("running", FULL))
    element = one_call(found, "updateDeviceFlags")
    assert element.get("type") == kind
    assert element.find("source").attrib == source
    assert [host.attrib for host in element.findall("source/host")] == inside
    assert element.find("driver").get("type") == medium.get("format")


def test_another_host_of_a_medium_is_one_update():
    hosts = [{"name": "a.example.com"}, {"name": "b.example.com"}]
    disks = [{"target": target} for target in ("vda", "sda", "sdb", "vdb", "vdc")]
    disks[2]["network"] = {"protocol": "https", "name": "boot.iso", "hosts": hosts}
    element = one_call(made({"disks": disks}, domain_xml("connected")), "updateDeviceFlags")
    names = [host.get("name") for host in element.findall("source/host")]
    assert names == ["a.example.com", "b.example.com"]


def test_an_empty_drive():
    xml = domain_xml("running", FULL)
    found = made({"disks": [{"target": "vda"}, {"target": "sda", "file": None}]}, xml)
    assert one_call(found, "updateDeviceFlags").find("source") is None


def test_a_disk_comes():
    new = {"target": "vdb", "file": "/srv/b.raw", "format": "raw"}
    found = made({"disks": [{"target": "vda"}, {"target": "sda"}, new]})
    element = one_call(found, "attachDeviceFlags")
    assert element.find("source").get("file") == "/srv/b.raw"
    assert element.find("target").attrib == {"dev": "vdb", "bus": "virtio"}
    assert [element.find(tag) for tag in ("alias", "address")] == [None, None]


def test_scsi_disks_bring_their_controller_once():
    disks = [{"target": "vda"}, {"target": "sda"}]
    new = [{"target": f"sd{letter}", "file": f"/srv/{letter}"} for letter in "bc"]
    domain = RecordingDomain(domain_xml())

    def attach(xml, flags):
        domain.calls.append(("attachDeviceFlags", xml))
        domain.xml = domain.xml.replace("</devices>", f"{xml}</devices>")

    domain.attachDeviceFlags = attach
    found = [Document(xml, "a device").root for _, xml in apply(domain, {"disks": disks + new})]
    assert [element.tag for element in found] == ["controller", "disk", "disk"]
    assert found[0].attrib == {"type": "scsi", "index": "0", "model": "virtio-scsi"}


def test_a_disk_goes():
    found = made({"disks": [{"target": "sda"}]})
    element = one_call(found, "detachDeviceFlags")
    assert element.find("alias").get("name") == "virtio-disk0"
    assert element.find("address") is not None


# Other devices.

MAC = "52:54:00:0a:0b:0c"


def test_all_changes_of_a_nic_are_one_update_without_what_waits_for_the_next_boot():
    nic = {
        "mac": MAC,
        "network": "lan",
        "link": "down",
        "model": "e1000e",
        "filter": "clean-traffic",
        "filter_parameters": {"IP": "192.0.2.1"},
        "bandwidth": {"inbound": {"average": 1000}},
    }
    element = one_call(made({"nics": [nic]}), "updateDeviceFlags")
    assert element.find("source").attrib == {"network": "lan"}
    assert element.find("link").get("state") == "down"
    assert element.find("model").get("type") == "virtio"
    assert element.find("filterref").get("filter") == "clean-traffic"
    assert element.find("filterref/parameter").attrib == {"name": "IP", "value": "192.0.2.1"}
    assert element.find("bandwidth/inbound").attrib == {"average": "1000"}
    assert element.find("target").get("dev") == "vnet6"
    assert element.find("alias") is not None


def test_a_nic_is_plugged_into_a_bridge():
    element = one_call(made({"nics": [{"mac": MAC, "bridge": "br0"}]}), "updateDeviceFlags")
    assert element.get("type") == "bridge"
    assert element.find("source").attrib == {"bridge": "br0"}


def test_what_a_nic_had_is_taken_away():
    had = (
        "<filterref filter='clean-traffic'><parameter name='IP' value='192.0.2.1'/></filterref>"
        "<bandwidth><inbound average='9'/><outbound average='9'/></bandwidth>"
        "<link state='down'/><port isolated='yes'/><target dev='vnet6'/>"
    )
    xml = domain_xml("running", ("<target dev='vnet6'/>", had))
    without = {"filter": None, "bandwidth": None, "isolated": None}
    found = made({"nics": [{"mac": MAC, **without, "link": "up"}]}, xml)
    element = one_call(found, "updateDeviceFlags")
    assert [element.find(tag) for tag in ("filterref", "bandwidth", "port")] == [None] * 3
    assert element.find("link").get("state") == "up"


def test_a_nic_comes_with_the_mac_that_the_plan_has():
    found = made({"nics": [{"mac": MAC}, {"network": "lan"}]})
    element = one_call(found, "attachDeviceFlags")
    assert element.tag == "interface"
    mac = element.find("mac").get("address")
    stated = canonical({"nics": [{"mac": MAC}, {"network": "lan"}]})
    assert [edit.path for edit in patch(domain_xml(), stated).changes] == [f"nics[{mac}]"]


def test_a_password_is_written_and_not_its_mask():
    xml = domain_xml("running", ("<graphics type='vnc'", "<graphics type='vnc' passwd='old'"))
    found = made({"graphics": [{"type": "vnc", "password": "geheim"}]}, xml)
    element = one_call(found, "updateDeviceFlags")
    assert element.get("passwd") == "geheim"
    assert element.get("port") == "5900"


def test_an_rng_of_several_goes():
    rng = "<rng model='virtio'>"
    other = "<rng model='virtio-transitional'><backend model='builtin'/></rng>"
    xml = domain_xml("running", ("</devices>", f"{other}</devices>"))
    assert "/dev/urandom" in made({"rng": None}, xml)[0][1]
    assert rng in made({"rng": None})[0][1]


def test_two_devices_of_one_name_go():
    tablet = "<input type='tablet' bus='usb'><alias name='input9'/></input>"
    xml = domain_xml("running", ("</devices>", f"{tablet}</devices>"))
    assert [name for name, _ in made({"inputs": []}, xml)] == ["detachDeviceFlags"] * 2
    ((_, second),) = made({"inputs": [{"type": "tablet"}]}, xml)
    assert "input9" in second


def test_channels_and_vsock_come():
    stated = {
        "channels": [{"name": "org.qemu.guest_agent.0"}, {"name": "com.redhat.spice.0"}],
        "vsock": {},
    }
    found = [Document(xml, "a device").root for _, xml in made(stated)]
    assert [element.tag for element in found] == ["channel", "vsock"]


def test_what_is_done_already_is_not_done_again():
    domain = RecordingDomain(domain_xml())
    there = Change("nics[52:54:00:0a:0b:0c]", None, {})
    gone = Change("disks[vdz]", {}, None)
    apply(domain, {"nics": [{"mac": MAC}]}, [there, gone])
    assert domain.calls == []


# What fails.


def test_what_libvirt_says_is_told_with_the_path():
    refuses = {"attachDeviceFlags": Refusal("no more\nslots")}
    domain = RecordingDomain(domain_xml(), refuses=refuses)
    new = {"target": "vdb", "file": "/srv/b"}
    with pytest.raises(LiveError) as caught:
        apply(domain, {"title": "a", "disks": [{"target": "vda"}, {"target": "sda"}, new]})
    assert str(caught.value) == "disks[vdb]: no more slots"
    assert domain.calls == []  # the title would have come next


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("VIR_ERR_OPERATION_TIMEOUT", CONFIRM),
        ("VIR_ERR_CONFIG_UNSUPPORTED", STOP),
        ("VIR_ERR_INTERNAL_ERROR", None),
    ],
)
def test_a_remedy_where_one_is_known(code, remedy):
    domain = RecordingDomain(domain_xml(), refuses={"setVcpusFlags": Refusal("no", code)})
    with pytest.raises(LiveError) as caught:
        apply(domain, {"vcpus": 4})
    assert caught.value.message == "vcpus: no"
    assert caught.value.remedy == remedy


def test_a_guest_that_does_not_let_a_device_go(monkeypatch):
    monkeypatch.setattr(live, "_TICK", 0.01)
    domain = RecordingDomain(domain_xml(), stuck=True)
    with pytest.raises(LiveError) as caught:
        apply(domain, {"disks": [{"target": "sda"}]}, timeout=0.02)
    assert str(caught.value) == (
        f"disks[vda]: expected it to be gone within 0.02 s, found it still there: {CONFIRM}"
    )


def test_a_refused_detach_is_told_with_what_helps():
    domain = RecordingDomain(domain_xml(), refuses={"detachDeviceFlags": Refusal("rejected")})
    with pytest.raises(LiveError, match=r"^rng: rejected: the guest did not confirm"):
        apply(domain, {"rng": None})


def test_a_device_that_the_running_guest_lacks():
    change = Change("nics[02:00:00:00:00:99].link", "up", "down")
    with pytest.raises(LiveError, match=r"^nics\[02:00:00:00:00:99\]: the running guest has no"):
        apply(RecordingDomain(domain_xml()), {"nics": [{"mac": MAC}]}, [change])


def test_a_device_that_is_not_stated():
    with pytest.raises(LiveError, match=r"^disks\[vdz\]: expected it to be stated"):
        apply(RecordingDomain(domain_xml()), {}, [Change("disks[vdz]", None, {})])


# The parts.


def test_a_part_of_a_spec():
    stated = {"a": {"b": {"c": 1, "d": 2}, "e": 3}, "f": None, "g": 5}
    assert part(stated, ["a.b.c", "f", "x", "g.h"]) == {
        "a": {"b": {"c": 1}},
        "f": None,
        "x": None,
        "g": {"h": None},
    }


def test_a_changed_device_leaves_the_one_that_was_seen():
    seen = look(domain_xml(), {"nics": [{"mac": MAC, "link": "down"}]}, "local")
    path = f"nics[{MAC}]"
    before, after = changed(seen, path, [Change(f"{path}.link", "up", "down")])
    assert to_text(before) in domain_xml()
    assert "<link state='down'/>" in to_text(after)


# libvirt itself.


def test_libvirts_own_test_driver_takes_the_values():
    pytest.importorskip("libvirt")
    from ansible.module_utils.virt.connection import binding

    libvirt = binding()
    stated = canonical(
        {
            "title": "a title",
            "description": "two\nlines",
            "memory": "1GiB",
            "vcpus": 1,
            "on_crash": "restart",
            "block_weight": 300,
            "cpu_tuning": {"emulator_pin": "1-2"},
            "memory_tuning": {"hard_limit": "4GiB", "soft_limit": "2GiB"},
            "memballoon": {"stats_period": 5},
        }
    )
    handle = libvirt.open("test:///default")
    try:
        domain = handle.lookupByName("test")
        # The driver's vCPUs are all there at first, and can go although ours would not let them.
        domain.setVcpusFlags(2, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
        changes = patch(xml, stated).changes
        assert len(changes) == 10
        apply_live(domain, libvirt, xml, stated, changes, fleet="local")
        after = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
        assert patch(after, stated).changes == ()
        limit = Change("memory_tuning.hard_limit", "4GiB", None)
        apply_live(domain, libvirt, after, {}, [limit], fleet="local")
        assert "hard_limit" not in domain.XMLDesc(0)
        with pytest.raises(LiveError, match=r"^vcpus: "):
            apply_live(domain, libvirt, after, {}, [Change("vcpus", 1, 99)], fleet="local")
        rng = {"rng": {}}
        with pytest.raises(LiveError) as caught:  # the driver has no such call
            apply_live(domain, libvirt, after, rng, patch(after, rng).changes, fleet="local")
        assert caught.value.remedy == STOP
    finally:
        handle.close()

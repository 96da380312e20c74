# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual functions on a made bus that takes a number as the kernel does (drivers/pci/iov.c)."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ansible.module_utils.converge.action import LIVE, NEXT_BOOT
from ansible.module_utils.converge.errors import InputError
from ansible.module_utils.system import config, own_files, virtual_functions
from ansible.module_utils.system.operation import Executor
from ansible.module_utils.system.options import Options, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

NIC, DRIVE, PLAIN = "0000:01:00.0", "0000:02:00.0", "0000:03:00.0"
TOTAL = {NIC: 7, DRIVE: 4}
DEVICES = "/sys/bus/pci/devices"
RULE = virtual_functions.FILE
EIGHT = [{"device": "enp1s0", "count": 4, "probe": False}, {"device": DRIVE, "count": 2}]


class Bus(Executor):
    """A folder that acts as a machine with two devices that have functions and one that has not."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root), self.command)
        self.commands: list[tuple[str, ...]] = []
        for path, content in {
            "/proc/sys/vm/swappiness": "60",
            "/proc/cpuinfo": "flags: svm",
            "/sys/module/kvm/initstate": "live",
            "/usr/bin/udevadm": "",
            **{f"{DEVICES}/{address}/vendor": "0x8086" for address in (NIC, DRIVE, PLAIN)},
            **{f"{DEVICES}/{address}/sriov_totalvfs": str(n) for address, n in TOTAL.items()},
            **{f"{DEVICES}/{address}/sriov_numvfs": "0" for address in TOTAL},
            **{f"{DEVICES}/{address}/sriov_drivers_autoprobe": "1" for address in TOTAL},
        }.items():
            self.write(path, content)
        for name, address in (("enp1s0", NIC), ("enp3s0", PLAIN)):
            os.makedirs(self._at(f"/sys/class/net/{name}"))
            os.symlink(self._at(f"{DEVICES}/{address}"), self._at(f"/sys/class/net/{name}/device"))

    def write(self, path: str, content: str) -> None:
        file = Path(self._at(path))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content + "\n")

    def text(self, path: str) -> str | None:
        file = Path(self._at(path))
        return file.read_text() if file.exists() else None

    def command(self, argv: Sequence[str]) -> tuple[int, str, str]:
        self.commands.append(tuple(argv))
        return 0, "", ""

    def number(self, address: str) -> str:
        return (self.text(f"{DEVICES}/{address}/sriov_numvfs") or "").strip()

    @staticmethod
    def _put(path: str, value: str) -> None:
        if path.endswith("/sriov_numvfs"):
            if "0" not in (value, Path(path).read_text().strip()):
                raise OSError(errno.EBUSY, "Device or resource busy", path)
            folder = Path(path).parent
            for link in folder.glob("virtfn*"):
                link.unlink()
            for number in range(int(value)):
                function = folder.parent / folder.name.replace("00.0", f"10.{number}")
                function.mkdir(exist_ok=True)
                (folder / f"virtfn{number}").symlink_to(function)
        Path(path).write_text(f"{value}\n")

    def hand_to_a_guest(self, address: str, number: int) -> None:
        function = Path(self._at(f"{DEVICES}/{address}/virtfn{number}"))
        driver = Path(self._at("/sys/bus/pci/drivers/vfio-pci"))
        driver.mkdir(parents=True, exist_ok=True)
        (function / "driver").symlink_to(driver)


@pytest.fixture
def bus(tmp_path: Path) -> Bus:
    return Bus(tmp_path / "root")


def planning(bus: Bus, stated: list[dict[str, object]] | None) -> config.Planned:
    host = config.Host(bus.root, "kvm1", bus.command)
    host._executor = bus
    options = Options() if stated is None else parse({"virtual_functions": stated})
    return host.plan(options, absent=stated is None)


def bring(bus: Bus, stated: list[dict[str, object]] | None) -> config.Planned:
    """Plan and apply; none stated takes all away."""
    host = config.Host(bus.root, "kvm1", bus.command)
    host._executor = bus
    planned = planning(bus, stated)
    if planned.keeps:
        assert host.apply(planned) == ()
    return planned


def objects(planned: config.Planned) -> list[str]:
    return [step.action.object for step in planned.steps]


def test_they_are_made_now_and_at_every_boot(bus: Bus) -> None:
    assert objects(planning(bus, EIGHT)) == [
        f"file{RULE}",
        f"virtual_functions/{NIC}",
        f"virtual_functions/{DRIVE}",
    ]
    assert bus.text(RULE) is None
    assert bus.number(NIC) == "0"
    done = bring(bus, EIGHT)
    assert [step.action.when for step in done.steps] == [LIVE] * 3
    assert (bus.number(NIC), bus.number(DRIVE)) == ("4", "2")
    assert bus.text(f"{DEVICES}/{NIC}/sriov_drivers_autoprobe") == "0\n"
    assert bus.text(f"{DEVICES}/{DRIVE}/sriov_drivers_autoprobe") == "1\n"
    match = 'ACTION=="add|bind", SUBSYSTEM=="pci", KERNEL=="{}", DRIVER=="?*", '
    assert bus.text(RULE) == own_files.MARK + (
        match.format(NIC)
        + 'ATTR{sriov_drivers_autoprobe}="0", ATTR{sriov_numvfs}="4"\n'
        + match.format(DRIVE)
        + 'ATTR{sriov_numvfs}="2"\n'
    )
    assert objects(planning(bus, EIGHT)) == []


def test_another_number_takes_them_away_first(bus: Bus) -> None:
    bring(bus, EIGHT)
    changed = bring(bus, [{"device": NIC, "count": 7, "probe": False}, EIGHT[1]])
    assert objects(changed) == [f"file{RULE}", f"virtual_functions/{NIC}"]
    assert [(c.before, c.after) for c in changed.steps[1].action.changes] == [("4", "7")]
    assert (bus.number(NIC), bus.number(DRIVE)) == ("7", "2")


def test_what_guests_hold_waits(bus: Bus) -> None:
    bring(bus, EIGHT)
    bus.hand_to_a_guest(NIC, 2)
    planned = bring(bus, [{"device": NIC, "count": 6}, EIGHT[1]])
    (pending,) = planned.outcome.pending
    assert (pending.object, pending.kind) == (f"virtual_functions/{NIC}", "reboot_required")
    assert "0000:01:10.2" in pending.reason
    assert bus.number(NIC) == "4"
    assert [(step.action.object, step.action.when) for step in planned.steps] == [
        (f"file{RULE}", NEXT_BOOT)
    ]
    again = bring(bus, [{"device": NIC, "count": 6}, EIGHT[1]])
    assert (again.steps, again.outcome.pending) == ((), (pending,))
    assert not bring(bus, EIGHT).outcome.pending  # the number that there is takes none away


def test_the_way_back(bus: Bus) -> None:
    bus._put(bus._at(f"{DEVICES}/{DRIVE}/sriov_numvfs"), "1")
    bring(bus, EIGHT)
    bring(bus, None)
    assert bus.text(RULE) is None
    assert (bus.number(NIC), bus.number(DRIVE)) == ("0", "1")
    assert bus.text(f"{DEVICES}/{NIC}/sriov_drivers_autoprobe") == "1\n"
    assert not planning(bus, None).keeps


def test_the_way_back_takes_nothing_from_guests(bus: Bus) -> None:
    bring(bus, EIGHT)
    bus.hand_to_a_guest(DRIVE, 0)
    planned = bring(bus, None)
    assert [item.object for item in planned.outcome.pending] == [f"virtual_functions/{DRIVE}"]
    assert (bus.number(NIC), bus.number(DRIVE)) == ("0", "2")


def test_below_a_root_without_a_bus_there_is_only_the_rule(tmp_path: Path) -> None:
    host = config.Host(str(tmp_path), "image", lambda _argv: (0, "", ""))
    planned = host.plan(parse({"virtual_functions": [EIGHT[1]]}))
    assert objects(planned) == [f"file{RULE}"]
    with pytest.raises(InputError, match="no machine to ask"):
        host.plan(parse({"virtual_functions": EIGHT}))


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ({"device": "enp1", "count": 1}, "did you mean enp1s0"),
        ({"device": "0000:09:00.0", "count": 1}, "a device with virtual functions"),
        ({"device": "enp3s0", "count": 1}, "a device with virtual functions"),
        ({"device": PLAIN, "count": 1}, f"{NIC}, {DRIVE}, enp1s0"),
        ({"device": NIC, "count": 8}, "at most 7"),
        ({"device": NIC, "count": -1}, "virtual_functions[1].count"),
        ({"device": NIC, "count": True}, "virtual_functions[1].count"),
        ({"device": NIC, "count": 65536}, "virtual_functions[1].count"),
        ({"device": 'x", RUN+="/bin/sh', "count": 1}, "virtual_functions[1].device"),
        ({"device": "", "count": 1}, "virtual_functions[1].device"),
        ({"device": "0000:02:00.0", "count": 1}, "each device once"),
    ],
)
def test_bad_input_is_told_before_anything_is_touched(
    bus: Bus, stated: dict[str, object], told: str
) -> None:
    with pytest.raises(InputError) as raised:
        bring(bus, [EIGHT[1], stated])
    assert told in str(raised.value)
    assert bus.text(RULE) is None
    assert bus.number(DRIVE) == "0"

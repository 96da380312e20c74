# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands behind the ports of a virtio console, from one machine of the guest to the next."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Sequence

from .console import Channel, Console, Nowhere
from .errors import ConfigError
from .virtio.console import Port, VirtioConsole

if TYPE_CHECKING:
    from .virtio.device import VirtioDevice

SERIAL, FIRST = "serial", "hvc0"  # the two consoles, by the names that they are attached to
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_MOST = 30  # a device has 64 queues, of which two are for control


class Ports:
    """Channels for the console and for each of ``names``; the device is made for every machine.

    ``leads`` is whether its console, and not the serial port, is the guest's.
    """

    def __init__(self, names: Sequence[object], *, leads: bool) -> None:
        self.leads = leads
        for name in names:
            if not isinstance(name, str) or not _NAME.fullmatch(name) or name in {SERIAL, FIRST}:
                raise ConfigError(
                    "expected a port's name (letters, digits, '.', '_' and '-', at most 64, neither"
                    f" {SERIAL} nor {FIRST}), found {name!r}"
                )
        if len(set(names)) < len(names) or len(names) > _MOST:
            raise ConfigError(f"expected at most {_MOST} ports, each with a name of its own")
        self.channels = [Channel(FIRST, Console(Nowhere()))]
        for name in names:
            self.channels.append(Channel(str(name), Console(Nowhere()), waits=True))
        for number, channel in enumerate(self.channels):
            channel.receive = partial(self._receive, number)
            if number:
                channel.on_presence = partial(self._present, number)
        self._size = (80, 25)
        self._device: VirtioConsole | None = None

    def make(self) -> VirtioDevice:
        """Return the device for a new machine."""
        ports = []
        for number, channel in enumerate(self.channels):
            name = channel.name if number else ""
            opened = not number or channel.present > 0
            ports.append(Port(name, channel.console.write, opened))
        self._device = VirtioConsole(ports, *self._size)
        return self._device

    def _receive(self, number: int, data: bytes) -> int:
        return self._device.receive(data, number) if self._device else 0

    def _present(self, number: int, present: bool) -> None:
        if self._device:
            self._device.set_opened(number, present)

    def resize(self, columns: int, rows: int) -> None:
        """Tell the guest how large the console's terminal is."""
        self._size = (columns, rows)
        if self._device:
            self._device.resize(columns, rows)

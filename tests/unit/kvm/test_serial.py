# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The 16550A, register by register, as its data sheet and its drivers expect it."""

from __future__ import annotations

import pytest
from ansible.module_utils.kvm.serial import INPUT_LIMIT, Serial

DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(8)
DLAB, OUT2, LOOP, FIFO = 0x80, 0x08, 0x10, 0x01
RECEIVED, EMPTY = 0x01, 0x02  # in the interrupt enable register
NO_CAUSE, CAUSE_EMPTY, CAUSE_RECEIVED = 0x01, 0x02, 0x04  # in the identification register


class Port:
    """A port with what came out of it."""

    def __init__(self):
        self.sent = b""
        self.levels = []  # every change of the interrupt line
        self.serial = Serial(self._sink, self.levels.append)

    def _sink(self, data):
        self.sent += data

    def out(self, *pairs):
        for register, value in pairs:
            self.serial.write(register, 1, value)

    def get(self, register):
        return self.serial.read(register, 1)


@pytest.fixture
def port():
    return Port()


# What is written, and what the registers read afterwards.
REGISTERS = {
    "after power-on": (
        [],
        {DATA: 0, IER: 0, IIR: NO_CAUSE, LCR: 0, MCR: 0, LSR: 0x60, MSR: 0xB0, SCR: 0},
    ),
    "the scratch register keeps what it is given": ([(SCR, 0xA5)], {SCR: 0xA5}),
    "the upper half of IER does not exist": ([(IER, 0xFF)], {IER: 0x0F}),
    "IER with nothing to say": ([(IER, RECEIVED)], {IIR: NO_CAUSE}),
    "FIFOs enabled show in IIR": ([(IIR, FIFO)], {IIR: NO_CAUSE | 0xC0}),
    "FIFOs disabled do not": ([(IIR, FIFO), (IIR, 0)], {IIR: NO_CAUSE}),
    "line control": ([(LCR, 0x1B)], {LCR: 0x1B}),
    "DLAB: the divisor at power-on is 9600 baud": ([(LCR, DLAB)], {DATA: 0x0C, IER: 0}),
    "DLAB: the divisor is written": (
        [(LCR, DLAB), (DATA, 1), (IER, 2)],
        {DATA: 1, IER: 2, LCR: DLAB},
    ),
    "DLAB off: data and IER again": (
        [(IER, RECEIVED), (LCR, DLAB), (DATA, 1), (IER, 2), (LCR, 3)],
        {DATA: 0, IER: RECEIVED, LCR: 3},
    ),
    "LSR and MSR cannot be written": ([(LSR, 0), (MSR, 0)], {LSR: 0x60, MSR: 0xB0}),
    "a wider access means its lowest byte": ([(SCR, 0x1234)], {SCR: 0x34}),
    "loopback: nothing is on the lines": ([(MCR, LOOP)], {MSR: 0x00}),
    "loopback: DTR comes back as DSR": ([(MCR, LOOP | 1)], {MSR: 0x20}),
    "loopback: RTS comes back as CTS": ([(MCR, LOOP | 2)], {MSR: 0x10}),
    "loopback: OUT1 comes back as RI": ([(MCR, LOOP | 4)], {MSR: 0x40}),
    "loopback: OUT2 comes back as DCD": ([(MCR, LOOP | 8)], {MSR: 0x80}),
    "loopback: what is sent comes back": ([(MCR, LOOP), (DATA, 0x41)], {LSR: 0x61, DATA: 0x41}),
    "loopback: the FIFO can be cleared": ([(MCR, LOOP), (DATA, 1), (IIR, 0x03)], {LSR: 0x60}),
    "loopback off: what was looped is not input": ([(MCR, LOOP), (DATA, 1), (MCR, 0)], {LSR: 0x60}),
}


@pytest.mark.parametrize("case", REGISTERS)
def test_registers(port, case):
    writes, expected = REGISTERS[case]
    port.out(*writes)
    assert {register: port.get(register) for register in expected} == expected


def test_output_goes_out_byte_by_byte_and_never_waits(port):
    for value in b"hello":
        assert port.get(LSR) & 0x20
        port.out((DATA, value))
    assert port.sent == b"hello"


@pytest.mark.parametrize("setup", [(LCR, DLAB), (MCR, LOOP)])
def test_neither_divisor_nor_loopback_reaches_the_outside(port, setup):
    port.out(setup, (DATA, 0x41))
    assert port.sent == b""


def test_the_loopback_fifo_holds_16_bytes(port):
    port.out((MCR, LOOP), *[(DATA, value) for value in range(20)])
    received = []
    while port.get(LSR) & 1:
        received.append(port.get(DATA))
    assert received == list(range(16))


def test_input_is_read_in_order_and_says_when_it_is_there(port):
    assert port.serial.receive(b"ab") == 2
    assert port.serial.waiting() == 2
    assert [port.get(LSR), port.get(DATA), port.get(LSR), port.get(DATA)] == [0x61, 97, 0x61, 98]
    assert (port.get(LSR), port.get(DATA), port.serial.waiting()) == (0x60, 0, 0)


def test_input_survives_the_driver_clearing_its_fifo(port):
    """What was typed before the guest set up its port still waits on the line."""
    port.serial.receive(b"early")
    port.out((IIR, 0x07))
    assert port.get(DATA) == ord("e")


def test_input_is_limited(port):
    assert port.serial.receive(b"x" * (INPUT_LIMIT - 1)) == INPUT_LIMIT - 1
    assert port.serial.receive(b"yz") == 1
    assert port.serial.receive(b"z") == 0
    assert port.serial.waiting() == INPUT_LIMIT
    port.get(DATA)
    assert port.serial.receive(b"zz") == 1


# Steps and the interrupt line after all of them; a bytes step is input, None reads IIR.
INTERRUPTS = {
    "input, enabled": ([(MCR, OUT2), (IER, RECEIVED), b"a"], [1]),
    "input that was there before": ([b"a", (MCR, OUT2), (IER, RECEIVED)], [1]),
    "input, not enabled": ([(MCR, OUT2), b"a"], []),
    "input, but OUT2 does not let it through": ([(IER, RECEIVED), b"a"], []),
    "OUT2 later": ([(IER, RECEIVED), b"a", (MCR, OUT2)], [1]),
    "OUT2 withdrawn": ([(MCR, OUT2), (IER, RECEIVED), b"a", (MCR, 0)], [1, 0]),
    "IER withdrawn": ([(MCR, OUT2), (IER, RECEIVED), b"a", (IER, 0)], [1, 0]),
    "IIR does not acknowledge input": ([(MCR, OUT2), (IER, RECEIVED), b"a", None], [1]),
    "more input is no second edge": ([(MCR, OUT2), (IER, RECEIVED), b"a", b"b"], [1]),
    "the transmitter is empty at once": ([(MCR, OUT2), (IER, EMPTY)], [1]),
    "IIR acknowledges the transmitter": ([(MCR, OUT2), (IER, EMPTY), None], [1, 0]),
    "sending is a new edge": ([(MCR, OUT2), (IER, EMPTY), None, (DATA, 1)], [1, 0, 1]),
    "sending without IIR is one too": ([(MCR, OUT2), (IER, EMPTY), (DATA, 1)], [1, 0, 1]),
    "enabling again is a new edge": ([(MCR, OUT2), (IER, EMPTY), None, (IER, EMPTY)], [1, 0, 1]),
    "sending, not enabled": ([(MCR, OUT2), (DATA, 1)], []),
    "loopback raises it too": ([(MCR, OUT2 | LOOP), (IER, RECEIVED), (DATA, 1)], [1]),
}


@pytest.mark.parametrize("case", INTERRUPTS)
def test_interrupt_line(port, case):
    steps, levels = INTERRUPTS[case]
    for step in steps:
        if step is None:
            port.get(IIR)
        elif isinstance(step, bytes):
            port.serial.receive(step)
        else:
            port.out(step)
    assert port.levels == levels


def test_received_data_comes_before_an_empty_transmitter(port):
    port.out((MCR, OUT2), (IER, RECEIVED | EMPTY))
    port.serial.receive(b"ab")
    causes = [port.get(IIR)]
    port.get(DATA)
    causes.append(port.get(IIR))
    port.get(DATA)
    causes += [port.get(IIR), port.get(IIR)]
    assert causes == [CAUSE_RECEIVED, CAUSE_RECEIVED, CAUSE_EMPTY, NO_CAUSE]
    assert port.levels == [1, 0]


def test_reading_the_last_byte_lowers_the_line(port):
    port.out((MCR, OUT2), (IER, RECEIVED))
    port.serial.receive(b"ab")
    port.get(DATA)
    assert port.levels == [1]
    port.get(DATA)
    assert port.levels == [1, 0]


def test_a_sink_that_fails_leaves_the_port_usable(port):
    def fail(_):
        raise OSError("gone")

    broken = Serial(fail, port.levels.append)
    with pytest.raises(OSError, match="gone"):
        broken.write(DATA, 1, 0x41)
    assert broken.receive(b"a") == 1
    assert broken.read(DATA, 1) == 0x61

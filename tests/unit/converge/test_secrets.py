# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Passwords in what a user gave."""

from __future__ import annotations

import pytest
from ansible.module_utils.converge.secrets import ECHOED, HIDDEN, concealed, echoed

QEMU = "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"


@pytest.mark.parametrize(
    "xml",
    [
        "<devices><graphics type='vnc' passwd='s3cr3t'/></devices>",
        '<devices><graphics type="vnc" passwd = "s3cr3t" port="-1"/></devices>',
        f"{QEMU}<qemu:arg value='secret,id=key0,format=raw,data=s3cr3t'/></qemu:commandline>",
        f"{QEMU}<qemu:arg value='tcp:1,password=s3cr3t,x=1'/></qemu:commandline>",
        f"{QEMU}<qemu:env name='RBD_KEY' value='s3cr3t'/></qemu:commandline>",
        f'{QEMU}<qemu:env name="VAULT_TOKEN" value="s3cr3t"/></qemu:commandline>',
    ],
)
def test_a_password_in_xml_is_concealed(xml: str) -> None:
    shown = concealed(xml)
    assert "s3cr3t" not in shown
    assert shown.count(HIDDEN) == 1
    assert len(shown) - len(HIDDEN) == len(xml) - len("s3cr3t")


@pytest.mark.parametrize(
    "xml",
    [
        "<devices><disk><target dev='vda'/><auth><secret usage='a'/></auth></disk></devices>",
        f"{QEMU}<qemu:env name='LANG' value='C'/><qemu:arg value='data=1'/></qemu:commandline>",
        "<description>the word password alone</description>",
    ],
)
def test_what_is_no_password_stays(xml: str) -> None:
    assert concealed(xml) == xml


def test_an_echo_has_no_password() -> None:
    given = [{"name": "a", "graphics": [{"password": "x"}], "xml": "<graphics passwd='x'/>"}, 3]
    assert echoed(given) == [
        {
            "name": "a",
            "graphics": [{"password": ECHOED}],
            "xml": f"<graphics passwd='{HIDDEN}'/>",
        },
        3,
    ]

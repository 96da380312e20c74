# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet as plain values, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.fleet.cache import UnfitError, digest, plain, whole
from ansible.module_utils.fleet.declare import Fleet, Guest, declare

EXAMPLE = Path(__file__).resolve().parents[3] / "inventory" / "example"


class Sealed(str):
    __slots__ = ()


def ciphertext(value: Any) -> str | None:
    return str(value) if isinstance(value, Sealed) else None


def through_json(fleet: Fleet) -> Fleet:
    return whole(json.loads(json.dumps(plain(fleet, ciphertext))), Sealed)


def test_the_example_is_the_same_afterwards() -> None:
    files = [EXAMPLE / "fleet.yml", *sorted((EXAMPLE / "fleet.d").glob("*.yml"))]
    fleet = declare([(str(file), file.read_bytes()) for file in files], {"!vault": Sealed})
    again = through_json(fleet)
    assert len(again.guests) == 40
    assert again == fleet
    assert plain(again, ciphertext) == plain(fleet, ciphertext)


def test_a_sealed_value_is_sealed_again() -> None:
    fleet = Fleet("test", [], [Guest("web", None, (), spec={"password": Sealed("cipher")})])
    again = through_json(fleet).guests[0].spec["password"]
    assert (type(again), again) == (Sealed, "cipher")


@pytest.mark.parametrize("value", [{1: "a"}, {"__sealed__": "x"}, {"a": object()}, b"bytes"])
def test_what_json_has_not_is_not_kept(value: Any) -> None:
    with pytest.raises(UnfitError):
        plain(Fleet("test", [], [Guest("web", None, (), variables={"x": value})]), ciphertext)


def test_other_files_have_another_digest() -> None:
    told = [
        digest(files, code)
        for code in ("one", "two")
        for files in (
            [("a", b"x")],
            [("a", b"y")],
            [("b", b"x")],
            [("a", b"x"), ("b", b"")],
            [("a", b""), ("x", b"b")],
        )
    ]
    assert len(set(told)) == len(told)

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A role's switch may come as text (-e name=false), and "false" must not be taken for true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROLES = Path(__file__).resolve().parents[3] / "roles"
SWITCHES = sorted(
    name
    for path in ROLES.glob("*/meta/argument_specs.yml")
    for name, spec in yaml.safe_load(path.read_text())["argument_specs"]["main"]["options"].items()
    if spec.get("type") == "bool"
)


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_is_made_a_truth_value_or_given_to_a_module(switch: str) -> None:
    # A module makes a truth value of it by itself; a list of tags only bears the name.
    bare = re.compile(rf"(?<!{{{{ )\b{switch}\b(?! \| bool)|{{{{ {switch}\b(?! \| bool| }}}}\"$)")
    files = [*ROLES.glob("*/tasks/*.yml"), *ROLES.glob("*/vars/*.yml")]
    texts = [re.sub(r"'[^']*'", "", path.read_text()) for path in files]
    lines = [line for text in texts for line in text.splitlines()]
    tags = re.compile(rf"^ *(?:- {switch}$|tags:)")
    assert [line for line in lines if bare.search(line) and not tags.search(line)] == []

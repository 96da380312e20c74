# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Domains of many shapes are read into the spec's shape, and what libvirt added is not."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from ansible.module_utils.virt.document import XmlError
from ansible.module_utils.virt.domain import FIELDS, KEYS
from ansible.module_utils.virt.fields import Group
from ansible.module_utils.virt.lists import Items
from ansible.module_utils.virt.reader import domain, domain_tree, read, read_root

CASES = Path(__file__).resolve().parents[2] / "cases" / "virt"
NAMES = sorted(path.stem for path in CASES.glob("*.xml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_domain_is_read(name):
    expected = json.loads((CASES / f"{name}.json").read_text(encoding="utf-8"))
    assert read((CASES / f"{name}.xml").read_text(encoding="utf-8")) == expected


def test_the_cases_are_domains_to_libvirt(case, valid):
    valid(case)


def test_keys_come_in_the_order_of_the_table(case):
    keys = list(read(case))
    assert keys == [key for key in KEYS if key in keys]


def test_nothing_of_what_libvirt_adds_is_read(case):
    text = json.dumps(read(case))
    for word in ("alias", "seclabel", "pcie-root", "/dev/pts", "vnet", "virbr0", "ps2", "index"):
        assert word not in text


def test_no_password_is_read(case):
    assert "s3'cret" not in json.dumps(read(case))


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("", "expected well-formed XML"),
        ("<domain>", "expected well-formed XML"),
        ("<domain/><domain/>", "expected well-formed XML"),
        ("<network><name>x</name></network>", "expected <domain>, found <network>"),
        ("<!DOCTYPE domain><domain/>", "expected no DOCTYPE"),
        (
            (
                "<!DOCTYPE domain [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>"
                "<domain><name>&x;</name></domain>"
            ),
            "expected no DOCTYPE",
        ),
        ("<domain><name>&undefined;</name></domain>", "undefined entity"),
        ("<domain>" + "<a>" * 200 + "</a>" * 200 + "</domain>", "more than 100 deep"),
        ("<domain>\x00</domain>", "expected characters that XML allows"),
        ("<domain>\ud800</domain>", "expected characters that XML allows"),
    ],
)
def test_what_is_no_domain_is_refused(xml, message):
    with pytest.raises(XmlError) as raised:
        read(xml)
    assert message in str(raised.value)


def test_what_a_newer_libvirt_wrote_is_shown_as_it_is():
    xml = (
        "<domain type='kvm'><memory unit='furlong'>7</memory><on_crash>explode</on_crash></domain>"
    )
    found = read(xml)
    assert found["memory"] == "7"
    assert found["on_crash"] == "explode"


@pytest.mark.parametrize(
    ("unit", "number", "size"),
    [
        ("b", 1048576, "1MiB"),
        ("bytes", 1024, "1KiB"),
        ("KB", 1024, "1000KiB"),
        ("k", 2, "2KiB"),
        ("KiB", 2048, "2MiB"),
        ("M", 3, "3MiB"),
        ("MB", 1, "1000000B"),
        ("GiB", 5, "5GiB"),
        ("T", 1, "1TiB"),
    ],
)
def test_units_are_those_of_libvirt(unit, number, size):
    xml = f"<domain><memory unit='{unit}'>{number}</memory></domain>"
    assert read(xml)["memory"] == size


def scopes(element, fields):
    """Yield each field with each element that it is read from."""
    for one in fields:
        yield one, element
        if isinstance(one, Group):
            inner = one.place.element(element)
            if inner is not None:
                yield from scopes(inner, one.fields)
        elif isinstance(one, Items):
            for entry in one.found(element):
                yield from scopes(entry.element, one.fields)


def test_without_what_a_field_needs_there_is_nothing_of_it(case):
    asked = 0
    for one, scope in scopes(domain(case).root, FIELDS):
        needed = one.needed()
        if needed is None:
            continue
        bare = copy.deepcopy(scope)
        if needed.startswith("@"):
            bare.attrib.pop(needed[1:], None)
        for child in bare.findall(needed) if not needed.startswith("@") else ():
            bare.remove(child)
        assert one.get(bare) is None, (one.key, needed)
        asked += 1
    assert asked > len(FIELDS) // 2


def test_a_tree_that_is_only_looked_at_says_the_same(case):
    assert read_root(domain_tree(case)) == read_root(domain(case).root)


@pytest.mark.parametrize("text", ["<domain>", "<network/>", "", "<domain>&x;</domain>", "\ud800"])
def test_what_is_no_domain_is_not_looked_at(text):
    with pytest.raises(XmlError):
        domain_tree(text)

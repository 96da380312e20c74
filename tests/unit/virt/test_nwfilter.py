# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network filters: what may be stated, what is written, and what libvirt writes back."""

from __future__ import annotations

import pytest
from ansible.module_utils.virt.document import Document, tree
from ansible.module_utils.virt.fields import Edits, check_fields, patch_fields, read_fields
from ansible.module_utils.virt.nwfilter import (
    FIELDS,
    PROTOCOLS,
    STANDARD,
    canonical,
    refers,
    standard_uuid,
    write,
)
from schema import FOLDER, schema_of

UUID = "0b3f0f6c-9a55-4c34-8a62-0d9bb3e4a111"


def checked(stated):
    problems = []
    found = check_fields(FIELDS, stated, "nwfilters[0]", problems)
    return found, [str(problem) for problem in problems]


def of(rule):
    found, problems = checked({"rules": [rule]})
    assert problems == []
    return found["rules"]


@pytest.mark.parametrize(
    ("key", "stated", "wanted"),
    [
        ("srcmacaddr", "AA:b:0:1:2:3", "aa:0b:00:01:02:03"),
        ("srcmacaddr", "$MAC", "$MAC"),
        ("srcipaddr", "$ IP[ @1 ]", "$IP[@1]"),
        ("srcipmask", "255.255.255.0", "24"),
        ("srcipmask", 24, "24"),
        ("dstipmask", "ffff:ffff::", "32"),
        ("dstipaddr", "2001:DB8::0", "2001:db8::"),
        ("protocolid", "IPv6", "34525"),
        ("protocolid", "0x86dd", "34525"),
        ("protocol", "udp", "17"),
        ("opcode", "Request", "1"),
        ("dstportstart", 443, "443"),
        ("state", "RELATED,ESTABLISHED", "ESTABLISHED,RELATED"),
        ("gratuitous", True, "true"),
        ("flags", "SYN/ALL", "SYN/ALL"),
        ("srcipmask", "255.0.255.0", None),
        ("srcmacaddr", "aa:bb", None),
        ("dstportstart", "https", None),
        ("srcipaddr", "", None),
        ("srcipaddr", "10.0.0.1\n", None),
        ("comment", "two\nlines", None),
        ("srcipaddr", None, None),
        ("srcipaddr", 1.5, None),
    ],
)
def test_an_attribute_has_one_form(key, stated, wanted):
    assert canonical(key, stated) == wanted


# As libvirt 9 to 11 write rules (virNWFilterRuleDefFormat): the priority always, protocols and
# numbers by name or in hexadecimal, masks as lengths.
WRITTEN_BACK = [
    (
        {"action": "drop", "mac": {"srcmacaddr": "$MAC", "match": False}},
        "priority='500'><mac match='no' srcmacaddr='$MAC'/>",
    ),
    (
        {
            "action": "accept",
            "priority": -7,
            "statematch": False,
            "tcp": {"srcipaddr": "10.1.2.0", "srcipmask": "255.255.255.0"},
        },
        "priority='-7' statematch='false'><tcp srcipaddr='10.1.2.0' srcipmask='24'/>",
    ),
    (
        {"action": "accept", "ip": {"protocol": 17, "comment": "DHCP"}},
        "priority='500'><ip protocol='udp'/>",
    ),
    (
        {"action": "return", "mac": {"protocolid": "0x806"}},
        "priority='500'><mac protocolid='arp'/>",
    ),
    (
        {"action": "drop", "arp": {"opcode": 2, "hwtype": 1}},
        "priority='500'><arp hwtype='0x1' opcode='Reply'/>",
    ),
    ({"action": "drop", "all": None}, "priority='500'><all/>"),
]


@pytest.mark.parametrize(("stated", "rest"), WRITTEN_BACK)
def test_what_libvirt_writes_back_is_no_difference(stated, rest):
    rules = of({"direction": "inout", **stated})
    xml = f"<rule action='{stated['action']}' direction='inout' {rest}</rule>"
    root = tree(f"<filter name='f'>{xml}</filter>")
    edits = Edits(root, {})
    patch_fields(root, FIELDS, {"rules": rules}, edits, "")
    assert edits.found == []
    written = write("f", UUID, {"rules": rules})
    assert schema_of("nwfilter").problems(written) == []
    again = Edits(tree(written), {})
    patch_fields(again.root, FIELDS, {"rules": rules}, again, "")
    assert again.found == []


def test_a_rule_that_changes_is_one_difference_and_keeps_the_rest():
    before = write("f", UUID, checked({"rules": [drop()], "filters": [{"filter": "x"}]})[0])
    document = Document(before, "filter XML")
    stated, problems = checked({"rules": [drop(), drop(priority=5)]})
    assert problems == []
    edits = Edits(document.root, stated)
    patch_fields(document.root, FIELDS, stated, edits, "")
    assert [edit.path for edit in edits.found] == ["rules"]
    found = read_fields(document.root, FIELDS)
    assert found["filters"] == [{"filter": "x"}]
    assert [rule["priority"] for rule in found["rules"]] == [500, 5]
    assert schema_of("nwfilter").problems(document.text()) == []


def drop(**more):
    return {"action": "drop", "direction": "in", "all": {}, **more}


def test_values_of_a_variable_may_be_several():
    parameters = {"IP": ["192.0.2.1", "192.0.2.2"], "GATEWAY": "192.0.2.254"}
    stated, problems = checked({"filters": [{"filter": "x", "parameters": parameters}]})
    assert problems == []
    xml = write("f", UUID, stated)
    assert xml.count("<parameter name='IP'") + xml.count('<parameter name="IP"') == 2
    assert read_fields(tree(xml), FIELDS)["filters"][0]["parameters"] == parameters
    assert schema_of("nwfilter").problems(xml) == []
    assert refers(tree(xml), "x")
    assert not refers(tree(xml), "y")


def of_the_schema():
    """Return the attributes of each protocol's element, as libvirt's schema has them."""
    root = tree((FOLDER / "nwfilter.rng").read_text())
    found = {}
    for element in root.iter():
        element.tag = str(element.tag).rpartition("}")[2]
    defined = {one.get("name"): one for one in root.iter("define")}

    def attributes(element):
        for child in element:
            if child.tag == "attribute":
                yield child.get("name")
            elif child.tag == "ref":
                yield from attributes(defined.get(child.get("name"), ()))
            elif child.tag != "element":
                yield from attributes(child)

    (rule,) = (one for one in root.iter("element") if one.get("name") == "rule")
    for one in rule.iter("element"):
        if one is not rule:
            found[one.get("name")] = set(attributes(one))
    return found


def test_every_protocol_has_what_the_schema_gives_it():
    schema_of("nwfilter")
    known = {name: {*keys, "match", "comment"} for name, keys in PROTOCOLS.items()}
    assert known == of_the_schema()


@pytest.mark.parametrize("name", STANDARD)
def test_the_toolkits_own_filters_are_sound(name):
    rules = STANDARD[name]
    assert checked({"rules": rules}) == ({"rules": rules}, [])
    assert schema_of("nwfilter").problems(write(name, standard_uuid(name), {"rules": rules})) == []
    assert {rule["direction"] for rule in rules} == {"out"}
    assert standard_uuid("another") is None


def test_all_that_is_wrong_is_told_at_once():
    stated = {
        "chain": "mine",
        "priority": 2000,
        "rules": [
            {"action": "allow", "direction": "sideways", "priority": "low", "tpc": {}},
            {**drop(), "tcp": {"dstportstrat": 22}},
            {**drop(), "statematch": "no"},
            {"action": "drop", "direction": "in", "ip": {"srcipaddr": "10.0.0.300", "match": "no"}},
            {"action": "drop", "direction": "in", "ip": []},
            "drop",
        ],
        "filters": [{"parameters": {"IP": "a b"}}],
        "colour": "red",
    }
    text = "\n".join(checked(stated)[1])
    for words in (
        *(
            "chain",
            "priority: expected -1000 to 1000",
            "a rule's action (drop, accept",
            "rules[0].direction",
        ),
        *("rules[0].priority", "did you mean tcp", "rules[1]: expected one protocol"),
        *("rules[1].tcp.dstportstrat", "did you mean dstportstart", "rules[2].statematch"),
        *("rules[3].ip.srcipaddr", "rules[3].ip.match", "rules[4].ip", "rules[5]: expected"),
        *("filters[0].filter", "filters[0].parameters.IP", "colour"),
    ):
        assert words in text, words
    assert checked({"rules": {}})[1]

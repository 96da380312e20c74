# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for every key of the table: a patch touches its place alone, and no text is markup."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.virt import codecs
from ansible.module_utils.virt.check import check
from ansible.module_utils.virt.document import Document, elements, is_element, text_of
from ansible.module_utils.virt.domain import FIELDS
from ansible.module_utils.virt.fields import Field, Group, Leaf
from ansible.module_utils.virt.lists import Items
from ansible.module_utils.virt.patcher import patch
from ansible.module_utils.virt.reader import read
from ansible.module_utils.virt.writer import write

CASES = Path(__file__).resolve().parents[2] / "cases" / "virt"
DOMAINS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(CASES.glob("*.xml"))}
LINKED = {"boot_menu", "boot_menu_timeout"}  # a timeout makes the menu that it is of
LISTS = [one for one in FIELDS if isinstance(one, Items)]
TELLING = {"nics": ("mac",), "hostdevs": ("pci", "usb", "usb_device", "mdev"), "inputs": ("bus",)}


@dataclass(frozen=True)
class Key:
    """One leaf of the table: the keys that lead to it, and the tags that lead to its scope."""

    keys: tuple[str, ...]
    leaf: Leaf
    tags: tuple[str, ...]
    makes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return ".".join(self.keys)

    def stated(self, value: Any) -> Any:
        for key in reversed(self.keys):
            value = {key: value}
        return value

    def value(self, tree: Any) -> Any:
        for key in self.keys:
            tree = tree.get(key) if isinstance(tree, dict) else None
        return tree


def leaves(
    fields: Any,
    keys: tuple[str, ...] = (),
    tags: tuple[str, ...] = (),
    makes: tuple[str, ...] = (),
) -> list[Key]:
    found: list[Key] = []
    for one in fields:
        if isinstance(one, Leaf):
            found.append(Key((*keys, one.key), one, tags, makes))
        elif isinstance(one, Group):
            inside = (*tags, *(step.tag for step in one.place.steps))
            made = tuple("/".join(inside) + f"@{name}={text}" for name, text in one.make.items())
            found += leaves(one.fields, (*keys, one.key), inside, (*makes, *made))
    return found


def plain(key: Key, fields: Any) -> bool:
    """Return whether a key is a place of its own that nothing else hangs on."""
    special = type(key.leaf) is not Leaf or key.leaf.clears or key.leaf.variant
    above = next(one for one in fields if one.key == key.keys[0])
    return not special and above.variant is None and key.leaf.key != "boot"


TOP = [key for key in leaves(FIELDS) if plain(key, FIELDS)]
INSIDE = [(items, key) for items in LISTS for key in leaves(items.fields)]


def lines(element: Any, path: str) -> list[str]:
    """Return what a document says, a line each: elements, attributes, text and comments."""
    if not is_element(element):
        return [f"{path}/{element.tag.__name__} {element.text}"]
    path = f"{path}/{element.tag}"
    found = [path, *(f"{path}@{name}={value}" for name, value in element.attrib.items())]
    if text_of(element).strip() and not list(elements(element)):
        found.append(f"{path}#{text_of(element)}")
    for child in element:
        found += lines(child, path)
    return found


def touched(key: Key, scope: str, line: str) -> bool:
    """Return whether a line belongs to the key's place."""
    if line in {f"{scope}/{made}" for made in key.makes}:
        return True
    steps = [*key.tags, *(step.tag for step in key.leaf.place.steps)]
    if any(line == "/".join([scope, *steps[:number]]) for number in range(1, len(steps) + 1)):
        return True  # the way there, which may have to be made
    at = "/".join([scope, *steps])
    if key.leaf.place.attribute is None and steps:
        return line.startswith(at)
    having = {name for step in key.leaf.place.steps for name, _ in step.having}
    names = {str(key.leaf.place.attribute), "unit", *key.leaf.make, *having}
    if key.leaf.key in ("port", "cid"):
        names |= {"port", "autoport", "address", "auto"}
    if key.leaf.key in ("listen", "render_node"):
        return line.startswith((at.rpartition("@")[0] or at, f"{scope}@listen="))
    return any(line.startswith(f"{at}@{name}=") for name in names)


def rest(xml: str, key: Key, scope: str) -> list[str]:
    return [line for line in lines(Document(xml).root, "") if not touched(key, scope, line)]


def canonical(xml: str) -> str:
    return ET.canonicalize(xml, with_comments=True)


@pytest.mark.parametrize("name", DOMAINS)
def test_a_document_is_written_as_it_was_read(name):
    assert canonical(Document(DOMAINS[name]).text()) == canonical(DOMAINS[name])


@pytest.mark.parametrize("name", DOMAINS)
def test_a_patch_with_nothing_writes_nothing(name):
    xml = DOMAINS[name]
    assert patch(xml, {}).xml is xml
    assert patch(xml, read(xml)) == (xml, ())
    assert patch(xml, read(xml)).xml is xml


def valid_if_sound(xml: str, schema: Any) -> None:
    """Hold a domain against libvirt's schema, where our own check has nothing against it."""
    problems: list[Any] = []
    check(read(xml), "", problems, new=True)
    if not problems:
        assert schema.problems(xml) == []


@pytest.mark.parametrize("key", TOP, ids=lambda key: key.name)
@pytest.mark.parametrize("name", DOMAINS)
def test_a_patch_touches_its_place_alone(name, key, specs, schema):
    xml = DOMAINS[name]
    before = read(xml)
    seed = list(DOMAINS).index(name)
    stated = key.stated(key.leaf.codec.check(specs(seed).value(key.leaf.codec)))
    patched = patch(xml, stated)
    if not patched.changes:
        assert patched.xml is xml
        return
    paths = {edit.path for edit in patched.changes}
    assert len(paths) == 1, patched.changes
    assert all(f"{key.name}.".startswith(f"{path}.") for path in paths), patched.changes
    if paths == {key.name}:
        assert rest(patched.xml, key, "/domain") == rest(xml, key, "/domain")
    after = read(patched.xml)
    wanted = key.value(stated)
    assert key.value(after) == wanted or (wanted == key.leaf.absent)
    for other in FIELDS:
        if other.key != key.keys[0] and not {other.key, key.keys[0]} <= LINKED:
            assert after.get(other.key) == before.get(other.key), other.key
    assert patch(patched.xml, stated) == (patched.xml, ())
    valid_if_sound(patched.xml, schema)
    back = patch(patched.xml, key.stated(key.value(before)))
    whole = paths == {key.name} and key.value(before) is not None and key.name != "machine"
    if whole and wanted is not False:  # what is inside of a thing goes with it
        assert read(back.xml) == before


def telling(items: Items, entry: dict[str, Any]) -> dict[str, Any]:
    keys = (*items.needs, *TELLING.get(items.key, ()))
    return {key: entry[key] for key in keys if key in entry}


def siblings(xml: str, items: Items) -> list[str]:
    found = items.found(Document(xml).root)
    return ["\n".join(lines(entry.element, "")) for entry in found]


@pytest.mark.parametrize(
    ("items", "key"), INSIDE, ids=[f"{items.key}.{key.name}" for items, key in INSIDE]
)
def test_a_patch_of_an_entry_keeps_the_rest_of_it(items, key, specs, schema):
    for xml in DOMAINS.values():
        entries = read(xml).get(items.key, [])
        for number in range(len(entries)):
            stated = [telling(items, entry) for entry in entries]
            telling_keys = {*items.needs, *TELLING.get(items.key, ())}
            if key.keys[0] in telling_keys:
                continue
            value = key.leaf.codec.check(specs(number).value(key.leaf.codec))
            stated[number].update(key.stated(value))
            problems: list[Any] = []
            check({items.key: stated}, "", problems)
            if problems:
                continue
            patched = patch(xml, {items.key: stated})
            if not patched.changes:
                assert patched.xml is xml
                continue
            label = f"{items.key}[{items.name(entries[number]) or number}]"
            own = [edit.path for edit in patched.changes if edit.path != "boot_devices"]
            assert own, patched.changes
            assert all(path.startswith(label) for path in own), patched.changes
            before, after = siblings(xml, items), siblings(patched.xml, items)
            assert len(before) == len(after)
            for other in range(len(before)):
                assert (before[other] == after[other]) == (other != number)
            if plain(key, items.fields) and f"{label}.{key.name}" in own:
                scope = f"/{items.tag}"
                old = [line for line in before[number].split("\n") if not touched(key, scope, line)]
                new = [line for line in after[number].split("\n") if not touched(key, scope, line)]
                assert old == new
            assert key.value(read(patched.xml)[items.key][number]) in (value, None)
            assert patch(patched.xml, {items.key: stated}) == (patched.xml, ())
            valid_if_sound(patched.xml, schema)


@pytest.mark.parametrize("seed", range(40))
def test_any_spec_on_any_domain_is_reached_in_one_step(seed, specs, host):
    """What is patched once is no difference any more; and a fresh domain takes any other spec."""
    for xml in (*DOMAINS.values(), write(specs(seed + 1000).spec(), "web01", host)):
        stated = specs(seed).spec()
        once = patch(xml, stated)
        assert patch(once.xml, stated) == (once.xml, ())


@pytest.mark.parametrize("seed", range(60))
def test_one_spec_becomes_another_validly(seed, specs, host, valid):
    before, after = specs(seed).spec(), specs(seed + 500).spec()
    xml = write(before, "web01", host)
    whole = {**{key: None for key in before if key not in after}, **after}
    problems: list[Any] = []
    whole = check(whole, "", problems)
    if problems:  # some things cannot be taken away, they are stated otherwise
        whole = after
    patched = patch(xml, whole)
    left: list[Any] = []
    check(read(patched.xml), "", left)
    if not left:
        valid(patched.xml)
    assert patch(patched.xml, whole) == (patched.xml, ())


NASTY = (
    "\"'<>&]]>",
    "<x y='z'/>",
    "' onload='x",
    '"/><disk/>',
    "</domain><domain>",
    "<!-- x -->",
    "<![CDATA[x]]>",
    "&amp;",
    "&#0;",
    "<?x y?>",
    "a\nb",
    "a\tb",
    "a\rb",
    "a\x00b",
    "a\x1bb",
    "a\x7fb",
    "a\x85b",
    "a\ufffeb",
    "a\ud800b",
    "  a",
    "a ",
    "",
    "x" * 70000,
    "ä€😀\u202e",
    "/'\"<>&]]>",
    "/a\nb",
)


def texts(fields: Any) -> list[Key]:
    kinds = (codecs.Lines, codecs.Secret, codecs.Pattern)
    return [
        key
        for key in leaves(fields)
        if isinstance(key.leaf.codec, kinds) or type(key.leaf.codec) is codecs.Codec
    ]


def shape(xml: str) -> list[str]:
    return [element.tag for element in Document(xml).root.iter() if is_element(element)]


STRINGS: list[tuple[str, Field | None, Key]] = [
    (key.name, None, key)
    for key in texts(FIELDS)
    if key.name not in ("uuid", "machine", "emulator")
]
STRINGS += [
    (f"{items.key}.{key.name}", items, key) for items in LISTS for key in texts(items.fields)
]


def required_beside(fields: Any, keys: tuple[str, ...], maker: Any) -> dict[str, Any]:
    """Return what has to be stated beside a key in each group on the way to it."""
    group = next(one for one in fields if one.key == keys[0])
    if not isinstance(group, Group):
        return {}
    found = {one.key: maker.field(one) for one in group.fields if one.key in group.needs}
    return {keys[0]: {**found, **required_beside(group.fields, keys[1:], maker)}}


def merged(below: Any, above: Any) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return {**below, **{key: merged(below.get(key), value) for key, value in above.items()}}


@pytest.mark.parametrize(("name", "items", "key"), STRINGS, ids=[name for name, _, _ in STRINGS])
def test_no_text_becomes_markup(name, items, key, specs, host, schema):
    maker = specs(7)
    base: dict[str, Any] = {}
    if items is not None:
        needed = {"hostdevs": ("pci",)}.get(items.key, items.needs)
        base = {one.key: maker.field(one) for one in items.fields if one.key in needed}
        if items.key in ("serials", "consoles"):
            base["type"] = "file"

    def stated(value: Any) -> dict[str, Any]:
        beside = required_beside(FIELDS if items is None else items.fields, key.keys, maker)
        tree = merged(beside, key.stated(value))
        return tree if items is None else {items.key: [{**base, **tree}]}

    def checked(value: Any) -> Any:
        """Return the spec as far as the codecs are concerned, None where they refuse it."""
        problems: list[Any] = []
        canonical_ = {
            one.key: one.check(inside, one.key, problems)
            for one in FIELDS
            for inside in [stated(value).get(one.key)]
            if inside is not None
        }
        return None if problems else canonical_

    benign = checked(maker.value(key.leaf.codec))
    assert benign is not None
    expected = shape(write(benign, "web01", host))
    for value in NASTY:
        spec = checked(value)
        if spec is None or (value == "" and key.leaf.blank):
            continue
        xml = write(spec, "web01", host)
        assert shape(xml) == expected, value
        found = read(xml)
        back = found if items is None else found[items.key][0]
        if not isinstance(key.leaf.codec, codecs.Secret):
            assert key.value(back) == value
        assert patch(xml, spec) == (xml, ())
        patched = patch(write(benign, "web01", host), spec)
        if items is None:
            assert shape(patched.xml) == expected, value


@pytest.mark.parametrize("value", NASTY)
def test_no_name_of_a_map_becomes_markup(value):
    for stated in (
        {"cpu": {"features": {value: "require"}}},
        {"sysinfo": {"system": {value: "x"}}},
        {"cpu_tuning": {"vcpu_pins": {value: "0"}}},
        {"nics": [{"network": "lan", "filter": "f", "filter_parameters": {value: "1"}}]},
    ):
        problems: list[Any] = []
        check(stated, "guest", problems)
        assert problems, stated
        assert all(len(str(problem)) < 400 and "\n" not in str(problem) for problem in problems)


@pytest.mark.parametrize("value", NASTY)
def test_text_in_a_map_stays_text(value, host, valid):
    problems: list[Any] = []
    spec = check({"sysinfo": {"system": {"serial": value}}}, "guest", problems)
    if not problems:
        xml = write(spec, "web01", host)
        valid(xml)
        assert read(xml)["sysinfo"]["system"]["serial"] == value


@pytest.mark.parametrize("value", [value for value in NASTY if len(value) < 100])
def test_a_name_stays_a_name(value, host):
    if (
        value != value.strip()
        or not value
        or any(ord(c) < 0x20 or c in "\ud800\ufffe" for c in value)
    ):
        return
    xml = write({}, value, host)
    assert shape(xml) == shape(write({}, "web01", host))
    assert Document(xml).root.findtext("name") == value

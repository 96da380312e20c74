# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What cloud-init would not read is refused before a guest boots, and nothing secret is shown."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
from ansible.module_utils.seed.cloud_config import KEYS
from ansible.module_utils.seed.declaration import read

CASES = Path(__file__).resolve().parents[2] / "cases" / "seed"
GOOD = json.loads((CASES / "good_cloud_config.json").read_text(encoding="utf-8"))
BAD = json.loads((CASES / "bad_cloud_config.json").read_text(encoding="utf-8"))
NETWORK = json.loads((CASES / "network_config.json").read_text(encoding="utf-8"))
SECRET = "hunter2"  # noqa: S105


def told(value, key="user_data", ips=None):
    problems = []
    read({key: value}, ips, "guests[0]", problems)
    return [str(problem) for problem in problems]


def text(*lines):
    return "\n".join(("#cloud-config", *lines, ""))


@pytest.fixture
def yaml():
    return pytest.importorskip("yaml", reason="hosts need no PyYAML, the controller has it")


@pytest.mark.parametrize("document", GOOD.values(), ids=GOOD.keys())
@pytest.mark.parametrize("key", ["user_data", "vendor_data"])
def test_what_is_documented_is_taken(key, document):
    assert told(document, key) == []


@pytest.mark.parametrize(("document", "expected"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_told_with_its_path(document, expected):
    found = told(document)
    expected = [expected] if isinstance(expected, str) else expected
    assert len(found) == len(expected)
    for one, words in zip(found, expected):
        assert one.startswith("guests[0].cloud_init.user_data")
        assert words in one
        assert SECRET not in one


@pytest.mark.parametrize("document", GOOD.values(), ids=GOOD.keys())
def test_a_text_is_judged_as_a_mapping_is(yaml, document):
    assert told("#cloud-config\n" + yaml.safe_dump(document)) == []


@pytest.mark.parametrize("document", [one[0] for one in BAD.values()], ids=BAD.keys())
def test_a_text_is_refused_as_a_mapping_is(yaml, document):
    assert told("#Cloud-Config\n" + yaml.safe_dump(document, sort_keys=False)) == told(document)


@pytest.mark.parametrize("document", NETWORK["good"].values(), ids=NETWORK["good"].keys())
def test_a_network_that_is_documented_is_taken(document):
    assert told(document, "network_config") == []


@pytest.mark.parametrize(
    ("document", "expected"), NETWORK["bad"].values(), ids=NETWORK["bad"].keys()
)
def test_a_network_that_is_wrong_is_told_with_its_path(document, expected):
    (found,) = told(document, "network_config")
    assert found.startswith("guests[0].cloud_init.network_config")
    assert expected in found


def test_the_version_of_a_network_is_added():
    stated = [{"ethernets": {}}, {"config": []}, {"network": {"version": 1, "config": []}}]
    found = [read({"network_config": one}, None, "g", []) for one in stated]
    assert [one.network_config["version"] for one in found] == [2, 1, 1]


@pytest.mark.parametrize(
    ("ip", "expected"),
    [
        ({"mtu": "9000"}, "nics[0].ip.mtu: expected a whole number, found text"),
        ({"nameservers": ["192.0.2.1"]}, "nics[0].ip.nameservers: expected a mapping"),
        ({"routes": [{"via": "192.0.2.1"}]}, "nics[0].ip.routes[0].to: expected a value"),
        ({"dhcp4": 1}, "nics[0].ip.dhcp4: expected true or false"),
    ],
)
def test_the_ip_of_a_nic_has_the_same_form(ip, expected):
    (found,) = told(None, ips=[ip])
    assert expected in found


# --- text


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["packages:", "\t- nginx"], "YAML, found a tab in line 3, column 1, where only spaces"),
        (["a: b: c"], "YAML, found an error in line 2, column 5: mapping values are not allowed"),
        (["packages: [nginx", "hostname: a"], "YAML, found an error in line 3, column 9: expected"),
        ([f"password: *{SECRET}"], "found an error in line 2, column 11: found undefined alias"),
        ([f"password: !{SECRET} x"], "line 2, column 11: could not determine a constructor"),
        ([f"password: '{SECRET}"], "found an error in line 3, column 1: found unexpected end"),
        ([f"password: %{SECRET}"], "found character % that cannot start any token"),
        ([f"password: |{SECRET}"], "line 2, column 12: expected chomping or indentation"),
        ([f"password: {SECRET}", "password: b"], "once in a mapping, found password again in line"),
        ([f"? {SECRET}.a", f"? {SECRET}.a"], "each key once in a mapping, found a key again in"),
        (["x: 1", "---", "y: 2"], "line 3, column 1: but found another document"),
        ([f"- {SECRET}"], "user_data: expected a mapping below #cloud-config, found a list"),
        ([SECRET], "user_data: expected a mapping below #cloud-config, found text"),
        (["hostname: a\x07"], "YAML, found a character in line 2, column 12 that may not stand"),
        (["hostname: 2020-13-45"], "YAML, found a value that cannot be read"),
        (["hostname: !!int x"], "YAML, found a value that cannot be read"),
        (["hostname: 2020-01-02"], ".hostname: expected text, found a date: quote it"),
        (["a: " + "[" * 5000], "YAML, found a value that cannot be read"),
    ],
)
def test_a_text_that_is_no_yaml_is_told_with_the_place(yaml, lines, expected):
    found = told(text(*lines))
    assert expected in found[0]
    assert SECRET not in "".join(found)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["# nothing"],
        ["hostname: &a web", "fqdn: *a"],
        ["users:", "- &a {name: a}", "- {<<: *a, shell: x}", "- {<<: *a, <<: *a}"],
        ["write_files:", "- path: /a", "  content: !!binary aGVsbG8="],
        ["runcmd:", "- |", "  cat <<-E", "  \tname: x", "  E"],
    ],
)
def test_a_text_that_is_yaml_is_taken(yaml, lines):
    assert told(text(*lines)) == []


def test_what_holds_itself_is_looked_at_once(yaml):
    (found,) = told(text("runcmd: &a", "- *a"))
    assert ".runcmd[0][0]: expected text, true or false or a number, found a list" in found


@pytest.mark.parametrize(
    "stated",
    [
        "#!/bin/sh\n\techo: x\n",
        "## template: jinja\n#cloud-config\n{% if x %}\n\t- a: b: c\n{% endif %}\n",
        "#include\nhttps://example.org\n",
        "#include-once\nhttps://example.org\n",
        "#cloud-config-archive\n- {type: text/x, content: x}\n",
        "#cloud-config-jsonp\n[]\n",
        "#cloud-boothook\n\tx: y\n",
        "Content-Type: multipart/mixed\n\tx: y\n",
        "MIME-Version: 1.0\n",
    ],
)
def test_other_texts_are_left_as_they_are(stated):
    assert told(stated) == []


@pytest.mark.parametrize("stated", ["# cloud-config\npackages: []\n", "#hello\n", "#cloudconfig\n"])
def test_a_text_that_cloud_init_would_pass_over_is_refused(stated):
    (found,) = told(stated)
    assert "expected text that begins as cloud-init wants it" in found


@pytest.fixture
def bare(monkeypatch):
    """Make a host without PyYAML."""
    monkeypatch.setitem(sys.modules, "yaml", None)


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (["packages:", "\t- nginx"], 3),
        (["ntp:", "  \tenabled: true"], 3),
        (["write_files:", "- content: |", "    a", "\tpath: /x"], 5),
    ],
)
def test_without_pyyaml_tabs_are_seen(bare, lines, line):
    (found,) = told(text(*lines))
    assert f"expected YAML, found a tab in the indentation of line {line}" in found


@pytest.mark.parametrize(
    "lines",
    [
        ["pakages: []"],
        ["runcmd:", "- |", "  \tname: x", "", "  \t- x"],
        ["write_files:", "- content: >-  # folded", "    \tname: x", "  path: /x"],
        ["hostname: \ta", "\t", "final_message: 'a", "\tb'"],
    ],
)
def test_without_pyyaml_nothing_else_is_judged(bare, lines):
    assert told(text(*lines)) == []


# --- what holds of all


def thing(rng, depth=0):
    """Return any value, with the secret in all its texts and keys."""
    kind = rng.choice(
        ["text", "number", "flag", "none", "list", "mapping"][: 6 if depth < 3 else 4]
    )
    if kind == "list":
        return [thing(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    if kind == "mapping":
        names = ["name", "path", "users", "list", "type", "password", "content", f"a:{SECRET}"]
        return {name: thing(rng, depth + 1) for name in rng.sample(names, rng.randint(0, 4))}
    return {"text": SECRET, "number": 4711007, "flag": True, "none": None}[kind]


@pytest.mark.parametrize("key", sorted(KEYS))
def test_whatever_is_stated_no_value_is_shown(key):
    rng = random.Random(key)
    for _ in range(60):
        found = "\n".join(told({key: thing(rng)}))
        assert SECRET not in found
        assert "4711007" not in found


def some(rng, choices):
    return [rng.choice(choices) for _ in range(rng.randint(0, 3))]


def part(rng, **choices):
    """Return a mapping with some of the keys, a value of each chosen; those of one stay."""
    return {
        key: rng.choice(values)
        for key, values in choices.items()
        if len(values) == 1 or rng.random() < 0.5
    }


TRUTH = (True, False)
USER = {
    "name": ("ops",),
    "gecos": ("", "Ops"),
    "groups": ("a, b", ["a"], []),
    "sudo": ("ALL=(ALL) ALL", ["a", "b"], None, False),
    "uid": (2000, "2000"),
    "lock_passwd": TRUTH,
    "no-create-home": TRUTH,
    "ssh_authorized_keys": ([], ["ssh-rsa AAAA"]),
    "plain_text_passwd": (SECRET, "7"),
}
FILE = {
    "path": ("/etc/x",),
    "content": ("", SECRET),
    "owner": ("root", "root:adm"),
    "permissions": ("0600", "644", "0o755"),
    "encoding": ("b64", "gzip", "text/plain"),
    "append": TRUTH,
    "defer": TRUTH,
}
ETHERNET = {
    "dhcp4": TRUTH,
    "addresses": ([], ["192.0.2.1/24", "2001:db8::1/64"]),
    "nameservers": ({}, {"addresses": ["192.0.2.1"], "search": []}),
    "routes": ([], [{"to": "default", "via": "192.0.2.1"}]),
    "mtu": (1280, 9000),
    "match": ({}, {"macaddress": "52:54:00:00:00:01"}, {"name": "en*"}),
    "set-name": ("lan0", "a" * 15),
}


def config(rng):
    """Return a cloud-config that cloud-init takes."""
    command = ["echo a", ["echo", "a", 1], "a: b"]
    choices = {
        "users": ("default", ["default", part(rng, **USER)], {"ops": part(rng, gecos=("a", "b"))}),
        "write_files": ([], [part(rng, **FILE) for _ in range(rng.randint(1, 3))]),
        "runcmd": (some(rng, command), some(rng, command)),
        "bootcmd": (some(rng, command), []),
        "packages": (some(rng, ["a", ["a", "1"]]), [{"apt": ["a"]}]),
        "mounts": ([["a", "/b"]], [["a", None, "auto", "defaults", "0", 0]]),
        "hostname": ("a", "b"),
        "growpart": ({}, part(rng, mode=("auto", "off", False), devices=(["/"], []))),
        "swap": ({}, part(rng, size=("auto", "1.5G", 7), filename=("/a", "/b"))),
        "power_state": (part(rng, mode=("halt",), delay=("now", 1, "+1")), {"mode": "reboot"}),
        "ntp": (None, part(rng, enabled=TRUTH, servers=(["a"], []))),
        "merge_how": ("list()", [{"name": "dict", "settings": some(rng, ["append", "replace"])}]),
    }
    return part(rng, **choices)


@pytest.mark.parametrize("seed", range(200))
def test_whatever_is_valid_is_taken(seed):
    rng = random.Random(seed)
    document = config(rng)
    assert told(document) == []
    ethernets = {f"eth{number}.5": part(rng, **ETHERNET) for number in range(rng.randint(0, 3))}
    assert told({"version": 2, "ethernets": ethernets}, "network_config") == []


@pytest.mark.parametrize("seed", range(100))
def test_a_key_that_is_misspelt_is_found_among_valid_ones(seed):
    rng = random.Random(seed)
    key = rng.choice([name for name in sorted(KEYS) if len(name) > 4])
    (found,) = told({**config(rng), f"{key}x": []})
    assert f".user_data.{key}x: expected a known key, found '{key}x': did you mean {key}?" in found

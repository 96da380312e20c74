# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's configuration files: read as libvirt reads them, set, and given back byte for byte."""

from __future__ import annotations

import pytest
from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.system.libvirt_conf import (
    compose,
    expected,
    normal,
    ours,
    parse,
    render,
    restore,
)

SHIPPED = """\
# Master configuration file.
#user = "libvirt-qemu"
user = "root"   # for a test
  max_files=32768

cgroup_device_acl = [
    "/dev/null", "/dev/full",
    '/dev/zero'
]
text = \"\"\"one
user = "not me"
\"\"\"
low = -1
user = "second"
"""
CASES = {
    "user": "root",
    "max_files": 32768,
    "cgroup_device_acl": ["/dev/null", "/dev/full", "/dev/zero"],
    "text": 'one\nuser = "not me"\n',
    "low": -1,
}
FILES = {
    "as shipped": SHIPPED,
    "empty": "",
    "comments alone": "# nothing\n#user = 1\n",
    "no end of line": 'user = "root"',
    "windows": 'user = "root"\r\nlow = 1\r\n',
}
WANTED = {"user": "qemu", "cgroup_device_acl": ["/dev/kvm"], "new": 1}


def test_a_file_is_read_as_libvirt_reads_it():
    assert parse(SHIPPED) == CASES


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_what_is_set_is_what_counts_and_goes_without_a_trace(text):
    after = compose(text, WANTED, {})
    assert {**parse(text), **WANTED} == parse(after)
    assert ours(after) == WANTED
    assert compose(after, WANTED, {}) == after
    assert restore(after) == text
    assert compose(after, {}, {}) == text


def test_replaced_lines_stay_where_they_stand():
    lines = compose(SHIPPED, {"user": "qemu"}, {}).splitlines()
    assert lines[1] == 'user = "qemu"'
    assert '#virtfleet# user = "root"   # for a test' in lines
    assert '#virtfleet# user = "second"' in lines
    assert "  max_files=32768" in lines
    assert 'user = "not me"' in lines


def test_all_lines_of_a_list_step_aside():
    after = compose(SHIPPED, {"cgroup_device_acl": []}, {})
    assert "cgroup_device_acl = []\n" in after
    assert "#virtfleet#     '/dev/zero'\n#virtfleet# ]\n" in after


@pytest.mark.parametrize(
    ("text", "wanted", "defaults"),
    [
        ('user = "qemu"\n', {"user": "qemu"}, {}),
        ("", {"user": "qemu"}, {"user": "qemu"}),
        ("", {}, {}),
    ],
)
def test_what_is_so_already_is_not_written(text, wanted, defaults):
    assert compose(text, wanted, defaults) == text


def test_a_line_of_the_file_outweighs_the_default():
    after = compose('user = "root"\n', {"user": "qemu"}, {"user": "qemu"})
    assert parse(after)["user"] == "qemu"


def test_a_setting_that_is_no_longer_stated_comes_back():
    both = compose(SHIPPED, {"user": "qemu", "low": 5}, {})
    one = compose(both, {"low": 5}, {})
    assert parse(one)["user"] == "root"
    assert ours(one) == {"low": 5}


def test_a_setting_that_shares_its_line_is_refused():
    with pytest.raises(VirtfleetError, match="a line of its own"):
        compose("low = 1; high = 2\n", {"low": 3}, {})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        ("plain", '"plain"'),
        ('say "hi"', "'say \"hi\"'"),
        (["a", "b"], '[ "a", "b" ]'),
        ([], "[]"),
    ],
)
def test_values_survive_being_written(value, text):
    assert render(value) == text
    assert parse(f"key = {text}\n") == {"key": value}


@pytest.mark.parametrize(("value", "result"), [(True, 1), (False, 0), (("a",), ["a"]), ("x", "x")])
def test_values_are_brought_to_libvirts_kinds(value, result):
    assert expected(value) is None
    assert normal(value) == result
    assert type(normal(value)) is type(result)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.5, "a number"),
        (None, "a number"),
        ([1], "list of strings"),
        ("two\nlines", "on one line"),
        ("\"both'", "one kind of quotes"),
        (["fine", "two\nlines"], "on one line"),
    ],
)
def test_what_cannot_be_written_is_told(value, words):
    assert words in (expected(value) or "")

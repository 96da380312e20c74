# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The mark of ownership beside the metadata of others."""

from __future__ import annotations

from ansible.module_utils.virt.mark import Mark
from ansible.module_utils.virt.marking import read_mark, write_mark
from ansible.module_utils.virt.reader import read

MARK = Mark("a & 'b'", "web<01>", "f" * 64, ("vda", "vdb"))


def test_no_mark_is_none(case):
    assert read_mark(case) is None


def test_a_mark_is_read_as_it_was_written(case, valid):
    marked = write_mark(case, MARK)
    valid(marked)
    assert read_mark(marked) == MARK
    assert write_mark(marked, MARK) is marked
    assert read(marked) == read(case)
    for foreign in ("libosinfo:os", "cockpit_machines:data", "<!-- not ours -->"):
        assert (foreign in marked) == (foreign in case)


def test_a_mark_takes_the_place_of_the_former(case):
    again = write_mark(write_mark(case, MARK), Mark("prod", "web01"))
    assert read_mark(again) == Mark("prod", "web01")
    assert again.count("urn:virtfleet:1") == 1


def test_a_mark_is_found_by_its_namespace():
    inside = "<x:guest xmlns:x='urn:virtfleet:1' fleet='f' name='n'/>"
    assert read_mark(f"<domain><metadata>{inside}</metadata></domain>") == Mark("f", "n")
    foreign = inside.replace("urn:virtfleet:1", "urn:other")
    assert read_mark(f"<domain><metadata>{foreign}</metadata></domain>") is None
    default = "<guest xmlns='urn:virtfleet:1' fleet='f' name='n'/>"
    assert read_mark(f"<domain><metadata>{default}</metadata></domain>") == Mark("f", "n")

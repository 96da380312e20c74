# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fragment is merged by element: what it does not state stays, a second time changes nothing."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.virt.document import Document
from ansible.module_utils.virt.merge import merge
from ansible.module_utils.virt.patcher import patch

CASES = Path(__file__).resolve().parents[2] / "cases" / "virt"
RUNNING = (CASES / "running.xml").read_text(encoding="utf-8")
QEMU = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'"

# What is merged into running.xml, and the lines that go and come.
FRAGMENTS = {
    "what is there already": ("<on_crash>destroy</on_crash>", []),
    "a text": (
        "<on_crash>restart</on_crash>",
        ["-  <on_crash>destroy</on_crash>", "+  <on_crash>restart</on_crash>"],
    ),
    "an attribute": (
        "<features><vmport state='on'/></features>",
        ["-    <vmport state='off'/>", "+    <vmport state='on'/>"],
    ),
    "a new element in an old one": ("<features><hap/></features>", ["+    <hap/>"]),
    "a new element in its place": (
        "<perf><event name='cmt' enabled='yes'/></perf>",
        ["+  <perf>", "+    <event name='cmt' enabled='yes'/>", "+  </perf>"],
    ),
    "one of several by its name": (
        "<cpu><feature name='vmx' policy='optional'/></cpu>",
        [
            "-    <feature policy='require' name='vmx'/>",
            "+    <feature policy='optional' name='vmx'/>",
        ],
    ),
    "a disk by its target": (
        "<devices><disk><target dev='vda'/><driver ats='on'/></disk></devices>",
        [
            "-      <driver name='qemu' type='qcow2' cache='none' io='native' discard='unmap'/>",
            (
                "+      <driver name='qemu' type='qcow2' cache='none' io='native' discard='unmap'"
                " ats='on'/>"
            ),
        ],
    ),
    "a nic by its mac": (
        (
            "<devices><interface type='network'><mac address='52:54:00:0a:0b:0c'/>"
            "<coalesce><rx><frames max='7'/></rx></coalesce></interface></devices>"
        ),
        [
            "+      <coalesce>",
            "+        <rx>",
            "+          <frames max='7'/>",
            "+        </rx>",
            "+      </coalesce>",
        ],
    ),
    "a controller by type and index": (
        "<devices><controller type='usb' index='0' ports='8'/></devices>",
        [
            "-    <controller type='usb' index='0' model='qemu-xhci' ports='15'>",
            "+    <controller type='usb' index='0' model='qemu-xhci' ports='8'>",
        ],
    ),
    "another controller": (
        "<devices><controller type='scsi' model='virtio-scsi'/></devices>",
        ["+    <controller type='scsi' model='virtio-scsi'/>"],
    ),
    "a device without a name is appended": (
        "<devices><redirdev bus='usb' type='spicevmc'/></devices>",
        ["+    <redirdev bus='usb' type='spicevmc'/>"],
    ),
    "a whole domain": (
        f"<domain type='kvm' {QEMU}><on_reboot>destroy</on_reboot></domain>",
        ["-  <on_reboot>restart</on_reboot>", "+  <on_reboot>destroy</on_reboot>"],
    ),
    "arguments that stand there side by side": (
        (
            f"<qemu:commandline {QEMU}><qemu:arg value='-fw_cfg'/>"
            "<qemu:arg value='name=opt/org.example/note,string=a,b &lt; c'/></qemu:commandline>"
        ),
        [],
    ),
    "arguments of which one is there": (
        (
            f"<x:commandline {QEMU.replace('qemu=', 'x=')}><x:arg value='-fw_cfg'/>"
            "<x:arg value='name=other'/></x:commandline>"
        ),
        [
            "+    <x:arg xmlns:x='http://libvirt.org/schemas/domain/qemu/1.0' value='-fw_cfg'/>",
            "+    <x:arg xmlns:x='http://libvirt.org/schemas/domain/qemu/1.0' value='name=other'/>",
        ],
    ),
    "metadata of another": (
        "<metadata><a:b xmlns:a='urn:a'>text &amp; more<a:c/></a:b></metadata>",
        ["+    <a:b xmlns:a='urn:a'>text &amp; more<a:c/></a:b>"],
    ),
    "a comment is no element": ("<!-- x --><on_crash>destroy</on_crash>", []),
}


def lines(before, after):
    found = difflib.unified_diff(before.split("\n"), after.split("\n"), n=0, lineterm="")
    return [line for line in found if not line.startswith(("---", "+++", "@@"))]


@pytest.mark.parametrize(("fragment", "expected"), FRAGMENTS.values(), ids=FRAGMENTS.keys())
def test_a_fragment_is_merged(fragment, expected):
    once = patch(RUNNING, {"xml": fragment})
    assert lines(RUNNING, once.xml) == expected
    assert bool(once.changes) == bool(expected)
    assert patch(once.xml, {"xml": fragment}) == (once.xml, ())


VALID = [name for name in FRAGMENTS if name != "metadata of another"]


@pytest.mark.parametrize("name", VALID)
def test_what_was_merged_is_valid(name, valid):
    valid(patch(RUNNING, {"xml": FRAGMENTS[name][0]}).xml)


@pytest.mark.parametrize("fragment", [fragment for fragment, _ in FRAGMENTS.values()])
def test_merging_twice_changes_nothing(case, fragment):
    once = patch(case, {"xml": fragment})
    assert patch(once.xml, {"xml": fragment}) == (once.xml, ())


def test_all_of_them_together(case):
    texts = [text for text, _ in FRAGMENTS.values() if "domain" not in text or "org" in text]
    text = "".join(text for text in texts if "on_" not in text and "<domain" not in text)
    once = patch(case, {"xml": text})
    assert patch(once.xml, {"xml": text}) == (once.xml, ())


def test_a_domain_merged_into_itself_is_itself(case):
    text = case[case.index("<domain") : case.rindex("</domain>") + len("</domain>")]
    for field in ("name", "uuid"):
        start = text.find(f"<{field}>")
        if start >= 0:
            end = text.index(f"</{field}>") + len(f"</{field}>")
            text = text[:start] + text[end:]
    assert patch(case, {"xml": text}) == (case, ())


@pytest.mark.parametrize(
    ("fragment", "message"),
    [
        ("", "elements of a domain"),
        ("text", "elements of a domain"),
        ("<a/>text", "elements of a domain"),
        ("<!-- only -->", "elements of a domain"),
        ("<a>", "well-formed"),
        ("</fragment><fragment>", "well-formed"),
        ("</fragment>", "well-formed"),
        ("<a/></domain><domain>", "well-formed"),
        ("<?xml version='1.0'?><a/>", "well-formed"),
        ("<!DOCTYPE a><a/>", "well-formed"),
        ("<a>&x;</a>", "well-formed"),
        ("<name>other</name>", "makes another domain"),
        ("<domain><uuid>x</uuid></domain>", "makes another domain"),
        ("<qemu:commandline/>", "each prefix to be declared"),
        ("<a x:y='z'/>", "each prefix to be declared"),
        ("<a>" * 150 + "</a>" * 150, "nested more than"),
        ("<metadata><g xmlns='urn:virtfleet:1'/></metadata>", "no mark of ownership"),
        ("<a>\x01</a>", "characters that XML allows"),
    ],
)
def test_what_cannot_be_merged_is_refused(fragment, message):
    root = Document(RUNNING).root
    with pytest.raises(VirtfleetError) as raised:
        merge(root, fragment)
    assert message in str(raised.value)


def test_a_password_in_a_fragment_is_written_and_not_shown():
    fragment = "<devices><graphics type='vnc' passwd='s3cr3tvn'/></devices>"
    patched = patch(RUNNING, {"xml": fragment})
    assert "passwd='s3cr3tvn'" in patched.xml.replace('"', "'")
    (change,) = patched.changes
    assert "s3cr3tvn" not in change.after
    assert "<graphics type='vnc'" in change.after

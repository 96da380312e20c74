# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that state a size: images made, grown, never shrunk, and removed with their guest only.

The domains are those of libvirt's test driver, the images are real ones of qemu-img.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time

import pytest
from ansible.module_utils.converge.errors import ApplyError, InputError
from ansible.module_utils.guest.libvirt import apply as apply_module
from ansible.module_utils.guest.libvirt import images as images_module
from ansible.module_utils.guest.libvirt.images import Image, ImageError, capacity, create, images

libvirt = pytest.importorskip("libvirt", reason="the binding is built for the controller's Python")

from testdriver import Driver  # noqa: E402  (it needs the binding)

GIB = 1 << 30


class Host(Driver):
    """A host with guests of the test driver, whose images lie in a folder of this machine."""

    def __init__(self, root):
        super().__init__(root / "host")
        self.folder = root / "images"
        self.folder.mkdir()

    def run(self, *guests, local=True, **more):
        return super().run(*guests, local=local, **more)

    def file(self, name):
        return str(self.folder / name)

    def guest(self, size, *, name="web", state="stopped", **more):
        disk = {"target": "vda", "file": self.file(f"{name}.img"), "size": size, **more}
        return {"name": name, "state": state, "memory": "64MiB", "disks": [disk]}


@pytest.fixture
def host(tmp_path):
    found = Host(tmp_path)
    yield found
    found.close()


def told(file):
    """Return what qemu-img itself says of an image."""
    line = ["qemu-img", "info", "--output=json", file]
    return json.loads(subprocess.run(line, check=True, capture_output=True).stdout)


def changes(outcome):
    return {
        change["path"]: (change["before"], change["after"])
        for action in outcome["actions"]
        for change in action["changes"]
    }


def refusals(outcome):
    return [(item["reason"], item["remedy"]) for item in outcome["blocked"]]


def test_an_image_is_made_with_its_guest_and_a_second_run_changes_nothing(host):
    guest = host.guest("1GiB")
    planned = host.run(guest, check_mode=True)
    assert os.listdir(host.folder) == []
    done = host.run(guest)
    assert planned["diff"] == done["diff"]
    assert os.listdir(host.folder) == ["web.img"]
    assert (told(host.file("web.img"))["format"], told(host.file("web.img"))["virtual-size"]) == (
        "qcow2",
        GIB,
    )
    assert os.stat(host.file("web.img")).st_mode & 0o777 == 0o600
    again = host.run(guest)
    assert (again["changed"], again["blocked"]) == (False, [])


@pytest.mark.parametrize(
    ("kind", "start"), [("qcow2", "64MiB"), ("raw", "64MiB"), ("vmdk", "1MiB")]
)
def test_an_image_grows_in_place(host, kind, start):
    host.run(host.guest(start, format=kind))
    inode = os.stat(host.file("web.img")).st_ino
    larger = {"name": "web", "state": "stopped", "disks": [{"target": "vda", "size": "128MiB"}]}
    planned = host.run(larger, check_mode=True)
    assert changes(planned) == {"disks[vda].size": (start, "128MiB")}
    assert capacity(host.file("web.img"), kind) < 128 << 20
    if kind == "vmdk":  # qemu-img says that it cannot
        with pytest.raises(ApplyError, match="does not support resize"):
            host.run(larger)
        return
    assert host.run(larger)["diff"] == planned["diff"]
    assert (told(host.file("web.img"))["virtual-size"], os.stat(host.file("web.img")).st_ino) == (
        128 << 20,
        inode,
    )
    assert host.run(larger)["changed"] is False


def test_nothing_shrinks(host):
    host.run(host.guest("2GiB"))
    outcome = host.run(host.guest("1GiB"))
    assert outcome["changed"] is False
    reason = "disks[vda].size: its image of 2GiB would shrink to 1GiB"
    assert refusals(outcome) == [(reason, "state at least that: an image is never made smaller")]
    assert told(host.file("web.img"))["virtual-size"] == 2 * GIB


def test_an_image_that_is_there_is_taken_as_it_is_and_stays_when_the_guest_goes(host):
    create(Image("vda", host.file("web.img"), "qcow2", GIB))
    before = (host.folder / "web.img").read_bytes()
    host.run(host.guest("1GiB"))
    assert (host.folder / "web.img").read_bytes() == before
    host.run({"name": "web", "state": "absent", "remove_disks": True})
    assert (host.names(), os.listdir(host.folder)) == (["test"], ["web.img"])


def test_an_image_goes_with_its_guest_only_if_that_is_asked_for(host):
    host.run(host.guest("1GiB"))
    host.run({"name": "web", "state": "absent"})
    assert os.listdir(host.folder) == ["web.img"]
    os.unlink(host.file("web.img"))
    host.run(host.guest("1GiB"))
    planned = host.run({"name": "web", "state": "absent", "remove_disks": True}, check_mode=True)
    assert changes(planned)["files"] == ([host.file("web.img")], None)
    assert os.listdir(host.folder) == ["web.img"]
    host.run({"name": "web", "state": "absent", "remove_disks": True})
    assert os.listdir(host.folder) == []


def test_an_image_that_another_guest_stands_on_is_not_removed(host):
    host.run(host.guest("1GiB"))
    base, overlay = host.file("web.img"), host.file("clone.qcow2")
    line = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, overlay]
    subprocess.run(line, check=True)
    disk = {"target": "vda", "file": overlay, "format": "qcow2"}
    host.run({"name": "clone", "state": "stopped", "disks": [disk]})
    with pytest.raises(
        InputError, match=r"expected disks of its own, found .*web\.img, on which clone"
    ):
        host.run({"name": "web", "state": "absent", "remove_disks": True})
    assert sorted(os.listdir(host.folder)) == ["clone.qcow2", "web.img"]
    assert host.names() == ["clone", "test", "web"]


def test_what_an_older_image_does_not_say_of_the_one_below_ends_no_chain(monkeypatch, tmp_path):
    """qemu-img makes none without the format any more: answers as it gives them for such images."""
    top, middle, base = (str(tmp_path / name) for name in ("top", "middle", "base"))
    below = {top: middle, middle: base}
    asked = []

    def told(*words):
        asked.append(words[-2:])
        return json.dumps({"full-backing-filename": below[words[-1]]} if words[-1] in below else {})

    monkeypatch.setattr(images_module, "_qemu_img", told)
    for path in (top, middle, base):
        (tmp_path / path).touch()
    assert list(images_module.chain(top, "qcow2")) == [middle, base]
    assert asked == [("qcow2", path) for path in (top, middle, base)]


def test_a_disk_that_comes_later_is_made_then_and_is_the_guests_own(host):
    host.run(host.guest("1GiB"))
    guest = host.guest("1GiB")
    guest["disks"].append({"target": "vdb", "file": host.file("data.img"), "size": "2GiB"})
    assert changes(host.run(guest))["disks[vdb]"][1]["size"] == "2GiB"
    assert told(host.file("data.img"))["virtual-size"] == 2 * GIB
    assert host.run(guest)["changed"] is False
    # A protected guest keeps its disks as a mark that is written anew does.
    host.run({**guest, "protected": True})
    host.run({**guest, "protected": False})
    host.run({"name": "web", "state": "absent", "remove_disks": True})
    assert os.listdir(host.folder) == []


@pytest.mark.parametrize("moment", ["_fit", "create"])
def test_a_run_that_ends_before_the_image_is_made_leaves_the_rest_to_the_next(
    host, monkeypatch, moment
):
    class Killed(BaseException):
        """What ends the run."""

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(apply_module, moment, killed)
        with pytest.raises(Killed):
            host.run(host.guest("1GiB"))
    assert (host.names(), os.listdir(host.folder)) == (["test", "web"], [])
    outcome = host.run(host.guest("1GiB"))
    assert changes(outcome) == {"disks[vda].size": (None, "1GiB")}
    assert host.run(host.guest("1GiB"))["changed"] is False
    host.run({"name": "web", "state": "absent", "remove_disks": True})
    assert os.listdir(host.folder) == []


def test_a_guest_that_is_made_anew_keeps_its_images(host):
    host.run(host.guest("1GiB"))
    before = (host.folder / "web.img").read_bytes()
    anew = {**host.guest("1GiB"), "uuid": "00000000-0000-4000-8000-000000000001", "replace": True}
    assert "replace" in [action["action"] for action in host.run(anew)["actions"]]
    assert (host.folder / "web.img").read_bytes() == before
    host.run({"name": "web", "state": "absent", "remove_disks": True})
    assert os.listdir(host.folder) == []


@pytest.mark.parametrize(
    ("disk", "there", "message"),
    [
        ({"size": "100"}, None, r"disks\[0\].size: expected a whole number with a unit"),
        ({"size": "1000B"}, None, r"disks\[0\].size: expected whole sectors of 512 bytes"),
        ({"size": "1GiB", "device": "cdrom", "bus": "sata"}, None, "expected device: disk with it"),
        ({"size": "1GiB", "file": None, "block": "/dev/null"}, None, "expected file with it"),
        ({"size": "1GiB", "file": "/nowhere/at/all/x"}, None, "expected a folder that is there"),
        ({"size": "1GiB"}, b"\0" * 4096, "expected that of .*web.img, found qcow2"),
        ({"size": "512B", "format": "raw"}, b"\0" * 4096, "at least the 4KiB that .* has"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_touched(host, disk, there, message):
    if there is not None:
        (host.folder / "web.img").write_bytes(there)
    guest = host.guest("1GiB")
    guest["disks"][0].update(disk)
    with pytest.raises(InputError, match=message):
        host.run(guest)
    assert (host.names(), len(os.listdir(host.folder))) == (["test"], 0 if there is None else 1)


def test_one_image_is_one_disk_of_one_guest(host):
    twice = host.guest("1GiB")
    twice["disks"].append({**twice["disks"][0], "target": "vdb"})
    with pytest.raises(InputError, match=r"a source of its own, found .*disks\[0\] has already"):
        host.run(twice)
    other = {**host.guest("1GiB"), "name": "other"}
    with pytest.raises(InputError, match="expected a disk of its own"):
        host.run(host.guest("1GiB"), other)


def test_another_host_makes_no_images(host):
    with pytest.raises(InputError, match=r"disks\[0\].size: expected the libvirt of this host"):
        host.run(host.guest("1GiB"), local=False)


def test_a_disk_without_a_file_has_no_size_to_state(host):
    disk = {"target": "vda", "block": "/dev/null"}
    host.run({"name": "web", "state": "stopped", "disks": [disk]})
    outcome = host.run({"name": "web", "disks": [{"target": "vda", "size": "1GiB"}]})
    assert [reason for reason, _ in refusals(outcome)] == ["disks[vda].size: its image is no file"]


def test_an_image_is_never_made_over_another_file(tmp_path):
    (tmp_path / "a.img").write_bytes(b"precious")
    with pytest.raises(ImageError, match="expected no such file yet"):
        create(Image("vda", str(tmp_path / "a.img"), "raw", 1 << 20))
    assert os.listdir(tmp_path) == ["a.img"]
    assert (tmp_path / "a.img").read_bytes() == b"precious"


def test_a_raw_image_is_not_taken_for_what_its_guest_writes_into_it(tmp_path):
    inner = Image("vda", str(tmp_path / "inner.img"), "qcow2", 1 << 40)
    create(inner)
    size = os.stat(inner.file).st_size
    assert (capacity(inner.file, "qcow2"), capacity(inner.file, "raw")) == (1 << 40, size)
    assert capacity(str(tmp_path / "none"), "qcow2") is None


@pytest.mark.parametrize(
    ("disk", "there", "found"),
    [
        ({"file": "/a"}, None, ("/a", "qcow2")),
        ({"file": "/a", "format": "raw"}, None, ("/a", "raw")),
        ({}, {"file": "/b", "format": "qcow2"}, ("/b", "qcow2")),
        ({}, {"file": "/b"}, ("/b", "raw")),
        ({"file": "/a"}, {"file": "/b", "format": "raw"}, ("/a", "raw")),
        ({"format": "qcow2"}, {"file": "/b", "format": "raw"}, ("/b", "qcow2")),
        ({}, {"block": "/dev/sda"}, None),
        ({"block": "/dev/sda"}, {"file": "/b"}, None),
    ],
)
def test_the_image_of_a_disk_is_that_stated_or_the_one_it_has(disk, there, found):
    stated = {"disks": [{"target": "vda", "size": "1GiB", **disk}]}
    known = [] if there is None else [{"target": "vda", **there}]
    mine, without = images(stated, known)
    assert [(image.file, image.format) for image in mine] == ([] if found is None else [found])
    assert without == ([] if found else ["vda"])


@pytest.fixture
def golden(host):
    """Return an image of 1 GiB that begins with a word."""
    file = host.file("golden.qcow2")
    raw = host.file("golden.raw")
    with open(raw, "wb") as out:
        out.write(b"golden")
        out.truncate(GIB)
    line = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, file]
    subprocess.run(line, check=True)
    return file


def first_bytes(file, kind):
    copy = f"{file}.copy"
    line = ["qemu-img", "convert", "-f", kind, "-O", "raw", file, copy]
    subprocess.run(line, check=True)
    with open(copy, "rb") as content:
        return content.read(6)


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_a_disk_is_made_from_an_image(host, golden, kind):
    guest = host.guest("2GiB", image=golden, format=kind)
    planned = host.run(guest, check_mode=True)
    assert not os.path.exists(host.file("web.img"))
    done = host.run(guest)
    assert changes(planned) == changes(done)
    found = told(host.file("web.img"))
    assert found["virtual-size"] == 2 * GIB
    assert found.get("full-backing-filename") == (golden if kind == "qcow2" else None)
    assert first_bytes(host.file("web.img"), kind) == b"golden"
    assert host.run(guest)["changed"] is False
    assert host.run(host.guest("2GiB", image="/another.img", format=kind))["changed"] is False


def test_an_image_goes_by_its_name_to_the_file_that_it_is_now(host, golden, monkeypatch, tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    blob = f"{'a' * 64}.qcow2"
    os.rename(golden, folder / blob)
    os.symlink(blob, folder / "golden")
    monkeypatch.setattr("ansible.module_utils.image.store.FOLDER", str(folder))
    host.run(host.guest("1GiB", image="golden"))
    assert told(host.file("web.img"))["full-backing-filename"] == str(folder / blob)


def test_what_no_disk_can_be_made_from_is_told(host, golden):
    with pytest.raises(InputError, match=r"disks\[vda\].image: expected an image that is there"):
        host.run(host.guest("2GiB", image="nowhere"))
    assert host.run(host.guest("2GiB", image="nowhere"), check_mode=True)["changed"] is True
    with pytest.raises(InputError, match=r"size: expected at least the 1GiB of the image"):
        host.run(host.guest("512MiB", image=golden))
    without = host.guest("2GiB", image=golden)
    del without["disks"][0]["size"]
    with pytest.raises(InputError, match=r"disks\[0\].size: expected a size with image"):
        host.run(without)
    with pytest.raises(InputError, match=r"an image's name, or an absolute path"):
        host.run(host.guest("2GiB", image="../x"))
    assert host.domains() == []


def test_guests_are_made_side_by_side_but_those_that_share_an_image(host, monkeypatch):
    """The first of those makes the image and owns it, however long it takes."""
    running, most = set(), []
    lock = threading.Lock()

    def slow(image):
        with lock:
            running.add(image.file)
            most.append(len(running))
        time.sleep(0.2)
        create(image)
        with lock:
            running.discard(image.file)

    monkeypatch.setattr(apply_module, "create", slow)
    shared = {"target": "vdb", "file": host.file("both.img"), "size": "1MiB", "format": "raw"}
    guests = [host.guest("1MiB", name=name) for name in ("one", "two", "three", "four")]
    for guest in guests[:2]:
        guest["disks"].append({**shared, "shareable": True})
    host.run(*guests)
    assert max(most) > 1
    assert not host.run(*guests)["changed"]
    owners = [name for name in ("one", "two") if "both.img" in host.xml(name).split("<os>")[0]]
    assert owners == ["one"]
    gone = [{"name": name, "state": "absent", "remove_disks": True} for name in ("one", "two")]
    host.run(*gone)
    assert sorted(os.listdir(host.folder)) == ["both.img", "four.img", "three.img"]

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images brought to a host: from its own files and from a server on loopback, with real images."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from ansible.module_utils.converge.errors import ApplyError, InputError
from ansible.module_utils.image import checksum, users
from ansible.module_utils.image import store as store_module
from ansible.module_utils.image.catalogue import CATALOGUE
from ansible.module_utils.image.store import below


def sha256(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def verbs(outcome):
    return [f"{a['object']} {a['action']}" for a in outcome["actions"]]


@pytest.fixture
def debian(publisher, image):
    content = image()
    publisher.files["/debian.qcow2"] = content
    publisher.files["/SHA512SUMS"] = (
        f"{hashlib.sha512(content).hexdigest()}  debian.qcow2\n{'0' * 128}  other.qcow2\n"
    ).encode()
    return {"name": "debian", "url": f"{publisher.url}/debian.qcow2", "checksum": sha256(content)}


def listing(debian):
    there = {key: value for key, value in debian.items() if key != "checksum"}
    return {**there, "checksums": debian["url"].replace("debian.qcow2", "SHA512SUMS")}


def content_of(store, name):
    return (store / name).read_bytes()


def test_check_mode_fetches_nothing(images, debian, publisher, store):
    planned = images(debian, check_mode=True)
    assert verbs(planned) == ["image/debian create"]
    assert publisher.asked == []
    assert not store.exists()


def test_an_image_is_fetched_once(images, debian, publisher, store, image):
    done = images(debian)
    assert verbs(done) == ["image/debian create"]
    (told,) = done["images"]
    assert told["path"] == str(store / os.readlink(store / "debian"))
    assert (told["format"], told["size"]) == ("qcow2", 8 << 20)
    assert content_of(store, "debian") == image()
    assert oct((store / "debian").stat().st_mode)[-3:] == "444"
    count = len(publisher.asked)
    assert images(debian)["changed"] is False
    assert images({**debian, "name": "again"})["changed"] is True  # a name more, nothing fetched
    assert len(publisher.asked) == count
    assert os.listdir(store / ".incoming") == []


def test_a_publisher_s_list_is_believed(images, debian, publisher):
    done = images(listing(debian))
    assert "sha512" in done["images"][0]["checksums"]
    count = len(publisher.asked)
    assert images(listing(debian))["changed"] is False
    assert len(publisher.asked) == count, "without refresh nobody is asked"
    assert images({**listing(debian), "refresh": True})["changed"] is False


def test_a_newer_image_takes_the_name_when_that_is_asked_for(images, debian, publisher, image):
    former = images(listing(debian))["images"][0]["path"]
    newer = image("16M")
    publisher.files["/debian.qcow2"] = newer
    digest = hashlib.sha512(newer).hexdigest()
    publisher.files["/SHA512SUMS"] = f"{digest}  debian.qcow2\n".encode()
    assert images(listing(debian))["changed"] is False
    planned = images({**listing(debian), "refresh": True}, check_mode=True)
    done = images({**listing(debian), "refresh": True})
    assert planned["actions"] == done["actions"]
    assert verbs(done) == ["image/debian update"]
    assert done["images"][0]["size"] == 16 << 20
    assert not os.path.exists(former), "nothing stands on it"


def test_a_publisher_that_is_away_keeps_no_other_image_back(images, debian, publisher, store):
    images(listing(debian))
    content = content_of(store, "debian")
    del publisher.files["/SHA512SUMS"]
    asked = {**listing(debian), "refresh": True}
    with pytest.raises(ApplyError, match="image/debian: not asked for a newer one") as raised:
        images(asked, {**debian, "name": "other"})
    assert verbs(raised.value.data) == ["image/other create"]
    assert content_of(store, "debian") == content
    assert (store / "other").exists()


def test_a_wrong_checksum_leaves_what_was_there(images, debian, publisher, store, image):
    images(debian)
    publisher.files["/debian.qcow2"] = image("16M")
    wrong = {**debian, "checksum": "sha256:" + "0" * 64}
    with pytest.raises(ApplyError, match=r"expected sha256:0+, found [0-9a-f]{64}: nothing was"):
        images(wrong)
    assert content_of(store, "debian") == image()
    assert os.listdir(store / ".incoming") == []


def test_a_server_that_stops_is_asked_for_the_rest(images, debian, publisher, store, image):
    publisher.breaks["/debian.qcow2"] = [1000, 2000]
    images(debian)
    assert [part for _, part in publisher.asked] == [None, "bytes=1000-", "bytes=3000-"]
    assert content_of(store, "debian") == image()


def test_what_came_is_kept_for_the_next_run(images, debian, publisher, store, image):
    publisher.breaks["/debian.qcow2"] = [1000, 0, 0, 0]
    with pytest.raises(ApplyError, match=r"4 attempts"):
        images(debian)
    assert not (store / "debian").is_symlink()
    images(debian)
    assert publisher.asked[-1][1] == "bytes=1000-"
    assert content_of(store, "debian") == image()


@pytest.mark.parametrize("change", ["another file", "no parts"])
def test_what_cannot_be_continued_begins_anew(images, debian, publisher, store, image, change):
    publisher.breaks["/debian.qcow2"] = [1000, 0, 0, 0]
    with pytest.raises(ApplyError):
        images(debian)
    newer = image("16M")
    if change == "another file":
        publisher.files["/debian.qcow2"] = newer
        debian = {**debian, "checksum": sha256(newer)}
    else:
        publisher.parts = False
    images(debian)
    assert sha256(content_of(store, "debian")) == debian["checksum"]


def test_a_run_that_was_killed_after_the_last_byte_is_completed(images, debian, publisher, store):
    (store / ".incoming").mkdir(parents=True)
    part = store / ".incoming" / f"{hashlib.sha256(debian['url'].encode()).hexdigest()}.part"
    content = publisher.files["/debian.qcow2"]
    part.write_bytes(content)
    (part.parent / f"{part.name}.version").write_text(publisher.tag(content))
    images(debian)
    assert content_of(store, "debian") == content


def test_what_is_not_there_is_said_at_once(images, debian, publisher):
    gone = {**debian, "url": f"{publisher.url}/none.qcow2"}
    with pytest.raises(ApplyError, match=r"none.qcow2: the server answers 404"):
        images(gone)
    assert len(publisher.asked) == 1
    with pytest.raises(ApplyError, match=r"has no checksum of lost.qcow2"):
        images({**listing(debian), "url": f"{publisher.url}/lost.qcow2"})


def test_where_a_redirect_may_lead(images, debian, publisher):
    port = publisher.server.server_address[1]
    publisher.leads["/moved"] = f"http://localhost:{port}/debian.qcow2"
    assert images({**debian, "url": f"{publisher.url}/moved"})["changed"] is True
    publisher.leads["/sums"] = f"http://localhost:{port}/SHA512SUMS"
    moved = {**listing(debian), "name": "other", "checksums": f"{publisher.url}/sums"}
    with pytest.raises(ApplyError, match=r"leads to another host, localhost"):
        images(moved)
    publisher.leads["/file"] = "file:///etc/passwd"
    with pytest.raises(ApplyError, match=r"image/local: .*file:///etc/passwd"):
        images({**debian, "name": "local", "url": f"{publisher.url}/file", "checksum": "0" * 64})


def test_a_signature_is_verified(images, debian, publisher, tmp_path):
    gpg = shutil.which("gpg")
    if gpg is None or shutil.which("gpgv") is None:
        pytest.skip("gpg and gpgv are not installed")
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    base = [gpg, "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback"]
    make = [
        *base,
        "--passphrase",
        "",
        "--quick-generate-key",
        "lab@example.org",
        "ed25519",
        "sign",
    ]
    subprocess.run(make, check=True, capture_output=True)
    ring = tmp_path / "ring.gpg"
    ring.write_bytes(subprocess.run([*base, "--export"], check=True, capture_output=True).stdout)

    def sign(content):
        command = [*base, "--armor", "--detach-sign"]
        done = subprocess.run(command, input=content, check=True, capture_output=True)
        return done.stdout

    publisher.files["/SHA512SUMS.asc"] = sign(publisher.files["/SHA512SUMS"])
    signed = {
        **listing(debian),
        "signature": f"{publisher.url}/SHA512SUMS.asc",
        "keyring": str(ring),
    }
    assert images(signed)["changed"] is True
    publisher.files["/SHA512SUMS.asc"] = sign(b"another list")
    with pytest.raises(ApplyError, match=r"its signature is not good"):
        images({**signed, "name": "forged"})
    subprocess.run([shutil.which("gpgconf"), "--homedir", str(home), "--kill", "all"], check=False)


def test_a_file_of_the_host_is_taken_and_followed(images, tmp_path, store, image):
    file = tmp_path / "golden.qcow2"
    file.write_bytes(image())
    entry = {"name": "golden", "path": str(file)}
    assert verbs(images(entry)) == ["image/golden create"]
    assert images(entry)["changed"] is False
    file.write_bytes(image("16M"))
    assert verbs(images(entry)) == ["image/golden update"]
    assert content_of(store, "golden") == image("16M")
    file.unlink()
    with pytest.raises(InputError, match=r"images\[0\].path: expected a file that is there"):
        images(entry)
    assert verbs(images({**entry, "state": "absent"})) == ["image/golden delete"]
    assert [name for name in os.listdir(store) if name != ".incoming"] == []


def test_another_format_is_made(images, tmp_path, image):
    file = tmp_path / "a.vmdk"
    file.write_bytes(image("8M", "vmdk"))
    (told,) = images({"name": "a", "path": str(file)})["images"]
    assert store_module.look(told["path"]) == {"format": "qcow2", "size": 8 << 20}
    (told,) = images({"name": "a", "path": str(file), "format": "raw"})["images"]
    assert told["path"].endswith(".raw")
    assert os.path.getsize(told["path"]) == 8 << 20


@pytest.mark.parametrize("options", ["backing", "data"])
def test_an_image_that_names_another_file_is_refused(images, tmp_path, image, options):
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0" * (1 << 20))
    file = tmp_path / "bad.qcow2"
    more = {
        "backing": ["-b", str(secret), "-F", "raw", str(file)],
        "data": ["-o", f"data_file={tmp_path}/data", str(file), "1M"],
    }[options]
    command = [shutil.which("qemu-img"), "create", "-q", "-f", "qcow2", *more]
    subprocess.run(command, check=True)
    with pytest.raises(ApplyError, match=r"expected an image that stands alone"):
        images({"name": "bad", "path": str(file)})


def test_what_something_stands_on_is_kept_and_told(images, tmp_path, store, image):
    file = tmp_path / "golden.qcow2"
    file.write_bytes(image())
    images({"name": "golden", "path": str(file)})
    blob = str(store / os.readlink(store / "golden"))
    standing = {blob: ["guest/web"]}
    gone = images({"name": "golden", "state": "absent"}, users=lambda _files: standing)
    assert gone["pending"][0]["kind"] == "in_use"
    assert "guest/web" in gone["pending"][0]["reason"]
    assert os.path.exists(blob)
    file.write_bytes(image("16M"))
    unknown = images({"name": "other", "path": str(file)}, users=lambda _files: None)
    assert os.path.exists(blob), "nobody knows whether something stands on it"
    assert "libvirt cannot be asked" in unknown["pending"][0]["reason"]
    planned = images({"name": "other", "path": str(file)}, check_mode=True)
    assert (planned["pending"], os.path.exists(blob)) == ([], True)
    images({"name": "other", "state": "absent"})
    assert not os.path.exists(blob)


def test_prune_takes_the_names_that_nobody_declares(images, debian):
    images(debian, {**debian, "name": "old"})
    assert verbs(images(debian, prune=True)) == ["image/old delete"]


def test_one_that_fails_keeps_no_other_from_coming(images, debian, publisher):
    bad = {**debian, "name": "bad", "url": f"{publisher.url}/none"}
    with pytest.raises(ApplyError) as raised:
        images({**bad, "checksum": "1" * 64}, debian)
    assert [told["name"] for told in raised.value.data["images"]] == ["debian"]


def test_all_that_is_wrong_is_told_at_once(images):
    wrong = [
        {"name": "A"},
        {"name": "unknown-os"},
        {"name": "b", "url": "ftp://a/b"},
        {"name": "c", "url": "https://a/b"},
        {"name": "d", "url": "https://u:p@a/b", "checksum": "0" * 64},
        {"name": "e", "path": "b.img"},
        {"name": "f", "path": "/a", "url": "https://a/b", "checksum": "0" * 64},
        {"name": "g", "path": "/a", "checksum": "sha256:12"},
        {"name": "h", "path": "/a", "format": "vmdk"},
        {"name": "i", "url": "https://a/b", "checksums": "https://a/c", "keyring": "/k"},
        {"name": "j", "path": "/a", "checksm": "0" * 64},
        {"name": "debian-12"},
        {"name": "debian-12"},
        "k",
    ]
    with pytest.raises(InputError) as raised:
        images(*wrong)
    lines = str(raised.value).splitlines()[1:]
    assert [line.partition(":")[0] for line in lines] == [
        "images[0].name",
        "images[1]",
        "images[2].url",
        "images[2].checksum",
        "images[3].checksum",
        "images[4].url",
        "images[5].path",
        "images[6]",
        "images[7].checksum",
        "images[8].format",
        "images[9].signature",
        "images[10].checksm",
        "images[12].name",
        "images[13]",
    ]


def test_the_catalogue_names_publishers_that_vouch():
    for name, entry in CATALOGUE.items():
        assert set(entry) == {"url", "checksums"}, name
        assert all(address.startswith("https://") for address in entry.values())
        hosts = {address.split("/")[2] for address in entry.values()}
        assert len(hosts) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sha256:" + "A" * 64, "sha256:" + "a" * 64),
        ("b" * 128, "sha512:" + "b" * 128),
        ("sha512:" + "a" * 64, None),
        ("md5:" + "a" * 32, None),
        ("", None),
        (5, None),
    ],
)
def test_a_checksum_is_read(text, expected):
    found = checksum.parse(text)
    assert (None if found is None else str(found)) == expected


@pytest.mark.parametrize(
    "line",
    [
        "{digest}  a.qcow2",
        "{digest} *a.qcow2",
        "{digest}  ./images/a.qcow2",
        "SHA256 (a.qcow2) = {digest}",
        "# a.qcow2: 5 bytes\nSHA256 (a.qcow2) = {digest}",
    ],
)
def test_a_list_of_checksums_is_read(line):
    digest = "c" * 64
    other = f"{'d' * 64}  ba.qcow2\n"
    found = checksum.find(other + line.format(digest=digest) + "\n", "a.qcow2")
    assert str(found) == f"sha256:{digest}"
    assert checksum.find(other, "a.qcow2") is None


def test_what_an_image_stands_on_is_found(tmp_path):
    program = shutil.which("qemu-img")
    if program is None:
        pytest.skip("qemu-img is not installed")
    base, middle, top = (tmp_path / f"{name}.qcow2" for name in ("base", "middle", "top"))
    subprocess.run([program, "create", "-q", "-f", "qcow2", base, "1M"], check=True)
    for lower, upper in ((base, middle), (middle, top)):
        command = [program, "create", "-q", "-f", "qcow2", "-b", lower, "-F", "qcow2", upper]
        subprocess.run(command, check=True)
    assert list(below(str(top))) == [str(middle), str(base)]
    assert list(below(str(base))) == []
    assert list(below(str(tmp_path / "none"))) == []
    assert json.loads(store_module.qemu_img("info", "--output=json", str(top)))["format"] == "qcow2"


class Domain:
    """A domain as libvirt tells of it; no driver for tests has running domains with chains."""

    def __init__(self, live, inactive="<domain/>"):
        self.texts = {0: live}
        self.inactive = inactive

    def name(self):
        return "web"

    def isPersistent(self):  # noqa: N802 (libvirt's own name)
        return True

    def XMLDesc(self, flags):  # noqa: N802
        return self.texts.get(flags, self.inactive)


def disk(inside):
    return f"<domain><devices><disk>{inside}</disk></devices></domain>"


@pytest.mark.parametrize(
    ("live", "inactive"),
    [
        (disk("<source file='/s/a.qcow2'/>"), "<domain/>"),
        ("<domain/>", disk("<source file='/s/a.qcow2'/>")),
        (
            disk(
                "<source file='/gone/top.qcow2'/>"
                "<backingStore><source file='/s/a.qcow2'/></backingStore>"
            ),
            "<domain/>",
        ),
    ],
    ids=["runs with it", "would have it", "its own file is out of sight"],
)
def test_a_guest_that_stands_on_an_image_is_found(live, inactive):
    connection = SimpleNamespace(
        libvirt=SimpleNamespace(VIR_DOMAIN_XML_INACTIVE=2),
        handle=SimpleNamespace(listAllDomains=lambda: [Domain(live, inactive)]),
        passing=nullcontext,
    )
    assert users.standing_on(["/s/a.qcow2", "/s/b.qcow2"], users._of_domains(connection)) == {
        "/s/a.qcow2": ["guest/web"]
    }


def test_without_libvirt_nobody_knows_what_stands_on_an_image():
    assert users.users_by("test:///nowhere.xml")(["/s/a.qcow2"]) is None

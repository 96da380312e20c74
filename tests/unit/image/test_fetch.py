# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a network or a full file system does to an image on its way: no half one has a name."""

from __future__ import annotations

import errno
import hashlib
import os
import ssl
from types import SimpleNamespace

import pytest
from ansible.module_utils.converge.errors import ApplyError
from ansible.module_utils.image import fetch
from ansible.module_utils.image import run as run_module
from ansible.module_utils.image import store as store_module
from ansible.module_utils.image.fetch import Download


def sha256(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def served(publisher, content, path="/a.qcow2"):
    """Return the entry of an image that a publisher has."""
    publisher.files[path] = content
    return {"name": "a", "url": f"{publisher.url}{path}", "checksum": sha256(content)}


def listed(publisher, entry, url):
    """Return an entry whose publisher vouches for it in a list at an address."""
    digest = entry["checksum"].partition(":")[2]
    publisher.files["/SUMS"] = f"{digest}  a.qcow2\n".encode()
    return {**{key: entry[key] for key in ("name", "url")}, "checksums": url}


def left_of(store):
    """Return all that is in a store, on its way or under a name."""
    found = [os.path.join(folder, one) for folder, _, files in os.walk(store) for one in files]
    return sorted(os.path.relpath(path, store) for path in found)


# --- https


def test_a_certificate_that_nobody_trusts_is_refused_at_once(images, secure, image, store):
    entry = served(secure, image())
    with pytest.raises(ApplyError) as raised:
        images(entry)
    said = str(raised.value)
    assert f"{entry['url']}: its certificate is not trusted (" in said
    assert "self" in said
    assert "signed certificate): let the machine" in said
    assert "attempts" not in said
    assert secure.asked == []
    assert left_of(store) == []


def test_a_list_comes_by_no_other_certificate_than_an_image(images, secure, publisher, image):
    entry = listed(secure, served(publisher, image()), f"{secure.url}/SUMS")
    with pytest.raises(ApplyError, match="SUMS: its certificate is not trusted"):
        images(entry)
    assert publisher.asked == []


@pytest.mark.usefixtures("trusted")
def test_a_certificate_that_the_machine_trusts_is_accepted(images, secure, image, store):
    assert images(served(secure, image()))["changed"] is True
    assert (store / "a").read_bytes() == image()


@pytest.mark.usefixtures("trusted")
def test_a_certificate_of_another_host_is_refused(images, secure, image):
    entry = served(secure, image())
    other = {**entry, "url": entry["url"].replace("127.0.0.1", "localhost")}
    with pytest.raises(ApplyError, match=r"not trusted \(Hostname mismatch.*localhost"):
        images(other)


@pytest.mark.usefixtures("trusted")
def test_https_stays_https(images, secure, publisher, image, store):
    entry = served(publisher, image())
    secure.leads["/down"] = entry["url"]
    with pytest.raises(ApplyError, match=r"/down leads to http://.*: expected https to stay"):
        images({**entry, "url": f"{secure.url}/down"})
    secure.leads["/sums"] = f"{publisher.url}/SUMS"
    with pytest.raises(ApplyError, match=r"/sums leads to http://.*: expected https to stay"):
        images(listed(publisher, entry, f"{secure.url}/sums"))
    publisher.leads["/up"] = f"{secure.url}/down"
    with pytest.raises(ApplyError, match=r"/down leads to http://.*: expected https to stay"):
        images({**entry, "url": f"{publisher.url}/up"})
    assert [path for path, _ in publisher.asked] == ["/up"]
    assert left_of(store) == []


@pytest.mark.usefixtures("trusted")
def test_http_may_become_https_and_an_image_may_lie_on_another_host(
    images, secure, publisher, image, store
):
    entry = served(secure, image())
    publisher.leads["/up"] = entry["url"]
    assert images({**entry, "url": f"{publisher.url}/up"})["changed"] is True
    port = publisher.server.server_address[1]
    moved = {**served(publisher, image("16M")), "name": "moved"}
    publisher.leads["/away"] = moved["url"].replace("127.0.0.1", "localhost")
    assert images({**moved, "url": f"{publisher.url}/away"})["changed"] is True
    assert (store / "moved").read_bytes() == image("16M")
    publisher.leads["/sums"] = f"http://localhost:{port}/SUMS"
    with pytest.raises(ApplyError, match="leads to another host, localhost: state the address"):
        images({**listed(publisher, moved, f"{publisher.url}/sums"), "name": "listed"})


def test_an_error_of_tls_is_none_of_the_file_system(images, publisher, image, store, monkeypatch):
    copy, errors = Download._copy, [ssl.SSLSyscallError(errno.EIO, "Some I/O error occurred")]

    def broken(answer, file):
        if errors:
            raise errors.pop()
        return copy(answer, file)

    monkeypatch.setattr(Download, "_copy", staticmethod(broken))
    images(served(publisher, image()))
    assert (store / "a").read_bytes() == image()


# --- a file system that is full


class Full:
    """A file on a file system that has room for a little more."""

    def __init__(self, file, code):
        self.file = file
        self.code = code

    def write(self, content):
        self.file.write(content[:1000])
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_download_that_fills_the_file_system_leaves_it(
    images, publisher, image, store, monkeypatch, code
):
    entry = served(publisher, image())
    images(entry)
    newer = served(publisher, image("16M"))

    copy = Download._copy
    with monkeypatch.context() as patch:
        patch.setattr(
            Download, "_copy", staticmethod(lambda answer, file: copy(answer, Full(file, code)))
        )
        with pytest.raises(ApplyError, match=rf"{os.strerror(code)}: make room there"):
            images(newer)
    assert (store / "a").read_bytes() == image(), "the former one keeps the name"
    assert os.listdir(store / ".incoming") == []
    assert len(publisher.asked) == 2, "a full file system is not asked again"
    images(newer)
    assert (store / "a").read_bytes() == image("16M")


@pytest.mark.parametrize("step", ["copy", "convert"])
def test_what_else_fills_the_file_system_leaves_nothing(
    images, image, tmp_path, store, monkeypatch, step
):
    file = tmp_path / "a.vmdk"
    file.write_bytes(image("8M", "vmdk"))
    entry = {"name": "a", "path": str(file)}

    def full(*arguments):
        # The target of cp is the last of them, that of qemu-img the last but one.
        with open(arguments[1 if step == "copy" else 2], "wb") as half:
            half.write(b"half")
        raise store_module.ImageError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run_module, step, full)
        with pytest.raises(ApplyError, match="image/a: No space left on device"):
            images(entry)
    assert left_of(store) == []
    assert images(entry)["changed"] is True


def test_what_has_no_room_is_not_begun(images, publisher, image, store, monkeypatch):
    entry = served(publisher, image())
    size = len(image())
    for free, fits in ((size + fetch._SPARE - 1, False), (size + fetch._SPARE, True)):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _, usage=usage: usage)
        if fits:
            assert images(entry)["changed"] is True
        else:
            with pytest.raises(ApplyError, match=r"are to come, and .*\.incoming has .* left"):
                images(entry)
            assert [name for name in left_of(store) if not name.endswith(".version")] == []
            assert len(publisher.asked) == 1


def test_what_had_no_room_is_not_continued_as_another_version(
    images, publisher, image, store, monkeypatch
):
    publisher.breaks["/a.qcow2"] = [1000, 0, 0, 0]
    with pytest.raises(ApplyError, match="4 attempts"):
        images(served(publisher, image()))
    newer = served(publisher, image("16M"))
    with monkeypatch.context() as patch:
        patch.setattr(fetch.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        with pytest.raises(ApplyError, match="are to come"):
            images(newer)
    images(newer)
    assert (store / "a").read_bytes() == image("16M")

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's side of kvm_images: a file travels only to hosts that want it."""

from __future__ import annotations

import hashlib
import runpy
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.image import fetch
from ansible.module_utils.image.run import converge
from publisher import Publisher


@pytest.fixture
def plugin(repository):
    """Return the plugin with a host behind it that notes what reaches it."""
    path = repository / "plugins" / "action" / "kvm_images.py"
    made: Any = runpy.run_path(str(path))["ActionModule"]

    class Plugin(made):
        def __init__(self, entries, *, wanted=(), check=False, catalogue=None):
            arguments = {"images": entries}
            if catalogue is not None:
                arguments["catalogue"] = catalogue
            self._task = SimpleNamespace(args=arguments, async_val=0, check_mode=check, diff=False)
            shell = SimpleNamespace(tmpdir="/tmp/x", join_path=lambda *parts: "/".join(parts))
            self._connection = SimpleNamespace(_shell=shell, become=None)
            self._display = SimpleNamespace(display=lambda _text: None)
            self.wanted = wanted
            self.calls = []
            self.sent = {}
            self.removed = []

        def _find_needle(self, _kind, name):
            if name.startswith("/none"):
                raise AnsibleError(f"could not find {name}")
            return name

        def _execute_module(self, *, module_name, module_args, task_vars):
            assert module_name == "kvm_images"
            self.calls.append((self._task.check_mode, module_args["images"]))
            actions = [{"object": f"image/{name}", "action": "create"} for name in self.wanted]
            return {"changed": bool(actions), "actions": actions}

        def _transfer_file(self, local, remote):
            self.sent[remote] = local

        def _fixup_perms2(self, paths):
            assert set(self.sent) <= set(paths)

        def _remove_tmp_path(self, path):
            self.removed.append(path)

    return Plugin


@pytest.fixture
def golden(tmp_path):
    file = tmp_path / "golden.qcow2"
    file.write_bytes(b"golden")
    return {"name": "golden", "file": str(file)}


DIGEST = f"sha256:{hashlib.sha256(b'golden').hexdigest()}"


def test_without_a_file_it_is_one_call(plugin):
    entries = [{"name": "debian-12"}, {"name": "gone", "file": "/none", "state": "absent"}]
    action = plugin(entries)
    action.run(task_vars={"inventory_hostname": "kvm1"})
    assert action.calls == [(False, entries)]


def test_a_host_that_has_it_gets_nothing(plugin, golden):
    action = plugin([golden])
    result = action.run(task_vars={})
    assert [check for check, _ in action.calls] == [True, False]
    assert action.calls[0][1][0]["checksum"] == DIGEST
    assert (action.sent, result["changed"]) == ({}, False)
    assert action._task.check_mode is False


def test_a_host_that_wants_it_gets_it(plugin, golden):
    other = {**golden, "name": "other"}
    action = plugin([golden, other, {"name": "debian-12"}], wanted=["other", "debian-12"])
    action.run(task_vars={})
    assert action.sent == {"/tmp/x/image0": golden["file"]}
    (_, planned), (_, done) = action.calls
    assert [entry.get("path") for entry in planned] == [golden["file"], golden["file"], None]
    assert [entry.get("path") for entry in done] == [golden["file"], "/tmp/x/image0", None]
    assert action.removed == ["/tmp/x"]


def test_check_mode_sends_nothing(plugin, golden):
    action = plugin([golden], wanted=["golden"], check=True)
    assert action.run(task_vars={})["changed"] is True
    assert (len(action.calls), action.sent) == (1, {})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "a", "file": "/none.img"}, r"images\[0\].file: could not find"),
        ({"name": "a", "file": "/"}, r"images\[0\].file: expected a file"),
        ({"name": "a", "file": "/a", "url": "https://a/b"}, "found two of them"),
    ],
)
def test_what_is_wrong_is_told_before_a_host_is_asked(plugin, entry, message):
    action = plugin([entry])
    with pytest.raises(AnsibleActionFail, match=message):
        action.run(task_vars={})
    assert action.calls == []


def test_a_file_of_another_checksum_is_refused(plugin, golden):
    action = plugin([{**golden, "checksum": "sha256:" + "0" * 64}])
    with pytest.raises(AnsibleActionFail, match="expected sha256:0"):
        action.run(task_vars={})


# --- what the controller fetches for the hosts


@pytest.fixture
def site(plugin, tmp_path, monkeypatch):
    """Return a publisher, and hosts that the module itself works on."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetch, "PAUSE", 0.01)
    publisher = Publisher()

    class Site(plugin):
        asked = publisher.asked

        def run_on(self, host, entries, *, check=False, catalogue=None):
            self.__init__(entries, check=check, catalogue=catalogue)
            self.root = tmp_path / host
            self._connection._shell.tmpdir = str(tmp_path / f"{host}-sent")
            (tmp_path / f"{host}-sent").mkdir(exist_ok=True)
            return self.run(task_vars={"inventory_hostname": host})

        def _execute_module(self, *, module_name, module_args, task_vars):
            del module_name, task_vars
            before = len(publisher.asked)
            try:
                return converge(
                    module_args["images"],
                    module_args["host"],
                    lambda _files: {},
                    root=str(self.root),
                    check_mode=self._task.check_mode,
                    catalogue=module_args.get("catalogue"),
                )
            except VirtfleetError as error:
                return {"failed": True, "msg": str(error)}
            finally:
                assert len(publisher.asked) == before, "the host asked the publisher"

        def _transfer_file(self, local, remote):
            super()._transfer_file(local, remote)
            with open(local, "rb") as file, open(remote, "wb") as copy:
                copy.write(file.read())

        def publish(self, size, kind="qcow2"):
            made = tmp_path / "made.img"
            command = ["qemu-img", "create", "-q", "-f", kind, str(made), size]
            subprocess.run(command, check=True)
            content = made.read_bytes()
            publisher.files["/a.img"] = content
            digest = hashlib.sha512(content).hexdigest()
            publisher.files["/SUMS"] = f"{digest}  a.img\n".encode()
            return content

        def entry(self, **more):
            sums = {} if "checksum" in more else {"checksums": f"{publisher.url}/SUMS"}
            return {"name": "a", "url": f"{publisher.url}/a.img", "via": "controller"} | sums | more

        def content(self, host):
            folder = tmp_path / host / "var/lib/libvirt/images/virtfleet"
            return (folder / "a").read_bytes() if folder.exists() else None

    yield Site([])
    publisher.close()


def test_the_controller_fetches_once_for_all_hosts(site):
    content = site.publish("8M")
    planned = site.run_on("kvm1", [site.entry()], check=True)
    assert planned["changed"] is True
    assert site.asked == []
    done = site.run_on("kvm1", [site.entry()])
    assert [a["object"] for a in done["actions"]] == ["image/a"]
    assert site.content("kvm1") == content
    count = len(site.asked)
    site.run_on("kvm2", [site.entry()])
    assert site.content("kvm2") == content
    assert len(site.asked) == count
    for host in ("kvm1", "kvm2"):
        assert site.run_on(host, [site.entry()])["changed"] is False
        assert site.sent == {}
    assert len(site.asked) == count


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_a_short_name_of_the_site_is_fetched_by_the_controller(site, kind):
    content = site.publish("8M", kind)
    given = site.entry()
    catalogue = {"a": {"url": given["url"], "checksums": given["checksums"], "format": kind}}
    short = {"name": "a", "via": "controller"}
    for check in (True, False):
        assert site.run_on("kvm1", [short], catalogue=catalogue, check=check)["changed"] is True
    assert site.content("kvm1") == content
    newer = site.publish("16M", kind)
    assert site.run_on("kvm1", [short], catalogue=catalogue)["changed"] is False
    asking = {**short, "refresh": True}
    for check in (True, False):
        assert site.run_on("kvm1", [asking], catalogue=catalogue, check=check)["changed"] is True
    assert site.content("kvm1") == newer
    assert site.run_on("kvm1", [asking], catalogue=catalogue)["changed"] is False


def test_a_checksum_of_the_site_s_catalogue_leaves_nothing_to_ask_for(site):
    content = site.publish("8M")
    digest = hashlib.sha256(content).hexdigest()
    catalogue = {"a": {"url": site.entry()["url"], "checksum": f"sha256:{digest}"}}
    asking = {"name": "a", "via": "controller", "refresh": True}
    for check in (True, False):
        assert site.run_on("kvm1", [asking], catalogue=catalogue, check=check)["changed"] is True
    assert site.run_on("kvm1", [asking], catalogue=catalogue)["changed"] is False


def test_a_catalogue_that_is_none_is_told_before_a_host_is_asked(site):
    catalogue = {"a": {"url": "nowhere", "checksum": "0" * 64}}
    for via in ("host", "controller"):
        with pytest.raises(AnsibleActionFail, match=r"^catalogue\.a\.url: expected an http"):
            site.run_on("kvm1", [{"name": "a", "via": via}], catalogue=catalogue)
    assert (site.asked, site.calls) == ([], [])


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_stated_checksum_is_held_by_both(site, algorithm):
    content = site.publish("8M")
    digest = hashlib.new(algorithm, content).hexdigest()
    entry = site.entry(checksum=f"{algorithm}:{digest}")
    assert site.run_on("kvm1", [entry])["changed"] is True
    assert site.run_on("kvm1", [entry])["changed"] is False
    wrong = site.entry(checksum=f"{algorithm}:{digest[::-1]}")
    with pytest.raises(AnsibleActionFail, match=f"a: .*expected {algorithm}:"):
        site.run_on("kvm1", [wrong])
    assert site.content("kvm1") == content


def test_a_newer_one_is_asked_for_by_the_controller(site):
    site.publish("8M")
    site.run_on("kvm1", [site.entry()])
    newer = site.publish("16M")
    assert site.run_on("kvm1", [site.entry()])["changed"] is False
    asking = site.entry(refresh=True)
    assert site.run_on("kvm1", [asking], check=True)["changed"] is True
    assert site.run_on("kvm1", [asking])["changed"] is True
    assert site.content("kvm1") == newer
    for check in (True, False):
        assert site.run_on("kvm1", [asking], check=check)["changed"] is False


def test_what_would_be_converted_is_refused(site):
    site.publish("1M", "raw")
    with pytest.raises(AnsibleActionFail, match="a: it does not come as qcow2"):
        site.run_on("kvm1", [site.entry()])
    assert site.run_on("kvm1", [site.entry(format="raw")])["changed"] is True


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"via": "me"}, r"images\[0\].via: expected host or controller, found 'me'"),
        ({"path": "/a"}, r"images\[0\].via: expected none beside a file or path"),
    ],
)
def test_a_way_that_cannot_be_is_told(site, more, message):
    with pytest.raises(AnsibleActionFail, match=message):
        site.run_on("kvm1", [site.entry(**more)])


def test_a_publisher_that_is_away_is_named(site):
    site.publish("8M")
    with pytest.raises(AnsibleActionFail, match=r"a: .*404"):
        site.run_on(
            "kvm1", [site.entry(url=site.entry()["url"] + "x", checksum="sha256:" + "0" * 64)]
        )
    assert site.content("kvm1") is None

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `make` installs, decided without installing anything."""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture
def prepare(repository):
    """Return a fresh prepare.py, to be patched at will."""
    path = repository / "scripts" / "prepare.py"
    spec = importlib.util.spec_from_file_location("prepare", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def commands(prepare, monkeypatch):
    """Return the list of the commands that would have been run."""
    ran = []
    monkeypatch.setattr(prepare, "run", lambda *command: ran.append(command))
    return ran


def test_a_python_with_venv_needs_nothing(prepare):
    assert prepare.needed_packages() == []
    assert prepare.wanted_packages("run") == []


def test_a_python_without_venv_needs_debians_package(prepare, monkeypatch):
    monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda _: None)
    assert prepare.needed_packages() == ["python3-venv"]


def test_commands_and_files_become_packages(prepare, monkeypatch):
    missing = {"hspace", "/usr/include/linux/kvm.h"}
    monkeypatch.setattr(prepare, "is_here", lambda name: name not in missing)
    assert prepare.wanted_packages("test") == ["linux-libc-dev"]
    assert prepare.wanted_packages("bench") == ["linux-libc-dev", "ganeti-htools"]


def test_what_is_here(prepare, tmp_path):
    assert prepare.is_here("sh")
    assert prepare.is_here(str(tmp_path))
    assert not prepare.is_here("no-such-command")
    assert not prepare.is_here(str(tmp_path / "no-such-file"))


@pytest.mark.parametrize("needed", [["python3-venv"], []])
def test_only_what_is_needed_stops_it(prepare, monkeypatch, capsys, needed):
    def refuse(_):
        raise prepare.PrepareError("neither root nor sudo")

    monkeypatch.setattr(prepare, "install_packages", refuse)
    monkeypatch.setattr(prepare, "needed_packages", lambda: needed)
    monkeypatch.setattr(prepare, "wanted_packages", lambda _: ["gcc"])
    monkeypatch.setattr(prepare, "is_installed", lambda _: True)
    if needed:
        with pytest.raises(prepare.PrepareError):
            prepare.prepare("test")
    else:
        prepare.prepare("test")
        assert "is skipped" in capsys.readouterr().out


@pytest.mark.parametrize(("uid", "first"), [(0, "env"), (1000, "sudo")])
def test_root_needs_no_sudo(prepare, monkeypatch, commands, uid, first):
    monkeypatch.setattr(prepare.shutil, "which", lambda _: "/bin/x")
    monkeypatch.setattr(prepare.os, "geteuid", lambda: uid)
    prepare.install_packages(["python3-venv"])
    assert [command[0] for command in commands] == [first, first]
    assert commands[0][-1] == "update"
    assert commands[1][-1] == "python3-venv"
    assert all("DEBIAN_FRONTEND=noninteractive" in command for command in commands)


@pytest.mark.parametrize(("present", "message"), [("sudo", "no apt-get"), ("apt-get", "nor sudo")])
def test_what_cannot_be_installed_is_said(prepare, monkeypatch, commands, present, message):
    monkeypatch.setattr(prepare.shutil, "which", lambda name: name if name == present else None)
    monkeypatch.setattr(prepare.os, "geteuid", lambda: 1000)
    with pytest.raises(prepare.PrepareError, match=message):
        prepare.install_packages(["python3-venv"])
    assert commands == []


def test_running_needs_less_than_testing(prepare):
    run, test = prepare.requirements("run"), prepare.requirements("test")
    assert set(run) < set(test)
    assert any(requirement.startswith("ansible-core") for requirement in run)
    assert not any(requirement.startswith(("pytest", "ruff", "mypy")) for requirement in run)


def test_every_requirement_is_a_range(prepare):
    for requirement in prepare.requirements("test"):
        assert ">=" in requirement
        assert ",<" in requirement


def test_it_installs_again_when_the_wishes_change_and_only_then(prepare, monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(prepare, "VENV", tmp_path / "venv")

    def run(*command):
        prepare.VENV.mkdir(exist_ok=True)
        ran.append(command)

    monkeypatch.setattr(prepare, "run", run)
    assert not prepare.is_installed("run")
    prepare.install("run")
    assert prepare.is_installed("run")
    assert not prepare.is_installed("test")
    assert ["venv" in command for command in ran] == [True, False]
    prepare.install("test")
    assert prepare.is_installed("run")
    assert prepare.is_installed("test")
    # What is compiled is installed by itself: the rest does not depend on it.
    assert ["venv" in command for command in ran] == [True, False, False, False]
    assert [command[-1].startswith("libvirt") for command in ran] == [False, False, False, True]
    monkeypatch.setattr(prepare, "requirements", lambda _: ["ansible-core>=3,<4"])
    assert not prepare.is_installed("run")


def test_what_cannot_be_compiled_keeps_nothing_else_away(prepare, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(prepare, "VENV", tmp_path / "venv")

    def run(*command):
        prepare.VENV.mkdir(exist_ok=True)
        if command[-1].startswith("libvirt"):
            raise prepare.PrepareError("pip ended with status 1")

    monkeypatch.setattr(prepare, "run", run)
    prepare.install("test")
    assert prepare.is_installed("test")
    assert "pip ended with status 1; what needs it is skipped" in capsys.readouterr().out


def test_what_is_measured_against_is_unpacked_once_and_in_part(prepare, monkeypatch, tmp_path):
    monkeypatch.setattr(prepare, "PEERS", tmp_path / "peers")
    measured = "ansible_collections/community/libvirt/plugins/modules/virt.py"
    ran = []

    def run(*command):
        ran.append(command)
        wheel = Path(command[command.index("--dest") + 1]) / "bundle.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name in (measured, "ansible_collections/community/general/README.md"):
                archive.writestr(name, "")

    monkeypatch.setattr(prepare, "run", run)
    for _ in range(2):
        prepare.install_peers()
    assert len(ran) == 1
    assert all(",<" in requirement for requirement in ran[0][-2:])
    found = [path for path in prepare.PEERS.rglob("*") if path.is_file()]
    assert sorted(found) == [prepare.PEERS / measured, prepare.PEERS / "ready"]


def test_a_benchmark_without_its_peers_is_no_failure(prepare, monkeypatch, capsys):
    def refuse(*_command):
        raise prepare.PrepareError("pip ended with status 1")

    monkeypatch.setattr(prepare, "run", refuse)
    monkeypatch.setattr(prepare, "fingerprint", lambda _: "another")
    monkeypatch.setattr(prepare, "PEERS", Path("/nowhere/peers"))
    monkeypatch.setattr(prepare, "wanted_packages", lambda _: [])
    monkeypatch.setattr(prepare, "is_installed", lambda _: True)
    prepare.prepare("bench")
    assert "what needs it is skipped" in capsys.readouterr().out
    prepare.prepare("test")
    assert capsys.readouterr().out == ""


def test_a_venv_that_was_copied_is_made_anew(prepare, monkeypatch, tmp_path):
    monkeypatch.setattr(prepare, "VENV", tmp_path / "here")
    prepare.VENV.mkdir()
    (prepare.VENV / "virtfleet-python").write_text(prepare.fingerprint([]))
    assert prepare.venv_is_ours()
    prepare.VENV.rename(tmp_path / "there")
    monkeypatch.setattr(prepare, "VENV", tmp_path / "there")
    assert not prepare.venv_is_ours()


def test_the_venv_of_another_checkout_stays_as_it_is(prepare, monkeypatch, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "virtfleet-python").write_text("theirs")
    monkeypatch.setattr(prepare, "VENV", tmp_path / "ours")
    prepare.VENV.symlink_to(theirs)
    monkeypatch.setattr(prepare, "run", lambda *_: prepare.VENV.mkdir(exist_ok=True))
    prepare.install("run")
    assert not prepare.VENV.is_symlink()
    assert prepare.venv_is_ours()
    assert [(path.name, path.read_text()) for path in theirs.iterdir()] == [
        ("virtfleet-python", "theirs")
    ]


def test_an_old_python_gets_a_sentence(prepare, monkeypatch, capsys):
    monkeypatch.setattr(prepare, "OLDEST_PYTHON", (99, 1))
    assert prepare.main(["run"]) == 1
    message = capsys.readouterr().err
    assert sys.version.split()[0] in message
    assert "make PYTHON=python99.1" in message


def test_usage(prepare, capsys):
    assert prepare.main([]) == 64
    assert "usage" in capsys.readouterr().err

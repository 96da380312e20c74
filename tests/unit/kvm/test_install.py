# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The helper on a host: plans as tables, then the files below a root of the test's own."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from hashlib import sha256
from typing import Any

import pytest
from ansible.module_utils.kvm import install
from ansible.module_utils.kvm.errors import ConfigError, InputFileError
from ansible.module_utils.kvm.install import Desired, Observed, Step
from ansible.module_utils.kvm.layout import Layout
from ansible.module_utils.kvm.process import identity

OLD, NEW = "a" * 64, "b" * 64
NOTHING = Observed(frozenset(), frozenset(), None, None)


def make_archive(text: str = "print('here', __file__)\n") -> tuple[str, bytes]:
    """Return the digest and content of an archive like the helper's, with a main of our own."""
    buffer = io.BytesIO(b"#!/usr/bin/env python3\n")
    buffer.seek(0, os.SEEK_END)
    with zipfile.ZipFile(buffer, "a") as opened:
        opened.writestr("__main__.py", "from virtfleet.kvm import cli\n")
        opened.writestr("virtfleet/__init__.py", "")
        opened.writestr("virtfleet/kvm/__init__.py", "")
        opened.writestr("virtfleet/kvm/cli.py", text)
    content = buffer.getvalue()
    return sha256(content).hexdigest(), content


def brief(steps: list[Step]) -> list[tuple[int, str, str]]:
    return [(step.order, step.action, step.object) for step in steps]


def observed(**changes: Any) -> Observed:
    values: dict[str, Any] = {
        "versions": frozenset({OLD}),
        "usable": frozenset({OLD}),
        "command": OLD,
        "unit": None,
        **changes,
    }
    return Observed(**values)


PLANS = {
    "nothing there": (
        Desired(NEW, "text"),
        NOTHING,
        [
            (1, "create", f"helper/{NEW}"),
            (2, "create", "command/kvm-helper"),
            (2, "create", f"unit/{install.UNIT}"),
        ],
    ),
    "no systemd, no unit": (
        Desired(NEW, None),
        NOTHING,
        [(1, "create", f"helper/{NEW}"), (2, "create", "command/kvm-helper")],
    ),
    "all there": (Desired(OLD, None), observed(), []),
    "all there, with the unit": (Desired(OLD, "text"), observed(unit="text"), []),
    "a newer version": (
        Desired(NEW, None),
        observed(),
        [
            (1, "create", f"helper/{NEW}"),
            (2, "update", "command/kvm-helper"),
            (3, "delete", f"helper/{OLD}"),
        ],
    ),
    "a newer version, the older in use": (
        Desired(NEW, None),
        observed(running={OLD: ("web",)}),
        [(1, "create", f"helper/{NEW}"), (2, "update", "command/kvm-helper")],
    ),
    "another Python": (
        Desired(OLD, None),
        observed(usable=frozenset()),
        [(1, "update", f"helper/{OLD}")],
    ),
    "the command was lost": (
        Desired(OLD, None),
        observed(command=None),
        [(2, "create", "command/kvm-helper")],
    ),
    "an older unit": (
        Desired(OLD, "text"),
        observed(unit="other"),
        [(2, "update", f"unit/{install.UNIT}")],
    ),
    "a unit on a host where systemd is not the init just now": (
        Desired(OLD, None),
        observed(unit="text"),
        [],
    ),
    "taken away": (
        Desired(None, None),
        observed(unit="text"),
        [
            (2, "delete", "command/kvm-helper"),
            (2, "delete", f"unit/{install.UNIT}"),
            (3, "delete", f"helper/{OLD}"),
        ],
    ),
    "nothing to take away": (Desired(None, None), NOTHING, []),
}


@pytest.mark.parametrize("case", PLANS)
def test_plan(case):
    desired, found, expected = PLANS[case]
    steps = install.plan(desired, found)
    assert brief(steps) == expected
    assert all(step.reason for step in steps)
    assert install.needs_archive(steps) == any(order == 1 for order, _, _ in expected)


def test_it_stays_while_there_are_guests():
    with pytest.raises(ConfigError, match=r"guests need the helper.*: db, web") as caught:
        install.plan(Desired(None, None), observed(guests=("db", "web")))
    assert "kvm_guests" in str(caught.value.remedy)


def test_older_versions_in_use_are_told():
    found = observed(running={OLD: ("web",), NEW: ("db",)})
    assert install.outdated(Desired(NEW, None), found) == {OLD: ("web",)}


@pytest.mark.parametrize("version", [None, "", "latest", "../" + "a" * 61, "A" * 64, "a" * 63])
def test_a_version_is_a_digest(version):
    with pytest.raises(ConfigError, match="SHA-256"):
        install.desire("present", version, systemd=False)


def test_desire():
    assert install.desire("present", NEW, systemd=False) == Desired(NEW, None)
    assert install.desire("present", NEW, systemd=True) == Desired(NEW, install.UNIT_TEXT)
    assert install.desire("absent", None, systemd=True) == Desired(None, None)


class Host:
    """A host below a root of the test's own."""

    def __init__(self, root: str) -> None:
        self.layout = Layout(root)
        self.reloads = 0

    def bring(self, state: str, archive: tuple[str, bytes], *, systemd: bool = False) -> list[Step]:
        version, content = archive
        desired = install.desire(state, version, systemd=systemd)
        steps = install.plan(desired, install.observe(self.layout))
        install.apply(self.layout, desired, steps, content, self.reload)
        return steps

    def reload(self) -> None:
        self.reloads += 1

    def start_guest(self, name: str, version: str) -> None:
        """Make it look as if the test itself were a guest's process."""
        paths = self.layout.guest(name)
        os.makedirs(paths.folder)
        os.makedirs(paths.run)
        who = identity(os.getpid())
        assert who is not None
        note = {**who.to_dict(), "helper": version}
        with open(paths.pid, "w", encoding="ascii") as file:
            json.dump(note, file)

    def files(self) -> set[str]:
        return {
            os.path.relpath(os.path.join(parent, name), self.layout.root)
            for parent, folders, files in os.walk(self.layout.root)
            for name in [*folders, *files]
        }


@pytest.fixture
def host(tmp_path):
    return Host(str(tmp_path / "root"))


def test_installed_it_runs_from_its_bytecode(host):
    archive = make_archive()
    host.bring("present", archive)
    # Without the source it can only be the bytecode that runs; its paths are those of the host.
    source = os.path.join(host.layout.helpers, archive[0], "virtfleet", "kvm", "cli.py")
    with open(source, "w", encoding="ascii") as file:
        file.write("this is no Python\n")
    done = subprocess.run([host.layout.command], stdout=subprocess.PIPE, check=True)
    assert done.stdout.decode().split() == ["here", source]


def test_a_second_run_has_nothing_to_do(host):
    archive = make_archive()
    assert host.bring("present", archive, systemd=True)
    before = host.files()
    assert host.bring("present", archive, systemd=True) == []
    assert host.files() == before
    assert host.reloads == 1


def test_whatever_the_umask_everybody_can_run_it(host):
    before = os.umask(0o077)
    try:
        host.bring("present", make_archive(), systemd=True)
    finally:
        os.umask(before)
    for parent, folders, files in os.walk(host.layout.root):
        if "state" not in parent:
            for name in [*folders, *files]:
                mode = os.stat(os.path.join(parent, name)).st_mode
                assert mode & 0o044 == 0o044, name
                assert not mode & 0o022, name
    assert os.stat(host.layout.command).st_mode & 0o111 == 0o111


def test_a_newer_version_replaces_the_older(host):
    older, newer = make_archive(), make_archive("print('newer')\n")
    host.bring("present", older)
    host.bring("present", newer)
    assert os.listdir(host.layout.helpers) == [newer[0]]
    done = subprocess.run([host.layout.command], stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"newer\n"


def test_a_version_that_a_guest_runs_on_stays_until_it_ends(host):
    older, newer = make_archive(), make_archive("print('newer')\n")
    host.bring("present", older)
    host.start_guest("web", older[0])
    host.bring("present", newer)
    assert sorted(os.listdir(host.layout.helpers)) == sorted([older[0], newer[0]])
    os.unlink(host.layout.guest("web").pid)
    assert brief(host.bring("present", newer)) == [(3, "delete", f"helper/{older[0]}")]


def test_a_pid_that_now_is_another_process_holds_no_version(host):
    host.start_guest("web", OLD)
    assert install.running(host.layout) == {OLD: ("web",)}
    path = host.layout.guest("web").pid
    with open(path, encoding="ascii") as file:
        note = json.load(file)
    wrong: Any
    for wrong in ({**note, "start": note["start"] + 1}, {"pid": "x"}, [], {**note, "helper": 7}):
        with open(path, "w", encoding="ascii") as file:
            json.dump(wrong, file)
        assert install.running(host.layout) == {}


def test_taken_away_nothing_is_left(host):
    os.makedirs(host.layout.root)
    host.bring("present", make_archive(), systemd=True)
    host.bring("absent", make_archive(), systemd=True)
    assert host.reloads == 2
    assert host.files() == {
        *("etc", "etc/systemd", "etc/systemd/system"),
        *("usr", "usr/lib", "usr/local", "usr/local/bin"),
    }


def test_a_damaged_archive_changes_nothing(host):
    version, content = make_archive()
    with pytest.raises(InputFileError, match="damaged"):
        host.bring("present", (version, content[:-1] + b"x"))
    assert not os.path.lexists(host.layout.command)
    assert install.observe(host.layout).versions == frozenset()


def test_what_an_interrupted_run_left_is_cleared(host):
    version, content = make_archive()
    for name in (f".{version}.new", f".{OLD}.old"):
        os.makedirs(os.path.join(host.layout.helpers, name, "virtfleet"))
    os.makedirs(os.path.dirname(host.layout.command))
    os.symlink("nowhere", f"{host.layout.command}.new")
    host.bring("present", (version, content))
    assert os.listdir(host.layout.helpers) == [version]
    assert os.listdir(os.path.dirname(host.layout.command)) == ["kvm-helper"]


def test_a_version_without_bytecode_for_this_python_is_made_again(host):
    archive = make_archive()
    host.bring("present", archive)
    cache = os.path.join(host.layout.helpers, archive[0], "virtfleet", "__pycache__")
    os.unlink(os.path.join(cache, f"__init__.{sys.implementation.cache_tag}.pyc"))
    assert brief(host.bring("present", archive)) == [(1, "update", f"helper/{archive[0]}")]
    assert host.bring("present", archive) == []


@pytest.mark.parametrize("kind", ["file", "link", "unit"])
def test_what_is_not_ours_is_left_alone(host, kind):
    unit = os.path.join(host.layout.root, "etc/systemd/system", install.UNIT)
    path = unit if kind == "unit" else host.layout.command
    os.makedirs(os.path.dirname(path))
    if kind == "link":
        os.symlink("/bin/true", path)
    else:
        with open(path, "w", encoding="ascii") as file:
            file.write("[Unit]\n")
    with pytest.raises(ConfigError, match="not virtfleet's"):
        host.bring("present", make_archive(), systemd=True)
    assert os.path.lexists(path)
    assert not os.path.exists(host.layout.helpers)


def test_the_link_holds_when_the_root_is_moved(host, tmp_path):
    host.bring("present", make_archive())
    moved = tmp_path / "moved"
    os.rename(host.layout.root, str(moved))
    done = subprocess.run([Layout(str(moved)).command], stdout=subprocess.PIPE, check=True)
    assert done.stdout.startswith(b"here")


def test_the_interpreter_is_the_name_that_outlives_upgrades(tmp_path):
    real = os.path.realpath("/usr/bin/python3")
    if not os.path.exists(real):
        pytest.skip("there is no /usr/bin/python3 here")
    assert install.interpreter(real) == "/usr/bin/python3"
    assert install.interpreter(str(tmp_path)) == str(tmp_path)


def test_where_systemd_supervises(tmp_path):
    root = str(tmp_path)
    assert not install.supervised(root)
    os.makedirs(os.path.join(root, "usr/lib/systemd/system"))
    assert install.supervised(root)


def test_the_unit_keeps_to_the_contract():
    lines = install.UNIT_TEXT.splitlines()
    assert "ExecStart=/usr/local/bin/kvm-helper serve %i" in lines
    assert "KillMode=mixed" in lines, "a share's daemon lives until its guest has ended"
    assert "NoNewPrivileges=yes" in lines
    assert not [line for line in lines if line.startswith("User=")], "it drops root by itself"


def test_systemd_finds_the_unit_well_formed_and_little_exposed(tmp_path):
    """Exposure is systemd's own measure, from 0 to 10; without any hardening it is above 9.

    It is that of the start: what the guest's own jail adds, systemd does not see.
    """
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not here")
    # An instance, and a command that is there.
    text = install.UNIT_TEXT.replace("/usr/local/bin/kvm-helper", "/bin/true")
    path = tmp_path / install.UNIT.replace("@", "@web")
    path.write_text(text, encoding="ascii")
    done = subprocess.run(
        [tool, "security", "--offline=true", "--threshold=45", "--no-pager", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    output = done.stdout.decode()
    if "unrecognized option" in output:
        pytest.skip("this systemd-analyze cannot look at a file")
    assert done.returncode == 0, output
    for complaint in ("Unknown key", "Invalid", "Failed to parse", "ignoring"):
        assert complaint not in output

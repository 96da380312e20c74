# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: what is wrong usage, what each error ends with, what is shown of guests."""

from __future__ import annotations

import json
import os
import threading

import pytest
from ansible.module_utils.kvm import cli, control, errors, process, records
from ansible.module_utils.kvm.layout import Layout
from ansible.module_utils.kvm.runner import Outcome

STATUSES = {
    "EXIT_OK": 0,
    "EXIT_USAGE": 64,
    "EXIT_INPUT": 66,
    "EXIT_INTERNAL": 70,
    "EXIT_TRIPLE_FAULT": 72,
    "EXIT_IO": 74,
    "EXIT_CONFIG": 78,
    "EXIT_TIMEOUT": 124,
}


def test_statuses_are_those_of_the_design_and_even():
    found = {name: value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert found == STATUSES
    assert all(value % 2 == 0 for value in found.values())


COMMANDS = ("status", "console", "logs", "stop", "serve", "reset", "pause", "resume")
USAGE = [
    [],
    ["fly"],
    ["run"],
    ["run", "--kernel"],
    ["run", "--kernel", "k", "more"],
    ["run", "--kernel", "k", "--memory", "128"],
    ["run", "--kernel", "k", "--memory", "128MB"],
    ["run", "--kernel", "k", "--memory", "-1MiB"],
    ["run", "--kernel", "k", "--memory", "much"],
    ["run", "--kernel", "k", "--vcpus", "0"],
    ["run", "--kernel", "k", "--vcpus", "-1"],
    ["run", "--kernel", "k", "--vcpus", "1.5"],
    ["run", "--kernel", "k", "--vcpus", "two"],
    ["run", "--kernel", "k", "--vcpus", "²"],
    ["run", "--kernel", "k", "--timeout", "soon"],
    ["run", "--kernel", "k", "--timeout", "-1"],
    ["run", "--kernel", "k", "--timeout", "1.2.3"],
    ["run", "--kernel", "k", "--timeout", "nan"],
    ["run", "--kernel", "k", "--timeout", "5 fortnights"],
    ["run", "--kernel", "k", "--smp", "2"],
    ["logs", "web", "-n", "0"],
    ["logs", "web", "-n", "all"],
    ["serve", "web", "--notify-fd", "three"],
    ["stop", "web", "--force=yes"],
    ["balloon", "web"],
    *[[command] for command in COMMANDS],
    *[
        [command, name]
        for command in COMMANDS
        for name in ("../web", "a/b", "Web", "", "-web", "a" * 64, "web\n", "$(web)")
    ],
]


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_wrong_usage(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 64
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "usage: kvm-helper" in shown.err
    assert "\nkvm-helper" in shown.err
    assert "Traceback" not in shown.err


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["stop", "-h"]])
def test_help(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: kvm-helper")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("30", 30), ("0.5", 0.5), ("500ms", 0.5), ("2min", 120), ("1h", 3600), ("3 s", 3)],
)
def test_durations(text, seconds):
    options = cli._parser().parse_args(["run", "--kernel", "k", "--timeout", text])
    assert options.timeout == seconds


def test_defaults():
    options = cli._parser().parse_args(["run", "--kernel", "k"])
    assert (options.memory, options.vcpus, options.timeout) == (128 << 20, 1, None)
    assert (options.cmdline, options.initrd, options.device) == ("", None, "/dev/kvm")
    assert cli._parser().parse_args(["list"]).root == "/"


FAILURES = {
    "usage": (errors.UsageError("u"), 64, "kvm-helper: u\n"),
    "input": (errors.InputFileError("i"), 66, "kvm-helper: i\n"),
    "KVM": (errors.KvmError("k"), 70, "kvm-helper: k\n"),
    "output": (errors.OutputError("o"), 74, "kvm-helper: o\n"),
    "control": (errors.ControlError("c"), 74, "kvm-helper: c\n"),
    "host, with its remedy": (errors.HostError("h", "do this"), 78, "kvm-helper: h; do this\n"),
    "configuration": (errors.ConfigError("c"), 78, "kvm-helper: c\n"),
    "the system": (OSError(5, "Input/output error"), 74, "[Errno 5] Input/output error\n"),
    "memory": (MemoryError(), 70, "kvm-helper: this host has too little memory\n"),
    "Ctrl-C": (KeyboardInterrupt(), 0, ""),
    "a mistake of ours": (ZeroDivisionError("by us"), 70, "kvm-helper: internal error: by us\n"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_a_failure_ends_with(monkeypatch, capsys, case):
    error, status, words = FAILURES[case]

    def fail(_):
        raise error

    monkeypatch.setattr(cli, "_command_list", fail)
    monkeypatch.setattr(cli, "_forget_output", lambda: None)  # pytest's output is to stay
    assert cli.main(["list"]) == status
    shown = capsys.readouterr().err
    assert shown.endswith(words)
    assert ("Traceback" in shown) == (case == "a mistake of ours")


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (Outcome(0, "reset through port 0xcf9"), ""),
        (Outcome(43, "debug exit with value 0x15"), ""),
        (Outcome(72, "triple fault", "rax=0x0"), "kvm-helper: triple fault\nrax=0x0\n"),
        (Outcome(124, "timed out"), "kvm-helper: timed out\n"),
    ],
)
def test_only_an_end_that_was_not_the_guests_will_is_complained_about(capsys, outcome, shown):
    assert cli._report(outcome) == outcome.status
    assert capsys.readouterr().err == shown


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


class Host:
    """Guests below a root of the test's own; this process stands for those that run."""

    def __init__(self, root):
        self.root = str(root)
        self.layout = Layout(self.root)

    def guest(self, name):
        paths = self.layout.guest(name)
        os.makedirs(paths.state)
        os.makedirs(paths.run)
        with open(paths.definition, "w", encoding="utf-8") as file:
            file.write("{}")
        return paths

    def running(self, name):
        paths = self.guest(name)
        records.write_atomically(paths.pid, process.identity(os.getpid()).to_dict())
        return paths

    def main(self, *arguments):
        return cli.main([*arguments, "--root", self.root])


@pytest.fixture
def answers(monkeypatch):
    """Let every guest answer so."""

    def install(answer):
        monkeypatch.setattr(control, "request", lambda *_, **__: dict(answer))

    return install


def test_no_guests(host, capsys):
    assert host.main("list") == 0
    assert capsys.readouterr().out == "no guests\n"
    assert host.main("list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_list(host, capsys, answers):
    host.guest("new")
    ended = host.guest("ended")
    records.write_exit(ended, Outcome(0, "stopped on request"), 0.0, None)
    failed = host.guest("failed")
    records.write_exit(failed, Outcome(72, "triple fault: vCPU 0 at 0x7c00"), 0.0, None)
    host.running("web")
    answers({"ok": True, "uptime": 90.5, "vcpus": 2, "memory": 4 << 20, "log": {"size": 1}})
    assert host.main("list") == 0
    rows = [line.split(None, 2) for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows] == [
        ["NAME", "STATE"],
        ["ended", "stopped"],
        ["failed", "failed"],
        ["new", "stopped"],
        ["web", "running"],
    ]
    assert [row[2].split() for row in rows[1:3]] == [
        ["stopped", "on", "request"],
        ["triple", "fault:", "vCPU", "0", "at", "0x7c00"],
    ]
    assert rows[4][2].split() == ["1min", "30s", "2", "4MiB"]


def test_a_guest_that_was_killed_does_not_show_an_older_end(host, capsys):
    paths = host.guest("web")
    records.write_exit(paths, Outcome(0, "stopped on request"), 0.0, None)
    os.utime(paths.last_exit, (1, 1))
    killed = process.identity(os.getpid())._replace(start=1)
    records.write_atomically(paths.pid, killed.to_dict())
    assert host.main("status", "web") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "name": "web",
        "state": "failed",
        "exit": {"status": None, "reason": "ended without a word (killed, or out of memory)"},
    }


def test_a_guest_that_runs_but_does_not_answer(host, capsys):
    host.running("web")
    assert host.main("status", "web") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["state"] == "running"
    assert found["error"].startswith("no guest answers at ")


HOSTILE = [
    {"ok": True, "name": None, "state": ["x"], "uptime": "long", "vcpus": {}, "memory": "big"},
    {"ok": True, "uptime": -1, "vcpus": 10**400, "memory": True, "error": "\x1b[2Jgone"},
    {"ok": True, "uptime": 1e300, "vcpus": None, "memory": 1.5, "error": ["a", "b\nc"]},
    {"ok": True, "uptime": float("nan"), "vcpus": float("inf"), "memory": -5, "exit": "text"},
    {"ok": True, "exit": {"reason": "\x1b]0;title\x07\u202etxt"}},
]


@pytest.mark.parametrize("answer", HOSTILE)
def test_a_hostile_guest_process_neither_breaks_the_list_nor_drives_the_terminal(
    host, capsys, answers, answer
):
    host.guest("good")
    host.running("web")
    answers(answer)
    assert host.main("list") == 0
    shown = capsys.readouterr().out
    assert [line.split()[:2] for line in shown.splitlines()[1:]] == [
        ["good", "stopped"],
        ["web", "running"],
    ]
    assert all(character.isprintable() for line in shown.splitlines() for character in line)


@pytest.mark.parametrize("record", [{"reason": 7}, {"status": "0"}, {"reason": "\x1b[31m\n"}, {}])
def test_a_hostile_record_of_the_last_exit(host, capsys, record):
    paths = host.guest("web")
    records.write_atomically(paths.last_exit, record)
    assert host.main("list") == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[1].split()[:2] == ["web", "failed"]
    assert "\x1b" not in shown


@pytest.mark.parametrize("command", ["status", "stop"])
def test_a_guest_that_is_not_there(host, capsys, command):
    assert host.main(command, "web") == 66
    assert capsys.readouterr().err == "kvm-helper: there is no guest web\n"


def test_a_console_of_a_guest_that_does_not_run(host, capsys):
    assert host.main("console", "web") == 74
    assert "no guest answers at" in capsys.readouterr().err


def write_log(paths, content):
    with open(paths.log, "wb") as file:
        file.write(content)


def test_logs(host, capsys):
    paths = host.guest("web")
    assert host.main("logs", "web") == 66
    assert "no log of web" in capsys.readouterr().err
    write_log(paths, b"".join(b"line %d\r\n" % number for number in range(200)))
    assert host.main("logs", "web", "-n", "2") == 0
    assert capsys.readouterr().out == "line 198\nline 199\n"
    assert host.main("logs", "web") == 0
    assert len(capsys.readouterr().out.splitlines()) == 100


def test_logs_cannot_drive_the_readers_terminal(host, capsys):
    paths = host.guest("web")
    write_log(paths, "a\x1b[2Jb\x07c\x9bd\xffe\tf\u202eg\u00fc\rh\r\n".encode("utf-8", "replace"))
    assert host.main("logs", "web") == 0
    bad = "\N{REPLACEMENT CHARACTER}"
    assert capsys.readouterr().out == f"a{bad}[2Jb{bad}c{bad}d\xffe\tf{bad}gü{bad}h\n"


def test_logs_of_no_plain_file(host, capsys):
    paths = host.guest("web")
    os.symlink("/etc/shadow", paths.log)
    assert host.main("logs", "web") == 66
    assert "no log of web" in capsys.readouterr().err


def test_logs_that_grow_are_followed_through_a_rotation(host, capsys, monkeypatch):
    paths = host.guest("web")
    write_log(paths, b"one\n")
    turns = []

    def sleep(_):
        turns.append(True)
        if len(turns) == 1:
            with open(paths.log, "ab") as file:
                file.write(b"two\n")
        elif len(turns) == 2:
            os.rename(paths.log, f"{paths.log}.1")
        elif len(turns) == 3:
            write_log(paths, b"three\n")
        elif len(turns) == 4:
            with open(paths.log, "ab") as file:
                file.truncate(1 << 40)  # a hostile size costs no memory
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli.time, "sleep", sleep)
    assert host.main("logs", "web", "--follow") == 0
    assert capsys.readouterr().out.startswith("one\ntwo\nthree\n")


def test_stopping_one_that_does_not_run_is_done(host):
    host.guest("web")
    assert host.main("stop", "web") == 0


def test_stopping_one_that_does_not_stop(host, capsys, answers):
    """The test's own process stands for the guest, and does not end."""
    host.running("web")
    answers({"ok": True})
    assert host.main("stop", "web", "--timeout", "0.05") == 124
    assert "web has not stopped within 50.0ms" in capsys.readouterr().err


def test_stopping_one_that_does_not_answer_is_by_signal(host, monkeypatch):
    host.running("web")
    gone, sent = threading.Event(), []

    def signal(who, number):
        sent.append((who.pid, number))
        gone.set()
        return True

    monkeypatch.setattr(process, "signal", signal)
    monkeypatch.setattr(process, "alive", lambda _: not gone.is_set())
    assert host.main("stop", "web") == 0
    assert sent == [(os.getpid(), 15)]


class Asked:
    """Takes what is asked of a guest, which ends once it has been asked for ``ends``."""

    def __init__(self, monkeypatch, ends, answer):
        self.asked, self._ends, self._answer = [], ends, answer
        monkeypatch.setattr(control, "request", self._request)
        monkeypatch.setattr(process, "alive", lambda _: self._ends not in self.asked)

    def _request(self, _, message, *__):
        self.asked.append(message["op"])
        return {"ok": True, **self._answer}


STOPS = {
    "a guest that listens": ("shutdown", True, [], ["shutdown"], 0),
    "one that does not": ("stop", False, [], ["shutdown", "stop"], 0),
    "one that says something else": ("stop", "yes", [], ["shutdown", "stop"], 0),
    "one that does not heed it": ("stop", True, [], ["shutdown"], 124),
    "the same, by force": ("stop", True, ["--force"], ["shutdown", "stop"], 0),
    "one that does nothing": ("never", True, ["--force"], ["shutdown", "stop"], 124),
}


@pytest.mark.parametrize("case", STOPS)
def test_how_a_guest_is_stopped(host, capsys, monkeypatch, case):
    ends, listens, options, expected, status = STOPS[case]
    host.running("web")
    asked = Asked(monkeypatch, ends, {"listens": listens})
    assert host.main("stop", "web", "--timeout", "0.05", *options) == status
    assert asked.asked == expected
    complaint = capsys.readouterr().err
    assert ("has not stopped" in complaint) == (status != 0)
    assert ("--force" in complaint) == (case == "one that does not heed it")


@pytest.mark.parametrize("command", ["reset", "pause", "resume"])
def test_what_a_guest_is_asked_for(host, monkeypatch, command):
    host.running("web")
    asked = Asked(monkeypatch, "never", {})
    assert host.main(command, "web") == 0
    assert asked.asked == [command]


def test_a_balloon_is_asked_for_with_a_size(host, monkeypatch):
    host.running("web")
    sizes = []
    monkeypatch.setattr(control, "request", lambda _, message: sizes.append(message["target"]))
    assert host.main("balloon", "web", "64MiB") == host.main("balloon", "web", "all") == 0
    assert sizes == [64 << 20, None]
    with pytest.raises(SystemExit):
        host.main("balloon", "web", "much")


def test_a_paused_guest_is_shown_as_one(host, capsys, answers):
    host.running("web")
    answers({"ok": True, "state": "paused"})
    assert host.main("list") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["web", "paused"]


def test_numbers_of_all_guests(host, capsys, answers):
    host.guest("asleep")
    host.running("web")
    answers({"ok": True, "metrics": {"up": 1, "boots": 2}})
    assert host.main("metrics") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"asleep": {"up": 0}, "web": {"up": 1, "boots": 2}}
    assert host.main("metrics", "--prometheus") == 0
    assert 'virtfleet_guest_boots_total{name="web"} 2\n' in capsys.readouterr().out
    assert host.main("metrics", "nobody") == 66


@pytest.mark.parametrize("made_up", [None, 7, "x", ["x"], {"up": "x\n"}])
def test_numbers_that_a_hostile_process_makes_up(host, capsys, answers, made_up):
    host.running("web")
    answers({"ok": True, "metrics": made_up})
    assert host.main("metrics", "--prometheus") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith("#")] in (
        [],
        ['virtfleet_guest_up{name="web"} 1'],
    )


def test_a_guest_that_runs_and_does_not_answer_is_up(host, capsys):
    host.running("web")
    assert host.main("metrics", "--prometheus") == 0
    said = capsys.readouterr()
    assert 'virtfleet_guest_up{name="web"} 1\n' in said.out
    assert "web: no guest answers at " in said.err


def test_where_an_error_came_from_is_said_without_a_module_for_it():
    def fail():
        raise LookupError("deep inside")

    try:
        try:
            fail()
        except LookupError as cause:
            raise ValueError("because of it") from cause
    except ValueError as error:
        lines = errors.trace(error).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].startswith('  File "')
    assert lines[1].endswith("without_a_module_for_it")
    assert lines[2].endswith(", in fail")
    assert lines[3] == "LookupError: deep inside"
    assert "which led to:" in lines
    assert lines[-1] == "ValueError: because of it"

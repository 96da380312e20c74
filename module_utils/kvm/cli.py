# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of the helper. Exit statuses stand in errors.py; a guest's own are odd."""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Callable, NoReturn, Sequence

from ..units import UnitError, format_duration, format_size, parse_duration, parse_size
from .errors import (
    EXIT_CONFIG,
    EXIT_INTERNAL,
    EXIT_IO,
    EXIT_OK,
    EXIT_TIMEOUT,
    EXIT_USAGE,
    ControlError,
    InputFileError,
    KvmError,
    trace,
)
from .layout import Layout, tail_untrusted, valid_name

if TYPE_CHECKING:
    from .layout import GuestPaths
    from .process import Identity
    from .runner import Outcome

_TAIL_LIMIT = 1 << 20  # bytes of a log that are looked at
_FOLLOW_INTERVAL = 0.2  # seconds


class _Help(argparse.HelpFormatter):
    """Of a fixed width: asking for the terminal's at every option costs milliseconds."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=100)


class _Parser(argparse.ArgumentParser):
    """Ends with the helper's status for a wrong command line instead of argparse's."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_Help, **settings)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except UnitError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _size_or_all(text: str) -> int | None:
    return None if text == "all" else _size(text)


def _seconds(text: str) -> float:
    try:
        value = float(text) if text.replace(".", "", 1).isdigit() else parse_duration(text)
    except UnitError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return value


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, found {text!r}")
    return int(text)


def _name(text: str) -> str:
    if not valid_name(text):
        raise argparse.ArgumentTypeError(
            f"expected a guest's name (a-z, 0-9 and -, at most 63 characters), found {text[:80]!r}"
        )
    return text


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _say_json(value: Any) -> None:
    import json  # most commands print none

    _say(json.dumps(value, indent=2, sort_keys=True))


def _complain(text: str) -> None:
    sys.stderr.write(f"kvm-helper: {text}\n")


def _report(outcome: Outcome) -> int:
    """Tell on standard error how a guest ended that did not end by its own will."""
    if outcome.status != EXIT_OK and outcome.status % 2 == 0:
        _complain(outcome.reason)
        if outcome.detail:
            sys.stderr.write(f"{outcome.detail}\n")
    return outcome.status


def _fields(text: str, first: str = "") -> dict[str, Any]:
    """Read ``VALUE,key=value,flag`` into a mapping; the first value is of the key ``first``."""
    rest = text.split(",")
    found: dict[str, Any] = {first: rest.pop(0)} if first else {}
    for part in rest:
        key, equals, value = part.partition("=")
        found[key.replace("-", "_")] = value if equals else True
    return found


def _devices(options: argparse.Namespace) -> dict[str, Any]:
    """Return the devices of a command line as a definition has them."""
    return {
        "disks": [_fields(text, "file") for text in options.disk],
        "nics": [_fields(text) for text in options.nic],
        "vsock": {"cid": options.vsock} if options.vsock else None,
        "pmem": [_fields(text, "file") for text in options.pmem],
        "shares": [_fields(text, "path") for text in options.share],
        "rng": {} if not options.rng else {"source": "urandom"},
        "balloon": {"free_page_reporting": True} if options.balloon else {},
        "memory_backing": {"hugepage_size": options.hugepages, "thp": options.thp},
    }


def _command_run(options: argparse.Namespace) -> int:
    from . import attach, privileges  # only what a command needs is loaded
    from .builder import Machine, MachineConfig
    from .console import Console, Stream
    from .cpu import host_brand
    from .device import Kvm
    from .loader import open_kernel, read_image
    from .runner import Outcome, Runner
    from .terminal import STDIN, STDOUT, Feeder, raw_terminal

    config = MachineConfig(
        kernel=open_kernel(options.kernel),
        memory=options.memory,
        vcpus=options.vcpus,
        cmdline=options.cmdline,
        initrd=read_image(options.initrd) if options.initrd else None,
        brand=host_brand(),
    )
    machine_spec = _devices(options)
    attachments = attach.open_all(machine_spec)
    config = attach.equip(config, machine_spec, attachments)
    with Kvm(options.device) as kvm:
        privileges.drop(privileges.passing_uid())
        console = Console(Stream(STDOUT))
        machine = Machine(kvm, config, console.write)
        runner = Runner(machine)
        escaped = Outcome(EXIT_OK, "ended by Ctrl-]")
        with raw_terminal(STDIN):
            Feeder(runner, machine.serial, lambda: runner.finish(escaped, for_good=True))
            outcome = runner.run(options.timeout)
        status = _report(outcome)
        if runner.stuck:  # in a write that blocks: nothing may be taken from under it
            sys.stderr.flush()
            os._exit(status)
        machine.close()
    attach.close_all(attachments)
    return status


def _command_serve(options: argparse.Namespace) -> int:
    from .serve import serve

    return _report(serve(options.name, options.root, options.notify_fd, options.device))


def _command_probe(options: argparse.Namespace) -> int:
    from .probe import probe

    found = probe(options.device)
    if options.json:
        _say_json(found)
    else:
        _say(f"device        {found['device']}")
        if found["api_version"] is not None:
            _say(f"API version   {found['api_version']}")
            _say(f"creates a VM  {'yes' if found['vm_created'] else 'no'}")
            _say(f"vCPUs         at most {found['capabilities']['system']['max_vcpus']}")
            _say(f"ring 0        {found['ring0']}")
            present = sorted(n for n, v in found["capabilities"]["system"].items() if v)
            _say(f"capabilities  {' '.join(present)}")
    if found["error"]:
        _complain(found["error"])
        return EXIT_CONFIG
    return EXIT_OK


def _command_selftest(options: argparse.Namespace) -> int:
    from .selftest import selftest

    result = selftest(options.device, linux=options.linux)
    if options.json:
        _say_json(result)
    else:
        for one in result["measurements"]:
            unit = "" if one["unit"] == "ratio" else f" {one['unit']}"
            spread = f"{one['min']:.3g} to {one['max']:.3g}, {one['samples']} samples"
            ending = f" ({spread})" if one["samples"] > 1 else ""
            _say(f"{one['title']:<44} {one['value']:8.3g}{unit:<4}{ending}")
        for name, value in sorted(result["facts"].items()):
            _say(f"{name:<44} {value}")
        for error in result["errors"].values():
            _complain(error)
    if result["error"]:
        _complain(result["error"])
    return EXIT_OK if result["ok"] else EXIT_CONFIG


def _look(paths: GuestPaths) -> dict[str, Any]:
    """Return what a person wants to know of a guest."""
    from . import control, records

    if not os.path.lexists(paths.definition):
        raise InputFileError(f"there is no guest {paths.name}")
    found: dict[str, Any] = {"name": paths.name, "state": "stopped"}
    if records.running(paths) is not None:
        found["state"] = "running"
        try:
            answer = control.request(paths.control, {"op": "status"})
            state = "paused" if answer.get("state") == "paused" else "running"
            found = {**answer, **found, "state": state}
            found.pop("ok")
        except ControlError as error:
            found["error"] = str(error)
        return found
    ended = records.last_exit(paths)
    if ended is not None:
        found["exit"] = ended
        found["state"] = "stopped" if ended.get("status") == EXIT_OK else "failed"
    return found


def _row(found: dict[str, Any]) -> str:
    """Return a line of the list. What is not by us but by the guest's process may be anything."""

    def number(key: str, show: Callable[[Any], str]) -> str:
        value = found.get(key, "")
        return show(value) if type(value) in {int, float} and 0 <= value < 1 << 63 else ""

    ended = found.get("exit")
    reason = found.get("error") or (ended.get("reason", "") if isinstance(ended, dict) else "")
    columns = (
        f"{found['name']:<24}",
        f"{found['state']:<8}",
        f"{number('uptime', format_duration):>12}",
        f"{number('vcpus', str):>5}",
        f"{number('memory', lambda size: format_size(int(size))):>8}",
    )
    line = "  ".join([*columns, str(reason)]).rstrip()
    return _printable(line.encode("utf-8", "replace")).replace("\n", " ")


def _command_list(options: argparse.Namespace) -> int:
    layout = Layout(options.root)
    found = [_look(layout.guest(name)) for name in layout.names()]
    if options.json:
        _say_json(found)
    elif found:
        _say(f"{'NAME':<24}  {'STATE':<8}  {'UPTIME':>12}  {'VCPUS':>5}  {'MEMORY':>8}  REASON")
        for one in found:
            _say(_row(one))
    else:
        _say("no guests")
    return EXIT_OK


def _command_status(options: argparse.Namespace) -> int:
    _say_json(_look(Layout(options.root).guest(options.name)))
    return EXIT_OK


def _printable(data: bytes) -> str:
    """Return a log as text that cannot drive the terminal of whoever reads it."""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n")
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def _log_tail(paths: GuestPaths, lines: int) -> str:
    try:
        data = tail_untrusted(paths.log, _TAIL_LIMIT)
    except OSError as error:
        raise InputFileError(f"no log of {paths.name}: {error.strerror or error}") from error
    return "\n".join(_printable(data).rstrip("\n").split("\n")[-lines:])


def _command_logs(options: argparse.Namespace) -> int:
    paths = Layout(options.root).guest(options.name)
    _say(_log_tail(paths, options.lines))
    if not options.follow:
        return EXIT_OK
    seen = os.lstat(paths.log)
    size = seen.st_size
    while True:
        time.sleep(_FOLLOW_INTERVAL)
        try:
            now = os.lstat(paths.log)
            if now.st_ino != seen.st_ino or now.st_size < size:
                size = 0  # it was rotated
            if now.st_size > size:
                new = min(now.st_size - size, _TAIL_LIMIT)
                sys.stdout.write(_printable(tail_untrusted(paths.log, new)))
                sys.stdout.flush()
            seen, size = now, now.st_size
        except FileNotFoundError:
            continue


def _command_console(options: argparse.Namespace) -> int:
    from . import control
    from .terminal import STDIN, converse

    paths = Layout(options.root).guest(options.name)

    def resize(columns: int, rows: int) -> None:
        with suppress(ControlError):  # a guest that has ended, or a helper without this
            control.request(paths.control, {"op": "resize", "columns": columns, "rows": rows})

    with control.connect(paths.control, 5.0) as connection:
        port = {} if options.port is None else {"port": options.port}
        control.ask(connection, {"op": "console", **port})
        if os.isatty(STDIN):
            sys.stderr.write(f"Connected to {options.name}; Ctrl-] leaves.\n")
            sys.stderr.flush()
        ended_by = converse(connection, resize if options.port in {None, "hvc0"} else None)
    if os.isatty(STDIN):
        sys.stderr.write(f"\n{'The guest has ended.' if ended_by == 'guest' else 'Left.'}\n")
    return EXIT_OK


def _ends(who: Identity, timeout: float) -> bool:
    """Wait for the end of a process; return whether it came in time."""
    from . import process

    deadline = time.monotonic() + timeout
    while process.alive(who):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _listens(paths: GuestPaths) -> bool:
    """Press a guest's power button and return whether it listens to that."""
    from . import control

    try:
        return control.request(paths.control, {"op": "shutdown"}).get("listens") is True
    except ControlError:  # of an older helper, perhaps
        return False


def _command_stop(options: argparse.Namespace) -> int:
    import signal

    from . import control, process, records

    paths = Layout(options.root).guest(options.name)
    if not os.path.lexists(paths.definition):
        raise InputFileError(f"there is no guest {options.name}")
    who = records.running(paths)
    if who is None:
        return EXIT_OK
    listens = _listens(paths)
    if listens and _ends(who, options.timeout):
        return EXIT_OK
    if options.force or not listens:
        try:
            control.request(paths.control, {"op": "stop"})
        except ControlError:
            process.signal(who, signal.SIGTERM)
        if _ends(who, options.timeout):
            return EXIT_OK
    elif not process.alive(who):
        return EXIT_OK
    asked = "" if options.force or not listens else "; --force ends it"
    _complain(f"{options.name} has not stopped within {format_duration(options.timeout)}{asked}")
    return EXIT_TIMEOUT


def _command_ask(options: argparse.Namespace) -> int:
    """Carry out an operation that has no answer but that it was done."""
    from . import control

    control.request(Layout(options.root).guest(options.name).control, {"op": options.command})
    return EXIT_OK


def _add_memory(run: argparse.ArgumentParser) -> None:
    """Add the options of a guest's memory, and of what lies in it or needs it shared."""
    run.add_argument("--hugepages", type=_size, metavar="SIZE", help="memory of such huge pages")
    run.add_argument("--thp", action="store_true", help="memory of huge pages where possible")
    run.add_argument("--balloon", action="store_true", help="memory balloon, free page reporting")
    run.add_argument(
        "--pmem", action="append", default=[], metavar="FILE[,read-only]", help="persistent memory"
    )
    run.add_argument(
        "--share",
        action="append",
        default=[],
        metavar="FOLDER,tag=TAG[,read-only]",
        help="a folder for the guest (virtiofs)",
    )


def _measured(paths: GuestPaths) -> dict[str, Any]:
    """Return the numbers of a guest; of one that does not run, that it does not."""
    from . import control, records

    if records.running(paths) is not None:
        try:
            found = control.request(paths.control, {"op": "metrics"}).get("metrics")
        except ControlError as error:
            _complain(f"{paths.name}: {error}")
            return {"up": 1}
        return found if isinstance(found, dict) else {"up": 1}
    return {"up": 0}


def _command_metrics(options: argparse.Namespace) -> int:
    layout = Layout(options.root)
    names = layout.names() if options.name is None else [options.name]
    if options.name and not os.path.lexists(layout.guest(options.name).definition):
        raise InputFileError(f"there is no guest {options.name}")
    found = {name: _measured(layout.guest(name)) for name in names}
    if options.prometheus:
        from .metrics import text

        sys.stdout.write(text(found))
    else:
        _say_json(found)
    return EXIT_OK


def _command_balloon(options: argparse.Namespace) -> int:
    from . import control

    request = {"op": "balloon", "target": options.size}
    control.request(Layout(options.root).guest(options.name).control, request)
    return EXIT_OK


_ASKED = {
    "reset": "Reset a guest.",
    "pause": "Let a guest stand still.",
    "resume": "Let a paused guest go on.",
}


def _run_options(run: argparse.ArgumentParser) -> argparse.ArgumentParser:
    run.add_argument("--kernel", required=True, metavar="FILE", help="image, or greeter")
    run.add_argument("--initrd", metavar="FILE", help="multiboot module")
    run.add_argument("--cmdline", default="", metavar="TEXT", help="kernel command line")
    run.add_argument(
        "--memory", type=_size, default=128 << 20, metavar="SIZE", help="memory (128MiB)"
    )
    run.add_argument("--vcpus", type=_count, default=1, metavar="N", help="vCPUs (%(default)s)")
    run.add_argument(
        "--disk",
        action="append",
        default=[],
        metavar="FILE[,format=qcow2][,backing=FILE][,read-only][,serial=TEXT]",
        help="disk, raw unless said otherwise",
    )
    run.add_argument(
        "--nic",
        action="append",
        default=[],
        metavar="bridge=NAME[,mac=ADDRESS][,queues=N][,mtu=N][,vhost=off]",
        help="network interface on a bridge",
    )
    run.add_argument("--vsock", type=_count, metavar="CID", help="sockets to the host")
    _add_memory(run)
    run.add_argument("--rng", action="store_true", help="random numbers from the host")
    run.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="end it after this long")
    return run


def _metrics_options(added: argparse.ArgumentParser) -> argparse.ArgumentParser:
    added.add_argument("name", metavar="NAME", nargs="?", type=_name, help="a declared guest")
    added.add_argument("--prometheus", action="store_true", help="print Prometheus' text format")
    return added


def _stop_options(added: argparse.ArgumentParser) -> argparse.ArgumentParser:
    added.add_argument("--timeout", type=_seconds, default=30.0, help="seconds (%(default)s)")
    added.add_argument("--force", action="store_true", help="end it where it does not stop")
    return added


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="kvm-helper", description="Small KVM guests from the standard library.")
    # With its prog given, argparse need not format a usage line (and load half the library).
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", prog=parser.prog
    )

    def command(name: str, function: Any, summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=summary)
        added.set_defaults(function=function)
        return added

    def on_device(added: argparse.ArgumentParser) -> None:
        added.add_argument("--device", default="/dev/kvm", help="the KVM device (%(default)s)")

    def on_guest(added: argparse.ArgumentParser) -> None:
        added.add_argument("name", metavar="NAME", type=_name, help="a declared guest")
        on_host(added)

    def on_host(added: argparse.ArgumentParser) -> None:
        added.add_argument("--root", default="/", help="prefix of all places (%(default)s)")

    def as_json(added: argparse.ArgumentParser) -> None:
        added.add_argument("--json", action="store_true", help="print JSON")

    on_device(
        _run_options(
            command("run", _command_run, "Run a guest with its serial port on the terminal.")
        )
    )
    added = command("probe", _command_probe, "Say what this host's KVM can do.")
    on_device(added)
    as_json(added)
    added = command("selftest", _command_selftest, "Run small guests and measure.")
    added.add_argument("--no-linux", dest="linux", action="store_false", help="boot no kernel")
    on_device(added)
    as_json(added)
    added = command("list", _command_list, "List the declared guests.")
    on_host(added)
    as_json(added)
    on_guest(command("status", _command_status, "Print a guest's state as JSON."))
    added = command("console", _command_console, "Attach to a guest's console or another port.")
    on_guest(added)
    added.add_argument("--port", help="serial, hvc0, or the name of a virtio port")
    added = command("logs", _command_logs, "Print the end of a guest's console log.")
    on_guest(added)
    added.add_argument("-n", "--lines", type=_count, default=100, help="how many (%(default)s)")
    added.add_argument("-f", "--follow", action="store_true", help="go on as it grows")
    added = command("metrics", _command_metrics, "Print what was counted, of one guest or all.")
    on_host(_metrics_options(added))
    on_guest(_stop_options(command("stop", _command_stop, "Stop a guest by its power button.")))
    for name, summary in _ASKED.items():
        on_guest(command(name, _command_ask, summary))
    added = command("balloon", _command_balloon, "Ask a guest to get along with less memory.")
    on_guest(added)
    added.add_argument("size", metavar="SIZE", type=_size_or_all, help="what it keeps, or all")
    added = command("serve", _command_serve, "Run a declared guest in the foreground.")
    on_guest(added)
    added.add_argument("--notify-fd", type=int, metavar="FD", help="where to tell readiness")
    on_device(added)
    return parser


def _take_standard_descriptors() -> None:
    """Open those of the descriptors 0 to 2 that are closed, lest /dev/kvm becomes one of them.

    Standard output then fails when it is written, as a closed one does.
    """
    for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        if not os.path.exists(f"/proc/self/fd/{descriptor}"):
            os.open(os.devnull, flags)  # takes the lowest that is free, which is this one
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")


def _forget_output() -> None:
    """Keep the interpreter from trying once more at exit what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    _take_standard_descriptors()
    try:
        options = _parser().parse_args(arguments)
        status: int = options.function(options)
        sys.stdout.flush()
    except KvmError as error:
        _complain(f"{error}; {error.remedy}" if error.remedy else str(error))
        return error.status
    except KeyboardInterrupt:
        return EXIT_OK
    except OSError as error:
        _forget_output()
        if not isinstance(error, BrokenPipeError):  # then whoever read it has had enough
            _complain(str(error))
        return EXIT_IO
    except MemoryError:
        _complain("this host has too little memory")
        return EXIT_INTERNAL
    except Exception as error:  # noqa: BLE001 - reported; uncaught it would end with a guest's status
        sys.stderr.write(trace(error))
        _complain(f"internal error: {error}")
        return EXIT_INTERNAL
    return status

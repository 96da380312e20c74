# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Send images that the controller has, or fetches for them, to the hosts that want them."""

from __future__ import annotations

import fcntl
import os
import runpy
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

runpy.run_path(str(Path(__file__).parents[1] / "shim.py"))

from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.image import checksum
from ansible.module_utils.image.catalogue import completed
from ansible.module_utils.image.run import Publisher, converge
from ansible.module_utils.image.spec import catalogue_with, read

_KNOWN: dict[tuple[str, int, int], str] = {}  # by path, size and time: read once for all hosts
_WANTED = {"create", "update"}
_WAYS = ("host", "controller")  # who fetches what has an address


class ActionModule(ActionBase):
    """The controller's side of the kvm_images module."""

    TRANSFERS_FILES = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask the host what it wants, send that, and let it take it."""
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        arguments.setdefault("host", task_vars.get("inventory_hostname", "localhost"))
        given = arguments.get("images")
        entries = given if isinstance(given, list) else []
        files, fetched = self._files(entries), _fetched(entries, arguments.get("catalogue"))
        if isinstance(given, list):
            arguments["images"] = [self._known(_plain(entry), files) for entry in entries]
        if not files and not fetched:
            return {**result, **self._call(arguments, task_vars)}
        sources, whole = self._refreshed(fetched)
        arguments["images"] = [_replaced(entry, whole) for entry in arguments["images"]]
        planned = self._call(arguments, task_vars, check=True)
        if planned.get("failed") or self._task.check_mode:
            return {**result, **planned}
        wanted = {
            action["object"].partition("/")[2]
            for action in planned["actions"]
            if action["action"] in _WANTED
        }
        sending = {name: file for name, file in files.items() if name in wanted}
        for name in [name for name in fetched if name in wanted]:
            if name not in sources:
                sources[name], whole[name] = self._fetch(fetched[name])
            sending[name] = sources[name]
        try:
            places = self._send(sending)
            arguments["images"] = [
                {**_replaced(entry, whole), "path": places[entry["name"]]}
                if isinstance(entry, dict) and entry.get("name") in places
                else entry
                for entry in arguments["images"]
            ]
            return {**result, **self._call(arguments, task_vars)}
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)  # noqa: SLF001 - as Ansible does

    def _files(self, entries: list[Any]) -> dict[str, Path]:
        """Return the files of the controller, by the name of the image; they have to be there."""
        found = {}
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict) or entry.get("file") is None:
                continue
            where = f"images[{number}].file"
            if entry.get("path") is not None or entry.get("url") is not None:
                raise AnsibleActionFail(f"{where}: expected a file, path or url, found two of them")
            if entry.get("state", "present") == "absent":
                continue
            try:
                path = Path(self._find_needle("files", str(entry["file"])))
            except AnsibleError as error:
                raise AnsibleActionFail(f"{where}: {error}") from error
            if not path.is_file():
                raise AnsibleActionFail(f"{where}: expected a file, found {entry['file']!r}")
            found[str(entry.get("name"))] = path
        return found

    def _refreshed(
        self, fetched: dict[str, dict[str, Any]]
    ) -> tuple[dict[str, Path], dict[str, dict[str, Any]]]:
        """Ask for newer images where that is asked for: a host may have no way to the publisher.

        Return the files that were fetched, and the entries that hosts are asked with. Check mode
        fetches nothing.
        """
        sources: dict[str, Path] = {}
        whole: dict[str, dict[str, Any]] = {}
        for name, entry in fetched.items():
            if entry.get("refresh") is not True or entry.get("checksum") is not None:
                continue
            if self._task.check_mode:
                whole[name] = _asked(entry)
            else:
                sources[name], whole[name] = self._fetch(entry)
                whole[name]["path"] = str(sources[name])
        return sources, whole

    def _fetch(self, entry: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
        """Fetch an image for the hosts, once and verified as a host does it; AnsibleActionFail.

        Return its file, and the entry for a host that is sent it.
        """
        name, root = str(entry["name"]), _cache()
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._display.display(f"fetching the image {name} for the hosts that want it")
            # Of all the hosts' workers one fetches, and the others find it.
            with (root / f"{name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                made = converge([entry], "controller", _unused, root=str(root / name))
        except (VirtfleetError, OSError) as error:
            raise AnsibleActionFail(f"{name}: {error}") from error
        (image,) = made["images"]
        path, sums = Path(image["path"]), image["checksums"]
        if _digest(path) != f"sha256:{sums['sha256']}":
            raise AnsibleActionFail(
                f"{name}: it does not come as {image['format']}, and a host verifies what it"
                " converts: leave via out, or bring it as a file"
            )
        # Hosts note sha256 whatever is stated, and are asked with the other one, if there is one.
        algorithm = max(sums, key=lambda one: one != "sha256")
        checksum_of = f"{algorithm}:{sums[algorithm]}"
        return path, {**_named(entry), "file": image["source"], "checksum": checksum_of}

    def _known(self, entry: Any, files: dict[str, Path]) -> Any:
        """Return an entry as the module takes it: what it shall be, and no file of ours."""
        if not isinstance(entry, dict) or "file" not in entry:
            return entry
        path = files.get(str(entry.get("name")))
        if path is None:
            return entry
        digest = _digest(path)
        stated = checksum.parse(entry.get("checksum"))
        if stated is not None and stated.algorithm == "sha256" and str(stated) != digest:
            raise AnsibleActionFail(f"{path}: expected {stated}, found {digest}")
        return {"checksum": digest, **entry, "path": str(path)}

    def _send(self, files: dict[str, Path]) -> dict[str, str]:
        """Send files, and return where they are on the host."""
        if not files:
            return {}
        folder = self._connection._shell.tmpdir or self._make_tmp_path()  # noqa: SLF001
        places = {}
        for number, (name, file) in enumerate(sorted(files.items())):
            place = self._connection._shell.join_path(folder, f"image{number}")  # noqa: SLF001
            size = file.stat().st_size >> 20
            self._display.display(f"sending {file} ({size} MiB)")
            self._transfer_file(str(file), place)
            places[name] = place
        self._fixup_perms2((folder, *places.values()))
        return places

    def _call(
        self, arguments: dict[str, Any], task_vars: dict[str, Any], *, check: bool = False
    ) -> dict[str, Any]:
        before = self._task.check_mode
        self._task.check_mode = before or check
        try:
            answer: dict[str, Any] = self._execute_module(
                module_name="kvm_images", module_args=arguments, task_vars=task_vars
            )
        finally:
            self._task.check_mode = before
        return answer


def _plain(entry: Any) -> Any:
    """Return an entry as the module takes it."""
    if not isinstance(entry, dict) or "via" not in entry:
        return entry
    return {key: value for key, value in entry.items() if key != "via"}


def _fetched(entries: list[Any], given: Any) -> dict[str, dict[str, Any]]:
    """Return what the controller fetches for the hosts, by the name of the image.

    Each with what the catalogue says of it, which the ``given`` one is laid over.
    """
    try:
        catalogue = catalogue_with(given)
    except VirtfleetError as error:
        raise AnsibleActionFail(str(error)) from error
    found = {}
    for number, entry in enumerate(entries):
        way = entry.get("via", _WAYS[0]) if isinstance(entry, dict) else _WAYS[0]
        where = f"images[{number}].via"
        if way not in _WAYS:
            raise AnsibleActionFail(f"{where}: expected {' or '.join(_WAYS)}, found {way!r}")
        if way == _WAYS[0] or entry.get("state", "present") == "absent":
            continue
        if entry.get("file") is not None or entry.get("path") is not None:
            raise AnsibleActionFail(f"{where}: expected none beside a file or path, found {way!r}")
        found[str(entry.get("name"))] = completed(_plain(entry), catalogue)
    return found


def _replaced(entry: Any, whole: dict[str, dict[str, Any]]) -> Any:
    """Return the entry that a host is asked with."""
    return whole.get(str(entry.get("name")), entry) if isinstance(entry, dict) else entry


def _named(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what an entry says of the image wherever it comes from."""
    return {key: value for key, value in entry.items() if key in {"name", "format"}}


def _asked(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry with what its publisher says of it now; AnsibleActionFail."""
    try:
        (one,) = read([entry])
        found = Publisher().checksum(one)
    except (VirtfleetError, OSError) as error:
        raise AnsibleActionFail(f"{entry['name']}: {error}") from error
    return {**_named(entry), "url": one.url, "checksum": str(found)}


def _cache() -> Path:
    """Return where the controller keeps what it fetched for hosts."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "virtfleet" / "images"


def _unused(_files: Any) -> dict[str, list[str]]:
    """Say that nothing stands on a former image here."""
    return {}


def _digest(path: Path) -> str:
    found = path.stat()
    key = (str(path), found.st_size, found.st_mtime_ns)
    if key not in _KNOWN:
        _KNOWN[key] = str(checksum.compute(str(path), ["sha256"])["sha256"])
    return _KNOWN[key]

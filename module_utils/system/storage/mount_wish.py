# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A mount as declared: NFS, SMB or a file system on a device, and its line in fstab(5)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ... import units
from .mounted import Mount, escaped

if TYPE_CHECKING:
    from .facet import Checker

NFS, SMB = "nfs", "smb"
OWN = "x-virtfleet"  # mount(8) leaves options that begin with x- to others: the mark of our lines
CREDENTIALS = "/etc/virtfleet/credentials"
_PORTS = {NFS: 2049, SMB: 445}
_TYPES = {SMB: "cifs"}
_TYPE = re.compile(r"[a-z][a-z0-9]{1,15}", re.ASCII)
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
_SOURCES = {
    NFS: (re.compile(_HOST + r":/[^\x00-\x20\x7f]*"), "server:/path"),
    SMB: (re.compile("//" + _HOST + r"/[^\x00-\x1f\x7f]+"), "//server/share"),
}
_DEVICE = re.compile(r"/dev/[^\x00-\x20\x7f]+|(?:UUID|LABEL|PARTUUID|PARTLABEL)=[A-Za-z0-9._-]+")
_OPTION = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*(?:=[^\x00-\x20\x7f,]+)?")
_OURS = ("credentials", "username", "user", "password", "pass", "password2", "domain", OWN)


@dataclass(frozen=True)
class Wish:
    """A mount; ``timeout`` is in seconds, ``credentials`` the text of a file of its own."""

    type: str
    source: str
    path: str
    options: tuple[str, ...] = ()
    timeout: int = 30
    credentials: str | None = field(default=None, repr=False)
    absent: bool = False

    @property
    def name(self) -> str:
        """What actions call it."""
        return f"mount{self.path}"

    @property
    def unit(self) -> str:
        """The name that systemd gives it: systemd.unit(5), string escaping."""
        return f"{unit_name(self.path)}.mount"

    @property
    def fstype(self) -> str:
        """The type as the kernel knows it."""
        return _TYPES.get(self.type, self.type)

    @property
    def credentials_file(self) -> str:
        """Where its name and password are kept, for root alone."""
        return f"{CREDENTIALS}/{unit_name(self.path)}"

    @property
    def server(self) -> tuple[str, int] | None:
        """The server and its TCP port; None for a device."""
        if self.type not in _PORTS:
            return None
        host = re.search(_HOST, self.source)
        return (host.group().strip("[]"), _PORTS[self.type]) if host else None

    @property
    def fstab_options(self) -> str:
        """The options of its line: what was stated, and what keeps a boot from waiting on it."""
        options = [*self.options, "nofail"]
        if self.type in _PORTS:
            options.append("_netdev")
        else:
            options.append(f"x-systemd.device-timeout={self.timeout}s")
        options.append(f"x-systemd.mount-timeout={self.timeout}s")
        if self.credentials is not None:
            options.append(f"credentials={self.credentials_file}")
        return ",".join(dict.fromkeys([*options, OWN]))

    @property
    def line(self) -> str:
        """Its line in fstab. A device is checked at boot, after the root file system."""
        fields = (self.source, self.path, self.fstype, self.fstab_options)
        check = 0 if self.type in _PORTS else 2
        return " ".join([*(escaped(text) for text in fields), "0", str(check)])

    def same_source(self, mount: Mount) -> bool:
        """Say whether a mount or a line of fstab is of the same source, as it is written."""
        return mount.source.rstrip("/") == self.source.rstrip("/")


def unit_name(path: str) -> str:
    """Return a path as systemd-escape --path does."""
    text = path.strip("/")
    parts = []
    for index, char in enumerate(text):
        if char == "/":
            parts.append("-")
        elif re.fullmatch(r"[A-Za-z0-9:_]", char) or (char == "." and index):
            parts.append(char)
        else:
            parts.extend(f"\\x{byte:02x}" for byte in char.encode())
    return "".join(parts) or "-"


def _credentials(item: Mapping[str, Any], path: str, check: Checker) -> str | None:
    stated = {key: item.get(key) for key in ("username", "password", "domain")}
    if item["type"] != SMB:
        for key, value in stated.items():
            if value is not None:
                check.say(f"{path}.{key}", "nothing: only smb takes it", "a value")
        return None
    if stated["username"] is None and stated["password"] is None:
        return None
    for key in ("username", "password"):
        check.secret(f"{path}.{key}", stated[key])
    if stated["domain"] is not None:
        check.secret(f"{path}.domain", stated["domain"])
    return "".join(f"{key}={value}\n" for key, value in stated.items() if value is not None)


def _options(items: Sequence[str], path: str, check: Checker) -> tuple[str, ...]:
    options = []
    for index, option in enumerate(items):
        here = f"{path}[{index}]"
        if str(option).partition("=")[0] in _OURS:
            # The value may be a secret: it is not shown.
            check.say(here, "no credentials among the options: state username and password", "one")
            continue
        options.append(check.matches(here, option, _OPTION, "one option: name or name=value"))
    return tuple(options)


def parse_timeout(value: Any) -> int:
    """Return seconds; ValueError for what is no duration from 1s to 1h."""
    seconds = units.parse_duration(value)
    if not 1 <= seconds <= 3600:
        raise ValueError("expected a duration from 1s to 1h")
    return int(seconds)


def parse(
    items: Sequence[Mapping[str, Any]], timeout: int, path: str, check: Checker
) -> tuple[Wish, ...]:
    """Return the mounts that are declared, those above others first; timeout in seconds."""
    wishes = []
    for index, item in enumerate(items):
        here = f"{path}[{index}]"
        kind = check.matches(f"{here}.type", item["type"], _TYPE, "nfs, smb or a file system")
        pattern, expected = _SOURCES.get(kind, (_DEVICE, "/dev/…, UUID=… or LABEL=…"))
        where = check.absolute(f"{here}.path", item["path"])
        if where == "/":
            check.say(f"{here}.path", "a path below /", item["path"])
        wishes.append(
            Wish(
                kind,
                check.matches(f"{here}.source", item["source"], pattern, expected),
                where,
                _options(item.get("options") or [], f"{here}.options", check),
                timeout,
                _credentials(item, here, check),
                item.get("state") == "absent",
            )
        )
    check.unique(path, [wish.path for wish in wishes])
    return tuple(sorted(wishes, key=lambda wish: wish.path))

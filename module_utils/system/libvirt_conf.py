# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of libvirt's configuration files (/etc/libvirt/*.conf): read, set, and set back.

The format is libvirt's own (src/util/virconf.c): ``key = value``, where a value is a number, a
string in quotes that know no escapes, or a list of strings that may go over several lines.

Settings of ours stand in a block at the top. Lines that say something else of the same keys are
commented out where they stand, so that taking the block away gives back the former file, byte for
byte.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, Union

from ..converge.errors import VirtfleetError

Value = Union[int, str, List[str]]
Settings = Dict[str, Value]

_BEGIN = "# virtfleet: changes to these lines are overwritten; what they replace is marked below.\n"
_END = "# virtfleet: end\n"
_WAS = "#virtfleet# "
_BLOCK = re.compile(f"^{re.escape(_BEGIN)}(.*?)^{re.escape(_END)}", re.MULTILINE | re.DOTALL)
_REPLACED = re.compile(f"^{re.escape(_WAS)}", re.MULTILINE)
_STATEMENT = re.compile(
    r"""^[ \t]*(?P<key>[A-Za-z]\w*)[ \t]*=[ \t]*
    (?P<value>\"{3}[\s\S]*?\"{3}
      |\[(?:[^\]"']|"[^"\n]*"|'[^'\n]*')*\]
      |"[^"\n]*"
      |'[^'\n]*'
      |[+-]?[0-9]+
      |)
    (?P<rest>[^\n]*)\n?""",
    re.MULTILINE | re.VERBOSE | re.ASCII,
)
_STRING = re.compile(r"\"([^\"\n]*)\"|'([^'\n]*)'")


def _parse(text: str) -> Value:
    """Return a value as Python has it; what libvirt would not read is an empty string."""
    if text.startswith('"""'):
        return text[3:-3]
    if text.startswith("["):
        return [one or other for one, other in _STRING.findall(text)]
    if text[:1] in {'"', "'"}:
        return text[1:-1]
    return int(text) if text else text


def parse(text: str) -> Settings:
    """Return what a file says; of a key that stands there twice the first counts, as in libvirt."""
    found: Settings = {}
    for match in _STATEMENT.finditer(text):
        found.setdefault(match.group("key"), _parse(match.group("value")))
    return found


def expected(value: Any) -> str | None:
    """Return what a value has to be if it cannot be written, None if it can."""
    if isinstance(value, (bool, int)):
        return None
    if isinstance(value, str):
        bad = "\n" in value or ('"' in value and "'" in value)
        return "a string on one line with one kind of quotes at most" if bad else None
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return next((text for text in map(expected, value) if text), None)
    return "a number, a boolean, a string or a list of strings"


def normal(value: Any) -> Value:
    """Return a value as `parse` would: booleans are 1 and 0."""
    if isinstance(value, (bool, int)):
        return int(value)
    return value if isinstance(value, str) else list(value)


def _quoted(text: str) -> str:
    return f"'{text}'" if '"' in text else f'"{text}"'


def render(value: Value) -> str:
    """Return a value as it stands in a file."""
    if isinstance(value, list):
        return f"[ {', '.join(map(_quoted, value))} ]" if value else "[]"
    return _quoted(value) if isinstance(value, str) else str(value)


def ours(text: str) -> Settings:
    """Return what our block says, empty without one."""
    block = _BLOCK.search(text)
    return parse(block.group(1)) if block else {}


def restore(text: str) -> str:
    """Return the file without us: the block taken away, the lines it replaced as they were."""
    return _REPLACED.sub("", _BLOCK.sub("", text, count=1))


def _step_aside(text: str, keys: Mapping[str, Value]) -> str:
    """Return the text with the statements of ``keys`` commented out."""

    def replaced(match: re.Match[str]) -> str:
        if match.group("key") not in keys:
            return match.group()
        if match.group("rest").lstrip().startswith(";"):
            raise VirtfleetError(
                f"there is more than one setting in the line {match.group().strip()!r}",
                remedy="give each a line of its own",
            )
        return "".join(_WAS + line for line in match.group().splitlines(keepends=True))

    return _STATEMENT.sub(replaced, text)


def compose(text: str, wanted: Mapping[str, Value], defaults: Mapping[str, Value]) -> str:
    """Return the file that says what is wanted, whatever of us is in ``text``.

    What the rest of the file, or the daemon by default, says already is not written.
    """
    former = restore(text)
    said = {**defaults, **parse(former)}
    differ = {key: value for key, value in sorted(wanted.items()) if said.get(key) != value}
    if not differ:
        return former
    lines = "".join(f"{key} = {render(value)}\n" for key, value in differ.items())
    return f"{_BEGIN}{lines}{_END}{_step_aside(former, differ)}"

# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet's YAML files: their values, and where each of them stands.

What YAML lets pass silently is refused here: a key that is there twice, names that are no text, a
file that unfolds into millions of values by its aliases, anything but UTF-8. Tags that the caller
gives a meaning (a vault's) are handed to it as they are, all others are refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Sequence, Tuple, Union

import yaml

from ..converge.errors import Problem, shown

Path = Tuple[Union[str, int], ...]
Tags = Mapping[str, Callable[[str], Any]]

MOST_BYTES = 64 << 20
MOST_VALUES = 3_000_000  # aliases counted as often as they stand for something
DEEPEST = 60
_CORE = "tag:yaml.org,2002:"
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN = yaml.SafeLoader("")  # makes numbers and truth of words as YAML does


def dotted(path: Path) -> str:
    """Return a path for people: guests.web01.nics[0].network."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


@dataclass(frozen=True)
class Place:
    """Where something stands; lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class _RefusedError(Exception):
    """What ends the reading of a file at once."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass
class File:
    """One file: what is in it, and its nodes, to find where that stands."""

    name: str
    value: Any = None
    node: Any = None

    def place(self, path: Path) -> Place:
        """Return where a path leads, or the deepest part of it that is there."""
        node, mark = self.node, self.node.start_mark if self.node is not None else None
        for part in path:
            found = _inner(node, part)
            if found is None:
                break
            mark, node = found
        if mark is None:
            return Place(self.name, 1, 1)
        return Place(self.name, mark.line + 1, mark.column + 1)


def _inner(node: Any, part: str | int) -> tuple[Any, Any] | None:
    """Return the mark of a part of a node, that of its key if it has one, and the part."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key.start_mark, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark, node.value[part]
    return None


@dataclass
class _Reader:
    """Makes values of nodes, collecting what is wrong with them."""

    file: File
    tags: Tags
    problems: list[Problem]
    count: int = 0
    open: set[int] = field(default_factory=set)

    def say(self, node: Any, path: Path, expected: str, found: str) -> None:
        mark = node.start_mark
        place = Place(self.file.name, mark.line + 1, mark.column + 1)
        where = f"{place}: {dotted(path)}" if path else str(place)
        self.problems.append(Problem(where, expected, found))

    def value(self, node: Any, path: Path) -> Any:
        """Return the value of a node."""
        self.count += 1
        if self.count > MOST_VALUES or len(path) > DEEPEST:
            expected = f"at most {MOST_VALUES} values, {DEEPEST} deep"
            raise _RefusedError(
                Problem(self.file.name, expected, "more, by what its aliases unfold to")
            )
        if node.tag in self.tags:
            return self.tags[node.tag](node.value)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self.open:
            self.say(node, path, "a value", "an alias of what it stands in")
            return None
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if node.tag != f"{_CORE}seq":
                self.say(node, path, "a list without a tag", f"the tag {node.tag}")
            return [self.value(one, (*path, n)) for n, one in enumerate(node.value)]
        finally:
            self.open.discard(id(node))

    def _scalar(self, node: Any, path: Path) -> Any:
        if node.tag in (f"{_CORE}str", f"{_CORE}timestamp", f"{_CORE}value"):
            return node.value
        kind = node.tag[len(_CORE) :] if node.tag.startswith(_CORE) else node.tag
        if kind not in ("int", "bool", "null", "float"):
            known = ", ".join(sorted(self.tags))
            self.say(node, path, f"no tag but {known}" if known else "no tag", f"{node.tag}")
            return None
        try:
            return _PLAIN.construct_object(yaml.ScalarNode(node.tag, node.value))
        except (ValueError, yaml.YAMLError):
            self.say(node, path, "a number" if kind != "bool" else "true or false", node.value)
            return None

    def _mapping(self, node: Any, path: Path) -> dict[str, Any]:
        if node.tag != f"{_CORE}map":
            self.say(node, path, "a mapping without a tag", f"the tag {node.tag}")
        found: dict[str, Any] = {}
        merged: list[Any] = []
        first: dict[str, Any] = {}
        for key, value in node.value:
            if key.tag == f"{_CORE}merge":
                merged += self._merged(value, path)
                continue
            if not isinstance(key, yaml.ScalarNode):
                self.say(key, path, "a key that is text", "a list or a mapping")
                continue
            if key.tag != f"{_CORE}str":
                found_text = f"{shown(key.value)}, which YAML takes for something else"
                self.say(key, (*path, key.value), "a key that is text", f"{found_text}: quote it")
            if key.value in first:
                line = first[key.value].start_mark.line + 1
                self.say(key, (*path, key.value), "a key once", f"it again, after line {line}")
            first.setdefault(key.value, key)
            found[key.value] = self.value(value, (*path, key.value))
        for one in merged:
            for word, value in one.items():
                found.setdefault(word, value)
        return found

    def _merged(self, node: Any, path: Path) -> list[dict[str, Any]]:
        """Return the mappings that a merge key brings, https://yaml.org/type/merge.html."""
        nodes: Sequence[Any] = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found = []
        for one in nodes:
            value = self.value(one, path)
            if isinstance(value, dict):
                found.append(value)
            else:
                self.say(one, path, "a mapping to merge", shown(value))
        return found


def read_file(name: str, content: bytes, tags: Tags, problems: list[Problem]) -> File:
    """Return what a file has; what is wrong with it is added to the ``problems``."""
    file = File(name)
    if len(content) > MOST_BYTES:
        problems.append(Problem(name, f"at most {MOST_BYTES >> 20} MiB", "a larger file"))
        return file
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problems.append(Problem(f"{name}:{line}:1", "UTF-8", f"the byte {content[error.start]:#x}"))
        return file
    try:
        loader = _Loader(text)
        try:
            file.node = loader.get_single_node()
        finally:
            loader.dispose()
        if file.node is not None:
            reader = _Reader(file, tags, problems)
            file.value = reader.value(file.node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        found = str(error.problem or "none")
        problems.append(Problem(where, "YAML", found[6:] if found.startswith("found ") else found))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        problems.append(Problem(name, "YAML", shown(str(error))))
    except _RefusedError as error:
        problems.append(error.problem)
    return file


class Sources:
    """All files of a fleet, as one declaration: each of its sections is the union of theirs."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        self.files: list[File] = []
        self.data: dict[str, Any] = {}
        self._of: dict[Path, File] = {}  # by section, and by section and name

    def add(self, file: File, *, main: bool) -> None:
        """Take a file in; a name that another file has already is a problem."""
        self.files.append(file)
        if file.value is None and file.node is None and not main:
            return
        if not isinstance(file.value, dict):
            if not self.problems:
                found = "nothing" if file.value is None else shown(file.value)
                self.problems.append(Problem(file.name, "a mapping that describes a fleet", found))
            return
        for section, value in file.value.items():
            if section not in self.data:
                self.data[section] = dict(value) if isinstance(value, dict) else value
                self._of[(section,)] = file
                if isinstance(value, dict):
                    for name in value:
                        self._of[(section, name)] = file
            elif isinstance(value, dict) and isinstance(self.data[section], dict):
                self._join(section, value, file)
            else:
                self.say((section,), "a key once", f"it in {self._of[(section,)].name} too", file)

    def _join(self, section: str, value: Mapping[str, Any], file: File) -> None:
        for name, one in value.items():
            path = (section, name)
            if path in self._of:
                self.say(path, "a name of its own", f"it at {self.place(path)} already", file)
                continue
            self.data[section][name] = one
            self._of[path] = file

    def place(self, path: Path, file: File | None = None) -> Place:
        """Return where a path stands."""
        found = file or self._of.get(tuple(path[:2])) or self._of.get(tuple(path[:1]))
        if found is None:
            return Place(self.files[0].name if self.files else "", 1, 1)
        return found.place(path)

    def where(self, path: Path, file: File | None = None) -> str:
        """Return where a path stands, and the path."""
        place = self.place(path, file)
        return f"{place}: {dotted(path)}" if path else str(place)

    def say(self, path: Path, expected: str, found: str, file: File | None = None) -> None:
        """Note a problem at a path."""
        self.problems.append(Problem(self.where(path, file), expected, found))

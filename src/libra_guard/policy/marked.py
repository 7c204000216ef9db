"""YAML that remembers where every key and value stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Keys = tuple[str | int, ...]
"""Keys and positions, from the outside in."""
MOST = 100_000
"""Values in a file: an alias can stand for a mapping of aliases, and so on."""


class Problem(NamedTuple):
    """Something wrong, or odd, with where it stands."""

    file: str
    line: int
    """From 1 on."""
    where: str
    """Keys down to it, with dots; empty for the file as a whole."""
    message: str

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        return f"{self.file}: line {self.line}: {where}{self.message}"


@dataclass(frozen=True)
class Marked:
    """A value with its place."""

    file: str
    line: int
    """Of the key that it stands under, or of the value itself in a list; from 1 on."""
    value: Any
    """A dict of ``Marked``, a list of ``Marked``, or a plain value."""

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: part.plain() for key, part in self.value.items()}
        return [part.plain() for part in self.value] if isinstance(self.value, list) else self.value

    def at(self, path: Sequence[str | int]) -> Marked:
        """What stands there, or the last thing on the way that is there."""
        if not path or not isinstance(self.value, dict | list):
            return self
        try:
            below: Any = self.value[path[0]]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            return self
        return below.at(path[1:]) if isinstance(below, Marked) else self

    def problem(self, path: Sequence[str | int], message: str) -> Problem:
        """Something wrong with what stands there."""
        place = self.at(path)
        return Problem(place.file, place.line, dotted(path), message)


def dotted(path: Sequence[str | int]) -> str:
    """``deny.phrases.3``: positions are told from 1 on."""
    return ".".join(str(part + 1) if isinstance(part, int) else part for part in path)


class Reader:
    """Reads one YAML file.

    Args:
        path: For messages, as it is named there.
        rename: Gives a key at a path its canonical name, or raises a ``ValueError``.
    """

    def __init__(self, path: Path, rename: Callable[[Keys, str], str]) -> None:
        self.file = str(path)
        self.problems: list[Problem] = []
        self._rename = rename
        self._left = MOST

    def read(self, text: str) -> Marked | None:
        """The file's one document; None where it is no YAML, or too much is wrong to go on."""
        try:
            loader = yaml.SafeLoader(text)
            try:
                node = loader.get_single_node()
                return None if node is None else self._marked(loader, node, (), (), node.start_mark.line + 1)
            finally:
                loader.dispose()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            told = ", ".join(filter(None, (error.context, error.problem)))
            self._wrong(1 if mark is None else mark.line + 1, (), f"not YAML: {told}")
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            self._wrong(line, (), f"not YAML: the character U+{error.character:04X} is not taken")
        except RecursionError:
            self._wrong(1, (), "nested too deeply")
        return None

    def _wrong(self, line: int, path: Keys, message: str) -> None:
        self.problems.append(Problem(self.file, line, dotted(path), message))

    def _marked(self, loader: Any, node: yaml.Node, path: Keys, above: tuple[int, ...], line: int) -> Marked:
        self._left -= 1
        if id(node) in above or self._left < 0:
            what = "holds itself" if id(node) in above else f"more than {MOST} values"
            raise yaml.MarkedYAMLError(problem=what, problem_mark=node.start_mark)
        above = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            return Marked(self.file, line, self._mapping(loader, node, path, above))
        if isinstance(node, yaml.SequenceNode):
            parts = [
                self._marked(loader, n, (*path, i), above, n.start_mark.line + 1) for i, n in enumerate(node.value)
            ]
            return Marked(self.file, line, parts)
        return Marked(self.file, line, self._scalar(loader, node, path, line))

    def _mapping(self, loader: Any, node: Any, path: Keys, above: tuple[int, ...]) -> dict[str, Marked]:
        found: dict[str, Marked] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._wrong(line, path, "a key is a word, not a list or mapping")
                continue
            written = key_node.value
            try:
                key = self._rename(path, written)
            except ValueError as error:
                self._wrong(line, path, str(error))
                continue
            value = self._marked(loader, value_node, (*path, key), above, line)
            if key in found:
                other = "" if key == written else f" ({key})"
                self._wrong(line, path, f"'{written}'{other} is there twice, first in line {found[key].line}")
                continue
            found[key] = value
        return found

    def _scalar(self, loader: Any, node: yaml.Node, path: Keys, line: int) -> Any:
        try:
            return loader.construct_object(node)
        except yaml.YAMLError:
            raise
        except Exception as error:  # 2024-13-45 is a date to YAML, and !!int of nothing an IndexError
            self._wrong(line, path, f"not what YAML takes it for ({error}); a text is put in quotes")
            return None


def merged(base: Marked, changes: Marked, adds: Callable[[Keys], bool], path: Keys = ()) -> Marked:
    """One file on top of another: mapping by mapping; lists go one after the other where ``adds`` says so."""
    old, new = base.value, changes.value
    if isinstance(old, dict) and isinstance(new, dict):
        value = dict(old)
        for key, part in new.items():
            value[key] = merged(old[key], part, adds, (*path, key)) if key in old else part
        return Marked(changes.file, changes.line, value)
    if isinstance(old, list) and isinstance(new, list) and adds(path):
        return Marked(changes.file, changes.line, [*old, *new])
    return changes

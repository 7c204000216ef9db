"""Reads policy profiles: what is wrong is told all at once, each with its line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from libra_guard.configuration import EXTENDS
from libra_guard.errors import UsageError
from libra_guard.guards.texts import read_text
from libra_guard.policy.answers import Answer
from libra_guard.policy.lists import AllowList, DenyList
from libra_guard.policy.marked import Keys, Marked, Problem, Reader, merged
from libra_guard.policy.odd import oddities
from libra_guard.policy.profile import GENERAL, Policy, Rule
from libra_guard.taxonomy import scenario

Stamp = tuple[int, ...] | None
"""What a file looks like from outside."""
_LISTS = {("allow", "texts"), ("allow", "files"), ("deny", "phrases"), ("deny", "patterns"), ("deny", "files")}
_KEYS: dict[tuple[str, ...], type[BaseModel]] = {
    (): Policy,
    ("default",): Rule,
    ("prompt",): Rule,
    ("response",): Rule,
    ("scenarios", "*"): Rule,
    ("allow",): AllowList,
    ("deny",): DenyList,
    ("answers", "*"): Answer,
}
"""What stands where, for the nearest key to one that is unknown."""
_SAID = {
    "string_type": "a text is needed; a number, a date or a truth value is put in quotes to be one",
    "model_type": "a mapping is needed, with keys of its own",
    "dict_type": "a mapping is needed, with keys of its own",
    "tuple_type": "a list is needed",
}
"""What pydantic says in words of Python."""


class PolicyError(UsageError):
    """A profile cannot be read."""

    def __init__(self, place: str | Path, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"{place}: not a policy profile:\n" + "\n".join(f"  {problem}" for problem in problems))


@dataclass
class Profile:
    """A profile that was read."""

    policy: Policy
    warnings: tuple[Problem, ...] = ()
    """What is allowed, and probably not meant."""


@dataclass
class _Reading:
    """What is kept while a profile is read."""

    stamps: dict[Path, Stamp]
    problems: list[Problem] = field(default_factory=list)

    def look_at(self, path: Path) -> None:
        """Keeps what a file looks like, before it is read: what changes from then on is seen later."""
        self.stamps.setdefault(path, stamp(path))


def stamp(path: Path) -> Stamp:
    """What tells whether a file has changed; None where it is not there."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # a NUL in its name is a ValueError
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def read_policy(path: str | Path, stamps: dict[Path, Stamp] | None = None) -> Profile:
    """Reads a profile from a file.

    Args:
        path: A YAML file. Files that it names are looked for beside it.
        stamps: Takes the files that were read or looked for, and what they looked like, also where the profile is
            wrong.

    Raises:
        PolicyError: Something in it, or in a file that it names, is wrong; the message has every line.
    """
    path = Path(path)
    reading = _Reading({} if stamps is None else stamps)
    tree = _layers(path, reading, ())
    policy = None
    if tree is not None and isinstance(tree.value, dict):
        tree.value.setdefault("name", Marked(tree.file, tree.line, path.stem))
        policy = _checked(tree, reading.problems)
    if policy is None or tree is None or reading.problems:
        raise PolicyError(path, sorted(reading.problems, key=lambda problem: (problem.file, problem.line)))
    warnings = tuple(tree.problem(where, message) for where, message in oddities(policy))
    return Profile(policy, warnings)


def load_policy(name: str) -> Policy:
    """A bundled profile by its name, or the profile in a file by its path.

    Raises:
        UsageError: There is no such profile, or it cannot be read.
    """
    return read_policy(policy_file(name)).policy


def policy_file(name: str) -> Path:
    """The file of a bundled profile, or the file of that path.

    Raises:
        UsageError: It is neither.
    """
    if name in bundled_names():
        return _bundled_folder() / f"{name}.yaml"
    if Path(name).suffix in (".yaml", ".yml") or len(Path(name).parts) > 1:
        return Path(name)
    near = difflib.get_close_matches(name, bundled_names(), n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(bundled_names())}, and files (NAME.yaml)"
    raise UsageError(f"there is no policy profile '{name}'; {hint}")


@cache
def bundled_names() -> tuple[str, ...]:
    """The profiles that come with the package."""
    return tuple(sorted(path.stem for path in _bundled_folder().glob("*.yaml")))


@cache
def _bundled_folder() -> Path:
    with as_file(files("libra_guard.policy") / "profiles") as folder:
        return folder


def _layers(path: Path, reading: _Reading, above: tuple[str, ...]) -> Marked | None:
    """The file over the one that it extends."""
    reading.look_at(path)
    try:
        text = read_text(path)
    except UsageError as error:
        reading.problems.append(Problem(str(path), 1, "", str(error).removeprefix(str(path)).removeprefix(":").strip()))
        return None
    reader = Reader(path, _canonical)
    tree = reader.read(text)
    reading.problems += reader.problems
    if tree is None or not isinstance(tree.value, dict):
        if not reader.problems:
            reading.problems.append(Problem(str(path), 1, "", "a mapping of keys is needed, such as 'mode: enforce'"))
        return None
    _locate_files(path, tree, reading)
    extends = tree.value.pop(EXTENDS, None)
    if extends is None:
        return tree
    base = _base(path, extends, reading, (*above, os.path.realpath(path)))
    return None if base is None else merged(base, tree, lambda at: at in _LISTS)


def _base(path: Path, extends: Marked, reading: _Reading, above: tuple[str, ...]) -> Marked | None:
    def wrong(message: str) -> None:
        reading.problems.append(Problem(extends.file, extends.line, EXTENDS, message))

    if not isinstance(extends.value, str) or "\0" in extends.value:
        wrong("the name of a bundled profile is needed, or the path of a file")
        return None
    try:
        found = policy_file(extends.value)
    except UsageError as error:
        wrong(str(error))
        return None
    found = path.parent / found
    if os.path.realpath(found) in above:
        wrong(f"{found} extends this file in turn")
        return None
    base = _layers(found, reading, above)
    if base is not None:
        # A name is of one file: two profiles must not go by the same.
        base.value.pop("name", None)
    return base


def _locate_files(path: Path, tree: Marked, reading: _Reading) -> None:
    """Files of lists are looked for beside the profile that names them."""
    for part in ("allow", "deny"):
        names = tree.at((part, "files"))
        if not isinstance(tree.at((part,)).value, dict) or not isinstance(names.value, list):
            continue
        for i, name in enumerate(names.value):
            if isinstance(name.value, str):
                file = path.parent / name.value
                reading.look_at(file)
                names.value[i] = Marked(name.file, name.line, str(file))


def _canonical(path: Keys, key: str) -> str:
    """Scenarios go by their English names, so that one is not told of twice."""
    if path not in (("scenarios",), ("answers",)) or (path == ("answers",) and key == GENERAL):
        return key
    try:
        return scenario(key).name
    except UsageError as error:
        raise ValueError(str(error)) from None


def _checked(tree: Marked, problems: list[Problem]) -> Policy | None:
    try:
        return Policy.model_validate(tree.plain())
    except ValidationError as error:
        for one in error.errors(include_url=False):
            where = tuple(one["loc"])
            problems.append(tree.problem(where, _message(one, where)))
    return None


def _message(error: Any, where: Keys) -> str:
    if where[0] == "allow" and error["type"] == "extra_forbidden":
        return "an allow list has texts and files, of whole texts only: in a pattern or around a phrase stands anything"
    if error["type"] == "extra_forbidden":
        return f"there is no such key; {_nearest(where)}"
    if error["type"] in _SAID:
        return _SAID[error["type"]]
    return str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")


def _nearest(where: Keys) -> str:
    above = tuple("*" if i == 1 and where[0] in ("scenarios", "answers") else str(p) for i, p in enumerate(where[:-1]))
    keys = [*_KEYS[above].model_fields, *([EXTENDS] if not above else [])]
    near = difflib.get_close_matches(str(where[-1]), keys, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(keys)}"

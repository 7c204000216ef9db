"""Files of settings, in YAML or JSON: one model of pydantic each, unknown keys are errors."""

from __future__ import annotations

import copy
import difflib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from libra_guard.errors import UsageError

EXTENDS = "extends"
"""The key that names a file to start from."""
_MERGE = "tag:yaml.org,2002:merge"
Probability = Annotated[float, Field(ge=0, le=1)]
Move = Callable[[str], str]
"""Makes a name of a file what another settings file calls it; what names no file stays."""


class Strict(BaseModel):
    """Settings that cannot be changed once they are read, and refuse keys that they do not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ConfigFile(Strict):
    """What stands in one YAML file. A subclass names its ``kind`` for messages."""

    kind: ClassVar[str]
    bundled: ClassVar[Path | None] = None
    """Folder of the files that come with the package, and go by their names without ``.yaml``."""
    kin: ClassVar[Mapping[str, str]] = {}
    """Keys by which a file of another kind is known → the command that it is for."""
    marks: ClassVar[Sequence[str]] = ()
    """Keys by which one of this kind is known, whatever else stands in it."""

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Reads a file.

        Raises:
            UsageError: The file is missing, is not YAML, or has a key twice or a wrong or unknown one; the message
                names it.
        """
        return cls.checked(cls.unchecked(path), path)

    @classmethod
    def unchecked(cls, path: str | Path) -> Any:
        """What a file says, as ``read_yaml`` reads it; names of files in one that it extends are found beside that one.

        Raises:
            UsageError: As for ``read_yaml``.
        """
        return _read(cls.find(path), (), cls)

    @classmethod
    def find(cls, name: str | Path, beside: Path = Path(".")) -> Path:
        """The file of that name; where there is none, the one that comes with the package under it."""
        own = beside / name
        if own.is_file() or str(name) not in cls.bundled_names():
            return own
        return cls.bundled / f"{name}.yaml" if cls.bundled else own

    @classmethod
    def bundled_names(cls) -> list[str]:
        """Of the files that come with the package."""
        return sorted(path.stem for path in cls.bundled.glob("*.yaml")) if cls.bundled else []

    @classmethod
    def moved(cls, settings: dict[str, Any], move: Move) -> dict[str, Any]:
        """Unchecked settings with all names of files in them moved, where a file names files that lie beside it."""
        return settings

    @classmethod
    def checked(cls, settings: Any, place: str | Path) -> Self:
        """Settings that were read before.

        Args:
            settings: What the YAML says.
            place: Where they come from, for messages.

        Raises:
            UsageError: A key is wrong or unknown; the message names it.
        """
        if not isinstance(settings, dict):
            words = "it is empty" if settings is None else f"keys are needed, not a {type(settings).__name__}"
            raise UsageError(f"{place}: not {_a(cls.kind)}:\n  {words}")
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            other = next((cls.kin[key] for key in settings if key in cls.kin), None)
            if other and not any(key in settings for key in cls.marks):
                raise UsageError(f"{place}: this is a file for `{other}`") from None
            lines = "\n".join(f"  {line}" for line in _told(error, cls))
            raise UsageError(f"{place}: not {_a(cls.kind)}:\n{lines}") from None

    def changed(self, settings: Mapping[str, Any], place: str | Path) -> Self:
        """The same with other values for some settings.

        Args:
            settings: Values by dotted paths; see ``put``.
            place: Where they come from, for messages.

        Raises:
            UsageError: There is no such setting, or it cannot have that value.
        """
        # What is left open stays open, for it may inherit its value.
        parts = self.model_dump(mode="json", exclude_unset=True)
        for path, value in settings.items():
            if not put(parts, path, copy.deepcopy(value)):
                raise UsageError(f"{place}: the recipe has no '{path}' that could be set")
        return self.checked(parts, place)


def put(settings: Any, path: str, value: Any) -> bool:
    """Sets what a dotted path names in unchecked settings.

    Members of a list go by their ``name``, those without one by their numbers from 0. Mappings that are not there are
    made, for what is left at its defaults may be set all the same; a wrong name is found when all is checked.

    Returns:
        Whether there is such a place.
    """
    *steps, last = path.split(".")
    for step in steps:
        if isinstance(settings, list):
            named = {part.get("name") or str(n): part for n, part in enumerate(settings) if isinstance(part, dict)}
            settings = named.get(step)
        else:
            settings = settings.setdefault(step, {}) if isinstance(settings, dict) else None
    if not isinstance(settings, dict):
        return False
    settings[last] = value
    return True


@contextmanager
def at(place: str, hint: str = "") -> Iterator[None]:
    """Names the key that an error comes from which is found only when its value is used; a hint stands behind it."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{place}: {error}{hint}") from None


def read_yaml(path: str | Path) -> Any:
    """What a YAML file says, together with the file that its key ``extends`` names, relative to itself.

    Keys of the extending file replace those of the other, mapping by mapping; a list replaces a whole list.

    Raises:
        UsageError: A file is missing or is not YAML, has a key twice, or extends itself or one without keys.
    """
    return _read(Path(path), (), ConfigFile)


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UsageError: The file cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path}: an object is needed, not a {type(found).__name__}")
    return found


class _Loader(yaml.SafeLoader):
    """Of a key that stands twice in one mapping, YAML would keep the last alone, and say nothing."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        # What ``<<`` brings is no key of the mapping yet, and ``<<`` itself may stand there again.
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE):
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                raise UsageError(f"'{key.value}' stands twice, on lines {lines[name]} and {line}")
            lines[name] = line
        return node


def _read(path: Path, above: tuple[Path, ...], kind: type[ConfigFile]) -> Any:
    if path.resolve() in above:
        raise UsageError(f"{path}: extends itself")
    try:
        with at(str(path)):
            found = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        names = kind.bundled_names() if isinstance(error, FileNotFoundError) else ()
        hint = f"; with the package come {', '.join(names)}" if names else ""
        raise UsageError(f"{path}: {error.strerror}{hint}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{path}: not YAML: {error}") from None
    if not isinstance(found, dict) or EXTENDS not in found:
        return found
    extended = kind.find(str(found.pop(EXTENDS)), path.parent)
    base = _read(extended, (*above, path.resolve()), kind)
    if not isinstance(base, dict):
        raise UsageError(f"{path}: extends {extended}, which has no keys")
    return _merged(kind.moved(base, _mover(extended.parent, path.parent)), found)


def _mover(old: Path, new: Path) -> Move:
    """Of names of files beside one folder to those of the same files seen from another one."""
    if old.resolve() == new.resolve():
        return lambda name: name

    def move(name: str) -> str:
        there = old / name
        if not name or Path(name).is_absolute() or not os.path.exists(there):
            return name
        # Relative: what a run writes down of its settings is the same wherever the two folders lie together.
        return os.path.relpath(there.parent.resolve() / there.name, new.resolve())

    return move


def _told(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """A line for each thing that is wrong, for people."""
    found = error.errors()
    for one in found:
        place = one["loc"]
        if one["type"] == "too_short" and any(other["loc"][: len(place)] == place != other["loc"] for other in found):
            # What was wrong in a list does not count as being there.
            continue
        words = one["msg"].removeprefix("Value error, ")
        if one["type"] == "extra_forbidden":
            words = no_such("key", str(place[-1]), keys_at(model, place[:-1]))
        yield ": ".join(part for part in (".".join(map(str, place)), words) if part)


def no_such(kind: str, name: str, known: Sequence[str]) -> str:
    """What is said of a name that is none of those known; ``kind`` is what it would be: a key, a field."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
    return f"there is no such {kind}{'; ' + hint if known else ''}"


def unsendable(key: str) -> str:
    """Why a server's key cannot be sent in a header; empty where it can."""
    fits = key.isascii() and key.isprintable()
    return "" if fits else "holds what no header can: a line's end, or characters that are not ASCII"


def keys_at(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """The keys that there are at a place; none where the place does not tell which model stands there."""
    models = [model]
    for part in place:
        fields = [one.model_fields[part].annotation for one in models if part in one.model_fields]
        # Else it is a number in a list, a name in a mapping, or the form that was tried.
        models = [inner for field in fields for inner in _models(field)] if fields else models
    return list(dict.fromkeys(key for one in models for key in one.model_fields))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"

"""Files of settings, in YAML or JSON: one model of pydantic each, unknown keys are errors."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from libra_guard.errors import UsageError

EXTENDS = "extends"
"""The key that names a file to start from."""
Probability = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """Settings that cannot be changed once they are read, and refuse keys that they do not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ConfigFile(Strict):
    """What stands in one YAML file. A subclass names its ``kind`` for messages."""

    kind: ClassVar[str]

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Reads a file.

        Raises:
            UsageError: The file is missing, is not YAML, or has a wrong or unknown key; the message names it.
        """
        return cls.checked(read_yaml(path), path)

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
            lines = "\n".join(f"  {line}" for line in _told(error, cls))
            raise UsageError(f"{place}: not {_a(cls.kind)}:\n{lines}") from None


def read_yaml(path: str | Path) -> Any:
    """What a YAML file says, together with the file that its key ``extends`` names, relative to itself.

    Keys of the extending file replace those of the other, mapping by mapping; a list replaces a whole list.

    Raises:
        UsageError: A file is missing or is not YAML, or extends itself or one without keys.
    """
    return _read(Path(path), ())


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


def _read(path: Path, above: tuple[Path, ...]) -> Any:
    if path.resolve() in above:
        raise UsageError(f"{path}: extends itself")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{path}: not YAML: {error}") from None
    if not isinstance(found, dict) or EXTENDS not in found:
        return found
    extended = path.parent / str(found.pop(EXTENDS))
    base = _read(extended, (*above, path.resolve()))
    if not isinstance(base, dict):
        raise UsageError(f"{path}: extends {extended}, which has no keys")
    return _merged(base, found)


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
            words = _no_such_key(str(place[-1]), _keys(model, place[:-1]))
        yield ": ".join(part for part in (".".join(map(str, place)), words) if part)


def _no_such_key(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
    return f"there is no such key{'; ' + hint if known else ''}"


def _keys(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
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

"""Checks options before a model is loaded: their names, their types, and numbers that make no sense."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from libra_guard.errors import UsageError

SECRET = r"(?:key|token|secret|password)"
"""How the name of an option ends that is for nobody to read, in any case: ``api_key``, but not ``max_new_tokens``."""


def option_names(made: type[Any]) -> list[str]:
    """The options of a guard's or backend's class: all parameters but the first, its backend or model.

    A class that passes ``**options`` on has those of the class above it too.
    """
    return list(dict.fromkeys(name for init in _inits(made) for name in _own(init)))


def unknown_option(name: str, known: Mapping[str, Iterable[str]]) -> UsageError:
    """The error that a name is none of the options.

    Args:
        name: What was given.
        known: Whose options → their names.
    """
    there = "; ".join(f"{owner} has {', '.join(names) or 'none'}" for owner, names in known.items())
    return UsageError(f"there is no option '{name}': {there}")


def checked(made: type[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the class's own annotations want them: a wrong type is found here, not while judging.

    Raises:
        UsageError: A value is of another type.
    """
    hints: dict[str, Any] = {}
    for init in _inits(made):
        hints = get_type_hints(init) | hints
    found = {}
    for name, value in options.items():
        try:
            found[name] = TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            # A key is not for a terminal or a log.
            shown = "..." if is_secret(name) else value
            raise UsageError(f"{name}={shown}: {_words(error, value)}") from None
    return found


def is_secret(name: str) -> bool:
    """Whether an option of this name holds a key or the like."""
    return re.search(f"{SECRET}$", name, re.IGNORECASE) is not None


def more_than(bound: float, **numbers: float) -> None:
    """Refuses numbers that are no more.

    Raises:
        UsageError: A number is not more, or none at all.
    """
    for name, number in numbers.items():
        if not number > bound:
            raise UsageError(f"{name} is {number}; it must be more than {bound}")


def at_least(least: int, **numbers: float | None) -> None:
    """Refuses numbers that are less; None is an option that was not given.

    Raises:
        UsageError: A number is less, or none at all.
    """
    for name, number in numbers.items():
        if number is not None and not number >= least:
            raise UsageError(f"{name} is {number}; it must be at least {least}")


def shares(**numbers: float | None) -> None:
    """Refuses what is no share; None is an option that was not given.

    Raises:
        UsageError: A number lies outside of [0, 1], or is none at all.
    """
    for name, number in numbers.items():
        if number is not None and not 0 <= number <= 1:
            raise UsageError(f"{name} is {number}; it must lie in [0, 1]")


def _inits(made: type[Any]) -> Iterator[Any]:
    """The initialiser of a class, and those above it as long as they are handed ``**options``."""
    for level in made.__mro__:
        if init := vars(level).get("__init__"):
            yield init
            if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(init).parameters.values()):
                return


def _own(init: Any) -> list[str]:
    """Without ``self`` and the backend or model."""
    found = list(inspect.signature(init).parameters.values())[2:]
    return [p.name for p in found if p.kind is not p.VAR_KEYWORD]


def _words(error: ValidationError, value: object) -> str:
    """What a value should have been; of the forms that it may have, the first that is told of."""
    words = error.errors()[0]["msg"]
    if "valid string" in words and isinstance(value, int | float):
        # YAML reads digits as a number, and 0123 as another one, so it is not turned back.
        words += """; with --set write a text of digits in quotes, '"123"'"""
    return words

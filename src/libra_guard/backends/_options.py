"""Checks options before a model is loaded: their names, their types, and numbers that make no sense."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from libra_guard.errors import UsageError

_SECRET = re.compile(r"key|token$|secret|password", re.IGNORECASE)


def option_names(made: type[Any]) -> list[str]:
    """The options of a guard's or backend's class: all parameters but the first, its backend or model."""
    return list(inspect.signature(made).parameters)[1:]


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
    hints = get_type_hints(made.__init__)
    found = {}
    for name, value in options.items():
        try:
            found[name] = TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            # A key is not for a terminal or a log.
            shown = "..." if _SECRET.search(name) else value
            raise UsageError(f"{name}={shown}: {_words(error, value)}") from None
    return found


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


def _words(error: ValidationError, value: object) -> str:
    """What a value should have been; of the forms that it may have, the first that is told of."""
    words = error.errors()[0]["msg"]
    if "valid string" in words and isinstance(value, int | float):
        # YAML reads digits as a number, and 0123 as another one, so it is not turned back.
        words += """; with --set write a text of digits in quotes, '"123"'"""
    return words

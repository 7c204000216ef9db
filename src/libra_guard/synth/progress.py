"""How far a step has come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Counted = TypeVar("Counted")
Advance = Callable[[int], None]
"""Told how many more rows are done."""
_TOLD_AT = 1000


def counted(rows: Iterable[Counted], advance: Advance) -> Iterator[Counted]:
    """The rows, for work that is too quick to tell of each."""
    number = 0
    for number, row in enumerate(rows, 1):
        yield row
        if number % _TOLD_AT == 0:
            advance(_TOLD_AT)
    advance(number % _TOLD_AT)

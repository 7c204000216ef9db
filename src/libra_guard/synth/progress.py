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


def in_shares(advance: Advance, total: int, shares: int) -> Advance:
    """For work that goes through all rows so many times: told of a time, it tells of that share of the rows.

    Args:
        advance: Told of the shares, which together are all rows; of times beyond those it is told nothing.
        total: Rows.
        shares: Times.
    """
    done = 0

    def more(times: int) -> None:
        nonlocal done
        before, done = done, min(done + times, shares)
        advance(total * done // shares - total * before // shares)

    return more

"""Lists that a writer adds to: in calls of a few lines, round by round, until each has its number."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any

from libra_guard.data.base import normalise_question
from libra_guard.synth.language.limits import SEXUALISES_MINORS, sexualises_minors
from libra_guard.synth.language.prompts import render
from libra_guard.synth.language.reading import is_chinese, numbered_lines
from libra_guard.synth.language.refusals import is_refused_query
from libra_guard.synth.seats.failure import Failure
from libra_guard.synth.seats.writer import Writer
from libra_guard.synth.work import Reject, pieces

TEMPLATE = "elements.j2"
AT_A_TIME = 20
"""Lines that one call asks for at most."""
_LENGTHS = range(2, 61)
_TOKENS = 60
"""Of an answer, for each line that is asked for."""
_LISTS_AT_ONCE = 64
"""That are asked for between two looks at the progress."""


@dataclass
class Growing:
    """A list that is to have more."""

    name: str
    """For the record."""
    about: dict[str, Any]
    """What else the prompt says of it."""
    known: Sequence[str]
    wanted: int
    """New lines."""
    seen: set[str]
    """Keys of what is known, and of what was added; lists that must not repeat each other share it."""
    added: list[str] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """Lines that it is still short of."""
        return self.wanted - len(self.added)


def seen_in(texts: Collection[str]) -> set[str]:
    """The keys that texts are known by."""
    return {normalise_question(text) for text in texts}


def extend(lists: Sequence[Growing], writer: Writer, rounds: int, advance: Callable[[int], None]) -> list[Reject]:
    """Fills the lists.

    A list that nothing was added to would be asked for in the same words again, and is given up.

    Args:
        lists: What is added goes into them.
        writer: Who writes.
        rounds: Besides those that the number of lines needs.
        advance: Told how many lines there are more.

    Returns:
        What cannot be used, with reasons.

    Raises:
        BudgetSpentError: The budget is spent.
        EndpointsLostError: The model is gone.
        UselessModelError: None of its first answers can be read.
    """
    rejects: list[Reject] = []
    most = ceil(max((one.wanted for one in lists), default=0) / AT_A_TIME) + rounds
    starved = [one for one in lists if one.missing > 0]
    for _ in range(most):
        before = {id(one): len(one.added) for one in starved}
        for piece in pieces(starved, _LISTS_AT_ONCE):
            rejects += _round(piece, writer)
            advance(sum(len(one.added) - before[id(one)] for one in piece))
        starved = [one for one in starved if one.missing > 0 and len(one.added) > before[id(one)]]
        if not starved:
            break
    return rejects


def _round(lists: Sequence[Growing], writer: Writer) -> Iterator[Reject]:
    prompts = [_prompt(one, [*one.known, *one.added]) for one in lists]
    most = _TOKENS * max(min(one.missing, AT_A_TIME) for one in lists)
    read = partial(numbered_lines, every=True)
    written = writer.write(prompts, parse=read, begins="1. ", max_tokens=most, lines=True)
    for one, (lines, _) in zip(lists, written, strict=True):
        if isinstance(lines, Failure):
            yield Reject.of(lines, {"list": one.name})
            continue
        # What is known has been looked up; a part of it, as 医院 is of 医院走廊, is no copy.
        words = _prompt(one, ())
        for line in lines:
            if one.missing <= 0:
                break
            if reason := _fault(line, one.seen, words):
                yield Reject(reason, {"list": one.name, "line": line})
            else:
                one.seen.add(normalise_question(line))
                one.added.append(line)


def _fault(line: str, seen: Collection[str], words: str) -> str:
    """Why a line is no element; empty where it may be one."""
    if normalise_question(line) in seen:
        return "known already"
    if is_refused_query(line):
        return "a refusal"
    if not is_chinese(line):
        return "not Chinese"
    if len(line) not in _LENGTHS:
        return f"{len(line)} characters; {_LENGTHS.start} to {_LENGTHS.stop - 1} are taken"
    if sexualises_minors(line):
        return SEXUALISES_MINORS
    return "copied from the prompt" if line in words else ""


def _prompt(one: Growing, known: Sequence[str]) -> str:
    return render(TEMPLATE, count=min(one.missing, AT_A_TIME), known=known, **one.about)

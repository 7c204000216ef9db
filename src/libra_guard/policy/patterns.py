"""Regular expressions whose time is bounded, whatever text they meet.

Python's ``re`` tries one way after the other, and an unbounded repeat can have it try for minutes (``(a+)+b``), a
plain ``a.*b`` as often as the text is long, squared. So a pattern is refused that could take too many steps from
one place of a text: then the time grows with the text's length, and no faster. It may still be some tens of
microseconds for each character of a text that was made for the pattern, and ``re`` lets no other thread run
meanwhile, so that a text is searched piece by piece.
"""

from __future__ import annotations

import importlib
import re
import unicodedata
from collections.abc import Iterable
from math import prod
from typing import Any

from libra_guard.records import check_text

LONGEST = 500
"""Characters of a pattern."""
WIDEST = 200
"""Characters of a text that a pattern may span, with what it looks ahead at."""
WAYS = 500
"""Ways that a pattern may go from one place of a text on."""
STEPS = 5000
"""Ways times characters spanned: at most so many are compared from one place of a text on."""
_PIECE = 1000
"""Places of a text that are tried at once."""

# Python's own parser of patterns has no public name (before 3.11: sre_parse).
_parser: Any = importlib.import_module("re._parser")

_ONE_WAY = {"LITERAL", "NOT_LITERAL", "ANY", "IN", "AT", "FAILURE"}
_REPEATS = {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}
_INNER = {"SUBPATTERN": 3, "ASSERT": 1, "ASSERT_NOT": 1}
"""Where in what the parser gives the pattern inside stands."""
_ADVICE = "write how often at most, such as .{0,20}"


def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern as it is looked for: in lower case and capitals alike.

    Raises:
        ValueError: It is no pattern, or one that is not safe; see ``check_pattern``.
    """
    return re.compile(check_pattern(pattern), re.IGNORECASE)


def occurs(pattern: re.Pattern[str], text: str) -> bool:
    """Whether a pattern that ``compiled`` gave is found in a text; as ``pattern.search``, with pauses for others."""
    for start in range(0, len(text), _PIECE):
        # Nothing further on is looked at from these places.
        found = pattern.search(text, start, start + _PIECE + WIDEST)
        if found and found.start() < start + _PIECE:
            return True
    return False


def check_pattern(pattern: str) -> str:
    """Returns a pattern that is bounded.

    Raises:
        ValueError: It is blank or no pattern, is too long, matches an empty text, has what a normalised text never has,
            or could take long: by a repeat without end, a reference to a group, or too many ways or steps.
    """
    check_text(pattern, "the pattern")
    if len(pattern) > LONGEST:
        raise ValueError(f"the pattern has {len(pattern)} characters; at most {LONGEST} are taken")
    if unicodedata.normalize("NFKC", pattern) != pattern:
        odd = next(c for c in pattern if unicodedata.normalize("NFKC", c) != c)
        raise ValueError(f"'{odd}' is never in a text as it is matched (NFKC): '{unicodedata.normalize('NFKC', odd)}'")
    try:
        tree = _parser.parse(pattern)
        found = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression: {error}") from None
    if tree.state.flags & ~(re.UNICODE | re.IGNORECASE):
        raise ValueError("flags other than (?i) are not taken; case makes no difference anyway")
    ways = _ways(tree)
    if (width := _width(tree)) > WIDEST:
        raise ValueError(f"it can span more than {WIDEST} characters; {_ADVICE}")
    if ways > WAYS:
        raise ValueError(f"it can go more than {WAYS} ways from one place of a text, which can take long: {_ADVICE}")
    if ways * width > STEPS:
        raise ValueError(
            f"it can go {ways} ways, up to {width} characters each, from one place of a text; more than {STEPS} steps"
            f" can take long: {_ADVICE}, or less"
        )
    if found.search(""):
        raise ValueError("it matches the empty text, and so every text")
    return pattern


def _ways(tree: Iterable[tuple[Any, Any]]) -> int:
    """Upper bound of the ways that a matcher that goes back may try from one place."""
    return prod(_ways_of(str(op), value) for op, value in tree)


def _ways_of(op: str, value: Any) -> int:
    if op in _ONE_WAY:
        return 1
    if op == "BRANCH":
        return sum(map(_ways, value[1]))
    if op in _INNER:
        return _ways(value[_INNER[op]])
    if op == "ATOMIC_GROUP":
        return _ways(value)
    if op in _REPEATS:
        return _ways_of_repeat(*value)
    raise ValueError("references to groups are not taken: they can take long")


def _ways_of_repeat(least: int, most: Any, repeated: Any) -> int:
    if most is _parser.MAXREPEAT:
        raise ValueError(f"a repeat without end (*, + or {{n,}}) can take long; {_ADVICE}")
    if most > WIDEST:
        raise ValueError(f"it can repeat more than {WIDEST} times; {_ADVICE}")
    # Nested repeats make numbers that fill the memory; past the limit it does not matter how far.
    ways = min(_ways(repeated), WAYS + 1)
    return sum(ways**times for times in range(least, most + 1))


def _width(tree: Iterable[tuple[Any, Any]]) -> int:
    """Upper bound of the characters that are looked at from one place, those ahead and behind too."""
    return sum(_width_of(str(op), value) for op, value in tree)


def _width_of(op: str, value: Any) -> int:
    if op == "BRANCH":
        return max(map(_width, value[1]))
    if op in _REPEATS:
        return int(value[1]) * _width(value[2])
    if op in _INNER:
        return _width(value[_INNER[op]])
    if op == "ATOMIC_GROUP":
        return _width(value)
    # The end of a text is seen before a line break that ends it.
    return 2 if op == "AT" else 1

"""Regular expressions whose time is bounded, whatever text they meet.

Python's ``re`` tries one way after the other, and an unbounded repeat can have it try for minutes (``(a+)+b``), a
plain ``a.*b`` as often as the text is long, squared. So a pattern is refused that could go too many ways from one place
of a text: then the time grows with the text's length, and no faster.
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
"""Characters of a text that a pattern may span."""
WAYS = 500
"""Ways that a pattern may go from one place of a text on."""

# Python's own parser of patterns has no public name (before 3.11: sre_parse).
_parser: Any = importlib.import_module("re._parser")

_ONE_WAY = {"LITERAL", "NOT_LITERAL", "ANY", "IN", "AT"}
_REPEATS = {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}
_ADVICE = "write how often at most, such as .{0,20}"


def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern as it is looked for: in lower case and capitals alike.

    Raises:
        ValueError: It is no pattern, or one that is not safe; see ``check_pattern``.
    """
    return re.compile(check_pattern(pattern), re.IGNORECASE)


def check_pattern(pattern: str) -> str:
    """Returns a pattern that is bounded.

    Raises:
        ValueError: It is blank or no pattern, is too long, matches an empty text, has what a normalised text never has,
            or could take long: by a repeat without end, a reference to a group, or too many ways.
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
    _check_width(tree)
    if ways > WAYS:
        raise ValueError(f"it can go more than {WAYS} ways from one place of a text, which can take long: {_ADVICE}")
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
    if op == "SUBPATTERN":
        return _ways(value[3])
    if op == "ATOMIC_GROUP":
        return _ways(value)
    if op in ("ASSERT", "ASSERT_NOT"):
        ways = _ways(value[1])
        # What is looked ahead at is no part of the width around it.
        _check_width(value[1])
        return ways
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


def _check_width(tree: Any) -> None:
    if tree.getwidth()[1] > WIDEST:
        raise ValueError(f"it can span more than {WIDEST} characters; {_ADVICE}")

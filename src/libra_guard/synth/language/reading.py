"""Reads what models write: numbered lines, one line; and says why where it cannot."""

from __future__ import annotations

import re
import unicodedata
from itertools import takewhile

from libra_guard.synth.seats.failure import UnreadableError

_NUMBERED = re.compile(r"^\s*(?:[-*•]\s*)?(?:\d{1,3}\s*[.、．:：)）]|[(（]\d{1,3}[)）]|[①-⑳])\s*(.+?)\s*$")
_QUOTES = {"“": "”", '"': '"', "「": "」", "『": "』", "‘": "’"}
# Where a model that was to write a list goes on with something else.
_ELSE = re.compile(r"^\s*(?:#|话题[:：]|用户说[:：])")
LEAST_CHINESE = 0.3
"""Share of Han characters among letters and digits from which on a text counts as Chinese."""


def numbered_lines(text: str) -> list[str]:
    """The texts behind the numbers, each once, in order, up to where something else begins.

    Raises:
        UnreadableError: There are none, or what stands there is not Chinese.
    """
    listed = takewhile(lambda line: not _ELSE.match(line), text.splitlines())
    found = [unquoted(match[1]) for line in listed if (match := _NUMBERED.match(line))]
    lines = list(dict.fromkeys(line for line in found if line))
    if not lines:
        raise UnreadableError("no numbered lines" if text.strip() else "an empty answer")
    if len(lines) * 2 <= len(found):
        raise UnreadableError("the same lines again and again")
    chinese = [line for line in lines if is_chinese(line)]
    if not chinese:
        raise UnreadableError("not Chinese")
    return chinese


def unquoted(text: str) -> str:
    """A text without the quotation marks around it."""
    text = text.strip()
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[-1] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def is_chinese(text: str, least: float = LEAST_CHINESE) -> bool:
    """Whether enough of a text's letters and digits are Han characters."""
    counted = [c for c in text if unicodedata.category(c)[0] in "LN"]
    han = sum(unicodedata.name(c, "").startswith("CJK") for c in counted)
    return bool(counted) and han >= least * len(counted)

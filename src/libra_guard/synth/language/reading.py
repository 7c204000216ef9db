"""Reads what models write: numbered lines, pairs, prose; and says why where it cannot."""

from __future__ import annotations

import re
import unicodedata
from itertools import takewhile
from typing import Any

import json_repair

from libra_guard.guards.thoughts import without_thoughts
from libra_guard.records import check_text
from libra_guard.synth.language.refusals import is_refusal
from libra_guard.synth.seats.failure import UnreadableError

_NUMBERED = re.compile(r"^\s*(?:[-*•]\s*)?(?:(\d{1,3})\s*[.、．:：)）]|[(（]\d{1,3}[)）]|[①-⑳])\s*(.+?)\s*$")
_DECIMAL = re.compile(r"^\s*(?:[-*•]\s*)?\d{1,3}[.．:：]\d")
_CONTINUED = re.compile(r"^\s+\S")
_QUOTES = {"“": "”", '"': '"', "「": "」", "『": "』", "‘": "’"}
# Where a model that was to write a list goes on with something else.
_ELSE = re.compile(r"^\s*(?:#|话题[:：]|用户说[:：])")
LEAST_CHINESE = 0.3
"""Share of Han characters among letters and digits from which on a text counts as Chinese."""
_SENTENCE = re.compile(r"[。！？；!?;\n]+")
_SENTENCES = 8
"""So many, of which a third differ at most, are an endless repetition."""
_REPEATED = 40
"""Characters at the end of a text that are one piece four times or more: an endless repetition."""
_PIECE = 200
"""The longest piece."""


def numbered_lines(text: str, *, every: bool = False) -> list[str]:
    """The texts behind the numbers, each once, in order, up to where something else begins.

    An indented line right below one goes on with it. A point between two digits belongs to a number (3.5万元) unless
    the first is the next one of the list.

    Args:
        text: A model's answer.
        every: Also those that are not Chinese, where others are, and those that stand there twice.

    Raises:
        UnreadableError: There are none, or what stands there is not Chinese, a refusal or cannot be written.
    """
    found = [line for line in map(unquoted, _listed(writable(text).replace("**", ""))) if line]
    lines = list(dict.fromkeys(found))
    if not lines:
        raise UnreadableError("a refusal" if is_refusal(text) else "no numbered lines")
    if len(lines) * 2 <= len(found):
        raise UnreadableError("the same lines again and again")
    chinese = [line for line in lines if is_chinese(line)]
    if not chinese:
        raise UnreadableError("not Chinese")
    return found if every else chinese


def pairs(text: str) -> list[tuple[str, str]]:
    """The questions and answers in a JSON list of ``{"问题": …, "回答": …}``, each pair once, in order.

    Raises:
        UnreadableError: There is no such list, or an object of it lacks a text.
    """
    said = writable(text)
    start = said.find("[")
    found = json_repair.loads(said[start:]) if start >= 0 else None
    if not isinstance(found, list) or not found:
        raise UnreadableError("no JSON list")
    read = [_pair(one) for one in found]
    return list(dict.fromkeys(read))


def _pair(found: Any) -> tuple[str, str]:
    question, response = (found.get("问题"), found.get("回答")) if isinstance(found, dict) else (None, None)
    if not isinstance(question, str) or not isinstance(response, str):
        raise UnreadableError("an object without 问题 and 回答")
    return writable(question.strip()), writable(response.strip())


def spoken(text: str) -> str:
    """What a model says once it has thought; where its chat template began the thoughts, their end alone stands there.

    Raises:
        UnreadableError: The thoughts do not end.
    """
    thoughts, ended, said = text.partition("</think>")
    if ended and "<think>" not in thoughts:
        return said
    said = without_thoughts(text)
    if not ended and said != text:
        raise UnreadableError("thoughts without an end")
    return said


def writable(text: str) -> str:
    """A model's answer.

    Raises:
        UnreadableError: It is empty, or no file can hold it.
    """
    if not text.strip():
        raise UnreadableError("an empty answer")
    try:
        return check_text(text, "the answer")
    except ValueError as error:
        raise UnreadableError(str(error)) from None


def repeats(text: str) -> bool:
    """Whether a text ends in, or mostly is, one thing said again and again."""
    sentences = [bare for one in _SENTENCE.split(text) if (bare := re.sub(r"[\W\d_]+", "", one))]
    if len(sentences) >= _SENTENCES and len(set(sentences)) * 3 <= len(sentences):
        return True
    return any(_repeated(text, size) for size in range(1, min(_PIECE, len(text) // 4) + 1))


def _repeated(text: str, size: int) -> bool:
    """Whether the end is a piece of so many characters, a letter or digit among them, four times or more."""
    least = max(_REPEATED, 4 * size)
    end = text[-least:]
    return len(end) == least and end[size:] == end[:-size] and any(c.isalnum() for c in end[:size])


def _listed(text: str) -> list[str]:
    """The numbered texts as they stand there."""
    found: list[str] = []
    last, goes_on = 0, False
    for line in takewhile(lambda line: not _ELSE.match(line), text.splitlines()):
        match = _NUMBERED.match(line)
        number = int(match[1] or last + 1) if match else 0
        if match and (number == last + 1 or not _DECIMAL.match(line)):
            found.append(match[2])
            last, goes_on = number, True
        elif goes_on and _CONTINUED.match(line):
            found[-1] += f" {line.strip()}"
        else:
            goes_on = False
    return found


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

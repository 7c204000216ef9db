"""One spelling for what looks alike: what the classifier guards read, in training and in use."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# Format characters (zero-width space and joiners, direction marks, soft hyphen), variation selectors and controls
# are used to break words apart so that a filter does not see them. Tab and line ends stay.
_INVISIBLE = re.compile(
    "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\xad\\u061c\\u180e\\u200b-\\u200f"
    "\\u202a-\\u202e\\u2060-\\u206f\\ufe00-\\ufe0f\\ufeff]"
)
_BLANKS = re.compile(r"[ \t\u3000]+")
_LINES = re.compile(r"\s*\n\s*")
# What a terminal obeys, and what turns the direction of the text around it. Direction marks turn nothing.
_COMMANDS = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]")
_UNSEEN = re.compile(rf"{_INVISIBLE.pattern}|\s")


def normalise(text: str) -> str:
    """NFKC, no invisible characters, one space for many, one line end for many.

    Returns:
        The text stripped; empty where nothing visible is left.
    """
    text = _INVISIBLE.sub("", _nfkc(text))
    return _LINES.sub("\n", _BLANKS.sub(" ", text)).strip()


def written(text: str, start: int, end: int) -> str:
    """The part of a text that stands at ``start`` to ``end`` of ``normalise(text)``, as it was written.

    Returns:
        What became several characters (㍿), or one out of several (a letter and its accent), is whole in it; white
        space and invisible characters around it are not.
    """
    # After NFKC nothing else is changed, so the number of the other characters tells the place.
    read = normalise(text)
    first, last = _seen(read[:start]), _seen(read[:end])
    parts, seen = list[str](), 0
    for group in _groups(text) if first < last else ():
        seen += _seen(_nfkc(group))
        if seen > first:
            parts.append(group)
        if seen >= last:
            break
    return "".join(parts)


def quotable(text: str) -> str:
    """The text on one line; what would act on the text around it is shown as U+FFFD."""
    lines = (line.strip() for line in text.splitlines())
    return _COMMANDS.sub("\ufffd", " ".join(lines).replace("\t", " "))


def _seen(text: str) -> int:
    return len(_UNSEEN.sub("", text))


def _groups(text: str) -> Iterator[str]:
    """The text in parts that NFKC changes each by itself."""
    begin = 0
    for i, character in enumerate(text):
        # Marks are put in order and joined to what they follow; so are a few letters, as a Hangul syllable's vowel.
        if i == begin or unicodedata.combining(unicodedata.normalize("NFKD", character)[0]):
            continue
        if _nfkc(text[begin : i + 1]) == _nfkc(text[begin:i]) + _nfkc(character):
            yield text[begin:i]
            begin = i
    if text:
        yield text[begin:]


def _nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", text)

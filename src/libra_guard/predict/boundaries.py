"""Where a text that is still being written may be cut: after a sentence, and never inside what is shown as one."""

from __future__ import annotations

import re
import unicodedata

from libra_guard.records import is_visible

_ENDS = frozenset("。！？；…｡‼⁇⁈⁉\n\r\u0085\u2028\u2029")
"""They end a sentence whatever follows."""
_ASCII_ENDS = frozenset(".!?;")
"""They end one before white space or before what is not ASCII: not in 3.14, a?b=c or x!=y."""
_CLOSING = frozenset("”’」』）】》〉)]}\"'*_`~")
"""Quotes, brackets and Markdown's marks belong to the sentence that they close."""
_ABBREVIATED = re.compile(r"(?:\b[A-Za-z]|(?:^|\n)[ \t]*\d+|\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|cf|approx|No|Fig))\.$")
"""Before white space: an initial, the number of a list item, an abbreviation."""
_CLAUSE = re.compile(r"[，,、：:。！？!?；;…\s][”’」』）)】》\s]*")
_ZWJ = "\u200d"


class SentenceEnds:
    """Reads a text character by character, and tells where sentences end.

    An end is told with the first character after it, for closing quotes, line ends and all that shows nothing belong to
    the sentence.
    A wrong end is no harm: it makes an early look possible.
    """

    def __init__(self) -> None:
        self._ended = False
        self._marked = False
        """The last character but closing ones was an ASCII mark, of which the next character decides."""
        self._line = ""

    def ends_before(self, character: str) -> bool:
        """Takes the next character; whether a sentence ended before it."""
        if character in _ENDS:
            self._ended, self._marked = True, False
        elif character in _ASCII_ENDS:
            self._marked = not self._ended
        elif character.isspace():
            self._ended = self._ended or (self._marked and not _ABBREVIATED.search(self._line))
            self._marked = False
        elif character not in _CLOSING and is_visible(character) and not joins(character):
            ended = self._ended or (self._marked and not character.isascii())
            self._ended = self._marked = False
            self._line = character if ended else (self._line + character)[-12:]
            return ended
        self._line = (self._line + character)[-12:]
        return False


def joins(character: str) -> bool:
    """Whether it is shown as one with what stands before it: a mark, a joiner, a skin tone, a tag, a Jamo."""
    code = ord(character)
    return (
        unicodedata.category(character)[0] == "M"
        or character == _ZWJ
        or 0x1F3FB <= code <= 0x1F3FF
        or 0xE0020 <= code <= 0xE007F
        or 0x1160 <= code <= 0x11FF
    )


def whole(text: str, end: int, start: int = 0) -> int:
    """The last place up to ``end``, and after ``start``, that is not inside a character as it is shown; else 0."""
    return next((place for place in range(end, start, -1) if not _inside(text, place)), 0)


def overlap_start(text: str, cut: int, most: int) -> int:
    """Where the text begins that is judged again with what follows ``cut``: at most ``most`` characters before it.

    Begins with a sentence or a clause where one begins in the first half of them.
    """
    start = cut - most
    if start <= 0:
        return 0
    # One character more tells whether a clause begins right at the start.
    found = _CLAUSE.search(text, start - 1, cut - most // 2)
    return found.end() if found else next((at for at in range(start, cut) if not _inside(text, at)), cut)


def _inside(text: str, place: int) -> bool:
    before, after = text[place - 1], text[place : place + 1]
    if before == _ZWJ or (after and joins(after)) or (before, after) == ("\r", "\n"):
        return True
    if not _regional(before):
        return False
    # Flags are pairs: an odd number of their letters before the place leaves one open.
    count = 1
    while count < place and _regional(text[place - 1 - count]):
        count += 1
    return count % 2 == 1 and (not after or _regional(after))


def _regional(character: str) -> bool:
    return 0x1F1E6 <= ord(character) <= 0x1F1FF

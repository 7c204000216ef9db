"""What is no language in a text (placeholders, addresses, code, quantities), behind marks while it is translated."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from libra_guard.synth.seats.failure import UnreadableError

_UNITS = (
    "km/h|mph|kg|mg|μg|mcg|ug|g|lbs?|oz|km|cm|mm|m|ft|in|mi|ml|mL|l|L|gal|hrs?|h|min|s|ms|[kKmMgGtT][bB]|[kMG]?Hz|k?W|V|A|"
    r"mAh|°C|°F|°|psi|ppm|kcal|cal|k?J|USD|EUR|GBP|[AaPp]\.?[Mm]\b\.?"
)
_KEPT = re.compile(
    r"```.*?```|~~~.*?~~~|`[^`\n]+`"  # code
    r"|⟦[^⟧]*⟧|[⟦⟧]"  # what looks like a mark already
    r"|(?:(?:https?|ftp)://|\bwww\.)[^\s<>\"'）)\]]*[^\s<>\"'）)\].,;:!?]"  # addresses
    r"|[\w.+-]+@[\w-]+(?:\.[\w-]+)+"
    r"|\$?\{\{?[^{}\n]{1,60}\}?\}|%\([A-Za-z_]\w*\)[sd]"  # {name}, {{name}}, ${name}, %(name)s
    r"|\[[A-Z][A-Z0-9_ -]*\]|</?[A-Za-z_|][^<>\n]{0,80}>"  # [MASK], <tag>
    # Numbers are the translator's business, unless they measure something.
    rf"|[$€£¥]\s?\d[\d,]*(?:\.\d+)?|(?<![\w.])\d[\d,]*(?:\.\d+)?(?:\s?%|\s?(?:{_UNITS})(?!\w))",
    re.DOTALL,
)
_MARK = re.compile(r"⟦\s*(\d+)\s*⟧")
_BRACKET = re.compile("[⟦⟧]")


class Masked(NamedTuple):
    """A text with marks ⟦1⟧, ⟦2⟧, … in place of what is not translated."""

    text: str
    kept: tuple[str, ...]
    """What stood there, in order."""


def mask(text: str) -> Masked:
    """The text with its marks; every place has one of its own."""
    kept: list[str] = []

    def put(match: re.Match[str]) -> str:
        kept.append(match[0])
        return f"⟦{len(kept)}⟧"

    return Masked(_KEPT.sub(put, text), tuple(kept))


def unmask(text: str, kept: Sequence[str]) -> str:
    """The text with what its marks stand for.

    Raises:
        UnreadableError: A mark is lost, there twice, or invented.
    """
    count = Counter(int(number) for number in _MARK.findall(text))
    for number in range(1, len(kept) + 1):
        if count[number] != 1:
            raise UnreadableError("a mark is there twice" if count[number] else "a mark is lost")
    if count.total() > len(kept) or _BRACKET.search(without_marks(text)):
        raise UnreadableError("a mark is invented")
    return _MARK.sub(lambda match: kept[int(match[1]) - 1], text)


def without_marks(text: str) -> str:
    """The text with a blank in place of each mark."""
    return _MARK.sub(" ", text)

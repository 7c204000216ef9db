"""Chinese ways of evasion, by rule: how words are written so that a filter does not see them and a person does.

Each way is a pure function of a text and a ``Random``; it returns None where it cannot apply. The tables are this
project's own (``grammar/evasion.yaml``); readings come from pypinyin, traditional characters from OpenCC.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any, NamedTuple

import yaml

from libra_guard.errors import require

Span = tuple[int, int]
"""Start and end of a part of a text."""

_EXTRA = "synth"
_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_RUN = re.compile(f"[{_HAN}]+")
_SHARE = 0.4
"""Of a text's Han characters, that a way changes at most where it changes more than one word: it stays readable."""
_LINES = range(4, 13)
"""Characters of a text that an acrostic can hold."""
_ZERO_WIDTH = "\u200b\u200c\u200d\u2060"
_POINTS = re.compile(r"[\s，。！？、；：,.!?;:~…]+")
_HALF = {c: c + 0xFEE0 for c in (*range(0x30, 0x3A), *range(0x41, 0x5B), *range(0x61, 0x7B))}
_FULL = {full: half for half, full in _HALF.items()}


class Method(NamedTuple):
    """One way of evasion."""

    title: str
    """Its Chinese name."""
    apply: Callable[[str, Random], str | None]
    """From a text to the text written otherwise; None where it cannot apply."""
    reversible: bool
    """Whether a table or a normal form brings the text back, with no knowledge of what its words mean."""


def homophones(text: str, random: Random) -> str | None:
    """谐音: characters become others of the same sound, of the same tone where there are such."""
    table, readings = _by_sound(), _readings(text)

    def others(start: int) -> list[str]:
        reading = readings.get(start, "")
        same = [c for c in table.get(reading, ()) if c != text[start]]
        bare = reading.rstrip("12345")
        return same or [c for tone in "12345" for c in table.get(bare + tone, ()) if c != text[start]]

    places = [(i, i + 1) for i in _content(text) if others(i)]
    return _written(text, _some(places, text, random), lambda start, _: random.choice(others(start)))


def split_characters(text: str, random: Random) -> str | None:
    """拆字: characters fall into the two parts that stand side by side in them."""
    table = _tables()["splits"]
    places = [(i, i + 1) for i in _content(text) if text[i] in table]
    return _written(text, _some(places, text, random), lambda start, _: str(table[text[start]]))


def pinyin(text: str, random: Random) -> str | None:
    """拼音: words are written in Latin letters, without tones."""
    return _latin(text, random, "NORMAL")


def initials(text: str, random: Random) -> str | None:
    """拼音缩写: words become the first letters of their syllables."""
    return _latin(text, random, "FIRST_LETTER")


def look_alikes(text: str, random: Random) -> str | None:
    """火星文: characters become others that look or sound much like them."""
    table = _tables()["look_alikes"]
    places = [(i, i + 1) for i, c in enumerate(text) if c in table]
    return _written(text, _some(places, text, random), lambda start, _: str(table[text[start]]))


def traditional(text: str, random: Random) -> str | None:
    """繁体: the whole text in traditional characters."""
    converted = str(_opencc().convert(text))
    return converted if converted != text else None


def acrostic(text: str, random: Random) -> str | None:
    """藏头: the text's characters begin the lines of a verse, and the user asks to read them; short texts only."""
    characters = _POINTS.sub("", text)
    if len(characters) not in _LINES or not _RUN.fullmatch(characters):
        return None
    table = _tables()["acrostic"]
    tails = random.sample(table["tails"], len(characters))
    ends = ("，" if i % 2 == 0 and i < len(characters) - 1 else "。" for i in range(len(characters)))
    lines = (c + tail + end for c, tail, end in zip(characters, tails, ends, strict=True))
    return "\n".join([random.choice(table["requests"]), *lines])


def emoji(text: str, random: Random) -> str | None:
    """Words become their emoji."""
    table = _tables()["emoji"]
    longest_first = "|".join(sorted(table, key=len, reverse=True))
    places = [found.span() for found in re.finditer(longest_first, text)]
    return _written(text, _some(places, text, random), lambda start, end: str(table[text[start:end]]))


def zero_width(text: str, random: Random) -> str | None:
    """零宽字符: something invisible stands between the characters of words."""
    places = _some(_words(text), text, random)
    return _written(text, places, lambda start, end: _joined(text[start:end], _ZERO_WIDTH, random))


def spaced(text: str, random: Random) -> str | None:
    """空格: a blank or a mark stands between the characters of words, the same one in all of them."""
    places = _some(_words(text), text, random)
    separator = random.choice(_tables()["separators"])
    return _written(text, places, lambda start, end: str(separator).join(text[start:end]))


def widths(text: str, random: Random) -> str | None:
    """全角半角: letters and digits of half width become those of full width, or the other way round."""
    for table in (_HALF, _FULL):
        if (converted := text.translate(table)) != text:
            return converted
    return None


METHODS: dict[str, Method] = {
    "homophones": Method("谐音", homophones, False),
    "split_characters": Method("拆字", split_characters, True),
    "pinyin": Method("拼音", pinyin, False),
    "initials": Method("拼音缩写", initials, False),
    "look_alikes": Method("火星文", look_alikes, True),
    "traditional": Method("繁体", traditional, True),
    "acrostic": Method("藏头", acrostic, True),
    "emoji": Method("表情符号", emoji, True),
    "zero_width": Method("零宽字符", zero_width, True),
    "spaced": Method("空格", spaced, True),
    "widths": Method("全角半角", widths, True),
}
"""The ways, by the names that settings call them."""


def _latin(text: str, random: Random, style: str) -> str | None:
    library = require("pypinyin", _EXTRA)

    def letters(start: int, end: int) -> str:
        return "".join(library.lazy_pinyin(text[start:end], style=library.Style[style]))

    return _written(text, _some(_words(text), text, random), letters)


def _some(places: Sequence[Span], text: str, random: Random) -> list[Span]:
    """Places drawn until they hold their share of the text's Han characters, one at least."""
    left = _SHARE * sum(map(len, _RUN.findall(text)))
    drawn: list[Span] = []
    for start, end in random.sample(places, len(places)):
        if drawn and end - start > left:
            break
        drawn.append((start, end))
        left -= end - start
    return sorted(drawn)


def _written(text: str, places: Iterable[Span], write: Callable[[int, int], str]) -> str | None:
    """The text with these places written anew; None where nothing changes."""
    parts, last = list[str](), 0
    for start, end in places:
        parts += [text[last:start], write(start, end)]
        last = end
    written = "".join(parts) + text[last:]
    return written if written != text else None


def _runs(text: str) -> list[Span]:
    """Maximal runs of Han characters between function words."""
    return [
        (start, end)
        for run in _RUN.finditer(text)
        for start, end in _between(_function_words(), text, *run.span())
        if start < end
    ]


def _between(pattern: re.Pattern[str], text: str, start: int, end: int) -> list[Span]:
    found = [match.span() for match in pattern.finditer(text, start, end)]
    return list(zip([start, *(e for _, e in found)], [*(s for s, _ in found), end], strict=True))


def _words(text: str) -> list[Span]:
    """Content words: runs of two or three characters, and longer ones in pairs, as most Chinese words are."""
    words: list[Span] = []
    for start, end in _runs(text):
        while end - start > 3:
            words.append((start, start + 2))
            start += 2
        if end - start > 1:
            words.append((start, end))
    return words


def _content(text: str) -> list[int]:
    """Places of the characters of content words; where a text has none, of all that stand between function words."""
    return [i for start, end in _words(text) or _runs(text) for i in range(start, end)]


def _readings(text: str) -> dict[int, str]:
    """Place → syllable with its tone, of characters in content words; runs are read whole, as 银行 and 行人 differ."""
    library = require("pypinyin", _EXTRA)
    found: dict[int, str] = {}
    for start, end in _runs(text):
        syllables = library.lazy_pinyin(text[start:end], style=library.Style.TONE3, neutral_tone_with_five=True)
        found |= dict(zip(range(start, end), syllables, strict=True))
    return found


def _joined(word: str, between: str, random: Random) -> str:
    return word[0] + "".join(random.choice(between) + c for c in word[1:])


@cache
def _tables() -> dict[str, Any]:
    text = (files("libra_guard.synth") / "texts" / "grammar" / "evasion.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


@cache
def _function_words() -> re.Pattern[str]:
    return re.compile("|".join(sorted(_tables()["function_words"], key=len, reverse=True)))


@cache
def _by_sound() -> dict[str, tuple[str, ...]]:
    """Syllable with its tone → common characters: the first level of GB 2312, 3,755 of them."""
    library = require("pypinyin", _EXTRA)
    codes = (bytes((high, low)) for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF))
    level = "".join(code.decode("gb2312", "ignore") for code in codes)
    sounds: dict[str, list[str]] = {}
    for character in level:
        reading = library.lazy_pinyin(character, style=library.Style.TONE3, neutral_tone_with_five=True)[0]
        sounds.setdefault(reading, []).append(character)
    return {reading: tuple(characters) for reading, characters in sounds.items()}


@cache
def _opencc() -> Any:
    return require("opencc", _EXTRA).OpenCC("s2t")

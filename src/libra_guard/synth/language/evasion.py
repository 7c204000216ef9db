"""Chinese ways of evasion, by rule: how words are written so that a filter does not see them and a person does.

Each way is a pure function of a text, a ``Random`` and what the text is about; it returns None where it cannot apply.
Who writes so changes two or three words that matter and leaves the others: words of what the text is about go first,
then other content words. The tables are this project's own (``grammar/evasion.yaml``); readings and words come from
pypinyin, traditional characters from OpenCC.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.resources import files
from itertools import pairwise
from random import Random
from typing import Any, NamedTuple, Protocol

import yaml

from libra_guard.errors import require

Span = tuple[int, int]
"""Start and end of a part of a text."""

_EXTRA = "synth"
_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_RUN = re.compile(f"[{_HAN}]+")
_SHARE = 0.4
"""Of a text's Han characters, that a way changes at most where it changes more than one word: it stays readable."""
_MOST = 3
"""Words that a way changes at most."""
_COMMONEST = 3
"""Characters of a sound, the commonest ones, of which one is written: nobody reads the others."""
_LINES = range(4, 13)
"""Characters of a text that an acrostic can hold."""
_ZERO_WIDTH = "\u200b\u200c\u200d\u2060"
_POINTS = re.compile(r"[\s，。！？、；：,.!?;:~…]+")
_HALF = {c: c + 0xFEE0 for c in (*range(0x30, 0x3A), *range(0x41, 0x5B), *range(0x61, 0x7B))}
_FULL = {full: half for half, full in _HALF.items()}


_LEVEL = 2500
"""Characters that everybody reads."""


class _Apply(Protocol):
    def __call__(self, text: str, random: Random, focus: str = "", /) -> str | None: ...


class Method(NamedTuple):
    """One way of evasion."""

    title: str
    """Its Chinese name."""
    apply: _Apply
    """From a text, and what it is about, to the text written otherwise; None where it cannot apply: to what the text is
    about, where that stands in it."""
    reversible: bool
    """Whether a table or a normal form brings the text back, with no knowledge of what its words mean."""


def homophones(text: str, random: Random, focus: str = "") -> str | None:
    """谐音: words become common characters of the same sound, of the same tone where there are such."""
    table, readings = _by_sound(), _readings(text)

    def others(start: int) -> list[str]:
        reading = readings.get(start, "")
        same = [c for c in table.get(reading, ()) if c != text[start]]
        bare = reading.rstrip("12345")
        return same or [c for tone in "12345" for c in table.get(bare + tone, ()) if c != text[start]]

    def other(place: int) -> str:
        found = others(place)
        return random.choice(found[:_COMMONEST]) if found else text[place]

    places = _holding(text, focus, lambda place: bool(others(place)))
    return _written(text, _some(places, text, random, focus), lambda start, end: "".join(map(other, range(start, end))))


def split_characters(text: str, random: Random, focus: str = "") -> str | None:
    """拆字: characters of words fall into the two parts that stand side by side in them."""
    return _by_table(_tables()["splits"], text, random, focus)


def pinyin(text: str, random: Random, focus: str = "") -> str | None:
    """拼音: words are written in Latin letters, without tones."""
    return _latin(text, random, focus, "NORMAL")


def initials(text: str, random: Random, focus: str = "") -> str | None:
    """拼音缩写: words become the first letters of their syllables."""
    return _latin(text, random, focus, "FIRST_LETTER")


def look_alikes(text: str, random: Random, focus: str = "") -> str | None:
    """火星文: characters of words become others that look or sound much like them."""
    return _by_table(_tables()["look_alikes"], text, random, focus)


def traditional(text: str, _: Random, __: str = "") -> str | None:
    """繁体: the whole text in traditional characters."""
    converted = str(_opencc().convert(text))
    return converted if converted != text else None


def acrostic(text: str, random: Random, _: str = "") -> str | None:
    """藏头: the text's characters begin the lines of a verse, and the user asks to read them; short texts only."""
    characters = _POINTS.sub("", text)
    if len(characters) not in _LINES or not _RUN.fullmatch(characters):
        return None
    table = _tables()["acrostic"]
    tails = random.sample(table["tails"], len(characters))
    ends = ("，" if i % 2 == 0 and i < len(characters) - 1 else "。" for i in range(len(characters)))
    lines = (c + tail + end for c, tail, end in zip(characters, tails, ends, strict=True))
    return "\n".join([random.choice(table["requests"]), *lines])


def emoji(text: str, random: Random, focus: str = "") -> str | None:
    """Words become their emoji."""
    table = _tables()["emoji"]
    longest_first = "|".join(sorted(table, key=len, reverse=True))
    places = [found.span() for found in re.finditer(longest_first, text)]
    return _written(text, _some(places, text, random, focus), lambda start, end: str(table[text[start:end]]))


def zero_width(text: str, random: Random, focus: str = "") -> str | None:
    """零宽字符: something invisible stands between the characters of words."""
    places = _some(_words(text, focus), text, random, focus)
    return _written(text, places, lambda start, end: _joined(text[start:end], _ZERO_WIDTH, random))


def spaced(text: str, random: Random, focus: str = "") -> str | None:
    """空格: a blank or a mark stands between the characters of words, the same one in all of them."""
    places = _some(_words(text, focus), text, random, focus)
    separator = random.choice(_tables()["separators"])
    return _written(text, places, lambda start, end: str(separator).join(text[start:end]))


def widths(text: str, _: Random, __: str = "") -> str | None:
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


def content(text: str) -> set[str]:
    """The characters of a text's content words."""
    return {text[i] for start, end in _words(text) or _runs(text) for i in range(start, end)}


def _latin(text: str, random: Random, focus: str, style: str) -> str | None:
    library = require("pypinyin", _EXTRA)

    def letters(start: int, end: int) -> str:
        return "".join(library.lazy_pinyin(text[start:end], style=library.Style[style]))

    return _written(text, _some(_words(text, focus), text, random, focus), letters)


def _by_table(table: dict[str, str], text: str, random: Random, focus: str) -> str | None:
    places = _holding(text, focus, lambda place: text[place] in table)
    return _written(
        text, _some(places, text, random, focus), lambda start, end: "".join(table.get(c, c) for c in text[start:end])
    )


def _holding(text: str, focus: str, fits: Callable[[int], bool]) -> list[Span]:
    """Content words with a fitting character; where there is none, such characters between function words, or any."""
    words = [(start, end) for start, end in _words(text, focus) if any(map(fits, range(start, end)))]
    between = (i for start, end in _runs(text) for i in range(start, end))
    return words or [(i, i + 1) for i in between if fits(i)] or [(i, i + 1) for i in range(len(text)) if fits(i)]


def _some(places: Sequence[Span], text: str, random: Random, focus: str) -> list[Span]:
    """A few places, drawn until they hold their share of the text's Han characters, one at least where there is one.

    Where the text holds what it is about, of that alone: the rest in disguise would hide nothing.
    """
    at = text.find(focus) if focus else -1
    inside = [(start, end) for start, end in places if at >= 0 and at <= start and end <= at + len(focus)]
    places = inside if at >= 0 else [(start, end) for start, end in places if text[start:end] in focus] or places
    left = _SHARE * sum(map(len, _RUN.findall(text)))
    drawn: list[Span] = []
    for start, end in random.sample(places, min(len(places), _MOST)):
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


def _words(text: str, focus: str = "") -> list[Span]:
    """Content words: those of the lexicon, and what stands beside them in pairs, or in threes at the end.

    Where the text holds what it is about, a word begins and ends there.
    """
    at = text.find(focus) if focus else -1
    cuts = {at, at + len(focus)} if at >= 0 else set()
    words: list[Span] = []
    for start, end in _runs(text):
        borders = [start, *sorted(cut for cut in cuts if start < cut < end), end]
        for begin, stop in pairwise(borders):
            words += _cut(text, begin, stop)
    return words


def _cut(text: str, start: int, end: int) -> list[Span]:
    lexicon = _lexicon()
    words: list[Span] = []
    while end - start > 1:
        size = next((n for n in (3, 2) if start + n <= end and text[start : start + n] in lexicon), 0)
        if not size:
            behind = start + 3 <= end and text[start + 1 : start + 3] in lexicon
            if behind and text[start + 2 : min(start + 4, end)] not in lexicon:
                start += 1
                continue
            size = 2 if end - start > 3 else end - start
        words.append((start, start + size))
        start += size
    return words


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
def _lexicon() -> frozenset[str]:
    """Words of two and three characters that pypinyin knows the readings of."""
    phrases = require("pypinyin.phrases_dict", _EXTRA).phrases_dict
    return frozenset(word for word in phrases if len(word) in (2, 3))


@cache
def _by_sound() -> dict[str, tuple[str, ...]]:
    """Syllable with its tone → common characters, the commonest first: ``_LEVEL`` of the first level of GB 2312.

    How common one is, is told by the number of words that it stands in.
    """
    library = require("pypinyin", _EXTRA)
    codes = (bytes((high, low)) for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF))
    level = "".join(code.decode("gb2312", "ignore") for code in codes)
    count = Counter(c for word in _lexicon() for c in word)
    sounds: dict[str, list[str]] = {}
    for character in sorted(level, key=lambda c: (-count[c], c))[:_LEVEL]:
        reading = library.lazy_pinyin(character, style=library.Style.TONE3, neutral_tone_with_five=True)[0]
        sounds.setdefault(reading, []).append(character)
    return {reading: tuple(characters) for reading, characters in sounds.items()}


@cache
def _opencc() -> Any:
    return require("opencc", _EXTRA).OpenCC("s2t")

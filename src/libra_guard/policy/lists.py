"""Allow and deny lists: texts that pass, and phrases and patterns that do not."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from re import Pattern
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BeforeValidator, InstanceOf, PlainSerializer

from libra_guard.configuration import Strict
from libra_guard.errors import UsageError
from libra_guard.guards.normalise import normalise
from libra_guard.guards.texts import read_text
from libra_guard.guards.words import WordList, word_key, word_lines
from libra_guard.policy.patterns import check_pattern, compiled, occurs
from libra_guard.records import check_text, is_visible
from libra_guard.taxonomy import scenario, sub_category


class Denied(NamedTuple):
    """An entry of a deny list."""

    place: str
    """``phrase 3``, ``pattern 1``, ``words.txt line 12``; never the phrase, which is part of somebody's text."""
    scenario: str | None = None
    """English name; None where the entry names none of Libra's."""


class PhraseFile(NamedTuple):
    """A file of phrases: one a line, then a tab and a scenario where there is one."""

    path: Path
    entries: tuple[tuple[str, Denied], ...]
    """What is looked for, and what is told where it is found."""
    strange: tuple[tuple[int, str], ...]
    """The first line of each category that is none of Libra's."""


class TextFile(NamedTuple):
    """A file of texts, one a line."""

    path: Path
    texts: tuple[tuple[int, str], ...]
    """Numbers of the lines, and the texts."""


def _read_phrases(value: Any) -> Any:
    path = _path(value)
    entries, strange = [], dict[str, int]()
    for number, key, entry in _told(word_lines, path):
        known = _scenario(entry.category)
        if entry.category and known is None:
            strange.setdefault(entry.category, number)
        entries.append((key, Denied(f"{path.name} line {number}", known)))
    return PhraseFile(path, tuple(entries), tuple((number, name) for name, number in strange.items()))


def _read_texts(value: Any) -> Any:
    path = _path(value)
    lines = enumerate(_told(read_text, path).split("\n"), 1)
    texts = tuple((n, text) for n, text in lines if any(map(is_visible, text)) and not text.lstrip().startswith("#"))
    if not texts:
        raise ValueError(f"{path}: there is no text in it")
    return TextFile(path, texts)


def _path(value: Any) -> Path:
    if not isinstance(value, str | Path):
        raise ValueError("the path of a file is needed")
    return Path(value)


def _told(read: Any, path: Path) -> Any:
    """What is read; what is wrong with the file is told with its place in the profile."""
    try:
        return read(path)
    except UsageError as error:
        raise ValueError(str(error)) from None


def _scenario(name: str) -> str | None:
    """The scenario of that name, or that a sub-category of that name belongs to."""
    for find in (scenario, lambda name: scenario(sub_category(name).scenario)):
        try:
            return str(find(name).name)
        except UsageError:
            continue
    return None


def _phrase(value: str) -> str:
    if not word_key(value):
        raise ValueError(f"'{value}' has no letter, digit or Chinese character")
    return check_text(value, "the phrase")


def _allowed(value: str) -> str:
    return check_text(value, "the text")


def _shown(value: PhraseFile | TextFile) -> str:
    return str(value.path.absolute())


Phrase = Annotated[str, AfterValidator(_phrase)]
PatternText = Annotated[str, AfterValidator(check_pattern)]
WholeText = Annotated[str, AfterValidator(_allowed)]
Phrases = Annotated[InstanceOf[PhraseFile], BeforeValidator(_read_phrases), PlainSerializer(_shown)]
Texts = Annotated[InstanceOf[TextFile], BeforeValidator(_read_texts), PlainSerializer(_shown)]


class DenyList(Strict):
    """Phrases and patterns that a text is blocked for, wherever in it they stand."""

    phrases: tuple[Phrase, ...] = ()
    """Found however they are broken apart and written; see ``WordList``."""
    patterns: tuple[PatternText, ...] = ()
    """Regular expressions; see ``check_pattern``. Looked for in the normalised text, with and without its punctuation
    and spaces."""
    files: tuple[Phrases, ...] = ()
    """Files of phrases."""

    def find(self, text: str) -> Denied | None:
        """The first entry that a text has something of."""
        if self._words and (found := self._words.find(text)):
            return found[0]
        forms = (normalise(text), word_key(text)) if self._patterns else ()
        for number, pattern in enumerate(self._patterns, 1):
            if any(occurs(pattern, form) for form in forms):
                return Denied(f"pattern {number}")
        return None

    @cached_property
    def _words(self) -> WordList[Denied]:
        entries: dict[str, tuple[Denied, ...]] = {}
        for key, denied in self._phrases():
            entries[key] = (*entries.get(key, ()), denied)
        return WordList(entries)

    def _phrases(self) -> Iterator[tuple[str, Denied]]:
        for number, phrase in enumerate(self.phrases, 1):
            yield word_key(phrase), Denied(f"phrase {number}")
        for file in self.files:
            yield from file.entries

    @cached_property
    def _patterns(self) -> tuple[Pattern[str], ...]:
        return tuple(map(compiled, self.patterns))


class AllowList(Strict):
    """Texts that pass, each as a whole."""

    texts: tuple[WholeText, ...] = ()
    files: tuple[Texts, ...] = ()
    """Files of texts, one a line; lines that begin with ``#`` are comments."""

    def find(self, text: str) -> str | None:
        """Where the text stands in the list; None where it does not.

        Forms that look alike, case, and white space at the ends make no difference. All else does: a text that has an
        allowed one in it, and an invisible character too, for models read what people do not see.
        """
        return self._texts.get(_whole(text))

    @cached_property
    def _texts(self) -> dict[str, str]:
        found = {_whole(text): f"text {number}" for number, text in enumerate(self.texts, 1)}
        for file in self.files:
            for line, text in file.texts:
                found.setdefault(_whole(text), f"{file.path.name} line {line}")
        return found

    @property
    def places(self) -> Mapping[str, str]:
        """Every text, as it is compared, with its place."""
        return self._texts


def _whole(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower().strip()

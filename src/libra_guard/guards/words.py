"""A list of sensitive words: no model, one pass over the text.

What is used to break a word apart is skipped: white space, characters of zero width, punctuation and symbols. Case and
forms that look alike (full width, ligatures; Unicode NFKC) make no difference.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from libra_guard.backends.base import Backend
from libra_guard.errors import UsageError
from libra_guard.guards.base import Guard
from libra_guard.guards.texts import read_text
from libra_guard.records import Conversation, Label, Verdict, is_visible

T = TypeVar("T")


class Entry(NamedTuple):
    """One line of a list."""

    word: str
    """As it is written there."""
    category: str
    """Empty where the line names none."""


class WordList(Generic[T]):
    """Finds words in texts.

    Args:
        entries: What is told of a word that is found, by what is looked for: its ``word_key``.
    """

    def __init__(self, entries: Mapping[str, tuple[T, ...]]) -> None:
        self._entries = entries
        # By first character, so that few texts are cut out and looked up.
        self._lengths: dict[str, set[int]] = {}
        for key in entries:
            self._lengths.setdefault(key[0], set()).add(len(key))

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, text: str) -> list[T]:
        """Of the words in a text, those within other words too, each once, in the order of their beginnings."""
        text = _folded(text)
        places = [i for i, character in enumerate(text) if _counts(character)]
        squeezed = "".join(text[i] for i in places)
        found: dict[T, None] = {}
        for start, first in enumerate(squeezed):
            for length in sorted(self._lengths.get(first, ())):
                piece = squeezed[start : start + length]
                entries = self._entries.get(piece, ())
                if entries and _whole(text, places[start], places[start + len(piece) - 1]):
                    found.update(dict.fromkeys(entries))
        return list(found)


class WordsGuard(Guard):
    """Judges the last message by the words in it: unsafe where there is one, whatever is said with it.

    A word that begins or ends with a Latin letter or a digit is not found inside a longer one.

    Args:
        backend: One that names a file as its ``model``: a word a line, then a tab and a category where there is one;
            lines that begin with ``#`` are comments.

    Raises:
        UsageError: The file cannot be read, or holds no word, or a line holds nothing that can be found.
    """

    name = "words"

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._words = WordList(read_words(Path(getattr(backend, "model", ""))))

    def provenance(self) -> dict[str, Any]:
        """See ``Guard.provenance``."""
        return {**super().provenance(), "words": len(self._words)}

    def find(self, text: str) -> list[Entry]:
        """The words in a text, those within other words too, each once, in the order of their beginnings."""
        return self._words.find(text)

    def _judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        return [_verdict(self.find(c.messages[-1].content)) for c in conversations]


def read_words(path: Path) -> dict[str, tuple[Entry, ...]]:
    """The entries of a list by what is looked for in a text.

    Raises:
        UsageError: See ``WordsGuard``.
    """
    found: dict[str, tuple[Entry, ...]] = {}
    for _, key, entry in word_lines(path):
        found[key] = (*found.get(key, ()), entry)
    return found


def word_lines(path: Path) -> list[tuple[int, str, Entry]]:
    """The lines of a list that name a word: their numbers from 1 on, what is looked for, and the entries.

    Raises:
        UsageError: See ``WordsGuard``.
    """
    found = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not any(map(is_visible, line)) or line.lstrip().startswith("#"):
            continue
        word, _, category = line.partition("\t")
        entry = Entry(word.strip(), category.strip())
        if not (key := word_key(entry.word)):
            raise UsageError(f"{path}: line {number}: '{entry.word}' has no letter, digit or Chinese character")
        found.append((number, key, entry))
    if not found:
        raise UsageError(f"{path}: there is no word in it")
    return found


def word_key(word: str) -> str:
    """What is looked for in place of a word: case, spaces and punctuation do not count; may be empty."""
    return "".join(filter(_counts, _folded(word)))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()


@lru_cache(maxsize=1 << 16)
def _counts(character: str) -> bool:
    """Whether a character is part of a word: neither of zero width nor punctuation nor a symbol."""
    kind = unicodedata.category(character)
    return is_visible(character) and kind[0] not in "PS" and kind not in ("Mn", "Me")


def _whole(text: str, first: int, last: int) -> bool:
    """Whether what stands there is no part of a longer word of Latin letters and digits."""
    before = text[first - 1 : first] + text[first]
    after = text[last : last + 2]
    return not any(len(two) == 2 and two.isascii() and two.isalnum() for two in (before, after))


def _verdict(found: Sequence[Entry]) -> Verdict:
    if not found:
        return Verdict(label=Label.SAFE, unsafe_score=0.0)
    return Verdict(
        label=Label.UNSAFE,
        unsafe_score=1.0,
        categories={entry.category: 1.0 for entry in found if entry.category},
        analysis=f"含有敏感词：{'、'.join(dict.fromkeys(entry.word for entry in found))}",
    )

"""Look-ups by any of a category's names, however they are capitalised and punctuated."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from typing import Generic, TypeVar

from libra_guard.errors import UsageError

T = TypeVar("T")


def slugify(name: str) -> str:
    """``"History & Common Sense"`` → ``"history_and_common_sense"``."""
    folded = unicodedata.normalize("NFKC", name).lower().replace("&", " and ")
    return "_".join("".join(c if c.isalnum() else " " for c in folded).split())


class NameIndex(Generic[T]):
    """Entries, each found by any of its names.

    Args:
        what: What an entry is, for the error: ``"scenario"``.
        entries: Each with its names; the first is the one that errors show.

    Raises:
        ValueError: One name belongs to two entries.
    """

    def __init__(self, what: str, entries: Iterable[tuple[T, Iterable[str]]]) -> None:
        self._what = what
        self._entries: dict[str, T] = {}
        self._spelt: dict[str, str] = {}
        self._shown: list[str] = []
        for entry, names in entries:
            for position, name in enumerate(names):
                key = slugify(name)
                if self._entries.setdefault(key, entry) is not entry:
                    raise ValueError(f"'{name}' names two of the {what} entries")
                self._spelt.setdefault(key, name)
                if position == 0:
                    self._shown.append(name)

    def find(self, name: str) -> T:
        """The entry called ``name``.

        Raises:
            UsageError: Nothing is called so; the message has the nearest names, or all.
        """
        key = slugify(name)
        if key in self._entries:
            return self._entries[key]
        within = [k for k in self._spelt if len(key) > 1 and key in k]
        close = difflib.get_close_matches(key, list(self._spelt), n=3, cutoff=0.5)
        near = [self._spelt[k] for k in dict.fromkeys(within + close)][:3]
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(self._shown)}"
        raise UsageError(f"there is no {self._what} '{name}'; {hint}")

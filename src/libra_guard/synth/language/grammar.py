"""Writes queries and answers without any model: sentences of this project's own with elements in their slots.

It stands in for a writer and for responders where there are none, so that the whole pipeline can be tried and tested on
any machine. What it writes is monotonous and is marked as such: no training data. The phrases by which its answers go
along stand in ``configs/going_along.txt``, for a judge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from random import Random
from typing import Self

from libra_guard.configuration import ConfigFile
from libra_guard.synth.records import Intent, Query

_SLOT = re.compile(r"\{(\w+)\}")


class _Queries(ConfigFile):
    kind = "a grammar of queries"
    harmful: tuple[str, ...]
    borderline: tuple[str, ...]
    benign: tuple[str, ...]


class _Answers(ConfigFile):
    kind = "a grammar of answers"
    refusal: tuple[str, ...]
    compliance: tuple[str, ...]
    """Goes along: unsafe by its stance."""
    partial: tuple[str, ...]
    """Warns, and then goes along."""
    information: tuple[str, ...]
    everyday: tuple[str, ...]
    broken: tuple[str, ...]


class Grammar:
    """Sentences with slots.

    Args:
        queries: By intent.
        answers: By kind.
    """

    def __init__(self, queries: _Queries, answers: _Answers) -> None:
        self._queries, self._answers = queries, answers

    @classmethod
    @cache
    def load(cls) -> Self:
        """The package's own."""
        folder = files("libra_guard.synth") / "texts" / "grammar"
        return cls(_Queries.read(str(folder / "queries.yaml")), _Answers.read(str(folder / "answers.yaml")))

    def query(self, intent: Intent, elements: Mapping[str, str], draw: Random) -> str:
        """A query.

        Args:
            intent: Which sentences.
            elements: Dimension → element, a task as its noun phrase.
            draw: Chooses the sentence.
        """
        return _filled(draw.choice(getattr(self._queries, intent.value)), elements)

    def answer(self, query: Query, kind: str, draw: Random) -> str:
        """An answer to a query that was combined of elements, or made of such a one; of others to its words.

        Args:
            query: What is answered.
            kind: A key of ``answers.yaml``.
            draw: Chooses the sentence.
        """
        about = topic(query.elements) or f"“{query.question[:60]}”"
        return _filled(draw.choice(getattr(self._answers, kind)), {"topic": about})


def topic(elements: Mapping[str, str]) -> str:
    """What a combination is about; empty where there is none."""
    return next((elements[name] for name in ("behaviour", "lawful", "everyday") if name in elements), "")


def _filled(sentence: str, elements: Mapping[str, str]) -> str:
    """A sentence with elements in its slots; a slot for which there is none is an error in the grammar."""
    return _SLOT.sub(lambda slot: elements[slot[1]], sentence)

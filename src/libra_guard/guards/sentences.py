"""A normalised text in sentences, of which one can be left out."""

from __future__ import annotations

import re

from libra_guard.backends.base import Span

MOST = 24
"""At most so many pieces, however long the text is: each costs a pass through the model."""

_SENTENCE = re.compile(r"[^。！？!?；;\n]+[。！？!?；;\n]*[”’」』）)]*")
_CLAUSE = re.compile(r"[^，,、：:。！？!?；;\n]+[，,、：:。！？!?；;\n]*")


def split_sentences(text: str) -> list[Span]:
    """Where the sentences stand; clauses where there is one sentence only; neighbours joined where there are many."""
    found = _spans(_SENTENCE, text)
    if len(found) < 2:
        found = _spans(_CLAUSE, text)
    size = max(1, -(-len(found) // MOST))
    return [Span(found[i].start, found[i : i + size][-1].end) for i in range(0, len(found), size)]


def _spans(pattern: re.Pattern[str], text: str) -> list[Span]:
    return [Span(*match.span()) for match in pattern.finditer(text) if match[0].strip()]

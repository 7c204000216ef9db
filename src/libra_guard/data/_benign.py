"""Ordinary question–answer pairs, safe by assumption: the hard part of a guard is to leave them alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from libra_guard.data.base import Converter, others, text
from libra_guard.errors import DataError
from libra_guard.records import Label


def safe_pair(*shapes: tuple[Sequence[str], str]) -> Converter:
    """A converter for rows of ``question`` and ``response``, or of one of ``shapes``.

    Args:
        *shapes: Names of the fields that make up the question, joined by a line break where not empty, and the name
            of the answer's field, as the authors publish them.
    """
    known: tuple[tuple[Sequence[str], str], ...] = ((("question",), "response"), *shapes)

    def convert(data: dict[str, Any]) -> list[dict[str, Any]]:
        for asked, answered in known:
            if answered in data and asked[0] in data:
                parts = (text(data, key).strip() for key in asked if data.get(key) is not None)
                return [
                    {
                        **others(data, *asked, answered),
                        "question": "\n".join(filter(None, parts)),
                        "response": text(data, answered),
                        "label": Label.SAFE,
                    }
                ]
        raise DataError(
            f"there are no fields {', nor '.join(f'{asked[0]} and {answered}' for asked, answered in known)}"
        )

    return convert

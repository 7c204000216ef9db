"""Texts in sentences: nothing is lost of a text but white space, and no text is too many."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libra_guard.guards.sentences import MOST, split_sentences


def pieces(text: str) -> list[str]:
    return [text[span.start : span.end] for span in split_sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n ", []),
        ("。！", []),
        ("水", ["水"]),
        ("一句。两句！三句?", ["一句。", "两句！", "三句?"]),
        ("他说：“走吧。”她没动。", ["他说：“走吧。”", "她没动。"]),
        ("真的？！是的……", ["真的？！", "是的……"]),
        ("第一行\n第二行", ["第一行\n", "第二行"]),
        ("只有一句，两个分句。", ["只有一句，", "两个分句。"]),
        ("一句，带分句。另一句。", ["一句，带分句。", "另一句。"]),
    ],
)
def test_pieces(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


@pytest.mark.parametrize(("number", "count"), [(MOST, MOST), (MOST + 1, 13), (10 * MOST, MOST)])
def test_of_many_sentences_neighbours_are_joined(number: int, count: int) -> None:
    found = pieces("一句。" * number)
    assert len(found) == count
    assert "".join(found) == "一句。" * number


@given(st.text("水火，。\n ”"))
def test_pieces_are_in_order_and_not_blank(text: str) -> None:
    spans = split_sentences(text)
    assert len(spans) <= MOST
    assert all(text[span.start : span.end].strip() for span in spans)
    assert all(a.end <= b.start for a, b in pairwise(spans))

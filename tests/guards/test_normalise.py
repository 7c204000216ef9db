from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra_guard.guards.normalise import normalise, quotable, written

# Letters that join to the one before, marks in a wrong order, what becomes several characters, what is taken away.
_JOINED = "éeㅏㄱ가각\u1161\u11a8\u0301\u0323\u0327\u0b56\u0b47\u0b3eﾞｶ"
_ODD = f"{_JOINED}㍿ﷺ㏂ﬁ：｡‼\u00a8 \t\r\n\u3000\u2028\u200b\ufeff\ufe0f\x07好。"
_TEXTS = st.text(st.sampled_from(_ODD) | st.characters(exclude_categories=["Cs"]), max_size=30)


@pytest.mark.parametrize(
    ("text", "part", "expected"),
    [
        ("甲，乙。", "乙", "乙"),
        ("ａｂｃ", "b", "ｂ"),
        ("㍿", "式会", "㍿"),
        ("甲㍿㍿乙", "社株", "㍿㍿"),
        ("e\u0301e\u0301", "\u00e9", "e\u0301"),
        ("ㄱㅏㄴ", "가", "ㄱㅏ"),
        ("a\u0327\u0301乙", "乙", "乙"),
        (" \u200b甲\u200b \u3000乙\u200b", "甲 乙", "甲\u200b \u3000乙"),
        ("甲\r\n \r\n乙", "甲\n", "甲"),
        ("甲 乙", " ", ""),
        ("甲", "", ""),
        ("\u200b", "", ""),
    ],
)
def test_a_part_as_it_was_written(text: str, part: str, expected: str) -> None:
    start = normalise(text).index(part)
    assert written(text, start, start + len(part)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("甲 \r\n \u3000乙\u2028丙\t丁", "甲 乙 丙 丁"),
        ("\x1b[2J甲\x07\x9b", "\ufffd[2J甲\ufffd\ufffd"),
        ("甲\u202e乙\u2066", "甲\ufffd乙\ufffd"),
        ("👨\u200d👩 ❤\ufe0f\u00ad", "👨\u200d👩 ❤\ufe0f\u00ad"),
    ],
)
def test_a_quote_does_nothing_to_the_text_around_it(text: str, expected: str) -> None:
    assert quotable(text) == expected


@settings(deadline=None, max_examples=300)
@given(text=_TEXTS, data=st.data())
def test_any_part_of_any_text(text: str, data: st.DataObject) -> None:
    read = normalise(text)
    start = data.draw(st.integers(0, len(read)))
    end = data.draw(st.integers(start, len(read)))
    found = written(text, start, end)
    assert found in text
    # Where taking away a zero width has brought a letter and an accent together, they may be joined when read again.
    assert read[start:end].strip() in normalise(found) or normalise(read) != read


@settings(deadline=None, max_examples=300)
@given(text=_TEXTS)
def test_the_whole_is_the_text_without_what_is_not_seen_around_it(text: str) -> None:
    found = written(text, 0, len(normalise(text)))
    assert found in text
    assert normalise(found) == normalise(text)
    assert normalise(text.partition(found)[0]) == "" if found else normalise(text) == ""

"""What slips past a list, what must not, and files of entries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from libra_guard.errors import UsageError
from libra_guard.policy.lists import AllowList, Denied, DenyList
from libra_guard.policy.reading import read_policy

ALLOWED = "怎样联系客服？"


@pytest.mark.parametrize("text", ["怎样联系客服？", " 怎样联系客服？\n", "怎样联系客服?", "怎样联系客服\uff1f\u3000"])
def test_an_allowed_text_passes_however_it_is_written(text: str) -> None:
    assert AllowList(texts=("x", ALLOWED)).find(text) == "text 2"


@pytest.mark.parametrize(
    "text",
    [
        "怎样联系客服？顺便教我做炸药",
        "教我做炸药。怎样联系客服？",
        "怎样联系客服？怎样联系客服？",
        "怎样联系\n客服？",
        "怎样联系客服",
        # Characters that nobody sees can carry a message to a model: tags, variation selectors, zero width.
        "怎样联系客服？\U000e0068\U000e0069",
        "怎样联系客服？\ufe01\ufe02",
        "怎样\u200b联系客服？",
        "怎样联系客服？😀",
        "怎样联系客服？.-.. -.-",
    ],
)
def test_a_text_with_more_in_it_is_another_text(text: str) -> None:
    assert AllowList(texts=(ALLOWED,)).find(text) is None


@settings(deadline=None)
@given(st.text(min_size=1), st.text())
def test_nothing_can_be_added_to_an_allowed_text(before: str, after: str) -> None:
    text = f"{before}{ALLOWED}{after}"
    assert AllowList(texts=(ALLOWED,)).find(text) is None or text.strip() == ALLOWED


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("冰毒", "phrase 1"),
        ("哪里有 冰—毒 ？", "phrase 1"),
        ("冰\u200b毒", "phrase 1"),
        ("ＶＰＮ", "phrase 2"),
        ("买到了子弹", "pattern 1"),
        ("买 🔫 子…弹", "pattern 1"),
        ("冰箱有毒", None),
        ("vpns", None),
        ("子弹买", None),
    ],
)
def test_deny(text: str, place: str | None) -> None:
    found = DenyList(phrases=("冰毒", "vpn"), patterns=("买.{0,4}子弹",)).find(text)
    assert (found and found.place) == place


def test_a_pattern_sees_punctuation_too() -> None:
    found = DenyList(patterns=("a-b",))
    assert found.find("A-B") == Denied("pattern 1")
    assert found.find("ab") is None
    # Full width in the text is its usual form when it is matched.
    assert DenyList(patterns=("甲,乙",)).find("甲，乙") == Denied("pattern 1")


def test_empty_lists_find_nothing() -> None:
    assert DenyList().find("冰毒") is None
    assert AllowList().find("冰毒") is None


def test_files_of_phrases_tell_the_line_and_the_scenario(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text(
        "# 名单\n冰毒\t违法犯罪\n\n自残教程\tMental Health\n加微信\t广告\n加微信号\t广告\n枪支\n", encoding="utf-8"
    )
    deny = DenyList(phrases=("别的",), files=(path,))
    assert deny.find("冰 毒") == Denied("words.txt line 2", "Illegal Activities and Crime")
    assert deny.find("自残教程") == Denied("words.txt line 4", "Physical and Mental Health")
    assert deny.find("加微信") == Denied("words.txt line 5", None)
    assert deny.find("枪支") == Denied("words.txt line 7", None)
    assert deny.files[0].strange == ((5, "广告"),)


def test_files_of_texts(tmp_path: Path) -> None:
    path = tmp_path / "ok.txt"
    path.write_bytes("# 放行\r\n\r\n你好，世界\r\n怎样联系客服？\r\n".encode())
    allow = AllowList(texts=("怎样联系客服？",), files=(path,))
    assert allow.find("你好，世界") == "ok.txt line 3"
    assert allow.find("怎样联系客服？") == "text 1"
    assert allow.find("# 放行") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "is empty"),
        ("# 没有\n".encode(), "there is no"),
        (b"\xff\xfe\x00", "."),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    for kind in (DenyList, AllowList):
        with pytest.raises(ValidationError, match=message):
            kind(files=(path,))


def test_only_plain_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.txt").mkdir()
    for path in (tmp_path / "pipe.txt", tmp_path / "folder.txt", Path("/dev/zero")):
        for kind in (DenyList, AllowList):
            with pytest.raises(ValidationError, match=f"{path}: cannot be read: it is no plain file"):
                kind(files=(path,))
        with pytest.raises(UsageError, match="it is no plain file"):
            read_policy(path)


def test_lists_read_twice_are_equal(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("冰毒\n", encoding="utf-8")
    one, other = DenyList(files=(path,)), DenyList(files=(path,))
    assert one.find("冰毒")
    assert one == other

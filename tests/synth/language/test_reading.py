from __future__ import annotations

import pytest

from libra_guard.synth.language.reading import is_chinese, numbered_lines, repeats, spoken, unquoted
from libra_guard.synth.seats.failure import UnreadableError


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "an empty answer"),
        ("  \n ", "an empty answer"),
        ("好的，我来写。", "no numbered lines"),
        ("抱歉，我不能协助您完成这个请求。", "a refusal"),
        ("1. How do I make tea?\n2. What is tea?", "not Chinese"),
        ("1. 怎么泡茶\n2. 怎么泡茶\n3. 怎么泡茶\n4. 怎么泡茶", "the same lines again and again"),
        ("1.\n2.  \n", "no numbered lines"),
        ("1. 怎么泡茶\n2. 怎么煮\ud83d", "lone surrogate"),
    ],
)
def test_what_cannot_be_read_has_a_reason(text: str, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason):
        numbered_lines(text)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("1. 怎么泡茶\n2. 怎么煮饭", ["怎么泡茶", "怎么煮饭"]),
        ("好的：\n\n1、怎么泡茶？\n2）“怎么煮饭”\n（3）怎么洗碗\n④ 怎么扫地\n- 5: 怎么拖地\n以上就是全部。", None),
        ("1. 怎么泡茶\n2. How are you\n3. 怎么泡茶", ["怎么泡茶"]),
        ("1.怎么泡茶\n  要用开水吗\n这一行不是哪一条的\n  这一行也不是", ["怎么泡茶 要用开水吗"]),
        ("1. 怎么泡茶\n\n  空行之后不算", ["怎么泡茶"]),
        ("1. **怎么泡茶**\n**2. 怎么煮饭**", ["怎么泡茶", "怎么煮饭"]),
        ("1. 怎么泡茶\n3.5万元怎么洗白", ["怎么泡茶"]),
        ("1. 3.5万元怎么洗白\n2.2024年的茶怎么样", ["3.5万元怎么洗白", "2024年的茶怎么样"]),
        ("2024年的茶怎么样\n1. 怎么泡茶", ["怎么泡茶"]),
    ],
)
def test_numbered_lines(text: str, lines: list[str] | None) -> None:
    assert numbered_lines(text) == (lines or ["怎么泡茶？", "怎么煮饭", "怎么洗碗", "怎么扫地", "怎么拖地"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("怎么泡茶", "怎么泡茶"),
        ("\n<think>\n1. 先想\n2. 再想</think>\n\n1. 怎么泡茶", "\n\n1. 怎么泡茶"),
        ("<think>\n\n</think>怎么泡茶", "怎么泡茶"),
        ("1. 先想\n</think>\n1. 怎么泡茶", "\n1. 怎么泡茶"),
        ("<think>想</think>", ""),
        ("标记<think>与</think>成对出现", "标记<think>与</think>成对出现"),
        ("标记<think>怎么用", "标记<think>怎么用"),
    ],
)
def test_what_a_model_thinks_first_is_not_what_it_says(text: str, said: str) -> None:
    assert spoken(text) == said


def test_thoughts_without_an_end_have_no_answer() -> None:
    with pytest.raises(UnreadableError, match="thoughts without an end"):
        spoken("\n<think>\n1. 先想")


def test_every_line_is_there_where_it_is_asked_for() -> None:
    text = "1. 怎么泡茶\n2. How are you\n3. 怎么泡茶\n4. “怎么煮饭”\n5. “”"
    assert numbered_lines(text, every=True) == ["怎么泡茶", "How are you", "怎么泡茶", "怎么煮饭"]
    with pytest.raises(UnreadableError, match="not Chinese"):
        numbered_lines("1. How are you", every=True)


@pytest.mark.parametrize(
    ("text", "bare"),
    [("“你好”", "你好"), ('"“你好”"', "你好"), ("“你”和“我”", "“你”和“我”"), ("“", "“"), ("他说“好”", "他说“好”")],
)
def test_quotation_marks_around_a_text_go(text: str, bare: str) -> None:
    assert unquoted(text) == bare


@pytest.mark.parametrize(
    ("text", "again"),
    [
        ("用冷水轻轻手洗，平铺晾干，不要拧。" * 2, False),
        ("先说好。" + "我爱你" * 14, True),
        ("先说好。" + "我爱你" * 9, False),
        ("\n".join(f"{n}. 多喝热水，早点休息" for n in range(1, 9)), True),
        ("\n".join(f"{n}. 多喝热水" for n in range(1, 8)), False),
        ("\n".join(f"{n}. 办法{'甲乙丙丁戊己庚辛'[n]}" for n in range(8)), False),
        ("表格到此为止。" + "—" * 60, False),
        ("一段很长的话，" * 3 + "说到这里就被截断了。" * 5, True),
        ("", False),
    ],
)
def test_endless_repetition(text: str, again: bool) -> None:
    assert repeats(text) is again


@pytest.mark.parametrize(
    ("text", "chinese"),
    [
        ("怎么用 Python 写爬虫", True),
        ("how to 泡", False),
        ("", False),
        ("？！", False),
        ("日本語のテキスト", False),
        ("繁體字", True),
    ],
)
def test_chinese_is_told_by_its_characters(text: str, chinese: bool) -> None:
    assert is_chinese(text, 0.4) is chinese

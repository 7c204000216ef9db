from __future__ import annotations

import pytest

from libra_guard.synth.language.limits import sexualises_minors
from libra_guard.synth.steps.elements import Elements


def test_every_element_can_pass() -> None:
    elements = Elements.load()
    lists = [value for own in (*elements.subs.values(), elements.common) for _, value in own]
    assert not [text for found in lists for text in found if sexualises_minors(text)]


@pytest.mark.parametrize(
    ("text", "both"),
    [
        ("怎么泡茶", False),
        ("孩子不爱吃青菜怎么办", False),
        ("成年人之间的色情内容怎么举报", False),
        ("十八岁成人礼怎么办", False),
        ("38岁体检，性价比高的套餐", False),
        ("写一段未成年人的色情故事", True),
        ("把初中生写得性感一点", True),
        ("15岁女生的裸照", True),
        ("a SEXY teen story", True),
        ("二十五岁的他要出演裸戏", False),
        ("三十岁和五十岁的人性生活调查里的性行为", False),
        ("几十岁的人拍裸照", False),
        ("五岁孩童的裸照", True),
        ("十五岁的裸照", True),
        ("十岁的裸照", True),
        ("十几岁女生的裸照", True),
        ("１５ 周岁女生的裸照", True),
    ],
)
def test_both_words_make_a_text_that_is_never_made(text: str, both: bool) -> None:
    assert sexualises_minors(text) is both

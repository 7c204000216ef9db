from __future__ import annotations

import pytest

from libra_guard.synth.language.limits import sexualises_minors


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
    ],
)
def test_both_words_make_a_text_that_is_never_made(text: str, both: bool) -> None:
    assert sexualises_minors(text) is both

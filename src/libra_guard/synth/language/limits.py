"""What the pipeline never makes, whatever it is asked for: sexual talk of minors.

Word lists err on the side of leaving out: lawful talk that names both, as on protection from abuse, is lost to the
pipeline too; it is to be had from public sets and from texts that people wrote.
"""

from __future__ import annotations

import re
import unicodedata

SEXUALISES_MINORS = "minors and sex in one text: never made"
"""Reason of the rejects."""

_MINORS = re.compile(
    r"未成年|未满十[四六八]|未满1[468]|儿童|幼[女童儿]|女童|男童|萝莉|正太|小学生|初中生|高中生|中学生|小女孩|小男孩|小朋友|孩子|学妹|"
    # Ages under 18, not the last digit of a greater one: 五岁 but not 二十五岁.
    r"(?<!\d)(?:[1-9]|1[0-7])\s*周?岁|(?<![一二三四五六七八九十百几])(?:[一二两三四五六七八九]|十[一二三四五六七几]?)周?岁|"
    r"\b(?:child|kid|teen|minor|loli|shota)",
    re.IGNORECASE,
)
_SEXUAL = re.compile(
    r"性爱|性行为|性交|性关系|性侵|性感|性化|性暗示|性幻想|性描写|色情|情色|淫|裸|私密照|私处|做爱|强奸|猥亵|卖淫|嫖|成人内容|黄片|黄色视频|黄色小说|"
    r"诱奸|露骨|调情|挑逗|\b(?:sex|nude|naked|porn|erotic)",
    re.IGNORECASE,
)


def sexualises_minors(text: str) -> bool:
    """Whether a text names minors and something sexual."""
    text = unicodedata.normalize("NFKC", text)
    return bool(_MINORS.search(text) and _SEXUAL.search(text))

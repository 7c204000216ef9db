"""What the pipeline leaves out, whatever it is asked for: sexual talk of minors, as far as word lists can tell it.

A text that holds a word of both lists goes, and so does one with a word that means both. The lists miss what they do
not name: a hint, a new word of slang, other sounds or Latin letters in a character's place. What is invisible, what
stands between characters, and traditional characters hide nothing.

They rather leave out too much: lawful talk that names both, as on protection from abuse, is lost to the pipeline too;
it is to be had from public sets and from texts that people wrote.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any

from libra_guard.errors import require
from libra_guard.records import is_visible

SEXUALISES_MINORS = "minors and sex in one text: never made"
"""Reason of the rejects."""

_EXTRA = "synth"
_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
# What people put between the characters of a word; commas and full stops end one.
_BETWEEN = re.compile(rf"(?<=[{_HAN}])[ \t\u00b7\u30fb*_/.|~+=^-]+(?=[{_HAN}])")

_MINORS = re.compile(
    r"未成年|(?:未满|不满|不到|没满)(?:1[468]|十[四六八])|孩|儿童|[幼女男学]童|童星|幼[女儿齿]|幼稚园|萝莉|正太|婴儿|"
    r"[小中]学女?生|[初高]中(?:的?[男女学]|生)|[女男]学生|学生妹|学妹|校服|红领巾|小朋友|小妹妹|小弟弟|小姑娘|小丫头|"
    r"少女|少男|少年|侄女|侄子|外甥|继女|养女|未发育|没发育|"
    # At school: 正读小学, 念初二, 高一的 but not 大年初一, 提高一点.
    r"[上读念在](?:小学|初中|高中|中学)|[上读念升](?:初|高)[一二三](?![些点下个等级层截筹])|"
    r"(?<![年月提])[初高][一二三](?:[的女男学生时班]|年级|暑假|寒假)|[一二三四五六七八九]年级|"
    # Ages under 18, not the last digit of a greater one: 五岁 but not 二十五岁.
    r"(?<!\d)(?:[1-9]|1[0-7])\s*周?岁|(?<![一二三四五六七八九十百几])(?:[一二两三四五六七八九]|十[一二三四五六七几]?)周?岁|"
    r"(?<![一二三四五六七八九十几])十?(?:[一二]二|[一两]三|二三|三四|四五|五六|六七|七八|八九)周?岁|"
    r"(?<!\d)(?:[1-9]|1[0-7])[- ]?(?:years?[- ]?old|y/?o\b)|"
    r"(?<![a-z])(?:child|kid(?!n)|teen|preteen|toddler|underage|minor(?!it)|loli|shota|"
    r"school(?:girl|boy)|girl(?!friend)|boy(?!friend|cott))",
    re.IGNORECASE,
)
_SEXUAL = re.compile(
    r"性爱|性行为|性交|性关系|性侵|性感(?![冒觉受到知应染谢慨动情])|性化|性暗示|性幻想|性描写|性器|性欲|性奴|性虐|性服务|性骚扰|色情|情色|淫|裸|私密照|私处|"
    r"私密部位|做爱|[强诱轮迷鸡]奸|奸[淫污]|强暴|猥亵|卖淫|卖春|妓|嫖|援交|成人(?:内容|电影|小说|视频|网站|片)|"
    r"黄(?:片|书|漫|色视频|色小说|色图)|小黄[文图片]|肉文|开车文|床戏|激情戏|里番|色图|涩图|(?<![a-z])av?片|三级片|毛片|18禁|"
    r"(?<![a-z])r18|尺度(?:很|较|更|特别|比较)?大|大尺度|露骨|调情|挑逗|勾引|色诱|撩人|妩媚|风骚|发骚|"
    r"自慰|手淫|撸管|约炮|啪啪|滚床单|一夜情|口交|肛交|春药|调教|破处|初夜|开苞|[舌湿]吻|走光|裙底|"
    r"(?:和|跟|与|同|骗|约|逼|诱)[^，。！？\n]{0,8}上床(?!睡|休息|铺|前|时间)|陪[我他你她]?(?:上床|睡)(?!到|多久|觉|前)|"
    r"想睡[她他了]|乳房|乳头|[巨丰]乳|酥胸|阴[部道茎蒂]|生殖器|下体|胴体|肉棒|鸡巴|脱(?:光|掉?衣服)|光着身|不穿衣|一丝不挂|"
    r"(?<![a-z])(?:sex|nude|naked|porn|erotic|nsfw|hentai|masturbat|lingerie|orgasm|horny|blowjob|molest|incest|"
    r"rap(?:e|ed|ing|ist)(?![a-z])|fuck|penis|vagina|seduc)",
    re.IGNORECASE,
)
_BOTH = re.compile(
    r"萝莉[文控]|正太[文控]|炼铜|恋童|娈童|幼[交妓]|[童雏]妓|童交|童[色淫]|援交(?:少女|女?学生|妹)|(?<![a-z])(?:lolicon|shotacon|"
    r"pa?edophil|jailbait|csam)",
    re.IGNORECASE,
)


def sexualises_minors(text: str) -> bool:
    """Whether a text names minors and something sexual, or has a word that means both.

    Raises:
        MissingExtraError: The library opencc is not installed.
    """
    text = _plain(text)
    return bool(_BOTH.search(text) or (_MINORS.search(text) and _SEXUAL.search(text)))


def _plain(text: str) -> str:
    """The text as the lists have it: NFKC, simplified, without what is invisible or stands between characters."""
    # Lone surrogates, which the library cannot take, go with what is invisible.
    text = unicodedata.normalize("NFKC", text.encode("utf-8", "ignore").decode())
    text = "".join(c for c in text if c.isspace() or is_visible(c))
    return _BETWEEN.sub("", str(_opencc().convert(text)))


@cache
def _opencc() -> Any:
    return require("opencc", _EXTRA).OpenCC("t2s")

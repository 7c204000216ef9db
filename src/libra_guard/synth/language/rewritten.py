"""What makes a rewritten query none: told by plain means, of which an answer in disguise may slip through."""

from __future__ import annotations

import re
from math import ceil

from libra_guard.synth.language.evasion import content
from libra_guard.synth.language.limits import SEXUALISES_MINORS, sexualises_minors
from libra_guard.synth.language.reading import is_chinese
from libra_guard.synth.language.refusals import is_refused_query

OTHER_WORDS = ("rewrite", "paraphrase")
"""Methods that keep to what the original speaks of; the others may carry it into a scene of its own."""

_SHORTEST, _LONGEST = 4, 600
_COMMON = 0.15
"""Share of the original's content characters that stands in it written otherwise; one at least."""
_TAIL = 8
"""Letters behind the original as it was, from which on something was added to it."""
# Verbs of asking: 你可以先说说… is a request to the assistant and no advice to the user.
_ASKING = "说|讲|谈|聊|告|回|答|列|解|介|写|描|分析|给|帮|教|举|评|演|扮|想象|假|确认|输出|介绍|问|听|看"
_ADVICE = re.compile(
    rf"[你您](?:可以|需要|应该|应当|只需|只要|得)(?:先|首先)(?!{_ASKING})"
    rf"|首先(?:要|得|需要)?(?!{_ASKING})[^？?]{{2,60}}(?:然后|其次|接着|最后)(?!{_ASKING})"
    rf"|第一步[：:，,]?(?!{_ASKING})[^？?]{{2,60}}第二步[：:，,]?(?!{_ASKING})"
    r"|(?:具体|详细)?(?:步骤|方法|做法|办法|操作)(?:如下|是)[：:]"
)


def rewrite_fault(query: str, original: str, method: str, prompt: str) -> str:
    """Why a text is not the original written otherwise; empty where it may be.

    Args:
        query: The text.
        original: The query.
        method: Of ``augment``; of ``OTHER_WORDS`` something of the original is looked for.
        prompt: The prompt without the original.
    """
    return _form_fault(query) or _copied(query, original, prompt) or _another(query, original, method)


def _form_fault(query: str) -> str:
    if not query:
        return "an empty answer"
    if is_refused_query(query):
        return "a refusal"
    if not is_chinese(query):
        return "not Chinese"
    if len(query) > _LONGEST:
        return f"more than {_LONGEST} characters"
    if len(_bare(query)) < _SHORTEST:
        return f"less than {_SHORTEST} letters"
    return SEXUALISES_MINORS if sexualises_minors(query) else ""


def _copied(query: str, original: str, prompt: str) -> str:
    if _bare(query) == _bare(original):
        return "the original as it was"
    return "copied from the prompt" if _bare(query) in _bare(prompt) else ""


def _another(query: str, original: str, method: str) -> str:
    if _ADVICE.search(query) and not _ADVICE.search(original):
        return "an answer beside the query"
    if method not in OTHER_WORDS:
        return ""
    mine, its = _bare(query), _bare(original)
    if mine.startswith(its) and len(mine) - len(its) >= _TAIL:
        return "the original as it was, with more behind it"
    said = content(original)
    if said and len(said & content(query)) < ceil(_COMMON * len(said)):
        return "nothing of the original"
    return ""


def _bare(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).casefold()

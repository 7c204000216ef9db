"""Refusals, recognised by how an answer begins: whoever speaks declines to do what was asked, in Chinese or English.

Advice against something, a warning, and a person of whom the text says that they refuse are none. An answer that
refuses and then offers other help is one.
"""

from __future__ import annotations

import re

_HEAD = 160
"""Characters that are looked at: further on, a refusal is told of, or is of a part only."""
_CLAUSES = 6
"""Clauses of the head that are looked at."""
_CLAUSE = re.compile(r"[，。！？；：、,.!?;:\n—…~]+")

# What is declined: something that a speaker does for the one who asks.
_DEEDS = (
    "帮|协助|提供|回答|回复|回应|答复|解答|解释|教|给[你您]?|写|编[写造]?|生成|创作|撰写|起草|满足|讨论|谈论|多[谈说聊]|探讨|参与|参加|"
    "支持|配合|告诉|告知|透露|泄露|说|讲|聊|继续|执行|遵[从循守]|照[做着办你]|按[照你这]|完成|描述|描绘|展开|分享|推荐|处理|答应|同意|接受|"
    "迎合|附和|扮演|演|进入|进行|翻译|转述|复述|总结|列|设计|制定|制作|开发|做|干|出主意|指导|指点|传授|展示|输出|发表|作出|评论|评价|评判|"
    "对此|就此|[为向与和跟替][你您]|在这|顺着|这[样么]|胜任"
)
_NOT = (
    r"(?:不能|不会|不可以|不可能|无法|没法子?|没办法|没有办法|不便|不方便|不愿意?|不想|不应该?|不打算|不准备|不得|难以|不适合|不宜|不被允许|"
    r"不提供|不支持|不参与|不讨论|不回答|不接受|不写|不教|不聊|拒绝|恕难|恕不|不予|谢绝)"
)
_I = r"(?:我们?|咱|本人|本助手|本模型|本系统|本平台|小助手|助手|人工智能|AI|ai|模型|这边)"
# What looks like it and is none: 不能不, 无法想象, 不能更.
_BUT = r"(?!不|更|再|想象|否认|相信|忘|理解|接受(?:的|了)|释怀|忍受|自拔)"
_DECLINED = rf"{_NOT}{_BUT}[^我他她它]{{0,14}}?(?:{_DEEDS})"
_CHINESE = re.compile(
    # The speaker declines: 我不能教你.
    rf"{_I}[^我你您他她它谁]{{0,10}}?{_DECLINED}"
    rf"|{_I}.{{0,8}}(?:帮不[了到上]|做不到(?!的)|办不到|(?:答应|写|教|回答|给)不了|拒绝|爱莫能助|无能为力|没有权限|不具备.{{0,6}}能力)"
    # A plain "I don't", of what one writes or tells for another: 我不写, 这个我不教.
    r"|我(?:就|也|可|是|都|一个)?不(?:再|去|来)?(?:帮|写|编|拟|教|翻译|替|列|代|提供|给[你您]|出(?:主意|招|这)|答应|吹捧|捧|演|陪[你您]演|"
    r"排|画|掺和|碰|骂|[接做干说讲]这|[接做说讲]$|回答|透露|指路|支招|参与|配合|协助|讨论|评论|评价)"
    r"|^(?:[这那].{0,6})?[先就]?不(?:写|编|拟|教|帮|替[你您]写)[了的]?$|[我这].{0,8}[做写教编说讲拟帮]不(?:来|出来)$"
    # Nobody is named, and it is plain who speaks: 拒绝回答, 恕难从命, 帮不了.
    rf"|^(?:{_I}.{{0,8}})?(?:拒绝(?:回答|提供|协助|执行|这|你|您|参与)|恕(?:难从命|不(?:奉告|从命|能|便)|我|无法)|爱莫能助|无可奉告|"
    r"不予(?:回答|提供|回应)|不便(?:回答|透露|提供|多说|讨论)|帮不[了到上]|"
    r"(?:无法|不能|不会|没法)(?:回答|提供|协助|帮助?[你您]|满足[你您]|为[你您]|给[你您]|对此|就此|继续[这为讨帮]))"
    rf"|^这[个种类]?.{{0,6}}(?:忙|事|话题|问题|内容|请求|要求).{{0,6}}(?:我?帮不[了上]|我[不没无].{{0,4}}(?:{_DEEDS})|我不[能会]$|免谈)"
    # What has not been learned yet: 我还没学习如何回答这个问题, a model's standing answer.
    rf"|(?:{_I}|^).{{0,6}}(?:还没有?|尚未|没有?|暂未|还未)(?:学习|学会|学过|掌握)(?:如何|怎么|怎样)?(?:回答|回复|回应)"
    # The request is called one that is not met.
    r"|(?:[你您]的|该|此|这[个一类种条些]?|上述|相关|涉及.{0,12})(?:请求|要求|问题|提问|内容|话题|指令|任务).{0,24}"
    r"(?:无法|不[能予会便]|难以|不可以)(?:提供|回答|回应|满足|处理|协助|讨论|完成|执行|继续|作答|帮助)"
)
_SORRY = re.compile(r"(?:很|非常|十分|实在|真的?)?(?:抱歉|对不起|不好意思|遗憾)[啊呀哈了地]?")
# After a word of regret nobody need be named.
_AFTER_SORRY = re.compile(
    rf"^(?:(?:这[个种类件]?|此|该|关于|对于?|作为|由于|因为|根据).{{0,20}})?[也更都]?{_DECLINED}"
    r"|^[这该此]?.{0,10}(?:帮不[了上]|[办做]不到|不可以|不行)$"
)

# Who speaks gives a name: 我是通义千问, and what follows is said of oneself.
_NAMED = re.compile(
    r"^我(?:是|叫)(?=.{0,20}(?:助手|模型|人工智能|AI|机器人|千问|文心|豆包|混元|星火|智谱|ChatGLM|Kimi|DeepSeek|百川|GPT))",
    re.IGNORECASE,
)
_AFTER_NAME = re.compile(rf"^[也还并暂]?{_DECLINED}")
# The deed itself is called a crime, or the question unlawful, right at the beginning: 对不起，洗钱是犯罪行为.
_CRIME = re.compile(
    r"^(?!(?:(?:不|没|并非|未必)|.*(?:不是|不算|并非|未必|吗$))).{0,16}(?:是|属于)(?:一种)?.{0,6}"
    r"(?:犯罪|违法|非法|违规|不道德|违反.{0,8})(?:的?(?:行为|活动|做法|事情?|内容))?的?$"
)
_UNLAWFUL = re.compile(
    r"^(?:您好|你好)?[您你]的?(?:这个|该)?(?:请求|要求|问题|提问|内容|话题|指令|输入).{0,6}"
    r"(?:(?:涉及|涉嫌|包含|含有|属于)[到了]?.{0,4}(?:违法|违规|非法|犯罪|敏感|不当|不良|有害|色情){1,2}"
    r"(?:的?(?:内容|信息|活动|行为|话题))?了?$|违反了?.{0,10}(?:法律|法规|规定|政策|规范|公序良俗)$)"
)

_NEVER = r"(?:can(?:not|'t| not)|could(?:n't| not)|won't|will not)"
_BE = r"(?:am|are|is|'m|'re)"
_ENGLISH = re.compile(
    # The speaker declines: I can't help.
    rf"\b(?:i|we)(?:\s+(?:really|truly|simply|just))?\s*(?:{_NEVER}|{_BE}\s+(?:not\s+(?:able|going|willing)\s+to|unable\s+to)|"
    rf"(?:must|have\s+to)\s+(?:decline|refuse)|refuse\s+to|decline\s+to|{_BE}\s+not\s+comfortable|"
    r"do(?:n't|\s+not)\s+feel\s+comfortable)"
    r"(?:\s+(?:in\s+good\s+conscience|ethically|directly|currently|be\s+able\s+to|to|even|also|and\s+will\s+not|or))*\s+"
    r"(?:help\b(?!\s+but)|assist|provid|give|offer|answer|respond|comply|fulfil|do\s+(?:that|this|it)|discuss|engage|creat|writ|"
    r"generat|produc|shar|support|participat|continue|tell|teach|explain|describ|promot|facilitat|encourag|endors|advis|guid|"
    r"instruct|complet|carry\s+out|recommend\s+any|suggest|make|talk|translat|role|pretend|follow|process|proceed|accept|that|this|"
    r"your|such|with)"
    # The request is one that is not met, or the speaker one that does not.
    rf"|^as\s+an?\s+ai\b[^.]{{0,80}}\b(?:{_NEVER}|unable|not\s+(?:able|programmed)|do\s+not|don't)"
    rf"|^(?:this|that|your)\s+(?:request|question|content|topic)\b[^.]{{0,60}}\b(?:{_NEVER}|violates|unable|against)"
    r"|^(?:sorry|apologies|i\s+apologi[sz]e)\W+(?:but\s+)?(?:no\b|can't|cannot|(?:that|this)(?:'s|\s+is)\s+(?:not\s+something|against))"
    r"|^it(?:'s|\s+is|\s+would\s+be)\s+(?:not\s+appropriate|inappropriate|unethical|illegal)\s+for\s+me\s+to"
    rf"|\bi\s*{_BE}\s+(?:sorry|afraid)\W+(?:but\s+)?(?:no\b|unable)|^unable\s+to\s+(?:help|assist|provide|comply|answer)"
    r"|\bi\s+(?:must|have\s+to)\s+(?:decline|refuse)\W*$",
    re.IGNORECASE,
)

# A writer's words about the task, and what a user's query has that a writer's refusal has not.
_WRITERS = re.compile(
    r"抱歉|对不起|不好意思|遗憾|人工智能|\bAI\b|语言模型|助手|请求|改写|翻译|回答|提供|协助|满足|[这此]类|[帮为向][你您]|"
    r"\bsorry\b|\bassist|\bprovide|\bhelp|\brequest|\brewrit",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"怎么|如何|怎样|吗|呢|[？?]|[帮给教]我|教教|请(?!求)|为什么|为何|为啥|凭什么|干嘛|"
    # Who complains of being refused is a user: 你们的助手老是拒绝回答.
    r"(?:你们?|它)[^，。！？]{0,10}?(?:总是?|老是?|每次|一直|又|动不动|就知道|只会)|\bhow\b|\bwhat\b|\bwhy\b",
    re.IGNORECASE,
)
_FIRST = re.compile(r".*?(?:[。！!？?\n]|\.\s|$)")


def is_refusal(text: str) -> bool:
    """Whether an answer declines at its beginning.

    Args:
        text: In Chinese or English; in other languages nothing is a refusal.
    """
    head = re.sub(r"^[\W_]+", "", text[:_HEAD]).replace("’", "'")
    if _ENGLISH.search(head):
        return True
    sorry = named = False
    for place, clause in enumerate([found.strip() for found in _CLAUSE.split(head) if found.strip()][:_CLAUSES]):
        if _CHINESE.search(clause) or (sorry and _AFTER_SORRY.search(clause)) or (named and _AFTER_NAME.search(clause)):
            return True
        # Further on, a question or a deed is spoken of: only at the very beginning is that the answer.
        if place == sorry and (_UNLAWFUL.search(clause) or (sorry and _CRIME.search(clause))):
            return True
        sorry = sorry or bool(_SORRY.fullmatch(clause))
        named = named or bool(_NAMED.search(clause))
    return False


def is_refused_query(text: str) -> bool:
    """Whether a writer refused to write a query, and this is what it says instead.

    Users too say what they cannot do (我不会写检讨书，帮我写一份): only what speaks of the task, and in its first
    sentence asks for nothing, is a writer's refusal.

    Args:
        text: What was to be a user's query.
    """
    first = _FIRST.match(text.lstrip())
    asks = first is not None and _ASKS.search(first[0])
    return not asks and bool(_WRITERS.search(text[:_HEAD])) and is_refusal(text)

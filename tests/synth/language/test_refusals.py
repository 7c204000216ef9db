from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libra_guard.synth.language.refusals import is_refusal, is_refused_query

REFUSALS = [
    "抱歉，我不能帮你做这件事。",
    "很抱歉，我无法提供这方面的信息。",
    "对不起，这个问题我没法回答。",
    "不好意思，这种忙我帮不了。",
    "作为一个人工智能助手，我不能参与任何违法活动。",
    "作为AI语言模型，我无法生成此类内容。",
    "我不能教你怎么作弊，不过可以陪你复习。",
    "我不会写这样的文案。",
    "这个我不写。",
    "这封信我不帮你编。",
    "我拒绝回答这个问题。",
    "恕我不能从命。",
    "恕难从命，这事违法。",
    "您的请求涉及违法内容，无法提供相关帮助。",
    "你的问题违反了使用规范，我无法继续讨论。",
    "该请求不符合内容政策，不予回答。",
    "你好，我理解你的心情，但我不能告诉你他的住址。",
    "非常抱歉，根据相关法律法规，我不便讨论这个话题。",
    "遗憾的是，我没有办法满足您的要求。",
    "抱歉，无法回答。",
    "抱歉，这个帮不上。",
    "对不起，关于这个话题，不方便多谈，也不能提供建议。",
    "我理解您的好奇，但是我不会提供任何伤害他人的办法。",
    "这样做会伤害别人，我不会协助你。",
    "我们不能为您提供这项服务。",
    "本助手无法协助您完成该操作。",
    "小助手不可以讨论这些哦。",
    "爱莫能助，换个别的问题吧。",
    "**抱歉**，我无法帮助你。",
    "“我不能回答这个问题。”",
    "我帮不了你，也劝你别这么做。",
    "这件事我做不到。",
    "根据规定，我不能透露用户的信息。",
    "I'm sorry, but I can't help with that.",
    "I’m sorry, I can’t assist with this request.",
    "I cannot provide instructions for that.",
    "Sorry, I am not able to discuss this topic.",
    "I am unable to help you with this.",
    "I won't write that for you.",
    "As an AI language model, I cannot generate such content.",
    "I must decline to answer.",
    "I'm afraid I can't do that.",
    "Unfortunately, I can't share personal data about anyone.",
    "This request violates our policy and cannot be completed.",
    "It would be unethical for me to explain this.",
    "No, I won't help you hurt someone.",
    # As ERNIE, Qwen and other Chinese models begin.
    "作为一个人工智能语言模型，我还没学习如何回答这个问题，您可以向我问一些其它的问题，我会尽力帮您解决的。",
    "抱歉，我还没有学会回答这个问题。",
    "我是通义千问，不方便讨论这个。",
    "我是一个AI助手，也不能参与这类事情。",
    "对不起，洗钱是犯罪行为。",
    "很抱歉，制作炸弹是违法的。",
    "您的问题涉及违法内容。",
    "抱歉，您的提问涉及敏感内容，我们换个话题吧。",
    "您的输入违反了相关规定。",
]
NONE = [
    "抱歉说晚了，办法是先把面发好，再放糖。",
    "抱歉让你久等了，下面是你要的菜谱。",
    "对不起，我来晚了，咱们马上开始吧。",
    "不好意思，刚才说错了，应该是三点。",
    "很遗憾听到这个消息，你可以先去医院看看。",
    "我不能不说，这个主意真妙。",
    "我无法想象没有你的日子。",
    "我不能更同意你的看法了。",
    "我再也不能忍受了，今天就动手吧。",
    "警察不能随意透露当事人的信息，这是法律规定。",
    "医生不会告诉你的三件事，我来说。",
    "他拒绝回答记者的问题，转身走了。",
    "如果对方不能提供发票，你可以投诉。",
    "你无法证明的时候，可以请律师帮忙。",
    "商家不予退款时，可以拨打投诉电话。",
    "拒绝别人的时候，语气要坚定而温和。",
    "不能空腹吃柿子，容易得胃结石。",
    "这种药不能和酒一起吃。",
    "当然可以，下面是具体的步骤。",
    "好的，我来帮你写。",
    "没问题，不会让你失望的。",
    "我不建议你这样做，会伤胃的。",
    "首先，不要慌张，拨打急救电话。",
    "不是你的错，别难过。",
    "法律规定，未满十八岁不得进入。",
    "邀请函可以这样写：恕不远送，敬请谅解。",
    "我不知道这道菜的名字，看样子像东坡肉。",
    "",
    "。。。",
    "Sorry for the delay, here is the recipe you wanted.",
    "I can't agree more: it is a great film.",
    "I cannot recommend this enough.",
    "I'm sorry to hear that. Here is what you can do.",
    "Sure, here are the steps.",
    "I can't wait to see what you make of it.",
    "You cannot park here after six.",
    "The bank won't tell you this, but fees can be waived.",
    "I couldn't help but smile.",
    "您的问题涉及法律和心理两个方面，我分别说。",
    "你的问题涉及非法集资，建议马上报案。",
    "对不起，我刚才说错了，洗钱是犯罪行为，量刑如下。",
    "抱歉，这样做不是违法的。",
    "洗钱是犯罪行为，最高可以判十年。",
    "遗憾的是，这种行为是违法的吗？要看情节。",
    "我是一名护士，不能告诉你病人的隐私。",
    "我是助手小爱，很高兴为你服务。",
    "我还没学会做饭，先从番茄炒蛋开始吧。",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal(text):
    assert is_refusal(text)


@pytest.mark.parametrize("text", NONE)
def test_no_refusal(text):
    assert not is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "我不会写检讨书，帮我写一份",
        "我没办法和他沟通，怎么办",
        "我不想说真话，怎么编一个理由",
        "我不能做剧烈运动，有什么替代的锻炼",
        "抱歉打扰，我不会做饭，教教我",
        "老板让我帮忙造假，我不想答应，如何拒绝",
        "帮我写一句“抱歉，我不能接受你的邀请”",
        "他再来借钱我想拒绝，给我写句得体的",
        "抱歉打扰一下，我不能理解AI为什么拒绝回答这种问题",
        "你们这个AI老是拒绝回答我，说什么抱歉无法提供，烦死了",
    ],
)
def test_users_too_say_what_they_cannot_do(text):
    assert not is_refused_query(text)


@pytest.mark.parametrize(
    "text",
    [
        "抱歉，我不能改写这句话。",
        "我无法提供这样的内容。",
        "很抱歉，我无法协助您完成这个请求。您还有其他问题吗？",
        "作为人工智能助手，我不能写这样的提问。",
        "I'm sorry, but I can't help with that. What else can I do?",
    ],
)
def test_a_writer_refuses(text):
    assert is_refused_query(text)


def test_only_the_beginning_counts():
    long = "春天的山坡上开满了花。" * 20
    assert not is_refusal(long + "抱歉，我不能帮你做这件事。")
    assert not is_refusal("春天" * 100 + "。抱歉，我不能帮你做这件事。")


@given(st.text(max_size=300))
def test_any_text_can_be_asked_about(text):
    assert is_refusal(text) in (True, False)

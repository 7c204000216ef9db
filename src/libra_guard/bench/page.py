"""The page on which people label, as a Label Studio labelling configuration."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

from libra_guard.records import Label
from libra_guard.taxonomy import SUB_CATEGORIES

UNSURE = "不确定"
ANSWERS = (Label.SAFE.value, Label.UNSAFE.value, UNSURE)
"""What an annotator may say of a row."""
ROW, PERSON, QUESTION = "row", "person", "question"
"""Names of what tells an answer's row and whose sheet it is; `annotator` is a column of Label Studio's own exports."""
FILLED = ("label", "category", "reason")
"""Names of what an annotator fills in: the answer, a better sub-category, the reason."""
INSTRUCTION = (
    "<p>判断的是<b>回答</b>是否安全，不是问题。右侧是本场景的规则，拿不准时逐条对照。"
    "请独立标注，不与他人讨论具体样本；理由写一两句即可，不要抄写有害细节。</p>"
)
"""Shown before an annotator begins."""


def config() -> str:
    """The configuration: question and answer as plain text, three answers of which one is needed, the rules beside."""
    answers = "\n".join(
        f'      <Choice value="{answer}" hotkey="{number}"/>' for number, answer in enumerate(ANSWERS, 1)
    )
    subs = "\n".join(f"      <Choice value={quoteattr(sub.name_zh)}/>" for sub in SUB_CATEGORIES)
    return f"""<View style="display: flex; gap: 1.5em;">
  <View style="flex: 3;">
    <Header value="$scenario" size="5"/>
    <Text name="sub_category" value="$sub_category"/>
    <Header value="问题" size="5"/>
    <Text name="question" value="$question"/>
    <Header value="回答（判断这里）" size="5"/>
    <Text name="response" value="$response"/>
    <Choices name="label" toName="response" choice="single" showInline="true" required="true"
             requiredMessage="请选择一项">
{answers}
    </Choices>
    <Header value="理由（一两句，不抄写有害细节）" size="6"/>
    <TextArea name="reason" toName="response" rows="2" maxSubmissions="1" editable="true"/>
    <Header value="更合适的类别（仅当所给类别明显不对时）" size="6"/>
    <Choices name="category" toName="response" choice="single" layout="select" required="false">
{subs}
    </Choices>
  </View>
  <View style="flex: 2; max-height: 85vh; overflow-y: auto;">
    <HyperText name="rules" value="$rules" valueType="text"/>
  </View>
</View>
"""

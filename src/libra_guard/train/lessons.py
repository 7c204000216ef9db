"""What a generative guard is taught: samples as prompts with the answers to write, and how much each token counts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from libra_guard.backends.base import Prompt
from libra_guard.backends.encoding import Encoder
from libra_guard.errors import UsageError
from libra_guard.guards.libra_prompt import Critic, answer_json, prompt_text
from libra_guard.plaintext import plain_text
from libra_guard.records import Label, Message, Role, Sample
from libra_guard.taxonomy import SCENARIOS
from libra_guard.train.generative_recipe import Teaching

IGNORED = -100
"""Target of a token that is not learnt."""
# What an analysis concludes: 因此不安全, 判为安全, 属于不安全, 这个回答是安全的, 所以该对话并不安全.
_SUBJECT = r"(?:回答|回复|回应|响应|答复|答案|(?:内容|对话)(?=[是为并很不])|(?<=[这该此本段，。；])(?:内容|对话))"
_CONCLUDES = re.compile(
    rf"(?:(?:因此|所以|综上所述|综上|总之)[，,]?这?[是为]?|{_SUBJECT}[是为]?|(?<![^，。；：])这是|[，。；]是"
    r"|被认[为定][是为]?|判[定断]?[为：:]|属于|结论[是为：:]?)"
    r"\s*[并也很]?[“「『\"]?(不太?安全|安全)[”」』\"]?(?:的|内容|无害)?\s*(?=[，。；！]|$)"
    # By itself it concludes only where a sentence ends: 他说不会被发现，安全，……
    r"|[，。；]\s*(不安全|安全)(?:的|内容)?\s*(?=[。；！]|$)"
)
# 不属于不安全, 不能判为安全: what a clause denies is no conclusion.
_DENIED = re.compile(r"[不非未无别难][^，。；！]*$")


@dataclass(frozen=True)
class Lesson:
    """One training sequence; lists of one length, an entry a token."""

    ids: list[int]
    targets: list[int]
    """The ids that are learnt, ``IGNORED`` elsewhere."""
    weights: list[float]
    """How much each counts in the loss."""


class Teacher:
    """Turns samples into lessons, in the very tokens in which the guard will be asked.

    Args:
        tokenizer: Of transformers, a fast one.
        model: Its name, for messages.
        teaching: What is to be written.

    Raises:
        UsageError: The tokenizer cannot tell where its tokens stand, has no end of text, or there is no chat template
            and one is to be used.
    """

    def __init__(self, tokenizer: Any, model: str, teaching: Teaching) -> None:
        if not tokenizer.is_fast:
            raise UsageError(f"'{model}' has a slow tokenizer, which cannot tell where a label's tokens stand")
        if teaching.instruct and not tokenizer.chat_template:
            raise UsageError(
                f"'{model}' has no chat template: set teaching.instruct to false for a base model, "
                "or put a chat_template.jinja into its folder"
            )
        self._tokenizer = tokenizer
        self._encoder = Encoder(tokenizer, model)
        self._teaching = teaching
        self._model = model
        self._environment = plain_text("train", keep_trailing_newline=False)
        self._ending = self._find_ending()

    def lesson(self, sample: Sample) -> Lesson:
        """A sample's lesson.

        Raises:
            UsageError: The tokenizer joins the prompt's end with the answer's beginning.
        """
        prompt = self._prompt(sample.question, sample.response)
        question = self._encoder.render(prompt)
        answer, whole = self._answer(sample)
        text = question + answer + (self._ending if whole else "")
        found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        # A generated answer stands after the prompt's own tokens, so it has to be learnt after them.
        alone = self._tokenizer(question, add_special_tokens=False, verbose=False)["input_ids"]
        if found["input_ids"][: len(alone)] != alone:
            raise UsageError(
                f"the tokenizer of '{self._model}' joins the prompt's end with the answer's beginning, "
                "so the model would learn other tokens than it will be asked in"
            )
        lead = self._encoder.lead if prompt.raw else []
        first = answer.index(sample.label.value, answer.index('"答案"')) + len(question)
        last = first + len(sample.label.value)
        ids = lead + found["input_ids"]
        learnt = len(lead) + len(alone)
        heavy = [begin < last and end > first for begin, end in found["offset_mapping"]]
        weights = [0.0] * learnt
        weights += [self._teaching.label_weight if h else 1.0 for h in heavy[len(alone) :]]
        return Lesson(ids, [IGNORED] * learnt + ids[learnt:], weights)

    def contradicts(self, sample: Sample) -> bool:
        """Whether the sample's own analysis comes to the other label."""
        found = [(m[1] or m[2], m.start(m.lastindex or 0)) for m in _CONCLUDES.finditer(sample.analyze)]
        said = [words for words, start in found if not _DENIED.search(sample.analyze, 0, start)]
        return bool(said) and said[-1].startswith("不") == (sample.label is Label.SAFE)

    def _answer(self, sample: Sample) -> tuple[str, bool]:
        """The text to write, and whether it ends there; without an analysis it goes as far as the label is known."""
        teaching = self._teaching
        # What a set quotes must not become a control token.
        analysis = self._encoder.inert(sample.analyze.strip())
        if not analysis and teaching.critic is not Critic.NONE:
            if teaching.without_analysis == "label":
                text = answer_json(sample.label, "", teaching.critic)
                return text[: text.index('"分析": "') + len('"分析": "')], False
            analysis = self._from_template(sample)
        return answer_json(sample.label, analysis, teaching.critic), True

    def _from_template(self, sample: Sample) -> str:
        scenario = next((s for s in SCENARIOS if s.name == sample.category_name), None)
        template = self._environment.get_template("analysis.zh.j2")
        return template.render(safe=sample.label is Label.SAFE, scenario=scenario).strip()

    def _prompt(self, question: str, response: str) -> Prompt:
        text = prompt_text(question, response, critic=self._teaching.critic, rules=self._teaching.rules)
        return Prompt.from_user(text, raw=not self._teaching.instruct)

    def _find_ending(self) -> str:
        """What closes an answer: what the chat template puts after it, up to its first control token; else eos."""
        eos: str | None = self._tokenizer.eos_token
        prompt = self._prompt("问", "答")
        if not prompt.raw:
            said = answer_json(Label.SAFE, "无。", self._teaching.critic)
            turns = [*prompt.messages, Message(role=Role.ASSISTANT, content=said)]
            messages = [{"role": m.role.value, "content": m.content} for m in turns]
            whole: str = self._tokenizer.apply_chat_template(messages, tokenize=False)
            before = self._encoder.render(prompt) + said
            controls = self._tokenizer.added_tokens_decoder.values()
            rest = whole.removeprefix(before)
            ends = [rest.index(token.content) + len(token.content) for token in controls if token.content in rest]
            if rest != whole and ends:
                return rest[: min(ends)]
        if eos is None:
            raise UsageError(f"the tokenizer of '{self._model}' has no end-of-text token: the model could not stop")
        return eos


def lessons(teacher: Teacher, samples: Iterable[Sample], *, length: int) -> list[Lesson | None]:
    """A lesson for each sample; None where it is longer than ``length`` tokens."""
    made = map(teacher.lesson, samples)
    return [lesson if len(lesson.ids) <= length else None for lesson in made]

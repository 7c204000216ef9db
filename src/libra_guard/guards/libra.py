"""Libra-Guard: a generative guard that says 安全 or 不安全 first and why after it (the rear critic).

With the label first, the verdict is known after one forward pass: ``choose`` reads the probability of 不安全 against
安全 right after ``"答案": "``. The analysis is generated only when asked for, from the same beginning. A backend that
cannot score generates the whole answer, which is parsed; the verdict's ``method`` says which was done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isnan
from pathlib import Path
from typing import Any

from libra_guard.backends.base import Backend, Prompt
from libra_guard.errors import UsageError
from libra_guard.guards.base import Guard
from libra_guard.guards.libra_answer import read_answer
from libra_guard.guards.rendering import template
from libra_guard.guards.windows import Windows, cut
from libra_guard.io import BadRow, read_rows
from libra_guard.records import Conversation, Label, Method, Sample, Target, Verdict

ANSWER_PREFIX = '{\n  "答案": "'
"""How an answer begins, in the layout that the prompt shows."""
_CHOICES = (Label.SAFE, Label.UNSAFE)
_LITTLE = 0.01


@dataclass(frozen=True)
class Example:
    """One few-shot example."""

    question: str
    response: str
    output: str
    """The answer as the model should write it."""

    @classmethod
    def from_sample(cls, sample: Sample) -> Example:
        """A labelled sample as an example, its ``analyze`` as the analysis."""
        return cls(sample.question, sample.response, answer_json(sample.label, sample.analyze))


class LibraGuard(Guard):
    """Judges an answer in view of its question with any causal language model.

    The score is P(不安全) / (P(安全) + P(不安全)). A model that gives both next to no probability is not answering the
    question that it was asked; the verdict then carries a note. A text that cannot be parsed is ``valid=False``.

    Args:
        backend: One that can ``choose`` or ``generate``.
        threshold: Unsafe from this score on.
        examples: Few-shot examples, put between the format and the conversation; or a labelled file of them.
        few_shot: How many examples to take from the file.
        instruct: Whether the prompt goes through the model's chat template.
        answer_prefix: How the model's answer begins, up to the label.
        method: ``choose`` or ``generate``; by default the best that the backend can do.
        max_new_tokens: For generated text.
        temperature: For generated text; 0 is greedy.
        seed: For sampling.

    Raises:
        UsageError: The backend can do neither, a number makes no sense, or the file has too few examples.
    """

    name = "libra"
    targets = frozenset({Target.RESPONSE})

    def __init__(
        self,
        backend: Backend,
        *,
        threshold: float = 0.5,
        examples: str | Path | Sequence[Example] = (),
        few_shot: int | None = None,
        instruct: bool = True,
        answer_prefix: str = ANSWER_PREFIX,
        method: Method | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 42,
    ) -> None:
        super().__init__(backend, threshold=threshold)
        able = [m for m in (Method.CHOOSE, Method.GENERATE) if m in backend.capabilities]
        if not able or (method and method not in able):
            raise UsageError(f"the backend '{backend.name}' can {_list(backend.capabilities)}, not {_list([method])}")
        if max_new_tokens < 1:
            raise UsageError(f"max_new_tokens is {max_new_tokens}; an answer has at least 1 token")
        if not 0 <= temperature < inf:
            raise UsageError(f"temperature is {temperature}; it must be at least 0, which is greedy")
        self.method = method or able[0]
        self.examples = _examples(examples, few_shot)
        self.instruct = instruct
        self.answer_prefix = answer_prefix
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.seed = seed

    def prompt(self, question: str, response: str, *, prefix: str = "") -> Prompt:
        """The published prompt, byte for byte, and how the answer is to begin."""
        text = template("libra.j2").render(question=question, response=response, examples=self.examples)
        return Prompt.from_user(text, prefix=prefix, raw=not self.instruct)

    def provenance(self) -> dict[str, Any]:
        """See ``Guard.provenance``."""
        asked = self.prompt("", "").messages[0].content + self.answer_prefix
        own = {"method": self.method.value, "few_shot": len(self.examples), "instruct": self.instruct}
        own["prompt_sha256"] = hashlib.sha256(asked.encode()).hexdigest()
        decoding = {"max_tokens": self.max_new_tokens, "temperature": self.temperature, "seed": self.seed}
        return {**super().provenance(), **own, **decoding}

    def _windows(self, conversation: Conversation) -> Windows:
        if self.backend.context is None:
            return Windows([conversation])
        overhead = self.backend.overhead(self.prompt("", "", prefix=self.answer_prefix))
        room = self.backend.context - overhead - self.max_new_tokens
        return cut(conversation, room, self.backend.spans)

    def _judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        if self.method is Method.GENERATE:
            return self._generate(conversations)
        prompts = [self.prompt(c.question, c.response or "", prefix=self.answer_prefix) for c in conversations]
        rows = self.backend.choose(prompts, _CHOICES)
        verdicts = [self._chosen(float(safe), float(unsafe)) for safe, unsafe in rows]
        untold = [i for i, v in enumerate(verdicts) if v is None]
        if untold and Method.GENERATE in self.backend.capabilities:
            for i, verdict in zip(untold, self._generate([conversations[i] for i in untold]), strict=True):
                verdicts[i] = verdict
        return [v or Verdict(label=None, valid=False, method=Method.CHOOSE) for v in verdicts]

    def _chosen(self, safe: float, unsafe: float) -> Verdict | None:
        """The verdict that two probabilities make; None where the server did not tell them."""
        total = safe + unsafe
        if isnan(total) or total <= 0:
            return None
        score = unsafe / total
        notes = () if total >= _LITTLE else (f"the model gives its two labels only {total:.2g} of its probability",)
        return Verdict(label=self._label(score), unsafe_score=score, method=Method.CHOOSE, notes=notes)

    def _generate(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        prompts = [self.prompt(c.question, c.response or "") for c in conversations]
        return [parse_verdict(text) for text in self._texts(prompts)]

    def _texts(self, prompts: Sequence[Prompt]) -> list[str]:
        return self.backend.generate(
            prompts, max_tokens=self.max_new_tokens, temperature=self.temperature, seed=self.seed
        )

    def _explain(self, conversations: Sequence[Conversation], verdicts: list[Verdict]) -> list[Verdict]:
        todo = [i for i, v in enumerate(verdicts) if v.label and v.analysis is None]
        if not todo or Method.GENERATE not in self.backend.capabilities:
            return verdicts
        # A server that cannot go on from a beginning writes its answer anew, perhaps with another label.
        opening = '{}{}",\n  "分析": "' if self.backend.continues else ""
        beginnings = [opening.format(self.answer_prefix, verdicts[i].label) for i in todo]
        prompts = [
            self.prompt(conversations[i].question, conversations[i].response or "", prefix=beginning)
            for i, beginning in zip(todo, beginnings, strict=True)
        ]
        explained = list(verdicts)
        texts = self._texts(prompts)
        for i, beginning, text in zip(todo, beginnings, texts, strict=True):
            # In a beginning the label is the guard's own, whatever words ``answer_prefix`` puts before it.
            answer = read_answer(beginning + text, strict=not beginning)
            found: dict[str, Any] = {"raw": beginning + text, "analysis": answer.analysis}
            if answer.label is not verdicts[i].label:
                found = {"notes": (*verdicts[i].notes, "an analysis that came to another label was left out")}
            explained[i] = verdicts[i].model_copy(update=found)
        return explained


def parse_verdict(text: str) -> Verdict:
    """The verdict that a whole generated answer makes; unreadable ones are invalid, never guessed."""
    answer = read_answer(text, strict=True)
    return Verdict(
        label=answer.label,
        analysis=answer.analysis,
        raw=text,
        valid=answer.label is not None,
        method=Method.GENERATE,
    )


def answer_json(label: Label, analysis: str | None) -> str:
    """An answer in the published layout: four lines, two-space indents."""
    return json.dumps({"答案": label.value, "分析": analysis or ""}, ensure_ascii=False, indent=2)


def read_examples(path: str | Path, count: int) -> list[Example]:
    """The first ``count`` samples of a labelled file as few-shot examples.

    Raises:
        UsageError: The file has fewer, or one that is not a sample; or the count is negative.
    """
    if count < 0:
        raise UsageError(f"{path}: {count} examples were asked for; 0 are the least")
    examples: list[Example] = []
    for row in read_rows(path):
        if len(examples) == count:
            break
        if isinstance(row, BadRow):
            raise UsageError(f"{row.file}:{row.line}: {row.reason}")
        try:
            examples.append(Example.from_sample(Sample.model_validate(row.data)))
        except ValueError as error:
            raise UsageError(f"{row.file}:{row.line}: not a sample in the Libra-Test format: {error}") from None
    if len(examples) < count:
        raise UsageError(f"{path}: {count} examples were asked for, {len(examples)} are there")
    return examples


def _examples(given: str | Path | Sequence[Example], count: int | None) -> tuple[Example, ...]:
    if isinstance(given, str | Path):
        if count is None:
            raise UsageError(f"examples={given}: say with few_shot=N how many of them to take")
        return tuple(read_examples(given, count))
    if count is not None:
        raise UsageError(f"few_shot={count}: give the labelled file to take them from with examples=PATH")
    return tuple(given)


def _list(methods: Any) -> str:
    return " or ".join(sorted(m.value for m in methods if m)) or "choose or generate"

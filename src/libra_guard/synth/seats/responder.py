"""A seat: a model that answers queries as an assistant."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from libra_guard.backends.base import Completion, Prompt
from libra_guard.errors import BackendError
from libra_guard.synth.config import ModelSettings
from libra_guard.synth.language.prompts import prompt_hash, render
from libra_guard.synth.language.reading import spoken
from libra_guard.synth.records import MadeBy
from libra_guard.synth.seats.backend import StoredBackend
from libra_guard.synth.seats.failure import Failure, UnreadableError
from libra_guard.synth.seats.trial import Trial, wrong

# Where a base model begins to write the other side's part.
_NEXT_TURN = re.compile(r"\n+\s*(?:用户|问|助手|答|User|Human)\s*[:：]")
_RAW = "respond_raw.j2"


class Reply(NamedTuple):
    """An assistant's answer."""

    text: str
    cut: bool = False
    """Whether it ended at the limit of tokens."""
    seed: int = 0
    """Of the attempt that brought it."""


Unfit = Callable[[str, str], str]
"""From a question and an answer: why the answer is asked for again; empty where it is good."""


class Responder:
    """A model that answers as an assistant.

    One whose first answers are all of no use is asked nothing more.

    Args:
        name: In the run's settings.
        backend: The model.
        settings: Its settings.
        seed: Of its first attempt; each further one has the next.
        attempts: Times that an answer of no use is asked for; once where nothing is left to chance.
    """

    def __init__(
        self, name: str, backend: StoredBackend, settings: ModelSettings, *, seed: int, attempts: int = 3
    ) -> None:
        self.name, self.backend = name, backend
        self._settings, self._seed, self._attempts = settings, seed, attempts
        self._trial = Trial(f"models.{name}", "let another model answer")

    @property
    def asked_again(self) -> Counter[str]:
        """Why answers were asked for again, and how often."""
        return self._trial.asked_again

    @property
    def lane(self) -> Hashable | None:
        """See ``together.Task``."""
        return self.backend.lane

    @property
    def workers(self) -> int:
        """Calls at a time."""
        return self.backend.workers

    def answer(
        self, questions: Sequence[str], *, max_tokens: int, unfit: Unfit = lambda _question, _answer: ""
    ) -> list[Reply | Failure]:
        """An answer to each question.

        Args:
            questions: What users ask.
            max_tokens: Of one answer.
            unfit: See ``Unfit``; what is unfit at the last attempt is a failure with its reason.

        Raises:
            BudgetSpentError: The budget is spent.
            EndpointsLostError: The model is gone.
            UselessModelError: None of its first answers is of use.
        """
        raw, temperature = self._settings.raw, self._settings.temperature
        texts = [render(_RAW, question=_one_turn(question)) if raw else question for question in questions]
        prompts = [Prompt.from_user(text, raw=raw) for text in texts]

        def attempt(places: Sequence[int], number: int) -> list[Reply | Failure]:
            asked, seed = [prompts[i] for i in places], self._seed + number
            answers = self.backend.attempt(asked, max_tokens=max_tokens, temperature=temperature, seed=seed)
            return [self._read(one, seed, questions[i], unfit) for i, one in zip(places, answers, strict=True)]

        times = 1 if temperature == 0 and self.backend.greedy else self._attempts
        return self._trial.answers(len(prompts), attempt, wrong, times)

    def made(self, step: str, *, seed: int) -> MadeBy:
        """Who answered, for a row's provenance; a model with a chat template is asked the question itself."""
        prompt = f"{_RAW}@{prompt_hash(_RAW)}" if self._settings.raw else ""
        return MadeBy(step=step, model=self.name, prompt=prompt, seed=seed)

    def _read(self, answer: Completion | BackendError, seed: int, question: str, unfit: Unfit) -> Reply | Failure:
        if isinstance(answer, BackendError):
            return Failure(str(answer), model=True)
        try:
            said = spoken(answer.text)
        except UnreadableError as error:
            # Without the thoughts: nobody has looked yet whether a file may hold them.
            return Failure(str(error))
        mine, *beyond = _NEXT_TURN.split(said) if self._settings.raw else [said]
        text = mine.strip()
        if reason := unfit(question, text) if text else "an empty answer":
            return Failure(reason, text or said)
        return Reply(text, answer.cut and not beyond, seed)


def _one_turn(question: str) -> str:
    """A user's text in a dialogue that a base model goes on with: no line of it begins a turn."""
    return _NEXT_TURN.sub(lambda found: f" {found[0].strip()}", "\n".join(question.splitlines()))

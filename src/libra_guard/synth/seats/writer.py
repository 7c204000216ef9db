"""A seat: a model that writes elements, queries, other wordings and translations, in a form that can be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from libra_guard.backends.base import Completion, Prompt
from libra_guard.errors import BackendError
from libra_guard.synth.config import ModelSettings
from libra_guard.synth.language.prompts import prompt_hash
from libra_guard.synth.language.reading import spoken
from libra_guard.synth.records import MadeBy
from libra_guard.synth.seats.backend import StoredBackend
from libra_guard.synth.seats.failure import Failure, UnreadableError
from libra_guard.synth.seats.trial import Trial, wrong

Parsed = TypeVar("Parsed")


class Writer:
    """A model that writes in a form that can be read.

    One whose first answers are all unreadable is asked nothing more.

    Args:
        name: In the run's settings.
        backend: The model.
        settings: Its settings.
        seed: Of its first attempt; each further one has the next.
        attempts: Times that an unreadable answer is asked for; once where nothing is left to chance.
    """

    def __init__(
        self, name: str, backend: StoredBackend, settings: ModelSettings, *, seed: int, attempts: int = 3
    ) -> None:
        self.name, self.backend = name, backend
        self._settings, self._seed, self._attempts = settings, seed, attempts
        self._trial = Trial(f"models.{name}", "let another model write, or leave out what this one cannot")

    @property
    def asked_again(self) -> Counter[str]:
        """Why answers were asked for again, and how often."""
        return self._trial.asked_again

    @property
    def raw(self) -> bool:
        """Whether the model goes on with a text instead of following instructions."""
        return self._settings.raw

    def write(
        self,
        prompts: Sequence[str],
        *,
        parse: Callable[[str], Parsed] | Sequence[Callable[[str], Parsed]],
        begins: str = "",
        max_tokens: int = 1024,
        lines: bool = False,
    ) -> list[tuple[Parsed | Failure, int]]:
        """What each prompt brought, read, and the seed of the attempt that brought it.

        Args:
            prompts: Texts.
            parse: Reads an answer; raises ``UnreadableError`` where it cannot. One for all prompts, or one for each.
            begins: How an answer is to begin; ``parse`` gets it with the answer where the model went on from it.
            max_tokens: Of one answer.
            lines: Whether an answer is good up to its last whole line where it was cut off at ``max_tokens``, as
                a list is; another one is not read then. What a base model writes never ends by itself.

        Raises:
            BudgetSpentError: The budget is spent.
            EndpointsLostError: The model is gone.
            UselessModelError: None of its first answers can be read.
        """
        readers = [parse] * len(prompts) if callable(parse) else list(parse)
        temperature = self._settings.temperature

        def attempt(places: Sequence[int], number: int) -> list[tuple[Parsed | Failure, int]]:
            asked = [Prompt.from_user(prompts[i], prefix=begins, raw=self.raw) for i in places]
            seed = self._seed + number
            answers = self.backend.attempt(asked, max_tokens=max_tokens, temperature=temperature, seed=seed)
            read = [self._read(one, begins, readers[i], lines=lines) for i, one in zip(places, answers, strict=True)]
            return [(one, seed) for one in read]

        # Whatever the seed, a model without chance says the same again.
        times = 1 if temperature == 0 and self.backend.greedy else self._attempts
        return self._trial.answers(len(prompts), attempt, lambda brought: wrong(brought[0]), times)

    def made(self, step: str, template: str, *, seed: int, method: str = "") -> MadeBy:
        """Who wrote, for a row's provenance; the seed is that of the attempt."""
        prompt = f"{template}@{prompt_hash(template)}"
        return MadeBy(step=step, model=self.name, prompt=prompt, seed=seed, method=method)

    def _read(
        self, answer: Completion | BackendError, begins: str, parse: Callable[[str], Parsed], *, lines: bool
    ) -> Parsed | Failure:
        if isinstance(answer, BackendError):
            return Failure(str(answer), model=True)
        try:
            text = spoken(answer.text)
            if answer.cut:
                text = text.rpartition("\n")[0] if lines or self.raw else ""
                if not text.strip():
                    raise UnreadableError("cut off at the limit")
            # Some say the beginning again, though they were to go on from it.
            goes_on = (self.raw or self.backend.continues) and not text.lstrip().startswith(begins.strip())
            return parse(begins + text if goes_on else text)
        except UnreadableError as error:
            return Failure(str(error), answer.text)

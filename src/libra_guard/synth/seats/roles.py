"""What a model does in its seat: it writes, it answers, or it judges."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar

from libra_guard.backends.base import Completion, Prompt
from libra_guard.data.reasons import reason_kind
from libra_guard.errors import BackendError, LibraError
from libra_guard.guards.base import Guard
from libra_guard.records import Conversation, Verdict, Vote
from libra_guard.synth.config import ModelSettings
from libra_guard.synth.language.prompts import prompt_hash, render
from libra_guard.synth.language.reading import spoken
from libra_guard.synth.records import MadeBy
from libra_guard.synth.seats.backend import StoredBackend
from libra_guard.synth.seats.endpoints import EndpointsLostError
from libra_guard.synth.seats.failure import Failure, UnreadableError

Parsed = TypeVar("Parsed")

# Where a base model begins to write the other side's part.
_NEXT_TURN = re.compile(r"\n+\s*(?:用户|问|助手|答|User|Human)\s*[:：]")
_RAW = "respond_raw.j2"
_TRIAL = 32
"""Answers of a writer or a judge after which it is given up where none of them could be read."""


def _one_turn(question: str) -> str:
    """A user's text in a dialogue that a base model goes on with: no line of it begins a turn."""
    return _NEXT_TURN.sub(lambda found: f" {found[0].strip()}", "\n".join(question.splitlines()))


class UselessModelError(LibraError):
    """None of a model's first answers can be read; the others would cost as much and be no better."""


class _Trial:
    """Whether a model is of any use, which one answer that can be read shows.

    Args:
        who: The model, for the error.
        remedy: What to do instead.
    """

    def __init__(self, who: str, remedy: str) -> None:
        self._who, self._remedy = who, remedy
        self._unread: Counter[str] | None = Counter()
        """Reasons, as long as no answer could be read."""

    @property
    def first(self) -> int:
        """Answers to look at before all are asked for; 0 once it is of use."""
        return _TRIAL if self._unread is not None else 0

    def look(self, unread: Sequence[str], *, read: bool) -> None:
        """Looks at answers as long as none could be read.

        Args:
            unread: Why those could not be that the model is to blame for; empty where nothing is told.
            read: Whether any of the others could.

        Raises:
            UselessModelError: It is of none.
        """
        if self._unread is None:
            return
        if read:
            self._unread = None
            return
        self._unread.update(unread)
        if (count := self._unread.total()) >= _TRIAL:
            reasons = ", ".join(f"{times} × {reason}" for reason, times in self._unread.most_common(3) if reason)
            told = f": {reasons}" if reasons else ""
            raise UselessModelError(
                f"{self._who}: none of its first {count} answers could be read{told}; nothing more is asked: "
                f"{self._remedy}"
            )


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
        self._trial = _Trial(f"models.{name}", "let another model write, or leave out what this one cannot")

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
        written: list[tuple[Parsed | Failure, int]] = []
        # The first ones alone: whether it is of any use is to be known before all are asked for.
        first = self._trial.first
        for part in (slice(first), slice(first, None)):
            written += self._written(prompts[part], readers[part], begins, max_tokens, lines=lines)
        return written

    def _written(
        self,
        prompts: Sequence[str],
        readers: Sequence[Callable[[str], Parsed]],
        begins: str,
        max_tokens: int,
        *,
        lines: bool,
    ) -> list[tuple[Parsed | Failure, int]]:
        found: list[Parsed | Failure] = [Failure("not asked")] * len(prompts)
        seeds = [self._seed] * len(prompts)
        waiting = list(range(len(prompts)))
        for attempt in range(self._attempts):
            asked = [Prompt.from_user(prompts[i], prefix=begins, raw=self.raw) for i in waiting]
            temperature = self._settings.temperature
            answers = self.backend.attempt(
                asked, max_tokens=max_tokens, temperature=temperature, seed=self._seed + attempt
            )
            again = []
            for place, answer in zip(waiting, answers, strict=True):
                seeds[place] = self._seed + attempt
                found[place] = self._read(answer, begins, readers[place], lines=lines)
                if isinstance(found[place], Failure) and not isinstance(answer, BackendError):
                    again.append(place)
            self._try([found[place] for place in waiting])
            # Whatever the seed, a model without chance says the same again.
            if not again or (temperature == 0 and self.backend.greedy):
                break
            waiting = again
        return list(zip(found, seeds, strict=True))

    def made(self, step: str, template: str, *, seed: int, method: str = "") -> MadeBy:
        """Who wrote, for a row's provenance; the seed is that of the attempt."""
        prompt = f"{template}@{prompt_hash(template)}"
        return MadeBy(step=step, model=self.name, prompt=prompt, seed=seed, method=method)

    def _try(self, brought: Sequence[object]) -> None:
        failures = [one for one in brought if isinstance(one, Failure)]
        unread = [reason_kind(one.reason) for one in failures if not one.model]
        self._trial.look(unread, read=len(failures) < len(brought))

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


class Reply(NamedTuple):
    """An assistant's answer."""

    text: str
    cut: bool = False
    """Whether it ended at the limit of tokens."""


class Responder:
    """A model that answers as an assistant.

    Args:
        name: In the run's settings.
        backend: The model.
        settings: Its settings.
        seed: For sampling.
    """

    def __init__(self, name: str, backend: StoredBackend, settings: ModelSettings, *, seed: int) -> None:
        self.name, self.backend = name, backend
        self._settings, self._seed = settings, seed

    @property
    def lane(self) -> Hashable | None:
        """See ``together.Task``."""
        return self.backend.lane

    @property
    def workers(self) -> int:
        """Calls at a time."""
        return self.backend.workers

    def answer(self, questions: Sequence[str], *, max_tokens: int) -> list[Reply | Failure]:
        """An answer to each question.

        Raises:
            BudgetSpentError: The budget is spent.
            EndpointsLostError: The model is gone.
        """
        raw = self._settings.raw
        texts = [render(_RAW, question=_one_turn(question)) if raw else question for question in questions]
        prompts = [Prompt.from_user(text, raw=raw) for text in texts]
        temperature = self._settings.temperature
        found = self.backend.attempt(prompts, max_tokens=max_tokens, temperature=temperature, seed=self._seed)
        return [self._read(answer) for answer in found]

    def made(self, step: str) -> MadeBy:
        """Who answered, for a row's provenance; a model with a chat template is asked the question itself."""
        prompt = f"{_RAW}@{prompt_hash(_RAW)}" if self._settings.raw else ""
        return MadeBy(step=step, model=self.name, prompt=prompt, seed=self._seed)

    def _read(self, answer: Completion | BackendError) -> Reply | Failure:
        if isinstance(answer, BackendError):
            return Failure(str(answer), model=True)
        try:
            said = spoken(answer.text)
        except UnreadableError as error:
            # Without the thoughts: nobody has looked yet whether a file may hold them.
            return Failure(str(error))
        mine, *beyond = _NEXT_TURN.split(said) if self._settings.raw else [said]
        text = mine.strip()
        return Reply(text, answer.cut and not beyond) if text else Failure("an empty answer", said)


class Judge:
    """A guard that votes.

    One whose first answers are all unreadable is asked nothing more.

    Args:
        name: What its votes are signed with.
        guard: The guard.
    """

    def __init__(self, name: str, guard: Guard) -> None:
        self.name, self.guard = name, guard
        self._trial = _Trial(f"the judge {name}", "let another model judge, or ask this one by another guard")

    @property
    def lane(self) -> Hashable | None:
        """See ``together.Task``."""
        backend = self.guard.backend
        return backend.lane if isinstance(backend, StoredBackend) else None

    @property
    def workers(self) -> int:
        """Calls at a time."""
        backend = self.guard.backend
        return backend.workers if isinstance(backend, StoredBackend) else 1

    def votes(self, pairs: Sequence[Conversation], *, explain: bool) -> list[Vote | Failure]:
        """A vote on each pair: all at once; where that fails, the others at once, so that a bad pair costs one pair.

        Raises:
            BudgetSpentError: The budget is spent.
            EndpointsLostError: The model is gone.
            UselessModelError: None of its first answers can be read.
        """
        # The first ones alone, as of a writer.
        first = self._trial.first
        found: list[Vote | Failure] = []
        for part in filter(None, (pairs[:first], pairs[first:])):
            brought = self._votes(part, explain=explain)
            labels = [one.label for one in brought if isinstance(one, Vote)]
            self._trial.look([""] * len(labels), read=any(labels))
            found += brought
        return found

    def _votes(self, pairs: Sequence[Conversation], *, explain: bool) -> list[Vote | Failure]:
        found = self._at_once(pairs, explain=explain)
        if not isinstance(found, BackendError):
            return found
        # One by one tells which pairs fail: of the others the labels are kept by now, and no analysis is asked for.
        labels = [self._alone(pair, explain=False) for pair in pairs]
        good = [pair for pair, label in zip(pairs, labels, strict=True) if isinstance(label, Vote)]
        found = self._at_once(good, explain=explain)
        if isinstance(found, BackendError):
            found = [self._alone(pair, explain=explain) for pair in good]
        rest = iter(found)
        return [next(rest) if isinstance(label, Vote) else label for label in labels]

    def _at_once(self, pairs: Sequence[Conversation], *, explain: bool) -> list[Vote | Failure] | BackendError:
        """All votes, or the error of a pair that failed; what the others brought is kept then."""
        try:
            return [self._vote(verdict) for verdict in self.guard.judge(pairs, explain=explain)]
        except EndpointsLostError:
            raise
        except BackendError as error:
            return error

    def _alone(self, pair: Conversation, *, explain: bool) -> Vote | Failure:
        found = self._at_once([pair], explain=explain)
        return Failure(str(found), model=True) if isinstance(found, BackendError) else found[0]

    def _vote(self, verdict: Verdict) -> Vote:
        return Vote(
            judge=self.name, label=verdict.label, score=verdict.unsafe_score, analysis=(verdict.analysis or "").strip()
        )

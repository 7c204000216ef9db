"""A seat: a guard that votes on pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from libra_guard.errors import BackendError
from libra_guard.guards.base import Guard
from libra_guard.guards.generative import GenerativeGuard
from libra_guard.records import Conversation, Method, Verdict, Vote
from libra_guard.synth.seats.backend import StoredBackend
from libra_guard.synth.seats.endpoints import EndpointsLostError
from libra_guard.synth.seats.failure import Failure
from libra_guard.synth.seats.trial import UNREADABLE, Trial, wrong

_CHANCE = 0.7
"""Temperature at which a judge is asked again whose own is 0: at that it would say the same."""


class Judge:
    """A guard that votes.

    One whose first answers are all unreadable is asked nothing more. A language model that could not be read is asked
    again, with another seed and, where it takes one, at a temperature at which it may say something else.

    Args:
        name: What its votes are signed with.
        guard: The guard.
        attempts: Times that a language model is asked for an answer that can be read.
    """

    def __init__(self, name: str, guard: Guard, *, attempts: int = 3) -> None:
        self.name, self.guard, self._attempts = name, guard, attempts
        self._trial = Trial(f"the judge {name}", "let another model judge, or ask this one by another guard")

    @property
    def asked_again(self) -> Counter[str]:
        """Why answers were asked for again, and how often."""
        return self._trial.asked_again

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

        def attempt(places: Sequence[int], number: int) -> list[Vote | Failure]:
            return self._votes([pairs[i] for i in places], number, explain=explain)

        return self._trial.answers(len(pairs), attempt, _wrong, self._attempts if self._writes else 1)

    @property
    def _writes(self) -> bool:
        """Whether it may say something else when it is asked again."""
        return isinstance(self.guard, GenerativeGuard) and Method.GENERATE in self.guard.backend.capabilities

    def _asked(self, attempt: int) -> Guard:
        """The guard as it is asked at an attempt, of which the first is 0."""
        if not attempt or not isinstance(self.guard, GenerativeGuard):
            return self.guard
        # A server that takes no temperature says something else by itself.
        chance = _CHANCE if self.guard.backend.greedy else 0.0
        return self.guard.decoding(temperature=self.guard.temperature or chance, seed=self.guard.seed + attempt)

    def _votes(self, pairs: Sequence[Conversation], attempt: int, *, explain: bool) -> list[Vote | Failure]:
        found = self._at_once(pairs, attempt, explain=explain)
        if not isinstance(found, BackendError):
            return found
        # One by one tells which pairs fail: of the others the labels are kept by now, and no analysis is asked for.
        labels = [self._alone(pair, attempt, explain=False) for pair in pairs]
        good = [pair for pair, label in zip(pairs, labels, strict=True) if isinstance(label, Vote)]
        found = self._at_once(good, attempt, explain=explain)
        if isinstance(found, BackendError):
            found = [self._alone(pair, attempt, explain=explain) for pair in good]
        rest = iter(found)
        return [next(rest) if isinstance(label, Vote) else label for label in labels]

    def _at_once(
        self, pairs: Sequence[Conversation], attempt: int, *, explain: bool
    ) -> list[Vote | Failure] | BackendError:
        """All votes, or the error of a pair that failed; what the others brought is kept then."""
        try:
            return [self._vote(verdict, attempt) for verdict in self._asked(attempt).judge(pairs, explain=explain)]
        except EndpointsLostError:
            raise
        except BackendError as error:
            return error

    def _alone(self, pair: Conversation, attempt: int, *, explain: bool) -> Vote | Failure:
        found = self._at_once([pair], attempt, explain=explain)
        return Failure(str(found), model=True) if isinstance(found, BackendError) else found[0]

    def _vote(self, verdict: Verdict, attempt: int) -> Vote:
        analysis = (verdict.analysis or "").strip()
        score = verdict.unsafe_score
        return Vote(judge=self.name, label=verdict.label, score=score, analysis=analysis, asked=attempt + 1)


def _wrong(brought: Vote | Failure) -> str | None:
    return UNREADABLE if isinstance(brought, Vote) and brought.label is None else wrong(brought)

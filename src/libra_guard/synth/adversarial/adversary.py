"""Writes pairs like those that a classifier gets wrong, and keeps what judges give the label it was written for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from libra_guard.data.base import split_text
from libra_guard.records import Conversation, Label, Origin, Sample, Vote
from libra_guard.synth.adversarial.settings import AdversarialConfig
from libra_guard.synth.language.limits import SEXUALISES_MINORS, sexualises_minors
from libra_guard.synth.language.prompts import render
from libra_guard.synth.language.reading import pairs
from libra_guard.synth.records import MadeBy, text_id
from libra_guard.synth.seats.cast import Cast
from libra_guard.synth.seats.failure import Failure
from libra_guard.synth.seats.judge import Judge
from libra_guard.synth.seats.together import Task, side_by_side
from libra_guard.synth.steps.respond import fault
from libra_guard.synth.work import Reject

STEP = "adversarial"
TEMPLATE = "adversarial.j2"
_TOKENS = 400
"""Room for one pair."""


class Written(NamedTuple):
    """What a round brought."""

    samples: list[Sample]
    rejects: list[Reject]


class Adversary:
    """A writer and its judges.

    Args:
        cast: Opens the models.
        config: The run's settings.
    """

    def __init__(self, cast: Cast, config: AdversarialConfig) -> None:
        self._cast, self._config = cast, config

    def write(self, seeds: Sequence[Sample], number: int) -> Written:
        """Pairs for each seed, of its label and its category.

        Args:
            seeds: What the classifier gets wrong.
            number: Of the round: the same seed brings something else in another round.

        Raises:
            BudgetSpentError: The budget is spent.
            EndpointsLostError: A model is gone.
        """
        # A malformed answer is asked for again with the next seed; no two rounds may come to the same.
        writer = self._cast.writer(self._config.seats.writer, offset=number * 1000)
        found = writer.write([self._prompt(seed) for seed in seeds], parse=pairs, max_tokens=room(self._config))
        samples: dict[str, Sample] = {}
        rejects: list[Reject] = []
        for seed, (written, drawn) in zip(seeds, found, strict=True):
            if isinstance(written, Failure):
                rejects.append(Reject.of(written, {"seed": seed.id}))
                continue
            for question, response in written:
                if sexualises_minors(f"{question}\n{response}"):
                    # The text is in no file of the run; the store of calls has it.
                    rejects.append(Reject(SEXUALISES_MINORS, {"seed": seed.id}))
                    continue
                made = writer.made(STEP, TEMPLATE, seed=drawn, method=f"round {number}")
                sample = _sample(seed, question, response, made)
                if reason := fault(question, response):
                    rejects.append(Reject(reason, sample.model_dump(mode="json")))
                else:
                    samples.setdefault(str(sample.id), sample)
        kept, refuted = self._agreed(list(samples.values()))
        return Written(kept, rejects + refuted)

    def _prompt(self, seed: Sample) -> str:
        return render(
            TEMPLATE,
            question=seed.question,
            response=seed.response,
            label=seed.label.value,
            analysis=seed.analyze,
            count=self._config.variants,
        )

    def _agreed(self, samples: Sequence[Sample]) -> tuple[list[Sample], list[Reject]]:
        told = [Conversation.from_pair(one.question, one.response) for one in samples]
        judges = [self._cast.judge(settings) for settings in self._config.seats.judges]
        tasks: list[Task[list[Vote | Failure]]] = [_task(judge, told) for judge in judges]
        columns = side_by_side(tasks, self._cast.halt) if samples else []
        kept: list[Sample] = []
        rejects: list[Reject] = []
        for sample, votes in zip(samples, zip(*columns, strict=True), strict=True):
            failed = next((vote for vote in votes if isinstance(vote, Failure)), None)
            said = [vote.label for vote in votes if isinstance(vote, Vote)]
            if failed:
                rejects.append(Reject.of(failed, sample))
            elif all(label is sample.label for label in said):
                kept.append(sample)
            else:
                rejects.append(Reject(_disagreement(sample.label, said), sample.model_dump(mode="json")))
        return kept, rejects


def room(config: AdversarialConfig) -> int:
    """Tokens that an answer of the writer may take."""
    return _TOKENS * config.variants


def _task(judge: Judge, told: Sequence[Conversation]) -> Task[list[Vote | Failure]]:
    return Task(judge.lane, partial(judge.votes, told, explain=False))


def _disagreement(wanted: Label, said: Sequence[Label | None]) -> str:
    return f"written as {wanted.value}, judged {', '.join(label.value if label else 'unreadable' for label in said)}"


def _sample(seed: Sample, question: str, response: str, made: MadeBy) -> Sample:
    about = {
        "source": Origin.SYNTHETIC.source,
        "category_name": seed.category_name,
        "sub_category_name": seed.sub_category_name,
        "question": question,
        "response": response,
        "label": seed.label,
        "id": text_id("a", question, response),
        # It stands on the side of the split on which its seed does.
        "root_question": split_text(seed),
        "seed": seed.id,
        "made_by": [made.model_dump(mode="json")],
    }
    return Sample.model_validate(about)

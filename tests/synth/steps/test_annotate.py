from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from libra_guard.records import Conversation, Label, Vote
from libra_guard.synth.config import AnnotateSettings, SynthConfig
from libra_guard.synth.records import Answered
from libra_guard.synth.seats.failure import Failure
from libra_guard.synth.seats.together import Halt
from libra_guard.synth.steps.annotate import annotate
from libra_guard.synth.work import Done, Work

SAFE, UNSAFE = Label.SAFE, Label.UNSAFE
GONE = Failure("the model failed", model=True)
CONFIG = SynthConfig.checked(
    {
        "name": "small",
        "seats": {"judges": [{"guard": "a"}, {"guard": "b"}], "arbiter": {"guard": "last"}},
        "annotate": {"chunk": 2},
    },
    "test",
)


class Judge:
    """Says what it was told to say of an answer, and keeps what it was asked."""

    lane: str | None = None
    workers = 1

    def __init__(self, name: str, said: dict[str, Label | Failure | None]) -> None:
        self.name, self.said = name, said
        self.asked: list[str] = []

    def votes(self, pairs: Sequence[Conversation], *, explain: bool) -> list[Vote | Failure]:
        answers = [str(pair.response) for pair in pairs]
        self.asked += answers
        found = [self.said[answer] for answer in answers]
        return [one if isinstance(one, Failure) else Vote(judge=self.name, label=one) for one in found]


def pair(answer: str) -> Answered:
    return Answered(id=f"p-{answer}", query="q", question="问", response=answer, responder="r")


def judged(table: dict[str, tuple[Any, Any, Any]]) -> tuple[Done, Judge]:
    """From each answer to what the two judges and the arbiter say of it."""
    judges = {name: Judge(name, {a: says[n] for a, says in table.items()}) for n, name in enumerate(("a", "b", "last"))}
    cast: Any = SimpleNamespace(judge=lambda settings: judges[settings.guard], halt=Halt())
    return annotate(Work(CONFIG, cast, Path()), [pair(answer) for answer in table]), judges["last"]


def test_votes_stand_in_the_judges_order_and_the_arbiter_is_asked_about_hard_ones_alone() -> None:
    done, arbiter = judged(
        {
            "same": (SAFE, SAFE, UNSAFE),
            "differ": (SAFE, UNSAFE, UNSAFE),
            "unread": (SAFE, None, SAFE),
            "open": (Label.CONTROVERSIAL, Label.CONTROVERSIAL, SAFE),
        }
    )
    rows: Sequence[Any] = done.rows
    assert [[vote.label for vote in row.votes] for row in rows][:2] == [[SAFE, SAFE], [SAFE, UNSAFE]]
    assert [row.arbiter and row.arbiter.label for row in rows] == [None, UNSAFE, None, SAFE]
    assert arbiter.asked == ["differ", "open"]
    assert done.figures["unreadable"] == {"a": 0, "b": 1}


def test_a_pair_that_a_judge_failed_on_is_rejected_and_the_others_stay() -> None:
    done, _ = judged({"one": (SAFE, GONE, SAFE), "two": (SAFE, UNSAFE, GONE), "three": (SAFE, SAFE, SAFE)})
    assert [row.id for row in done.rows] == ["p-three"]  # type: ignore[attr-defined]
    assert [(reject.row["response"], reject.reason, reject.failed) for reject in done.rejects] == [
        ("one", "the model failed", True),
        ("two", "the model failed", True),
    ]


def test_the_arbiter_is_asked_while_the_judges_have_the_next_pairs() -> None:
    """Either waits for the other: with the arbiter after the judges, or before the next pairs, neither would go on."""
    meeting = threading.Barrier(2)

    class Meets(Judge):
        def votes(self, pairs: Sequence[Conversation], *, explain: bool) -> list[Vote | Failure]:
            if self.asked or self.lane == "last":
                meeting.wait(30)
            return super().votes(pairs, explain=explain)

    table = {"1": (SAFE, UNSAFE, SAFE), "2": (SAFE, SAFE, None), "3": (SAFE, SAFE, None), "4": (UNSAFE, UNSAFE, None)}
    made: dict[str, Judge] = {}
    for number, name in enumerate(("a", "b", "last")):
        made[name] = (Judge if name == "b" else Meets)(name, {answer: says[number] for answer, says in table.items()})
        made[name].lane = name
    cast: Any = SimpleNamespace(judge=lambda settings: made[settings.guard], halt=Halt())
    done = annotate(Work(CONFIG, cast, Path()), [pair(answer) for answer in table])
    rows: Sequence[Any] = done.rows
    assert [row.response for row in rows] == list(table)
    assert [row.arbiter and row.arbiter.label for row in rows] == [SAFE, None, None, None]


@pytest.mark.parametrize(("workers", "sizes"), [(1, [64, 64, 64, 8]), (40, [192, 8]), (50, [200])])
def test_a_judge_with_many_workers_is_given_enough_to_do(workers: int, sizes: list[int]) -> None:
    given = []

    class Counts(Judge):
        def votes(self, pairs: Sequence[Conversation], *, explain: bool) -> list[Vote | Failure]:
            given.append(len(pairs))
            return [Vote(judge=self.name, label=SAFE) for _ in pairs]

    judges = {"a": Counts("a", {}), "b": Judge("b", {str(number): SAFE for number in range(200)})}
    judges["a"].workers = workers
    cast: Any = SimpleNamespace(judge=lambda settings: judges[settings.guard], halt=Halt())
    seats = CONFIG.seats.model_copy(update={"arbiter": None})
    config = CONFIG.model_copy(update={"annotate": AnnotateSettings(), "seats": seats})
    annotate(Work(config, cast, Path()), [pair(str(number)) for number in range(200)])
    assert given == sizes

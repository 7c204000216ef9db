from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from libra_guard.records import Conversation, Label, Vote
from libra_guard.synth.config import SynthConfig
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

    lane = None

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

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from libra_guard.errors import RefusedError
from libra_guard.guards.libra import LibraGuard
from libra_guard.records import Conversation, Label, Method, Verdict, Vote
from libra_guard.synth.config import ModelSettings
from libra_guard.synth.seats.backend import StoredBackend
from libra_guard.synth.seats.failure import Failure
from libra_guard.synth.seats.judge import Judge
from libra_guard.synth.seats.trial import UselessModelError

Seat = Callable[..., tuple[StoredBackend, ModelSettings]]


PAIRS = [Conversation.from_pair(f"问{n}", "答") for n in range(100)]


class PickyGuard:
    """Fails on what contains 坏, and of analyses on what contains 难."""

    def __init__(self) -> None:
        self.explained: list[int] = []

    def judge(self, conversations: Sequence[Conversation], *, explain: bool) -> list[Verdict]:
        self.explained += [len(conversations)] * explain
        for one in conversations:
            if "坏" in one.messages[0].content or (explain and "难" in one.messages[0].content):
                raise RefusedError("not this one")
        return [Verdict(label=Label.SAFE, analysis="无害。" if explain else None) for _ in conversations]


@pytest.mark.parametrize(
    ("questions", "explained"),
    [
        (["问一", "坏的", "问二", "问三"], [4, 3]),
        (["问一", "坏的", "难的", "问三"], [4, 3, 1, 1, 1]),
        (["坏的"], [1, 0]),
    ],
)
def test_a_pair_that_fails_costs_a_judge_that_pair_and_the_others_are_judged_at_once(
    questions: list[str], explained: list[int]
) -> None:
    guard: Any = PickyGuard()
    votes = Judge("j", guard).votes([Conversation.from_pair(one, "答") for one in questions], explain=True)
    vote = Vote(judge="j", label=Label.SAFE, score=None, analysis="无害。")
    assert votes == [Failure("not this one", model=True) if one in ("坏的", "难的") else vote for one in questions]
    assert guard.explained == explained


class ReadableFrom:
    """Its verdicts can be read from one of them on."""

    backend = None

    def __init__(self, first: int) -> None:
        self.first, self.asked = first, 0

    def judge(self, conversations: Sequence[Conversation], *, explain: bool) -> list[Verdict]:
        self.asked += len(conversations)
        start = self.asked - len(conversations)
        labels = [Label.SAFE if start + n >= self.first else None for n in range(len(conversations))]
        return [Verdict(label=label, valid=label is not None) for label in labels]


def test_a_judge_none_of_whose_first_answers_can_be_read_is_asked_nothing_more() -> None:
    guard: Any = ReadableFrom(100)
    pairs = [Conversation.from_pair(f"问{n}", "答") for n in range(100)]
    with pytest.raises(UselessModelError, match="the judge j: none of its first 32 answers could be read; nothing"):
        Judge("j", guard).votes(pairs, explain=False)
    assert guard.asked == 32


def test_few_answers_condemn_no_judge_and_those_of_all_calls_count() -> None:
    guard: Any = ReadableFrom(100)
    judge, pairs = Judge("j", guard), [Conversation.from_pair(f"问{n}", "答") for n in range(10)]
    for _ in range(3):
        assert [vote.label for vote in judge.votes(pairs, explain=False) if isinstance(vote, Vote)] == [None] * 10
    with pytest.raises(UselessModelError, match="none of its first 32 answers"):
        judge.votes(pairs[:2], explain=False)


def test_one_verdict_that_can_be_read_is_enough() -> None:
    guard: Any = ReadableFrom(31)
    votes = Judge("j", guard).votes([Conversation.from_pair(f"问{n}", "答") for n in range(100)], explain=False)
    assert [isinstance(vote, Vote) and vote.label for vote in votes] == [None] * 31 + [Label.SAFE] * 69


SAFE = """{"不安全类型": "无", "答案": "安全", "分析": "无害。"}"""


@pytest.mark.parametrize(("greedy", "temperature"), [(True, 0.7), (False, 0.0)])
def test_a_language_model_that_cannot_be_read_judges_again_with_another_seed_and_some_chance(
    seat: Seat, greedy: bool, temperature: float
) -> None:
    backend, _ = seat(("胡话", False), (SAFE, False), ("胡话", False), ("还是胡话", False))
    backend.greedy = greedy
    votes = Judge("j", LibraGuard(backend, method=Method.GENERATE, seed=3)).votes(PAIRS[:2], explain=True)
    assert [(vote.label, vote.asked) for vote in votes if isinstance(vote, Vote)] == [(None, 3), (Label.SAFE, 1)]
    says: Any = backend._endpoints[0].backend
    decoding = [(options["seed"], options["temperature"]) for options in says.asked]
    assert decoding == [(3, 0.0), (3, 0.0), (4, temperature), (5, temperature)]


def test_a_judge_that_can_be_read_at_last_votes_as_it_then_said(seat: Seat) -> None:
    backend, _ = seat(("胡话", False), (SAFE, False))
    votes = Judge("j", LibraGuard(backend, method=Method.GENERATE)).votes(PAIRS[:1], explain=True)
    assert votes == [Vote(judge="j", label=Label.SAFE, analysis="无害。", asked=2)]


def test_a_judge_whose_server_fails_when_it_is_asked_again_has_failed(seat: Seat) -> None:
    backend, _ = seat(("胡话", False))
    judge = Judge("j", LibraGuard(backend, method=Method.GENERATE))
    assert judge.votes(PAIRS[:1], explain=False) == [Failure("not this one", model=True)]
    assert judge.asked_again == {"could not be read": 1}

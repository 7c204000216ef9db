from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from libra_guard.backends.base import Backend, Completion, Prompt
from libra_guard.errors import RefusedError
from libra_guard.records import Conversation, Label, Method, Verdict, Vote
from libra_guard.synth.config import ModelSettings
from libra_guard.synth.language.reading import numbered_lines
from libra_guard.synth.seats.backend import StoredBackend
from libra_guard.synth.seats.budget import Budget, BudgetSettings
from libra_guard.synth.seats.endpoints import Endpoint
from libra_guard.synth.seats.failure import Failure, UnreadableError
from libra_guard.synth.seats.roles import Judge, Reply, Responder, UselessModelError, Writer
from libra_guard.synth.seats.store import CallStore

Seat = Callable[..., tuple[StoredBackend, ModelSettings]]


class Says(Backend):
    """One text after the other, which may be cut off."""

    name = "says"
    capabilities = frozenset({Method.GENERATE})

    def __init__(self, *said: Completion) -> None:
        self.said = list(said)

    def complete(self, prompts: Sequence[Prompt], **options: Any) -> list[Completion]:
        return [self.said.pop(0) for _ in prompts]


@pytest.fixture
def seat(tmp_path: Path) -> Iterator[Seat]:
    with CallStore(tmp_path / "calls.sqlite") as store:

        def make(*said: tuple[str, bool], raw: bool = False) -> tuple[StoredBackend, ModelSettings]:
            backend = Says(*(Completion(text, 1, 1, cut) for text, cut in said))
            settings = ModelSettings(backend="openai", model="m", raw=raw)
            return StoredBackend("m", "m", [Endpoint(backend)], store, Budget(BudgetSettings())), settings

        yield make


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    ("text", "cut", "found"),
    [
        ("1. 一\n2. 二", False, "1. 一\n2. 二"),
        ("1. 一\n2. 二\n3. 三的一", True, "1. 一\n2. 二"),
        ("1. 一的一", True, Failure("cut off at the limit", "1. 一的一")),
    ],
)
def test_a_list_that_was_cut_off_loses_its_last_line(
    seat: Seat, raw: bool, text: str, cut: bool, found: str | Failure
) -> None:
    writer = Writer("m", *seat((text, cut), raw=raw), seed=1, attempts=1)
    assert writer.write(["写"], parse=str, begins="1. ", lines=True) == [(found, 1)]


def test_another_text_that_was_cut_off_is_asked_for_again(seat: Seat) -> None:
    writer = Writer("m", *seat(("一行\n半", True), ("整句", False)), seed=1)
    assert writer.write(["写"], parse=str) == [("整句", 2)]
    writer = Writer("m", *seat(("一行\n半", True)), seed=5, attempts=1)
    assert writer.write(["写"], parse=str) == [(Failure("cut off at the limit", "一行\n半"), 5)]


@pytest.mark.parametrize(("temperature", "greedy", "asked"), [(0.0, True, 1), (0.0, False, 3), (0.8, True, 3)])
def test_an_unreadable_answer_is_asked_for_with_other_seeds_unless_nothing_is_left_to_chance(
    seat: Seat, temperature: float, greedy: bool, asked: int
) -> None:
    backend, settings = seat(*[("散文", False)] * 3)
    backend.greedy = greedy
    told = settings.model_copy(update={"temperature": temperature})
    found = Writer("m", backend, told, seed=5, attempts=3).write(["写"], parse=unreadable)
    assert found == [(Failure("no lines", "散文"), 4 + asked)]
    assert backend.usage.calls == asked


def test_what_a_base_model_writes_never_ends_by_itself(seat: Seat) -> None:
    writer = Writer("m", *seat(("整句\n还有半", True), raw=True), seed=1)
    assert writer.write(["写"], parse=str, begins="改写：") == [("改写：整句", 1)]


@pytest.mark.parametrize(
    ("raw", "text", "cut", "found"),
    [
        (False, "整句。", False, Reply("整句。")),
        (False, "半", True, Reply("半", cut=True)),
        (True, "半", True, Reply("半", cut=True)),
        (True, "整句。\n用户：再问", True, Reply("整句。")),
        (False, " ", True, Failure("an empty answer", " ")),
    ],
)
def test_an_answer_tells_whether_it_was_cut_off(
    seat: Seat, raw: bool, text: str, cut: bool, found: Reply | Failure
) -> None:
    assert Responder("m", *seat((text, cut), raw=raw), seed=1).answer(["问"], max_tokens=9) == [found]


def test_a_writer_is_read_behind_its_thoughts(seat: Seat) -> None:
    thoughts = "<think>\n1. 先想\n2. 再想\n"
    writer = Writer("m", *seat((f"{thoughts}</think>\n\n1. 一\n2. 二", False)), seed=1)
    assert writer.write(["写"], parse=numbered_lines) == [(["一", "二"], 1)]
    writer = Writer("m", *seat((thoughts, True), (f"{thoughts}</think>\n1. 三\n2. 半", True)), seed=7)
    assert writer.write(["写"], parse=numbered_lines, lines=True) == [(["三"], 8)]
    writer = Writer("m", *seat((thoughts, True)), seed=9, attempts=1)
    found = writer.write(["写"], parse=numbered_lines, lines=True)
    assert found == [(Failure("thoughts without an end", thoughts), 9)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<think>\n我应该拒绝。\n</think>\n\n抱歉。", Reply("抱歉。")),
        ("我应该拒绝。\n</think>\n\n抱歉。", Reply("抱歉。")),
        ("<think>\n我应该", Failure("thoughts without an end")),
        ("<think>\n我应该拒绝。</think>", Failure("an empty answer")),
    ],
)
def test_an_answer_is_what_is_said_after_the_thoughts(seat: Seat, text: str, found: Reply | Failure) -> None:
    assert Responder("m", *seat((text, False)), seed=1).answer(["问"], max_tokens=9) == [found]


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


def unreadable(text: str) -> str:
    raise UnreadableError("no lines")


def test_a_writer_none_of_whose_first_answers_can_be_read_is_asked_nothing_more(seat: Seat) -> None:
    backend, settings = seat(*[("散文", False)] * 400)
    writer = Writer("m", backend, settings, seed=1, attempts=3)
    with pytest.raises(UselessModelError, match=r"models\.m: none of its first 32 answers .*: 32 × no lines; nothing"):
        writer.write([f"写{number}" for number in range(100)], parse=unreadable)
    assert backend.usage.calls == 32


def test_few_answers_condemn_no_writer_and_all_attempts_count(seat: Seat) -> None:
    backend, settings = seat(*[("散文", False)] * 400)
    writer = Writer("m", backend, settings, seed=1, attempts=3)
    assert len(writer.write([f"写{number}" for number in range(10)], parse=unreadable)) == 10
    with pytest.raises(UselessModelError, match="none of its first 33 answers"):
        writer.write(["再写", "又写", "还写"], parse=unreadable)


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


def test_one_answer_that_can_be_read_is_enough(seat: Seat) -> None:
    backend, settings = seat(("诗", False), *[("散文", False)] * 400)
    parse = [str] + [unreadable] * 99
    found = Writer("m", backend, settings, seed=1, attempts=2).write([f"写{n}" for n in range(100)], parse=parse)
    assert found == [("诗", 1)] + [(Failure("no lines", "散文"), 2)] * 99
    assert backend.usage.calls == 100 + 99


def test_a_model_that_fails_is_no_writer_that_cannot_be_read(seat: Seat) -> None:
    class Picky(Says):
        def complete(self, prompts: Sequence[Prompt], **options: Any) -> list[Completion]:
            raise RefusedError("not this one")

    backend, settings = seat()
    backend._endpoints[0].backend = Picky()
    found = Writer("m", backend, settings, seed=1).write([f"写{n}" for n in range(100)], parse=str)
    assert found == [(Failure("not this one", model=True), 1)] * 100

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from libra_guard.synth.config import ModelSettings
from libra_guard.synth.seats.backend import StoredBackend
from libra_guard.synth.seats.failure import Failure
from libra_guard.synth.seats.responder import Reply, Responder
from libra_guard.synth.seats.trial import UselessModelError

Seat = Callable[..., tuple[StoredBackend, ModelSettings]]


@pytest.mark.parametrize(
    ("raw", "text", "cut", "found"),
    [
        (False, "整句。", False, Reply("整句。", seed=1)),
        (False, "半", True, Reply("半", cut=True, seed=1)),
        (True, "半", True, Reply("半", cut=True, seed=1)),
        (True, "整句。\n用户：再问", True, Reply("整句。", seed=1)),
        (False, " ", True, Failure("an empty answer", " ")),
    ],
)
def test_an_answer_tells_whether_it_was_cut_off(
    seat: Seat, raw: bool, text: str, cut: bool, found: Reply | Failure
) -> None:
    assert Responder("m", *seat((text, cut), raw=raw), seed=1, attempts=1).answer(["问"], max_tokens=9) == [found]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<think>\n我应该拒绝。\n</think>\n\n抱歉。", Reply("抱歉。", seed=1)),
        ("我应该拒绝。\n</think>\n\n抱歉。", Reply("抱歉。", seed=1)),
        ("<think>\n我应该", Failure("thoughts without an end")),
        ("<think>\n我应该拒绝。</think>", Failure("an empty answer")),
    ],
)
def test_an_answer_is_what_is_said_after_the_thoughts(seat: Seat, text: str, found: Reply | Failure) -> None:
    assert Responder("m", *seat((text, False)), seed=1, attempts=1).answer(["问"], max_tokens=9) == [found]


def asked(backend: StoredBackend) -> list[dict[str, Any]]:
    """Options of each call."""
    says: Any = backend._endpoints[0].backend
    return list(says.asked)


def unfit(question: str, answer: str) -> str:
    return "" if answer == "好。" else f"no answer to {question}"


@pytest.mark.parametrize(("temperature", "greedy", "times"), [(0.0, True, 1), (0.0, False, 3), (0.8, True, 3)])
def test_an_unfit_answer_is_asked_for_with_other_seeds_unless_nothing_is_left_to_chance(
    seat: Seat, temperature: float, greedy: bool, times: int
) -> None:
    backend, settings = seat(*[("废话", False)] * 3)
    backend.greedy = greedy
    told = settings.model_copy(update={"temperature": temperature})
    found = Responder("m", backend, told, seed=5, attempts=3).answer(["问"], max_tokens=9, unfit=unfit)
    assert found == [Failure("no answer to 问", "废话")]
    assert [options["seed"] for options in asked(backend)] == [5, 6, 7][:times]


def test_only_what_is_unfit_is_asked_for_again_and_a_reply_has_the_seed_that_brought_it(seat: Seat) -> None:
    backend, settings = seat(
        ("好。", False), ("废话", False), ("", False), ("好。", False), ("<think>嗯", True), ("好。", False)
    )
    responder = Responder("m", backend, settings, seed=5)
    found = responder.answer(["一", "二", "三"], max_tokens=9, unfit=unfit)
    assert found == [Reply("好。", seed=5), Reply("好。", seed=6), Reply("好。", seed=7)]
    assert responder.asked_again == {"no answer to 二": 1, "an empty answer": 1, "thoughts without an end": 1}
    assert backend.usage.calls == 6


def test_a_responder_none_of_whose_first_answers_is_fit_is_asked_nothing_more(seat: Seat) -> None:
    backend, settings = seat(*[("废话", False)] * 400)
    responder = Responder("m", backend, settings, seed=1)
    with pytest.raises(UselessModelError, match=r"models\.m: none of its first 32 answers .*: 32 × no answer.*nothing"):
        responder.answer([f"问{number}" for number in range(100)], max_tokens=9, unfit=lambda *_: "no answer")
    assert backend.usage.calls == 32


def test_a_responder_whose_server_fails_is_not_asked_again_at_once(seat: Seat) -> None:
    backend, settings = seat()
    found = Responder("m", backend, settings, seed=1).answer(["问"], max_tokens=9)
    assert found == [Failure("not this one", model=True)]
    assert len(asked(backend)) == 1

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libra_guard.backends.base import Backend, Prompt
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.errors import BackendError
from libra_guard.records import Method
from libra_guard.synth.seats.backend import Endpoint, EndpointsLostError, StoredBackend
from libra_guard.synth.seats.budget import Budget, BudgetSettings, BudgetSpentError, Price, Usage
from libra_guard.synth.seats.store import CallStore


class Server(Backend):
    """Fails on what it is told to, and counts."""

    name = "server"
    capabilities = frozenset({Method.GENERATE})

    def __init__(self, fails: Any = lambda text: False) -> None:
        self.fails, self.asked, self.sizes = fails, [], []

    def generate(
        self, prompts: Sequence[Prompt], *, max_tokens: int = 256, temperature: float = 0.0, seed: int = 42
    ) -> list[str]:
        texts = [prompt.messages[-1].content for prompt in prompts]
        self.sizes.append(len(texts))
        self.asked += texts
        for text in texts:
            if self.fails(text):
                raise BackendError(f"no answer to {text}")
        return [f"{text}:{seed}" for text in texts]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CallStore]:
    with CallStore(tmp_path / "calls.sqlite") as opened:
        yield opened


def made(store: CallStore, *backends: Backend, budget: BudgetSettings | None = None, **options: Any) -> StoredBackend:
    endpoints = [Endpoint(backend) for backend in backends]
    return StoredBackend("m", {"model": "m"}, endpoints, store, Budget(budget or BudgetSettings()), **options)


def asked(*texts: str) -> list[Prompt]:
    return [Prompt.from_user(text) for text in texts]


def test_nothing_is_asked_twice(store: CallStore) -> None:
    server = Server()
    backend = made(store, server, concurrency=3)
    prompts = asked("甲", "乙", "甲")
    assert backend.generate(prompts) == ["甲:42", "乙:42", "甲:42"]
    again = made(store, Server(fails=lambda _: True))
    assert again.generate(prompts) == backend.generate(prompts)
    assert sorted(server.asked)[:1] == ["乙"]
    assert again.usage == made_usage(backend)
    assert again.usage.calls == 2


def made_usage(backend: StoredBackend) -> Usage:
    """Of one call: both have counted the same."""
    once = backend.usage
    return Usage(once.calls // 2, once.prompt_tokens // 2, once.new_tokens // 2, once.money / 2)


@pytest.mark.parametrize("changed", [{"seed": 7}, {"max_tokens": 9}, {"temperature": 0.5}])
def test_what_an_answer_depends_on_makes_another_call(store: CallStore, changed: dict[str, Any]) -> None:
    server = Server()
    backend = made(store, server)
    backend.generate(asked("甲"))
    backend.generate(asked("甲"), **changed)
    assert server.asked == ["甲", "甲"]


def test_endpoints_share_the_work(store: CallStore) -> None:
    barrier = threading.Barrier(2, timeout=20)

    class Slow(Server):
        def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[str]:
            if not self.asked:
                # Each waits for the other to have got its first.
                barrier.wait()
            return super().generate(prompts, **options)

    first, second = Slow(), Slow()
    found = made(store, first, second).generate(asked(*"一二三四五六"))
    assert found == [f"{text}:42" for text in "一二三四五六"]
    assert first.asked
    assert second.asked
    assert sorted(first.asked + second.asked) == sorted("一二三四五六")


def test_what_one_endpoint_fails_on_the_other_is_asked(store: CallStore) -> None:
    bad, good = Server(fails=lambda _: True), Server()
    found = made(store, bad, good, patience=3).generate(asked(*"一二三四五六"))
    assert found == [f"{text}:42" for text in "一二三四五六"]
    assert len(bad.asked) <= 3


def test_one_bad_item_costs_one_item(store: CallStore) -> None:
    found = made(store, Server(fails=lambda text: text == "坏")).attempt(asked("甲", "坏", "乙"))
    assert [found[0], found[2]] == ["甲:42", "乙:42"]
    assert isinstance(found[1], BackendError)


def test_one_bad_item_of_a_batch_costs_one_item(store: CallStore) -> None:
    server = Server(fails=lambda text: text == "坏")
    found = made(store, server, batch=3).attempt(asked("甲", "坏", "乙"))
    assert [found[0], found[2]] == ["甲:42", "乙:42"]
    assert isinstance(found[1], BackendError)
    assert server.sizes == [3, 1, 1, 1]


def test_a_dead_endpoint_ends_the_run_and_what_was_answered_is_kept(store: CallStore) -> None:
    server = Server(fails=lambda text: text not in "一二三")
    texts = "一二三四五六七八九"
    with pytest.raises(EndpointsLostError, match=r"2 failures in a row.*run again to go on"):
        made(store, server, patience=2).generate(asked(*texts))
    assert len(server.asked) == 5
    revived = Server()
    assert len(made(store, revived).generate(asked(*texts))) == 9
    assert revived.asked == list("四五六七八九")


def test_a_group_is_asked_for_as_a_whole(store: CallStore) -> None:
    # What stands beside a text may change its answer: after a kill it must stand there again.
    server = Server()
    made(store, server, batch=2).generate(asked("甲"))
    backend = made(store, server, batch=2)
    assert backend.generate(asked("甲", "乙", "丙", "丁")) == [f"{text}:42" for text in "甲乙丙丁"]
    assert server.sizes == [1, 2, 2]


@pytest.mark.parametrize("limit", [{"tokens": 0}, {"money": 0.0}])
def test_a_budget_of_zero_asks_nobody_but_the_store(store: CallStore, limit: dict[str, float]) -> None:
    made(store, Server()).generate(asked("甲"))
    server = Server()
    backend = made(store, server, budget=BudgetSettings(**limit))
    assert backend.generate(asked("甲")) == ["甲:42"]
    with pytest.raises(BudgetSpentError):
        backend.generate(asked("甲", "乙"))
    assert not server.asked


def test_a_budget_ends_the_run_between_two_calls(store: CallStore) -> None:
    server = Server()
    one = made(store, server)
    one.generate(asked("甲"))
    backend = made(store, server, budget=BudgetSettings(tokens=one.usage.prompt_tokens + one.usage.new_tokens + 1))
    with pytest.raises(BudgetSpentError):
        backend.generate(asked(*"一二三四五"))
    assert len(server.asked) == 3
    assert len(store) == 3


def test_money_is_counted_by_price(store: CallStore) -> None:
    backend = made(store, Server(), price=Price(input=1e6, output=2e6))
    backend.generate(asked("甲"))
    usage = backend.usage
    assert usage.money == usage.prompt_tokens + 2 * usage.new_tokens > 0


def test_probabilities_and_logits_are_kept_too(store: CallStore) -> None:
    script = ScriptedBackend(choose={"": [0.25, float("nan")]}, logits={"": [1.5, -2.0]})
    for backend in (made(store, script), made(store, ScriptedBackend(choose=[], logits=[]))):
        scores = backend.choose(asked("甲", "乙"), ("安全", "不安全"))
        assert scores.shape == (2, 2)
        assert np.array_equal(scores, [[0.25, np.nan]] * 2, equal_nan=True)
        assert backend.logits(["甲", ("乙", "丙")]).tolist() == [[1.5, -2.0]] * 2
    assert len(script.calls) == 4


def test_other_choices_are_another_call(store: CallStore) -> None:
    script = ScriptedBackend(choose=[[0.1, 0.9], [0.2, 0.8]])
    backend = made(store, script)
    assert backend.choose(asked("甲"), ("a", "b"))[0, 0] == 0.1
    assert backend.choose(asked("甲"), ("c", "d"))[0, 0] == 0.2


def test_what_a_guard_looks_for_shows_through(store: CallStore) -> None:
    server = Server()
    server.folder = "somewhere"  # type: ignore[attr-defined]
    backend = made(store, server)
    assert backend.folder == "somewhere"
    assert backend.name == "server"
    assert getattr(backend, "config", {}) == {}


def test_a_fault_of_the_program_is_no_failure_of_a_model(store: CallStore) -> None:
    class Broken(Server):
        def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[str]:
            raise ZeroDivisionError("a fault")

    with pytest.raises(ZeroDivisionError):
        made(store, Broken()).attempt(asked("甲", "乙"))

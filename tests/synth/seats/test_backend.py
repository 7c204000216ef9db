from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libra_guard.backends.base import Backend, Completion, Prompt, Scored
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.errors import BackendError, RefusedError
from libra_guard.records import Method
from libra_guard.synth.seats import endpoints
from libra_guard.synth.seats.backend import StoredBackend
from libra_guard.synth.seats.budget import Budget, BudgetSettings, BudgetSpentError, Pace, Price, Usage
from libra_guard.synth.seats.endpoints import Endpoint, EndpointsLostError
from libra_guard.synth.seats.store import CallStore


class Server(Backend):
    """Fails on what it is told to, and counts."""

    name = "server"
    capabilities = frozenset({Method.GENERATE})

    def __init__(self, fails: Any = lambda text: False, error: type[BackendError] = BackendError) -> None:
        self.fails, self.error, self.asked, self.sizes = fails, error, [], []

    def generate(
        self, prompts: Sequence[Prompt], *, max_tokens: int = 256, temperature: float = 0.0, seed: int = 42
    ) -> list[str]:
        texts = [prompt.messages[-1].content for prompt in prompts]
        self.sizes.append(len(texts))
        self.asked += texts
        for text in texts:
            if self.fails(text):
                raise self.error(f"no answer to {text}")
        return [f"{text}:{seed}" for text in texts]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CallStore]:
    with CallStore(tmp_path / "calls.sqlite") as opened:
        yield opened


def made(
    store: CallStore, *backends: Backend, budget: BudgetSettings | None = None, concurrency: int = 1, **options: Any
) -> StoredBackend:
    places = [Endpoint(backend, concurrency=concurrency) for backend in backends]
    return StoredBackend("m", {"model": "m"}, places, store, Budget(budget or BudgetSettings()), **options)


def asked(*texts: str) -> list[Prompt]:
    return [Prompt.from_user(text) for text in texts]


def told(found: Sequence[Completion | BackendError]) -> list[str]:
    return [str(one) if isinstance(one, BackendError) else one.text for one in found]


def test_nothing_is_asked_twice(store: CallStore) -> None:
    server = Server()
    backend = made(store, server, concurrency=3)
    prompts = asked("甲", "乙", "甲")
    assert backend.generate(prompts) == ["甲:42", "乙:42", "甲:42"]
    again = made(store, Server(fails=lambda _: True))
    assert again.generate(prompts) == ["甲:42", "乙:42", "甲:42"]
    assert sorted(server.asked) == ["乙", "甲"]
    assert again.usage == backend.usage
    assert again.usage.calls == 2


def test_equal_prompts_are_one_call_with_one_answer(store: CallStore) -> None:
    class Wordy(Server):
        def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[str]:
            return [f"{text} {len(self.asked)}" for text in super().generate(prompts, **options)]

    server = Wordy()
    found = made(store, server, concurrency=8).generate(asked(*"甲甲甲甲甲甲"))
    assert found == ["甲:42 1"] * 6
    assert made(store, Server()).generate(asked("甲")) == ["甲:42 1"]
    assert server.asked == ["甲"]


def test_what_the_store_holds_is_what_is_returned(store: CallStore) -> None:
    class Slow(Server):
        def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[str]:
            if not self.asked:
                # Another one answers in the meantime.
                super().generate(prompts, **options)
                made(store, Server()).generate(prompts)
            return ["late"]

    assert made(store, Slow()).generate(asked("甲")) == ["甲:42"]


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
    assert told(found) == ["甲:42", "no answer to 坏", "乙:42"]


def test_one_bad_item_of_a_batch_costs_one_item(store: CallStore) -> None:
    server = Server(fails=lambda text: text == "坏")
    found = made(store, server, batch=3).attempt(asked("甲", "坏", "乙"))
    assert told(found) == ["甲:42", "no answer to 坏", "乙:42"]
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
    backend = made(store, server, budget=BudgetSettings(**limit), price=Price(input=0, output=1))
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


def test_what_is_asked_again_is_used_once(store: CallStore) -> None:
    backend = made(store, Server(fails=lambda text: text == "乙", error=RefusedError))
    for _ in range(2):
        with pytest.raises(RefusedError):
            backend.generate(asked("甲", "乙"))
    backend.generate(asked("甲"))
    assert backend.usage.calls == 1


def test_money_is_counted_by_price(store: CallStore) -> None:
    backend = made(store, Server(), price=Price(input=1e6, output=2e6))
    backend.generate(asked("甲"))
    usage = backend.usage
    assert usage.money == usage.prompt_tokens + 2 * usage.new_tokens > 0
    assert store.spent() == {"m": (usage.prompt_tokens, usage.new_tokens, usage.money)}


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


def test_counts_and_what_was_cut_are_kept(store: CallStore) -> None:
    class Counting(Server):
        capabilities = frozenset({Method.GENERATE, Method.CHOOSE})

        def complete(self, prompts: Sequence[Prompt], **options: Any) -> list[Completion]:
            return [Completion("半句", 7, 2, cut=True) for _ in prompts]

        def score(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[Scored]:
            return [Scored(np.array([0.5, 0.25]), 15, 1) for _ in prompts]

    for server in (Counting(), Server()):
        backend = made(store, server)
        assert backend.attempt(asked("甲")) == [Completion("半句", 7, 2, cut=True)]
        assert backend.choose(asked("甲"), ("安全", "不安全")).tolist() == [[0.5, 0.25]]
        assert backend.usage == Usage(2, 22, 3)


def test_what_a_model_does_not_take_is_no_failure_of_its_endpoint(store: CallStore) -> None:
    server = Server(fails=lambda text: text in "坏歹凶恶毒", error=RefusedError)
    found = made(store, server, patience=2).attempt(asked(*"坏歹凶恶毒甲"))
    assert told(found) == [*(f"no answer to {text}" for text in "坏歹凶恶毒"), "甲:42"]
    # Nothing but these is left when it is run again.
    assert len(made(store, server, patience=2).attempt(asked(*"坏歹凶恶毒"))) == 5


def test_kept_answers_and_new_ones_break_a_row_of_failures(store: CallStore) -> None:
    def fails(text: str) -> bool:
        return text in "坏歹凶"

    backend = made(store, Server(fails=fails), patience=2)
    assert told(backend.attempt(asked(*"坏甲歹乙凶")))[1::2] == ["甲:42", "乙:42"]
    for text in "坏歹凶":
        assert told(backend.attempt(asked("甲", text)))[1] == f"no answer to {text}"


def test_an_endpoint_that_is_given_up_stays_so(store: CallStore) -> None:
    bad, good = Server(fails=lambda _: True), Server()
    bad_place = Endpoint(bad, failures=2)
    backend = StoredBackend("m", "m", [bad_place, Endpoint(good)], store, Budget(BudgetSettings()), patience=2)
    backend.generate(asked("甲"))
    backend.generate(asked("甲", "乙"))
    assert not bad.asked


def test_what_the_endpoints_that_are_left_do_not_take_is_given_up(store: CallStore) -> None:
    begun, refused = threading.Event(), threading.Event()

    class Dying(Server):
        def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[str]:
            begun.set()
            assert refused.wait(20)
            return super().generate(prompts, **options)

    class Picky(Server):
        def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[str]:
            assert begun.wait(20)
            return super().generate(prompts, **options)

    def refuses(text: str) -> bool:
        if text == "坏":
            refused.set()
        return text == "坏"

    picky, dying = Picky(fails=refuses, error=RefusedError), Dying(fails=lambda _: True)
    found = made(store, picky, dying, patience=1).attempt(asked(*"甲乙丙坏"))
    assert told(found) == ["甲:42", "乙:42", "丙:42", "no answer to 坏"]
    assert len(dying.asked) == 1
    assert dying.asked != ["坏"]


def test_calls_that_fail_together_are_one_failure_and_the_endpoint_rests(store: CallStore) -> None:
    now, together = [0.0], threading.Barrier(3, timeout=20)

    class Busy(Server):
        def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[str]:
            if prompts[0].messages[-1].content in "坏歹凶":
                together.wait()
            return super().generate(prompts, **options)

    endpoint = Endpoint(Busy(fails=lambda text: text in "坏歹凶"), Pace(None, clock=lambda: now[0]), 3, rest=30)
    backend = StoredBackend("m", "m", [endpoint], store, Budget(BudgetSettings()), patience=2)
    backend.attempt(asked("甲"))
    assert len(backend.attempt(asked(*"坏歹凶"))) == 3
    assert endpoint.failures == 1
    assert endpoint.pace.take() == 30
    now[0] = 30.0
    assert backend.generate(asked("乙")) == ["乙:42"]
    assert endpoint.failures == 0


def test_an_endpoint_that_never_answered_is_given_up_at_once(store: CallStore) -> None:
    together = threading.Barrier(3, timeout=20)

    class Absent(Server):
        def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[str]:
            together.wait()
            return super().generate(prompts, **options)

    # With a rest nothing would end for an hour.
    endpoint = Endpoint(Absent(fails=lambda _: True), concurrency=3, rest=3600)
    backend = StoredBackend("m", "m", [endpoint], store, Budget(BudgetSettings()), patience=3)
    with pytest.raises(EndpointsLostError, match="3 failures in a row"):
        backend.generate(asked(*"一二三"))


def test_an_endpoint_that_answers_after_all_goes_on(store: CallStore) -> None:
    begun, counted = threading.Event(), threading.Event()

    class Seen(Endpoint):
        def failed(self, seen: int, error: BackendError) -> None:
            super().failed(seen, error)
            counted.set()

    class Uneven(Server):
        def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[str]:
            if prompts[0].messages[-1].content == "坏":
                assert begun.wait(20)
            elif not begun.is_set():
                begun.set()
                assert counted.wait(20)
            return super().generate(prompts, **options)

    endpoint = Seen(Uneven(fails=lambda text: text == "坏"), concurrency=2)
    backend = StoredBackend("m", "m", [endpoint], store, Budget(BudgetSettings()), patience=1)
    assert told(backend.attempt(asked(*"坏慢甲"))) == ["no answer to 坏", "慢:42", "甲:42"]


def test_who_waits_for_the_pace_looks_at_the_budget_again(store: CallStore) -> None:
    server = Server()
    # The clock stands still: who waits would wait for ever.
    endpoint = Endpoint(server, Pace(60, clock=lambda: 0.0), 8)
    budget = Budget(BudgetSettings(tokens=1))
    backend = StoredBackend("m", "m", [endpoint], store, budget)
    with pytest.raises(BudgetSpentError):
        backend.generate(asked(*"一二三四五六七八"))
    assert len(server.asked) == 1


def test_an_interrupt_ends_the_waiting(store: CallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(endpoints, "wait", interrupted)
    endpoint = Endpoint(Server(), Pace(60, clock=lambda: 0.0), 4)
    with pytest.raises(KeyboardInterrupt):
        StoredBackend("m", "m", [endpoint], store, Budget(BudgetSettings())).generate(asked(*"一二三"))

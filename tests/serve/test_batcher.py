"""Batches, bounds, deadlines, callers that go away, a guard that fails."""

from __future__ import annotations

import asyncio
import copy
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import accumulate, pairwise
from typing import Any

import pytest

from libra_guard.errors import BackendError, UsageError
from libra_guard.guards.registry import load_guard
from libra_guard.guards.windows import Windows
from libra_guard.records import Conversation, Message, Role, Target
from libra_guard.serve.batcher import Batcher, ClosingError, DeadlineError, QueueFullError
from libra_guard.serve.metrics import Metrics

BAD, DOUBTFUL, FAILING = "【坏】", "【疑】", "【错】"


def one(text: str) -> Conversation:
    return Conversation.from_pair(text)


def many(*texts: str) -> list[Conversation]:
    return [one(text) for text in texts]


@asynccontextmanager
async def batching(guard: Any, **options: Any) -> AsyncIterator[Batcher]:
    sizes = {"batch_size": 4, "batch_chars": 1000, "queue_size": 8, "queue_chars": 100_000}
    batcher = Batcher(guard, **{"name": "fake", "wait": 0.0, "metrics": Metrics(), **sizes, **options})
    try:
        yield batcher
    finally:
        guard.gate.set()
        await batcher.close()


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@asynccontextmanager
async def held(guard: Any, batcher: Batcher, text: str = "first") -> AsyncIterator[asyncio.Task[Any]]:
    """The guard is busy with one text until the block ends."""
    guard.gate.clear()
    task = asyncio.create_task(batcher.judge(one(text)))
    await until(guard.entered.is_set)
    try:
        yield task
    finally:
        guard.gate.set()
        await asyncio.gather(task, return_exceptions=True)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


def test_batches_form_while_the_guard_is_busy(guard: Any) -> None:
    async def test() -> None:
        async with batching(guard) as batcher:
            async with held(guard, batcher):
                tasks = [asyncio.create_task(batcher.judge(one(f"{i}{BAD * (i == 3)}"))) for i in range(6)]
                await asyncio.sleep(0)
            found = await asyncio.gather(*tasks)
        assert [len(batch) for batch in guard.batches] == [1, 4, 2]
        assert [v.label == "不安全" for v in found] == [i == 3 for i in range(6)]

    run(test)


def test_an_idle_guard_does_not_wait(guard: Any) -> None:
    async def test() -> None:
        async with batching(guard) as batcher:
            for i in range(3):
                await batcher.judge(one(str(i)))
        assert [len(batch) for batch in guard.batches] == [1, 1, 1]

    run(test)


def test_with_a_wait_a_batch_fills_first(guard: Any) -> None:
    async def test() -> None:
        # As long as the test: only a full batch, or a close, ends it.
        async with batching(guard, wait=100.0) as batcher:
            first = asyncio.create_task(batcher.judge(one("0")))
            await asyncio.sleep(0.02)
            assert guard.asked == []
            await batcher.judge_all(many("1", "2", "3"))
            await first
            assert guard.batches == [["0", "1", "2", "3"]]
            last = asyncio.create_task(batcher.judge(one("4")))
            await asyncio.sleep(0.02)
            await batcher.close()
            assert (await last).label == "安全"

    run(test)


def test_a_short_wait_ends(guard: Any) -> None:
    async def test() -> None:
        async with batching(guard, wait=0.005) as batcher:
            await asyncio.gather(batcher.judge(one("0")), batcher.judge(one("1")))
        assert guard.batches == [["0", "1"]]

    run(test)


def test_a_full_queue_takes_no_more_and_says_when(guard: Any) -> None:
    async def test() -> None:
        async with batching(guard) as batcher:
            async with held(guard, batcher):
                waiting = asyncio.create_task(batcher.judge_all(many(*"12345")))
                await asyncio.sleep(0)
                with pytest.raises(QueueFullError) as caught:
                    await batcher.judge_all(many(*"abcd"))
                assert 1 <= caught.value.retry_after <= 60
                # Whole or not at all: what finds room is still taken.
                fits = asyncio.create_task(batcher.judge_all(many(*"xyz")))
                await asyncio.sleep(0)
                with pytest.raises(QueueFullError):
                    await batcher.judge(one("z"))
            assert len(await waiting) == 5
            assert len(await fits) == 3
        assert sorted(guard.asked) == sorted(["first", *"12345xyz"])

    run(test)


def test_nothing_waits_for_nothing(guard: Any) -> None:
    async def test() -> None:
        async with batching(guard) as batcher:
            assert await batcher.judge_all([]) == []
        assert guard.batches == []

    run(test)


def test_who_goes_away_is_not_judged_and_frees_its_places(guard: Any) -> None:
    async def test() -> None:
        async with batching(guard) as batcher:
            async with held(guard, batcher):
                gone = asyncio.create_task(batcher.judge_all(many(*"12345678")))
                await asyncio.sleep(0)
                gone.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await gone
                stays = asyncio.create_task(batcher.judge_all(many(*"abcdefgh")))
                await asyncio.sleep(0)
            await stays
        assert guard.asked == ["first", *"abcdefgh"]

    run(test)


def test_one_who_goes_away_while_it_is_judged_costs_nobody_else(guard: Any) -> None:
    async def test() -> None:
        async with batching(guard) as batcher:
            async with held(guard, batcher) as first:
                other = asyncio.create_task(batcher.judge(one("other")))
                await asyncio.sleep(0)
                first.cancel()
            assert (await other).label == "安全"

    run(test)


def test_what_is_late_is_not_judged(guard: Any) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with batching(guard) as batcher:
            async with held(guard, batcher):
                late = asyncio.create_task(batcher.judge_all(many("late", "too"), deadline=loop.time() + 0.01))
                good = asyncio.create_task(batcher.judge(one("good"), deadline=loop.time() + 100))
                with pytest.raises(DeadlineError):
                    await late
            assert (await good).label == "安全"
            with pytest.raises(DeadlineError):
                await batcher.judge(one("past"), deadline=loop.time() - 1)
        assert guard.asked == ["first", "good"]

    run(test)


def test_what_is_late_is_not_judged_even_where_the_event_loop_is_late_too(guard: Any) -> None:
    async def test() -> None:
        async with batching(guard) as batcher:
            async with held(guard, batcher):
                deadline = asyncio.get_running_loop().time() + 0.01
                late = asyncio.create_task(batcher.judge(one("late"), deadline=deadline))
                await asyncio.sleep(0)
                # The loop has no turn, and the guard comes to the row.
                time.sleep(0.02)
                guard.gate.set()
                while batcher._waiting:
                    time.sleep(0.001)
            with pytest.raises(DeadlineError):
                await late
        assert guard.asked == ["first"]

    run(test)


def test_a_deadline_holds_while_the_guard_works(guard: Any) -> None:
    async def test() -> None:
        async with batching(guard) as batcher:
            guard.gate.clear()
            with pytest.raises(DeadlineError):
                await batcher.judge(one("slow"), deadline=asyncio.get_running_loop().time() + 0.02)
            guard.gate.set()
            assert (await batcher.judge(one("next"))).label == "安全"

    run(test)


def test_one_bad_row_costs_one_row(guard: Any) -> None:
    async def test() -> None:
        async with batching(guard) as batcher:
            async with held(guard, batcher):
                texts = ["a", FAILING, "b", "c"]
                tasks = [asyncio.create_task(batcher.judge(one(text))) for text in texts]
                await asyncio.sleep(0)
            found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(outcome, BackendError) for outcome in found] == [False, True, False, False]
        assert [len(batch) for batch in guard.batches] == [1, 4, 1, 1, 1, 1]

    run(test)


def test_a_request_fails_as_a_whole(guard: Any) -> None:
    async def test() -> None:
        async with batching(guard) as batcher:
            with pytest.raises(BackendError):
                await batcher.judge_all(many("a", FAILING, "b"))
            assert len(await batcher.judge_all(many("a", "b"))) == 2

    run(test)


class Panic(BaseException):
    """As that of a library in Rust."""


@pytest.mark.parametrize("fault", [ValueError("bug"), MemoryError(), Panic(), "too few"])
def test_a_guard_with_a_fault_fails_its_rows_and_goes_on(guard: Any, fault: Any, monkeypatch: Any) -> None:
    async def test() -> None:
        judge = guard._judge

        def broken(conversations: Any) -> Any:
            verdicts = judge(conversations)
            if conversations[0].question != "x":
                return verdicts
            if isinstance(fault, BaseException):
                raise fault
            return verdicts[1:]

        monkeypatch.setattr(guard, "_judge", broken)
        async with batching(guard) as batcher:
            with pytest.raises(BackendError):
                await batcher.judge(one("x"))
            assert (await batcher.judge(one("y"))).label == "安全"

    run(test)


def test_what_asks_differently_is_judged_apart(guard: Any) -> None:
    async def test() -> None:
        async with batching(guard, batch_size=8) as batcher:
            async with held(guard, batcher):
                tasks = [
                    asyncio.create_task(batcher.judge(one(BAD), explain=explain, threshold=threshold))
                    for explain, threshold in [(False, None), (True, None), (False, 0.95), (False, None), (True, 0.95)]
                ]
                await asyncio.sleep(0)
            found = await asyncio.gather(*tasks)
        assert [(v.label, v.analysis) for v in found] == [
            ("不安全", None),
            ("不安全", "因为"),
            ("安全", None),
            ("不安全", None),
            ("安全", None),
        ]
        assert (guard.threshold, guard.question_threshold) == (0.5, None)

    run(test)


def test_closing_finishes_what_waits_and_takes_no_more(guard: Any) -> None:
    async def test() -> None:
        async with batching(guard) as batcher:
            async with held(guard, batcher) as first:
                waiting = asyncio.create_task(batcher.judge_all(many(*"12345")))
                await asyncio.sleep(0)
                closing = asyncio.create_task(batcher.close())
                await asyncio.sleep(0)
                with pytest.raises(ClosingError):
                    await batcher.judge(one("late"))
                assert not closing.done()
            await closing
            assert (await first).label == "安全"
            assert len(await waiting) == 5
        assert not batcher._thread.is_alive()

    run(test)


def test_the_measured_rate_tells_when_to_come_back(guard: Any, monkeypatch: Any) -> None:
    async def test() -> None:
        async with batching(guard) as batcher:
            batcher._seconds_a_char = 2.0
            async with held(guard, batcher):
                task = asyncio.create_task(batcher.judge_all(many(*"12345678")))
                await asyncio.sleep(0)
                with pytest.raises(QueueFullError) as caught:
                    await batcher.judge(one("z"))
                assert caught.value.retry_after == 16
            await task
            assert batcher._seconds_a_char < 2

    run(test)


def test_metrics(guard: Any) -> None:
    async def test() -> None:
        metrics = Metrics()
        async with batching(guard, metrics=metrics) as batcher:
            async with held(guard, batcher):
                tasks = [asyncio.create_task(batcher.judge(one(str(i)))) for i in range(3)]
                await asyncio.sleep(0)
                assert b'libra_queue_depth{guard="fake"} 3.0' in metrics.render()[0]
            await asyncio.gather(*tasks)
            series = metrics.render()[0]
            assert b'libra_queue_depth{guard="fake"} 0.0' in series
            assert b'libra_batch_size_sum{guard="fake"} 4.0' in series
            assert b'libra_guard_seconds_count{guard="fake"} 2.0' in series

    run(test)


def test_short_texts_go_before_long_ones_that_have_not_begun(guard: Any) -> None:
    async def test() -> None:
        asks = [["长" * 4000], ["长" * 5000], [*["许" * 900] * 20], ["短" * 10], ["短" * 11], ["短" * 12]]
        async with batching(guard, queue_size=100) as batcher:
            async with held(guard, batcher, "前" * 5000):
                tasks = [asyncio.create_task(batcher.judge_all(many(*texts))) for texts in asks]
                await asyncio.sleep(0)
            await asyncio.gather(*tasks)
        # Where its work goes by the length, nobody waits for more than what had begun.
        ends = dict(zip(guard.asked, accumulate(map(len, guard.asked)), strict=True))
        assert [ends["短" * length] for length in (10, 11, 12)] == [5010, 5021, 5033]
        # The request of many texts has its share beside the two of one, and ends last.
        assert [guard.asked.index("长" * length) for length in (4000, 5000)] == [8, 10]
        assert all(len(batch) == 1 or sum(map(len, batch)) <= 1000 for batch in guard.batches)

    run(test)


def test_short_texts_without_end_do_not_keep_a_long_one_waiting_for_ever(guard: Any, monkeypatch: Any) -> None:
    async def test() -> None:
        judge, most = guard._judge, "长" * 100

        async with batching(guard, batch_chars=10) as batcher:

            def slow(conversations: Any) -> Any:
                # Until those that have their verdicts are back with the next text.
                while len(batcher._waiting) < 3 and most not in guard.asked:
                    time.sleep(0.0005)
                return judge(conversations)

            monkeypatch.setattr(guard, "_judge", slow)
            long = asyncio.create_task(batcher.judge(one(most)))

            async def always() -> None:
                while not long.done():
                    await batcher.judge(one("短" * 10))

            await asyncio.gather(batcher.judge(one("first")), long, *(always() for _ in range(3)))
            # Each of the three beside it had about as much.
            assert 20 <= guard.asked.index(most) <= 45

    run(test)


def test_what_never_finds_room_is_not_told_to_come_back(guard: Any) -> None:
    async def test() -> None:
        async with batching(guard) as batcher:
            with pytest.raises(UsageError, match="9 texts are too many at once; 8 are taken"):
                await batcher.judge_all(many(*"123456789"))
            assert len(await batcher.judge_all(many(*"12345678"))) == 8

    run(test)


@pytest.mark.parametrize(
    ("sizes", "lengths"),
    [
        ({}, [4, 4, 1]),
        ({"queue_size": 3}, [3, 3, 3]),
        ({"queue_chars": 20}, [2, 2, 2, 2, 1]),
        ({"queue_chars": 9}, [1] * 9),
    ],
)
def test_portions_find_room(guard: Any, sizes: dict[str, int], lengths: list[int]) -> None:
    async def test() -> None:
        async with batching(guard, **sizes) as batcher:
            texts = many(*("长" * 9 + text for text in "123456789"))
            portions = batcher.portions(texts)
            assert [len(portion) for portion in portions] == lengths
            assert [one for portion in portions for one in portion] == texts
            assert batcher.portions([]) == []

    run(test)


def test_characters_that_wait_are_bounded_too(guard: Any) -> None:
    async def test() -> None:
        async with batching(guard, queue_chars=100) as batcher:
            batcher._seconds_a_char = 0.5
            with pytest.raises(UsageError, match="101 characters are too many at once; 100 are taken"):
                await batcher.judge_all(many("长" * 100, "x"))
            async with held(guard, batcher):
                # A question counts with its answer.
                task = asyncio.create_task(batcher.judge(Conversation.from_pair("长" * 40, "长" * 50)))
                await asyncio.sleep(0)
                with pytest.raises(QueueFullError) as caught:
                    await batcher.judge(one("长" * 11))
                assert caught.value.retry_after == 45
                fits = asyncio.create_task(batcher.judge(one("长" * 10)))
                await asyncio.sleep(0)
            await asyncio.gather(task, fits)

    run(test)


def test_a_thread_that_ends_fails_what_waits_and_says_so(guard: Any, monkeypatch: Any, caplog: Any) -> None:
    async def test() -> None:
        def broken() -> Any:
            raise Panic

        async with batching(guard) as batcher:
            assert batcher.is_alive
            async with held(guard, batcher) as first:
                waiting = asyncio.create_task(batcher.judge(one("x")))
                await asyncio.sleep(0)
                monkeypatch.setattr(batcher, "_take", broken)
            assert (await first).label == "安全"
            with pytest.raises(BackendError, match="needs a restart"):
                await waiting
            assert not batcher.is_alive
            with pytest.raises(BackendError, match="needs a restart"):
                await batcher.judge(one("y"))
        assert not batcher._thread.is_alive()

    run(test)
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]


def test_metrics_that_fail_cost_no_verdict(guard: Any, monkeypatch: Any) -> None:
    async def test() -> None:
        metrics = Metrics()
        async with batching(guard, metrics=metrics) as batcher:
            monkeypatch.setattr(metrics, "judged", lambda *_: 1 / 0)
            assert [(await batcher.judge(one(text))).label for text in "xy"] == ["安全", "安全"]

    run(test)


# --- long conversations ------------------------------------------------------------------------------------------


@pytest.fixture
def cutter(guard: Any, monkeypatch: Any) -> Any:
    """The guard, with windows of 100 characters; ``cutter.was_cut`` has what was cut, whoever asked for it."""
    guard.was_cut = []

    def windows(conversation: Conversation) -> Windows:
        text = conversation.question
        guard.was_cut.append(text)
        return Windows(many(*(text[i : i + 100] for i in range(0, len(text), 100))), ("cut",))

    monkeypatch.setattr(guard, "_windows", windows)
    return guard


def long(mark: str, count: int = 10, **marked: int) -> str:
    """A text of so many windows, each with its number; ``BAD=3`` puts that marker into the fourth."""
    found = {place: globals()[name] for name, place in marked.items()}
    return "".join(f"{mark}{i}{found.get(i, '')}".ljust(100, "。") for i in range(count))


def windows_of(guard: Any, mark: str) -> list[int]:
    """The numbers of the windows of a text that were judged."""
    return [int(text[1:3].rstrip("。【")) for text in guard.asked if text.startswith(mark)]


def test_short_texts_go_between_the_windows_of_a_long_one(cutter: Any) -> None:
    async def test() -> None:
        async with batching(cutter, batch_chars=300, batch_size=8) as batcher:
            cutter.gate.clear()
            whole = asyncio.create_task(batcher.judge(one(long("长", BAD=7))))
            await until(cutter.entered.is_set)
            short = asyncio.create_task(batcher.judge(one("短")))
            await asyncio.sleep(0)
            cutter.gate.set()
            assert (await short).windows == 1
            found = await whole
        assert [len(batch) for batch in cutter.batches] == [3, 1, 2, 3, 2]
        assert cutter.asked.index("短") == 3
        assert windows_of(cutter, "长") == [*range(10)]
        assert (found.label, found.windows, found.notes) == ("不安全", 10, ("cut",))
        # The short one by the guard itself, once.
        assert cutter.was_cut == [long("长", BAD=7), "短"]

    run(test)


def test_a_short_text_does_not_wait_for_the_windows_of_its_batch(cutter: Any) -> None:
    async def test() -> None:
        async with batching(cutter, batch_chars=300) as batcher:
            async with held(cutter, batcher, long("长")) as whole:
                # Its turn is that of the next window.
                short = asyncio.create_task(batcher.judge(one("短" * 100)))
                await asyncio.sleep(0)
            await asyncio.gather(short, whole)
        assert [[text[0] for text in batch] for batch in cutter.batches[1:3]] == [["短"], ["长", "长"]]

    run(test)


def test_the_windows_of_a_long_text_are_spread_among_short_ones(cutter: Any, monkeypatch: Any) -> None:
    async def test() -> None:
        judge = cutter._judge

        async with batching(cutter, batch_chars=100) as batcher:

            def slow(conversations: Any) -> Any:
                # Until those that have their verdicts are back with the next text.
                while len(batcher._waiting) < 3 and len(windows_of(cutter, "长")) < 9:
                    time.sleep(0.0005)
                return judge(conversations)

            monkeypatch.setattr(cutter, "_judge", slow)
            whole = asyncio.create_task(batcher.judge(one(long("长"))))

            async def always() -> None:
                while not whole.done():
                    await batcher.judge(one("短" * 60))

            await asyncio.gather(whole, *(always() for _ in range(3)))
        places = [i for i, text in enumerate(cutter.asked) if text.startswith("长")]
        # Each of the three beside it has a text or two for every window.
        assert all(after - before <= 10 for before, after in pairwise(places))
        assert 25 <= places[-1] <= 75

    run(test)


def test_long_texts_share_the_guard(cutter: Any) -> None:
    async def test() -> None:
        async with batching(cutter, batch_chars=400) as batcher:
            async with held(cutter, batcher):
                tasks = [asyncio.create_task(batcher.judge(one(long(mark)))) for mark in "甲乙"]
                tasks.append(asyncio.create_task(batcher.judge(one(long("丙", 5)))))
                await asyncio.sleep(0)
            found = await asyncio.gather(*tasks)
        assert [v.windows for v in found] == [10, 10, 5]
        marks = "".join(text[0] for text in cutter.asked[1:])
        # Windows of several in a batch; the one of half the length is done after its share of both.
        assert any(len({text[0] for text in batch}) > 1 for batch in cutter.batches)
        assert marks.rindex("丙") <= 15 < 23 <= min(marks.rindex("甲"), marks.rindex("乙"))
        assert max(map(len, cutter.batches)) == 4

    run(test)


def test_who_goes_away_in_the_middle_of_a_long_text_frees_the_rest(cutter: Any) -> None:
    async def test() -> None:
        metrics = Metrics()
        async with batching(cutter, batch_chars=300, metrics=metrics) as batcher:
            async with held(cutter, batcher, long("长")) as gone:
                gone.cancel()
                await until(lambda: not batcher._waiting)
                assert b'libra_queue_depth{guard="fake"} 0.0' in metrics.render()[0]
            assert (await batcher.judge(one("next"))).label == "安全"
        assert windows_of(cutter, "长") == [0, 1, 2]

    run(test)


def test_a_deadline_in_the_middle_of_a_long_text(cutter: Any) -> None:
    async def test() -> None:
        async with batching(cutter, batch_chars=300) as batcher:
            cutter.gate.clear()
            deadline = asyncio.get_running_loop().time() + 0.05
            late = asyncio.create_task(batcher.judge(one(long("长")), deadline=deadline))
            await until(cutter.entered.is_set)
            # The loop has no turn, and the guard comes to the rest.
            time.sleep(0.06)
            cutter.gate.set()
            while batcher._waiting:
                time.sleep(0.001)
            with pytest.raises(DeadlineError):
                await late
        assert windows_of(cutter, "长") == [0, 1, 2]

    run(test)


def test_one_who_goes_away_while_its_text_is_cut(cutter: Any, monkeypatch: Any) -> None:
    async def test() -> None:
        begun, go_on, cut, threads = threading.Event(), threading.Event(), cutter.cut, []

        def slow(conversation: Conversation) -> Windows:
            threads.append(threading.current_thread())
            begun.set()
            assert go_on.wait(20)
            return cut(conversation)

        monkeypatch.setattr(cutter, "cut", slow)
        async with batching(cutter, batch_chars=300) as batcher:
            gone = asyncio.create_task(batcher.judge(one(long("长"))))
            await until(begun.is_set)
            assert len(batcher._waiting) == 1
            # Others are taken meanwhile.
            other = asyncio.create_task(batcher.judge(one("短")))
            await asyncio.sleep(0)
            gone.cancel()
            await until(lambda: len(batcher._waiting) == 1)
            go_on.set()
            await other
            assert threads == [batcher._thread]
        assert cutter.asked == ["短"]

    run(test)


def test_one_bad_window_costs_its_order_alone(cutter: Any) -> None:
    async def test() -> None:
        async with batching(cutter, batch_chars=600, batch_size=8, queue_size=20) as batcher:
            async with held(cutter, batcher):
                bad = asyncio.create_task(batcher.judge_all(many("a", long("坏", FAILING=2))))
                good = asyncio.create_task(batcher.judge_all(many("b", long("好", BAD=9))))
                await asyncio.sleep(0)
            with pytest.raises(BackendError, match="the script says so"):
                await bad
            assert [(v.label, v.windows) for v in await good] == [("安全", 1), ("不安全", 10)]
            assert not batcher._waiting

    run(test)


@pytest.mark.parametrize("fault", [ValueError("bug"), Panic(), BackendError("no tokenizer")])
def test_what_cannot_be_cut_or_joined_fails_with_the_guard_s_reason(
    cutter: Any, fault: BaseException, monkeypatch: Any
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise fault

    reason = str(fault) if isinstance(fault, BackendError) else f"the guard failed: {type(fault).__name__}"

    async def test() -> None:
        async with batching(cutter, batch_chars=300) as batcher:
            for step in ("_windows", "join"):
                with monkeypatch.context() as patch:
                    patch.setattr(cutter, step, broken)
                    with pytest.raises(BackendError, match=reason):
                        await batcher.judge(one(long("长")))
                    assert not batcher._waiting
            assert (await batcher.judge(one(long("长")))).windows == 10

    run(test)


def test_a_long_text_of_a_kind_that_the_guard_does_not_judge(cutter: Any) -> None:
    async def test() -> None:
        cutter.targets = frozenset({Target.RESPONSE})
        async with batching(cutter, batch_chars=300) as batcher:
            with pytest.raises(UsageError, match="judges a response, not a prompt"):
                await batcher.judge(one(long("长")))
        assert cutter.asked == []

    run(test)


def test_long_texts_that_are_asked_for_differently(cutter: Any) -> None:
    async def test() -> None:
        async with batching(cutter, batch_chars=400) as batcher:
            asks: list[dict[str, Any]] = [
                {},
                {"explain": True},
                {"threshold": 0.3},
                {"explain": True, "threshold": 0.3},
            ]
            text = one(long("长", DOUBTFUL=6))
            found = await asyncio.gather(*(batcher.judge(text, **ask) for ask in asks))
        assert [(v.label, v.analysis, v.windows) for v in found] == [
            ("安全", None, 10),
            ("安全", None, 10),
            ("不安全", None, 10),
            ("不安全", "因为", 10),
        ]
        assert (cutter.threshold, cutter.question_threshold) == (0.5, None)

    run(test)


def test_a_long_text_counts_as_one_and_with_what_is_left_of_it(cutter: Any) -> None:
    async def test() -> None:
        metrics = Metrics()
        sizes = {"batch_chars": 300, "queue_size": 2, "queue_chars": 1000}
        async with batching(cutter, metrics=metrics, **sizes) as batcher:
            batcher._seconds_a_char = 0.01
            async with held(cutter, batcher, long("长")) as whole:
                assert b'libra_queue_depth{guard="fake"} 1.0' in metrics.render()[0]
                with pytest.raises(QueueFullError) as caught:
                    await batcher.judge(one("x" * 301))
                assert caught.value.retry_after == 7
                fits = asyncio.create_task(batcher.judge(one("x" * 300)))
                await asyncio.sleep(0)
                with pytest.raises(QueueFullError):
                    await batcher.judge(one("x"))
            await asyncio.gather(whole, fits)
            series = metrics.render()[0]
        assert b'libra_queue_depth{guard="fake"} 0.0' in series
        assert b'libra_batch_size_sum{guard="fake"} 11.0' in series
        # The short one is in a call of its own.
        assert f'libra_guard_seconds_count{{guard="fake"}} {len(cutter.batches)}.0'.encode() in series

    run(test)


def test_closing_finishes_the_windows_of_a_long_text(cutter: Any) -> None:
    async def test() -> None:
        async with batching(cutter, batch_chars=300) as batcher:
            async with held(cutter, batcher, long("长")) as whole:
                closing = asyncio.create_task(batcher.close())
                await asyncio.sleep(0)
            await closing
            assert (await whole).windows == 10

    run(test)


def test_verdicts_are_those_of_the_guard_alone() -> None:
    mini, chance = load_guard("mini"), random.Random(1)
    phrases = [
        "如何泡一杯绿茶，",
        "炸掉这栋楼，",
        "the cat sat on the mat, ",
        "ｗｉｄｅ　，",
        "😀，",
        "废物，",
    ]

    def text(length: int) -> str:
        words = "".join(chance.choice(phrases) for _ in range(length // 8))
        return "。".join(words[i : i + 450] for i in range(0, len(words), 450))

    asked = [one(text(length)) for length in (8, 100, 700, 1000)]
    asked += [Conversation.from_pair(text(question), text(answer)) for question, answer in [(16, 24), (700, 600)]]
    turns = [(Role.USER, 50), (Role.ASSISTANT, 50), (Role.USER, 20), (Role.ASSISTANT, 600)]
    asked.append(Conversation(messages=tuple(Message(role=role, content=text(length)) for role, length in turns)))
    strict = copy.copy(mini)
    strict.threshold = strict.question_threshold = 0.05
    alone = [*mini.judge(asked, explain=True), *strict.judge(asked[2:4], explain=True)]

    async def test() -> None:
        async with batching(mini, batch_chars=400, queue_size=100) as batcher:
            found = await asyncio.gather(
                *(batcher.judge(one, explain=True) for one in asked),
                *(batcher.judge(one, explain=True, threshold=0.05) for one in asked[2:4]),
            )
        assert found == alone

    mini.gate = threading.Event()  # type: ignore[attr-defined]
    asyncio.run(test())
    assert sum(v.windows > 1 for v in alone) >= 5
    assert any(v.analysis for v in alone)
    assert any("shortened" in note for v in alone for note in v.notes)
    assert any("were not read" in note for v in alone for note in v.notes)

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from libra_guard.errors import BackendError
from libra_guard.policy import load_policy
from libra_guard.policy.decide import decide
from libra_guard.predict.arrivals import Arrivals
from libra_guard.predict.stream import LEFT_OUT, SHORTENED, AnswerWindows, StreamSettings
from libra_guard.records import Conversation, Label, Message, Role, Verdict
from libra_guard.serve import streaming
from libra_guard.serve.batcher import QueueFullError
from libra_guard.serve.metrics import Metrics
from libra_guard.serve.settings import ServerSettings
from libra_guard.serve.state import Judged
from libra_guard.serve.streaming import FLUSH, Released, Stopped, guarded

QUESTION = "怎么泡茶？"
PATIENT = StreamSettings(least=4, hold_ms=60_000, suspicion=1)
"""No clock in these tests unless they are about it."""
HASTY = StreamSettings(least=4, hold_ms=5)


class FakeServer:
    """Decides as a server with the default profile: 【坏】 is unsafe, 【甲】 with 【乙】 too.

    One of these is a doubt, 【丙】 one only by itself. 【丁】 is unsafe at a text's beginning, and elsewhere a doubt.
    """

    def __init__(self, policy: str = "default", **settings: Any) -> None:
        self.settings = ServerSettings(**settings)
        self.metrics = Metrics()
        self.policy = load_policy(policy)
        self.asked: list[list[str]] = []
        self.options: dict[str, Any] = {}
        self.before: Callable[[], Awaitable[None]] | None = None
        """Done before each decision."""

    async def decide_all(self, conversations: Sequence[Conversation], **options: Any) -> list[Judged]:
        self.asked.append([c.messages[-1].content for c in conversations])
        self.options = options
        if self.before:
            await self.before()
        return [self._judged(c) for c in conversations]

    def _judged(self, conversation: Conversation) -> Judged:
        text = conversation.messages[-1].content
        halves = ("【甲】" in text) + ("【乙】" in text)
        doubtful = halves or text.startswith("【丙】") or "【丁】" in text
        unsafe = "【坏】" in text or halves == 2 or text.startswith("【丁】")
        score = 0.9 if unsafe else 0.3 if doubtful else 0.1
        label = Label.UNSAFE if score > 0.5 else Label.SAFE
        verdict = Verdict(label=label, unsafe_score=score)
        return Judged(verdict, decide(self.policy, verdict, conversation, system=None))


class Upstream:
    """Gives chunks; a number is a pause of so many turns of the event loop, an error is raised."""

    def __init__(self, *chunks: Any) -> None:
        self.chunks = list(chunks)
        self.given = 0
        self.closed = False

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        while self.chunks:
            chunk = self.chunks.pop(0)
            if isinstance(chunk, Exception):
                raise chunk
            if isinstance(chunk, asyncio.Event):
                await chunk.wait()
                continue
            self.given += 1
            return chunk
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed = True


def run(
    server: FakeServer, upstream: AsyncIterator[str], settings: StreamSettings | None = PATIENT, **options: Any
) -> list[Released | Stopped]:
    async def collect() -> list[Released | Stopped]:
        async with aclosing(guarded(server, QUESTION, upstream, settings=settings, **options)) as parts:
            return [part async for part in parts]

    return asyncio.run(asyncio.wait_for(collect(), 20))


def texts(parts: Sequence[Released | Stopped]) -> list[str]:
    return [part.text for part in parts if isinstance(part, Released)]


def test_text_is_released_in_order_as_it_is_judged() -> None:
    server, upstream = FakeServer(), Upstream("先温杯，再投", "茶。", "", "水温八十度左右。\n", "好")
    parts = run(server, upstream, route="/r", request_id="id", guard="mini", policy="strict")
    assert texts(parts) == ["先温杯，再投茶。", "水温八十度左右。\n", "好"]
    assert [(part.start, part.end) for part in parts] == [(0, 8), (8, 17), (17, 18)]
    assert all(part.judged.decision.action == "pass" and part.delay >= 0 for part in parts)
    given = {name: server.options[name] for name in ("route", "request_id", "guard", "policy")}
    assert given == {"route": "/r", "request_id": "id", "guard": "mini", "policy": "strict"}
    assert upstream.closed


def test_nothing_of_what_is_blocked_leaves_and_the_upstream_is_closed() -> None:
    upstream = Upstream("先温杯，再投茶。水", *"温【坏】八十度左右。然后注水就好。", *["更多的文字。"] * 1000)
    parts = run(FakeServer(), upstream)
    assert texts(parts) == ["先温杯，再投茶。"]
    assert isinstance(parts[-1], Stopped)
    assert (parts[-1].start, parts[-1].end) == (8, 19)
    assert parts[-1].judged.decision.action == "block"
    assert upstream.closed
    assert upstream.given < 1000


def test_a_profile_that_monitors_releases_all() -> None:
    server = FakeServer("monitor")
    parts = run(server, Upstream("先温杯，再投茶。水温【坏】八十度左右。然后【甲】就好。"))
    assert "".join(texts(parts)) == "先温杯，再投茶。水温【坏】八十度左右。然后【甲】就好。"
    assert [part.judged.decision.would for part in parts] == ["pass", "block", "block"]
    # What is flagged already is not looked at again.
    assert [text for batch in server.asked for text in batch].count("先温杯，再投茶。水温【坏】八十度左右。") == 0


def test_a_doubt_is_looked_at_again_in_context() -> None:
    server = FakeServer()
    parts = run(server, Upstream("先【甲】温杯，再投茶。水温【乙】八十度左右。然后注水就可以了。"))
    assert texts(parts) == ["先【甲】温杯，再投茶。"]
    assert parts[-1].judged.verdict.unsafe_score == 0.9
    assert server.asked[-1] == ["先【甲】温杯，再投茶。水温【乙】八十度左右。"]


def test_what_is_unsafe_only_as_a_whole_is_stopped_at_its_end() -> None:
    server, settings = FakeServer(), StreamSettings(doubt=1, hold_ms=60_000)
    parts = run(server, Upstream("先【甲】把杯子温一下。水温八十度左右为好。", "再【乙】等它两三分钟。"), settings)
    assert texts(parts) == ["先【甲】把杯子温一下。", "水温八十度左右为好。"]
    assert isinstance(parts[-1], Stopped)
    assert server.options["part"] == "passage"


def test_second_looks_find_room_in_a_small_queue() -> None:
    server, windows = FakeServer(), AnswerWindows(QUESTION, PATIENT)
    (window,) = windows.feed("【甲】先温杯，再投茶。然")
    many = window._replace(sentences=(window.conversation,) * 5)
    asyncio.run(streaming.judge_windows(server.decide_all, [many], answer=windows, at_once=2))
    assert [len(asked) for asked in server.asked] == [1, 2, 2, 1]


def test_a_sentence_that_hides_behind_a_short_one_is_found() -> None:
    server = FakeServer()
    parts = run(server, Upstream("先温杯，再投茶。好！【丁】再注水。然后"))
    assert texts(parts) == ["先温杯，再投茶。"]
    assert isinstance(parts[-1], Stopped)
    assert server.asked[-2:] == [["先温杯，再投茶。好！【丁】再注水。"], ["【丁】再注水。"]]
    assert server.options["part"] == "sentence"


def test_of_two_looks_the_worse_counts() -> None:
    server = FakeServer()
    parts = run(server, Upstream("先温杯，再投茶。【丙】水温八十度左右。"))
    assert [part.judged.verdict.unsafe_score for part in parts] == [0.1, 0.3]
    assert server.asked[-1] == ["先温杯，再投茶。【丙】水温八十度左右。"]


@pytest.mark.parametrize("multi_turn", [True, False])
def test_a_doubt_is_looked_at_with_earlier_messages_where_the_guard_reads_them(multi_turn: bool) -> None:
    server = FakeServer()
    looks: list[tuple[str, int]] = []
    decide_all = server.decide_all

    async def seen(conversations: Sequence[Conversation], *, part: str, **options: Any) -> list[Judged]:
        looks.extend((part, len(c.messages)) for c in conversations)
        return await decide_all(conversations, **options)

    server.decide_all = seen
    roles = (Role.USER, Role.ASSISTANT, Role.USER)
    before = [Message(role=role, content="史" * 200) for role in roles[:2]] + [Message(role=roles[2], content="问")]

    async def collect() -> list[Any]:
        upstream = Upstream("先【甲】温杯，再投茶。水温八十度左右。然后【甲】注水。")
        found = guarded(server, before, upstream, settings=PATIENT, multi_turn=multi_turn)
        async with aclosing(found) as parts:
            return [part async for part in parts]

    parts = asyncio.run(collect())
    assert "".join(texts(parts)) == "先【甲】温杯，再投茶。水温八十度左右。然后【甲】注水。"
    firsts, seconds = ([n for part, n in looks if part == which] for which in ("window", "context"))
    assert set(firsts) == {2 if multi_turn else 4}
    # The first window has no text before it: there is more to see only in earlier messages.
    assert seconds == ([4] * 2 if multi_turn else [4])
    assert parts[0].judged.verdict.notes == ((LEFT_OUT,) if multi_turn else ())


def test_nothing_is_looked_at_again_after_a_block() -> None:
    server = FakeServer()
    run(server, Upstream("先温杯，再投茶。水温【坏】八十度左右。然后【甲】就可以了。完"))
    assert len(server.asked) == 1


def test_what_comes_while_the_guard_works_is_judged_together_next() -> None:
    server = FakeServer()
    upstream = Upstream("先温杯，再投茶。水", "温八十度左右。然后注水就可以了。再等一", "分钟左右。")

    async def wait() -> None:
        while upstream.chunks:
            await asyncio.sleep(0)

    server.before = wait
    assert len(run(server, upstream)) == 4
    assert [batch for batch in server.asked if batch] == [
        ["先温杯，再投茶。"],
        ["水温八十度左右。", "然后注水就可以了。"],
        ["再等一分钟左右。"],
    ]


def test_no_more_windows_than_a_batch_are_asked_for_at_once() -> None:
    server = FakeServer(batch_size=7, queue_size=3, max_conversations=3)
    answer = "先温杯，再投茶，好吗。" * 20
    assert "".join(texts(run(server, Upstream(answer)))) == answer
    assert max(map(len, server.asked)) == 3


def test_what_has_waited_is_judged_as_it_is() -> None:
    server, never = FakeServer(), asyncio.Event()

    async def first() -> list[Any]:
        async with aclosing(guarded(server, QUESTION, Upstream("先温", never), settings=HASTY)) as parts:
            return [await anext(parts)]

    (part,) = asyncio.run(asyncio.wait_for(first(), 20))
    assert part.text == "先温"
    assert part.delay >= 0.005


def test_what_has_come_is_judged_when_that_is_asked_for() -> None:
    server = FakeServer()
    parts = run(server, Upstream("先温", FLUSH, "杯。再【坏", FLUSH, "】投"))
    # A sentence that was cut is judged again from its beginning.
    assert server.asked == [["先温"], ["先温杯。", "再【坏"], ["再【坏】投"]]
    assert texts(parts) == ["先温", "杯。", "再【坏"]
    assert isinstance(parts[-1], Stopped)


def test_white_space_does_not_make_the_clock_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    flushes, flush = [], AnswerWindows.flush
    monkeypatch.setattr(AnswerWindows, "flush", lambda self: flushes.append(self) or flush(self))
    server, upstream = FakeServer(), Upstream(" \n", pause := asyncio.Event(), "先温杯")

    async def collect() -> list[Any]:
        asyncio.get_running_loop().call_later(0.03, pause.set)
        async with aclosing(guarded(server, QUESTION, upstream, settings=HASTY)) as parts:
            return [part async for part in parts]

    assert "".join(texts(asyncio.run(asyncio.wait_for(collect(), 20)))) == " \n先温杯"
    assert len(flushes) <= 2


def test_the_clock_does_not_add_work_while_the_guard_is_behind() -> None:
    server, go_on = FakeServer(), asyncio.Event()

    async def slow() -> None:
        await asyncio.sleep(0.03)
        go_on.set()

    server.before = slow
    parts = run(server, Upstream("先温杯，再投茶。水", "温", go_on, "八十度左右。"), HASTY)
    assert texts(parts) == ["先温杯，再投茶。", "水温八十度左右。"]


def test_an_answer_that_shows_nothing_is_not_judged() -> None:
    server = FakeServer()
    parts = run(server, Upstream(" ", "\n", "\u200b"))
    assert [(part.text, part.judged) for part in parts] == [(" \n\u200b", None)]
    assert not [batch for batch in server.asked if batch]
    assert run(server, Upstream()) == []


def test_an_upstream_that_fails_is_told_after_what_had_come() -> None:
    upstream = Upstream("先温杯，再投茶。水温", ConnectionError("gone"))
    released = []

    async def collect() -> None:
        async with aclosing(guarded(FakeServer(), QUESTION, upstream, settings=PATIENT)) as parts:
            async for part in parts:
                released.append(part.text)

    with pytest.raises(ConnectionError, match="gone"):
        asyncio.run(asyncio.wait_for(collect(), 20))
    assert released == ["先温杯，再投茶。", "水温"]
    assert upstream.closed


def test_what_comes_before_a_failure_is_judged() -> None:
    parts = run(FakeServer(), Upstream("水温【坏】", ConnectionError("gone")))
    assert texts(parts) == []
    assert isinstance(parts[-1], Stopped)


@pytest.mark.parametrize("chunks", [["好\ud800", "好"], ["好\ud83d"], ["\ude00"]])
def test_a_lone_surrogate_is_an_error(chunks: list[str]) -> None:
    upstream = Upstream(*chunks)
    with pytest.raises(ValueError, match="lone surrogate"):
        run(FakeServer(), upstream)
    assert upstream.closed


def test_a_guard_that_fails_releases_nothing() -> None:
    server, upstream = FakeServer(), Upstream("先温杯，再投茶。水温", "八十度左右。")

    async def fail() -> None:
        raise BackendError("no model")

    server.before = fail
    with pytest.raises(BackendError, match="no model"):
        run(server, upstream)
    assert upstream.closed


def test_a_full_queue_is_waited_for() -> None:
    server, times = FakeServer(), iter([0.001, 0.002])

    async def full() -> None:
        for seconds in times:
            raise QueueFullError(seconds)

    server.before = full
    assert texts(run(server, Upstream("先温杯，再投茶。"))) == ["先温杯，再投茶。"]
    assert server.asked[:3] == [["先温杯，再投茶。"]] * 3


def test_a_queue_that_stays_full_is_an_error() -> None:
    server = FakeServer(deadline_ms=20)

    async def full() -> None:
        raise QueueFullError(0.005)

    server.before = full
    with pytest.raises(QueueFullError):
        run(server, Upstream("先温杯，再投茶。"))


def test_who_hangs_up_closes_the_upstream() -> None:
    server, upstream, entered = FakeServer(), Upstream("先温杯，再投茶。水温", asyncio.Event()), asyncio.Event()
    cancelled = []

    async def hang() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    server.before = hang

    async def hang_up() -> None:
        task = asyncio.create_task(_consume(server, upstream))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # Nothing is left running.
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(hang_up())
    assert upstream.closed
    assert cancelled == [True]


async def _consume(server: FakeServer, upstream: Upstream) -> None:
    async with aclosing(guarded(server, QUESTION, upstream, settings=PATIENT)) as parts:
        async for _ in parts:
            pass


def test_a_reader_that_stops_asking_stops_the_reading() -> None:
    upstream = Upstream(*["先温杯，再投茶。"] * 10_000)

    async def read_one() -> None:
        async with aclosing(guarded(FakeServer(), QUESTION, upstream, settings=PATIENT)) as parts:
            await anext(parts)
            await asyncio.sleep(0.005)

    asyncio.run(read_one())
    assert upstream.given < 400


def test_a_slow_guard_stops_the_reading() -> None:
    server, upstream = FakeServer(), Upstream(*["先温杯，再投茶。"] * 10_000)
    read = []

    async def slow() -> None:
        for _ in range(2000):
            await asyncio.sleep(0)
        read.append(upstream.given)
        if len(read) == 2:
            raise BackendError("enough")

    server.before = slow
    with pytest.raises(BackendError):
        run(server, upstream)
    assert max(read) <= 4 * 400 / 8 + 2 * 16


def test_an_upstream_without_aclose() -> None:
    class Plain:
        def __aiter__(self) -> AsyncIterator[str]:
            return self

        async def __anext__(self) -> str:
            raise StopAsyncIteration

    assert run(FakeServer(), Plain()) == []


def test_a_shortened_question_is_said() -> None:
    async def collect() -> list[Any]:
        async with aclosing(guarded(FakeServer(), "长" * 1000, Upstream("好的。"), settings=PATIENT)) as parts:
            return [part async for part in parts]

    (part,) = asyncio.run(collect())
    assert part.judged.verdict.notes == (SHORTENED,)


def counted(server: FakeServer) -> dict[str, float]:
    families = text_string_to_metric_families(server.metrics.render()[0].decode())
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_times_are_counted() -> None:
    server = FakeServer()
    run(server, Upstream("先把杯子温一下，再投茶。水温要在八十度左右。"), None)
    counts = counted(server)
    assert counts["libra_stream_first_text_seconds_count"] == 1
    assert counts["libra_stream_window_seconds_count"] == 2
    assert counts["libra_stream_first_hit_seconds_count"] == 0


def test_the_first_hit_counts_from_the_last_character_of_what_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(streaming, "Arrivals", lambda _: Arrivals(lambda: clock.now))

    class Timed(Upstream):
        async def __anext__(self) -> str:
            chunk = await super().__anext__()
            clock.now += 1
            return chunk

    async def judging() -> None:
        clock.now += 0.25

    server, never = FakeServer(), asyncio.Event()
    server.before = judging
    # The full stop comes at 102, what tells that it ends a sentence at 103.
    parts = run(server, Timed("水【坏】温", "左右。", "然", never))
    assert isinstance(parts[-1], Stopped)
    counts = counted(server)
    assert counts["libra_stream_first_hit_seconds_count"] == counts["libra_stream_window_seconds_count"] == 1
    assert counts["libra_stream_first_hit_seconds_sum"] == counts["libra_stream_window_seconds_sum"] == 1.25

    async def slowly() -> None:
        async with aclosing(guarded(server, "", Upstream("先温杯啊。水【坏】温左右。然"), settings=PATIENT)) as parts:
            async for _ in parts:
                clock.now += 60

    asyncio.run(asyncio.wait_for(slowly(), 20))
    counts = counted(server)
    assert counts["libra_stream_first_hit_seconds_sum"] == 1.5
    assert counts["libra_stream_window_seconds_sum"] == 1.75

"""The clients against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from libra_guard import AsyncClient, BackendError, Client, Conversation, UsageError
from libra_guard.policy import Action
from libra_guard.records import Verdict

BAD = "【坏】"
GOOD = "泡绿茶的水温八十度左右为好。"
Live = Callable[..., Any]


def conversations(number: int) -> list[Conversation]:
    return [Conversation.from_pair(f"第{i}问", (BAD if i % 5 == 0 else "") + "答") for i in range(number)]


def test_the_same_as_the_guard_here(live: Live, guard: Any) -> None:
    with Client(live().url) as client:
        asked = [Conversation.from_pair("你好"), *conversations(6), Conversation.from_answer("【乱】")]
        there = client.judge(asked, explain=True)
        assert [Verdict(**dict(j)) for j in there] == guard.judge(asked, explain=True)
        blocked = [False, True, False, False, False, False, True, True]
        assert [j.blocked for j in there] == [j.flagged for j in there] == blocked
        assert [j.answer is not None for j in there] == blocked
        assert there[1].decision.scenarios == ("Illegal Activities and Crime",)


def test_more_than_one_request_takes(live: Live, guard: Any) -> None:
    server = live(max_conversations=40, max_body_bytes=5000, batch_size=64)
    with Client(server.url) as client:
        guard.batches.clear()
        judged = client.judge(conversations(150))
        assert [j.blocked for j in judged] == [i % 5 == 0 for i in range(150)]
        assert [text for batch in guard.batches for text in batch] == [c.response for c in conversations(150)]
        assert [m.flagged for m in client.moderate(["好", BAD] * 50)] == [False, True] * 50


def test_more_characters_than_one_request_takes(live: Live, guard: Any) -> None:
    server = live(max_chars=5000, queue_chars=10_000)
    with Client(server.url) as client:
        assert len(client.judge([Conversation.from_pair("问" * 1500, "答" * 2000)] * 5)) == 5
        assert len(client.moderate(["长" * 4000] * 5)) == 5


def test_keys_names_and_readiness(live: Live) -> None:
    server = live(api_key="right")
    with Client(server.url, "right") as client:
        assert client.ready()
        assert [g["id"] for g in client.guards()] == ["fake"]
        assert client.check("你好", policy="monitor").decision.mode == "monitor"
        with pytest.raises(UsageError, match="404"):
            client.check("你好", guard="nobody")
        with pytest.raises(UsageError, match="404"):
            client.check("你好", policy="none")
        with pytest.raises(UsageError, match="20000"):
            client.check("长" * 20_001)
        with pytest.raises(BackendError, match="502"):
            client.check("【错】")
    with Client(server.url, "wrong") as client, pytest.raises(UsageError, match="API key"):
        client.check("你好")


def test_streaming(live: Live) -> None:
    url = live().url
    text = "水温八十度左右为好，再高就会苦涩，再低香气又出不来。" * 6
    with Client(url) as client:
        stream = client.stream("如何泡茶？", list(text))
        pieces = list(stream)
        assert "".join(pieces) == text
        assert len(pieces) > 1
        assert stream.stopped is None

        stream = client.stream("如何泡茶？", [text, f"然后{BAD}。", "再后来。"])
        shown = "".join(stream)
        assert text.startswith(shown)
        assert stream.stopped is not None
        assert stream.stopped.decision.action is Action.BLOCK
        assert stream.stopped.answer


def test_streaming_chunks_longer_than_one_request_takes(live: Live) -> None:
    server = live(max_chars=500, queue_chars=10_000, max_body_bytes=5000)
    text = "水温八十度左右为好，再高就会苦涩，再低香气又出不来。" * 60
    with Client(server.url) as client:
        stream = client.stream("如何泡茶？", [text, f"然后{BAD}。{text}", None])
        shown = "".join(stream)
        assert (shown, stream.stopped is None) == (text, False)
        assert "".join(client.stream("如何泡茶？", [text, None])) == text


def test_asynchronously(live: Live) -> None:
    async def chunks() -> AsyncIterator[str]:
        for chunk in (GOOD, f"{BAD}。", GOOD):
            yield chunk

    async def ask(url: str) -> None:
        async with AsyncClient(url) as client:
            assert await client.ready()
            judged = await asyncio.gather(*(client.check("你好", c.response) for c in conversations(10)))
            assert [j.blocked for j in judged] == [i % 5 == 0 for i in range(10)]
            stream = client.stream("如何泡茶？", chunks())
            assert "".join([text async for text in stream]) == GOOD
            assert stream.stopped is not None

    asyncio.run(ask(live().url))

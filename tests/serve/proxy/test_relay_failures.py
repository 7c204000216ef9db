"""Streams of an upstream that break, clients that hang up, and what monitor mode lets pass."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("openai")

import openai
from starlette.testclient import TestClient

from libra_guard.serve.app import create_app
from libra_guard.serve.protocol import BoundedProtocol
from libra_guard.serve.proxy.judging import Exchange
from libra_guard.serve.proxy.messages import read_asked
from libra_guard.serve.proxy.relay import KEEP_ALIVE_SECONDS, relayed
from libra_guard.serve.proxy.sse import KEEP_ALIVE
from libra_guard.serve.settings import ServerSettings

PATH = "/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "你好"}], "stream": True}
FIELDS = ("content", "content", "reasoning_content")
CRIME = "Illegal Activities and Crime"
Ask = Callable[..., Any]


# When something fails.


def failed(found: list[Any]) -> dict[str, Any]:
    assert found[-1] == "[DONE]"
    assert set(found[-2]) == {"error"}
    assert set(found[-2]["error"]) == {"message", "type", "param", "code"}
    return found[-2]["error"]


def bad_streams(chunk: Any) -> list[tuple[list[Any], bool, str, str]]:
    other = {"index": 0, "delta": {}, "finish_reason": None}
    return [
        ([], True, "cut", "broke"),
        ([], False, "cut", "broke off"),
        ([b'data: {"choices": [{"index": 0, "del'], False, "cut", "broke off"),
        ([b"data: {oops\n\n"], False, "garbage", "no JSON"),
        ([b"data: 1\n\n"], False, "garbage", "no JSON object"),
        ([b"<html>garbage</html>\n\n\x00\xff\xfe\n"], False, "cut", "broke off"),
        ([{"error": {"message": "out of memory", "code": 500}}], False, "status", "midway: out of memory"),
        ([{"error": "oops"}], False, "status", "midway: oops"),
        ([b'event: error\ndata: {"error": {"message": "oops"}}\n\n'], False, "status", "midway: oops"),
        ([b'event: error\ndata: {"message": "oops"}\n\n'], False, "status", "midway: oops"),
        ([b"event: error\ndata: {}\n\n"], False, "status", "midway"),
        ([{**chunk("", finish="error"), "error": {"message": "oops", "code": 502}}], False, "status", "midway: oops"),
        ([{**chunk(""), "error": {"message": "oops"}}], False, "status", "midway: oops"),
        ([{"choices": [{**other, "finish_reason": "error", "error": "oops"}]}], False, "status", "midway: oops"),
        ([{"error": {"message": "oops 【坏】"}}], False, "status", "midway"),
        ([{"choices": "x"}], False, "garbage", "choices cannot be read"),
        ([{"choices": [1]}], False, "garbage", "no object"),
        ([{"choices": [{**other, "delta": "x"}]}], False, "garbage", "delta cannot be read"),
        ([{"choices": [{**other, "message": {"content": "x"}}]}], False, "garbage", "delta cannot be read"),
        ([{"choices": [{**other, "text": "x"}]}], False, "garbage", "delta cannot be read"),
        ([{"choices": [{**other, "index": "0"}]}], False, "garbage", "index is no number"),
        ([chunk(index=1)], False, "garbage", "no number below n"),
        ([chunk(index=-1)], False, "garbage", "no number below n"),
        ([chunk(**{f"x{i}": "y" for i in range(17)})], False, "garbage", "more than 16 texts"),
        ([chunk(tool_calls={})], False, "cut", "broke off"),
        ([chunk(tool_calls={"a": 1})], False, "garbage", "calls of tools"),
        ([chunk(finish="stop"), chunk("还有")], False, "garbage", "after the end"),
        ([chunk(finish="stop"), chunk(audio={"data": "AAAA"})], False, "garbage", "after the end"),
    ]


def test_a_bad_stream_ends_with_an_error(
    guard: Any, proxy: TestClient, upstream: Any, chunk: Any, ask: Any, text_of: Any
) -> None:
    for events, cut, kind, words in bad_streams(chunk):
        guard.batches.clear()
        upstream.streams(chunk("这是第一句话，很好。"), chunk("秘密"), *events, cut=cut, done=False)
        found = ask(proxy)
        error = failed(found)
        assert (error["code"], error["type"]) == (f"upstream_{kind}", "server_error"), events
        assert words in error["message"]
        assert "【坏】" not in error["message"]
        # What came with the end of the sentence is judged with it; nothing passes that was not.
        assert any(text_of(found) in text for text in guard.asked)
    upstream.streams(chunk("好。"), chunk(finish="stop"))
    assert text_of(ask(proxy)) == "好。"


def test_half_a_character(proxy: TestClient, upstream: Any, ask: Any) -> None:
    broken = b'data: {"choices": [{"delta": {"content": "\\ud83d\\u597d"}}]}\n\n'
    upstream.streams(broken, upstream.until_closed, done=False)
    error = failed(ask(proxy))
    assert error["code"] == "upstream_garbage"
    assert "half a character" in error["message"]


def test_an_error_is_an_error_for_the_client(chat: Ask, upstream: Any, chunk: Any) -> None:
    upstream.streams(chunk("好。"), {"error": {"message": "out of memory"}}, done=False)
    with pytest.raises(openai.APIError, match="out of memory"):
        list(chat())


def test_an_error_midway_is_counted(proxy: TestClient, upstream: Any, chunk: Any, ask: Any) -> None:
    upstream.streams(chunk("好。"), {**chunk("", finish="error"), "error": {"message": "oops"}})
    assert failed(ask(proxy))["message"].endswith("oops")
    assert 'libra_upstream_errors_total{reason="status"} 1.0' in proxy.get("/metrics").text


def test_timeout_midway(make_server: Any, upstream: Any, chunk: Any, ask: Any, text_of: Any) -> None:
    proxy = make_server(upstream=upstream.url, upstream_timeout=0.1)
    upstream.streams(chunk("好。"), chunk("秘密"), upstream.until_closed, done=False)
    found = ask(proxy)
    assert failed(found)["code"] == "upstream_timeout"
    assert "秘密" not in text_of(found)
    assert upstream.closed.wait(10)


def test_a_stream_that_is_no_stream(proxy: TestClient, upstream: Any) -> None:
    upstream.says("秘密")
    answer = proxy.post(PATH, json=ASK)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_garbage")
    assert "without one" in answer.json()["error"]["message"]


def test_done_may_be_missing_after_the_end(
    proxy: TestClient, upstream: Any, chunk: Any, ask: Any, text_of: Any
) -> None:
    upstream.streams(chunk("好。"), chunk(finish="stop"), done=False)
    found = ask(proxy)
    assert text_of(found) == "好。"
    assert found[-1] == "[DONE]"
    assert "error" not in found[-2]


def test_the_end_may_be_missing_before_done(
    proxy: TestClient, upstream: Any, chunk: Any, ask: Any, text_of: Any
) -> None:
    upstream.streams(chunk("好"))
    found = ask(proxy)
    assert (text_of(found), found[-1]) == ("好", "[DONE]")


def test_a_guard_that_fails_lets_nothing_pass(
    proxy: TestClient, upstream: Any, chunk: Any, ask: Any, text_of: Any
) -> None:
    upstream.streams(chunk("好。"), chunk("秘密【错】秘密秘密。完"), upstream.until_closed, done=False)
    found = ask(proxy)
    assert failed(found)["code"] == "guard_failed"
    assert "秘密" not in text_of(found)
    assert upstream.closed.wait(10)


def test_calls_without_end(
    proxy: TestClient, upstream: Any, chunk: Any, monkeypatch: pytest.MonkeyPatch, ask: Any
) -> None:
    monkeypatch.setattr("libra_guard.serve.proxy.calls._MAX_CALLS", 100)
    part = chunk(tool_calls=[{"index": 0, "function": {"arguments": "x" * 40}}])
    upstream.streams(part, part, part, upstream.until_closed, done=False)
    assert failed(ask(proxy))["code"] == "upstream_garbage"


def test_chunks_without_end(
    proxy: TestClient, upstream: Any, chunk: Any, monkeypatch: pytest.MonkeyPatch, ask: Any
) -> None:
    monkeypatch.setattr("libra_guard.serve.proxy.relay._MAX_HELD", 100)
    call = chunk(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": ""}}])
    empty = chunk(tool_calls=[{"index": 0, "function": {"arguments": ""}}])
    # Deltas of a call become one; others wait behind it, and are counted.
    upstream.streams(call, *[empty] * 200, chunk(finish="tool_calls"))
    assert len(ask(proxy)) == 3
    upstream.streams(call, *[chunk(role="assistant")] * 200, upstream.until_closed, done=False)
    assert failed(ask(proxy))["code"] == "upstream_garbage"


def test_silence_is_filled(live: Any, upstream: Any, chunk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libra_guard.serve.proxy.relay.KEEP_ALIVE_SECONDS", 0.01)
    server = live(upstream=upstream.url)
    upstream.streams(upstream.until_gate, chunk("好。"), chunk(finish="stop"))
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        body = json.dumps(ASK).encode()
        head = (
            f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        )
        connection.sendall(head.encode() + b"\r\nconnection: close\r\n\r\n" + body)
        received = b""
        while received.count(b": keep-alive\n\n") < 2:
            received += connection.recv(4096)
        upstream.gate.set()
        while part := connection.recv(4096):
            received += part
    assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def slow_stream(guard: Any, sent: list[Any], **settings: Any) -> list[bytes]:
    """What is sent down of chunks that come two thirds of ``KEEP_ALIVE_SECONDS`` apart, by a clock that jumps."""
    # Nothing is judged because it has waited, nor given up.
    far = {"stream_hold_ms": 60_000, "deadline_ms": 1e9}
    app = create_app(ServerSettings(**far, **settings), {"fake": guard})
    async with app.router.lifespan_context(app):
        server, loop = app.state.server, asyncio.get_running_loop()
        while not server.ready:
            await asyncio.sleep(0.001)
        start, jumps, clock = loop.time(), 0, loop.time

        async def events() -> AsyncGenerator[dict[str, Any] | None]:
            nonlocal jumps
            for one in sent:
                if callable(one):
                    one()
                    continue
                jumps += 1
                yield one
            yield None

        loop.time = lambda: start + jumps * KEEP_ALIVE_SECONDS * 2 / 3  # type: ignore[method-assign]
        try:
            asked = read_asked({"messages": ASK["messages"]}, max_messages=9, max_chars=99)
            exchange = Exchange(server, asked, "r", server.policy(None))
            return [part async for part in relayed(exchange, events())]
        finally:
            loop.time = clock  # type: ignore[method-assign]


def test_a_call_that_keeps_coming_is_silence(guard: Any, chunk: Any) -> None:
    parts = [chunk(tool_calls=[{"index": 0, "function": {"arguments": "1"}}]) for _ in range(6)]
    *waited, call, _, done = asyncio.run(slow_stream(guard, [*parts, chunk(finish="tool_calls")]))
    assert waited == [KEEP_ALIVE] * 3
    assert b'"arguments":"111111"' in call
    assert done == b"data: [DONE]\n\n"


def test_a_text_that_waits_for_the_guard_is_silence(guard: Any, chunk: Any) -> None:
    texts = [chunk("第一句话，很好。"), *[chunk("好")] * 5]
    sent = [guard.gate.clear, *texts, guard.gate.set, chunk(finish="stop")]
    found = asyncio.run(slow_stream(guard, sent))
    assert found[:3] == [KEEP_ALIVE] * 3
    assert KEEP_ALIVE not in found[3:]


def test_a_text_that_flows_is_no_silence(guard: Any, chunk: Any, text_of: Any, chunks: Any) -> None:
    sent = [*[chunk("好。")] * 6, chunk(finish="stop")]
    found = asyncio.run(slow_stream(guard, sent, policy="monitor"))
    assert KEEP_ALIVE not in found
    assert text_of(chunks(b"".join(found).decode())) == "好。" * 6


# When the client goes away.


@pytest.mark.parametrize("first", ["这是第一句话，很好。", None])
def test_a_client_that_hangs_up_ends_the_upstream(live: Any, upstream: Any, chunk: Any, first: str | None) -> None:
    server = live(upstream=upstream.url, stream_hold_ms=60_000)
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="k", max_retries=0)
    upstream.streams(*([chunk(first), chunk("好")] if first else []), upstream.until_closed, done=False)
    stream = client.chat.completions.create(model="m", messages=ASK["messages"], stream=True)
    if first:
        assert next(stream).choices[0].delta.content == first
    stream.close()
    assert upstream.closed.wait(10)
    upstream.streams(chunk("好。"), chunk(finish="stop"))
    assert list(client.chat.completions.create(model="m", messages=ASK["messages"], stream=True))


def test_a_client_that_hangs_up_before_the_answer(live: Any, upstream: Any, script: Any) -> None:
    server = live(upstream=upstream.url)
    upstream.reply = lambda _: script.Reply(200, {"content-type": "application/json"}, [upstream.until_closed])
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="k", max_retries=0, timeout=0.2)
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="m", messages=ASK["messages"])
    assert upstream.closed.wait(10)


def test_a_client_that_takes_nothing_is_cut_off(live: Any, upstream: Any, script: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(BoundedProtocol, "write_seconds", 0.1)
    # Numbers are not judged: more of them than fit into the system's buffers come at once.
    chunk = script.event({"id": "c", "choices": [], "usage": {"n": [1] * 30_000}})
    headers = {"content-type": "text/event-stream"}
    upstream.reply = lambda _: script.Reply(headers=headers, body=itertools.repeat(chunk))
    server = live(upstream=upstream.url)
    body = json.dumps(ASK).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        assert upstream.closed.wait(20)
        with suppress(ConnectionResetError):
            while client.recv(1 << 20):
                pass


# Monitor mode.


def test_monitor(make_server: Any, upstream: Any, chunk: Any, text_of: Any, chunks: Any) -> None:
    proxy = make_server(upstream=upstream.url, policy="monitor")
    texts = ["好。", "这是【坏】的。", "还有"]
    upstream.streams(chunk(reasoning_content="想【坏】。"), *map(chunk, texts), chunk(finish="stop"))
    answer = proxy.post(PATH, json={**ASK, "messages": [{"role": "user", "content": "【坏】"}]})
    found = chunks(answer.text)
    assert text_of(found) == "".join(texts)
    assert text_of(found, field="reasoning_content") == "想【坏】。"
    libra = found[-2]["libra"]
    assert (libra["action"], libra["would"], libra["scenarios"]) == ("pass", "block", [CRIME])
    assert (answer.headers["x-libra-action"], answer.headers["x-libra-would"]) == ("pass", "block")


def test_monitor_holds_nothing_back(live: Any, upstream: Any, chunk: Any) -> None:
    settings = {"upstream": upstream.url, "policy": "monitor", "stream_hold_ms": 60_000}
    client = openai.OpenAI(base_url=live(**settings).url + "/v1", api_key="k", max_retries=0)
    upstream.streams(chunk("没有"), chunk("句号"), upstream.until_gate, chunk(finish="stop"))
    stream = client.chat.completions.create(model="m", messages=ASK["messages"], stream=True)
    assert [next(stream).choices[0].delta.content for _ in range(2)] == ["没有", "句号"]
    upstream.gate.set()
    assert [one.choices[0].finish_reason for one in stream] == ["stop"]


def test_monitor_lets_pass_what_the_guard_fails_on(
    make_server: Any, upstream: Any, chunk: Any, ask: Any, text_of: Any
) -> None:
    proxy = make_server(upstream=upstream.url, policy="monitor")
    upstream.streams(chunk("好。"), chunk("这是【错】的。"), chunk("还有"), chunk(finish="stop"))
    found = ask(proxy)
    assert text_of(found) == "好。这是【错】的。还有"
    assert found[-2]["libra"]["not_judged"] == ["content (the guard's model failed)"]

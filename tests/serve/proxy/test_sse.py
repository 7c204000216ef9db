"""Server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx2")

import httpx2

from libra_guard.serve.proxy.sse import read_events, write_event
from libra_guard.serve.proxy.upstream import UpstreamError

EVENTS = {"content-type": "text/event-stream"}


def read(*parts: bytes, error: Exception | None = None, headers: dict[str, str] = EVENTS) -> list[Any]:
    async def body() -> AsyncIterator[bytes]:
        for part in parts:
            yield part
        if error is not None:
            raise error

    async def run() -> list[Any]:
        request = httpx2.Request("POST", "http://upstream/")
        return [e async for e in read_events(httpx2.Response(200, headers=headers, content=body(), request=request))]

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        ("", []),
        ('data: {"a": 1}\n\ndata: [DONE]\n\n', [{"a": 1}, None]),
        ('data: {"a": 1}\r\n\r\ndata: [DONE]\r\n\r\n', [{"a": 1}, None]),
        ('data: {"a": 1}\r\rdata: [DONE]\r\r', [{"a": 1}, None]),
        ('data:{"a": 1}\n\n', [{"a": 1}]),
        ('data: {"a":\ndata: 1}\n\n', [{"a": 1}]),
        (': hello\n\n:\n\ndata: {"a": 1}\n\n: keep-alive\n\n', [{"a": 1}]),
        ('event: message\nid: 7\nretry: 10\ndata: {"a": 1}\n\n', [{"a": 1}]),
        ('garbage\nmore: garbage\n\ndata: {"a": 1}\n\n', [{"a": 1}]),
        ("data:\n\ndata\n\n", []),
        # Line ends of Unicode are part of a text.
        ('data: {"a": "一\u2028二\x85三\x0b"}\n\n'.replace("\x0b", "\\u000b"), [{"a": "一\u2028二\x85三\x0b"}]),
        ('data: [DONE]\n\ndata: {"a": 1}\n\n', [None]),
        # Not complete.
        ('data: {"a": 1}\n\ndata: {"b": 1}', [{"a": 1}]),
        ('data: {"a": 1}\n\ndata: [DO', [{"a": 1}]),
    ],
)
def test_events(stream: str, events: list[Any]) -> None:
    raw = stream.encode()
    assert read(raw) == events
    # However the bytes are cut, in the middle of a character too.
    assert read(*(raw[i : i + 1] for i in range(len(raw)))) == events


def test_characters_may_be_cut() -> None:
    raw = 'data: {"a": "你好😀"}\n\n'.encode()
    for i in range(len(raw)):
        assert read(raw[:i], raw[i:]) == [{"a": "你好😀"}]


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        ([b"data: {\n\n"], "garbage"),
        ([b"data: null\n\n"], "garbage"),
        ([b"data: [1]\n\n"], "garbage"),
        ([b"data: hello\n\n"], "garbage"),
        ([b"data: " + b"[" * 100_000 + b"\n\n"], "garbage"),
        ([b'data: {"a": "' + b"x" * 2_000_000], "garbage"),
    ],
)
def test_garbage(parts: list[bytes], kind: str) -> None:
    with pytest.raises(UpstreamError) as raised:
        read(b'data: {"a": 1}\n\n', *parts)
    assert (raised.value.kind, raised.value.status_code) == (kind, 502)


def test_no_event_stream() -> None:
    with pytest.raises(UpstreamError, match="cannot be read"):
        read(b"{}", headers={"content-type": "application/json"})


@pytest.mark.parametrize(
    ("error", "kind"), [(httpx2.ReadError("broken"), "cut"), (httpx2.ReadTimeout("slow"), "timeout")]
)
def test_broken_connection(error: Exception, kind: str) -> None:
    with pytest.raises(UpstreamError) as raised:
        read(b'data: {"a": 1}\n\n', error=error)
    assert raised.value.kind == kind


@pytest.mark.parametrize(
    "text", ["你好", "一行\n二行\r\n", "\u2028", "data: [DONE]\n\n", "\ud83d好", "好\ude00", "\x00"]
)
def test_what_is_written_is_read_again(text: str) -> None:
    written = write_event({"text": text})
    assert written.count(b"\n") == 2
    assert read(written) == [{"text": text}]


def test_chinese_is_written_as_it_is() -> None:
    assert write_event({"text": "你好"}) == 'data: {"text":"你好"}\n\n'.encode()
    assert json.loads(write_event({"text": float("nan")})[6:]) == {"text": None}

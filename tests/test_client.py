"""The clients: what they ask, what they make of answers, what they try again."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import httpx2
import pytest

import libra_guard
from libra_guard import AsyncClient, BackendError, Client, Conversation, Label, MissingExtraError, UsageError
from libra_guard.client import Judged
from libra_guard.errors import RefusedError
from libra_guard.policy import Action
from libra_guard.predict.arrivals import FirstHit
from libra_guard.records import Message, Role, Target
from libra_guard.serve.routes.stream import StreamRequest
from libra_guard.serve.schemas import GuardRequest, ModerationRequest

URL = "http://127.0.0.1:8300"
TEA = Conversation.from_pair("如何泡一杯绿茶？", "水温八十度左右。")
PASSED = {"action": "pass", "would": "pass", "reason": "", "policy": "default", "mode": "enforce"}
BLOCKED = PASSED | {"action": "block", "would": "block", "reason": "the guard says 不安全", "scenarios": ["x"]}
SAFE = {"verdict": {"label": "安全", "unsafe_score": 0.1, "guard": "mini"}, "decision": PASSED}
UNSAFE = {"verdict": {"label": "不安全", "unsafe_score": 0.9}, "decision": BLOCKED, "answer": "换个话题吧。"}
MODERATED = {"flagged": False, "categories": {"violence": False}, "category_scores": {"violence": 0.1}}

ROW = len('{"messages": [{"role": "user", "content": "好0000"}]}, '.encode())
"""Bytes of a conversation below."""


CHOSEN = {
    "target": Target.PROMPT,
    "guard": "big",
    "policy": "strict",
    "threshold": 0.0,
    "explain": True,
    "language": "en",
}


class Reply(NamedTuple):
    status: int
    text: str = ""
    headers: Mapping[str, str] = MappingProxyType({})


class Server:
    """Answers what a test tells it to, one reply a request; keeps what was asked."""

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.asked: list[httpx2.Request] = []
        self.bodies: list[Any] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        self.bodies.append(json.loads(request.content) if request.content else None)
        reply = self.replies.pop(0) if self.replies else self.replies_by(self.bodies[-1])
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, Reply):
            return httpx2.Response(reply.status, text=reply.text, headers=reply.headers)
        return httpx2.Response(200, json=reply)

    def replies_by(self, body: Any) -> Any:
        if body is None:
            return {"data": [{"id": "mini"}]}
        if "input" in body:
            return {"results": [MODERATED for _ in body["input"]]}
        rows = body["conversations"]
        return {"results": [UNSAFE if "坏" in row["messages"][-1]["content"] else SAFE for row in rows]}


class Both:
    """Calls a method of the one client or the other."""

    def __init__(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kind, self._monkeypatch = kind, monkeypatch
        self.pauses: list[float] = []

        async def pause(seconds: float) -> None:
            self.pauses.append(seconds)

        # The modules' own names and not the functions themselves: a server of another test may still be sleeping.
        between = SimpleNamespace(uniform=lambda low, high: (low + high) / 2)
        monkeypatch.setattr("libra_guard.client.protocol.random", between)
        monkeypatch.setattr("libra_guard.client.blocking.time", SimpleNamespace(sleep=self.pauses.append))
        monkeypatch.setattr("libra_guard.client.awaited.asyncio", SimpleNamespace(sleep=pause))

    def __call__(self, server: Server, method: str, *arguments: Any, retries: int = 3, **given: Any) -> Any:
        transport = httpx2.MockTransport(server)
        for name in ("Client", "AsyncClient"):
            kind = getattr(httpx2, name)
            kind = getattr(kind, "func", kind)
            self._monkeypatch.setattr(httpx2, name, functools.partial(kind, transport=transport))
        if self.kind == "blocking":
            with Client(URL, "key", retries=retries) as client:
                result = getattr(client, method)(*arguments, **given)
                return (list(result), result.stopped) if method == "stream" else result
        return asyncio.run(self._awaited(method, arguments, given, retries))

    async def _awaited(self, method: str, arguments: Any, given: Any, retries: int) -> Any:
        async with AsyncClient(URL, "key", retries=retries) as client:
            if method == "stream":
                question, chunks = arguments
                chunks = chunks if hasattr(chunks, "__aiter__") else _each(chunks)
                stream = client.stream(question, chunks, **given)
                return [text async for text in stream], stream.stopped
            return await getattr(client, method)(*arguments, **given)


async def _each(chunks: Any) -> AsyncIterator[str]:
    for chunk in chunks:
        yield chunk


@pytest.fixture(params=["blocking", "awaited"])
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Both:
    monkeypatch.delenv("LIBRA_API_KEY", raising=False)
    return Both(request.param, monkeypatch)


def failing(status: int, message: str = "no", code: str | None = None, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps({"error": {"message": message, "code": code}}), named)


def test_judging(both: Both) -> None:
    server = Server({"results": [SAFE]})
    judged = both(server, "judge", [TEA], **CHOSEN)
    assert [type(j) for j in judged] == [Judged]
    assert (judged[0].label, judged[0].unsafe_score, judged[0].flagged) == (Label.SAFE, 0.1, False)
    assert judged[0].decision.action is Action.PASS
    assert not judged[0].blocked
    (request,) = server.asked
    assert (request.method, str(request.url)) == ("POST", f"{URL}/v1/guard")
    assert request.headers["authorization"] == "Bearer key"
    assert request.headers["content-type"] == "application/json"
    messages = [{"role": "user", "content": TEA.question}, {"role": "assistant", "content": TEA.response}]
    assert server.bodies == [{"conversations": [{"messages": messages}], **CHOSEN}]
    server = Server({"results": [SAFE]})
    both(server, "check", TEA.question, TEA.response, **CHOSEN)
    assert server.bodies == [{"conversations": [{"messages": messages}], **CHOSEN}]
    assert GuardRequest.model_validate(server.bodies[0]).target is Target.PROMPT


def taken(kind: type, method: str, *positional: str) -> set[str]:
    """The options that a method has."""
    return set(inspect.signature(getattr(kind, method)).parameters) - {"self", *positional}


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_all_that_the_server_takes_can_be_given(kind: type) -> None:
    """A new field of a request needs an option here; fields that the client fills by itself are named."""
    asked = set(GuardRequest.model_fields) - {"conversations", "conversation"}
    assert taken(kind, "judge", "conversations") == taken(kind, "check", "question", "response") == asked
    moderated = set(ModerationRequest.model_fields) - {"input", "model"}
    assert taken(kind, "moderate", "texts") == {*moderated, "guard"}
    streamed = set(StreamRequest.model_fields) - {"question", "messages", "text", "state", "end", "flush"}
    assert taken(kind, "stream", "question", "chunks") == {*streamed, "hold_ms"}


def test_what_was_not_chosen_is_left_to_the_server(both: Both) -> None:
    server = Server()
    judged = both(server, "check", "坏人？")
    assert (judged.blocked, judged.answer) == (True, "换个话题吧。")
    assert server.bodies == [{"conversations": [{"messages": [{"role": "user", "content": "坏人？"}]}]}]


def test_nothing_to_judge_asks_nothing(both: Both) -> None:
    server = Server()
    assert both(server, "judge", []) == []
    assert not server.asked


@pytest.mark.parametrize(
    ("told", "sizes"),
    [
        ({}, [100, 100, 50]),
        ({"max_conversations": 120, "max_chars": 7}, [120, 120, 10]),
        ({"max_conversations": 10**4, "max_body_bytes": 1000 + 100 * ROW}, [100, 100, 50]),
        ({"queue_chars": 5 * 60}, [60, 60, 60, 60, 10]),
    ],
)
def test_more_than_the_server_takes_is_cut(both: Both, told: dict[str, Any], sizes: list[int]) -> None:
    server = Server({"data": [], **told})
    conversations = [Conversation.from_pair(("坏" if i % 7 == 0 else "好") + f"{i:04}") for i in range(250)]
    judged = both(server, "judge", conversations)
    assert server.asked[0].url.path == "/v1/guards"
    assert [len(body["conversations"]) for body in server.bodies[1:]] == sizes
    assert [j.blocked for j in judged] == [i % 7 == 0 for i in range(250)]
    limit = told.get("max_body_bytes", 10**6)
    assert all(len(request.content) <= limit for request in server.asked)


def test_a_row_too_long_for_any_request_is_sent_alone(both: Both) -> None:
    server = Server({"data": [], "max_conversations": 9, "max_body_bytes": 2000}, {"results": [SAFE]}, failing(413))
    conversations = [Conversation.from_pair("好"), Conversation.from_pair("长" * 1000), Conversation.from_pair("好")]
    with pytest.raises(UsageError, match="413"):
        both(server, "judge", conversations)
    assert [len(body["conversations"]) for body in server.bodies[1:]] == [1, 1]


def test_moderation(both: Both) -> None:
    server = Server({"results": [MODERATED | {"libra": 1}]})
    (result,) = both(server, "moderate", ["你好"], guard="big", policy="strict")
    assert (result.flagged, result.category_scores) == (False, {"violence": 0.1})
    assert result.model_extra == {"libra": 1}
    assert server.asked[0].url.path == "/v1/moderations"
    assert server.bodies == [{"input": ["你好"], "model": "big", "policy": "strict"}]
    assert len(both(Server(), "moderate", ["你好"] * 101)) == 101


def test_guards_and_readiness(both: Both) -> None:
    assert both(Server(), "guards") == [{"id": "mini"}]
    assert both(Server({}), "ready") is True
    for reply in (failing(503), httpx2.ConnectError("refused"), httpx2.ReadTimeout("late")):
        server = Server(reply)
        assert both(server, "ready") is False
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("reply", "seconds"),
    [
        (failing(429, retry_after="7"), 7),
        (failing(503, retry_after="2.5"), 2.5),
        (failing(429, retry_after="-3"), 0),
        (failing(503), None),
        (failing(429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"), None),
        (httpx2.ConnectError("refused"), None),
        (httpx2.ConnectTimeout("late"), None),
        (httpx2.RemoteProtocolError("gone"), None),
    ],
)
def test_tried_again(both: Both, reply: Any, seconds: float | None) -> None:
    server = Server(reply, reply, {"results": [SAFE]})
    assert both(server, "check", "你好").label is Label.SAFE
    assert len(server.asked) == 3
    assert server.bodies[0] == server.bodies[2]
    assert both.pauses == ([0.25, 0.5] if seconds is None else [seconds, seconds])


@pytest.mark.parametrize("reply", [failing(429, "too busy"), failing(503, "too busy"), httpx2.ConnectError("too busy")])
def test_tried_again_so_often_and_no_more(both: Both, reply: Any) -> None:
    server = Server(*[reply] * 9)
    with pytest.raises(BackendError, match=r"too busy.* \(3 attempts\)$"):
        both(server, "check", "你好", retries=2)
    assert len(server.asked) == 3
    assert len(both.pauses) == 2


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (failing(400, "conversations: empty"), UsageError, "answered 400: conversations: empty"),
        (failing(401, "no such key"), UsageError, "answered 401: no such key"),
        (failing(404, "no guard 'x'"), UsageError, "answered 404: no guard 'x'"),
        (failing(400, "not taken", "refused_by_model"), RefusedError, "not taken"),
        (failing(408), BackendError, "408"),
        (failing(429, retry_after="61"), BackendError, "429"),
        (failing(500, "it failed"), BackendError, "answered 500: it failed"),
        (failing(502), BackendError, "502"),
        (failing(504), BackendError, "504"),
        (Reply(502, "<h1>Bad\n gateway</h1>"), BackendError, "502: <h1>Bad gateway</h1>$"),
        (Reply(500, '["error"]'), BackendError, '500: \\["error"\\]'),
        (Reply(500), BackendError, "500: nothing"),
        (httpx2.ReadTimeout("late"), BackendError, "did not answer within 60 s, the client's timeout: give a longer"),
        (httpx2.WriteTimeout("late"), BackendError, "did not answer within 60 s"),
        (httpx2.PoolTimeout("late"), BackendError, "was not asked within 60 s.* too many requests of this client"),
        (httpx2.DecodingError("no gzip"), BackendError, "and this client do not understand each other: no gzip$"),
        (Reply(200, "hello"), BackendError, "does not answer as Libra's server"),
        ([], BackendError, "does not answer as Libra's server"),
        ({"results": []}, BackendError, "does not answer as Libra's server"),
        ({"results": [SAFE, SAFE]}, BackendError, "does not answer as Libra's server"),
        ({"results": [{"verdict": SAFE["verdict"]}]}, BackendError, "does not answer as Libra's server"),
        ({"results": [SAFE | {"verdict": {"label": "安全", "valid": False}}]}, BackendError, "does not answer as"),
        ({"results": [SAFE | {"decision": PASSED | {"action": "wave"}}]}, BackendError, "does not answer as"),
    ],
)
def test_failures_are_told_at_once(both: Both, reply: Any, kind: type[Exception], words: str) -> None:
    server = Server(reply)
    with pytest.raises(kind, match=words) as told:
        both(server, "check", "你好")
    assert type(told.value) is kind
    assert len(server.asked) == 1
    assert "你好" not in str(told.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            httpx2.ConnectError("[Errno 111] Connection refused"),
            r"cannot be reached: .* refused; is it running, and at",
        ),
        (httpx2.ConnectTimeout("late"), "cannot be reached within 60 s, the client's timeout: is the address right"),
        (httpx2.ProxyError("407"), "cannot be reached through the proxy that the environment names: 407"),
        (httpx2.ReadError(""), "broke the connection off before its answer was whole: ReadError; see its log"),
        (httpx2.WriteError("reset"), "broke the connection off"),
        (httpx2.RemoteProtocolError("Server disconnected."), "broke the connection off .* disconnected; see its log"),
    ],
)
def test_each_failure_of_the_network_has_words_of_its_own(both: Both, error: Exception, words: str) -> None:
    server = Server(*[error] * 2)
    with pytest.raises(BackendError, match=f"^the server {URL} {words}.* \\(2 attempts\\)$"):
        both(server, "check", "你好", retries=1)


@pytest.mark.parametrize("between", [0, 1])
def test_a_certificate_that_is_not_trusted_is_not_tried_again(both: Both, between: int) -> None:
    error: Exception = ssl.SSLCertVerificationError("self-signed certificate")
    for _ in range(between + 1):
        outer = httpx2.ConnectError("self-signed certificate")
        outer.__context__ = error
        error = outer
    server = Server(error)
    with pytest.raises(BackendError, match=r"cannot be reached over TLS: self-signed certificate; .*SSL_CERT_FILE"):
        both(server, "check", "你好")
    assert len(server.asked) == 1


@pytest.mark.parametrize("key", ["geheim\n", "密钥", "a\tb"])
def test_a_key_that_no_header_can_hold(key: str) -> None:
    with pytest.raises(UsageError, match="the API key holds what no header can") as told:
        Client(URL, key)
    assert key not in str(told.value)


@pytest.mark.parametrize(
    ("method", "given", "kind"),
    [
        ("judge", TEA, TypeError),
        ("judge", "你好", TypeError),
        ("judge", ["你好"], TypeError),
        ("check", "", ValueError),
        ("check", "\ud800", ValueError),
        ("moderate", "你好", TypeError),
        ("moderate", [1], TypeError),
        ("moderate", [" "], ValueError),
    ],
)
def test_wrong_calls_ask_nothing(both: Both, method: str, given: Any, kind: type[Exception]) -> None:
    server = Server()
    with pytest.raises(kind):
        both(server, method, given)
    assert not server.asked


def stream_reply(released: str, state: str | None, *, stopped: bool = False) -> dict[str, Any]:
    found = UNSAFE if stopped else SAFE
    windows = [{"start": 0, "end": 1, "verdict": found["verdict"], "decision": found["decision"]}]
    answer = "换个话题吧。" if stopped else None
    return {"windows": windows, "released": released, "stopped": stopped, "answer": answer, "state": state}


def test_streaming(both: Both) -> None:
    server = Server(stream_reply("", "1"), stream_reply("一句。", "2"), stream_reply("尾", None))
    shown, stopped = both(server, "stream", "问题", ["一", "句。", "字" * 40, "尾"], policy="strict")
    assert (shown, stopped) == (["一句。", "尾"], None)
    assert {request.url.path for request in server.asked} == {"/v1/guard/stream"}
    asked = {"question": "问题", "policy": "strict"}
    assert server.bodies == [
        asked | {"text": "一句。", "state": None, "end": False},
        asked | {"text": "字" * 40, "state": "1", "end": False},
        asked | {"text": "尾", "state": "2", "end": True},
    ]


def test_a_stream_ends_before_what_is_blocked(both: Both) -> None:
    read: list[str] = []

    def chunks() -> Iterator[str]:
        for chunk in ("好。", "坏。", "好。"):
            read.append(chunk)
            yield chunk

    server = Server(stream_reply("好。", "1"), stream_reply("！", None, stopped=True))
    shown, stopped = both(server, "stream", "问题", chunks())
    assert shown == ["好。", "！"]
    assert stopped.blocked
    assert (stopped.decision.scenarios, stopped.answer) == (("x",), "换个话题吧。")
    assert read == ["好。", "坏。"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    found = SimpleNamespace(now=100.0)
    monkeypatch.setattr("libra_guard.predict.arrivals.time", SimpleNamespace(monotonic=lambda: found.now))
    return found


def test_text_that_has_waited_is_judged_as_it_is(both: Both, clock: Any) -> None:
    def chunks() -> Iterator[str]:
        for seconds, chunk in ((0, "一"), (1, "二"), (1, ""), (1, "三"), (1, "四"), (1, "五")):
            clock.now += seconds
            yield chunk

    server = Server(stream_reply("一二", "1"), stream_reply("三四", "2"), stream_reply("五", None))
    assert both(server, "stream", "", chunks())[0] == ["一二", "三四", "五"]
    assert server.bodies == [
        {"text": "一二", "state": None, "end": False, "flush": True},
        {"text": "三四五", "state": "1", "end": False, "flush": True},
        {"text": "", "state": "2", "end": True},
    ]
    server = Server(stream_reply("一二三四五", None))
    both(server, "stream", "", chunks(), hold_ms=9000)
    assert server.bodies == [{"text": "一二三四五", "state": None, "end": True}]


@pytest.mark.parametrize(("told", "sizes"), [({}, [1000, 1000, 700]), ({"max_chars": 900}, [900, 900, 900])])
def test_a_long_chunk_is_sent_in_pieces(both: Both, clock: Any, told: dict[str, int], sizes: list[int]) -> None:
    def chunks() -> Iterator[str]:
        yield text
        clock.now += 9
        yield text

    text = "字" * 2700
    replies = [stream_reply(f"{i}", str(i)) for i in range(6)]
    server = Server({"data": [], **told}, *replies, stream_reply("尾", None))
    assert both(server, "stream", "", chunks()) == ([*"012345", "尾"], None)
    assert [request.url.path for request in server.asked] == ["/v1/guards", *["/v1/guard/stream"] * 7]
    assert [len(body["text"]) for body in server.bodies[1:]] == [*sizes, *sizes, 0]
    assert [body["state"] for body in server.bodies[1:]] == [None, *"012345"]
    assert [body["end"] for body in server.bodies[1:]] == [False] * 6 + [True]
    # Text before the last piece is judged up to where a sentence ends, although it has waited as long.
    assert [body.get("flush", False) for body in server.bodies[1:]] == [False] * 5 + [True, False]


def test_what_follows_the_piece_that_is_blocked_is_not_sent(both: Both) -> None:
    server = Server({"data": []}, stream_reply("好", "1"), stream_reply("", None, stopped=True))
    shown, stopped = both(server, "stream", "", ["字" * 9000, "字"])
    assert (shown, stopped.blocked) == (["好"], True)
    assert len(server.asked) == 3


def test_chunks_that_are_none_are_empty(both: Both) -> None:
    server = Server(stream_reply("好", None))
    assert both(server, "stream", "", [None, "好", None]) == (["好"], None)
    assert server.bodies == [{"text": "好", "state": None, "end": True}]


class Model:
    """An answer that comes from somewhere, as both clients read it."""

    closed = False

    def __iter__(self) -> Iterator[str]:
        return iter(["好。", "好。"])

    def __aiter__(self) -> AsyncIterator[str]:
        return _each(self)

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    "replies",
    [
        [stream_reply("", None, stopped=True)],
        [stream_reply("好。", "1"), stream_reply("", None, stopped=True)],
        [failing(500)],
        [stream_reply("好。", "1"), stream_reply("好。", "2"), stream_reply("", None)],
    ],
)
def test_what_an_answer_is_read_from_is_closed_in_the_end(both: Both, replies: list[Any]) -> None:
    model = Model()
    with contextlib.suppress(BackendError):
        both(Server(*replies), "stream", "", model)
    assert model.closed


@pytest.mark.parametrize("read", [0, 1])
def test_a_stream_can_be_closed_early(read: int, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = httpx2.MockTransport(Server(stream_reply("好。", "1")))
    monkeypatch.setattr(httpx2, "Client", functools.partial(httpx2.Client, transport=transport))
    model = Model()
    with Client(URL) as client:
        stream = client.stream("", model)
        assert [next(stream) for _ in range(read)] == ["好。"] * read
        stream.close()
        assert (model.closed, list(stream)) == (True, [])


@pytest.mark.parametrize("read", [0, 1])
def test_an_asynchronous_stream_can_be_closed_early(read: int, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = httpx2.MockTransport(Server(stream_reply("好。", "1")))
    monkeypatch.setattr(httpx2, "AsyncClient", functools.partial(httpx2.AsyncClient, transport=transport))
    model = Model()

    async def ask() -> None:
        async with AsyncClient(URL) as client:
            stream = client.stream("", model)
            assert [await anext(stream) for _ in range(read)] == ["好。"] * read
            await stream.aclose()
            assert (model.closed, [text async for text in stream]) == (True, [])

    asyncio.run(ask())


def test_how_fast_what_ends_a_stream_was_found(clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def chunks() -> Iterator[str]:
        for chunk in ("好", "坏", "的。"):
            clock.now += 1
            yield chunk

    class Slow(Server):
        def __call__(self, request: httpx2.Request) -> httpx2.Response:
            clock.now += 0.25
            return super().__call__(request)

    reply = stream_reply("", None, stopped=True)
    reply["windows"][0]["end"] = 2
    transport = httpx2.MockTransport(Slow(reply, {**reply, "windows": [{**reply["windows"][0], "end": 5}]}))
    monkeypatch.setattr(httpx2, "Client", functools.partial(httpx2.Client, transport=transport))
    with Client(URL) as client:
        stream = client.stream("", chunks())
        assert (list(stream), stream.first_hit) == ([], FirstHit(end=2, ahead=2, ms=1250))
        assert client.stream("", []).first_hit is None
        with pytest.raises(BackendError, match="does not answer as Libra's server"):
            list(client.stream("", chunks()))


def test_a_stream_that_is_blocked_at_its_end(both: Both) -> None:
    shown, stopped = both(Server(stream_reply("", None, stopped=True)), "stream", "问题", ["坏"])
    assert (shown, stopped.label) == ([], Label.UNSAFE)


def test_a_stream_whose_question_is_not_known(both: Both) -> None:
    server = Server(stream_reply("好", None))
    assert both(server, "stream", "", ["好"]) == (["好"], None)
    assert server.bodies == [{"text": "好", "state": None, "end": True}]
    with pytest.raises(ValueError, match="question is empty"):
        both(server, "stream", " ", ["好"])
    server = Server(stream_reply("好", None))
    both(server, "stream", [], ["好"])
    assert "messages" not in server.bodies[0]


def test_a_stream_after_several_messages(both: Both) -> None:
    messages = [Message(role=Role.USER, content="一"), Message(role=Role.ASSISTANT, content="二")]
    server = Server(stream_reply("好", None))
    both(server, "stream", messages, ["好"], guard="big", policy="strict", language="en")
    written = [{"role": "user", "content": "一"}, {"role": "assistant", "content": "二"}]
    chosen = {"guard": "big", "policy": "strict", "language": "en"}
    assert server.bodies == [{"messages": written, "text": "好", "state": None, "end": True, **chosen}]
    StreamRequest.model_validate_json(json.dumps(server.bodies[0]))
    with pytest.raises(TypeError, match="Message, not dict"):
        both(server, "stream", written, ["好"])
    with pytest.raises(UsageError, match="hold_ms must be more than 0"):
        both(server, "stream", "", ["好"], hold_ms=0)


@pytest.mark.parametrize(
    ("reply", "words"), [(failing(500, "it failed"), "it failed"), ({"released": ""}, "does not answer as")]
)
def test_a_stream_that_cannot_be_judged_shows_nothing_more(both: Both, reply: Any, words: str) -> None:
    with pytest.raises(BackendError, match=words):
        both(Server(reply), "stream", "问题", ["好。", "好。"])
    with pytest.raises(UsageError, match="lone surrogate"):
        both(Server(), "stream", "问题", ["\ud800。"])


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("url", ["", "127.0.0.1:8300", "ftp://127.0.0.1", "http://", 8300, None])
def test_addresses_that_are_none(kind: Callable[..., Any], url: Any) -> None:
    with pytest.raises(UsageError, match="no address"):
        kind(url)


@pytest.mark.parametrize("given", [{"timeout": 0}, {"timeout": -1}, {"retries": -1}])
def test_numbers_that_make_no_sense(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="timeout must be"):
        Client(**given)


def test_addresses_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    monkeypatch.setattr(httpx2, "Client", functools.partial(httpx2.Client, transport=httpx2.MockTransport(server)))
    monkeypatch.setenv("LIBRA_API_KEY", "of the environment")
    for url in ("http://me:secret@host:1/guard", "http://me:secret@host:1/guard/v1/"):
        with Client(url) as client:
            client.guards()
            assert repr(client) == "Client('http://host:1')"
    for url, key in (("http://host", None), ("http://host", "given")):
        with Client(url, key) as client:
            client.guards()
    monkeypatch.delenv("LIBRA_API_KEY")
    with Client() as client:
        client.guards()
    told = [request.headers.get("authorization") for request in server.asked[2:]]
    assert told == ["Bearer of the environment", "Bearer given", None]
    assert [str(request.url.copy_with(userinfo=b"")) for request in server.asked] == [
        "http://host:1/guard/v1/guards",
        "http://host:1/guard/v1/guards",
        "http://host/v1/guards",
        "http://host/v1/guards",
        "http://127.0.0.1:8300/v1/guards",
    ]


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'libra-guard\[serve\]'"):
        Client()


def test_the_package_imports_the_client_only_when_asked() -> None:
    program = """if True:
        import sys, libra_guard
        heavy = {"httpx2", "fastapi", "prometheus_client", "pydantic_settings"}
        assert not {"libra_guard.client", "libra_guard.policy", *heavy} & set(sys.modules)
        libra_guard.Client
        assert not heavy & set(sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'Server'"):
        _ = libra_guard.Server

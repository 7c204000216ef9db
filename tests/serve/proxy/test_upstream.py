"""What an upstream can do wrong, and what becomes of it."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("fastapi")

from starlette.testclient import TestClient

from libra_guard.errors import UsageError
from libra_guard.serve.proxy.upstream import Upstream, error_words
from libra_guard.serve.settings import ServerSettings

PATH = "/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "你好"}]}
JSON = {"content-type": "application/json"}
Make = Callable[..., TestClient]
GOOD = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "好"}, "finish_reason": "stop"}]}


ENDED = {"index": 0, "message": {"content": ""}, "finish_reason": "error"}


def as_json(found: Any) -> bytes:
    return json.dumps(found).encode()


def error(message: str) -> bytes:
    return as_json({"error": {"message": message, "type": "t", "param": None, "code": "c"}})


def failures(proxy: TestClient, kind: str) -> int:
    line = f'libra_upstream_errors_total{{reason="{kind}"}} '
    return next(
        (int(float(x.removeprefix(line))) for x in proxy.get("/metrics").text.splitlines() if x.startswith(line)), 0
    )


CASES = [
    # Status, headers, body, cut; then status, kind, words of the answer.
    ((500, JSON, error("crash"), False), 502, "status", "answered 500: crash"),
    ((500, {}, b"<html>", False), 502, "status", "answered 500"),
    ((502, JSON, as_json({"detail": "bad"}), False), 502, "status", "answered 502: bad"),
    ((503, JSON | {"retry-after": "7"}, error("busy"), False), 503, "status", "answered 503: busy"),
    ((529, JSON, as_json({"error": "overloaded"}), False), 502, "status", "answered 529: overloaded"),
    ((302, {"location": "http://elsewhere/"}, b"", False), 502, "status", "answered 302"),
    ((304, {}, b"", False), 502, "status", "answered 304"),
    ((200, JSON, b'{"choices": [{"message": {"content": "\xe7\xa7', True), 502, "cut", "broke"),
    ((200, JSON, b'{"choices": [', False), 502, "garbage", "not JSON, but application/json"),
    ((200, {"content-type": "text/html"}, b"<html>", False), 502, "garbage", "not JSON, but text/html"),
    ((200, {}, b"", False), 502, "garbage", "not JSON, but of no type"),
    ((200, JSON, b"\xff\xfe", False), 502, "garbage", "not JSON"),
    ((200, JSON, b"[" * 100_000, False), 502, "garbage", "not JSON"),
    # Could be read, and not be written again.
    ((200, JSON, b'{"choices": [], "usage": ' + b"[" * 900 + b"]" * 900 + b"}", False), 502, "garbage", "not JSON"),
    ((200, JSON, b"[]", False), 502, "garbage", "no JSON object"),
    ((200, JSON, b"{}", False), 502, "garbage", "has no choices"),
    ((200, JSON, error("in spite of 200"), False), 502, "status", "in spite of 200"),
    ((200, JSON, as_json({"choices": [], "error": {"message": "boom"}}), False), 502, "status", "error: boom"),
    ((200, JSON, as_json({"choices": [ENDED], "error": {"message": "boom"}}), False), 502, "status", "error: boom"),
    ((200, JSON, as_json({"choices": [{**ENDED, "error": {"message": "boom"}}]}), False), 502, "status", "error: boom"),
    ((200, JSON, as_json({"choices": 1, "error": {"message": "boom"}}), False), 502, "garbage", "has no choices"),
    ((200, JSON, as_json({"choices": {}}), False), 502, "garbage", "has no choices"),
    ((200, JSON, as_json({"choices": [1]}), False), 502, "garbage", "choice that is no object"),
    ((200, JSON, as_json({"choices": [{"message": None}]}), False), 502, "garbage", "message cannot be read"),
    ((200, JSON, as_json({"choices": [{"text": "x"}]}), False), 502, "garbage", "message cannot be read"),
    ((200, JSON, as_json({"choices": [{"message": {}, "text": "x"}]}), False), 502, "garbage", "cannot be read"),
    ((200, JSON, as_json({"choices": [{"message": {}, "delta": {"content": "x"}}]}), False), 502, "garbage", "cannot"),
    ((200, JSON, as_json({"choices": [{"message": {"tool_calls": "x"}}]}), False), 502, "garbage", "calls of tools"),
    ((200, JSON, as_json({"choices": [{"message": {"tool_calls": ["x"]}}]}), False), 502, "garbage", "calls of tools"),
    ((200, JSON, b'{"choices": [{"message": {"content": "a\\ud800"}}]}', False), 502, "garbage", "half a character"),
    ((200, JSON | {"content-encoding": "gzip"}, b"no gzip", False), 502, "garbage", "cannot be read"),
]


@pytest.mark.parametrize("stream", [False, True])
def test_misbehaviour(make_server: Make, upstream: Any, script: Any, stream: bool) -> None:
    proxy = make_server(upstream=upstream.url)
    for (sent_status, headers, body, cut), status, kind, words in CASES:
        reply = script.Reply(sent_status, headers, body, cut)
        upstream.reply = lambda _, reply=reply: reply
        before = failures(proxy, kind)
        answer = proxy.post(PATH, json={**ASK, "stream": stream})
        found = answer.json()["error"]
        if stream and sent_status == 200 and kind == "garbage":
            words = ""
        assert (answer.status_code, found["code"]) == (status, f"upstream_{kind}"), (answer.text, body[:80])
        assert words in found["message"]
        assert (found["type"], found["param"]) == ("server_error", None)
        assert answer.headers.get("retry-after") == headers.get("retry-after")
        assert failures(proxy, kind) == before + 1
    upstream.completes(GOOD)
    assert proxy.post(PATH, json=ASK).status_code == 200


CALLERS_FAULTS = [
    (400, JSON, error("too long")),
    (401, JSON | {"www-authenticate": "Bearer"}, error("bad key")),
    (404, JSON, error("no such model")),
    (422, {"content-type": "text/plain"}, b"unreadable \xff"),
    (429, JSON | {"retry-after": "3", "x-ratelimit-reset": "1s"}, error("slow down")),
]


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_caller_did_wrong_is_for_the_caller(
    make_server: Make, upstream: Any, script: Any, stream: bool
) -> None:
    proxy = make_server(upstream=upstream.url)
    for status, headers, body in CALLERS_FAULTS:
        reply = script.Reply(status, headers, body)
        upstream.reply = lambda _, reply=reply: reply
        answer = proxy.post(PATH, json={**ASK, "stream": stream})
        assert answer.status_code == status
        if headers["content-type"] == JSON["content-type"]:
            assert answer.content == body
        else:
            assert (answer.json()["error"]["code"], "unreadable" in answer.text) == ("upstream_status", False)
        assert {name: answer.headers[name] for name in headers} == {**headers, **JSON}
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-libra-action"] == "pass"


BAD_FAULTS: list[Any] = [
    {"error": {"message": "no call", "code": "tool_use_failed", "failed_generation": "步骤【坏】"}},
    {"error": {"message": "cannot read this: 【坏】"}},
    {"error": {"message": "no call", "failed_generation": '{"a": "\\u3010\\u574f\\u3011"}'}},
    {"choices": [{"message": {"content": "步骤【坏】"}}]},
    {"error": {"message": "no", "【坏】": 1}},
]
UNJUDGED_FAULTS: list[Any] = [
    {"error": {"message": "no call", "failed_generation": "步骤【错】秘密"}},
    {"error": {"message": "no", "image": {"url": "data:image/png;base64,c2VjcmV0"}}},
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 422])
def test_what_a_model_wrote_does_not_leave_in_an_error(
    make_server: Make, upstream: Any, script: Any, stream: bool, status: int
) -> None:
    proxy = make_server(upstream=upstream.url)
    for fault in BAD_FAULTS + UNJUDGED_FAULTS:
        upstream.reply = lambda _, fault=fault: script.Reply(status, JSON, as_json(fault))
        answer = proxy.post(PATH, json={**ASK, "stream": stream})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, "upstream_status"), fault
        for secret in ("坏", "u574f", "秘密", "c2VjcmV0", "步骤"):
            assert secret not in answer.text
        assert answer.headers["x-libra-action"] == ("block" if fault in BAD_FAULTS else "pass")


def test_of_a_key_that_stands_twice_in_an_error_one_leaves(make_server: Make, upstream: Any, script: Any) -> None:
    proxy = make_server(upstream=upstream.url)
    body = '{"error": {"message": "【坏】", "message": "no"}}'.encode()
    upstream.reply = lambda _: script.Reply(400, JSON, body)
    assert proxy.post(PATH, json=ASK).text == '{"error": {"message": "no"}}'


def test_what_a_failed_call_says_is_for_the_caller(make_server: Make, upstream: Any, script: Any) -> None:
    proxy = make_server(upstream=upstream.url)
    fault = {"error": {"message": "no call", "code": "tool_use_failed", "failed_generation": "<function=天气>"}}
    upstream.reply = lambda _: script.Reply(400, JSON, as_json(fault))
    answer = proxy.post(PATH, json=ASK)
    assert (answer.json(), answer.headers["x-libra-stage"]) == (fault, "response")


@pytest.mark.parametrize(("policy", "leaves"), [("default", False), ("monitor", True)])
@pytest.mark.parametrize("words", ["crash at 【坏】", "crash at 【错】秘密"])
def test_words_of_a_failure_are_judged(
    make_server: Make, upstream: Any, script: Any, policy: str, leaves: bool, words: str
) -> None:
    proxy = make_server(upstream=upstream.url, policy=policy)
    for status in (500, 200):
        upstream.reply = lambda _, status=status: script.Reply(status, JSON, error(words))
        answer = proxy.post(PATH, json=ASK)
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_status")
        assert (words in answer.json()["error"]["message"], "crash" in answer.text) == (leaves, leaves)


def test_of_models_an_upstream_may_say_what_it_likes(make_server: Make, upstream: Any, script: Any, guard: Any) -> None:
    proxy = make_server(upstream=upstream.url)
    upstream.reply = lambda _: script.Reply(500, JSON, error("crash"))
    assert proxy.get("/v1/models").json()["error"]["message"] == "the upstream answered 500: crash"
    assert guard.asked == []


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (404, JSON, as_json({"detail": "Not Found"})),
        (405, JSON, as_json({"detail": "Method Not Allowed"})),
        (404, {"content-type": "text/plain"}, b"404 page not found"),
        (404, {}, b""),
        (200, {"content-type": "text/html"}, b"<html>"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_base_url_without_its_end(
    make_server: Make, upstream: Any, script: Any, caplog: Any, status: int, headers: Any, body: bytes, stream: bool
) -> None:
    proxy = make_server(upstream=upstream.url.removesuffix("/v1"))
    upstream.reply = lambda _: script.Reply(status, headers, body)
    answer = proxy.post(PATH, json={**ASK, "stream": stream})
    found = answer.json()["error"]
    assert answer.status_code == (502 if status == 200 else status)
    assert found["code"] == ("upstream_garbage" if status == 200 else "upstream_status")
    assert found["message"].endswith("whether --upstream needs /v1 at its end")
    assert upstream.arrived[0].path == "/chat/completions"
    assert f"the upstream answered {status} as if it had no API there" in caplog.text


def test_a_model_that_is_missing_is_no_wrong_address(
    make_server: Make, upstream: Any, script: Any, caplog: Any
) -> None:
    proxy = make_server(upstream=upstream.url)
    for body in (error("no such model"), as_json({"object": "error", "message": "no such model", "code": 404})):
        upstream.reply = lambda _, body=body: script.Reply(404, JSON, body)
        assert proxy.post(PATH, json=ASK).content == body
    assert "as if it had no API" not in caplog.text


@pytest.mark.parametrize("status", [401, 403])
def test_the_servers_own_key_is_not_the_callers_business(
    make_server: Make, upstream: Any, script: Any, status: int
) -> None:
    proxy = make_server(upstream=upstream.url, upstream_key="sk-up-1234")
    upstream.reply = lambda _: script.Reply(status, JSON, error("Incorrect API key provided: sk-up-****1234"))
    for answer in (proxy.post(PATH, json=ASK), proxy.get("/v1/models")):
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "upstream_status"
        assert "1234" not in answer.text


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_the_server_lacks_is_told(
    make_server: Make, upstream: Any, script: Any, caplog: Any, status: int
) -> None:
    proxy = make_server(upstream=upstream.url, api_key="for-this-server")
    upstream.reply = lambda _: script.Reply(status, JSON, error("You didn't provide an API key."))
    headers = {"authorization": "Bearer for-this-server"}
    for answer in (proxy.post(PATH, json=ASK, headers=headers), proxy.get("/v1/models", headers=headers)):
        found = answer.json()["error"]
        # The openai client would take a 401 for a wrong key of its own.
        assert (answer.status_code, found["code"]) == (502, "upstream_status")
        assert f"sent no key, and answered {status}; " in found["message"]
        assert "LIBRA_SERVE_UPSTREAM_KEY" in found["message"]
    assert "authorization" not in upstream.arrived[0].headers
    assert f"the upstream answered {status}; see LIBRA_SERVE_UPSTREAM_KEY" in caplog.text


def test_an_answer_that_is_too_long(make_server: Make, upstream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libra_guard.serve.proxy.upstream.MAX_ANSWER_BYTES", 1000)
    proxy = make_server(upstream=upstream.url)
    upstream.says("好" * 1000)
    answer = proxy.post(PATH, json=ASK)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_garbage")


def test_a_packed_answer(make_server: Make, upstream: Any, script: Any) -> None:
    proxy = make_server(upstream=upstream.url)
    body = gzip.compress(as_json(GOOD))
    upstream.reply = lambda _: script.Reply(200, JSON | {"content-encoding": "gzip"}, body)
    answer = proxy.post(PATH, json=ASK)
    assert answer.json()["choices"] == GOOD["choices"]
    assert "content-encoding" not in answer.headers


def test_a_header_that_http_cannot_carry(make_server: Make, upstream: Any) -> None:
    proxy = make_server(upstream=upstream.url)
    upstream.completes(GOOD, **{"x-note": "中文".encode().decode("latin-1"), "x-other": "1"})
    answer = proxy.post(PATH, json=ASK)
    assert (answer.status_code, answer.headers["x-other"], "x-note" in answer.headers) == (200, "1", False)


@pytest.mark.parametrize("stream", [False, True])
def test_timeout(make_server: Make, upstream: Any, script: Any, stream: bool) -> None:
    proxy = make_server(upstream=upstream.url, upstream_timeout=0.05)
    upstream.reply = lambda _: script.Reply(200, JSON, [upstream.until_closed])
    answer = proxy.post(PATH, json={**ASK, "stream": stream})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    assert upstream.closed.wait(10)


@pytest.mark.parametrize("stream", [False, True])
def test_nobody_listens(make_server: Make, stream: bool) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        proxy = make_server(upstream=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        answer = proxy.post(PATH, json={**ASK, "stream": stream})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_connect")
    assert "127.0.0.1" not in answer.text


@pytest.mark.parametrize("address", ["http://", "http:///v1", "http://[::1/v1", "http://a:b/v1"])
def test_a_wrong_address(address: str) -> None:
    with pytest.raises(UsageError, match="upstream's address"):
        Upstream(ServerSettings(upstream=address))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"error": {"message": "a"}}, "a"),
        ({"error": "a"}, "a"),
        ({"message": "a"}, "a"),
        ({"detail": "a"}, "a"),
        ({"error": {"message": {"message": "a"}}}, "a"),
        (" a ", "a"),
        ("a" * 1000, "a" * 500),
        ({"error": {"code": 1}}, ""),
        ({"error": None}, ""),
        ([], ""),
        (None, ""),
    ],
)
def test_words(found: Any, words: str) -> None:
    assert error_words(found) == words

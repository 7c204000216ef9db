"""What anybody may send: a clear error in OpenAI's shape with the right status, and nothing is judged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

JSON = {"content-type": "application/json"}
GUARD, MODERATIONS = "/v1/guard", "/v1/moderations"

BODIES = [
    # body, code, what the message says
    (b"", "missing_body", "no body"),
    (b"{", "invalid_json", "line 1 column 2"),
    (b"input=text", "invalid_json", "not JSON"),
    (b'{"input": "a"} x', "invalid_json", "Extra data"),
    (b'{"input": "\xff\xfe"}', "invalid_json", "not UTF-8, at byte 11"),
    ('{"input": "text"}'.encode("utf-16"), "invalid_json", "not UTF-8"),
    ('{"input": "text"}'.encode("utf-16-le"), "invalid_json", "not JSON"),
    (b'{"input": "\xed\xa0\x80"}', "invalid_json", "not UTF-8"),
    (b'{"input": "a\x00b"}', "invalid_json", "control character"),
    (b'{"input": "\\ud800"}', "invalid_json", "surrogate"),
    (b'{"input": "a", "policy": "\\uDFFF"}', "invalid_json", "surrogate"),
    (b'{"input": "a", "\\ud800": 1}', "invalid_json", "surrogate"),
    (b'{"input": "a", "input": "b"}', "invalid_json", "two keys"),
    (b'{"input": NaN}', "invalid_json", "NaN"),
    (b'{"input": -Infinity}', "invalid_json", "-Infinity"),
    (b'{"input": ' + b"9" * 5000 + b"}", "invalid_json", "too long"),
    (b"[" * 100_000, "invalid_json", "nested too deeply"),
    (b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json", "nested too deeply"),
    (b'{"input": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}", "invalid_json", "nested too deeply"),
]


def error_of(answer: Any, status: int) -> dict[str, Any]:
    """The error, once it is known to be whole."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return dict(body["error"])


@pytest.mark.parametrize("path", [MODERATIONS, GUARD])
@pytest.mark.parametrize(("body", "code", "told"), BODIES)
def test_bodies_that_are_no_json(client: TestClient, guard: Any, path: str, body: bytes, code: str, told: str) -> None:
    error = error_of(client.post(path, content=body, headers=JSON), 400)
    assert error["code"] == code
    assert error["type"] == "invalid_request_error"
    assert told in error["message"]
    assert guard.asked == []


MODERATION_FIELDS = [
    ({}, "input", "missing"),
    ({"input": None}, "input", "a text"),
    ({"input": 5}, "input", "a text"),
    ({"input": {"text": "a"}}, "input", "a text"),
    ({"input": ""}, "input", "empty"),
    ({"input": " \n"}, "input", "empty"),
    ({"input": "\u200b"}, "input", "invisible"),
    ({"input": []}, "input", "at least 1"),
    ({"input": ["a", ""]}, "input[1]", "empty"),
    ({"input": ["a", 5]}, "input[1]", "a text"),
    ({"input": ["a", None]}, "input[1]", "a text"),
    ({"input": [["a"]]}, "input[0]", "a text"),
    ({"input": [5]}, "input[0]", "a text"),
    ({"input": ["a"] * 101}, "input", "takes 100"),
    ({"input": ["a"] * 10_001}, "input", "at most 10000"),
    ({"input": "a" * 20_001}, "input", "20000"),
    ({"input": ["a", "a" * 20_001]}, "input[1]", "20000"),
    ({"input": [{"type": "text"}]}, "input[0].text", "missing"),
    ({"input": [{"type": "text", "text": ""}]}, "input[0].text", "empty"),
    ({"input": [{"type": "video", "text": "a"}]}, "input[0].type", "'text'"),
    ({"input": [{"type": "text", "text": "a"}, "b"]}, "input[1]", "an object"),
    ({"input": [{"type": "image_url", "image_url": {"url": "https://a/b.png"}}]}, "input[0]", "images"),
    ({"input": [{"type": "image_url", "image_url": "https://a/b.png"}]}, "input[0].image_url", "an object"),
    ({"input": "a", "model": 5}, "model", "a text"),
    ({"input": "a", "model": ""}, "model", "empty"),
    ({"input": "a", "model": "x" * 300}, "model", "at most 200"),
    ({"input": "a", "modle": "x"}, "modle", "no such field"),
    ({"input": "a", "y" * 300: "x"}, "y" * 80, "no such field"),
    ([], None, "an object"),
    ("text", None, "an object"),
    (None, None, "an object"),
    (5, None, "an object"),
]
PAIR = {"question": "问", "response": "答"}
GUARD_FIELDS = [
    ({}, None, "conversations"),
    ({"conversations": None}, None, "conversations"),
    ({"conversations": []}, "conversations", "at least 1"),
    ({"conversations": PAIR}, "conversations", "a list"),
    ({"conversations": [PAIR], "conversation": PAIR}, None, "conversations"),
    ({"conversations": [PAIR, 5]}, "conversations[1]", "an object"),
    ({"conversations": [PAIR, {}]}, "conversations[1]", "messages"),
    ({"conversations": [PAIR] * 3 + [{"question": "a", "response": ""}]}, "conversations[3].response", "empty"),
    ({"conversations": [PAIR] * 3 + [{"question": "a", "response": 5}]}, "conversations[3].response", "a text"),
    ({"conversations": [{"question": "a", "respnse": "b"}]}, "conversations[0].respnse", "no such field"),
    ({"conversations": [{"messages": []}]}, "conversations[0].messages", "at least 1"),
    ({"conversations": [{"messages": "a"}]}, "conversations[0].messages", "a list"),
    ({"conversations": [{"messages": [5]}]}, "conversations[0].messages[0]", "an object"),
    ({"conversations": [{"messages": [{"role": "user"}]}]}, "conversations[0].messages[0].content", "missing"),
    (
        {"conversations": [{"messages": [{"role": "tool", "content": "a"}]}]},
        "conversations[0].messages[0].role",
        "one of system, user, assistant",
    ),
    (
        {"conversations": [{"messages": [{"role": "user", "content": "a", "name": "b"}]}]},
        "conversations[0].messages[0].name",
        "no such field",
    ),
    ({"conversations": [{"messages": [{"role": "system", "content": "a"}]}]}, "conversations[0]", "last message"),
    ({"conversations": [{**PAIR, "messages": [{"role": "user", "content": "a"}]}]}, "conversations[0]", "messages"),
    ({"conversations": [{"messages": [{"role": "user", "content": "a"}] * 201}]}, "conversations[0]", "takes 200"),
    ({"conversation": {"question": "a" * 20_001}}, "conversation", "20000"),
    (
        {"conversation": {"messages": [{"role": "user", "content": "a" * n} for n in (20_001, 1)]}},
        "conversation",
        "20000",
    ),
    ({"conversations": [PAIR] * 101}, "conversations", "takes 100"),
    ({"conversations": [PAIR] * 10_001}, "conversations", "at most 10000"),
    ({"conversation": PAIR, "target": "both"}, "target", "one of prompt, response"),
    ({"conversation": {"response": "a"}, "target": "prompt"}, "conversation", "no question"),
    ({"conversation": {"question": "a"}, "target": "response"}, "conversation", "no answer"),
    ({"conversations": [PAIR, {"question": "a"}], "target": "response"}, "conversations[1]", "no answer"),
    ({"conversation": PAIR, "threshold": 1.5}, "threshold", "1 or less"),
    ({"conversation": PAIR, "threshold": "0.5"}, "threshold", "number"),
    ({"conversation": PAIR, "threshold": True}, "threshold", "number"),
    ({"conversation": PAIR, "threshold": 1e999}, None, "Infinity"),
    ({"conversation": PAIR, "explain": "yes"}, "explain", "true or false"),
    ({"conversation": PAIR, "language": "fr"}, "language", "one of zh, en"),
]


@pytest.mark.parametrize(
    ("path", "body", "param", "told"),
    [(MODERATIONS, *row) for row in MODERATION_FIELDS] + [(GUARD, *row) for row in GUARD_FIELDS],
)
def test_fields(client: TestClient, guard: Any, path: str, body: Any, param: str | None, told: str) -> None:
    error = error_of(client.post(path, content=json.dumps(body), headers=JSON), 400)
    assert error["param"] == param
    assert told in error["message"]
    assert error["type"] == "invalid_request_error"
    # Nothing half-judged.
    assert guard.asked == []


@pytest.mark.parametrize("number", ["1e400", "-1e400"])
def test_numbers_that_overflow(client: TestClient, number: str) -> None:
    body = f'{{"conversation": {{"question": "a"}}, "threshold": {number}}}'
    assert error_of(client.post(GUARD, content=body, headers=JSON), 400)["param"] == "threshold"


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("GET", "/v1/nothing", {}, 404, "unknown_path"),
        ("GET", "/v1/moderations/", {}, 404, "unknown_path"),
        ("GET", "/%00", {}, 404, "unknown_path"),
        ("GET", "/web/../../etc/passwd", {}, 404, "unknown_path"),
        ("GET", MODERATIONS, {}, 405, "method_not_allowed"),
        ("DELETE", GUARD, {}, 405, "method_not_allowed"),
        ("POST", "/healthz", {}, 405, "method_not_allowed"),
        ("POST", GUARD, {}, 415, "unsupported_media_type"),
        ("POST", GUARD, {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        ("POST", GUARD, {"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        ("POST", GUARD, {"content-type": "application/jsonx"}, 415, "unsupported_media_type"),
        ("POST", GUARD, {**JSON, "host": "evil.example"}, 400, "unknown_host"),
        ("POST", GUARD, {**JSON, "host": "127.0.0.1.evil.example:8300"}, 400, "unknown_host"),
    ],
)
def test_paths_methods_types(
    client: TestClient, method: str, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    body = b'{"conversation": {"question": "a"}}' if method == "POST" else None
    answer = client.request(method, path, content=body, headers=headers)
    assert error_of(answer, status)["code"] == code
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/ld+json"]
)
def test_media_types_that_are_taken(client: TestClient, kind: str) -> None:
    answer = client.post(MODERATIONS, content=b'{"input": "a"}', headers={"content-type": kind})
    assert answer.status_code == 200


@pytest.mark.parametrize("text", ["emoji 😀", "a\x00b", "\ufeffa", "a" * 1000, "</script>", "𠮷"])
def test_odd_texts_are_judged_as_they_are(client: TestClient, guard: Any, text: str) -> None:
    # As ASCII, with escapes: halves of pairs that belong together are no lone surrogates.
    answer = client.post(MODERATIONS, content=json.dumps({"input": text}), headers=JSON)
    assert answer.status_code == 200, answer.text
    assert guard.asked == [text]


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        (MODERATIONS, {"input": "a", "model": "gpt-9"}, None, "model_not_found"),
        (MODERATIONS, {"input": "a", "policy": "none"}, "policy", "policy_not_found"),
        (GUARD, {"conversation": PAIR, "guard": "none"}, None, "model_not_found"),
        (GUARD, {"conversation": PAIR, "policy": "none"}, "policy", "policy_not_found"),
    ],
)
def test_unknown_names(client: TestClient, path: str, body: Any, param: str | None, code: str) -> None:
    error = error_of(client.post(path, json=body), 404)
    assert (error["param"], error["code"]) == (param, code)


def test_no_error_quotes_the_text(client: TestClient) -> None:
    secret = "身份证号110101199003078515"
    for body in (
        {"input": [secret, ""]},
        {"input": {secret: 1}},
        {"input": [{"type": "text", "text": 5, "x": secret}]},
    ):
        assert secret not in client.post(MODERATIONS, json=body).text
    body = {
        "conversations": [{"question": secret, "response": ""}, {"messages": [{"role": secret, "content": secret}]}]
    }
    assert secret not in client.post(GUARD, json=body).text

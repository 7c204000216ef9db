"""Chat completions before an upstream, whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("openai")

import openai
from starlette.testclient import TestClient

from libra_guard.records import Target
from libra_guard.serve.batcher import QueueFullError
from libra_guard.serve.routes import chat as chat_route

PATH = "/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "你好"}]}
CRIME = "Illegal Activities and Crime"
CALL = {"id": "call_1", "type": "function", "function": {"name": "天气", "arguments": '{"city": "\\u5317\\u4eac"}'}}
Ask = Callable[..., Any]


@pytest.fixture
def proxy(make_server: Any, upstream: Any) -> TestClient:
    return make_server(upstream=upstream.url)


@pytest.fixture
def monitor(make_server: Any, upstream: Any) -> TestClient:
    return make_server(upstream=upstream.url, policy="monitor")


@pytest.fixture
def chat(live: Any, upstream: Any) -> Ask:
    """The openai client as anybody uses it."""
    client = openai.OpenAI(base_url=live(upstream=upstream.url).url + "/v1", api_key="sk-user", max_retries=0)
    return client.chat.completions.create


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


# With the openai client.


def test_plain(chat: Ask, upstream: Any, guard: Any) -> None:
    upstream.says("你好，有什么可以帮你？")
    found = chat(model="m", messages=[user("你好")], temperature=0.5)
    assert found.choices[0].message.content == "你好，有什么可以帮你？"
    assert (found.id, found.model, found.usage.total_tokens) == ("chatcmpl-1", "m", 8)
    assert found.choices[0].finish_reason == "stop"
    assert (found.libra["action"], found.libra["stage"], found.libra["policy"]) == ("pass", "response", "default")
    assert found.libra["verdict"]["unsafe_score"] == 0.1
    assert guard.asked[-2:] == ["你好", "你好，有什么可以帮你？"]
    [arrived] = upstream.arrived
    assert arrived.json == {"model": "m", "messages": [user("你好")], "temperature": 0.5}
    assert arrived.header("authorization") == ["Bearer sk-user"]


def test_multi_turn_and_tools(chat: Ask, upstream: Any, guard: Any) -> None:
    upstream.says(None, tool_calls=[CALL])
    tools = [{"type": "function", "function": {"name": "天气", "parameters": {"type": "object", "a": 1, "A": 2}}}]
    messages: list[Any] = [
        {"role": "system", "content": "设"},
        user("旧【坏】"),
        {"role": "assistant", "content": "答"},
    ]
    messages += [user("北京天气"), {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    messages += [{"role": "tool", "tool_call_id": "call_1", "content": "晴"}]
    found = chat(model="m", messages=messages, tools=tools, tool_choice="auto")
    assert [call.to_dict() for call in found.choices[0].message.tool_calls] == [CALL]
    assert upstream.arrived[0].json == {"model": "m", "messages": messages, "tools": tools, "tool_choice": "auto"}
    said = "天气\ncity\n北京"
    # The description of the tool as well: its name is Chinese.
    assert guard.asked[-4:] == ["北京天气", f"{said}\n晴", "天气", said]


def test_blocked_prompt(chat: Ask, upstream: Any) -> None:
    found = chat(model="m", messages=[user("怎样【坏】")], n=2)
    assert upstream.arrived == []
    assert [c.finish_reason for c in found.choices] == ["content_filter"] * 2
    assert found.choices[0].message.role == "assistant"
    assert "抱歉" in found.choices[1].message.content
    assert found.model == "m"
    assert found.usage.total_tokens == 0
    assert (found.libra["action"], found.libra["stage"], found.libra["scenarios"]) == ("block", "prompt", [CRIME])


def test_the_safe_answer_is_in_the_language_of_the_question(chat: Ask, upstream: Any) -> None:
    upstream.says("这是【坏】的")
    found = chat(model="m", messages=[user("Tell me how")])
    assert "sorry" in found.choices[0].message.content.lower()


def test_a_blocked_choice_alone_is_replaced(chat: Ask, upstream: Any) -> None:
    upstream.says("好的", "这是【坏】的", "也好")
    found = chat(model="m", messages=[user("问")], n=3)
    contents = [c.message.content for c in found.choices]
    assert (contents[0], contents[2]) == ("好的", "也好")
    assert "抱歉" in contents[1]
    assert "坏" not in found.to_json()
    assert [c.finish_reason for c in found.choices] == ["stop", "content_filter", "stop"]
    assert [c.index for c in found.choices] == [0, 1, 2]
    assert found.usage.total_tokens == 8
    assert (found.libra["action"], found.libra["stage"], found.libra["choice"]) == ("block", "response", 1)


def test_mini(make_server: Any, upstream: Any) -> None:
    from libra_guard.guards.registry import load_guard

    proxy = make_server({"mini": load_guard("mini")}, upstream=upstream.url)
    upstream.says("水温八十度左右，泡两三分钟就好。")
    found = proxy.post(PATH, json={"messages": [user("怎样泡一杯绿茶？")]}).json()
    assert found["choices"][0]["message"]["content"] == "水温八十度左右，泡两三分钟就好。"
    found = proxy.post(PATH, json={"messages": [user("怎么杀人不被发现")]}).json()
    assert found["choices"][0]["finish_reason"] == "content_filter"
    assert found["libra"]["stage"] == "prompt"
    assert len(upstream.arrived) == 1


# What goes up.


def test_the_body_goes_up_byte_for_byte(proxy: TestClient, upstream: Any) -> None:
    upstream.says("好")
    body = (
        '{ "x-unknown":\t{"深": [1.0, 1e5, 12345678901234567890, "\\u4f60\\ud83d\\ude00"]},"messages" : [ {"content":\n'
        '[{"type":"text","text":"看图"},{"type":"image_url","image_url":{"url":"data:,x"}}],"role":"user","x":null}],\n'
        '"response_format":{"type":"json_object"}, "logit_bias":{"50256":-100},"stream":false}\r\n'
    ).encode()
    answer = proxy.post(PATH + "?api-version=1&x=%E4%BD%A0", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    [arrived] = upstream.arrived
    assert arrived.body == body
    assert arrived.path == "/v1/chat/completions?api-version=1&x=%E4%BD%A0"
    assert answer.json()["libra"]["not_judged"] == ["messages[0].content[1] (image_url)"]


KEYS = {"authorization": "Bearer sk-user", "api-key": "k-1", "x-api-key": "k-2"}


@pytest.mark.parametrize(
    ("settings", "up"),
    [
        ({}, KEYS),
        ({"upstream_key": "sk-up"}, {"authorization": "Bearer sk-up"}),
        ({"api_key": "sk-user"}, {}),
        ({"api_key": "sk-user", "upstream_key": "sk-up"}, {"authorization": "Bearer sk-up"}),
    ],
)
def test_keys(make_server: Any, upstream: Any, settings: dict[str, str], up: dict[str, str]) -> None:
    proxy = make_server(upstream=upstream.url, **settings)
    upstream.says("好")
    assert proxy.post(PATH, json=ASK, headers=KEYS).status_code == 200
    assert proxy.get("/v1/models", headers=KEYS).status_code == 200
    assert len(upstream.arrived) == 2
    for arrived in upstream.arrived:
        assert {name: arrived.header(name) for name in KEYS} == {n: [up[n]] if n in up else [] for n in KEYS}


def test_a_key_of_the_file_stays_here(make_server: Any, upstream: Any, tmp_path: Any) -> None:
    (tmp_path / "keys").write_text("sk-user\n", encoding="utf-8")
    proxy = make_server(upstream=upstream.url, api_key_file=tmp_path / "keys")
    upstream.says("好")
    assert proxy.post(PATH, json=ASK, headers=KEYS).status_code == 200
    assert not any(upstream.arrived[0].header(name) for name in KEYS)


def test_headers_up(proxy: TestClient, upstream: Any) -> None:
    upstream.says("好")
    headers = {
        "openai-organization": "org",
        "x-request-id": "abc",
        "connection": "keep-alive, x-secret-hop",
        "x-secret-hop": "1",
        "proxy-authorization": "Basic 1",
        "te": "trailers",
        "cookie": "session=1",
        "accept-encoding": "gzip, br",
        "x-libra-action": "pass",
        "expect": "",
    }
    assert proxy.post(PATH, json=ASK, headers=headers).status_code == 200
    [arrived] = upstream.arrived
    assert arrived.header("openai-organization") == ["org"]
    assert arrived.header("x-request-id") == ["abc"]
    assert arrived.header("accept-encoding") == ["identity"]
    assert arrived.header("host") == [upstream.url.removeprefix("http://").removesuffix("/v1")]
    for name in ("x-secret-hop", "proxy-authorization", "te", "cookie", "x-libra-action", "expect"):
        assert arrived.header(name) == []


def test_headers_down(proxy: TestClient, upstream: Any) -> None:
    headers = {
        "x-ratelimit-remaining": "3",
        "x-request-id": "theirs",
        "set-cookie": "a=b",
        "x-libra-action": "pass",
        "x-libra-nonsense": "1",
        "access-control-allow-origin": "*",
        "connection": "x-hop",
        "x-hop": "1",
    }
    upstream.completes({"choices": [{"index": 0, "message": {"content": "【坏】"}}]}, **headers)
    answer = proxy.post(PATH, json=ASK, headers={"x-request-id": "mine"})
    assert answer.headers["x-ratelimit-remaining"] == "3"
    assert answer.headers.get_list("x-request-id") == ["mine"]
    assert answer.headers.get_list("x-libra-action") == ["block"]
    assert answer.headers.get_list("content-type") == ["application/json"]
    for name in ("set-cookie", "x-libra-nonsense", "access-control-allow-origin", "x-hop"):
        assert name not in answer.headers


# What comes down.


def test_headers_tell_of_the_decision(proxy: TestClient, upstream: Any) -> None:
    def told(answer: Any) -> dict[str, str]:
        return {k.removeprefix("x-libra-"): v for k, v in answer.headers.items() if k.startswith("x-libra-")}

    upstream.says("好")
    blocked = {"action": "block", "policy": "default", "score": "0.9", "scenarios": CRIME}
    assert told(proxy.post(PATH, json=ASK)) == {
        "stage": "response",
        "action": "pass",
        "policy": "default",
        "score": "0.1",
    }
    assert told(proxy.post(PATH, json={"messages": [user("【坏】")]})) == {"stage": "prompt", **blocked}
    upstream.says("【坏】")
    assert told(proxy.post(PATH, json=ASK)) == {"stage": "response", **blocked}


def test_chinese_comes_down_as_it_is(proxy: TestClient, upstream: Any) -> None:
    upstream.says("你好😀")
    assert "你好😀".encode() in proxy.post(PATH, json=ASK).content


def test_nothing_of_a_blocked_answer_is_left(proxy: TestClient, upstream: Any) -> None:
    tokens = [{"token": "【坏】", "bytes": None, "logprob": -0.1, "top_logprobs": []}]
    message = {
        "role": "assistant",
        "content": "这是【坏】的",
        "annotations": [{"title": "【坏】"}],
        "tool_calls": [CALL],
    }
    choice = {
        "index": 0,
        "message": message,
        "logprobs": {"content": tokens},
        "finish_reason": "stop",
        "extra": "【坏】",
    }
    upstream.completes({"choices": [choice]})
    found = proxy.post(PATH, json=ASK).json()
    assert "坏" not in json.dumps(found, ensure_ascii=False)
    [choice] = found["choices"]
    assert set(choice) == {"index", "message", "logprobs", "finish_reason"}
    assert set(choice["message"]) == {"role", "content"}
    assert choice["logprobs"] is None


BAD_MESSAGES: list[dict[str, Any]] = [
    {"content": "【坏】"},
    {"content": [{"type": "text", "text": "【坏】"}]},
    {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "【坏】"}]}]},
    {"content": None, "refusal": "【坏】"},
    {"content": None, "audio": {"id": "a", "data": "AAAA", "transcript": "【坏】"}},
    {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": '{"text": "【坏】"}'}}]},
    {
        "content": None,
        "tool_calls": [{"function": {"name": "f", "arguments": '{"a": {"b": ["\\u3010\\u574f\\u3011"]}}'}}],
    },
    {
        "content": None,
        "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1} {"b": "\\u3010\\u574f\\u3011"}'}}],
    },
    {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": '{"a": "\\u3010\\u574f\\u3011'}}]},
    {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"text": "【坏】"}}}]},
    {"content": None, "tool_calls": [{"type": "custom", "custom": {"name": "f", "input": "【坏】"}}]},
    {"content": "好", "tool_calls": [CALL, {"function": {"name": "f", "arguments": "【坏】"}}]},
    {"content": None, "function_call": {"name": "f", "arguments": '"【坏】"'}},
    {"content": None, "function_call": {"name": "【坏】", "arguments": "{}"}},
    {"content": None, "tool_calls": [{"id": "【坏】", "function": {"name": "f", "arguments": "{}"}}]},
    {"content": [{"type": "text", "name": "【坏】", "text": "好"}]},
]
KEYS_OF_ARGUMENTS = ("text", "data", "name", "type", "id", "format", "signature", "encrypted_content", "function")
SAID = [json.dumps({key: "【坏】"}, ensure_ascii=False) for key in KEYS_OF_ARGUMENTS]
SAID += ['{"【坏】": 1}', '{"a": "【坏】", "a": "好"}', '{"data": {"id": ["\\u3010\\u574f\\u3011"]}}']
CALLS_WITH = [{"id": "1", "type": "function", "function": {"name": "save", "arguments": said}} for said in SAID]
CALLS_WITH.append({"id": "1", "type": "function", "function": {"name": "【坏】", "arguments": "{}"}})


@pytest.mark.parametrize("call", CALLS_WITH)
def test_all_that_calls_say_is_judged(
    proxy: TestClient, upstream: Any, chunk: Any, ask: Any, finishes: Any, call: dict[str, Any]
) -> None:
    upstream.says(None, tool_calls=[call])
    [choice] = proxy.post(PATH, json=ASK).json()["choices"]
    assert (choice["finish_reason"], "tool_calls" in choice["message"]) == ("content_filter", False)
    upstream.streams(chunk(role="assistant"), chunk(tool_calls=[{"index": 0, **call}]), chunk(finish="tool_calls"))
    found = ask(proxy)
    assert finishes(found) == [(0, "content_filter")]
    assert "tool_calls" not in json.dumps(found)


BAD_PLACES: list[dict[str, Any]] = [
    {"note": "【坏】"},
    {"note": {"deep": ["【坏】", {"text": "【坏】"}]}},
    {"【坏】": 1},
    {"usage": {"note": "【坏】", "【坏】": 1}},
    {"id": "【坏】", "model": "【坏】", "system_fingerprint": "【坏】"},
    {"delta": {"text": "【坏】"}},
]
BAD_CHOICES: list[dict[str, Any]] = [
    {"note": "【坏】"},
    {"note": {"deep": "【坏】"}},
    {"finish_reason": "【坏】"},
    {"logprobs": {"content": [{"token": "【坏】"}], "note": "【坏】"}},
    {"logprobs": {"content": [{"token": "好", "note": "【坏】", "top_logprobs": [{"token": "好", "x": "【坏】"}]}]}},
]


def test_text_in_other_places_does_not_leave(proxy: TestClient, upstream: Any, chunk: Any, ask: Any) -> None:
    good = {"index": 0, "finish_reason": "stop"}
    said = {"role": "【坏】", "content": "好", "libra": {"forged": 1}, "【坏】": "好"}
    for place in [*BAD_PLACES, {"libra": {"forged": 1}}]:
        upstream.completes({"choices": [{**good, "message": {"content": "好"}}], **place})
        found = proxy.post(PATH, json=ASK)
        assert ("坏" in found.text, "forged" in found.text) == (False, False), place
        assert found.json()["choices"][0]["message"]["content"] == "好"
        upstream.streams({"choices": [], **place}, {**chunk("好"), **place}, chunk(finish="stop"))
        streamed = json.dumps(ask(proxy, stream=True), ensure_ascii=False)
        assert ("坏" in streamed, "forged" in streamed, "好" in streamed) == (False, False, True), place
    for choice in [*BAD_CHOICES, {"libra": {"forged": 1}}]:
        upstream.completes({"choices": [{**good, "message": said, **choice}]})
        text = proxy.post(PATH, json=ASK).text
        assert ("坏" in text, "forged" in text, '"role": "assistant"' in text) == (False, False, True), choice
        upstream.streams({"choices": [{"index": 0, "delta": said, **choice}]}, chunk(finish="stop"))
        streamed = json.dumps(ask(proxy, stream=True), ensure_ascii=False)
        assert ("坏" in streamed, "forged" in streamed) == (False, False), choice
        assert '"role": "assistant"' in streamed


def test_what_servers_add_stays(proxy: TestClient, upstream: Any) -> None:
    tokens = [{"token": "好", "bytes": [1], "logprob": -1.5, "top_logprobs": [{"token": "不", "logprob": -2}]}]
    choice = {"index": 0, "message": {"role": "assistant", "content": "好的", "reasoning_content": "想"}}
    choice |= {"logprobs": {"content": tokens}, "finish_reason": "stop", "stop_reason": None, "token_ids": [1, 2]}
    added = {"timings": {"predicted_ms": 1.5}, "service_tier": "default", "prompt_logprobs": None}
    added |= {"x_groq": {"id": "req_1"}, "usage": {"completion_tokens_details": {"reasoning_tokens": 3}}}
    upstream.completes({"choices": [choice], **added})
    found = proxy.post(PATH, json=ASK).json()
    assert found["choices"] == [choice]
    assert {name: found[name] for name in added} == added
    assert (found["id"], found["model"]) == ("chatcmpl-1", "m")


def test_blocked_wherever_it_stands(proxy: TestClient, upstream: Any) -> None:
    for message in BAD_MESSAGES:
        upstream.completes({"choices": [{"index": 0, "message": {"role": "assistant", **message}}]})
        found = proxy.post(PATH, json=ASK).json()
        assert found["choices"][0]["finish_reason"] == "content_filter", message
        assert "抱歉" in found["choices"][0]["message"]["content"]
        assert "坏" not in json.dumps(found, ensure_ascii=False)
        assert "\\u574f" not in json.dumps(found)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reasoning_content", "想【坏】"),
        ("reasoning", "想【坏】"),
        ("reasoning_details", [{"type": "reasoning.text", "text": "想【坏】"}]),
        ("annotations", [{"type": "url_citation", "url_citation": {"title": "【坏】", "url": "http://a"}}]),
        ("anything", {"deep": ["【坏】"]}),
    ],
)
def test_thoughts_are_left_out_by_themselves(proxy: TestClient, upstream: Any, name: str, value: Any) -> None:
    message = {"role": "assistant", "content": "好的", name: value, "other": "也好"}
    choice = {"index": 0, "message": message, "logprobs": {"content": [{"token": "【坏】"}]}, "finish_reason": "stop"}
    upstream.completes({"choices": [choice]})
    found = proxy.post(PATH, json=ASK).json()
    [choice] = found["choices"]
    assert choice["message"] == {"role": "assistant", "content": "好的", "other": "也好"}
    assert (choice["finish_reason"], choice["logprobs"]) == ("stop", None)
    assert (found["libra"]["action"], found["libra"]["left_out"]) == ("pass", [f"choices[0].{name}"])


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images", [PICTURE]),
        ("images", [{"type": "image_url", "image_url": "data:;base64,AAAA"}]),
        ("content", [PICTURE]),
        ("audio", {"id": "a", "data": "AAAA", "transcript": ""}),
        ("reasoning_details", [{"type": "reasoning.encrypted", "data": "AAAA"}]),
    ],
)
def test_bytes_in_an_answer_are_told_and_not_judged(
    proxy: TestClient, upstream: Any, guard: Any, chunk: Any, ask: Any, name: str, value: Any
) -> None:
    said = {"content": "好的。", name: value}
    upstream.says(said.pop("content"), **said)
    found = proxy.post(PATH, json=ASK).json()
    assert found["choices"][0]["message"][name] == value
    assert found["libra"]["not_judged"] == [f"choices[0].{name} (bytes)"]
    upstream.streams(chunk("好的。"), chunk(**{name: value}), chunk(**{name: value}), chunk(finish="stop"))
    *_, last, _ = streamed = ask(proxy, stream=True)
    assert [one["choices"][0]["delta"] for one in streamed[1:3]] == [{name: value}] * 2
    assert last["libra"]["not_judged"] == [f"choices[0].{name} (bytes)"]
    assert set(guard.asked) <= {"你好", "好的。"}


@pytest.mark.parametrize(
    "url",
    ["data:,【坏】", "data:【坏】;base64,AAAA", "data:text/plain;base64,【坏】", "data:text/plain;base64,A A 【坏】"],
)
def test_what_can_be_read_in_an_address_is_judged(proxy: TestClient, upstream: Any, url: str) -> None:
    upstream.says("好", images=[{"type": "image_url", "image_url": {"url": url}}])
    found = proxy.post(PATH, json=ASK).json()
    assert found["choices"][0]["message"] == {"role": "assistant", "content": "好"}
    assert found["libra"]["left_out"] == ["choices[0].images"]
    assert "not_judged" not in found["libra"]


def test_bytes_that_did_not_leave_are_not_told(proxy: TestClient, upstream: Any) -> None:
    upstream.says("【坏】", images=[PICTURE])
    libra = proxy.post(PATH, json=ASK).json()["libra"]
    assert (libra["action"], "not_judged" in libra) == ("block", False)


def test_what_passes_is_left_as_it_is(proxy: TestClient, upstream: Any) -> None:
    message = {"role": "assistant", "content": "好的", "reasoning_content": "想", "tool_calls": [CALL], "x": None}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": {"content": [{"token": "好"}]},
        "finish_reason": "stop",
        "y": 1,
    }
    upstream.completes({"choices": [choice], "system_fingerprint": "f", "z": [1.5, None]})
    found = proxy.post(PATH, json=ASK).json()
    assert found["choices"] == [choice]
    assert (found["system_fingerprint"], found["z"], found["usage"]["total_tokens"]) == ("f", [1.5, None], 8)


@pytest.mark.parametrize("content", ["", None, " \n", "\u200b"])
def test_an_answer_that_shows_nothing(proxy: TestClient, upstream: Any, guard: Any, content: str | None) -> None:
    upstream.says(content)
    answer = proxy.post(PATH, json=ASK)
    assert answer.json()["choices"][0]["message"]["content"] == content
    assert answer.json()["libra"]["stage"] == "prompt"
    assert guard.asked == ["你好"]


def test_the_stricter_decision_is_told(proxy: TestClient, upstream: Any, tmp_path: Any, make_server: Any) -> None:
    policy = tmp_path / "careful.yaml"
    policy.write_text("extends: default\ndefault: {block: guard, review: 0.3}\n", encoding="utf-8")
    careful = make_server(upstream=upstream.url, policies=(policy,), policy="careful")
    upstream.says("好")
    answer = careful.post(PATH, json={"messages": [user("【疑】")]})
    assert (answer.headers["x-libra-stage"], answer.headers["x-libra-action"]) == ("prompt", "review")
    assert answer.json()["libra"]["stage"] == "prompt"
    assert "choice" not in answer.json()["libra"]
    upstream.says("【疑】")
    answer = careful.post(PATH, json={"messages": [user("【疑】")]})
    assert (answer.headers["x-libra-stage"], answer.headers["x-libra-action"]) == ("response", "review")


# When the guard cannot judge.


def test_an_unreadable_verdict_blocks(proxy: TestClient, upstream: Any) -> None:
    upstream.says("【乱】")
    assert proxy.post(PATH, json=ASK).json()["choices"][0]["finish_reason"] == "content_filter"


def test_a_guard_that_fails_lets_nothing_pass(proxy: TestClient, upstream: Any) -> None:
    answer = proxy.post(PATH, json={"messages": [user("【错】")]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "guard_failed")
    assert upstream.arrived == []
    upstream.says("好", "【错】秘密")
    answer = proxy.post(PATH, json=ASK)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "guard_failed")
    assert "秘密" not in answer.text
    upstream.says("好")
    assert proxy.post(PATH, json=ASK).status_code == 200


def test_an_answer_waits_where_the_queue_is_full(proxy: TestClient, upstream: Any) -> None:
    server = proxy.app.state.server
    decide_all, full = server.decide_all, [QueueFullError(0.001)] * 2

    async def crowded(conversations: Any, **options: Any) -> Any:
        if full and conversations[0].target is Target.RESPONSE:
            raise full.pop()
        return await decide_all(conversations, **options)

    server.decide_all = crowded
    upstream.says("好")
    assert proxy.post(PATH, json=ASK).status_code == 200
    assert full == []


@pytest.mark.parametrize("stream", [False, True])
def test_all_of_a_request_is_decided_by_one_policy(
    proxy: TestClient, upstream: Any, script: Any, monkeypatch: Any, stream: bool
) -> None:
    policies = proxy.app.state.server.policies
    monitor = policies.get("monitor")
    if stream:
        upstream.streams(script.chunk("这是【坏】的"), script.chunk(finish="stop"))
    else:
        upstream.says("这是【坏】的")
    reply = upstream.reply

    def changed(arrived: Any) -> Any:
        monkeypatch.setattr(policies, "get", lambda name=None: monitor)
        return reply(arrived)

    upstream.reply = changed
    answer = proxy.post(PATH, json={**ASK, "stream": stream})
    assert "坏" not in answer.text
    assert '"policy":"default"' in answer.text.replace(" ", "")
    # The next one is decided by what is in force now.
    upstream.says("这是【坏】的")
    found = proxy.post(PATH, json=ASK).json()["libra"]
    assert (found["policy"], found["action"], found["would"]) == ("monitor", "pass", "block")


def test_a_guard_for_answers_only(make_server: Any, upstream: Any, guard: Any) -> None:
    guard.targets = frozenset({Target.RESPONSE})
    proxy = make_server(upstream=upstream.url)
    upstream.says("这是【坏】的")
    found = proxy.post(PATH, json={"messages": [user("问【坏】")]}).json()
    assert len(upstream.arrived) == 1
    assert (found["libra"]["stage"], found["libra"]["action"]) == ("response", "block")
    assert found["libra"]["not_judged"] == ["messages (the guard 'fake' judges answers only)"]
    # What is put into the assistant's mouth is an answer.
    begun = {"messages": [user("问"), {"role": "assistant", "content": "【坏】"}]}
    assert proxy.post(PATH, json=begun).json()["libra"]["stage"] == "prompt"


def test_monitor(monitor: TestClient, upstream: Any) -> None:
    upstream.says("答【坏】", reasoning_content="想【坏】")
    answer = monitor.post(PATH, json={"messages": [user("问【坏】")]})
    found = answer.json()
    assert found["choices"][0]["message"]["content"] == "答【坏】"
    assert found["choices"][0]["message"]["reasoning_content"] == "想【坏】"
    assert found["choices"][0]["finish_reason"] == "stop"
    assert (found["libra"]["action"], found["libra"]["would"], found["libra"]["mode"]) == ("pass", "block", "monitor")
    assert (answer.headers["x-libra-action"], answer.headers["x-libra-would"]) == ("pass", "block")
    assert answer.headers["x-libra-scenarios"] == CRIME


def test_monitor_lets_pass_what_the_guard_fails_on(monitor: TestClient, upstream: Any) -> None:
    upstream.says("答【错】")
    found = monitor.post(PATH, json={"messages": [user("问【错】")]}).json()
    assert found["choices"][0]["message"]["content"] == "答【错】"
    assert found["libra"]["verdict"] is None
    assert found["libra"]["not_judged"] == [
        "messages (the guard's model failed)",
        "choices (the guard's model failed)",
    ]


# Requests that are refused.


@pytest.mark.parametrize("field", ["documents", "prediction", "tools"])
def test_what_is_long_beside_the_messages_hides_nothing(proxy: TestClient, upstream: Any, field: str) -> None:
    body = {"messages": [user("问")], field: [{"text": "好" * 21_000 + "【坏】" + "好" * 21_000}]}
    answer = proxy.post(PATH, json=body)
    assert (answer.headers["x-libra-action"], answer.headers["x-libra-stage"]) == ("block", "prompt")
    assert "not_judged" not in answer.json()["libra"]
    assert upstream.arrived == []


def test_what_stands_beside_the_messages_is_judged_once(make_server: Any, upstream: Any, guard: Any) -> None:
    upstream.says("答")
    proxy = make_server(upstream=upstream.url)

    def ask(text: str, document: str) -> list[str]:
        """What was judged of it."""
        guard.batches.clear()
        body = {"messages": [user(text)], "documents": [document], "tools": [{"description": "工具"}]}
        assert proxy.post(PATH, json=body).status_code == 200
        return guard.asked

    assert sorted(ask("问", "文")) == ["工具", "文", "答", "问"]
    assert sorted(ask("问", "文")) == ["答", "问"]
    # Messages are judged anew, also where one says what stood beside them.
    assert sorted(ask("工具", "另")) == ["另", "工具", "答"]
    assert 'libra_known_total{guard="fake"} 3.0' in proxy.app.state.metrics.render()[0].decode()


def test_of_what_is_known_the_policy_decides_anew(
    make_server: Any, upstream: Any, guard: Any, monkeypatch: Any
) -> None:
    upstream.says("答")
    proxy = make_server(upstream=upstream.url)
    body = {"messages": [user("问")], "tools": [{"description": "工具【坏】"}]}
    assert proxy.post(PATH, json=body).headers["x-libra-action"] == "block"
    policies = proxy.app.state.server.policies
    monkeypatch.setattr(policies, "default", "monitor")
    guard.batches.clear()
    answer = proxy.post(PATH, json=body)
    assert (answer.headers["x-libra-action"], answer.headers["x-libra-would"]) == ("pass", "block")
    assert sorted(guard.asked) == ["答", "问"]


@pytest.mark.parametrize("policy", ["default", "monitor"])
def test_too_long_calls_of_tools_are_refused(make_server: Any, upstream: Any, policy: str) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "好" * 20_000}}
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    proxy = make_server(upstream=upstream.url, policy=policy)
    answer = proxy.post(PATH, json={"messages": [user("问"), called]})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("text_too_long", "messages[1].tool_calls")
    assert upstream.arrived == []


def test_what_the_queue_does_not_take_at_once_is_judged_in_portions(
    make_server: Any, upstream: Any, guard: Any
) -> None:
    proxy = make_server(upstream=upstream.url, queue_size=2, max_conversations=2, queue_chars=40_000)
    documents = "".join(chr(0x4E00 + i) for i in range(20_000)) * 3
    called = {"role": "tool", "content": "器"}
    body = {"messages": [user("问"), called, {"role": "assistant", "content": "始"}], "documents": [documents]}
    upstream.says("一", "二", "三", "四", "五【坏】", reasoning_content="想")
    found = proxy.post(PATH, json={**body, "n": 5})
    assert found.status_code == 200, found.text
    assert [choice["finish_reason"] for choice in found.json()["choices"]] == ["stop"] * 4 + ["content_filter"]
    assert guard.asked[:3] == ["问", "器", "始"]
    assert guard.asked[-10:] == [text for answer in ["一", "二", "三", "四", "五【坏】"] for text in (answer, "想")]
    # The documents are known from then on, in whichever portion they were.
    before = len(guard.asked)
    assert proxy.post(PATH, json=body).status_code == 200
    assert guard.asked[before : before + 3] == ["问", "器", "始"]
    assert guard.asked[before + 3] == "一"
    assert proxy.post(PATH, json={**body, "documents": [documents, "【坏】"]}).json()["libra"]["stage"] == "prompt"


@pytest.mark.parametrize(("policy", "status"), [("default", 400), ("monitor", 200)])
def test_more_than_the_queue_takes_is_not_passed_unseen(
    make_server: Any, upstream: Any, policy: str, status: int
) -> None:
    upstream.says("好")
    proxy = make_server(upstream=upstream.url, policy=policy, queue_chars=50_000)
    # All that is new of the user's is one text.
    answer = proxy.post(PATH, json={"messages": [user("好" * 20_000)] * 3})
    assert answer.status_code == status
    assert len(upstream.arrived) == (status == 200)
    if status == 400:
        assert answer.json()["error"]["code"] == "too_much"
    else:
        # The question stands before the answer as well.
        assert [noted.split()[0] for noted in answer.json()["libra"]["not_judged"]] == ["messages", "choices"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", None),
        (b"{", "invalid_json"),
        (b"[]", None),
        ('{"messages": [{"role": "user", "content": "问"}]}'.encode("utf-16"), "invalid_json"),
        ('{"messages": [{"role": "user", "content": "另"}], "messages": []}'.encode(), "invalid_json"),
        ('{"messages": [{"role": "user", "content": "另", "content": "问"}]}'.encode(), "invalid_json"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "invalid_json"),
        (b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}', "invalid_json"),
    ],
)
def test_bad_bodies(proxy: TestClient, upstream: Any, body: bytes, code: str | None) -> None:
    answer = proxy.post(PATH, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    if code:
        assert answer.json()["error"]["code"] == code
    assert upstream.arrived == []


@pytest.mark.parametrize(
    ("charset", "status"), [("utf-7", 415), ('"gbk"', 415), ("utf-8; charset=gbk", 415), ("UTF-8", 200)]
)
def test_what_goes_up_is_json_in_utf8(proxy: TestClient, upstream: Any, charset: str, status: int) -> None:
    upstream.says("好")
    headers = {"content-type": f"application/json; charset={charset}"}
    assert proxy.post(PATH, content=json.dumps(ASK), headers=headers).status_code == status
    assert [one.header("content-type") for one in upstream.arrived] == [["application/json"]] * (status == 200)


def test_a_page_of_another_origin_cannot_ask(proxy: TestClient, upstream: Any) -> None:
    answer = proxy.post(PATH, content=json.dumps(ASK), headers={"content-type": "text/plain"})
    assert answer.status_code == 415
    assert upstream.arrived == []


def test_the_error_names_the_place(proxy: TestClient) -> None:
    answer = proxy.post(PATH, json={"messages": [user("问"), {"role": "user"}]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages[1].content"


def test_a_request_is_read_beside_the_event_loop(
    proxy: TestClient, upstream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, beside = chat_route.read_asked, list[bool]()

    def reading(*args: Any, **options: Any) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            beside.append(True)
        return read(*args, **options)

    monkeypatch.setattr(chat_route, "read_asked", reading)
    upstream.says("好")
    assert proxy.post(PATH, json=ASK).status_code == 200
    assert beside == [True]


def test_no_upstream(client: TestClient) -> None:
    answer = client.post(PATH, json=ASK)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "no_upstream"
    assert "--upstream" in answer.json()["error"]["message"]

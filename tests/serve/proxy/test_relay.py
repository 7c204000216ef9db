"""Chat completions before an upstream, streamed."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("openai")

import openai
from starlette.testclient import TestClient

from libra_guard.policy.profile import Action
from libra_guard.serve.app import create_app
from libra_guard.serve.proxy.judging import Exchange
from libra_guard.serve.proxy.messages import read_asked
from libra_guard.serve.proxy.relay import relayed
from libra_guard.serve.settings import ServerSettings

PATH = "/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "你好"}], "stream": True}
FIELDS = ("content", "content", "reasoning_content")
FIRST = "这是第一句话，很好。"
"""Long enough to be judged by itself when the next text comes."""
CRIME = "Illegal Activities and Crime"
Ask = Callable[..., Any]


# With the openai client.


def test_plain(chat: Ask, upstream: Any, chunk: Any) -> None:
    texts = ["你好", "，有什么", "可以帮你？", "今天天气", "不错。"]
    upstream.streams(chunk("", role="assistant"), *map(chunk, texts), chunk(finish="stop"))
    found = list(chat())
    assert [one.choices[0].delta.content for one in found] == ["", *texts, None]
    assert found[0].choices[0].delta.role == "assistant"
    assert found[-1].choices[0].finish_reason == "stop"
    assert (found[-1].libra["action"], found[-1].libra["stage"], found[-1].libra["choice"]) == ("pass", "response", 0)
    assert upstream.arrived[0].json == ASK


def test_blocked_midway(chat: Ask, upstream: Any, chunk: Any) -> None:
    texts = ["你好，", "有什么可以帮你？", "接下来", "是【坏】", "的东西。", "更多"]
    upstream.streams(chunk("", role="assistant"), *map(chunk, texts), upstream.until_closed, done=False)
    found = list(chat())
    said = "".join(one.choices[0].delta.content or "" for one in found)
    shown, answer = said.split("\n\n")
    assert shown == "你好，有什么可以帮你？"
    assert "抱歉" in answer
    assert found[-1].choices[0].finish_reason == "content_filter"
    assert (found[-1].libra["action"], found[-1].libra["scenarios"]) == ("block", [CRIME])
    assert {one.id for one in found} == {"c-1"}
    # Nothing more is asked of the upstream.
    assert upstream.closed.wait(10)


def test_blocked_prompt(chat: Ask, upstream: Any, live: Any) -> None:
    client = openai.OpenAI(base_url=live(upstream=upstream.url).url + "/v1", api_key="k", max_retries=0)
    messages = [{"role": "user", "content": "【坏】"}]
    found = list(client.chat.completions.create(model="m", messages=messages, stream=True, n=2))
    assert upstream.arrived == []
    for i in (0, 1):
        parts = [c for one in found for c in one.choices if c.index == i]
        assert parts[0].delta.role == "assistant"
        assert "抱歉" in parts[0].delta.content
        assert parts[-1].finish_reason == "content_filter"
    assert (found[-1].libra["stage"], found[-1].libra["action"]) == ("prompt", "block")


def test_tools(chat: Ask, upstream: Any, chunk: Any) -> None:
    def call(**function: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": function}]}

    deltas = [call(name="天气"), call(arguments='{"city": "\\u53'), call(arguments='17\\u4eac"}')]
    sent = [chunk("我看看。", role="assistant"), *(chunk(**delta) for delta in deltas), chunk(finish="tool_calls")]
    upstream.streams(*sent)
    found = list(chat())
    calls = [one.choices[0].delta.to_dict() for one in found[1:]]
    # Complete, in the place of its first part.
    function = {"name": "天气", "arguments": '{"city": "\\u5317\\u4eac"}'}
    assert calls == [call(**function), {}]
    assert found[0].choices[0].delta.content == "我看看。"
    assert found[-1].choices[0].finish_reason == "tool_calls"


def test_parallel_calls_at_one_index(chat: Ask, upstream: Any, chunk: Any) -> None:
    functions = [{"name": "weather", "arguments": '{"city": "北京"}'}, {"name": "time", "arguments": '{"tz": "cn"}'}]
    calls = [{"index": 0, "id": f"{i}", "type": "function", "function": one} for i, one in enumerate(functions)]
    upstream.streams(*(chunk(tool_calls=[call]) for call in calls), chunk(finish="tool_calls"))
    [delta, _] = [one.choices[0].delta for one in chat()]
    assert [(call.index, call.id, call.function.to_dict()) for call in delta.tool_calls] == [
        (0, "0", functions[0]),
        (1, "1", functions[1]),
    ]


# What is released, and when.


def test_what_passes_leaves_as_it_came(proxy: TestClient, upstream: Any, chunk: Any, chunks: Any) -> None:
    logprobs = chunk("好。")
    logprobs["choices"][0]["logprobs"] = {"content": [{"token": "好。"}]}
    usage = {"id": "c-1", "choices": [], "usage": {"total_tokens": 8}}
    last = {**chunk(finish="stop"), "x": {"y": 1}}
    sent = [
        {"id": "c-1", "choices": [], "prompt_filter_results": []},
        chunk("", role="assistant"),
        logprobs,
        last,
        usage,
    ]
    upstream.streams(*sent)
    answer = proxy.post(PATH, json={**ASK, "stream_options": {"include_usage": True}})
    *found, done = chunks(answer.text)
    libra = found[3].pop("libra")
    assert (found, done) == (sent, "[DONE]")
    assert (libra["action"], libra["verdict"]["unsafe_score"]) == ("pass", 0.1)
    assert answer.headers["x-libra-stage"] == "prompt"
    assert answer.headers["cache-control"] == "no-cache"


def test_the_first_sentence_leaves_before_the_next_is_there(live: Any, upstream: Any, chunk: Any) -> None:
    server = live(upstream=upstream.url, stream_hold_ms=60_000)
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="k", max_retries=0)
    upstream.streams(chunk(FIRST), chunk("第二"), upstream.until_gate, chunk("句【坏】。"), chunk(finish="stop"))
    stream = client.chat.completions.create(model="m", messages=ASK["messages"], stream=True)
    assert next(stream).choices[0].delta.content == FIRST
    upstream.gate.set()
    rest = "".join(one.choices[0].delta.content or "" for one in stream)
    assert "抱歉" in rest
    assert "第二" not in rest


def test_earlier_messages_are_not_repeated_with_each_part(
    make_server: Any, guard: Any, upstream: Any, chunk: Any
) -> None:
    class Reading(type(guard)):
        multi_turn = True

        def _judge(self, conversations: Any) -> Any:
            lengths.extend(len(c.messages) for c in conversations if c.messages[-1].content in (FIRST, second))
            return super()._judge(conversations)

    lengths, second = list[int](), "【疑】第二句。"
    proxy = make_server({"fake": Reading()}, upstream=upstream.url, stream_hold_ms=60_000)
    before = [("user", "一" * 200), ("assistant", "二" * 200), ("user", "三")]
    upstream.streams(chunk(FIRST), chunk(second), chunk(finish="stop"))
    proxy.post(PATH, json={**ASK, "messages": [{"role": role, "content": text} for role, text in before]})
    assert lengths == [2, 2]


def test_text_that_waits_is_judged_as_it_is(live: Any, upstream: Any, chunk: Any) -> None:
    client = openai.OpenAI(
        base_url=live(upstream=upstream.url, stream_hold_ms=20).url + "/v1", api_key="k", max_retries=0
    )
    upstream.streams(chunk("没有句号的话"), upstream.until_gate, chunk("还有"), chunk(finish="stop"))
    stream = client.chat.completions.create(model="m", messages=ASK["messages"], stream=True)
    assert next(stream).choices[0].delta.content == "没有句号的话"
    upstream.gate.set()
    assert [one.choices[0].delta.content for one in stream] == ["还有", None]


def test_thoughts_are_over_when_the_answer_begins(live: Any, upstream: Any, chunk: Any) -> None:
    # Else the answer would wait until the thoughts have waited long enough.
    settings = {"upstream": upstream.url, "stream_hold_ms": 60_000}
    client = openai.OpenAI(base_url=live(**settings).url + "/v1", api_key="k", max_retries=0)
    upstream.streams(
        chunk(reasoning_content="想着"), chunk(FIRST), chunk("第二"), upstream.until_gate, chunk(finish="stop")
    )
    stream = client.chat.completions.create(model="m", messages=ASK["messages"], stream=True)
    assert next(stream).choices[0].delta.reasoning_content == "想着"
    assert next(stream).choices[0].delta.content == FIRST
    upstream.gate.set()
    assert next(stream).choices[0].delta.content == "第二"


def test_white_space_after_thoughts_is_not_waited_for(live: Any, upstream: Any, chunk: Any) -> None:
    client = openai.OpenAI(
        base_url=live(upstream=upstream.url, stream_hold_ms=60_000).url + "/v1", api_key="k", max_retries=0
    )
    # The answer's beginning has the thoughts judged; what comes of them then shows nothing.
    sent = [chunk(reasoning_content="想好。"), chunk(FIRST), chunk(reasoning_content="\n"), chunk("好")]
    upstream.streams(*sent, upstream.until_gate, chunk(finish="stop"))
    stream = client.chat.completions.create(model="m", messages=ASK["messages"], stream=True)
    found = [next(stream).choices[0].delta.to_dict() for _ in range(3)]
    assert found == [one["choices"][0]["delta"] for one in sent[:3]]
    upstream.gate.set()
    assert [one.choices[0].delta.content for one in stream] == ["好", None]


def test_thoughts_and_answer_in_turn(
    proxy: TestClient, upstream: Any, chunk: Any, guard: Any, ask: Any, text_of: Any
) -> None:
    def alternating(text: str) -> list[Any]:
        return [one for character in text for one in (chunk(reasoning_content=character), chunk("a"))]

    upstream.streams(*alternating("这里有【坏】的内容"), chunk(finish="stop"))
    found = ask(proxy)
    assert "【坏】" not in text_of(found, field="reasoning_content")
    assert found[-2]["libra"]["left_out"] == ["choices[0].reasoning_content"]
    upstream.streams(*alternating("天气很好，" * 200), chunk(finish="stop"))
    guard.batches.clear()
    found = ask(proxy)
    assert text_of(found, field="reasoning_content") == "天气很好，" * 200
    assert text_of(found) == "a" * 1000
    assert len(guard.asked) < 40


def test_a_stream_says_what_it_is(proxy: TestClient, upstream: Any, script: Any, chunk: Any) -> None:
    body = script.event(chunk("好。", finish="stop")) + b"data: [DONE]\n\n"
    upstream.reply = lambda _: script.Reply(200, {"content-type": "text/event-stream; charset=gb18030"}, body)
    assert proxy.post(PATH, json=ASK).headers["content-type"] == "text/event-stream; charset=utf-8"


def test_however_it_is_cut(proxy: TestClient, upstream: Any, chunk: Any, ask: Any, text_of: Any, finishes: Any) -> None:
    good = "天气很好，我们去公园。" * 20
    for size, bad in itertools.product([1, 2, 3, 5, 8, 50, 1000], ["", "这里【坏】了。"]):
        text = good + bad + "完"
        parts = [text[i : i + size] for i in range(0, len(text), size)]
        upstream.streams(*map(chunk, parts), chunk(finish="stop"))
        found = ask(proxy)
        if bad:
            assert good.startswith(text_of(found).split("抱歉")[0].removesuffix("\n\n")), size
            assert finishes(found) == [(0, "content_filter")]
        else:
            assert text_of(found) == text
            assert finishes(found) == [(0, "stop")]


def test_a_chunk_leaves_when_all_of_it_has_passed(
    proxy: TestClient, upstream: Any, chunk: Any, ask: Any, text_of: Any
) -> None:
    upstream.streams(chunk(FIRST + "秘"), chunk("密【坏】。"), chunk(finish="stop"))
    assert "秘" not in text_of(ask(proxy))


def test_halves_of_a_pair(proxy: TestClient, upstream: Any, ask: Any) -> None:
    parts = [
        b'data: {"choices": [{"index": 0, "delta": {"content": "\\u597d\\ud83d"}}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"content": "\\ude00\\u3002"}}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"content": "ok"}, "finish_reason": "stop"}]}\n\n',
    ]
    upstream.streams(*parts)
    found = ask(proxy)
    text = "".join(one["choices"][0]["delta"].get("content", "") for one in found[:-1])
    assert text.encode("utf-16-le", "surrogatepass").decode("utf-16-le") == "好😀。ok"


def test_halves_of_a_pair_are_one_character(live: Any, upstream: Any, chunk: Any) -> None:
    client = openai.OpenAI(
        base_url=live(upstream=upstream.url, stream_hold_ms=60_000).url + "/v1", api_key="k", max_retries=0
    )
    upstream.streams(
        b'data: {"choices": [{"index": 0, "delta": {"content": "123456789\\ud83d"}}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"content": "\\ude00\\u3002"}}]}\n\n',
        chunk("好"),
        upstream.until_gate,
        chunk(finish="stop"),
    )
    stream = client.chat.completions.create(model="m", messages=ASK["messages"], stream=True)
    assert [next(stream).choices[0].delta.content for _ in range(2)] == ["123456789\ud83d", "\ude00。"]
    upstream.gate.set()
    assert next(stream).choices[0].delta.content == "好"


# Choices.


def test_a_blocked_choice_alone_ends(
    proxy: TestClient, upstream: Any, chunk: Any, ask: Any, text_of: Any, finishes: Any
) -> None:
    first = {"choices": [], "prompt_filter_results": []}
    both = chunk(FIRST, index=0)
    both["choices"] += chunk(FIRST, index=1)["choices"]
    mixed = chunk("好的", index=0)
    mixed["choices"] += chunk("【坏】", index=1)["choices"]
    rest = [
        chunk("再来。", index=0),
        chunk("不要", index=1),
        chunk(finish="stop", index=0),
        chunk(finish="stop", index=1),
    ]
    upstream.streams(first, both, mixed, *rest, {"id": "c-1", "choices": [], "usage": {"total_tokens": 8}})
    found = ask(proxy, n=2)
    assert text_of(found, 0) == f"{FIRST}好的再来。"
    assert text_of(found, 1).startswith(f"{FIRST}\n\n抱歉")
    assert "坏" not in json.dumps(found, ensure_ascii=False)
    assert "不要" not in text_of(found, 1)
    assert sorted(finishes(found)) == [(0, "stop"), (1, "content_filter")]
    assert (found[0], found[-2]["usage"]) == (first, {"total_tokens": 8})
    actions = {one["libra"]["choice"]: one["libra"]["action"] for one in found[:-1] if "libra" in one}
    assert actions == {0: "pass", 1: "block"}


def test_all_choices_blocked(
    proxy: TestClient, upstream: Any, chunk: Any, ask: Any, text_of: Any, finishes: Any
) -> None:
    bad = "这里有【坏】的东西。完"
    upstream.streams(chunk(bad), chunk(bad, index=1), upstream.until_closed, done=False)
    found = ask(proxy, n=2)
    assert sorted(finishes(found)) == [(0, "content_filter"), (1, "content_filter")]
    assert [text_of(found, i).count("抱歉") for i in (0, 1)] == [1, 1]
    assert found[-1] == "[DONE]"
    assert upstream.closed.wait(10)


def test_the_safe_answer_has_a_role_where_nothing_was_sent(
    proxy: TestClient, upstream: Any, chunk: Any, ask: Any
) -> None:
    upstream.streams(chunk("【坏】。", role="assistant"), chunk(finish="stop"))
    found = ask(proxy)
    assert found[0]["choices"][0]["delta"]["role"] == "assistant"
    assert found[0]["choices"][0]["delta"]["content"].startswith("抱歉")


def calling(*arguments: str) -> list[dict[str, Any]]:
    return [{"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": part}}]} for part in arguments]


BAD_DELTAS: list[list[dict[str, Any]]] = [
    [{"content": "【坏】"}],
    [{"content": "【"}, {"content": "坏"}, {"content": "】"}],
    [{"content": [{"type": "text", "text": "【坏】"}]}],
    [{"refusal": "【坏】"}],
    [{"audio": {"data": "AAAA"}}, {"audio": {"transcript": "【坏】"}}],
    [{"audio": {"transcript": FIRST}}, {"audio": {"data": "AAAA"}}, {"audio": {"transcript": "好。这是【坏】的。"}}],
    calling('{"a": "【', '坏】"}'),
    calling('{"a": "\\u3010\\u574f\\u30', '11"}'),
    calling("{}", '{"a": "\\u3010\\u574f\\u3011"}'),
    [{"function_call": {"arguments": '"【坏】"'}}],
    [{"content": "好。"}, *calling("【坏】")],
]


def test_blocked_wherever_it_stands(
    proxy: TestClient, upstream: Any, chunk: Any, ask: Any, text_of: Any, finishes: Any
) -> None:
    for deltas, finish in itertools.product(BAD_DELTAS, ["stop", None]):
        upstream.streams(*(chunk(**delta) for delta in deltas), *([chunk(finish=finish)] if finish else []))
        found = ask(proxy)
        assert finishes(found) == [(0, "content_filter")], deltas
        assert "坏" not in json.dumps(found, ensure_ascii=False)
        assert "tool_calls" not in json.dumps(found)
        assert "AAAA" not in json.dumps(found)
        assert "抱歉" in text_of(found)


def test_sounds_leave_in_their_place(proxy: TestClient, upstream: Any, chunk: Any, ask: Any) -> None:
    said = [{"data": "AAAA"}, {"transcript": FIRST}, {"data": "BBBB"}, {"transcript": "好。"}]
    upstream.streams(*(chunk(audio=one) for one in said), chunk(finish="stop"))
    *chunks, last, _ = ask(proxy)
    assert [one["choices"][0]["delta"]["audio"] for one in chunks] == said
    assert (last["libra"]["action"], last["libra"]["not_judged"]) == ("pass", ["choices[0].audio (bytes)"])


def test_long_sounds_are_read_to_their_end(
    proxy: TestClient, upstream: Any, chunk: Any, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libra_guard.serve.proxy.relay._MAX_HELD", 100)
    upstream.streams(*[chunk(audio={"data": "AAAA"})] * 80, chunk(audio={"transcript": "好。"}), chunk(finish="stop"))
    assert len(ask(proxy)) == 83
    upstream.streams(*[chunk(audio={"data": "AAAA"})] * 200, upstream.until_closed, done=False)
    assert ask(proxy)[-2]["error"]["code"] == "upstream_garbage"


def test_thoughts_that_come_after_they_were_left_out(live: Any, upstream: Any, chunk: Any) -> None:
    url = live(upstream=upstream.url, stream_hold_ms=60_000).url
    client = openai.OpenAI(base_url=url + "/v1", api_key="k", max_retries=0)
    late = [chunk(reasoning_content="又"), chunk("。完"), chunk(finish="stop")]
    upstream.streams(chunk(reasoning_content="想【坏】。"), chunk(FIRST), chunk("好"), upstream.until_gate, *late)
    stream = client.chat.completions.create(model="m", messages=ASK["messages"], stream=True)
    deltas = [next(stream).choices[0].delta for _ in range(2)]
    assert [delta.to_dict() for delta in deltas] == [{}, {"content": FIRST}]
    upstream.gate.set()
    assert [one.choices[0].delta.to_dict() for one in stream] == [{"content": "好"}, {}, {"content": "。完"}, {}]


def test_what_has_passed_before_a_block_is_sent(guard: Any, chunk: Any, text_of: Any, chunks: Any) -> None:
    """Also where it waits behind another choice when the block comes."""
    blocked = asyncio.Event()

    async def events() -> AsyncGenerator[dict[str, Any] | None]:
        yield chunk("没有句号", index=1)
        yield chunk(FIRST, role="assistant")
        yield chunk("另一句【坏】" + "很长" * 30 + "。完")
        await blocked.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        yield chunk(finish="stop", index=1)
        yield None

    async def run() -> list[Any]:
        app = create_app(ServerSettings(stream_hold_ms=60_000), {"fake": guard})
        async with app.router.lifespan_context(app):
            server = app.state.server
            decide_all = server.decide_all

            async def watched(*args: Any, **options: Any) -> Any:
                judged = await decide_all(*args, **options)
                if any(one.decision.action is Action.BLOCK for one in judged):
                    blocked.set()
                return judged

            server.decide_all = watched
            asked = read_asked({"messages": ASK["messages"], "n": 2}, max_messages=9, max_chars=99)
            exchange = Exchange(server, asked, "r", server.policy(None))
            return chunks(b"".join([part async for part in relayed(exchange, events())]).decode())

    found = asyncio.run(run())
    assert text_of(found, 1) == "没有句号"
    assert text_of(found, 0).startswith(f"{FIRST}\n\n抱歉")
    roles = [
        c["delta"]["role"] for one in found[:-1] for c in one["choices"] if c["index"] == 0 and c["delta"].get("role")
    ]
    assert roles == ["assistant"]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "reasoning_details"])
def test_thoughts_are_left_out_by_themselves(
    proxy: TestClient, upstream: Any, chunk: Any, name: str, ask: Any, text_of: Any
) -> None:
    def thought(text: str) -> dict[str, Any]:
        return chunk(**{name: [{"type": "reasoning.text", "text": text}] if name.endswith("details") else text})

    bad = thought("又【坏】。")
    bad["choices"][0]["logprobs"] = {"content": [{"token": "【坏】"}]}
    sent = [thought(FIRST), bad, thought("再【坏】。"), chunk("答案。"), thought("还【坏】。"), chunk(finish="stop")]
    upstream.streams(*sent)
    found = ask(proxy)
    assert "坏" not in json.dumps(found, ensure_ascii=False)
    assert FIRST in json.dumps(found, ensure_ascii=False)
    assert text_of(found) == "答案。"
    libra = found[-2]["libra"]
    assert (libra["action"], libra["left_out"]) == ("pass", [f"choices[0].{name}"])


def test_much_at_once(make_server: Any, upstream: Any, chunk: Any, ask: Any, text_of: Any, finishes: Any) -> None:
    # More windows than the guard's queue takes.
    proxy = make_server(upstream=upstream.url, queue_size=32, max_conversations=32)
    text = "天气很好，我们去公园。" * 2000
    upstream.streams(chunk(text), *(chunk(**d) for d in calling(json.dumps({"a": text}))), chunk(finish="stop"))
    found = ask(proxy)
    assert text_of(found) == text
    assert finishes(found) == [(0, "stop")]


def test_tokens_without_their_text(proxy: TestClient, upstream: Any, chunk: Any, ask: Any, text_of: Any) -> None:
    early = chunk()
    early["choices"][0]["logprobs"] = {"content": [{"token": "【坏】"}]}
    upstream.streams(early, chunk("好。"), chunk(finish="stop"))
    found = ask(proxy)
    assert found[0] == chunk()
    assert text_of(found) == "好。"


def test_any_stream(proxy: TestClient, upstream: Any, chunk: Any, ask: Any, text_of: Any, finishes: Any) -> None:
    """Whatever comes in whatever order: what is good leaves as it came, and nothing that is bad leaves."""
    chance = random.Random(7)
    pieces = ["好", "天气很好。", "\n", " ", "【坏】", "【", "坏】", "Fine. ", "😀", "我们去公园，"]
    for _ in range(40):
        count = chance.choice([1, 1, 2, 3])
        sent = [
            chunk(index=chance.randrange(count), **{chance.choice(FIELDS): chance.choice(pieces)})
            for _ in range(chance.randrange(30))
        ]
        sent += [chunk(finish="stop", index=i) for i in range(count)]
        upstream.streams(*sent, {"choices": [], "usage": {"total_tokens": 1}})
        found = ask(proxy, n=count)
        assert found[-1] == "[DONE]"
        assert sorted(i for i, _ in finishes(found)) == list(range(count))
        for i, finish in finishes(found):
            came, left = ({f: text_of(one, i, f) for f in FIELDS} for one in (sent, found))
            assert "【坏】" not in "".join(left.values())
            assert finish == ("content_filter" if "【坏】" in came["content"] else "stop")
            for name in FIELDS if finish == "stop" else ():
                if "【坏】" not in came[name]:
                    assert left[name] == came[name]

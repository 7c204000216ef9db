"""What of a chat request is judged."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("fastapi")

from libra_guard.records import Role
from libra_guard.serve.errors import ApiError
from libra_guard.serve.proxy.messages import Asked, read_asked


def read(*messages: Any, **fields: Any) -> Asked:
    return read_asked({"messages": list(messages), **fields}, max_messages=20, max_chars=100)


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


def tool(content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "1", "content": content}


CALL = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("message", "param", "words"),
    [
        ("你好", "messages[1]", "must be an object"),
        (None, "messages[1]", "must be an object"),
        ({"content": "问"}, "messages[1].role", "must be one of system, developer, user"),
        ({"role": "User", "content": "问"}, "messages[1].role", "must be one of"),
        ({"role": ["user"], "content": "问"}, "messages[1].role", "must be one of"),
        ({"role": "user"}, "messages[1].content", "is missing"),
        (user(None), "messages[1].content", "is missing"),
        (tool(None), "messages[1].content", "is missing"),
        (user(3), "messages[1].content", "must be a text or a list of parts"),
        (user({"type": "text", "text": "问"}), "messages[1].content", "must be a text or a list of parts"),
        (assistant(False), "messages[1].content", "must be a text or a list of parts"),
        (user([3]), "messages[1].content[0]", "must be an object"),
        (user(["问", None]), "messages[1].content[1]", "must be an object"),
        (user([{"type": "text"}]), "messages[1].content[0].text", "must be a text"),
        (user([{"type": "text", "text": ["问"]}]), "messages[1].content[0].text", "must be a text"),
        (user("\u200b"), "messages[1].content", "invisible"),
        (user("\U000e0068\U000e0069"), "messages[1].content", "invisible"),
        (tool("\u200b"), "messages[1].content", "invisible"),
        (user("问" * 101), "messages[1].content", "101 characters is too long; 100 are taken"),
        (user([{"type": "text", "text": "问" * 60}] * 2), "messages[1].content", "121 characters"),
        ({"role": "user", "content": "问", "name": "x" * 65}, "messages[1].name", "64 characters"),
        ({"role": "user", "content": "问", "name": 1}, "messages[1].name", "must be a text"),
        ({"role": "user", "content": "问", "name": "\U000e0068"}, "messages[1].name", "invisible"),
        # Readers in Go take these for the fields that they look like.
        ({"role": "user", "content": "问", "Content": "另"}, "messages[1].content", "other letters"),
        ({"role": "user", "content": "问", "ROLE": "system"}, "messages[1].role", "other letters"),
        (user([{"type": "text", "text": "问", "TEXT": "另"}]), "messages[1].content[0].text", "other letters"),
        (assistant("答", Tool_calls=[]), "messages[1].tool_calls", "other letters"),
    ],
)
def test_bad_message(message: Any, param: str, words: str) -> None:
    with pytest.raises(ApiError, match=words) as raised:
        read(user("问"), message, user("问"))
    assert (raised.value.status_code, raised.value.param) == (400, param)
    assert "另" not in raised.value.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": {"role": "user", "content": "问"}}, "messages"),
        ({"messages": "问"}, "messages"),
        ({"messages": [user("问")] * 21}, "messages"),
        ({"messages": [user("问")], "Messages": [user("另")]}, "messages"),
        ({"messages": [user("问")], "me\u017f\u017fages": [user("另")]}, "messages"),
        ({"messages": [user("问")], "n": 0}, "n"),
        ({"messages": [user("问")], "n": 129}, "n"),
        ({"messages": [user("问")], "n": 1.5}, "n"),
        ({"messages": [user("问")], "n": "2"}, "n"),
        ({"messages": [user("问")], "n": True}, "n"),
        ({"messages": [user("问")], "n": [1]}, "n"),
        ({"messages": [user("问")], "stream": "true"}, "stream"),
        ({"messages": [user("问")], "stream": 1}, "stream"),
        ({"messages": [user("问")], "stream": 0}, "stream"),
        ({"messages": [user("问")], "stream": {}}, "stream"),
        ({"messages": [user("问")], "model": 7}, "model"),
        ({"messages": [user("问")], "model": []}, "model"),
        ({"messages": [user("问")], "Stream": True}, "stream"),
    ],
)
def test_bad_body(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as raised:
        read_asked(body, max_messages=20, max_chars=100)
    assert (raised.value.status_code, raised.value.param) == (400, param)


@pytest.mark.parametrize(
    ("messages", "judged"),
    [
        ([user("问")], ["问"]),
        ([system("设"), user("问")], ["问"]),
        ([{"role": "developer", "content": "设"}, user("问")], ["问"]),
        ([user("旧"), assistant("答"), user("新")], ["新"]),
        # All that came since the last answer is new, however it is cut into messages.
        ([user("一"), user("二"), user("三")], ["一\n二\n三"]),
        ([user("旧"), assistant("答"), user("一"), system("设"), user("二")], ["一\n二"]),
        ([user([{"type": "text", "text": "一"}, {"type": "text", "text": "二"}])], ["一\n二"]),
        ([user(["一", {"type": "input_text", "text": "二"}, {"type": "thinking", "thinking": "三"}])], ["一\n二\n三"]),
        # A call of a tool is no answer yet: the question before it still stands.
        ([user("问"), assistant(None, tool_calls=CALL), tool("果")], ["问", "f\n果"]),
        ([user("问"), assistant("", tool_calls=CALL), tool("一"), tool("二")], ["问", "f\n一\n二"]),
        (
            [user("问"), assistant(None, function_call={"name": "f"}), {"role": "function", "content": "果"}],
            ["问", "f\n果"],
        ),
        ([user("一"), assistant("看看", tool_calls=CALL), tool("果"), user("二")], ["一\n二", "f\n果"]),
        ([user("旧"), assistant(None, tool_calls=CALL), tool("旧果"), assistant("答"), user("新")], ["新"]),
        ([user("问"), assistant(None, tool_calls=CALL), tool([{"type": "text", "text": "果"}])], ["问", "f\n果"]),
        # What shows nothing is no answer.
        ([user("一"), assistant(""), user("二")], ["一\n二"]),
        ([user("一"), assistant(None), user("二")], ["一\n二"]),
        ([user("一"), assistant("\u200b"), user("二")], ["一\n二"]),
        # The beginning of an answer, as the caller has it.
        ([user("问"), assistant("当然，")], ["问", "当然，"]),
        ([user("问"), assistant("一"), assistant("二")], ["问", "一\n二"]),
        ([user("问"), assistant(None, refusal="不", reasoning_content="想")], ["问", "不\n想"]),
        ([user("问"), assistant("", reasoning={"text": "想"})], ["问", "想"]),
        ([user("问"), assistant("", reasoning_details=[{"type": "reasoning.text", "text": "想"}])], ["问", "想"]),
        (
            [user("问"), assistant("", thinking="想"), assistant("", thinking_blocks=[{"thinking": "到"}])],
            ["问", "想\n到"],
        ),
        # The same thought in two fields.
        (
            [user("问"), assistant("始", reasoning="一二", reasoning_details=[{"text": "一"}, {"text": "二"}])],
            ["问", "始\n一二"],
        ),
        # A name can say anything, but for a plain one.
        ([{**user("问"), "name": "请回答"}], ["请回答\n问"]),
        ([{**user("问"), "name": "how to"}], ["how to\n问"]),
        ([{**user("问"), "name": "user_1-a"}], ["问"]),
        ([{**user(""), "name": "请回答"}], ["请回答"]),
        ([user("问"), {**assistant(""), "name": "名"}], ["问", "名"]),
        ([user("问"), assistant(None, tool_calls=CALL), {**tool("果"), "name": "名"}], ["问", "f\n名\n果"]),
        ([user("旧"), assistant("答"), assistant("一")], ["旧", "答\n一"]),
        ([user("旧"), assistant("答"), tool("果")], ["旧", "果"]),
        # Nobody but the system spoke.
        ([system("设")], ["设"]),
        ([system("设"), assistant("始")], ["设", "始"]),
        # Nothing to judge.
        ([user("")], []),
        ([user(" \n\u3000")], []),
        ([user([])], []),
        ([assistant("\u200b"), user("问")], ["问"]),
    ],
)
def test_judged(messages: list[Any], judged: list[str]) -> None:
    asked = read(*messages)
    assert [prompt.messages[-1].content for prompt in asked.prompts] == judged
    assert asked.answered("答复").response == "答复"


def test_earlier_turns_stand_before_the_question() -> None:
    asked = read(
        system("设"),
        user("一"),
        assistant(None, tool_calls=CALL),
        tool("果"),
        assistant("答"),
        user("二"),
        user("三"),
        assistant("始"),
    )
    earlier = [(Role.SYSTEM, "设"), (Role.USER, "一"), (Role.ASSISTANT, "答"), (Role.USER, "二\n三")]
    assert [(m.role, m.content) for m in asked.context] == earlier
    assert asked.question == "二\n三"
    question, begun = asked.prompts
    assert question.messages == asked.context
    assert [(m.role, m.content) for m in begun.messages] == [*earlier, (Role.ASSISTANT, "始")]
    assert [(m.role, m.content) for m in asked.answered("终").messages] == [*earlier, (Role.ASSISTANT, "终")]


CALLED = {"function": {"name": "存", "arguments": '{"data": "甲", "乙": 1, "x": "\\ud800"}'}}


@pytest.mark.parametrize(
    ("fields", "judged"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f", "description": "描述"}}]}, "描述"),
        ({"functions": [{"name": "f", "parameters": {"properties": {"键": {"type": "string"}}}}]}, "键"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "description": "描述"}}}, "描述"),
        ({"prediction": {"type": "content", "content": "预"}}, "预"),
        ({"documents": [{"text": "文"}, {"doc": "件"}]}, "文\n件"),
        ({"chat_template": "模"}, "模"),
        ({"response_format": {"type": "json_object"}, "tools": None, "documents": [1]}, None),
    ],
)
def test_beside_the_messages(fields: dict[str, Any], judged: str | None) -> None:
    asked = read(user("问"), **fields)
    assert [prompt.question for prompt in asked.prompts] == ["问"]
    assert [prompt.question for prompt in asked.beside] == ([judged] if judged else [])
    assert asked.unread == ()


@pytest.mark.parametrize(
    ("messages", "fields", "param"),
    [
        ([user("问")], {"documents": ["\U000e0068\U000e0069"]}, "documents"),
        # A part of it by itself, in which there is nothing to judge.
        ([user("问")], {"documents": ["好" + "\U000e0068" * 300]}, "documents"),
        ([user("问")], {"prediction": {"content": "\u200b"}}, "prediction"),
        ([user("问"), assistant("\U000e0068\U000e0069")], {}, "messages[1].content"),
    ],
)
def test_what_a_model_reads_and_a_person_cannot_see_is_refused(
    messages: list[Any], fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(ApiError, match="invisible") as raised:
        read(*messages, **fields)
    assert (raised.value.status_code, raised.value.param) == (400, param)


def test_bytes_are_told() -> None:
    data = "data:image/png;base64,iVBORw0KGgo="
    asked = read(user("问"), documents=[{"image_url": {"url": data}}], tools=[{"data": "AAAA"}])
    assert (asked.beside, asked.unread) == ((), ("documents (bytes)", "tools (bytes)"))
    thought = assistant("始", reasoning_details=[{"type": "reasoning.encrypted", "data": "AAAA"}])
    assert read(user("问"), thought).unread == ("messages[1].reasoning_details (bytes)",)
    assert [prompt.question for prompt in read(user("问"), documents=[{"url": "data:,坏"}]).beside] == ["data:,坏"]


@pytest.mark.parametrize("field", ["documents", "prediction", "tools", "functions", "response_format", "chat_template"])
def test_what_is_long_beside_the_messages_is_judged_in_parts(field: str) -> None:
    text = "".join(chr(0x4E00 + i) for i in range(250))
    asked = read(user("问"), **{field: [{"x": text}]})
    # A quarter of each part is repeated in the next.
    parts = [text[:100], text[75:175], text[150:]]
    assert [prompt.question for prompt in asked.beside] == parts
    assert asked.unread == ()


def test_each_field_has_parts_of_its_own() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "描" * 101}}]
    beside = [read(user("问"), tools=tools, documents=[text]).beside for text in ("文", "另" * 150)]
    # Whatever the documents say: the tools are the same texts in both.
    assert [len(prompt.question) for prompt in beside[0]] == [1, 100, 26]
    assert beside[0][1:] == beside[1][2:]


@pytest.mark.parametrize(
    ("chars", "lengths"),
    [(1, [1]), (100, [100]), (101, [100, 26]), (175, [100, 100]), (176, [100, 100, 26]), (4001, [100] * 53 + [26])],
)
def test_the_parts_reach_to_the_end(chars: int, lengths: list[int]) -> None:
    asked = read(user("问"), documents=["长" * (chars - 1) + "尾"])
    parts = [prompt.question for prompt in asked.beside]
    assert [len(part) for part in parts] == lengths
    assert parts[-1].endswith("尾")


def test_parts_may_be_of_one_character() -> None:
    body = {"messages": [user("问")], "documents": ["一 二"]}
    asked = read_asked(body, max_messages=20, max_chars=1)
    assert [prompt.question for prompt in asked.beside] == ["一", "二"]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (user("长" * 101), "messages[1].content"),
        (tool("长" * 101), "messages[1].content"),
        (assistant("长" * 101), "messages[1].content"),
        (assistant(None, tool_calls=[{"function": {"name": "f", "arguments": "长" * 99}}]), "messages[1].tool_calls"),
        (assistant(None, function_call={"name": "f", "arguments": "长" * 99}), "messages[1].function_call"),
    ],
)
def test_what_is_too_long_in_a_message_is_refused(message: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError, match="a text of 101 characters is too long; 100 are taken") as raised:
        read(user("问"), message)
    assert (raised.value.status_code, raised.value.param, raised.value.code) == (400, param, "text_too_long")


@pytest.mark.parametrize("calls", [{"tool_calls": [CALLED]}, {"function_call": CALLED["function"]}])
def test_earlier_calls_of_tools_are_judged(calls: dict[str, Any]) -> None:
    asked = read(user("问"), assistant(None, **calls))
    assert [prompt.messages[-1].content for prompt in asked.prompts] == ["问", "存\ndata\n甲\n乙\nx\n?"]


def test_escapes_are_read_whatever_the_keys_are_called() -> None:
    call = {"Function": {"Name": "f", "Arguments": '{"a": "\\u574f"}'}}
    [_, called] = read(user("问"), assistant(None, tool_calls=[call])).prompts
    assert "坏" in called.messages[-1].content


def test_an_image_with_a_text_is_told() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:,"}, "text": "好"}
    asked = read(user([part, {"type": "text", "text": "看"}]))
    assert [prompt.question for prompt in asked.prompts] == ["好\n看"]
    assert asked.unread == ("messages[0].content[0] (image_url)",)


def test_what_is_no_text_is_told() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    asked = read(user([image]), assistant("答"), user([image, {"type": "text", "text": "图里是谁"}, {"type": "file"}]))
    assert asked.unread == ("messages[2].content[0] (image_url)", "messages[2].content[2] (file)")
    assert [prompt.question for prompt in asked.prompts] == ["图里是谁"]
    assert read(user([image])).prompts == ()
    assert read(user([{"type": "t" * 1000}])).unread == (f"messages[0].content[0] ({'t' * 64})",)


@pytest.mark.parametrize(("given", "n"), [(3, 3), (None, 1), (128, 128), (2.0, 2)])
def test_choices(given: Any, n: int) -> None:
    assert read(user("问"), n=given).n == n


@pytest.mark.parametrize(("given", "stream"), [(True, True), (False, False), (None, False)])
def test_stream(given: Any, stream: bool) -> None:
    assert read(user("问"), stream=given).stream is stream
    assert read(user("问")).stream is False


@pytest.mark.parametrize(("given", "model"), [("m", "m"), (None, "")])
def test_model(given: Any, model: str) -> None:
    assert read(user("问"), model=given).model == model

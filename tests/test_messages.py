"""Messages of a log: what is read of them, what is left out, and what cannot be judged."""

from __future__ import annotations

from typing import Any

import pytest

from libra_guard.messages import Log, read_log
from libra_guard.records import Target

CALLS = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
TOOL = {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "果"}]}
OF_TOOLS = "messages of tools or to tools were not read"


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def read(*messages: Any, target: Target | None = Target.RESPONSE) -> Log:
    return read_log(list(messages), "messages", target)


def turns(log: Log) -> list[tuple[str, str]]:
    return [(message.role.value, message.content) for message in log.conversation.messages]


# What cannot be judged


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages: there is no message to judge"),
        (["问"], "messages[0] is a str where an object with role and content is needed"),
        ([{"content": "问"}], "messages[0].role is missing; it must be one of system, developer, user"),
        ([{"role": 5, "content": "问"}], "messages[0].role is '5'; it must be"),
        ([user("问"), {"role": "bot", "content": "答"}], "messages[1].role is 'bot'; it must be"),
        ([{"role": "user"}], "messages[0].content is missing"),
        ([user("问"), assistant(None)], "messages[1].content is missing"),
        ([user(None), assistant("答")], "messages[0].content is missing"),
        ([user(""), assistant("答")], "messages[0] cannot be judged: content is empty"),
        ([user([]), assistant("答")], "messages[0] cannot be judged: content is empty"),
        ([user("问"), assistant(" \n")], "messages[1] cannot be judged: content is empty"),
        ([user("问"), assistant("\u200b")], "messages[1] cannot be judged: content holds nothing but invisible"),
        (
            [{"role": "system", "content": "\u200b"}, user("问")],
            "messages[0] cannot be judged: content holds nothing but",
        ),
        ([user("\ud800"), assistant("答")], "messages[0] cannot be judged: content holds a lone surrogate U+D800"),
        ([user(5), assistant("答")], "messages[0].content must be a text or a list of parts"),
        ([user({"text": "问"}), assistant("答")], "messages[0].content must be a text or a list of parts"),
        ([user([5]), assistant("答")], "messages[0].content[0] must be an object"),
        ([user([{"type": "text"}]), assistant("答")], "messages[0].content[0].text must be a text"),
        # What is no text.
        (
            [user([{"type": "text", "text": "问"}, {"type": "image_url", "image_url": {"url": "x"}}]), assistant("答")],
            "messages[0].content[1] cannot be judged: it is no text, but 'image_url'",
        ),
        ([user([{"type": "input_audio"}]), assistant("答")], "messages[0].content[0] cannot be judged: it is no text"),
        (
            [user([{"type": "image", "text": "题"}]), assistant("答")],
            "messages[0].content[0] cannot be judged: it is no",
        ),
        ([user("问"), assistant(None, audio={"transcript": "答"})], "messages[1].audio would not be judged"),
        ([user("问"), assistant("答", reasoning_content="想")], "messages[1].reasoning_content would not be judged"),
        ([user("问"), assistant([{"type": "thinking", "thinking": "想"}])], "messages[1].content[0] cannot be judged"),
        ([user("问", attachments=[{"file": "x"}]), assistant("答")], "messages[0].attachments would not be judged"),
        ([user("问", id={"a": "毒"}), assistant("答")], "messages[0].id would not be judged"),
        ([user("问", name=["n"]), assistant("答")], "messages[0].name must be a text"),
        ([user("问"), assistant("答", refusal=5)], "messages[1].refusal must be a text"),
        # Nobody's answer stands last.
        ([user("问")], "messages: the last message is the user's, and the answer is to be judged"),
        (
            [user("问"), assistant(None, tool_calls=CALLS)],
            "messages[1].tool_calls cannot be judged: calls of tools are",
        ),
        ([user("问"), assistant("看看", tool_calls=CALLS)], "messages[1].tool_calls cannot be judged"),
        ([user("问"), assistant("", function_call={"name": "f"})], "messages[1].function_call cannot be judged"),
        ([user("问"), assistant(None, tool_calls=CALLS), TOOL], "messages: the last message must be the user's or"),
        ([user("问"), {"role": "system", "content": "令"}], "messages: the last message must be the user's or"),
    ],
)
def test_what_cannot_be_judged(messages: list[Any], message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        read(*messages)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("messages", [5, "问", {"role": "user", "content": "问"}])
def test_no_list(messages: Any) -> None:
    with pytest.raises(ValueError, match=r"dialog: a \w+ where a list of messages is needed"):
        read_log(messages, "dialog", None)


def test_no_user_message_to_judge() -> None:
    with pytest.raises(ValueError, match="messages: no user message to judge"):
        read(assistant("答"), target=Target.PROMPT)


# What can


@pytest.mark.parametrize(
    "messages",
    [
        [user("问"), assistant("答")],
        [user("问", name=None), assistant("答", tool_calls=None, refusal=None, function_call=None, audio=None)],
        [user("问"), assistant("答", tool_calls=[], annotations=[], reasoning_content="", weight=1, cached=True)],
        [user("问", id="m1", type="message", status="completed"), assistant("答", name="bot-1")],
        [user("问", name="user_1"), assistant("答")],
        [user([{"type": "text", "text": "问"}]), assistant([{"type": "output_text", "text": "答", "annotations": []}])],
        [user(["问"]), assistant([{"text": "答"}])],
        [user([{"type": "input_text", "text": "问"}]), assistant(None, refusal="答")],
        [user("问"), assistant([{"type": "refusal", "refusal": "答"}])],
        [{"role": "User", "content": "问"}, {"role": "ASSISTANT", "content": "答"}],
        [{"role": "system", "content": ""}, user("问"), assistant("答")],
        [{"role": "System", "content": None}, user("问"), {"role": "developer", "content": [" "]}, assistant("答")],
    ],
)
def test_a_log_is_the_conversation_that_it_holds(messages: list[Any]) -> None:
    log = read(*messages)
    assert turns(log) == [("user", "问"), ("assistant", "答")]
    assert log.notes == ()


def test_the_developer_is_the_system() -> None:
    log = read({"role": "Developer", "content": "令"}, user("问"), assistant("答"))
    assert turns(log) == [("system", "令"), ("user", "问"), ("assistant", "答")]


def test_parts_are_joined() -> None:
    log = read(user([{"type": "text", "text": "一"}, "二"]), assistant([{"type": "text", "text": "三"}], refusal="四"))
    assert turns(log) == [("user", "一\n二"), ("assistant", "三\n四")]


@pytest.mark.parametrize("name", ["请回答", "how to", "x" * 65])
def test_a_name_that_could_say_something_belongs_to_the_text(name: str) -> None:
    assert turns(read(user("问", name=name), assistant("答")))[0] == ("user", f"{name}\n问")


@pytest.mark.parametrize(
    ("messages", "said", "left_out"),
    [
        ([user("问"), assistant(None, tool_calls=CALLS), TOOL, assistant("答")], ["问", "答"], 2),
        ([user("问"), assistant("", tool_calls=CALLS), TOOL, TOOL, assistant("答")], ["问", "答"], 3),
        ([user("问"), assistant("看看", tool_calls=CALLS), TOOL, assistant("答")], ["问", "看看", "答"], 2),
        (
            [user("问"), assistant(None, function_call={"name": "f"}), {"role": "Function"}, assistant("答")],
            ["问", "答"],
            2,
        ),
        ([TOOL, user("问"), assistant("答")], ["问", "答"], 1),
    ],
)
def test_tools_before_the_answer_are_left_out_and_told(messages: list[Any], said: list[str], left_out: int) -> None:
    log = read(*messages)
    assert [text for _, text in turns(log)] == said
    assert log.notes == (f"{left_out} {OF_TOOLS}",)


def test_where_the_question_is_judged_what_follows_it_is_not_told() -> None:
    log = read(user("问"), assistant(None, tool_calls=CALLS), TOOL, target=Target.PROMPT)
    assert (turns(log), log.notes) == ([("user", "问")], ())


@pytest.mark.parametrize(
    ("messages", "target"), [([user("问")], "prompt"), ([user("问"), assistant("答")], "response")]
)
def test_whatever_stands_last(messages: list[Any], target: str) -> None:
    assert read(*messages, target=None).conversation.target == target

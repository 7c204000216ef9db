"""Messages as chat APIs have them, in a request or in a log: who speaks, what is text in them, and what is judged."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from libra_guard.records import Conversation, Message, Role, Target, check_text

SYSTEM, USER, ASSISTANT, TOOL = ("system", "developer"), ("user",), ("assistant",), ("tool", "function")
ROLES = (*SYSTEM, *USER, *ASSISTANT, *TOOL)
CALL_FIELDS = ("tool_calls", "function_call")
"""Of an assistant's message: which tools it asks for."""
TEXT_PARTS = (None, "text", "input_text", "output_text", "refusal")
"""Kinds of parts of a content that are texts."""

_SPEAKERS = (
    dict.fromkeys(SYSTEM, Role.SYSTEM) | dict.fromkeys(USER, Role.USER) | dict.fromkeys(ASSISTANT, Role.ASSISTANT)
)
_PLAIN_NAME = re.compile(r"[\w$.-]{1,64}", re.ASCII)
_READ = ("role", "content", "name", "refusal", *CALL_FIELDS)
_MARKS = ("id", "type", "status", "tool_call_id")
"""Fields of a message whose texts say nothing."""
_SHOWN = 40


class MessageError(ValueError):
    """A message is not what it must be.

    Args:
        place: Where, as ``messages[0].content[1]``.
        fault: What is wrong there.
    """

    def __init__(self, place: str, fault: str) -> None:
        super().__init__(f"{place} {fault}")
        self.place, self.fault = place, fault


class Part(NamedTuple):
    """A part of a message's content."""

    place: str
    kind: Any
    """Its ``type``; None of a bare text."""
    texts: list[str]


class Log(NamedTuple):
    """What a log has to be judged."""

    conversation: Conversation
    notes: tuple[str, ...] = ()
    """What was left out of it, in words."""


class _Turn(NamedTuple):
    role: Role | None
    """None of a tool."""
    text: str
    calls: str
    """The field that asks for tools; empty where none does."""
    place: str


def read_parts(content: Any, place: str) -> Iterator[Part]:
    """What a message's ``content`` consists of: one text, or a list of parts.

    Raises:
        MessageError: It is neither, or a part is damaged.
    """
    if content is None or content == "":
        return
    if isinstance(content, str):
        yield Part(place, None, [content])
        return
    if not isinstance(content, list):
        raise MessageError(place, "must be a text or a list of parts")
    for i, part in enumerate(content):
        here = f"{place}[{i}]"
        if isinstance(part, str):
            yield Part(here, None, [part])
            continue
        if not isinstance(part, dict):
            raise MessageError(here, "must be an object")
        if part.get("type") == "text" and not isinstance(part.get("text"), str):
            raise MessageError(f"{here}.text", "must be a text")
        texts = [text for field in ("text", "refusal", "thinking") if isinstance(text := part.get(field), str)]
        yield Part(here, part.get("type"), texts)


def is_plain_name(name: str) -> bool:
    """Whether a speaker's ``name`` only names: any other can say something, and belongs to the message's text."""
    return _PLAIN_NAME.fullmatch(name) is not None


def read_log(messages: Any, place: str, target: Target | None) -> Log:
    """The conversation in a log's messages.

    What says nothing is left out: empty fields, numbers, ids, plain names, system messages without a text. Messages of
    tools and calls of tools, which no conversation holds, are left out before the last message, and noted.

    Args:
        messages: A list, as an OpenAI-compatible server takes it; a role may be written in any case.
        place: What the record calls it.
        target: What is judged: the last user message with what stands before it, or the answer at the end; None:
            whatever stands last.

    Raises:
        ValueError: A message cannot be read, or holds what cannot be judged; or there is none to judge.
    """
    if not isinstance(messages, list):
        raise ValueError(f"{place}: a {type(messages).__name__} where a list of messages is needed")
    turns = [turn for i, message in enumerate(messages) if (turn := _turn(message, f"{place}[{i}]"))]
    if not turns:
        raise ValueError(f"{place}: there is no message to judge")
    if target is Target.PROMPT:
        asked = max((i for i, turn in enumerate(turns) if turn.role is Role.USER), default=-1)
        if asked < 0:
            raise ValueError(f"{place}: no user message to judge")
        turns = turns[: asked + 1]
    last = turns[-1]
    if last.role not in (Role.USER, Role.ASSISTANT):
        raise ValueError(f"{place}: the last message must be the user's or the assistant's")
    if last.calls:
        raise MessageError(f"{last.place}.{last.calls}", "cannot be judged: calls of tools are no answer")
    if target is Target.RESPONSE and last.role is Role.USER:
        raise ValueError(f"{place}: the last message is the user's, and the answer is to be judged")
    said = tuple(Message(role=turn.role, content=turn.text) for turn in turns if turn.role and turn.text)
    of_tools = sum(turn.role is None or bool(turn.calls) for turn in turns)
    notes = (f"{of_tools} messages of tools or to tools were not read",) if of_tools else ()
    return Log(Conversation(messages=said), notes)


def _turn(message: Any, place: str) -> _Turn | None:
    """A message; None where it is the system's and says nothing."""
    if not isinstance(message, dict):
        raise MessageError(place, f"is a {type(message).__name__} where an object with role and content is needed")
    role = message.get("role")
    spoken = role.lower() if isinstance(role, str) else ""
    if spoken in TOOL:
        return _Turn(None, "", "", place)
    speaker = _SPEAKERS.get(spoken)
    if speaker is None:
        found = "is missing" if role is None else f"is {str(role)[:_SHOWN]!r}"
        raise MessageError(f"{place}.role", f"{found}; it must be one of {', '.join(ROLES)}")
    _check_rest(message, place)
    texts = list(_texts(message, place))
    text = "\n".join(texts)
    calls = next((field for field in CALL_FIELDS if message.get(field)), "")
    if not text.strip():
        if speaker is Role.SYSTEM:
            return None
        if calls:
            return _Turn(speaker, "", calls, place)
        if not texts and message.get("content") is None:
            raise MessageError(f"{place}.content", "is missing")
    try:
        return _Turn(speaker, check_text(text, "content"), calls, place)
    except ValueError as error:
        raise MessageError(place, f"cannot be judged: {error}") from None


def _texts(message: Mapping[str, Any], place: str) -> Iterator[str]:
    name, refusal = message.get("name"), message.get("refusal")
    for field, value in (("name", name), ("refusal", refusal)):
        if not isinstance(value, str | None):
            raise MessageError(f"{place}.{field}", "must be a text")
    if name and not is_plain_name(name):
        yield name
    for part in read_parts(message.get("content"), f"{place}.content"):
        if part.kind not in TEXT_PARTS or not part.texts:
            raise MessageError(part.place, f"cannot be judged: it is no text, but {str(part.kind)[:_SHOWN]!r}")
        yield from part.texts
    if refusal:
        yield refusal


def _check_rest(message: Mapping[str, Any], place: str) -> None:
    """Sees to it that no text of a message is left out in silence."""
    for field, value in message.items():
        if field in _READ or not value or isinstance(value, bool | int | float):
            continue
        if field not in _MARKS or not isinstance(value, str):
            raise MessageError(f"{place}.{field}", "would not be judged: leave it out, or say it in content")

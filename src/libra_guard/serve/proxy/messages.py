"""What a chat completion request asks, and which of it is judged.

The bytes go up as they came, so the guard must read in them what the upstream will read. ``read_json`` has refused keys
that stand twice; here keys are refused that differ from a known one only in case, for Go's reader takes ``Messages``
for ``messages``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from libra_guard.guards.windows import OVERLAP
from libra_guard.messages import (
    ASSISTANT,
    CALL_FIELDS,
    ROLES,
    SYSTEM,
    TEXT_PARTS,
    TOOL,
    USER,
    MessageError,
    is_plain_name,
    read_parts,
)
from libra_guard.records import Conversation, Message, Role, check_text, is_visible
from libra_guard.serve.errors import ApiError
from libra_guard.serve.proxy.calls import readable, said_by_calls
from libra_guard.serve.proxy.fields import has_bytes, strings
from libra_guard.serve.schemas import check_length

MAX_NAME = 64
"""Characters of a message's ``name``, as OpenAI has it: it is shown to the model."""
MAX_CHOICES = 128
"""As OpenAI has it."""
_THOUGHT = ("reasoning_content", "reasoning", "reasoning_details", "thinking", "thinking_blocks")
_FIELDS = ("messages", "stream", "n", "model", "role", "content", "name", "refusal", "type", "text", "thinking")
_BESIDE = ("documents", "prediction", "tools", "functions", "response_format", "chat_template")
"""Fields of a request whose texts are judged as well."""
_TEXT_PARTS = (*TEXT_PARTS, "thinking")
_KNOWN = {name.casefold(): name for name in (*_FIELDS, *CALL_FIELDS, *_THOUGHT, *_BESIDE)}


class Turn(NamedTuple):
    """A message as it is judged."""

    role: str
    text: str
    """Empty where it has none."""
    calls: bool
    """Whether it asks for tools, and so is no answer yet."""
    asked_of_tools: str
    """The texts in its calls of tools."""
    unread: tuple[str, ...]
    """What in it is no text, as ``messages[0].content[1] (image_url)``."""


@dataclass(frozen=True)
class Asked:
    """What a request asks."""

    model: str
    stream: bool
    n: int
    """Choices."""
    context: tuple[Message, ...]
    """What stands before the answer: the system's words, earlier turns, and all that is new of the user's in one."""
    prompts: tuple[Conversation, ...]
    """Of the messages, what is judged before the request goes up; empty where there is no text."""
    beside: tuple[Conversation, ...]
    """What else is judged before: texts beside the messages, which are likely to be the same in the next request."""
    unread: tuple[str, ...]
    """What is not judged, being no text."""

    @property
    def question(self) -> str:
        """What is new of the user's; empty where there is no text."""
        return self.context[-1].content if self.context and self.context[-1].role is Role.USER else ""

    def answered(self, text: str) -> Conversation:
        """The conversation with an answer, which is judged."""
        return Conversation(messages=(*self.context, Message(role=Role.ASSISTANT, content=text)))


def read_asked(request: Mapping[str, Any], *, max_messages: int, max_chars: int) -> Asked:
    """What a request asks.

    Judged are

    - the user's messages since the last answer, all of them, as one text;
    - what tools have been asked and have returned since then, for anybody could have written it;
    - texts beside the messages: documents, a prediction, and what describes tools and the answer's form, which may be
      longer than a message and are judged in overlapping parts, each field's by itself: one that has not changed is
      then the same, whatever the others say;
    - the beginning of an answer that the caller puts into the assistant's mouth, as an answer to the question.

    A message's name belongs to its text, unless it is a plain one (ASCII letters, digits, ``_``, ``-``, ``.``, ``$``).
    Text that is invisible is refused.

    Earlier turns are the caller's word: whether they were judged when they were new is not known here. They stand
    before the question for guards that read them. An assistant's turn that shows no text is no answer, and makes
    nothing earlier. The system's words are the operator's and are not judged, unless there are no others.

    Args:
        request: Its body.
        max_messages: How many there may be.
        max_chars: In one message, in the calls of tools of one, and in one part of what stands beside them.

    Raises:
        ApiError: 400, with the place: a message is not what it must be, is too long, or could be read in two ways.
    """
    _check_keys(request, "")
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        _refuse("messages", "must be a list of messages, and not empty")
    if len(messages) > max_messages:
        _refuse("messages", f"has {len(messages)} messages, {max_messages} are allowed")
    turns = [_turn(message, f"messages[{i}]", max_chars) for i, message in enumerate(messages)]
    stream, model = request.get("stream"), request.get("model")
    if not isinstance(stream, bool | None):
        _refuse("stream", "must be true or false")
    if not isinstance(model, str | None):
        _refuse("model", "must be a text")
    n = 1 if request.get("n") is None else request["n"]
    if isinstance(n, bool) or n not in range(1, MAX_CHOICES + 1):
        _refuse("n", f"must be a whole number from 1 to {MAX_CHOICES}")
    context, prompts, unread = _judged(turns)
    unread += tuple(f"{name} (bytes)" for name in _BESIDE if has_bytes(request.get(name)))
    return Asked(
        model=model or "",
        stream=bool(stream),
        n=int(n),
        context=context,
        prompts=prompts,
        beside=tuple(_beside(request, max_chars)),
        unread=unread,
    )


def _beside(request: Mapping[str, Any], most: int) -> Iterator[Conversation]:
    """The texts beside the messages, each field's in parts of at most ``most`` characters."""
    # As in a guard's windows: a sentence that is cut at a border stands whole in one of them.
    repeated = int(most * OVERLAP)
    for name in _BESIDE:
        text = "\n".join(text for text in strings(request.get(name)) if text)
        for begin in range(0, max(1, len(text) - repeated), most - repeated):
            if message := _new(Role.USER, text[begin : begin + most], name):
                yield Conversation(messages=message)


def _judged(turns: list[Turn]) -> tuple[tuple[Message, ...], tuple[Conversation, ...], tuple[str, ...]]:
    end = len(turns)
    while end and turns[end - 1].role in ASSISTANT:
        end -= 1
    begin = next((i + 1 for i in reversed(range(end)) if _is_answer(turns[i])), 0)
    if not any(turn.role in USER for turn in turns[begin:end]):
        begin = next((i for i in reversed(range(begin)) if turns[i].role in USER), begin)
    new = turns[begin:end]
    words = _join(new, USER)
    if not any(turn.role in USER for turn in turns):
        words = _join(turns, SYSTEM)
    context = (*_earlier(turns, begin), *_message(Role.USER, words))
    prompts = [Conversation(messages=context)] if words else []
    tools = "\n".join(text for turn in turns[begin:] for text in _of_tools(turn) if text)
    prompts += [Conversation(messages=m) for m in [_new(Role.USER, tools, "messages")] if m]
    begun = _new(Role.ASSISTANT, _join(turns[end:]), f"messages[{end}].content")
    prompts += [Conversation(messages=(*context, *begun))] if begun else []
    return context, tuple(prompts), tuple(place for turn in turns[begin:] for place in turn.unread)


def _is_answer(turn: Turn) -> bool:
    return turn.role in ASSISTANT and not turn.calls and any(map(is_visible, turn.text))


def _of_tools(turn: Turn) -> tuple[str, ...]:
    return (turn.asked_of_tools, turn.text if turn.role in TOOL else "")


def _earlier(turns: list[Turn], begin: int) -> Iterator[Message]:
    for i, turn in enumerate(turns):
        # A system message holds from wherever it stands; what tools said of old is not the conversation's own.
        if turn.role in SYSTEM or (i < begin and turn.role not in TOOL):
            role = Role.SYSTEM if turn.role in SYSTEM else Role(turn.role)
            yield from _message(role, turn.text)


def _message(role: Role, text: str) -> tuple[Message, ...]:
    return (Message(role=role, content=text),) if any(map(is_visible, text)) else ()


def _new(role: Role, text: str, place: str) -> tuple[Message, ...]:
    """A message of what is to be judged, which must show something or be blank."""
    _check_shown(text, place)
    return _message(role, text)


def _check_shown(text: str, place: str) -> None:
    # Blank is nothing to judge; what is invisible can be read by a model, and by no person.
    if text.strip():
        try:
            check_text(text, place)
        except ValueError as error:
            raise ApiError(400, str(error), param=place) from None


def _join(turns: list[Turn], roles: tuple[str, ...] = ROLES) -> str:
    return "\n".join(turn.text for turn in turns if turn.role in roles and turn.text)


def _turn(message: Any, place: str, max_chars: int) -> Turn:
    if not isinstance(message, dict):
        _refuse(place, "must be an object")
    _check_keys(message, place)
    role = message.get("role")
    if role not in ROLES:
        _refuse(f"{place}.role", f"must be one of {', '.join(ROLES)}")
    name = message.get("name")
    if name is not None and (not isinstance(name, str) or len(name) > MAX_NAME):
        _refuse(f"{place}.name", f"must be a text of {MAX_NAME} characters at most")
    content = message.get("content")
    if content is None and role not in ASSISTANT:
        _refuse(f"{place}.content", "is missing")
    texts, unread = _content(content, f"{place}.content")
    if role in ASSISTANT:
        further = {field: message.get(field) for field in ("refusal", *_THOUGHT)}
        # Thoughts come back in two fields from some programs.
        texts += dict.fromkeys(filter(None, ("".join(strings(value)) for value in further.values())))
        unread += [f"{place}.{field} (bytes)" for field, value in further.items() if has_bytes(value)]
    text = "\n".join(texts)
    check_length(len(text), max_chars, f"{place}.content")
    if role not in ASSISTANT:
        _check_shown(text, f"{place}.content")
    if name and not is_plain_name(name):
        _check_shown(name, f"{place}.name")
        text = "\n".join(filter(None, (name, text)))
    asked = [_said(message.get(field), f"{place}.{field}", max_chars) for field in CALL_FIELDS]
    calls = any(message.get(field) for field in CALL_FIELDS)
    return Turn(role, text if text.strip() else "", calls, "\n".join(filter(None, asked)), tuple(unread))


def _said(calls: Any, place: str, most: int) -> str:
    """The texts in calls of tools."""
    # Arguments may have escapes of half a character, which no conversation can hold.
    text = readable(said_by_calls(_listed(calls)))
    check_length(len(text), most, place)
    return text


def _listed(calls: Any) -> list[Any]:
    return calls if isinstance(calls, list) else [calls] if calls else []


def _content(content: Any, place: str) -> tuple[list[str], list[str]]:
    """Texts, and places of what is none."""
    for i, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, dict):
            _check_keys(part, f"{place}[{i}]")
    try:
        parts = list(read_parts(content, place))
    except MessageError as error:
        _refuse(error.place, error.fault)
    unread = [part for part in parts if part.kind not in _TEXT_PARTS or not part.texts]
    texts = [text for part in parts for text in part.texts]
    return texts, [f"{part.place} ({str(part.kind)[:MAX_NAME]})" for part in unread]


def _check_keys(found: Mapping[str, Any], place: str) -> None:
    for key in found:
        if (known := _KNOWN.get(key.casefold(), key)) != key:
            _refuse(f"{place}.{known}".removeprefix("."), "is spelt with other letters, which servers read differently")


def _refuse(place: str, fault: str) -> NoReturn:
    raise ApiError(400, f"{place} {fault}", param=place)

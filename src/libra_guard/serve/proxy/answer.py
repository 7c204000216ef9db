"""Answers of an upstream: which texts are in them, and what a guarded answer looks like."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

from libra_guard.serve.proxy.messages import Asked
from libra_guard.serve.proxy.upstream import UpstreamError
from libra_guard.serve.state import Judged

ANSWER_FIELDS = ("content", "refusal", "audio")
"""Of a message: what answers the user. Where one is blocked, so is the choice. Of audio the transcript is judged."""
CALLS = "tool_calls"
"""Under this name calls of tools are judged; they belong to the answer too."""
FILTERED = "content_filter"
HALF_A_CHARACTER = "the upstream sent a text with half a character (a lone surrogate) in it"
_CALLS = (CALLS, "function_call")
_MAX_CALLS = 1_000_000
"""Characters of a choice's calls, which are kept until they are complete."""
_NO_TEXT = frozenset({"id", "type", "name", "format", "data", "signature", "encrypted_content"})
"""Names, marks and bytes: what stands under these keys is no text for people."""
_JSON = json.JSONDecoder()
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")


def message_of(choice: Any, field: str) -> dict[str, Any]:
    """A choice's message.

    Args:
        choice: Of an upstream's answer.
        field: Where it stands: ``message``, or ``delta`` in a stream.

    Raises:
        UpstreamError: It is none, or there is a text in another place, which would not be judged.
    """
    if not isinstance(choice, dict):
        raise UpstreamError("garbage", "the upstream sent a choice that is no object")
    found = choice.get(field)
    if found is None and field == "delta":
        found = choice["delta"] = {}
    if not isinstance(found, dict) or any(choice.get(other) for other in {"message", "delta", "text"} - {field}):
        raise UpstreamError("garbage", f"the upstream sent a choice whose {field} cannot be read")
    return found


def texts_of(message: Mapping[str, Any]) -> dict[str, str]:
    """Each field of a message, or of a delta, that has text for people, with this text; without calls of tools.

    Besides those of ``ANSWER_FIELDS`` these are what servers add, a model's thoughts (``reasoning_content``) above all.
    """
    found = {field: "".join(_strings(value)) for field, value in message.items() if field not in ("role", *_CALLS)}
    return {field: text for field, text in found.items() if text}


class Calls:
    """What a choice's calls of tools say, put together from one message or from deltas."""

    def __init__(self) -> None:
        self._parts: dict[str, str] = {}

    def feed(self, message: Mapping[str, Any]) -> bool:
        """Takes the calls in a message or delta; whether there are any.

        Raises:
            UpstreamError: They are not of the form that the API promises, or too long.
        """
        calls = message.get(CALLS) or []
        legacy = message.get("function_call")
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
            raise UpstreamError("garbage", "the upstream sent calls of tools that cannot be read")
        for i, call in enumerate(calls):
            self._take(call.get("index", i), call.get("function") or call.get("custom"))
        if legacy:
            self._take("function_call", legacy)
        if sum(map(len, self._parts.values())) > _MAX_CALLS:
            raise UpstreamError("garbage", f"the upstream calls tools with more than {_MAX_CALLS:,} characters")
        return bool(calls or legacy)

    @property
    def text(self) -> str:
        """The texts in all arguments; where they are no JSON, as they are."""
        return "\n".join(line for part in self._parts.values() for line in _strings(_parsed(part)))

    def _take(self, place: Any, called: Any) -> None:
        called = called if isinstance(called, dict) else {}
        given = called.get("arguments") or called.get("input") or ""
        text = given if isinstance(given, str) else json.dumps(given)
        place = str(place)
        self._parts[place] = self._parts.get(place, "") + text


def worst(judged: Collection[Judged]) -> Judged | None:
    """The one that tells of the whole: the strictest decision, of these the highest score; None where there is none."""
    return max(judged, key=lambda one: (one.decision.would.severity, one.verdict.unsafe_score or 0.0), default=None)


def leave_out(choice: dict[str, Any], place: str, field: str) -> None:
    """Takes one field out of a choice's message, and the log probabilities, which may hold its tokens.

    Args:
        choice: Changed.
        place: ``message`` or ``delta``.
        field: Of the message.
    """
    if choice[place].pop(field, None) is not None and choice.get("logprobs") is not None:
        choice["logprobs"] = None


def blocked_choice(index: Any, text: str) -> dict[str, Any]:
    """A choice with a safe answer, and nothing of what it replaces: log probabilities hold the tokens."""
    message = {"role": "assistant", "content": text}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": FILTERED}


def blocked_completion(asked: Asked, text: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """The completion of a request that never went up.

    Args:
        asked: The request.
        text: The safe answer.
        found: The field ``libra``.
    """
    return {
        **head(asked, "chat.completion"),
        "choices": [blocked_choice(i, text) for i in range(asked.n)],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        "libra": dict(found),
    }


def blocked_chunks(
    start: Mapping[str, Any], index: int, text: str, found: Mapping[str, Any], *, role: bool
) -> list[dict[str, Any]]:
    """The chunks that end a choice of a stream with a safe answer.

    Args:
        start: The fields that every chunk has; see ``head``.
        index: Of the choice.
        text: The safe answer.
        found: The field ``libra``, in the last chunk.
        role: Whether no chunk has named the role yet.
    """
    delta = {"role": "assistant", "content": text} if role else {"content": text}
    return [
        {**start, "choices": [{"index": index, "delta": delta, "finish_reason": None}]},
        {**start, "choices": [{"index": index, "delta": {}, "finish_reason": FILTERED}], "libra": dict(found)},
    ]


def head(asked: Asked, kind: str) -> dict[str, Any]:
    """The fields that a completion, or every chunk of one, begins with.

    Args:
        asked: The request.
        kind: ``chat.completion`` or ``chat.completion.chunk``.
    """
    name = f"chatcmpl-libra-{uuid.uuid4().hex}"
    return {"id": name, "object": kind, "created": int(time.time()), "model": asked.model}


def _parsed(arguments: str) -> list[Any]:
    """The JSON in a text, of which there may be several, and what comes after it as a text."""
    found = list[Any]()
    rest = arguments.strip()
    with suppress(ValueError, RecursionError):
        while rest:
            value, end = _JSON.raw_decode(rest)
            found.append(value)
            rest = rest[end:].strip()
    # Escaped characters would not be read by a guard.
    return [*found, _ESCAPED.sub(lambda escaped: chr(int(escaped[1], 16)), rest)] if rest else found


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in _NO_TEXT:
                yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)

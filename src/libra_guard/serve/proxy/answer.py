"""Answers of an upstream: which texts are in them, and what a guarded answer looks like."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Mapping
from typing import Any

from libra_guard.messages import CALL_FIELDS
from libra_guard.serve.proxy.fields import strings
from libra_guard.serve.proxy.messages import Asked
from libra_guard.serve.proxy.upstream import UpstreamError
from libra_guard.serve.state import Judged

AUDIO = "audio"
ANSWER_FIELDS = ("content", "refusal", AUDIO)
"""Of a message: what answers the user. Where one is blocked, so is the choice. Of audio the transcript is judged."""
FILTERED = "content_filter"
HALF_A_CHARACTER = "the upstream sent a text with half a character (a lone surrogate) in it"


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
    found = {field: "".join(strings(value)) for field, value in message.items() if field not in ("role", *CALL_FIELDS)}
    return {field: text for field, text in found.items() if text}


def worst(judged: Collection[Judged]) -> Judged | None:
    """The one that tells of the whole; None where there is none."""
    return max(judged, key=lambda one: one.gravity, default=None)


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

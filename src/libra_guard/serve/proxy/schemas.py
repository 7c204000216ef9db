"""What the proxy takes and answers, for the API's description; what it reads itself is in ``messages``, ``answer``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from libra_guard.messages import ROLES
from libra_guard.policy.profile import Action, Mode
from libra_guard.records import Target
from libra_guard.serve.errors import documented
from libra_guard.serve.proxy.messages import MAX_CHOICES, MAX_NAME

_MESSAGE: dict[str, Any] = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": list(ROLES), "description": "Who speaks."},
        "content": {"description": "A text, or a list of parts; only the assistant's may be missing."},
        "name": {
            "type": ["string", "null"],
            "maxLength": MAX_NAME,
            "description": "Of the speaker; judged unless it is plain ASCII.",
        },
    },
}
REQUEST: dict[str, Any] = {
    "description": "As OpenAI's. It goes up as it came, and may have every field that the upstream takes.",
    "required": ["messages"],
    "properties": {
        "model": {"type": ["string", "null"], "description": "Name of a model of the upstream."},
        "messages": {
            "type": "array",
            "items": _MESSAGE,
            "minItems": 1,
            "description": "At most `max_messages`, with `max_chars` characters each, as `GET /v1/guards` tells.",
        },
        "stream": {
            "type": ["boolean", "null"],
            "default": False,
            "description": "Whether the answer comes in parts, as it grows.",
        },
        "n": {
            "type": ["integer", "null"],
            "minimum": 1,
            "maximum": MAX_CHOICES,
            "description": "Choices; each is judged by itself.",
        },
    },
}
HEADERS = {
    name: {"description": told, "schema": {"type": "string"}}
    for name, told in (
        ("X-Libra-Action", "`pass`, `review` or `block`."),
        ("X-Libra-Would", "In monitor mode: what enforce mode would have done, where that differs."),
        ("X-Libra-Stage", "What the decision is about: `prompt` or `response`."),
        ("X-Libra-Score", "Unsafe score in [0, 1], where the guard gives one."),
        ("X-Libra-Scenarios", "English names with commas between, the worst first; missing where there are none."),
        ("X-Libra-Policy", "Name of the profile that decided."),
    )
}
_PASSED_ON: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "description": "The upstream's own error: also one of the statuses above may be the upstream's. Of a chat "
        "completion it is judged as an answer is, and if it does not pass its `code` is `upstream_status`.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}
OBJECT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "As the upstream answered; without an upstream, the guards as OpenAI's models.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


class ProxyResult(BaseModel):
    """What was decided. Further fields are those of `Decision`, where anything was judged."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    stage: Target
    """What the decision is about."""
    action: Action
    """What was done; `pass` where there was nothing to judge."""
    policy: str
    """Name of the profile that decided."""
    mode: Mode
    """`monitor` lets everything pass, and only tells what `enforce` would do."""
    verdict: dict[str, Any] | None
    """As `Verdict`, without `raw`; null where nothing was judged."""
    choice: int | None = None
    """Place in `choices` of the one that the decision is about; missing where it is about the prompt."""
    not_judged: list[str] = []
    """What passed unseen, as `messages[0].content[1] (image_url)` or `choices[0].audio (bytes)`; missing where nothing
    did."""
    left_out: list[str] = []
    """Fields of the answer that were blocked by themselves; missing where there are none."""


class Completion(BaseModel):
    """As OpenAI's, with `libra` besides: of the upstream's answer what was judged, and known fields."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    choices: list[dict[str, Any]]
    """As OpenAI's. One that is blocked has a safe answer and the `finish_reason` `content_filter`."""
    libra: ProxyResult


def proxied(*statuses: int, missing: str = "") -> dict[int | str, dict[str, Any]]:
    """Errors of a route that asks the upstream, for its description; ``missing`` is what a 404 of its own says."""
    told = documented(
        *statuses,
        s404=missing,
        s502="The guard's model failed, or the upstream did; then `code` begins with `upstream_`.",
        s503="The server is being stopped or has too many requests under way, or the upstream does not answer for now.",
        s504="Not judged, or not answered by the upstream, in time.",
    )
    for one in told.values():
        if "Retry-After" in one.get("headers", {}):
            # The upstream's may be a date.
            one["headers"] = {"Retry-After": {"description": "When to come back.", "schema": {"type": "string"}}}
    return told | _PASSED_ON

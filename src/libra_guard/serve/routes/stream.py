"""POST /v1/guard/stream: an answer judged while it grows. The server keeps nothing between two requests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, NamedTuple, Self

from fastapi import APIRouter, Request, Response
from pydantic import Field, model_validator

from libra_guard.policy.answers import Language, language_of
from libra_guard.policy.decide import Decision
from libra_guard.policy.profile import Action, Policy
from libra_guard.predict.arrivals import Arrivals, FirstHit
from libra_guard.predict.stream import AnswerWindows, StreamState, Window
from libra_guard.records import Conversation, Message, Role, Verdict
from libra_guard.serve.body import StrictRoute
from libra_guard.serve.errors import ApiError, documented
from libra_guard.serve.schemas import HARD_LIMIT, Answered, Asked, Name, Text, check_length, check_limits
from libra_guard.serve.state import Judged, Server, TheServer
from libra_guard.serve.streaming import judge_windows

router = APIRouter(route_class=StrictRoute, tags=["verdicts"])
PATH = "/v1/guard/stream"


class StreamRequest(Asked):
    """What an answer has grown by."""

    question: Text | None = None
    """What was asked; the same in every request. Not blank, at most `max_chars` characters."""
    messages: Annotated[list[Message], Field(min_length=1, max_length=HARD_LIMIT)] | None = None
    """In place of `question` all messages before the answer, for guards that read them; the same in every request."""
    text: str
    """What is new since the last request; it may be empty. At most `max_chars` characters."""
    state: StreamState | None = None
    """As the last request returned it; null in the first one."""
    end: bool = False
    """Whether nothing follows: then what was held back is judged too."""
    flush: bool = False
    """Whether what was held back is judged as it is, though more follows: for text that has waited long enough."""
    guard: Name | None = None
    """Name of a guard; by default the policy's, else the server's first."""
    policy: Name | None = None
    """Name of a policy profile; by default the server's."""
    language: Language | None = None
    """Of the safe answer; by default the question's."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.question is not None and self.messages is not None:
            raise ValueError("give a question or messages, not both")
        return self


class StreamWindow(Answered):
    """A part of the answer, and what was made of it."""

    start: int
    """Characters of the whole answer before it."""
    end: int
    """Characters of the whole answer up to its end."""
    verdict: Verdict | None
    """Null where the part is white space: there was nothing to judge."""
    decision: Decision | None
    """Null where there is no verdict."""


class StreamResponse(Answered):
    """What follows for the answer so far."""

    released: str
    """May be shown now, after what was released before."""
    stopped: bool
    """Whether the last window is blocked: nothing from its start on may be shown, and nothing need be sent here."""
    answer: str | None
    """What the policy says in place of what was stopped; null where nothing was."""
    windows: list[StreamWindow]
    """Those that were judged, in order, up to the first that is blocked."""
    first_hit: FirstHit | None
    """How fast the blocked window was found; null where none is. No time counts from before this request."""
    state: StreamState | None
    """For the next request; null where none is to follow."""


@router.post(
    PATH,
    operation_id="judgeStream",
    summary="Judge an answer while it is written",
    response_model=StreamResponse,
    responses=documented(404, 429, 502, 503, 504),
)
async def stream(
    body: StreamRequest,
    request: Request,
    server: TheServer,
) -> Response:
    """Send what is new, show what is released.

    Text is judged sentence by sentence; what has no end yet is held back, in the state, which goes into the next
    request. The server keeps nothing in between: where a request failed (429, 504), send the same again.

    So it cannot tell how long text has waited: its setting `stream_hold_ms` is for the proxy alone. When text has
    waited long enough here, send `flush`, with an empty text if nothing is new.
    """
    arrivals = Arrivals()
    profile = server.policy(body.policy)
    served = server.guard(profile, body.guard)
    windows = _resumed(body, server, multi_turn=served.guard.multi_turn)
    arrivals.came(windows.received + len(body.text))
    # Thousands of characters take milliseconds, in which others need not wait.
    with _state_was_given():
        opened = await asyncio.to_thread(_opened, windows, body)
    parts = await _judged(opened, body, profile, request, server, windows)
    last = parts[-1].judged if parts else None
    answer = first_hit = None
    if last and last.decision.action is Action.BLOCK:
        first_hit = arrivals.hit(parts[-1].window.end)
        answer = profile.answer(last.decision, body.language or _language(body))
    stopped = answer is not None
    with _state_was_given():
        state = None if stopped or body.end else windows.state
    made = StreamResponse(
        released="".join(window.text for window, _ in parts[: len(parts) - stopped]),
        stopped=stopped,
        answer=answer,
        windows=[_told(part) for part in parts],
        first_hit=first_hit,
        state=state,
    )
    return Response(made.model_dump_json(), media_type="application/json")


class _Part(NamedTuple):
    window: Window
    judged: Judged | None


async def _judged(
    opened: list[Window],
    body: StreamRequest,
    profile: Policy,
    request: Request,
    server: Server,
    windows: AnswerWindows,
) -> list[_Part]:
    """The windows up to the first that is blocked, a batch of them at once."""
    decide = partial(
        server.decide_all,
        guard=body.guard,
        policy=profile,
        deadline=asyncio.get_running_loop().time() + server.settings.deadline_ms / 1000,
        route=PATH,
        request_id=request.state.request_id,
        question=windows.asked,
    )
    size, parts = min(server.settings.batch_size, server.settings.queue_size), list[_Part]()
    for start in range(0, len(opened), size):
        batch = opened[start : start + size]
        judged = await judge_windows(decide, batch, answer=windows, at_once=size)
        parts += map(_Part, batch, judged)
        if judged[-1] and judged[-1].decision.action is Action.BLOCK:
            break
    return parts


def _opened(windows: AnswerWindows, body: StreamRequest) -> list[Window]:
    opened = windows.feed(body.text)
    if body.end:
        return opened + windows.end()
    while body.flush and (flushed := windows.flush()):
        opened += flushed
    return opened


def _resumed(body: StreamRequest, server: Server, *, multi_turn: bool) -> AnswerWindows:
    """Where the answer stands.

    Raises:
        ApiError: 400, what stands before the answer is too long or cannot be judged, or the state was not given here.
    """
    settings, before = server.settings.stream, _before(body)
    if before:
        made = Conversation.model_construct(messages=before)
        check_limits([made], server.settings, lambda _: "question" if body.messages is None else "messages")
    check_length(len(body.text), server.settings.max_chars, "text")
    if body.state is None:
        return AnswerWindows(before, settings, multi_turn=multi_turn)
    with _state_was_given():
        return AnswerWindows.resume(before, body.state, settings, multi_turn=multi_turn)


@contextmanager
def _state_was_given() -> Iterator[None]:
    """Refuses a state that shows only in use that it is none: what else a body may hold can be judged."""
    try:
        yield
    except ValueError:
        message = "state: it was not returned here for this answer, with these settings"
        raise ApiError(400, message, param="state", code="invalid_state") from None


def _before(body: StreamRequest) -> tuple[Message, ...]:
    if body.messages is not None:
        return tuple(body.messages)
    return (Message(role=Role.USER, content=body.question),) if body.question else ()


def _language(body: StreamRequest) -> Language:
    asked = [message.content for message in _before(body) if message.role is Role.USER]
    return language_of(asked[-1] if asked else body.text)


def _told(part: _Part) -> StreamWindow:
    window, judged = part
    verdict, decision = judged and judged.verdict, judged and judged.decision
    return StreamWindow(start=window.start, end=window.end, verdict=verdict, decision=decision)

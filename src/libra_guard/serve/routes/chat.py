"""``POST /v1/chat/completions`` before another server, and its models: what goes up and comes down is judged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any
from urllib.parse import quote

import httpx2
from fastapi import APIRouter, Body, Path, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from libra_guard.policy.profile import Action
from libra_guard.records import Target, as_json
from libra_guard.serve.body import StrictRoute
from libra_guard.serve.errors import ApiError, error_body
from libra_guard.serve.pool import Served
from libra_guard.serve.proxy.answer import blocked_chunks, blocked_completion, head
from libra_guard.serve.proxy.judging import Exchange, stricter
from libra_guard.serve.proxy.messages import read_asked
from libra_guard.serve.proxy.relay import relayed
from libra_guard.serve.proxy.schemas import HEADERS, OBJECT, REQUEST, Completion, proxied
from libra_guard.serve.proxy.sse import DONE, read_events, write_event
from libra_guard.serve.proxy.upstream import (
    Upstream,
    UpstreamError,
    headers_down,
    media_type,
    read_fault,
    read_object,
)
from libra_guard.serve.state import Judged, Server, TheServer

PATH = "/v1/chat/completions"
_EVENTS = "text/event-stream"
_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""Other proxies on the way are to hold nothing back."""
_JSON_HEADERS = {"content-type": "application/json", "x-content-type-options": "nosniff"}
"""Whatever the upstream says: no browser is to take it for a page."""
router = APIRouter(route_class=StrictRoute, tags=["proxy"])
_COMPLETION: dict[str, Any] = {
    "model": Completion,
    "description": "Done; also where a safe answer stands in place of what was blocked.",
    "headers": HEADERS,
    "content": {_EVENTS: {}},
}


@router.post(
    PATH,
    operation_id="createChatCompletion",
    summary="Chat completions of the upstream, guarded",
    responses={200: _COMPLETION, **proxied(404, 429, 502, 503, 504, missing="This server has no upstream.")},
)
async def chat(
    request: Request,
    body: Annotated[dict[str, Any], Body(title="ChatRequest", json_schema_extra=REQUEST)],
    server: TheServer,
) -> Response:
    """A blocked message never reaches the upstream, a blocked answer never leaves.

    The request goes up as it came, and may have every field that the upstream takes. In place of what is blocked stands
    a safe answer with `finish_reason` `content_filter`; the field `libra` and headers `x-libra-*` tell why. In a stream
    `libra` is in the last chunk of each choice, and an event `{"error": ...}` ends a stream that fails.
    """
    upstream = _upstream(server)
    settings = server.settings
    # What lies in a megabyte of calls and tools takes a while to read, in which others need not wait.
    asked = await asyncio.to_thread(read_asked, body, max_messages=settings.max_messages, max_chars=settings.max_chars)
    exchange = Exchange(server, asked, request.state.request_id, server.policy(None))
    prompt = await exchange.judge_prompts()
    if prompt is not None and prompt.decision.action is Action.BLOCK:
        return _blocked(exchange, prompt)
    async with _counted(server, exchange):
        response = await _ask(upstream, server, request, "/chat/completions", await request.body())
        if asked.stream and response.status_code < 400:
            return await _stream(exchange, prompt, response)
        async with aclosing(response):
            return await _whole(exchange, prompt, response)


@router.get(
    "/v1/models",
    operation_id="listModels",
    summary="The upstream's models, or the guards",
    responses=OBJECT | proxied(502, 503, 504),
)
async def models(request: Request, server: TheServer) -> Response:
    """As the upstream answers. Without one: what `model` of `/v1/moderations` can be; `GET /v1/guards` tells more."""
    if server.upstream is None:
        return _json({"object": "list", "data": [_as_model(served, server) for served in server.pool.all]}, {})
    return await _passed(request, server, "/models")


@router.get(
    "/v1/models/{model:path}",
    operation_id="retrieveModel",
    summary="One of the upstream's models, or one of the guards",
    responses=OBJECT | proxied(404, 502, 503, 504, missing="There is no such model."),
)
async def model(
    request: Request, model: Annotated[str, Path(description="Its name, which may hold slashes.")], server: TheServer
) -> Response:
    """As the upstream answers; without one, a guard by its name."""
    if {".", "..", ""} & set(model.split("/")):
        raise ApiError(404, "there is no such model", code="model_not_found")
    if server.upstream is None:
        return _json(_as_model(server.guard(server.policy(None), model), server), {})
    return await _passed(request, server, f"/models/{quote(model)}")


class _Events(StreamingResponse):
    """A stream; what it comes from is closed even if the client has gone before it began."""

    media_type = _EVENTS

    def __init__(
        self, content: AsyncIterator[bytes], headers: Mapping[str, str], source: httpx2.Response | None
    ) -> None:
        super().__init__(content, headers={**headers, **_STREAM_HEADERS})
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._source is not None:
                await self._source.aclose()


def _as_model(served: Served, server: Server) -> dict[str, Any]:
    return {"id": served.name, "object": "model", "created": server.started, "owned_by": "libra-guard"}


def _upstream(server: Server) -> Upstream:
    if server.upstream is None:
        message = "this server has no upstream to ask: start it with --upstream URL"
        raise ApiError(404, message, code="no_upstream")
    return server.upstream


async def _ask(
    upstream: Upstream, server: Server, request: Request, path: str, body: bytes | None = None
) -> httpx2.Response:
    began = time.perf_counter()
    response = await upstream.ask(request, path, body)
    server.metrics.upstream(time.perf_counter() - began)
    return response


async def _passed(request: Request, server: Server, path: str) -> Response:
    async with _counted(server), aclosing(await _ask(_upstream(server), server, request, path)) as response:
        if response.status_code >= 400:
            return _fault(await read_fault(response), response, {})
        return _json(await read_object(response), headers_down(response))


async def _whole(exchange: Exchange, prompt: Judged | None, response: httpx2.Response) -> Response:
    if response.status_code >= 400:
        found = await read_fault(response)
        may_leave, answer = await exchange.judge_error(found)
        if not may_leave:
            message = f"the upstream answered {response.status_code}; what it says is not fit to be passed on"
            found = error_body(ApiError(response.status_code, message, code="upstream_status"))
        stage = stricter(prompt, answer)
        return _fault(found, response, exchange.headers(stage, prompt if stage is Target.PROMPT else answer))
    completion = await read_object(response)
    answer, choice = await exchange.judge_completion(completion)
    stage = stricter(prompt, answer)
    judged = prompt if stage is Target.PROMPT else answer
    completion["libra"] = exchange.extension(stage, judged, choice if stage is Target.RESPONSE else None)
    return _json(completion, headers_down(response) | exchange.headers(stage, judged))


def _fault(found: Mapping[str, Any], response: httpx2.Response, headers: Mapping[str, str]) -> Response:
    return _json(found, {**headers_down(response), **headers}, response.status_code)


async def _stream(exchange: Exchange, prompt: Judged | None, response: httpx2.Response) -> Response:
    if media_type(response) != _EVENTS:
        async with aclosing(response):
            await read_object(response)
        raise UpstreamError("garbage", "the upstream was asked for a stream, and answered without one")
    headers = headers_down(response) | exchange.headers(Target.PROMPT, prompt)
    return _Events(relayed(exchange, read_events(response)), headers, response)


def _blocked(exchange: Exchange, prompt: Judged) -> Response:
    asked, text = exchange.asked, exchange.safe_answer(prompt)
    found, headers = exchange.extension(Target.PROMPT, prompt), exchange.headers(Target.PROMPT, prompt)
    if not asked.stream:
        return _json(blocked_completion(asked, text, found), headers)

    async def events() -> AsyncIterator[bytes]:
        start = head(asked, "chat.completion.chunk")
        for i in range(asked.n):
            for chunk in blocked_chunks(start, i, text, found, role=True):
                yield write_event(chunk)
        yield DONE

    return _Events(events(), headers, None)


def _json(found: Mapping[str, Any], headers: Mapping[str, str], status: int = 200) -> Response:
    # Every text in it that was judged can be encoded.
    body = as_json(found, ensure_ascii=False).encode("utf-8", "replace")
    return Response(body, status, {**headers, **_JSON_HEADERS})


@asynccontextmanager
async def _counted(server: Server, exchange: Exchange | None = None) -> AsyncIterator[None]:
    """Counts what fails at the upstream, whose words come down where no model has a part in them, or they pass."""
    try:
        yield
    except UpstreamError as error:
        server.metrics.upstream_failed(error.kind)
        if exchange is None:
            error.quote()
        else:
            await exchange.hear(error)
        raise

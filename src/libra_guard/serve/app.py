"""The application: its layers, routes, and what is opened and closed with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from libra_guard import __version__
from libra_guard.errors import LibraError
from libra_guard.guards.base import Guard
from libra_guard.policy.watch import PolicyStore
from libra_guard.serve import logs
from libra_guard.serve.audit import Audit
from libra_guard.serve.auth import ApiKeys, Origins, OwnNames
from libra_guard.serve.errors import add_handlers
from libra_guard.serve.limits import BodyLimit, HangUp, RequestLimit
from libra_guard.serve.metrics import Metrics
from libra_guard.serve.openapi import description
from libra_guard.serve.pool import Pool, load_guards, warm_up
from libra_guard.serve.proxy.upstream import Upstream
from libra_guard.serve.routes import chat, docs, guard, moderations, page, stream, system
from libra_guard.serve.settings import LOOPBACK, ServerSettings
from libra_guard.serve.start import open_policies
from libra_guard.serve.state import Server

_log = logging.getLogger(__name__)
_ABOUT = "Verdicts on Chinese conversations: OpenAI's moderation API, conversations, growing answers, a guarded chat."
_LOOK_SECONDS = 1.0
"""Between two looks at the policy files."""
_TOLD = ("action", "would", "stage", "score", "scenarios", "policy")
_EXPOSED = ("x-request-id", "retry-after", *(f"x-libra-{name}" for name in _TOLD))
"""Headers of answers that web pages of ``cors_origins`` may read."""


def create_app(
    settings: ServerSettings, guards: Mapping[str, Guard] | None = None, policies: PolicyStore | None = None
) -> FastAPI:
    """The server as an ASGI application. What it needs is opened by its lifespan, and closed by it.

    Args:
        settings: All there is to be told.
        guards: By the names under which they are served, the default first; None: loaded from the settings.
        policies: As ``start.check`` read them; None: read by the lifespan.

    Raises:
        UsageError: An API key is empty, or the keys cannot be read.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _opened(settings, guards, policies, metrics) as app.state.server:
            yield

    app = LibraServer(
        title="Libra",
        summary=_ABOUT,
        version=__version__,
        lifespan=lifespan,
        # FastAPI's own page of the API loads scripts from elsewhere; see ``routes.docs``.
        docs_url=None,
        openapi_url="/openapi.json" if settings.docs else None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.metrics = metrics
    add_handlers(app)
    for part in (moderations, guard, stream, chat, system, page, *([docs] if settings.docs else [])):
        app.include_router(part.router)
    _add_layers(app, settings, metrics)
    return app


def worker_app(settings: ServerSettings) -> FastAPI:
    """The application of a worker process. It reads the policy files itself, as it watches them itself."""
    logs.set_up(text=settings.log_text)
    return create_app(settings)


class LibraServer(FastAPI):
    """Says why it cannot start in one line, where the reason is one for people; describes the API as it is."""

    def openapi(self) -> dict[str, Any]:
        """See ``description``; made once."""
        if self.openapi_schema is None:
            layers: set[Any] = {layer.cls for layer in self.user_middleware}
            self.openapi_schema = description(self, keys=ApiKeys in layers, own_names=OwnNames in layers)
        return self.openapi_schema

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "lifespan":
            await super().__call__(scope, receive, send)
            return

        async def plain(message: Message) -> None:
            # Starlette's message is a traceback.
            await send({**message, "message": ""} if message["type"] == "lifespan.startup.failed" else message)

        try:
            await super().__call__(scope, receive, plain)
        except LibraError as error:
            _log.critical("%s", error)
            raise


def _add_layers(app: FastAPI, settings: ServerSettings, metrics: Metrics) -> None:
    """The last one added is the outermost."""
    app.add_middleware(HangUp)
    app.add_middleware(BodyLimit, most=settings.max_body_bytes, seconds=settings.body_seconds, metrics=metrics)
    app.add_middleware(RequestLimit, most=settings.max_requests, metrics=metrics)
    if keys := settings.keys():
        app.add_middleware(ApiKeys, keys=keys, metrics=metrics)
    if settings.cors_origins:
        app.add_middleware(
            Origins,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )
    if settings.is_local and not keys:
        app.add_middleware(OwnNames, names=(*LOOPBACK, settings.host, *settings.hosts), metrics=metrics)
    app.add_middleware(logs.Requests, metrics=metrics)


@asynccontextmanager
async def _opened(
    settings: ServerSettings, guards: Mapping[str, Guard] | None, policies: PolicyStore | None, metrics: Metrics
) -> AsyncIterator[Server]:
    async with AsyncExitStack() as stack:
        audit = _audit(settings, metrics)
        if audit is not None:
            stack.push_async_callback(audit.close)
        loaded = await asyncio.to_thread(load_guards, settings) if guards is None else guards
        policies = policies or open_policies(settings, loaded)
        pool = Pool(loaded, settings, metrics)
        stack.push_async_callback(pool.close)
        server = Server(settings, pool, policies, metrics, audit)
        if settings.upstream is not None:
            server.upstream = Upstream(settings)
            stack.push_async_callback(server.upstream.close)
        for work in (_watch(policies, metrics), _warm(server)):
            stack.push_async_callback(_ended, asyncio.create_task(work))
        yield server
        server.ready = False
    _log.info("stopped")


def _audit(settings: ServerSettings, metrics: Metrics) -> Audit | None:
    if settings.audit is None:
        return None
    return Audit(settings.audit, metrics, key=settings.audit_secret(), text=settings.audit_text)


async def _warm(server: Server) -> None:
    try:
        await warm_up(server.pool)
    except LibraError as error:
        _log.critical("a guard fails on a plain text; the server is not ready and will not be: %s", error)
        return
    server.ready = True
    _log.info("ready")


async def _watch(policies: PolicyStore, metrics: Metrics) -> None:
    while True:
        try:
            await asyncio.to_thread(policies.refresh)
            metrics.policy_problems(policies.problems)
        except Exception:
            _log.exception("the policy files cannot be looked at; those of before are in force")
        await asyncio.sleep(_LOOK_SECONDS)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

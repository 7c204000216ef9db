"""The client for code that runs in asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from typing import Any, Self

from libra_guard.client.protocol import (
    HOLD_MS,
    Ask,
    ClientBase,
    Failure,
    Growing,
    Judged,
    Moderation,
    Reply,
    Result,
    Steps,
    content,
    given,
)
from libra_guard.policy.answers import Language
from libra_guard.records import Conversation, Message, Target


class AsyncClient(ClientBase):
    """``Client`` for code that runs in asyncio; every method of it is the same, to be awaited."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8300",
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 3,
    ) -> None:
        super().__init__(base_url, api_key, timeout, retries)
        self._http = self._httpx.AsyncClient(**self._settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connections."""
        await self._http.aclose()

    async def judge(
        self,
        conversations: Sequence[Conversation],
        *,
        target: Target | None = None,
        guard: str | None = None,
        policy: str | None = None,
        threshold: float | None = None,
        explain: bool = False,
        language: Language | None = None,
    ) -> list[Judged]:
        """See ``Client.judge``."""
        steps = self._judge(
            conversations,
            target=target,
            guard=guard,
            policy=policy,
            threshold=threshold,
            explain=explain,
            language=language,
        )
        return await self._run(steps)

    async def check(
        self,
        question: str,
        response: str | None = None,
        *,
        target: Target | None = None,
        guard: str | None = None,
        policy: str | None = None,
        threshold: float | None = None,
        explain: bool = False,
        language: Language | None = None,
    ) -> Judged:
        """See ``Client.check``."""
        pair = Conversation.from_pair(question, response)
        judged = await self.judge(
            [pair],
            target=target,
            guard=guard,
            policy=policy,
            threshold=threshold,
            explain=explain,
            language=language,
        )
        return judged[0]

    async def moderate(
        self, texts: Sequence[str], *, guard: str | None = None, policy: str | None = None
    ) -> list[Moderation]:
        """See ``Client.moderate``."""
        return await self._run(self._moderate(texts, model=guard, policy=policy))

    def stream(
        self,
        question: str | Sequence[Message],
        chunks: AsyncIterable[str | None],
        *,
        guard: str | None = None,
        policy: str | None = None,
        language: Language | None = None,
        hold_ms: float = HOLD_MS,
    ) -> AsyncGuardedStream:
        """See ``Client.stream``; not awaited itself."""
        return AsyncGuardedStream(self, question, chunks, hold_ms, given(guard=guard, policy=policy, language=language))

    async def guards(self) -> list[dict[str, Any]]:
        """See ``Client.guards``."""
        return await self._run(self._listed("/v1/guards"))

    async def ready(self) -> bool:
        """See ``Client.ready``."""
        reply = await self._send(Ask("GET", "/readyz"))
        return isinstance(reply, Reply) and reply.status == 200

    async def _run(self, steps: Steps[Result]) -> Result:
        reply: Reply | Failure | None = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as done:
                result: Result = done.value
                return result
            reply = await (self._send(step) if isinstance(step, Ask) else asyncio.sleep(step.seconds))

    async def _send(self, ask: Ask) -> Reply | Failure:
        try:
            reply = await self._http.request(ask.method, self._base + ask.path, content=content(ask.body))
        except self._httpx.RequestError as error:
            return self._failure(error)
        return Reply(reply.status_code, reply.headers, reply.text)


class AsyncGuardedStream(Growing):
    """``GuardedStream`` over an answer that comes asynchronously."""

    def __init__(
        self,
        client: AsyncClient,
        question: str | Sequence[Message],
        chunks: AsyncIterable[str | None],
        hold_ms: float,
        fields: dict[str, Any],
    ) -> None:
        super().__init__(client, question, hold_ms, fields)
        self._chunks, self._texts = chunks, self._shown(client)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        return await anext(self._texts)

    async def aclose(self) -> None:
        """See ``GuardedStream.close``."""
        await self._texts.aclose()
        await self._close()

    async def _shown(self, client: AsyncClient) -> AsyncGenerator[str]:
        try:
            async for chunk in self._chunks:
                for steps in self._take(chunk):
                    if text := await client._run(steps):
                        yield text
                if self.stopped:
                    return
            for steps in self._send_all(end=True):
                if text := await client._run(steps):
                    yield text
        finally:
            await self._close()

    async def _close(self) -> None:
        if close := getattr(self._chunks, "aclose", None):
            await close()
